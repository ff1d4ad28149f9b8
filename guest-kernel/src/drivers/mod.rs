//! Devices: terminals.

pub mod tty;

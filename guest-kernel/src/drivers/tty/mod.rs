//! Terminals: line discipline, settings, and what a terminal is to the job control of a session.

pub mod ldisc;
pub mod output;
pub mod ring;
pub mod termios;

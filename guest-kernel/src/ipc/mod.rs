//! What processes share to talk to each other, besides files: futexes.

pub mod futex;
pub mod futex_pi;

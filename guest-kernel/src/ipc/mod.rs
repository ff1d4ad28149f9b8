//! What processes share to talk to each other, besides files: futexes.

pub mod futex;

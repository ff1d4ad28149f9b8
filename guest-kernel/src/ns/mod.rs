//! Namespaces and credentials: who a task is, and what it sees.

pub mod cred;

pub use cred::{Cap, CapSet, Cred};

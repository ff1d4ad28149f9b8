//! Networking: sockets, and the network namespaces that they live in.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`namespace`] | [`NetNs`]: what one network namespace holds |

pub mod namespace;

pub use namespace::NetNs;

//! The wire formats that the kernel and the VMM share.
//!
//! Nothing here is a live kernel structure: the kernel describes those itself (module [`layout`]) and
//! the VMM reads them by name. What both sides must agree on byte for byte is small and guarded by
//! compile-time assertions.
//!
//! Everything here is read from memory that the reader does not trust: the kernel reads what a boot
//! loader put behind it, the VMM reads guest memory. So every reader works on a plain byte slice,
//! checks every bound, never panics and never allocates. Writers need the feature `alloc`.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

#[cfg(any(feature = "alloc", test))]
extern crate alloc;

// The derive names this crate by its path; inside the crate (tests) that path must resolve as well.
extern crate self as belljar_abi;

#[doc(hidden)]
pub use bitflags;

pub use belljar_abi_derive::Described;

pub mod carried;
pub mod control;
pub mod corenote;
pub mod coreregs;
pub mod hwcap;
pub mod image;
#[allow(unsafe_code, reason = "constant text and tables are pointers in a repr(C) form")]
pub mod layout;
pub mod payload;
pub mod root;
pub mod symbols;

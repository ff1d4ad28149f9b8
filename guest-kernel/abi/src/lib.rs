//! The wire formats that the kernel and the VMM share.
//!
//! Everything here is read from memory that the reader does not trust: the kernel reads what a boot
//! loader put behind it, the VMM reads guest memory. So every reader works on a plain byte slice,
//! checks every bound, never panics and never allocates. Writers need the feature `alloc`.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(any(feature = "alloc", test))]
extern crate alloc;

pub mod image;
pub mod payload;
pub mod symbols;

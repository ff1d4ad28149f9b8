//! The wire formats that the kernel and the VMM share.
#![no_std]

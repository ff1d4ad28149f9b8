//! Threads with stacks that no huge page fits into.
//!
//! The standard library's stacks have 2 MiB. Where the host's kernel gives huge pages to whoever could use one, a stack
//! that happens to begin at a multiple of that gets all of it at its first touch: of a dozen threads in a VM's
//! process some 1 in 500 does.

use std::thread::Builder;

/// Less than a huge page, and several times what any thread needs.
const STACK: usize = 1 << 20;

/// A thread to be, by its name.
pub fn named(name: impl Into<String>) -> Builder {
    Builder::new().name(name.into()).stack_size(STACK)
}

//! The C library's heap in a process that keeps a VM: small, since every VM has one.
//!
//! glibc gives each thread a pool of its own, for programs whose threads allocate all the time. Ours hardly do,
//! and a dozen pools cost pages, and calls to make them. What reading the command line and the image took is
//! given back when the guest runs.

/// Before any thread is made: one pool serves all.
pub(super) fn share() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number that malloc(3) looks at when a thread first allocates.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// Gives the host what is free.
pub(super) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the pool's lock and touches free memory only.
    unsafe {
        libc::malloc_trim(0)
    };
}

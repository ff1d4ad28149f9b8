//! The C library's heap in a process that keeps a VM: small, since every VM has one.
//!
//! glibc gives each thread a pool of its own, for programs whose threads allocate all the time. Ours hardly do,
//! and a dozen pools cost pages, and calls to make them. A large block it maps by itself, and gives back when it is
//! freed; but once that has happened it keeps blocks of that size in the heap, for programs that need them again at
//! once, and ours need them once. What each of the API's answers took in small blocks is given back behind it,
//! what the start and the devices took now and then.

/// Blocks from this size on are mappings of their own, always.
const LARGE: i32 = 128 << 10;

/// Before any thread is made: one pool serves all, and it stays small.
pub(super) fn set_up() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets numbers that malloc(3) looks at when it allocates and frees.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        // To set it at all keeps it from being changed.
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    };
}

/// Gives the host what is free.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the pool's lock and touches free memory only.
    unsafe {
        libc::malloc_trim(0)
    };
}

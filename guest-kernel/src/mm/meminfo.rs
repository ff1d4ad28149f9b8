//! How memory is used: the numbers behind /proc/meminfo, sysinfo(2) and `free`.

use super::frame::{self, PageKind};
use super::kstack;
use crate::addr::PAGE_SIZE;

/// Pages by use.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemInfo {
    /// All that the allocator owns.
    pub total: usize,
    /// In use for nothing.
    pub free: usize,
    /// What programs could still get.
    pub available: usize,
    /// Pages of files, tmpfs and shared memory included.
    pub cached: usize,
    /// Of those, tmpfs and shared memory.
    pub shmem: usize,
    /// Anonymous memory of programs.
    pub anon: usize,
    /// The kernel heap's small objects.
    pub slab: usize,
    /// Translation tables of programs.
    pub page_tables: usize,
    /// Kernel stacks in use.
    pub kernel_stack: usize,
}

/// The numbers now; they are read one after the other.
pub fn meminfo() -> MemInfo {
    let shmem = frame::frames_of(PageKind::Shmem);
    MemInfo {
        total: frame::total_frames(),
        free: frame::free_frames(),
        available: frame::available_frames(),
        cached: frame::frames_of(PageKind::Cache) + shmem,
        shmem,
        anon: frame::frames_of(PageKind::Anon),
        slab: frame::frames_of(PageKind::Slab),
        page_tables: frame::frames_of(PageKind::Table),
        kernel_stack: kstack::bytes_in_use() / PAGE_SIZE,
    }
}

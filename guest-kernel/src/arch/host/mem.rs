//! RAM and translation on a host.

use std::alloc::{Layout, alloc_zeroed};
use std::cell::Cell;
use std::sync::OnceLock;

use crate::addr::{PAGE_SIZE, PhysAddr};

/// Where RAM starts, as on the board.
pub const RAM_BASE: PhysAddr = PhysAddr(0x4000_0000);
/// Bytes of RAM. The host commits a page only when it is touched.
pub const RAM_SIZE: usize = 64 << 20;

static RAM: OnceLock<usize> = OnceLock::new();

fn ram() -> usize {
    *RAM.get_or_init(|| {
        let layout = Layout::from_size_align(RAM_SIZE, 2 << 20).expect("a valid layout");
        // SAFETY: the layout has a size. The block lives as long as the process.
        let base = unsafe { alloc_zeroed(layout) };
        assert!(!base.is_null(), "no memory for the test machine");
        base as usize
    })
}

/// Where the kernel sees a physical address.
#[inline]
pub fn phys_to_virt(phys: PhysAddr) -> *mut u8 {
    let offset = phys.0.wrapping_sub(RAM_BASE.0) as usize;
    assert!(offset < RAM_SIZE, "{phys:?} is not RAM");
    (ram() + offset) as *mut u8
}

/// The physical address of something in the linear map.
#[inline]
pub fn virt_to_phys<T>(ptr: *const T) -> PhysAddr {
    let offset = (ptr as usize).wrapping_sub(ram());
    assert!(offset < RAM_SIZE, "{ptr:p} is not in the test machine's RAM");
    PhysAddr(RAM_BASE.0 + offset as u64)
}

thread_local! {
    static USER: Cell<Option<(PhysAddr, u16)>> = const { Cell::new(None) };
}

/// Makes the tables under `root` those of user space on this CPU.
///
/// # Safety
/// As on the bare machine: `root` is a root table that lives until another one is activated.
pub unsafe fn activate_user(root: PhysAddr, asid: u16) {
    USER.set(Some((root, asid)));
}

/// Leaves user space without any mapping on this CPU.
pub fn deactivate_user() {
    USER.set(None);
}

/// What [`activate_user`] set, for tests.
pub fn active_user() -> Option<(PhysAddr, u16)> {
    USER.get()
}

/// The root table of kernel space. On a host it translates nothing; it takes entries all the same.
pub fn kernel_root() -> PhysAddr {
    // The last page of RAM.
    PhysAddr(RAM_BASE.0 + (RAM_SIZE - PAGE_SIZE) as u64)
}

/// Makes stored table entries visible to the table walker.
pub fn sync_tables() {}

/// Fills a page with zeros.
///
/// # Safety
/// `page` is the start of a page that the caller owns.
pub unsafe fn clear_page(page: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { page.write_bytes(0, PAGE_SIZE) }
}

/// Copies a page.
///
/// # Safety
/// Both are starts of pages, `to` is the caller's own.
pub unsafe fn copy_page(to: *mut u8, from: *const u8) {
    // SAFETY: the caller's promise.
    unsafe { to.copy_from_nonoverlapping(from, PAGE_SIZE) }
}

/// Makes stored instructions visible to fetches.
pub fn sync_icache(_start: *const u8, _len: usize) {}

/// Reads a 32-bit word of RAM as if it were a device's register.
///
/// # Safety
/// The word is aligned, and nobody else writes it.
pub unsafe fn mmio_read(register: PhysAddr) -> u32 {
    // SAFETY: `phys_to_virt` gives a pointer into the block of RAM, or panics; the caller's promise.
    unsafe { phys_to_virt(register).cast::<u32>().read_volatile() }
}

/// Writes a 32-bit word of RAM as if it were a device's register.
///
/// # Safety
/// The word is aligned and the caller's own.
pub unsafe fn mmio_write(register: PhysAddr, value: u32) {
    // SAFETY: as above.
    unsafe { phys_to_virt(register).cast::<u32>().write_volatile(value) }
}

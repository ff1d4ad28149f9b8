//! The kernel's own tables and the switch of user space.
//!
//! Kernel space is one linear map: kernel virtual = physical + `LINEAR_OFFSET`, for all RAM that the
//! device tree states and for the devices that the kernel drives, nothing else. Text is read-only and
//! executable, constants are read-only, everything else is writable and never executed; the page below the boot
//! stack is left out. Blocks are as large as alignment allows. The tables come from a small pool in `.bss`, because
//! they are needed before there is an allocator.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::addr::{LINEAR_OFFSET, PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::paging::{
    AtomicPte, ENTRIES, LEVELS, MemoryType, Prot, Pte, Table, index, level_size, table_at,
};

unsafe extern "C" {
    // Borders in the image, all on pages; from the linker script.
    static __image_start: u8;
    static __rodata_start: u8;
    static __data_start: u8;
    static __image_end: u8;
    static __boot_stack_guard: u8;
    static reserved_root: u8;
    static __build_id_start: u8;
    static __build_id_end: u8;
}

/// Tables in the pool: the root, one for the first 512 GiB, and per border in a gigabyte or in 2 MiB one more.
const POOL: usize = 16;

#[repr(C, align(4096))]
struct Pool(UnsafeCell<[Table; POOL]>);

// SAFETY: tables are made of atomics; the cell is only there because they are written.
unsafe impl Sync for Pool {}

static TABLES: Pool =
    Pool(UnsafeCell::new([const { [const { AtomicPte::new(Pte::EMPTY) }; ENTRIES] }; POOL]));
static TABLES_USED: AtomicUsize = AtomicUsize::new(1);

/// Where the kernel sees a physical address. Only RAM and mapped devices may be accessed.
#[inline(always)]
pub fn phys_to_virt(phys: PhysAddr) -> *mut u8 {
    phys.0.wrapping_add(LINEAR_OFFSET) as *mut u8
}

/// The physical address of something in the linear map (the image included).
#[inline(always)]
pub fn virt_to_phys<T: ?Sized>(ptr: *const T) -> PhysAddr {
    PhysAddr((ptr.cast::<u8>() as u64).wrapping_sub(LINEAR_OFFSET))
}

/// The root table of kernel space.
#[inline]
pub fn kernel_root() -> PhysAddr {
    virt_to_phys(TABLES.0.get())
}

/// The physical addresses of the image, its `.bss` included.
pub fn image_range() -> Range<PhysAddr> {
    virt_to_phys(&raw const __image_start)..virt_to_phys(&raw const __image_end)
}

/// The build id in the image's GNU note: the kernel's ELF carries the same.
pub fn build_id() -> &'static [u8] {
    let (start, end) = (&raw const __build_id_start, &raw const __build_id_end);
    // SAFETY: the note lies between the linker's symbols.
    let note = unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) };
    // Name length, description length, type, "GNU\0", description.
    note.get(16..).unwrap_or_default()
}

fn new_table() -> Option<PhysAddr> {
    let next = TABLES_USED.fetch_add(1, Ordering::Relaxed);
    (next < POOL).then(|| PhysAddr(kernel_root().0 + (next * PAGE_SIZE) as u64))
}

/// Maps physical pages at their linear addresses, in blocks where they fit. What is mapped already stays.
fn map_linear(range: Range<u64>, prot: Prot, memory: MemoryType) {
    let mut phys = range.start;
    while phys < range.end {
        let va = VirtAddr(phys.wrapping_add(LINEAR_OFFSET));
        // SAFETY: the pool's tables live for ever.
        let mut table = unsafe { table_at(kernel_root()) };
        let mut level = 0;
        let size = loop {
            let entry = &table[index(va, level)];
            let size = level_size(level);
            let fits = level > 0 && phys.is_multiple_of(size) && range.end - phys >= size;
            if level == LEVELS - 1 || (fits && entry.load().is_empty()) {
                if entry.load().is_empty() {
                    entry.store(match level {
                        3 => Pte::kernel_page(PhysAddr(phys), prot, memory),
                        _ => Pte::kernel_block(PhysAddr(phys), prot, memory),
                    });
                }
                break size;
            }
            let pte = entry.load();
            if pte.is_empty() {
                let next = new_table().expect("the pool of kernel tables is large enough");
                entry.store(Pte::table(next));
            } else if !pte.is_table(level) {
                break size - phys % size;
            }
            // SAFETY: as above.
            table = unsafe { table_at(entry.load().phys()) };
            level += 1;
        };
        phys += size;
    }
}

/// Builds the final tables and switches to them. `ram` is all RAM, `devices` what drivers will touch.
pub fn init(ram: impl Iterator<Item = Range<u64>>, devices: impl Iterator<Item = Range<u64>>) {
    let at = |symbol: *const u8| virt_to_phys(symbol).0;
    let page = PAGE_SIZE as u64;
    let start = at(&raw const __image_start);
    let rodata = at(&raw const __rodata_start);
    let data = at(&raw const __data_start);
    let end = at(&raw const __image_end);
    let guard = at(&raw const __boot_stack_guard);
    map_linear(start..rodata, Prot::EXEC, MemoryType::Normal);
    map_linear(rodata..data, Prot::empty(), MemoryType::Normal);
    map_linear(data..guard, Prot::WRITE, MemoryType::Normal);
    map_linear(guard + page..end, Prot::WRITE, MemoryType::Normal);
    for range in ram {
        // Around the image, whose guard page has to stay out.
        let range = range.start.next_multiple_of(page)..range.end & !(page - 1);
        map_linear(range.start..range.end.min(start), Prot::WRITE, MemoryType::Normal);
        map_linear(range.start.max(end)..range.end, Prot::WRITE, MemoryType::Normal);
    }
    map_devices(devices);
    // SAFETY: the new tables map what runs, at the same addresses.
    unsafe {
        asm!(
            "dsb ishst",
            "msr ttbr1_el1, {}",
            "isb",
            in(reg) kernel_root().0,
            options(nostack)
        );
    }
    deactivate_user();
    super::tlb::flush_all();
}

/// Maps what drivers will touch, as far as it is not mapped yet.
pub fn map_devices(devices: impl Iterator<Item = Range<u64>>) {
    for range in devices {
        let block = level_size(2);
        let range = range.start & !(block - 1)..range.end.next_multiple_of(block);
        map_linear(range, Prot::WRITE, MemoryType::Device);
    }
    sync_tables();
}

/// Makes the tables under `root` those of user space on this CPU.
///
/// # Safety
/// `root` is a root table that lives until another one is activated, and everything the TLB holds under
/// `asid` came from these tables.
#[inline]
pub unsafe fn activate_user(root: PhysAddr, asid: u16) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("msr ttbr0_el1, {}", "isb", in(reg) root.0 | u64::from(asid) << 48, options(nostack));
    }
}

/// Leaves user space without any mapping on this CPU.
#[inline]
pub fn deactivate_user() {
    let root = virt_to_phys(&raw const reserved_root);
    // SAFETY: the reserved root is empty and lives for ever; ASID 0 is nobody's.
    unsafe { activate_user(root, 0) }
}

/// Makes stored table entries visible to the table walker before anything is accessed through them. Needed
/// after entries of kernel space were made valid; for user space a fault would only come back and look again.
#[inline]
pub fn sync_tables() {
    // SAFETY: barriers.
    unsafe { asm!("dsb ishst", "isb", options(nostack)) }
}

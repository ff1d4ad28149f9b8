//! Stage-1 translation tables: the format of an entry and how an address is cut into indices.
//!
//! VMSAv8-64 with the 4 KiB granule and 48-bit addresses: four levels, 0 (the root) to 3 (pages), 512
//! entries each. This file is the same on the bare machine and on a host, so the walker above it is one.
//!
//! Entries are shared with the table walker of the MMU and with other CPUs, so a table is an array of
//! [`AtomicPte`]. Invariants: an entry that is valid is changed to another *output address* only through
//! an invalid one (break before make); leaf entries always have the access flag set, because software
//! keeps no other note of use (there is no hardware update of the access and dirty state).

use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PhysAddr, VirtAddr};

/// Levels of a walk; level 0 is the root's.
pub const LEVELS: usize = 4;
/// Entries in a table.
pub const ENTRIES: usize = 512;

/// A table: exactly one page.
pub type Table = [AtomicPte; ENTRIES];

const _: () = assert!(size_of::<Table>() == PAGE_SIZE, "a table is one page");

/// The index into the table at `level` on the way to `va`.
#[inline]
pub const fn index(va: VirtAddr, level: usize) -> usize {
    (va.0 >> level_shift(level)) as usize & (ENTRIES - 1)
}

/// log2 of the bytes that one entry at `level` stands for.
#[inline]
pub const fn level_shift(level: usize) -> usize {
    PAGE_SHIFT + 9 * (LEVELS - 1 - level)
}

/// Bytes that one entry at `level` stands for.
#[inline]
pub const fn level_size(level: usize) -> u64 {
    1 << level_shift(level)
}

bitflags::bitflags! {
    /// What may be done with a mapping.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Prot: u8 {
        /// Stores are allowed.
        const WRITE = 1 << 0;
        /// Instruction fetches are allowed (by EL0 for user mappings, by EL1 for kernel ones).
        const EXEC = 1 << 1;
    }
}

/// Memory types: indices into MAIR_EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum MemoryType {
    /// Write-back cacheable RAM.
    Normal = 0,
    /// Device-nGnRE: registers of a device.
    Device = 1,
    /// Normal, not cacheable.
    NonCacheable = 2,
}

/// MAIR_EL1 for [`MemoryType`].
pub const MAIR: u64 = 0xff | (0x04 << 8) | (0x44 << 16);

/// One translation table entry.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Pte(pub u64);

impl Pte {
    /// Translates nothing.
    pub const EMPTY: Self = Self(0);

    const VALID: u64 = 1 << 0;
    /// At levels 0 to 2: a table, not a block. At level 3: a page (0 is reserved there).
    const TABLE: u64 = 1 << 1;
    /// AP[1]: EL0 may access.
    const USER: u64 = 1 << 6;
    /// AP[2]: nobody may store.
    const READ_ONLY: u64 = 1 << 7;
    const INNER_SHAREABLE: u64 = 3 << 8;
    const ACCESSED: u64 = 1 << 10;
    const NOT_GLOBAL: u64 = 1 << 11;
    const PXN: u64 = 1 << 53;
    const UXN: u64 = 1 << 54;
    /// Software: the frame was written through this mapping, or may have been.
    const DIRTY: u64 = 1 << 55;
    /// Software: the frame is not counted for this mapping (the zero page, device memory).
    const SPECIAL: u64 = 1 << 56;
    /// Software: shared by copy-on-write; it is read-only although its VMA may be writable.
    const COW: u64 = 1 << 57;
    /// Software, in entries that are not valid: a resident page that its VMA forbids to touch.
    const PROT_NONE: u64 = 1 << 58;
    /// Software: a shared mapping; a copy of the table keeps the right to store (bits 59 to 62 of a
    /// leaf are ignored while TCR_EL1.HWU* are clear).
    const SHARED: u64 = 1 << 59;
    /// In table entries, APTable[1]: nothing below may be stored to.
    const TABLE_READ_ONLY: u64 = 1 << 62;
    const ADDR: u64 = 0x0000_ffff_ffff_f000;

    /// An entry that leads to the next table.
    #[inline]
    pub const fn table(phys: PhysAddr) -> Self {
        Self(phys.0 | Self::TABLE | Self::VALID)
    }

    /// A page of a program. EL1 never executes it.
    #[inline]
    pub const fn user_page(phys: PhysAddr, prot: Prot) -> Self {
        let mut bits = phys.0
            | Self::VALID
            | Self::TABLE
            | Self::USER
            | Self::INNER_SHAREABLE
            | Self::ACCESSED
            | Self::NOT_GLOBAL
            | Self::PXN;
        if !prot.contains(Prot::WRITE) {
            bits |= Self::READ_ONLY;
        }
        if !prot.contains(Prot::EXEC) {
            bits |= Self::UXN;
        }
        Self(bits)
    }

    /// A page of the kernel (level 3). EL0 can do nothing with it.
    #[inline]
    pub const fn kernel_page(phys: PhysAddr, prot: Prot, memory: MemoryType) -> Self {
        Self(Self::kernel_block(phys, prot, memory).0 | Self::TABLE)
    }

    /// A block of the kernel (level 1: 1 GiB, level 2: 2 MiB).
    #[inline]
    pub const fn kernel_block(phys: PhysAddr, prot: Prot, memory: MemoryType) -> Self {
        let mut bits = phys.0
            | Self::VALID
            | Self::ACCESSED
            | Self::UXN
            | Self::INNER_SHAREABLE
            | ((memory as u64) << 2);
        if !prot.contains(Prot::WRITE) {
            bits |= Self::READ_ONLY;
        }
        if !prot.contains(Prot::EXEC) {
            bits |= Self::PXN;
        }
        Self(bits)
    }

    /// The MMU walks through it.
    #[inline]
    pub const fn is_valid(self) -> bool {
        self.0 & Self::VALID != 0
    }

    /// Nothing stands here at all, not even a page without access.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// A frame stands behind this level 3 entry, accessible or not.
    #[inline]
    pub const fn is_present(self) -> bool {
        self.0 & (Self::VALID | Self::PROT_NONE) != 0
    }

    /// It leads to another table. `level` is that of the table the entry stands in.
    #[inline]
    pub const fn is_table(self, level: usize) -> bool {
        level < LEVELS - 1 && self.0 & (Self::VALID | Self::TABLE) == Self::VALID | Self::TABLE
    }

    /// The output address: of the next table, the block or the page.
    #[inline]
    pub const fn phys(self) -> PhysAddr {
        PhysAddr(self.0 & Self::ADDR)
    }

    /// The same entry with another output address.
    #[inline]
    pub const fn with_phys(self, phys: PhysAddr) -> Self {
        Self(self.0 & !Self::ADDR | phys.0)
    }

    /// EL0 may access it.
    #[inline]
    pub const fn is_user(self) -> bool {
        self.0 & Self::USER != 0
    }

    /// Stores are allowed (by this entry; table entries above may forbid them).
    #[inline]
    pub const fn is_writable(self) -> bool {
        self.0 & Self::READ_ONLY == 0
    }

    /// EL0 may execute it.
    #[inline]
    pub const fn is_user_executable(self) -> bool {
        self.0 & Self::UXN == 0
    }

    /// Stores are allowed from now on.
    #[inline]
    pub const fn writable(self) -> Self {
        Self(self.0 & !Self::READ_ONLY)
    }

    /// Stores fault from now on.
    #[inline]
    pub const fn read_only(self) -> Self {
        Self(self.0 | Self::READ_ONLY)
    }

    /// Takes over the rights that a program has; everything else stays.
    #[inline]
    pub const fn with_user_prot(self, prot: Prot) -> Self {
        let rights = Self::user_page(PhysAddr(0), prot).0 & (Self::READ_ONLY | Self::UXN);
        Self(self.0 & !(Self::READ_ONLY | Self::UXN) | rights)
    }

    /// A resident page that may not be touched (`PROT_NONE`): invalid for the MMU, but it keeps its frame.
    #[inline]
    pub const fn to_prot_none(self) -> Self {
        Self(self.0 & !Self::VALID | Self::PROT_NONE)
    }

    /// Undoes [`to_prot_none`](Self::to_prot_none).
    #[inline]
    pub const fn from_prot_none(self) -> Self {
        Self(self.0 & !Self::PROT_NONE | Self::VALID)
    }

    /// True for an entry made by [`to_prot_none`](Self::to_prot_none).
    #[inline]
    pub const fn is_prot_none(self) -> bool {
        self.0 & (Self::VALID | Self::PROT_NONE) == Self::PROT_NONE
    }

    /// Marked as written (software bit).
    #[inline]
    pub const fn is_dirty(self) -> bool {
        self.0 & Self::DIRTY != 0
    }

    /// Sets or clears the mark of [`is_dirty`](Self::is_dirty).
    #[inline]
    pub const fn with_dirty(self, on: bool) -> Self {
        self.with(Self::DIRTY, on)
    }

    /// The frame is not counted for this mapping (software bit).
    #[inline]
    pub const fn is_special(self) -> bool {
        self.0 & Self::SPECIAL != 0
    }

    /// Sets or clears the mark of [`is_special`](Self::is_special).
    #[inline]
    pub const fn with_special(self, on: bool) -> Self {
        self.with(Self::SPECIAL, on)
    }

    /// Read-only because it is shared by copy-on-write (software bit).
    #[inline]
    pub const fn is_cow(self) -> bool {
        self.0 & Self::COW != 0
    }

    /// Sets or clears the mark of [`is_cow`](Self::is_cow).
    #[inline]
    pub const fn with_cow(self, on: bool) -> Self {
        self.with(Self::COW, on)
    }

    /// The page belongs to a shared mapping, which fork does not turn into copy-on-write (software bit).
    #[inline]
    pub const fn is_shared(self) -> bool {
        self.0 & Self::SHARED != 0
    }

    /// Sets or clears the mark of [`is_shared`](Self::is_shared).
    #[inline]
    pub const fn with_shared(self, on: bool) -> Self {
        self.with(Self::SHARED, on)
    }

    /// In a table entry: nothing below may be stored to (APTable[1]).
    #[inline]
    pub const fn is_table_read_only(self) -> bool {
        self.0 & Self::TABLE_READ_ONLY != 0
    }

    /// Sets or clears APTable[1] of a table entry.
    #[inline]
    pub const fn with_table_read_only(self, on: bool) -> Self {
        self.with(Self::TABLE_READ_ONLY, on)
    }

    const fn with(self, bit: u64, on: bool) -> Self {
        Self(if on { self.0 | bit } else { self.0 & !bit })
    }
}

impl core::fmt::Debug for Pte {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Pte({:#018x})", self.0)
    }
}

/// An entry in a table. The lock of the address space orders writers; the MMU reads at any time.
#[derive(Default)]
#[repr(transparent)]
pub struct AtomicPte(AtomicU64);

impl AtomicPte {
    /// An entry with a value.
    pub const fn new(pte: Pte) -> Self {
        Self(AtomicU64::new(pte.0))
    }

    /// The entry now.
    #[inline]
    pub fn load(&self) -> Pte {
        Pte(self.0.load(Ordering::Acquire))
    }

    /// Replaces the entry; what was stored before (a new table's content) is visible first.
    #[inline]
    pub fn store(&self, pte: Pte) {
        self.0.store(pte.0, Ordering::Release);
    }

    /// Replaces the entry and returns the old one.
    #[inline]
    pub fn swap(&self, pte: Pte) -> Pte {
        Pte(self.0.swap(pte.0, Ordering::AcqRel))
    }

    /// Replaces the entry if it is still `old`; otherwise returns what it is.
    #[inline]
    pub fn compare_exchange(&self, old: Pte, new: Pte) -> Result<(), Pte> {
        self.0
            .compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(Pte)
    }
}

/// The table at a physical address.
///
/// # Safety
/// A table stands there and stays for as long as the reference is used.
#[inline]
pub unsafe fn table_at<'a>(phys: PhysAddr) -> &'a Table {
    // SAFETY: the caller's promise; the linear map covers all tables.
    unsafe { &*super::phys_to_virt(phys).cast::<Table>() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_cuts_nine_bits_a_level() {
        let va = VirtAddr(1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 5);
        assert_eq!([0, 1, 2, 3].map(|level| index(va, level)), [1, 2, 3, 4]);
        assert_eq!([0, 1, 2, 3].map(level_size), [1 << 39, 1 << 30, 2 << 20, 4096]);
    }

    /// Bit by bit as in the ARM ARM, D8.3 (VMSAv8-64 descriptor formats).
    #[test]
    fn entries_have_the_architectures_bits() {
        let phys = PhysAddr(0x4123_4000);
        let text = Pte::user_page(phys, Prot::EXEC);
        assert_eq!(
            text.0,
            0x4123_4000 | 0b11 | 1 << 6 | 1 << 7 | 3 << 8 | 1 << 10 | 1 << 11 | 1 << 53
        );
        let data = Pte::user_page(phys, Prot::WRITE);
        assert_eq!(data.0, 0x4123_4000 | 0b11 | 1 << 6 | 3 << 8 | 1 << 10 | 1 << 11 | 3 << 53);
        let device = Pte::kernel_block(PhysAddr(0x0800_0000), Prot::WRITE, MemoryType::Device);
        assert_eq!(device.0, 0x0800_0000 | 0b01 | 1 << 2 | 3 << 8 | 1 << 10 | 3 << 53);
        assert!(!device.is_table(2) && Pte::table(phys).is_table(2) && !text.is_table(3));
    }

    #[test]
    fn prot_none_keeps_the_frame_and_comes_back() {
        let page = Pte::user_page(PhysAddr(0x5000), Prot::WRITE).with_dirty(true);
        let hidden = page.to_prot_none();
        assert!(!hidden.is_valid() && hidden.is_present() && hidden.is_prot_none());
        assert_eq!(hidden.phys(), PhysAddr(0x5000));
        assert_eq!(hidden.from_prot_none(), page);
    }

    #[test]
    fn rights_change_nothing_else() {
        let page = Pte::user_page(PhysAddr(0x5000), Prot::WRITE).with_cow(true).with_special(true);
        let text = page.with_user_prot(Prot::EXEC);
        assert!(
            text.is_user_executable() && !text.is_writable() && text.is_cow() && text.is_special()
        );
        assert_eq!(text.with_user_prot(Prot::WRITE), page);
        assert_eq!(page.read_only().writable(), page);
    }
}

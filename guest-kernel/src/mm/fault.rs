//! Page faults: demand paging, the zero page, copy-on-write, stack growth.
//!
//! A fault holds `space` for reading, finds the range, and works on one table entry under the tables'
//! lock. Only a page that must be read in is waited for, without that lock; then the entry is looked at
//! again. Running out of frames ends the attempt, lets the OOM killer act and starts over.

use super::asid::Asid;
use super::backing::MappedFile;
use super::frame::{self, AllocFlags, FrameRef, PageKind, page_of};
use super::memcg::NoPage;
use super::mm::{Mm, RemoteBuf, RemoteRights, Space};
use super::tables::Leaf;
use super::vma::{self, VmFlags, Vma};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::paging::{Prot, Pte};
use crate::arch::{self, tlb};
use crate::errno::Errno;
use crate::sync::Once;

/// Pages of a file that one fault maps if they are in memory anyway.
const AROUND: u64 = 16;
/// Pages that the last owner's store makes writable at once.
const REUSE_AROUND: u64 = 8;
/// Bytes that stay free below a stack (`stack_guard_gap`: 256 pages).
pub const STACK_GUARD_GAP: u64 = 256 << PAGE_SHIFT;
/// The lowest address that programs may map (`vm.mmap_min_addr`).
pub const MMAP_MIN_ADDR: u64 = 65536;

/// `Page::flags` of a frame whose content the instruction cache agrees with.
const ICACHE_CLEAN: u16 = 1;

static ZERO_PAGE: Once<FrameRef> = Once::new();

/// What an access wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Access {
    /// To store.
    pub write: bool,
    /// To execute.
    pub exec: bool,
    /// It came from EL0, or the kernel made it for the program.
    pub user: bool,
}

/// Why a fault could not be resolved, and so which signal it becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is mapped there: SIGSEGV, `SEGV_MAPERR`.
    MapErr,
    /// What is mapped there forbids the access: SIGSEGV, `SEGV_ACCERR`.
    AccErr,
    /// Beyond the end of the file: SIGBUS.
    BusErr,
    /// No memory; the task is to die.
    Oom,
}

/// Why an attempt ended.
enum Stop {
    Fault(Fault),
    /// The stack below must grow first.
    Grow,
    /// No frame.
    NoMemory,
    /// The group may have no more pages.
    OverLimit,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Oom => Self::NoMemory,
            fault => Self::Fault(fault),
        }
    }
}

impl From<NoPage> for Stop {
    fn from(why: NoPage) -> Self {
        match why {
            NoPage::NoMemory => Self::NoMemory,
            NoPage::OverLimit => Self::OverLimit,
        }
    }
}

impl From<Errno> for Stop {
    fn from(_: Errno) -> Self {
        Self::NoMemory
    }
}

/// The page of zeros. Entries that map it are marked special and do not count it.
pub(super) fn zero_page() -> Result<PhysAddr, Errno> {
    if let Some(page) = ZERO_PAGE.try_get() {
        return Ok(page.phys());
    }
    let page = frame::alloc_page_of(PageKind::Zero, AllocFlags::ZERO)?;
    Ok(ZERO_PAGE.set(page).phys())
}

/// Makes instruction fetches see what the kernel stored into the frame.
#[inline]
fn sync_exec(frame: &frame::Page, phys: PhysAddr) {
    if frame.flags() & ICACHE_CLEAN == 0 {
        arch::sync_icache(arch::phys_to_virt(phys), PAGE_SIZE);
        frame.set_flags(frame.flags() | ICACHE_CLEAN);
    }
}

/// The same for a page that becomes executable.
pub(super) fn sync_exec_page(phys: PhysAddr) {
    sync_exec(page_of(phys), phys);
}

/// The entry for a page of `vma`. `own`: stores may go to this very frame.
#[inline]
pub(super) fn page_entry(vma: &Vma, phys: PhysAddr, own: bool) -> Pte {
    let prot = vma.flags.prot();
    let mut rights = prot.unwrap_or(Prot::empty());
    let cow = !own && rights.contains(Prot::WRITE);
    if !own {
        rights.remove(Prot::WRITE);
    }
    if rights.contains(Prot::EXEC) {
        sync_exec(page_of(phys), phys);
    }
    let pte = Pte::user_page(phys, rights).with_shared(!vma.is_private()).with_cow(cow);
    // Only a debugger's forced access brings a page into a range without any right.
    if prot.is_none() { pte.to_prot_none() } else { pte }
}

/// True if stores through this entry of a private range may go to its frame as it is: anonymous and
/// mapped nowhere else. The table that the entry stands in is exclusive.
#[inline]
pub(super) fn is_own(pte: Pte) -> bool {
    let page = page_of(pte.phys());
    !pte.is_special() && page.kind() == PageKind::Anon && page.refcount() == 1
}

impl Mm {
    /// Resolves a fault at `va`, whose tag is removed and which lies in user space. May sleep.
    pub fn handle_fault(&self, va: VirtAddr, access: Access) -> Result<(), Fault> {
        let addr = va.page().0;
        loop {
            match self.try_fault(addr, access) {
                Ok(()) => return Ok(()),
                Err(Stop::Fault(fault)) => return Err(fault),
                Err(Stop::Grow) => self.grow_stack(addr)?,
                Err(Stop::NoMemory) => super::oom::out_of_memory()?,
                Err(Stop::OverLimit) => super::oom::over_limit(self.group().as_ref())?,
            }
        }
    }

    #[inline]
    fn try_fault(&self, addr: u64, access: Access) -> Result<(), Stop> {
        let space = self.space.read();
        let vma = self.vma_at(&space, addr)?;
        let needed = if access.write {
            VmFlags::WRITE
        } else if access.exec {
            VmFlags::EXEC
        } else {
            // Without enhanced PAN whatever can be written or executed can be read.
            VmFlags::ACCESS
        };
        if !vma.flags.intersects(needed) {
            return Err(Fault::AccErr.into());
        }
        self.resolve(vma, addr, access.write)
    }

    /// The range at `addr`.
    #[inline]
    fn vma_at<'a>(&self, space: &'a Space, addr: u64) -> Result<&'a Vma, Stop> {
        use core::sync::atomic::Ordering::Relaxed;
        if let Some(vma) = space.vmas.get(self.last_vma.load(Relaxed) as usize)
            && vma.contains(addr)
        {
            return Ok(vma);
        }
        let i = vma::find(&space.vmas, addr);
        match space.vmas.get(i) {
            Some(vma) if vma.start <= addr => {
                self.last_vma.store(i as u32, Relaxed);
                Ok(vma)
            }
            Some(vma) if vma.flags.contains(VmFlags::GROWSDOWN) => Err(Stop::Grow),
            _ => Err(Fault::MapErr.into()),
        }
    }

    /// Makes the page at `addr` present, and for `write` one that stores may go to.
    #[inline]
    fn resolve(&self, vma: &Vma, addr: u64, write: bool) -> Result<(), Stop> {
        let asid = self.asid();
        let va = VirtAddr(addr);
        let mut tables = self.tables.lock();
        let mut leaf = tables.leaf(asid, va)?;
        let pte = leaf.load();
        if !pte.is_empty() {
            if !write || (pte.is_valid() && pte.is_writable()) {
                // Somebody else was faster, or the TLB still knew lesser rights.
                tlb::flush_page(|| asid.get(), va);
                return Ok(());
            }
            return Self::break_cow(asid, vma, &mut leaf, va);
        }
        let Some(file) = &vma.file else {
            let pte = if write {
                let frame = leaf.new_page(AllocFlags::ZERO)?;
                page_entry(vma, frame.into_phys(), true).with_dirty(true)
            } else {
                page_entry(vma, zero_page()?, false).with_special(true)
            };
            leaf.fill(pte);
            tables.note_peak();
            return Ok(());
        };
        if Self::map_cached(vma, file, &mut leaf, addr, write)? {
            tables.note_peak();
            return Ok(());
        }
        drop(tables);
        self.map_file_page(vma, file, addr, write)
    }

    /// A store to a page that is present and read-only.
    fn break_cow(asid: &Asid, vma: &Vma, leaf: &mut Leaf, va: VirtAddr) -> Result<(), Stop> {
        let pte = leaf.load();
        if !vma.is_private() {
            leaf.update(page_entry(vma, pte.phys(), true).with_dirty(true));
        } else if is_own(pte) {
            // The last owner writes without a copy; so he will to the pages around, which became
            // read-only at the same moment.
            leaf.update(page_entry(vma, pte.phys(), true).with_dirty(true));
            let window = REUSE_AROUND << PAGE_SHIFT;
            let base = va.0 & !(window - 1);
            leaf.update_near(base.max(vma.start), (base + window).min(vma.end), |pte| {
                let reuse = pte.is_valid() && pte.is_cow() && is_own(pte);
                if reuse {
                    page_entry(vma, pte.phys(), true).with_dirty(pte.is_dirty())
                } else {
                    pte
                }
            });
        } else {
            let zero = if pte.is_special() { AllocFlags::ZERO } else { AllocFlags::empty() };
            let copy = leaf.new_page(zero)?;
            if !pte.is_special() {
                // SAFETY: two distinct frames; the copy is ours, the original is held by the entry.
                unsafe { arch::copy_page(copy.as_ptr(), arch::phys_to_virt(pte.phys())) };
            }
            leaf.replace(asid, page_entry(vma, copy.into_phys(), true).with_dirty(true));
            return Ok(());
        }
        tlb::flush_page(|| asid.get(), va);
        Ok(())
    }

    /// Maps what the page cache has at and around `addr`; false if the page itself is not there.
    fn map_cached(
        vma: &Vma,
        file: &MappedFile,
        leaf: &mut Leaf,
        addr: u64,
        write: bool,
    ) -> Result<bool, Stop> {
        let Some(mapping) = file.mapping() else { return Ok(false) };
        let index = vma.page_index(addr);
        if index >= mapping.size().div_ceil(PAGE_SIZE as u64) {
            return Err(Fault::BusErr.into());
        }
        if write && vma.is_private() {
            let original = mapping.get(index).filter(|page| !page.is_reserved());
            let Some(original) = original else { return Ok(false) };
            let copy = Self::private_copy(vma, leaf, &original)?;
            leaf.fill(copy);
            return Ok(true);
        }
        let window = AROUND << PAGE_SHIFT;
        let start = (addr & !(window - 1)).max(vma.start);
        let end = ((addr & !(window - 1)) + window).min(vma.end);
        let first = vma.page_index(start);
        let own = !vma.is_private();
        mapping.for_each(first, first + ((end - start) >> PAGE_SHIFT) - 1, |i, frame| {
            if frame.is_reserved() {
                return;
            }
            leaf.fill_near(start + ((i - first) << PAGE_SHIFT), || {
                page_entry(vma, frame.clone().into_phys(), own)
            });
        });
        Ok(!leaf.load().is_empty())
    }

    /// An anonymous copy of a file's page, for a store to a private mapping.
    fn private_copy(vma: &Vma, leaf: &Leaf<'_>, original: &FrameRef) -> Result<Pte, Stop> {
        let copy = leaf.new_page(AllocFlags::empty())?;
        // SAFETY: two distinct frames; the copy is ours, the reference keeps the original.
        unsafe { arch::copy_page(copy.as_ptr(), original.as_ptr()) };
        Ok(page_entry(vma, copy.into_phys(), true).with_dirty(true))
    }

    /// Brings a file's page in, without the tables' lock, and maps it.
    #[cold]
    fn map_file_page(
        &self,
        vma: &Vma,
        file: &MappedFile,
        addr: u64,
        write: bool,
    ) -> Result<(), Stop> {
        let generation = || file.mapping().map_or(0, |mapping| mapping.generation());
        loop {
            let before = generation();
            let shared_write = !vma.is_private() && vma.flags.contains(VmFlags::WRITE);
            let frame = file.backing().page(vma.page_index(addr), shared_write)?;
            let mut tables = self.tables.lock();
            if generation() != before {
                // Truncated meanwhile: the page may not be the file's any more.
                continue;
            }
            let mut leaf = tables.leaf(self.asid(), VirtAddr(addr))?;
            if leaf.load().is_empty() {
                let pte = if write && vma.is_private() {
                    Self::private_copy(vma, &leaf, &frame)?
                } else {
                    page_entry(vma, frame.into_phys(), !vma.is_private())
                };
                leaf.fill(pte);
                tables.note_peak();
            }
            return Ok(());
        }
    }

    /// Extends the stack above `addr` down to it, as far as limits and neighbours allow.
    #[cold]
    fn grow_stack(&self, addr: u64) -> Result<(), Fault> {
        let mut space = self.space.write();
        let i = vma::find(&space.vmas, addr);
        let Some(vma) = space.vmas.get(i) else { return Err(Fault::MapErr) };
        if vma.start <= addr {
            return Ok(());
        }
        let growth = vma.start - addr;
        let below = i.checked_sub(1).map(|i| &space.vmas[i]);
        let gap = below.is_none_or(|below| {
            // A range without access is a guard by itself, and another stack keeps its own distance.
            let neighbour = below.flags.intersects(VmFlags::ACCESS)
                && !below.flags.contains(VmFlags::GROWSDOWN);
            let needed = if neighbour { STACK_GUARD_GAP } else { 0 };
            below.end.saturating_add(needed) <= addr
        });
        let bytes = (space.total_vm << PAGE_SHIFT).saturating_add(growth);
        if !vma.flags.contains(VmFlags::GROWSDOWN)
            || addr < MMAP_MIN_ADDR
            || !gap
            || vma.end - addr > space.limits.stack
            || bytes > space.limits.address_space
        {
            return Err(Fault::MapErr);
        }
        self.seq.write(|| {
            let flags = space.vmas[i].flags;
            space.vmas[i].start = addr;
            space.account(flags, growth >> PAGE_SHIFT, 1);
        });
        Ok(())
    }

    /// Touches the pages of `start..end` for mlock(2), `MAP_POPULATE` and `MADV_POPULATE_*`.
    pub(super) fn populate(&self, start: u64, end: u64, write: Option<bool>) -> Result<(), Fault> {
        let mut addr = start;
        while addr < end {
            let write = match write {
                Some(write) => write,
                None => {
                    let space = self.space.read();
                    let vma = vma::find_containing(&space.vmas, addr).ok_or(Fault::MapErr)?;
                    if !vma.flags.intersects(VmFlags::ACCESS) {
                        return Err(Fault::AccErr);
                    }
                    // A shared file is not to be dirtied; everything else is to be the program's own.
                    vma.is_private() && vma.flags.contains(VmFlags::WRITE)
                }
            };
            self.handle_fault(VirtAddr(addr), Access { write, exec: false, user: true })?;
            addr += PAGE_SIZE as u64;
        }
        Ok(())
    }
}

/// See [`Mm::access_remote`].
pub(super) fn access_remote(mm: &Mm, addr: u64, mut buf: RemoteBuf, rights: RemoteRights) -> usize {
    let len = match &buf {
        RemoteBuf::Read(bytes) => bytes.len(),
        RemoteBuf::Write(bytes) => bytes.len(),
    };
    let mut done = 0;
    while done < len {
        let Some(at) = addr.checked_add(done as u64) else { break };
        let va = VirtAddr(at);
        if !va.is_user() {
            break;
        }
        let n = (len - done).min(PAGE_SIZE - va.page_offset());
        match remote_page(mm, va, &mut buf, rights, done..done + n) {
            Ok(()) => done += n,
            Err(Stop::Grow) if mm.grow_stack(va.page().0).is_ok() => {}
            Err(Stop::NoMemory) if super::oom::out_of_memory().is_ok() => {}
            Err(Stop::OverLimit) if super::oom::over_limit(mm.group().as_ref()).is_ok() => {}
            Err(_) => break,
        }
    }
    done
}

/// Copies within one page.
fn remote_page(
    mm: &Mm,
    va: VirtAddr,
    buf: &mut RemoteBuf,
    rights: RemoteRights,
    part: core::ops::Range<usize>,
) -> Result<(), Stop> {
    let forced = rights == RemoteRights::Forced;
    let space = mm.space.read();
    let page = va.page();
    let vma = mm.vma_at(&space, page.0)?;
    let offset = va.page_offset();
    loop {
        match buf {
            RemoteBuf::Read(bytes) => {
                let needed = if forced { VmFlags::MAYREAD } else { VmFlags::READ };
                if !vma.flags.contains(needed) {
                    return Err(Fault::AccErr.into());
                }
                let tables = mm.tables.lock();
                let pte = tables.lookup(page);
                if pte.is_present() {
                    let from = arch::phys_to_virt(pte.phys());
                    // SAFETY: within the frame, which stays mapped while the tables' lock is held; a
                    // program may write it meanwhile, which makes the copy a mix, no more.
                    unsafe {
                        let to = bytes[part.clone()].as_mut_ptr();
                        core::ptr::copy_nonoverlapping(from.add(offset), to, part.len());
                    }
                    return Ok(());
                }
                drop(tables);
                mm.resolve(vma, page.0, false)?;
            }
            RemoteBuf::Write(bytes) => {
                let private = forced && vma.is_private();
                let needed = if private { VmFlags::MAYWRITE } else { VmFlags::WRITE };
                if !vma.flags.contains(needed) {
                    return Err(Fault::AccErr.into());
                }
                let mut tables = mm.tables.lock();
                let mut leaf = tables.leaf(mm.asid(), page)?;
                let pte = leaf.load();
                if pte.is_present() && vma.is_private() && !is_own(pte) {
                    Mm::break_cow(mm.asid(), vma, &mut leaf, page)?;
                }
                let pte = leaf.load();
                if pte.is_present() {
                    let frame = page_of(pte.phys());
                    let to = arch::phys_to_virt(pte.phys());
                    // SAFETY: as for reading.
                    unsafe {
                        let from = bytes[part.clone()].as_ptr();
                        core::ptr::copy_nonoverlapping(from, to.add(offset), part.len());
                    }
                    frame.set_flags(frame.flags() & !ICACHE_CLEAN);
                    if vma.flags.contains(VmFlags::EXEC) {
                        sync_exec(frame, pte.phys());
                    }
                    return Ok(());
                }
                drop(tables);
                mm.resolve(vma, page.0, true)?;
            }
        }
    }
}

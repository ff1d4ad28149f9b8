//! [`Mm`]: an address space: its ranges, its tables, its numbers.
//!
//! # Locks
//!
//! `space` (sleeping) guards the ranges: mmap(2) and its kin write, faults and lookups read. `tables`
//! (spinning) guards the tables and the resident counts; it is taken inside `space`. Whoever holds
//! `space` for writing knows that no fault is under way. Files are let go of only after `space` was.
//!
//! # Two counts
//!
//! `users` counts the tasks (and guests such as ptrace) that use the memory: when it drops to zero,
//! mappings go. References ([`Ref`]) keep the structure and the root table, which a kernel thread may
//! still have under its feet.

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use belljar_abi::Described;

use super::asid::{self, Asid};
use super::backing::MappedFile;
use super::fault::MMAP_MIN_ADDR;
use super::mapping::Mapping;
use super::memcg::MemGroup;
use super::tables::Tables;
use super::vma::{self, VmFlags, Vmas};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, TASK_SIZE};
use crate::arch::tlb;
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::list::{Link, List};
use crate::list_link;
use crate::sync::{RwLock, SeqCount, SpinLock};

/// All address spaces, for truncation to find who maps a file.
static MMS: SpinLock<List<Mm, MmsLink>> = SpinLock::new(List::new());

/// Resource limits that memory obeys, in bytes (`RLIM_INFINITY` is `u64::MAX`). The task floor sets
/// them at exec and whenever setrlimit(2) changes one.
#[derive(Clone, Copy, Debug)]
pub struct MmLimits {
    /// `RLIMIT_AS`.
    pub address_space: u64,
    /// `RLIMIT_DATA`.
    pub data: u64,
    /// `RLIMIT_STACK`.
    pub stack: u64,
    /// `RLIMIT_MEMLOCK`; `u64::MAX` for the privileged.
    pub memlock: u64,
    /// The lowest address that may be asked for: 0 for the privileged.
    pub lowest: u64,
}

impl MmLimits {
    /// Those of a program without privileges, as the kernel boots.
    const DEFAULT: Self = Self {
        address_space: u64::MAX,
        data: u64::MAX,
        stack: 8 << 20,
        memlock: 8 << 20,
        lowest: MMAP_MIN_ADDR,
    };
}

impl Default for MmLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What the ranges lock guards.
#[repr(C)]
#[derive(Described)]
pub struct Space {
    /// The ranges.
    pub vmas: Vmas,
    /// Start of the heap.
    #[described(as = "hex")]
    pub start_brk: u64,
    /// End of the heap, as brk(2) set it.
    #[described(as = "hex")]
    pub brk: u64,
    /// Mappings are placed below this.
    #[described(as = "hex")]
    pub mmap_base: u64,
    /// Pages mapped.
    pub total_vm: u64,
    /// The most pages that were mapped at once.
    pub hiwater_vm: u64,
    /// Pages of private writable memory.
    pub data_vm: u64,
    /// Pages of executable files.
    pub exec_vm: u64,
    /// Pages of stacks.
    pub stack_vm: u64,
    /// Pages locked in memory.
    pub locked_vm: u64,
    /// Set on every new range: mlockall(2).
    #[described(as = "flags VmFlags")]
    pub def_flags: VmFlags,
    /// Placement looks for a hole below this first: above it none as large as `hole_size` is free.
    #[described(skip)]
    pub(super) hole_top: u64,
    /// The largest hole that was passed over above `hole_top`.
    #[described(skip)]
    pub(super) hole_size: u64,
    #[described(skip)]
    pub(super) limits: MmLimits,
}

impl Space {
    const fn new() -> Self {
        Self {
            vmas: Vmas::new(),
            start_brk: 0,
            brk: 0,
            mmap_base: DEFAULT_MMAP_BASE,
            total_vm: 0,
            hiwater_vm: 0,
            data_vm: 0,
            exec_vm: 0,
            stack_vm: 0,
            locked_vm: 0,
            def_flags: VmFlags::empty(),
            hole_top: DEFAULT_MMAP_BASE,
            hole_size: 0,
            limits: MmLimits::DEFAULT,
        }
    }

    /// The space of a child of fork(2). Locks are not inherited (mlock(2)).
    fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            vmas: self.vmas.try_clone()?,
            locked_vm: 0,
            def_flags: VmFlags::empty(),
            start_brk: self.start_brk,
            brk: self.brk,
            mmap_base: self.mmap_base,
            total_vm: self.total_vm,
            hiwater_vm: self.total_vm,
            data_vm: self.data_vm,
            exec_vm: self.exec_vm,
            stack_vm: self.stack_vm,
            hole_top: self.hole_top,
            hole_size: self.hole_size,
            limits: self.limits,
        })
    }

    /// Adds (or takes off, `by` -1) the pages of a range to the counts.
    pub(super) fn account(&mut self, flags: VmFlags, pages: u64, by: i64) {
        let pages = pages.wrapping_mul(by as u64);
        let add = |count: &mut u64| *count = count.wrapping_add(pages);
        add(&mut self.total_vm);
        self.hiwater_vm = self.hiwater_vm.max(self.total_vm);
        if flags.contains(VmFlags::GROWSDOWN) {
            add(&mut self.stack_vm);
        } else if flags & (VmFlags::EXEC | VmFlags::WRITE) == VmFlags::EXEC {
            add(&mut self.exec_vm);
        } else if flags.is_data() {
            add(&mut self.data_vm);
        }
        if flags.contains(VmFlags::LOCKED) {
            add(&mut self.locked_vm);
        }
    }

    /// Gives the ranges at these indices other flags.
    pub(super) fn set_flags(&mut self, range: Range<usize>, new: impl Fn(VmFlags) -> VmFlags) {
        for i in range {
            let (flags, pages) = (self.vmas[i].flags, self.vmas[i].pages());
            self.account(flags, pages, -1);
            self.vmas[i].flags = new(flags);
            self.account(self.vmas[i].flags, pages, 1);
        }
    }
}

/// Below the highest user address, with room for a stack: until exec says better.
const DEFAULT_MMAP_BASE: u64 = TASK_SIZE - (1 << 30);

/// Where exec put things; `prctl(PR_SET_MM)` and /proc read them.
#[repr(C)]
#[derive(Described, Default)]
#[allow(missing_docs, reason = "the names are those of struct mm_struct")]
pub struct MmLayout {
    #[described(as = "hex")]
    pub start_code: AtomicU64,
    #[described(as = "hex")]
    pub end_code: AtomicU64,
    #[described(as = "hex")]
    pub start_data: AtomicU64,
    #[described(as = "hex")]
    pub end_data: AtomicU64,
    #[described(as = "hex")]
    pub start_stack: AtomicU64,
    #[described(as = "hex")]
    pub arg_start: AtomicU64,
    #[described(as = "hex")]
    pub arg_end: AtomicU64,
    #[described(as = "hex")]
    pub env_start: AtomicU64,
    #[described(as = "hex")]
    pub env_end: AtomicU64,
    #[described(as = "hex")]
    pub sigreturn: AtomicU64,
}

/// Who may have what an address space holds (prctl(2), `PR_SET_DUMPABLE`): look into it, and find it in a core.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dumpable {
    /// Nobody but who has the privilege.
    No = 0,
    /// Its user.
    User = 1,
    /// Root alone finds it in cores; nobody else may look into it (proc(5), `suid_dumpable`).
    Root = 2,
}

impl Dumpable {
    /// By its number.
    pub fn from_number(n: u32) -> Option<Self> {
        [Self::No, Self::User, Self::Root].into_iter().find(|d| *d as u32 == n)
    }
}

/// What goes into cores unless a process wants it otherwise (core(5), `coredump_filter`): anonymous memory, private and
/// shared, the headers of ELF files, huge pages.
pub const DEFAULT_DUMP_FILTER: u32 = 0x33;

/// An address space.
#[repr(C)]
#[derive(Described)]
pub struct Mm {
    /// Who uses the memory.
    #[described(as = "uint")]
    users: AtomicU32,
    /// Odd while a call changes ranges or unmaps pages. Single faults do not count: they leave
    /// every entry valid or empty at any moment.
    pub seq: SeqCount,
    #[described(as = "hex")]
    asid: Asid,
    /// Ranges and their numbers.
    pub space: RwLock<Space>,
    /// Tables and resident counts.
    pub tables: SpinLock<Tables>,
    /// Where exec put things.
    pub layout: MmLayout,
    /// What runs here.
    exe: SpinLock<Option<Ref<MappedFile>>>,
    /// What its program registered with membarrier(2).
    #[described(as = "hex")]
    pub membarrier: AtomicU32,
    /// [`Dumpable`].
    dumpable: AtomicU32,
    /// Which mappings go into cores (core(5), `coredump_filter`).
    #[described(as = "hex")]
    pub dump_filter: AtomicU32,
    /// No huge pages are wanted (prctl(2), `PR_SET_THP_DISABLE`). There are none; a program sees what it set.
    pub no_huge_pages: AtomicBool,
    /// The auxiliary vector, for /proc/PID/auxv.
    auxv: SpinLock<Array<u64>>,
    /// Index of the range found last; only a hint.
    #[described(skip)]
    pub(super) last_vma: AtomicU32,
    mms: Link,
}

list_link! {
    /// On the list of all address spaces.
    Mm, mms: MmsLink
}

impl Mm {
    /// An address space without mappings and with one user. A call of its own: it is made on the stack.
    #[inline(never)]
    pub fn new() -> Result<Ref<Self>> {
        Self::publish(Space::new(), Tables::new()?)
    }

    fn publish(space: Space, tables: Tables) -> Result<Ref<Self>> {
        let mm = Ref::try_new(Self {
            users: AtomicU32::new(1),
            seq: SeqCount::new(),
            asid: Asid::new(),
            space: RwLock::new(space),
            tables: SpinLock::new(tables),
            layout: MmLayout::default(),
            exe: SpinLock::new(None),
            membarrier: AtomicU32::new(0),
            dumpable: AtomicU32::new(Dumpable::User as u32),
            dump_filter: AtomicU32::new(DEFAULT_DUMP_FILTER),
            no_huge_pages: AtomicBool::new(false),
            auxv: SpinLock::new(Array::new()),
            last_vma: AtomicU32::new(0),
            mms: Link::new(),
        })?;
        // SAFETY: the list's lock is held; `drop` takes it off before the memory goes.
        unsafe { MMS.lock().push_back(&mm) };
        Ok(mm)
    }

    /// A copy of the address space for fork(2). Tables are shared until one side writes, so the cost
    /// grows with the number of ranges, not with what is resident.
    pub fn fork(&self) -> Result<Ref<Self>> {
        let parent = self.space.write();
        let mut child = parent.try_clone()?;
        let mut special = false;
        for vma in child.vmas.iter_mut() {
            vma.flags -= VmFlags::LOCKED | VmFlags::LOCKONFAULT;
            special |= vma.flags.intersects(VmFlags::DONTCOPY | VmFlags::WIPEONFORK);
        }
        let tables = self.seq.write(|| {
            let forked = self.tables.lock().fork();
            tlb::flush_asid(|| self.asid.get());
            forked
        })?;
        let mm = Self::publish(child, tables)?;
        drop(parent);
        for (to, from) in mm.layout.all().into_iter().zip(self.layout.all()) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        mm.membarrier.store(self.membarrier.load(Ordering::Relaxed), Ordering::Relaxed);
        let exe = self.exe.lock().clone();
        *mm.exe.lock() = exe;
        mm.set_dumpable(self.dumpable());
        mm.dump_filter.store(self.dump_filter.load(Ordering::Relaxed), Ordering::Relaxed);
        mm.no_huge_pages.store(self.no_huge_pages.load(Ordering::Relaxed), Ordering::Relaxed);
        let auxv = self.auxv.lock().try_clone()?;
        *mm.auxv.lock() = auxv;
        if special && let Err(error) = mm.drop_uninherited() {
            mm.put_user();
            return Err(error);
        }
        Ok(mm)
    }

    /// Who may have what it holds.
    pub fn dumpable(&self) -> Dumpable {
        Dumpable::from_number(self.dumpable.load(Ordering::Relaxed)).unwrap_or(Dumpable::No)
    }

    /// True if tasks of the same user may look into it.
    pub fn is_dumpable(&self) -> bool {
        self.dumpable() == Dumpable::User
    }

    /// Says who may have what it holds.
    pub fn set_dumpable(&self, to: Dumpable) {
        self.dumpable.store(to as u32, Ordering::Relaxed);
    }

    /// madvise(2): takes from a new child what `MADV_DONTFORK` and `MADV_WIPEONFORK` keep from it.
    fn drop_uninherited(&self) -> Result<()> {
        let mut space = self.space.write();
        let mut i = 0;
        while i < space.vmas.len() {
            let (start, end, flags) = (space.vmas[i].start, space.vmas[i].end, space.vmas[i].flags);
            if flags.intersects(VmFlags::DONTCOPY | VmFlags::WIPEONFORK) {
                self.tables.lock().unmap(self.asid(), start, end)?;
            }
            if flags.contains(VmFlags::DONTCOPY) {
                // The parent's range holds the file as well, so this is never its last reference.
                space.vmas.remove(i);
                space.account(flags, (end - start) >> PAGE_SHIFT, -1);
            } else {
                i += 1;
            }
        }
        drop(space);
        Ok(())
    }

    /// One more user: a thread, or a child of vfork(2).
    pub fn share(&self) -> Ref<Self> {
        self.users.fetch_add(1, Ordering::Relaxed);
        // SAFETY: an `Mm` only lives in a `Ref`, and the caller has a reference of it.
        unsafe { Ref::from_ref(self) }
    }

    /// Like [`share`](Self::share), unless the last user is gone (`mmget_not_zero`). Balanced by
    /// [`put_user`](Self::put_user); [`Mm::visit`] does both.
    pub fn try_share(&self) -> Option<Ref<Self>> {
        let more = |users: u32| (users > 0).then_some(users + 1);
        self.users.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        // SAFETY: as for `share`.
        Some(unsafe { Ref::from_ref(self) })
    }

    /// Runs `f` while the mappings are kept from going; `None` if they went already.
    pub fn visit<R>(&self, f: impl FnOnce(&Mm) -> R) -> Option<R> {
        let mm = self.try_share()?;
        let result = f(&mm);
        mm.put_user();
        Some(result)
    }

    /// One user less (`mmput`): exec and exit call it for the address space they leave. The last one's
    /// call unmaps everything; sharers of tables make that cheap.
    pub fn put_user(&self) {
        if self.users.fetch_sub(1, Ordering::Release) == 1 {
            core::sync::atomic::fence(Ordering::Acquire);
            self.exit_mmap();
        }
    }

    fn exit_mmap(&self) {
        let mut space = self.space.write();
        let vmas = core::mem::take(&mut space.vmas);
        space.total_vm = 0;
        (space.data_vm, space.exec_vm, space.stack_vm, space.locked_vm) = (0, 0, 0, 0);
        self.seq.write(|| {
            if !asid::release(&self.asid) {
                // A kernel thread on another CPU has these tables under its feet.
                self.tables.lock().invalidate_all();
                tlb::flush_asid(|| self.asid.get());
            }
            // SAFETY: there are no users left, so nobody else looks at the tables; the lock is not
            // held because this may take long.
            unsafe { &mut *self.tables.data_ptr() }.release_all();
        });
        drop(space);
        drop(vmas);
        let exe = self.exe.lock().take();
        drop(exe);
    }

    /// How many use the memory.
    pub fn users(&self) -> u32 {
        self.users.load(Ordering::Relaxed)
    }

    /// Makes this the user space of this CPU. The scheduler calls it, with preemption off, and keeps a
    /// reference until it activates another one.
    #[inline]
    pub fn activate(&self) {
        // SAFETY: the root lives as long as the structure, which the scheduler keeps.
        unsafe { asid::activate((*self.tables.data_ptr()).root, &self.asid) };
    }

    /// The CPUs whose user space this is now, kernel threads that borrow it included.
    pub fn active_cpus(&self) -> u64 {
        asid::active_cpus(&self.asid)
    }

    #[inline]
    pub(super) fn asid(&self) -> &Asid {
        &self.asid
    }

    /// Sets the resource limits that apply from now on.
    pub fn set_limits(&self, limits: MmLimits) {
        self.space.write().limits = limits;
    }

    /// Where new mappings go: below `base`. For exec, before anything is mapped.
    pub fn set_mmap_base(&self, base: u64) {
        let mut space = self.space.write();
        space.mmap_base = base;
        (space.hole_top, space.hole_size) = (base, 0);
    }

    /// The group whose account new pages go on.
    pub fn group(&self) -> Option<Ref<MemGroup>> {
        self.tables.lock().group.clone()
    }

    /// Puts new pages on another group's account; those that are there stay where they are.
    pub fn set_group(&self, group: Option<Ref<MemGroup>>) {
        let old = core::mem::replace(&mut self.tables.lock().group, group);
        drop(old);
    }

    /// True if new pages go on the account of `group`.
    pub fn is_in_group(&self, group: Option<&Ref<MemGroup>>) -> bool {
        match (&self.tables.lock().group, group) {
            (Some(own), Some(group)) => Ref::ptr_eq(own, group),
            (own, group) => own.is_none() && group.is_none(),
        }
    }

    /// Resident pages.
    pub fn rss(&self) -> super::tables::Rss {
        self.tables.lock().rss
    }

    /// The most pages that were resident at once.
    pub fn max_rss(&self) -> usize {
        let tables = self.tables.lock();
        tables.hiwater_rss.max(tables.rss.total()) as usize
    }

    /// How much memory killing its users would free, in pages.
    pub fn oom_badness(&self) -> usize {
        let tables = self.tables.lock();
        tables.rss.total() as usize
    }

    /// Address of the code that signal handlers return to.
    pub fn sigreturn(&self) -> u64 {
        self.layout.sigreturn.load(Ordering::Relaxed)
    }

    /// What runs here, as exec mapped it.
    pub fn exe(&self) -> Option<Ref<MappedFile>> {
        self.exe.lock().clone()
    }

    /// Sets what runs here.
    pub fn set_exe(&self, exe: Option<Ref<MappedFile>>) {
        let old = core::mem::replace(&mut *self.exe.lock(), exe);
        drop(old);
    }

    /// The auxiliary vector that exec passed.
    pub fn auxv(&self) -> Result<Array<u64>> {
        self.auxv.lock().try_clone()
    }

    /// Notes the auxiliary vector.
    pub fn set_auxv(&self, auxv: Array<u64>) {
        let old = core::mem::replace(&mut *self.auxv.lock(), auxv);
        drop(old);
    }
}

impl MmLayout {
    pub(super) fn all(&self) -> [&AtomicU64; 10] {
        [
            &self.start_code,
            &self.end_code,
            &self.start_data,
            &self.end_data,
            &self.start_stack,
            &self.arg_start,
            &self.arg_end,
            &self.env_start,
            &self.env_end,
            &self.sigreturn,
        ]
    }
}

impl Drop for Mm {
    fn drop(&mut self) {
        // SAFETY: the list's lock is held.
        unsafe { MMS.lock().remove(self) };
    }
}

/// Takes the pages `first..=last` of a file off all address spaces that map them; later accesses fault.
/// May sleep.
pub(super) fn unmap_mapping(mapping: &Mapping, first: u64, last: u64) {
    let mut next = {
        let mms = MMS.lock();
        // SAFETY: an `Mm` takes itself off the list, under this lock, before its memory goes.
        mms.iter().find_map(|mm| unsafe { Ref::try_from_ref(mm) })
    };
    while let Some(mm) = next {
        let _ = mm.visit(|mm| mm.unmap_file(mapping, first, last));
        next = {
            let mms = MMS.lock();
            let mut after = mms.next(&mm);
            let mut found = None;
            while let Some(candidate) = after {
                // SAFETY: as above.
                found = unsafe { Ref::try_from_ref(candidate) };
                if found.is_some() {
                    break;
                }
                after = mms.next(candidate);
            }
            found
        };
    }
}

impl Mm {
    fn unmap_file(&self, mapping: &Mapping, first: u64, last: u64) {
        let space = self.space.read();
        for vma in space.vmas.iter() {
            let Some(theirs) = vma.file.as_ref().and_then(|file| file.mapping()) else { continue };
            let vma_last = vma.pgoff.saturating_add(vma.pages() - 1);
            if !core::ptr::eq(theirs, mapping) || vma.pgoff > last || vma_last < first {
                continue;
            }
            let start = vma.start + ((first.max(vma.pgoff) - vma.pgoff) << PAGE_SHIFT);
            let end = vma.start + ((last.min(vma_last) - vma.pgoff + 1) << PAGE_SHIFT);
            // Without memory to unshare a table the pages stay mapped: their frames are this
            // mapping's no more, so nobody else is harmed.
            let mut tables = self.tables.lock();
            let _ = self.seq.write(|| tables.unmap(self.asid(), start, end));
        }
    }

    /// Copies between this address space, which need not be the current one, and kernel memory: for
    /// ptrace(2), /proc/PID/mem, process_vm_readv(2), exec's stack. Returns how many bytes could be copied.
    pub fn access_remote(&self, addr: u64, buf: RemoteBuf, rights: RemoteRights) -> usize {
        super::fault::access_remote(self, addr, buf, rights)
    }

    /// Reads up to `buf.len()` bytes, as a debugger.
    pub fn read_remote(&self, addr: u64, buf: &mut [u8]) -> usize {
        self.access_remote(addr, RemoteBuf::Read(buf), RemoteRights::Forced)
    }

    /// Writes up to `buf.len()` bytes, as a debugger.
    pub fn write_remote(&self, addr: u64, buf: &[u8]) -> usize {
        self.access_remote(addr, RemoteBuf::Write(buf), RemoteRights::Forced)
    }

    /// Size of the address space in bytes.
    pub fn total_vm_bytes(&self) -> u64 {
        self.space.read().total_vm * PAGE_SIZE as u64
    }

    /// What a shared futex at `addr` is known by: the page of the file behind it, or `None` if the
    /// memory is private to this address space.
    pub fn shared_key(&self, addr: u64) -> Result<Option<(u64, u64)>> {
        let space = self.space.read();
        let vma = vma::find_containing(&space.vmas, addr).ok_or(Errno::EFAULT)?;
        Ok(match &vma.file {
            Some(file) if !vma.is_private() => {
                let object = match file.mapping() {
                    Some(mapping) => core::ptr::from_ref(mapping) as u64,
                    None => alloc::sync::Arc::as_ptr(file.backing()).cast::<u8>() as u64,
                };
                Some((object, vma.page_index(addr)))
            }
            _ => None,
        })
    }
}

/// Kernel memory on the other side of [`Mm::access_remote`].
pub enum RemoteBuf<'a> {
    /// To be filled.
    Read(&'a mut [u8]),
    /// To be copied from.
    Write(&'a [u8]),
}

/// What [`Mm::access_remote`] may touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemoteRights {
    /// What the program itself may: process_vm_readv(2).
    Own,
    /// What a debugger must: ranges that the program may not read or write at the moment too. A store there never
    /// reaches a page that others share.
    Forced,
}

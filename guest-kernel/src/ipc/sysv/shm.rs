//! System V shared memory (shmget(2)): segments of pages that are mapped like files.
//!
//! A segment's pages are a [`Mapping`], as those of shared anonymous memory are. Each range of an address
//! space that maps it counts as an attachment, as in Linux: fork(2) and splitting a range add some. A
//! segment that was removed stays until the last attachment ends; so does one that nobody is attached to,
//! with `shm_rmid_forced`, only until its maker ends.

use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::abi::{
    SHM_DEST, SHM_EXEC, SHM_HUGETLB, SHM_LOCKED, SHM_NORESERVE, SHM_RDONLY, SHM_REMAP, SHM_RND,
    ShmInfo,
};
use super::perm::{self, NewOwner, Perm};
use super::table::{Id, Object, Table};
use super::{Caller, now};
use crate::addr::{PAGE_MASK, PAGE_SHIFT, PAGE_SIZE};
use crate::errno::{Errno, Result};
use crate::ipc::hooks;
use crate::kref::Ref;
use crate::mm::{Backing, MappedFile, Mapping, Mm, MmapRequest, PageKind, VmFlags};
use crate::ns::{Cap, Pid};
use crate::sync::SpinLock;
use crate::uapi;

/// The segments of a namespace.
pub struct Segments {
    /// By number and key.
    pub table: Table<Segment>,
    /// Pages of all segments.
    pages: AtomicU64,
    /// `shm_rmid_forced`: a segment goes when nobody is attached and its maker has ended.
    rmid_forced: AtomicBool,
}

/// What changes of a segment.
#[derive(Clone)]
#[allow(missing_docs, reason = "the names are shmctl(2)'s")]
pub struct State {
    pub perm: Perm,
    pub nattch: u64,
    pub atime: i64,
    pub dtime: i64,
    pub ctime: i64,
    pub cpid: Ref<Pid>,
    pub lpid: Option<Ref<Pid>>,
    /// The thread that made it, while it is known to live.
    maker: Option<Ref<Pid>>,
    /// It is in no table any more.
    gone: bool,
}

/// A segment.
pub struct Segment {
    id: Id,
    /// Bytes, as asked for.
    pub size: u64,
    mapping: Mapping,
    segments: Ref<Segments>,
    state: SpinLock<State>,
}

impl Object for Segment {
    fn id(&self) -> Id {
        self.id
    }
}

/// A segment as address spaces map it.
struct Attached(Ref<Segment>);

impl Backing for Attached {
    fn mapping(&self) -> Option<&Mapping> {
        Some(&self.0.mapping)
    }

    fn counts_ranges(&self) -> bool {
        true
    }

    fn opened(&self) {
        self.0.opened();
    }

    fn closed(&self) {
        self.0.closed();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE as u64)
}

impl Segments {
    /// No segments yet.
    pub fn new() -> Result<Ref<Self>> {
        Ref::try_new(Self {
            table: Table::new(),
            pages: AtomicU64::new(0),
            rmid_forced: AtomicBool::new(false),
        })
    }

    /// The namespace ends. Segments that are still attached stay until that ends.
    pub fn close(&self) {
        self.table.iter().for_each(|segment| segment.state.lock().gone = true);
        self.table.clear();
    }

    /// `SHM_INFO`.
    pub fn info(&self) -> ShmInfo {
        ShmInfo {
            used_ids: self.table.len() as u32,
            shm_tot: self.pages.load(Ordering::Relaxed),
            shm_rss: self.table.iter().map(|segment| segment.resident_pages()).sum(),
            ..ShmInfo::default()
        }
    }

    /// `shm_rmid_forced`.
    pub fn rmid_forced(&self) -> bool {
        self.rmid_forced.load(Ordering::Relaxed)
    }

    /// Sets `shm_rmid_forced`: segments that nobody is attached to and whose maker, says `lives`, has ended
    /// go at once.
    pub fn set_rmid_forced(&self, on: bool, lives: impl Fn(&Pid) -> bool) {
        self.rmid_forced.store(on, Ordering::Relaxed);
        if on {
            for segment in self.table.iter() {
                let mut state = segment.state.lock();
                if state.maker.as_ref().is_some_and(|maker| !lives(maker)) {
                    state.maker = None;
                }
                let orphaned = state.maker.is_none();
                drop(state);
                if orphaned {
                    segment.destroy_if_unused();
                }
            }
        }
    }

    /// A thread ends: with `shm_rmid_forced`, so do the segments that it made and nobody is attached to.
    pub fn thread_exits(&self, thread: &Ref<Pid>) {
        if !self.rmid_forced() {
            return;
        }
        for segment in self.table.iter() {
            let mut state = segment.state.lock();
            if state.maker.as_ref().is_some_and(|maker| Ref::ptr_eq(maker, thread)) {
                state.maker = None;
                drop(state);
                segment.destroy_if_unused();
            }
        }
    }
}

/// shmget(2); `thread` is the calling one.
pub fn get(caller: &Caller<'_>, thread: Ref<Pid>, key: i32, size: u64, flags: u32) -> Result<i32> {
    let segments = &caller.ns.shm;
    let limits = &caller.ns.limits;
    let check = |segment: &Segment| {
        if segment.size < size {
            return Err(Errno::EINVAL);
        }
        segment.state.lock().perm.check(caller, flags)
    };
    let make = |id| {
        if size == 0 || size > limits.shmmax.load(Ordering::Relaxed) {
            return Err(Errno::EINVAL);
        }
        let wanted = pages(size);
        let total = segments.pages.load(Ordering::Relaxed).saturating_add(wanted);
        if total > limits.shmall.load(Ordering::Relaxed) {
            return Err(Errno::ENOSPC);
        }
        if flags & SHM_HUGETLB != 0 {
            // There are no huge pages set aside, as with vm.nr_hugepages 0.
            return Err(Errno::ENOMEM);
        }
        if size > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        if flags & SHM_NORESERVE == 0 && wanted > crate::mm::total_pages() as u64 {
            return Err(Errno::ENOMEM);
        }
        let mapping = Mapping::new(PageKind::Shmem);
        mapping.truncate(size);
        let state = State {
            perm: Perm::new(caller, key, id, flags),
            nattch: 0,
            atime: 0,
            dtime: 0,
            ctime: now(),
            cpid: caller.pid.clone(),
            lpid: None,
            maker: Some(thread),
            gone: false,
        };
        let state = SpinLock::new(state);
        segments.pages.fetch_add(wanted, Ordering::Relaxed);
        Ref::try_new(Segment { id, size, mapping, segments: segments.clone(), state }).inspect_err(
            |_| {
                segments.pages.fetch_sub(wanted, Ordering::Relaxed);
            },
        )
    };
    segments.table.get_or_make(key, flags, limits.max_segments(), check, make)
}

/// shmat(2): maps the segment into `mm`, which is the caller's; returns the address.
pub fn attach(caller: &Caller<'_>, mm: &Mm, id: i32, addr: u64, flags: u32) -> Result<u64> {
    let mut addr = addr;
    let remap = flags & SHM_REMAP != 0;
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    // SHMLBA is the page size.
    if addr & PAGE_MASK as u64 != 0 {
        if flags & SHM_RND == 0 {
            return Err(Errno::EINVAL);
        }
        addr &= !(PAGE_MASK as u64);
        if addr == 0 && remap {
            return Err(Errno::EINVAL);
        }
    } else if addr == 0 && remap {
        return Err(Errno::EINVAL);
    }
    let (mut prot, mut wanted) = (uapi::PROT_READ, perm::READ);
    let mut may = VmFlags::MAY;
    if flags & SHM_RDONLY == 0 {
        prot |= uapi::PROT_WRITE;
        wanted |= perm::WRITE;
    } else {
        may.remove(VmFlags::MAYWRITE);
    }
    if flags & SHM_EXEC != 0 {
        prot |= uapi::PROT_EXEC;
        wanted |= perm::EXEC;
    }
    let segment = caller.ns.shm.table.get(id)?;
    {
        let state = segment.state.lock();
        state.perm.check(caller, wanted)?;
        if state.gone {
            return Err(Errno::EIDRM);
        }
    }
    if addr != 0 && !remap && addr.checked_add(segment.size).is_none() {
        return Err(Errno::EINVAL);
    }
    let file = Segment::mapped_file(&segment)?;
    // It must not go between here and the first range.
    segment.state.lock().nattch += 1;
    let place = match (addr, remap) {
        (0, _) => 0,
        (_, true) => uapi::MAP_FIXED,
        (_, false) => uapi::MAP_FIXED_NOREPLACE,
    };
    let mapped = mm.mmap(MmapRequest {
        addr,
        len: segment.size,
        prot,
        flags: uapi::MAP_SHARED | place,
        file: Some(file),
        pgoff: 0,
        may,
    });
    segment.put();
    mapped.map_err(|error| if error == Errno::EEXIST { Errno::EINVAL } else { error })
}

/// shmdt(2).
pub fn detach(mm: &Mm, addr: u64) -> Result<()> {
    mm.unmap_object(addr, |file| {
        let attached = file.backing().as_any().downcast_ref::<Attached>()?;
        Some(pages(attached.0.size) << PAGE_SHIFT)
    })
}

impl Segment {
    /// A copy of what changes.
    pub fn state(&self) -> State {
        self.state.lock().clone()
    }

    /// Pages in memory.
    pub fn resident_pages(&self) -> u64 {
        self.mapping.resident_pages()
    }

    /// The whole number.
    pub fn number(&self) -> i32 {
        self.id.0
    }

    /// `EACCES` unless the caller may read it.
    pub fn check_read(&self, caller: &Caller<'_>) -> Result<()> {
        self.state.lock().perm.check(caller, perm::READ)
    }

    fn mapped_file(this: &Ref<Self>) -> Result<Ref<MappedFile>> {
        // The device of the kernel's own tmpfs, and the number as inode (proc(5), /proc/PID/maps).
        const DEV: u64 = 1;
        let key = this.state.lock().perm.key;
        let mut name = *b"/SYSV00000000 (deleted)";
        for (i, digit) in name[5..13].iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(key as u32 >> (28 - 4 * i)) as usize & 0xf];
        }
        let backing = crate::mm::try_arc(Attached(this.clone()))?;
        MappedFile::new(backing as Arc<dyn Backing>, DEV, this.id.0 as u64, &name)
    }

    fn opened(&self) {
        let pid = hooks::process();
        let mut state = self.state.lock();
        state.nattch += 1;
        state.atime = now();
        let old = core::mem::replace(&mut state.lpid, pid);
        drop(state);
        drop(old);
    }

    fn closed(&self) {
        let pid = hooks::process();
        let mut state = self.state.lock();
        state.dtime = now();
        let old = core::mem::replace(&mut state.lpid, pid);
        drop(state);
        drop(old);
        self.put();
    }

    /// One attachment less.
    fn put(&self) {
        let mut state = self.state.lock();
        state.nattch = state.nattch.saturating_sub(1);
        let last = state.nattch == 0;
        let goes = state.perm.mode & SHM_DEST != 0 || self.segments.rmid_forced();
        drop(state);
        if last && goes {
            self.destroy_if_unused();
        }
    }

    fn destroy_if_unused(&self) {
        let key = {
            let mut state = self.state.lock();
            if state.nattch > 0 || state.gone {
                return;
            }
            state.gone = true;
            state.perm.key
        };
        self.segments.table.remove(self, key);
    }

    /// `IPC_RMID`.
    pub fn remove(&self, caller: &Caller<'_>) -> Result<()> {
        let mut state = self.state.lock();
        state.perm.check_control(caller)?;
        if state.gone {
            return Err(Errno::EIDRM);
        }
        let attached = state.nattch > 0;
        let key = state.perm.key;
        if attached {
            state.perm.mode |= SHM_DEST;
            state.perm.take_key();
        }
        drop(state);
        if attached {
            self.segments.table.forget_key(self, key);
            // The last attachment may have ended meanwhile.
            self.destroy_if_unused();
        } else {
            self.destroy_if_unused();
        }
        Ok(())
    }

    /// `IPC_SET`.
    pub fn set(&self, caller: &Caller<'_>, new: &NewOwner) -> Result<()> {
        let mut state = self.state.lock();
        state.perm.check_control(caller)?;
        state.perm.set(new);
        state.ctime = now();
        Ok(())
    }

    /// `SHM_LOCK` and `SHM_UNLOCK`. Nothing is ever swapped, so only the right and the mode matter.
    pub fn set_locked(&self, caller: &Caller<'_>, on: bool, memlock: u64) -> Result<()> {
        let mut state = self.state.lock();
        if !caller.ns.capable(caller.cred, Cap::IpcLock) {
            if !state.perm.is_owner(caller) || on && memlock == 0 {
                return Err(Errno::EPERM);
            }
            if on && self.size > memlock {
                return Err(Errno::ENOMEM);
            }
        }
        if state.gone {
            return Err(Errno::EIDRM);
        }
        if on {
            state.perm.mode |= SHM_LOCKED;
        } else {
            state.perm.mode &= !SHM_LOCKED;
        }
        Ok(())
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.segments.pages.fetch_sub(pages(self.size), Ordering::Relaxed);
    }
}

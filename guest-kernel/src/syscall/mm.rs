//! Calls about memory: mmap and its kin, brk, madvise, mincore, locks.

use super::{Args, SysResult};
use crate::addr::{PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, TASK_SIZE};
use crate::errno::{Errno, Result};
use crate::fs::dev::mem::is_zero;
use crate::fs::file::{FMode, File};
use crate::fs::mount::MountFlags;
use crate::fs::pagecache::{WRITE_SEALS, mapped_file};
use crate::kref::Ref;
use crate::mm::mmap::shared_memory;
use crate::mm::{MappedFile, MmapRequest, VmFlags, copy_out};
use crate::task::{self, current_mm};
use crate::uapi;

/// Flags that `MAP_SHARED_VALIDATE` accepts.
const MAP_KNOWN: u32 = uapi::MAP_TYPE
    | uapi::MAP_FIXED
    | uapi::MAP_FIXED_NOREPLACE
    | uapi::MAP_ANONYMOUS
    | uapi::MAP_GROWSDOWN
    | uapi::MAP_DENYWRITE
    | uapi::MAP_EXECUTABLE
    | uapi::MAP_LOCKED
    | uapi::MAP_NORESERVE
    | uapi::MAP_POPULATE
    | uapi::MAP_NONBLOCK
    | uapi::MAP_STACK
    | uapi::MAP_HUGETLB;

/// brk(2): the raw call returns the end of the heap, changed or not.
pub fn sys_brk(a: &mut Args) -> SysResult {
    Ok(current_mm()?.set_brk(a.u64(0)) as usize)
}

/// mmap(2).
pub fn sys_mmap(a: &mut Args) -> SysResult {
    let (addr, len, prot, flags) = (a.u64(0), a.u64(1), a.u32(2), a.u32(3));
    let offset = a.u64(5);
    if offset & PAGE_MASK as u64 != 0 {
        return Err(Errno::EINVAL);
    }
    let (pgoff, may) = (offset >> PAGE_SHIFT, VmFlags::MAY);
    let mut request = MmapRequest { addr, len, prot, flags, file: None, pgoff, may };
    let huge = flags & uapi::MAP_HUGETLB != 0;
    let mm = current_mm()?;
    if flags & uapi::MAP_ANONYMOUS == 0 {
        let file = task::current().files().get(a.fd(4))?;
        if huge {
            return Err(Errno::EINVAL);
        }
        mm.may_mmap(&request)?;
        let (file, may) = file_to_map(&file, &request)?;
        (request.file, request.may) = (Some(file), may);
    } else if huge {
        // There are no huge pages set aside, as with vm.nr_hugepages 0.
        return Err(Errno::ENOMEM);
    }
    Ok(mm.mmap(request)? as usize)
}

/// What an open file offers a mapping, and what mprotect(2) may grant it later (mmap(2), ERRORS).
fn file_to_map(file: &Ref<File>, request: &MmapRequest) -> Result<(Ref<MappedFile>, VmFlags)> {
    let MmapRequest { len, prot, flags, pgoff, .. } = *request;
    // The last byte has an offset too. `len` is small enough to be rounded.
    let paged = matches!(file.inode.file_type(), uapi::S_IFREG | uapi::S_IFBLK);
    let size = if paged { i64::MAX as u64 } else { u64::MAX };
    if pgoff > (size - len.next_multiple_of(PAGE_SIZE as u64)) >> PAGE_SHIFT {
        return Err(Errno::EOVERFLOW);
    }
    let fmode = file.fmode();
    let shared = match flags & uapi::MAP_TYPE {
        uapi::MAP_PRIVATE => false,
        uapi::MAP_SHARED => true,
        uapi::MAP_SHARED_VALIDATE if flags & !MAP_KNOWN == 0 => true,
        uapi::MAP_SHARED_VALIDATE => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    };
    let mut may = VmFlags::MAY;
    if shared && !fmode.contains(FMode::WRITE) {
        if prot & uapi::PROT_WRITE != 0 {
            return Err(Errno::EACCES);
        }
        may.remove(VmFlags::MAYWRITE);
    }
    if !fmode.contains(FMode::READ) {
        return Err(Errno::EACCES);
    }
    let sealed = shared && file.inode.ops().seals() & WRITE_SEALS != 0;
    if sealed {
        may.remove(VmFlags::MAYWRITE);
    }
    let mnt = &file.path.mnt;
    // memfds may be executed although no program can reach their mount.
    if mnt.flags().contains(MountFlags::NOEXEC) && !mnt.is_pseudo() {
        if prot & uapi::PROT_EXEC != 0 {
            return Err(Errno::EPERM);
        }
        may.remove(VmFlags::MAYEXEC);
    }
    let writable = shared && may.contains(VmFlags::MAYWRITE);
    let mapped = if writable && is_zero(file) {
        shared_memory(len.next_multiple_of(PAGE_SIZE as u64))?
    } else {
        mapped_file(file, writable)?
    };
    if flags & uapi::MAP_GROWSDOWN != 0 {
        return Err(Errno::EINVAL);
    }
    if sealed && prot & uapi::PROT_WRITE != 0 {
        return Err(Errno::EPERM);
    }
    Ok((mapped, may))
}

/// munmap(2).
pub fn sys_munmap(a: &mut Args) -> SysResult {
    current_mm()?.munmap(crate::arch::untagged(a.u64(0)), a.u64(1))?;
    Ok(0)
}

/// mprotect(2).
pub fn sys_mprotect(a: &mut Args) -> SysResult {
    current_mm()?.mprotect(crate::arch::untagged(a.u64(0)), a.u64(1), a.u32(2))?;
    Ok(0)
}

/// mremap(2).
pub fn sys_mremap(a: &mut Args) -> SysResult {
    let mm = current_mm()?;
    let flags = u32::try_from(a.u64(3)).map_err(|_| Errno::EINVAL)?;
    Ok(mm.mremap(a.u64(0), a.u64(1), a.u64(2), flags, a.u64(4))? as usize)
}

/// remap_file_pages(2). Of its flags only MAP_NONBLOCK counts.
pub fn sys_remap_file_pages(a: &mut Args) -> SysResult {
    if a.u64(2) != 0 {
        return Err(Errno::EINVAL);
    }
    let populate = a.u64(4) & u64::from(uapi::MAP_NONBLOCK) == 0;
    current_mm()?.remap_file_pages(a.u64(0), a.u64(1), a.u64(3), populate)?;
    Ok(0)
}

/// madvise(2).
pub fn sys_madvise(a: &mut Args) -> SysResult {
    current_mm()?.madvise(crate::arch::untagged(a.u64(0)), a.u64(1), a.u32(2))?;
    Ok(0)
}

/// mincore(2).
pub fn sys_mincore(a: &mut Args) -> SysResult {
    /// Pages asked for at a time.
    const CHUNK: u64 = 4096;
    let (start, len, mut to) = (crate::arch::untagged(a.u64(0)), a.u64(1), a.u64(2));
    if start & PAGE_MASK as u64 != 0 {
        return Err(Errno::EINVAL);
    }
    let end = start.checked_add(len).filter(|end| *end <= TASK_SIZE).ok_or(Errno::ENOMEM)?;
    let mm = current_mm()?;
    let mut at = start;
    while at < end {
        let pages = mm.mincore(at, (end - at).min(CHUNK * PAGE_SIZE as u64))?;
        copy_out(to, &pages)?;
        to += pages.len() as u64;
        at = at.saturating_add((pages.len() * PAGE_SIZE) as u64);
    }
    Ok(0)
}

/// msync(2).
pub fn sys_msync(a: &mut Args) -> SysResult {
    current_mm()?.msync(crate::arch::untagged(a.u64(0)), a.u64(1), a.u32(2))?;
    Ok(0)
}

/// mlock(2).
pub fn sys_mlock(a: &mut Args) -> SysResult {
    current_mm()?.mlock(crate::arch::untagged(a.u64(0)), a.u64(1), false)?;
    Ok(0)
}

/// mlock2(2).
pub fn sys_mlock2(a: &mut Args) -> SysResult {
    let flags = a.u32(2);
    if flags & !uapi::MLOCK_ONFAULT != 0 {
        return Err(Errno::EINVAL);
    }
    let on_fault = flags & uapi::MLOCK_ONFAULT != 0;
    current_mm()?.mlock(crate::arch::untagged(a.u64(0)), a.u64(1), on_fault)?;
    Ok(0)
}

/// munlock(2).
pub fn sys_munlock(a: &mut Args) -> SysResult {
    current_mm()?.munlock(crate::arch::untagged(a.u64(0)), a.u64(1))?;
    Ok(0)
}

/// mlockall(2).
pub fn sys_mlockall(a: &mut Args) -> SysResult {
    current_mm()?.mlockall(a.u32(0))?;
    Ok(0)
}

/// munlockall(2).
pub fn sys_munlockall(_: &mut Args) -> SysResult {
    current_mm()?.munlockall()?;
    Ok(0)
}

//! The address space of a core: its ranges, then what was in them.
//!
//! Pages of zeros of anonymous memory are left for the first access to make. A page of a mapped file is put
//! back only if it differs from the file's, so that what was the file's own page is shared with it again.

use super::objects::Objects;
use super::plan::{Plan, VmaPlan};
use super::{Failure, Source, zeroed};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE};
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::fs::Caller;
use crate::kref::Ref;
use crate::mm::{Mm, VmFlags};
use crate::process::cgroup;

/// How much of the file is read at a time.
const CHUNK: usize = 16 * PAGE_SIZE;

/// Builds the address space.
#[inline(never)]
pub(super) fn build(
    caller: Caller<'_>,
    source: &Source,
    plan: &Plan<'_>,
    objects: &mut Objects,
) -> Result<Ref<Mm>, Failure> {
    let failed = |errno| Failure::new(plan, errno, format_args!("its memory: {errno}"));
    let mm = Mm::new().map_err(failed)?;
    cgroup::charge_new(&mm);
    match fill(&mm, caller, source, plan, objects) {
        Ok(()) => Ok(mm),
        Err(failure) => {
            mm.put_user();
            Err(failure)
        }
    }
}

fn fill(
    mm: &Mm,
    caller: Caller<'_>,
    source: &Source,
    plan: &Plan<'_>,
    objects: &mut Objects,
) -> Result<(), Failure> {
    let failed = |errno| Failure::new(plan, errno, format_args!("its memory: {errno}"));
    for vma in &plan.vmas {
        let file = objects.mapped(caller, plan, vma)?;
        let range = vma.record.start..vma.record.end;
        let result = mm.restore_range(range, flags_to_fill(vma), vma.record.pgoff, file);
        result.map_err(|errno| {
            let start = vma.record.start;
            Failure::new(plan, errno, format_args!("its memory at {start:#x}: {errno}"))
        })?;
    }
    let (mut page, mut chunk) =
        (zeroed(PAGE_SIZE).map_err(failed)?, zeroed(CHUNK).map_err(failed)?);
    for segment in &plan.segments {
        let mut done = 0;
        while done < segment.len {
            let n = (segment.len - done).min(CHUNK as u64) as usize;
            let chunk = &mut chunk[..n];
            source.read(segment.offset + done, chunk).map_err(failed)?;
            for (i, content) in chunk.chunks_exact(PAGE_SIZE).enumerate() {
                let addr = segment.start + done + ((i as u64) << PAGE_SHIFT);
                put(mm, plan, objects, addr, content, &mut page).map_err(|errno| {
                    Failure::new(plan, errno, format_args!("its memory at {addr:#x}: {errno}"))
                })?;
            }
            done += n as u64;
        }
    }
    for vma in plan.vmas.iter().filter(|vma| flags_to_fill(vma) != vma.flags) {
        let (start, len) = (vma.record.start, vma.record.end - vma.record.start);
        let prot = (vma.flags & VmFlags::ACCESS).bits() as u32;
        mm.mprotect(start, len, prot).map_err(failed)?;
    }
    mm.restore_places(&plan.places()).map_err(failed)?;
    let mut auxv = Array::new();
    for word in &plan.auxv {
        auxv.try_push(*word).map_err(failed)?;
    }
    mm.set_auxv(auxv);
    if !plan.exe.is_empty() {
        mm.set_exe(Some(objects.file(caller, plan, plan.exe, false, None)?));
    }
    Ok(())
}

/// The flags of a range while it is filled: shared memory that the process may not write now, but may
/// have written before.
fn flags_to_fill(vma: &VmaPlan<'_>) -> VmFlags {
    if vma.flags.contains(VmFlags::SHARED | VmFlags::MAYWRITE) {
        vma.flags | VmFlags::WRITE
    } else {
        vma.flags
    }
}

fn is_zero(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}

/// Puts a page back.
fn put(
    mm: &Mm,
    plan: &Plan<'_>,
    objects: &mut Objects,
    addr: u64,
    content: &[u8],
    aside: &mut [u8],
) -> Result<()> {
    let at = plan.vmas.partition_point(|vma| vma.record.end <= addr);
    let vma = plan.vmas.get(at).filter(|vma| vma.record.start <= addr).ok_or(Errno::EFAULT)?;
    let shared_frame = plan.shared_frame(addr).filter(|_| !vma.flags.contains(VmFlags::SHARED));
    if vma.path.is_empty() && is_zero(content) {
        return Ok(());
    }
    if let Some(page) = shared_frame.and_then(|frame| objects.pages.get(frame)) {
        return mm.borrow_page(addr, page.clone());
    }
    if !vma.path.is_empty()
        && mm.read_remote(addr, aside) == content.len()
        && aside[..content.len()] == *content
    {
        return Ok(());
    }
    if mm.write_remote(addr, content) != content.len() {
        return Err(Errno::EFAULT);
    }
    if let Some(frame) = shared_frame
        && let Some(page) = mm.lend_page(addr)?
    {
        objects.pages.insert(frame, page)?;
    }
    Ok(())
}

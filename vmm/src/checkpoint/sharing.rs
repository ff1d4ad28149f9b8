//! Pages that a process has in common with others: equal frame numbers in the cores of one checkpoint
//! are one page, to be copied on a write or seen by all.

use belljar_abi::corenote::{self, Kind, Writer};

use super::Result;
use super::memory::{VM_SHARED, Vma};
use super::state::table;
use crate::elfcore::Note;
use crate::introspect::{Frames, Kernel, Object};
use crate::target::PAGE_SIZE;
use crate::target::walk::{Meaning, walk};

/// The note about pages that somebody else holds too. The kernel shares tables after a fork, so a page
/// is shared if its own frame or any table on the way to it has more than one holder. Pages of files
/// are the files' and are not listed.
pub(super) fn note(kernel: &Kernel<'_>, mm: &Object<'_>, vmas: &[Vma]) -> Result<Note> {
    let ram = kernel.space().ram();
    let pgd = mm.uint("tables.root")?;
    let frames = Frames::new(kernel)?;
    let mut runs: Vec<corenote::Frames> = vec![];
    for vma in vmas {
        let cow = u64::from(vma.flags & VM_SHARED == 0);
        for run in &vma.pages {
            for page in 0..run.len / PAGE_SIZE {
                let (virt, phys) = (run.virt + page * PAGE_SIZE, run.phys + page * PAGE_SIZE);
                let Some(frame) = frames.get(phys) else { continue };
                // A page of a file under a private mapping is still the file's.
                let is_own = match frame.kind.as_deref() {
                    Some("Anon") => true,
                    Some("Shmem") => vma.flags & VM_SHARED != 0,
                    _ => false,
                };
                if !is_own {
                    continue;
                }
                let by_table = || {
                    walk(ram, pgd, virt).is_ok_and(|walk| {
                        walk.steps.iter().any(|step| match step.descriptor.meaning() {
                            Meaning::Table(next) => {
                                frames.get(next).is_some_and(|table| table.refcount > 1)
                            }
                            _ => false,
                        })
                    })
                };
                if frame.refcount <= 1 && !by_table() {
                    continue;
                }
                let number = phys / PAGE_SIZE;
                match runs.last_mut() {
                    Some(last)
                        if last.start + last.pages * PAGE_SIZE == virt
                            && last.frame + last.pages == number
                            && last.cow == cow =>
                    {
                        last.pages += 1;
                    }
                    _ => runs.push(corenote::Frames { start: virt, frame: number, pages: 1, cow }),
                }
            }
        }
    }
    let mut note: Writer<corenote::Frames> = Writer::default();
    runs.into_iter().for_each(|run| note.push(run));
    Ok(table(Kind::Frames, &note))
}

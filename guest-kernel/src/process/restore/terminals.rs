//! Terminals: pseudoterminals, which are made before anything is opened, and who is controlled by which.

use alloc::sync::Arc;

use super::Failure;
use super::numbers::Numbers;
use super::objects::Map;
use super::plan::{FilePlan, Plan};
use crate::drivers::tty::{Tty, resume};
use crate::errno::{Errno, Result};
use crate::fs::open::OpenHow;
use crate::fs::{self, Caller, File, OpenFlags, Path};
use crate::kref::Ref;
use crate::ns::PidType;
use crate::task::Task;
use belljar_abi::carried::Carried;

/// The pseudoterminals of a checkpoint, by what they were called in it.
#[derive(Default)]
pub(super) struct Ptys(Map<Entry>);

struct Entry {
    master: Ref<File>,
    /// Session and foreground process group, by number; 0 for none.
    session: u64,
    pgrp: u64,
}

fn place(caller: Caller<'_>, path: &[u8]) -> Result<Path> {
    let how = OpenHow { flags: OpenFlags::PATH, ..OpenHow::default() };
    Ok(fs::open::open(caller, None, path, how)?.path.clone())
}

impl Ptys {
    /// Makes the pairs whose masters the processes have open.
    #[inline(never)]
    pub(super) fn build(&mut self, caller: Caller<'_>, plans: &[Plan<'_>]) -> Result<(), Failure> {
        for plan in plans {
            for file in plan.files.iter().filter(|f| f.record.kind == Carried::PtyMaster as u64) {
                self.make(caller, plan, file).map_err(|errno| {
                    let index = plan.pty(file.record.object).map_or(0, |pty| pty.former.index);
                    let what = format_args!("its pseudoterminal number {index}: {errno}");
                    Failure::new(plan, errno, what)
                })?;
            }
        }
        Ok(())
    }

    fn make(&mut self, caller: Caller<'_>, plan: &Plan<'_>, file: &FilePlan<'_>) -> Result<()> {
        let id = file.record.object;
        if self.0.get(id).is_some() {
            return Ok(());
        }
        let pty = plan.pty(id).ok_or(Errno::EBADF)?;
        let flags = OpenFlags::from_bits_truncate(file.record.flags as u32);
        let master = resume::open_master(place(caller, file.path)?, flags, &pty.former)?;
        let (session, pgrp) = (pty.record.session, pty.record.pgrp);
        self.0.insert(id, Entry { master, session, pgrp })
    }

    /// The master of the pair `id`.
    pub(super) fn master(&self, id: u64) -> Option<&Ref<File>> {
        self.0.get(id).map(|entry| &entry.master)
    }

    /// Opens the terminal side of the pair `file` belongs to.
    pub(super) fn open(&self, caller: Caller<'_>, file: &FilePlan<'_>) -> Result<Ref<File>> {
        let master = self.master(file.record.object).ok_or(Errno::EIO)?;
        let flags = OpenFlags::from_bits_truncate(file.record.flags as u32);
        resume::open_terminal(master, place(caller, file.path)?, flags, file.record.value != 0)
    }

    /// The pseudoterminal that controls a process; `None` if another terminal does, or none.
    fn controlling(&self, plan: &Plan<'_>) -> Option<&Arc<Tty>> {
        self.master(plan.terminal.as_ref()?.record.pty).and_then(|file| resume::terminal_of(file))
    }

    /// Gives a process that is about to go on the terminal that controls it. If it `becomes` the caller, that one had
    /// another perhaps.
    pub(super) fn control(&self, plan: &Plan<'_>, leader: &Task, becomes: bool) {
        let Some(tty) = self.controlling(plan) else { return };
        let old = leader.signal.tty.replace(Some(tty.clone()));
        if becomes && let (Some(old), Some(sid)) = (old, leader.signal.pid(PidType::Sid)) {
            old.part_from(&sid);
        }
    }

    /// The terminals are as the processes had left theirs: pseudoterminals with who uses them, and that of the
    /// machine, if it controls the `root` process.
    pub(super) fn settle(&self, root: &Plan<'_>, leader: &Task, numbers: &Numbers) {
        for (_, entry) in self.0.iter() {
            if let Some(tty) = resume::terminal_of(&entry.master) {
                tty.resume_job(numbers.get(entry.session), numbers.get(entry.pgrp));
            }
        }
        let (Some(plan), Some(tty)) = (&root.terminal, leader.signal.tty.get()) else { return };
        if self.controlling(root).is_none() {
            let session = leader.signal.pid(PidType::Sid);
            tty.restore(plan.termios, session.as_ref(), numbers.get(plan.record.pgrp));
        }
    }
}

//! Terminals: pseudoterminals, which are made before anything is opened, and who is controlled by which.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::Failure;
use super::objects::Map;
use super::plan::{FilePlan, Plan};
use super::tasks::Made;
use crate::drivers::tty::{Tty, resume};
use crate::errno::{Errno, Result};
use crate::fs::open::OpenHow;
use crate::fs::{self, Caller, File, OpenFlags, Path};
use crate::kref::Ref;
use crate::ns::{Pid, PidType};
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

    /// Who uses the terminals, once all processes are linked and before any of them runs. As at a system call
    /// (tty_ioctl(4), credentials(7)) a session takes a terminal through its leader only, which must be one of the
    /// processes, and the foreground is a group of processes in that session. Whatever else the cores say, a terminal
    /// of others stays theirs.
    #[inline(never)]
    pub(super) fn settle(&self, plans: &[Plan<'_>], made: &[Made]) {
        let group = |nr, sid: &Ref<Pid>| {
            plans.iter().zip(made).find_map(|(plan, made)| made.group_in(plan, nr, sid))
        };
        for (_, entry) in self.0.iter() {
            let Some(tty) = resume::terminal_of(&entry.master) else { continue };
            let leads = |(plan, made): &(&Plan<'_>, &Made)| {
                plan.process.pid == entry.session
                    && made.leader.signal.leader.load(Ordering::Relaxed)
                    && self.controlling(plan).is_some_and(|own| Arc::ptr_eq(own, tty))
            };
            let leader = plans.iter().zip(made).find(leads).map(|(_, made)| &made.leader.signal);
            let Some((leader, sid)) = leader.and_then(|of| Some((of, of.pid(PidType::Sid)?)))
            else {
                continue;
            };
            // The caller of execve(2) may lead a session that has a terminal already.
            if let Some(old) = leader.tty.get() {
                old.part_from(&sid);
            }
            let foreground = group(entry.pgrp, &sid);
            for (plan, made) in plans.iter().zip(made) {
                let signal = &made.leader.signal;
                let is_in = signal.pid(PidType::Sid).is_some_and(|own| Ref::ptr_eq(&own, &sid));
                if is_in && self.controlling(plan).is_some_and(|own| Arc::ptr_eq(own, tty)) {
                    let _ = signal.tty.replace(Some(tty.clone()));
                }
            }
            tty.resume_job(sid, foreground);
        }
        // A terminal of the machine is as it was left, if it controls the first of the processes.
        let signal = &made[0].leader.signal;
        let (Some(plan), Some(tty), Some(sid)) =
            (&plans[0].terminal, signal.tty.get(), signal.pid(PidType::Sid))
        else {
            return;
        };
        if self.controlling(&plans[0]).is_none() {
            tty.restore(plan.termios, &sid, group(plan.record.pgrp, &sid));
        }
    }
}

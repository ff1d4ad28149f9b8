//! The numbers of the processes and threads of a checkpoint: taken before anything else is made, since descriptors
//! and timers refer to them.

use alloc::vec::Vec;

use super::Failure;
use super::plan::Plan;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::{Pid, PidType, init_pid_ns};
use crate::task::Task;

/// The numbers of a checkpoint, by what they were.
pub(super) struct Numbers(Vec<(u32, Ref<Pid>)>);

impl Numbers {
    /// Takes the numbers of all threads and zombies. With `becomes`, the caller has that of the first process.
    pub(super) fn take_all(
        caller: &Task,
        plans: &[Plan<'_>],
        becomes: bool,
    ) -> Result<Self, Failure> {
        let root = &plans[0];
        if !Ref::ptr_eq(caller.thread_pid.own().ns(), init_pid_ns()) {
            let what = format_args!("cores are resumed in the initial pid namespace only");
            return Err(Failure::new(root, Errno::EINVAL, what));
        }
        let mut numbers = Self(Vec::new());
        if becomes {
            // Under the caller's number, in its group and session.
            let ids = [
                (root.process.pid, caller.signal.pid(PidType::Tgid)),
                (root.process.pgid, caller.signal.pid(PidType::Pgid)),
                (root.process.sid, caller.signal.pid(PidType::Sid)),
            ];
            for (nr, pid) in ids {
                if let Some(pid) = pid
                    && numbers.get(nr).is_none()
                {
                    let failed = |_| Failure::new(root, Errno::ENOMEM, format_args!("ENOMEM"));
                    numbers.add(nr as u32, pid).map_err(failed)?;
                }
            }
        }
        for (index, plan) in plans.iter().enumerate() {
            let first = usize::from(becomes && index == 0);
            for thread in &plan.threads[first..] {
                numbers.take(plan, thread.record.tid)?;
            }
            for zombie in &plan.zombies {
                numbers.take(plan, zombie.record.pid)?;
            }
        }
        Ok(numbers)
    }

    /// What was called `nr`.
    pub(super) fn get(&self, nr: u64) -> Option<Ref<Pid>> {
        self.0.iter().find(|(other, _)| u64::from(*other) == nr).map(|(_, pid)| pid.clone())
    }

    /// A process that something remembers: of the checkpoint, or one that is gone and whose number is free. `None` if
    /// somebody else has the number here.
    pub(super) fn remembered(&mut self, nr: u64) -> Result<Option<Ref<Pid>>> {
        if let Some(pid) = self.get(nr) {
            return Ok(Some(pid));
        }
        if nr == 0 || nr >= u64::from(crate::ns::pid::pid_max()) {
            return Ok(None);
        }
        match Pid::alloc(init_pid_ns(), &[nr as u32]) {
            Ok(pid) => {
                self.add(nr as u32, pid.clone())?;
                Ok(Some(pid))
            }
            Err(Errno::EEXIST) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn add(&mut self, nr: u32, pid: Ref<Pid>) -> Result<()> {
        self.0.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.0.push((nr, pid));
        Ok(())
    }

    /// Takes the number of a thread.
    fn take(&mut self, plan: &Plan<'_>, tid: u64) -> Result<(), Failure> {
        let nr = tid as u32;
        let taken = |errno| match errno {
            Errno::EEXIST => {
                let what = format_args!("its number {nr} is somebody else's here");
                Failure::new(plan, errno, what)
            }
            errno => Failure::new(plan, errno, format_args!("its number {nr}: {errno}")),
        };
        if self.get(tid).is_some() || nr >= crate::ns::pid::pid_max() {
            return Err(taken(Errno::EEXIST));
        }
        let pid = Pid::alloc(init_pid_ns(), &[nr]).map_err(taken)?;
        self.add(nr, pid).map_err(taken)
    }

    /// The number of a process group or session: that of the checkpoint; kept where it is free though its leader
    /// is gone; else the caller's.
    pub(super) fn group(&mut self, caller: &Task, kind: PidType, nr: u64) -> Result<Ref<Pid>> {
        if let Some(pid) = self.get(nr) {
            return Ok(pid);
        }
        let pid = match Pid::alloc(init_pid_ns(), &[nr as u32]) {
            Ok(pid) => pid,
            Err(Errno::EEXIST) => caller.signal.pid(kind).ok_or(Errno::ESRCH)?,
            Err(errno) => return Err(errno),
        };
        self.add(nr as u32, pid.clone())?;
        Ok(pid)
    }
}

//! The numbers of the processes and threads of a checkpoint: taken before anything else is made, since descriptors
//! and timers refer to them. Then those of the groups and sessions that they belong to: a group is in one session, and
//! nobody is put into the caller's group who is not in the caller's session.

use alloc::vec::Vec;

use belljar_abi::corenote;

use super::Failure;
use super::plan::Plan;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::{Pid, PidType, init_pid_ns};
use crate::task::Task;

/// The numbers of a checkpoint, by what they were.
pub(super) struct Numbers {
    all: Vec<(u32, Ref<Pid>)>,
    sessions: Vec<(u32, Ref<Pid>)>,
    groups: Vec<(u32, Membership)>,
}

/// A process group, and the session that it is in.
#[derive(Clone)]
pub(super) struct Membership {
    pub(super) pgid: Ref<Pid>,
    pub(super) sid: Ref<Pid>,
}

impl Membership {
    /// That of a process.
    fn of(task: &Task) -> Result<Self> {
        let pid = |kind| task.signal.pid(kind).ok_or(Errno::ESRCH);
        Ok(Self { pgid: pid(PidType::Pgid)?, sid: pid(PidType::Sid)? })
    }
}

/// What is called `nr` in a list.
fn find<V: Clone>(list: &[(u32, V)], nr: u64) -> Option<V> {
    list.iter().find(|(other, _)| u64::from(*other) == nr).map(|(_, value)| value.clone())
}

fn push<V>(list: &mut Vec<(u32, V)>, nr: u32, value: V) -> Result<()> {
    list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    list.push((nr, value));
    Ok(())
}

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
        let mut numbers = Self { all: Vec::new(), sessions: Vec::new(), groups: Vec::new() };
        if becomes {
            let failed = |errno| Failure::new(root, errno, format_args!("{errno}"));
            numbers.become_caller(caller, &root.process).map_err(failed)?;
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

    /// The first process goes on under the caller's number, in its group and session.
    fn become_caller(&mut self, caller: &Task, root: &corenote::Process) -> Result<()> {
        let own = caller.signal.pid(PidType::Tgid).ok_or(Errno::ESRCH)?;
        let membership = Membership::of(caller)?;
        self.add(root.pid as u32, own)?;
        push(&mut self.sessions, root.sid as u32, membership.sid.clone())?;
        push(&mut self.groups, root.pgid as u32, membership)
    }

    /// What was called `nr`.
    pub(super) fn get(&self, nr: u64) -> Option<Ref<Pid>> {
        find(&self.all, nr)
    }

    /// A process that something remembers: of the checkpoint, or one that is gone and whose number is free. `None` if
    /// somebody else has the number here.
    pub(super) fn remembered(&mut self, nr: u64) -> Result<Option<Ref<Pid>>> {
        if nr == 0 {
            return Ok(None);
        }
        let kept = self.kept(nr)?;
        if let Some(pid) = kept.clone().filter(|_| self.get(nr).is_none()) {
            self.add(nr as u32, pid)?;
        }
        Ok(kept)
    }

    fn add(&mut self, nr: u32, pid: Ref<Pid>) -> Result<()> {
        push(&mut self.all, nr, pid)
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

    /// The group and session of the process `own`: those of the checkpoint; kept where their numbers are free though
    /// the leader is gone; else the caller's, or a group of the process's own in a session that is not the caller's.
    /// `EINVAL` for a group that would be in two sessions.
    pub(super) fn membership(
        &mut self,
        caller: &Task,
        own: &Ref<Pid>,
        pgid: u64,
        sid: u64,
    ) -> Result<Membership> {
        let callers = Membership::of(caller)?;
        let session = match find(&self.sessions, sid) {
            Some(session) => session,
            None => {
                let session = self.kept(sid)?.unwrap_or_else(|| callers.sid.clone());
                push(&mut self.sessions, sid as u32, session.clone())?;
                session
            }
        };
        if let Some(known) = find(&self.groups, pgid) {
            let fits = Ref::ptr_eq(&known.sid, &session);
            return if fits { Ok(known) } else { Err(Errno::EINVAL) };
        }
        let in_callers = Ref::ptr_eq(&session, &callers.sid);
        let other = if in_callers { &callers.pgid } else { own };
        let group = self.kept(pgid)?.unwrap_or_else(|| other.clone());
        let membership = Membership { pgid: group, sid: session };
        push(&mut self.groups, pgid as u32, membership.clone())?;
        Ok(membership)
    }

    /// What was called `nr`, or the number itself where it is free; `None` if somebody else has it here.
    fn kept(&self, nr: u64) -> Result<Option<Ref<Pid>>> {
        if let Some(pid) = self.get(nr) {
            return Ok(Some(pid));
        }
        if nr >= u64::from(crate::ns::pid::pid_max()) {
            return Ok(None);
        }
        match Pid::alloc(init_pid_ns(), &[nr as u32]) {
            Ok(pid) => Ok(Some(pid)),
            Err(Errno::EEXIST) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

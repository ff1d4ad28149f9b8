//! The parts of a process beside memory: credentials, signals, limits, clocks.

use core::sync::atomic::Ordering;

use super::files::Around;
use super::filters::{self, Filters};
use super::numbers::Numbers;
use super::objects::Objects;
use super::plan::Plan;
use super::{Failure, Source, files, memory, timers};
use crate::array::Array;
use crate::errno::Result;
use crate::fs::{Caller, Files, FsStruct};
use crate::kref::Ref;
use crate::mm::Mm;
use crate::ns::user::init_user_ns;
use crate::ns::{CapSet, Cred, NsProxy};
use crate::process::creds::mm_limits;
use crate::sched::monotonic_ns;
use crate::signal::{SIGKILL, SIGSTOP, SigAction, SigInfo, SigSet, Sighand};
use crate::task::rlimit::{Rlimit, Rlimits, resource};
use crate::task::{SignalStruct, Task};

/// A process in parts.
pub(super) struct Parts {
    pub(super) mm: Ref<Mm>,
    pub(super) files: Ref<Files>,
    pub(super) fs: Ref<FsStruct>,
    pub(super) cred: Ref<Cred>,
    pub(super) proxy: Ref<NsProxy>,
    pub(super) sighand: Ref<Sighand>,
    pub(super) signal: Ref<SignalStruct>,
    pub(super) filters: Filters,
    /// The address space is in use by a task, which ends that use.
    pub(super) mm_used: bool,
}

impl Drop for Parts {
    fn drop(&mut self) {
        if !self.mm_used {
            self.mm.put_user();
        }
    }
}

impl Parts {
    /// Builds them.
    #[inline(never)]
    pub(super) fn build(
        caller: Caller<'_>,
        source: &Source,
        plan: &Plan<'_>,
        proxy: &Ref<NsProxy>,
        numbers: &Numbers,
        objects: &mut Objects,
    ) -> Result<Self, Failure> {
        let failed = |errno| Failure::new(plan, errno, format_args!("{errno}"));
        let cred = credentials(plan).map_err(failed)?;
        let files = files::table(Around { caller, plan, proxy, numbers }, objects)?;
        let fs = files::places(caller, plan)?;
        let filters = filters::build(plan)?;
        let sighand = dispositions(plan).map_err(failed)?;
        let limits = Rlimits::initial(crate::mm::total_pages() as u64);
        set_limits(&limits, plan).map_err(failed)?;
        let signal = SignalStruct::new(limits).map_err(failed)?;
        let adj = plan.process.oom_score_adj as i64 as i32;
        signal.oom_score_adj.store(adj, Ordering::Relaxed);
        signal.is_child_subreaper.store(plan.process.subreaper != 0, Ordering::Relaxed);
        signal.did_exec.store(true, Ordering::Relaxed);
        set_cpu_time(&signal, plan);
        timers::build(&signal.timers, plan, numbers, proxy).map_err(failed)?;
        let mm = memory::build(caller, source, plan, objects)?;
        mm.set_limits(mm_limits(&signal.rlimits, &cred));
        let proxy = proxy.clone();
        Ok(Self { mm, files, fs, cred, proxy, sighand, signal, filters, mm_used: false })
    }
}

/// Sets the CPU time of threads that have ended and of children.
pub(super) fn set_cpu_time(signal: &SignalStruct, plan: &Plan<'_>) {
    let p = &plan.process;
    for (account, utime, stime) in [
        (&signal.dead, p.dead_utime, p.dead_stime),
        (&signal.children, p.children_utime, p.children_stime),
    ] {
        account.utime.store(utime, Ordering::Relaxed);
        account.stime.store(stime, Ordering::Relaxed);
    }
}

/// Sets the limits of the core.
pub(super) fn set_limits(limits: &Rlimits, plan: &Plan<'_>) -> Result<()> {
    for limit in &plan.limits {
        let which = resource(limit.resource as u32)?;
        limits.set(which, Rlimit { soft: limit.soft, hard: limit.hard });
    }
    Ok(())
}

#[inline(never)]
fn credentials(plan: &Plan<'_>) -> Result<Ref<Cred>> {
    let p = &plan.process;
    let mut groups = Array::new();
    for gid in &plan.groups {
        groups.try_push(*gid)?;
    }
    let known = |set: u64| CapSet(set).and(CapSet::FULL);
    Ref::try_new(Cred {
        uid: p.uid as u32,
        gid: p.gid as u32,
        euid: p.euid as u32,
        egid: p.egid as u32,
        suid: p.suid as u32,
        sgid: p.sgid as u32,
        fsuid: p.fsuid as u32,
        fsgid: p.fsgid as u32,
        securebits: p.securebits as u32,
        cap_inheritable: known(p.cap_inheritable),
        cap_permitted: known(p.cap_permitted),
        cap_effective: known(p.cap_effective).and(known(p.cap_permitted)),
        cap_bounding: known(p.cap_bounding),
        cap_ambient: known(p.cap_ambient).and(known(p.cap_permitted & p.cap_inheritable)),
        groups,
        user_ns: init_user_ns().clone(),
    })
}

#[inline(never)]
fn dispositions(plan: &Plan<'_>) -> Result<Ref<Sighand>> {
    let sighand = Sighand::new()?;
    let mut actions = sighand.actions.lock();
    for action in &plan.actions {
        let signo = action.signo as i32;
        if signo == SIGKILL || signo == SIGSTOP {
            continue;
        }
        actions[signo as usize - 1] = SigAction {
            handler: action.handler,
            flags: action.flags,
            restorer: action.restorer,
            mask: blockable(action.mask),
        };
    }
    drop(actions);
    Ok(sighand)
}

/// What of a mask may be blocked.
pub(super) fn blockable(mask: u64) -> SigSet {
    SigSet(mask).without(SigSet::of(&[SIGKILL, SIGSTOP]))
}

/// The pending signals of a thread, or of the process (`tid` 0).
pub(super) fn pending<'p>(plan: &'p Plan<'_>, tid: u64) -> impl Iterator<Item = SigInfo> + 'p {
    plan.pending.iter().filter(move |pending| pending.tid == tid).map(|pending| {
        let mut bytes = [0; SigInfo::USER_SIZE];
        let words = [pending.signo, pending.errno, pending.code].map(|word| word as u32);
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        let fields = [pending.field0, pending.field1, pending.field2, pending.field3];
        for (to, word) in bytes[16..].chunks_exact_mut(8).zip(fields) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        SigInfo::from_user(&bytes)
    })
}

/// The namespaces of the caller, with a clock that goes on from where it was when the cores were made.
pub(super) fn namespaces(task: &Task, root: &Plan<'_>) -> Result<Ref<NsProxy>, Failure> {
    let own = task.nsproxy();
    if root.process.monotonic_ns == 0 {
        return Ok(own.clone());
    }
    // Both are below the half of what a word holds.
    let ahead = root.process.monotonic_ns as i64 - monotonic_ns() as i64;
    own.with_clocks(task.cred(), ahead)
        .map_err(|errno| Failure::new(root, errno, format_args!("its clocks: {errno}")))
}

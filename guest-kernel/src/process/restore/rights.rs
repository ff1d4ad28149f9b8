//! What whoever resumes a core must be allowed: no core gives a process what no system call of its caller would.
//!
//! A core says what a process holds, so resuming one takes a privileged task of the initial user namespace
//! (CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN). Everything that has a right of its own (capabilities(7)) takes that as
//! well: the ids, the capabilities, what counts against limits.

use core::sync::atomic::Ordering;

use belljar_abi::carried::Carried;
use belljar_abi::corenote;

use super::Failure;
use super::plan::Plan;
use crate::addr::PAGE_SIZE;
use crate::errno::Errno;
use crate::fs::pipe::limits::MAX_SIZE;
use crate::kref::Ref;
use crate::mm::VmFlags;
use crate::net::common::{BUFFER_DEFAULT, flag};
use crate::ns::user::init_user_ns;
use crate::ns::{Cap, CapSet, Cred};
use crate::sched::Policy;
use crate::task::Task;
use crate::task::rlimit::{Resource, Rlimits};

/// SO_PRIORITY beyond this is a right (socket(7)).
const PRIORITY_MAX: u64 = 6;

/// Who asks.
pub(super) struct Rights<'a> {
    pub(super) cred: &'a Cred,
    pub(super) limits: &'a Rlimits,
    pub(super) oom_score_adj: i32,
    pub(super) nice: i32,
}

impl<'a> Rights<'a> {
    pub(super) fn of(task: &'a Task) -> Self {
        Self {
            cred: task.cred(),
            limits: &task.signal.rlimits,
            oom_score_adj: task.signal.oom_score_adj.load(Ordering::Relaxed),
            nice: task.se.nice(),
        }
    }

    /// `EPERM`, with what is missing, if the process of `plan` has what the caller could not give it.
    #[inline(never)]
    pub(super) fn check(&self, plan: &Plan<'_>) -> Result<(), Failure> {
        self.missing(plan)
            .map_or(Ok(()), |what| Err(Failure::new(plan, Errno::EPERM, format_args!("{what}"))))
    }

    fn missing(&self, plan: &Plan<'_>) -> Option<&'static str> {
        let (cred, has) = (self.cred, |cap| self.cred.own_capable(cap));
        if !Ref::ptr_eq(&cred.user_ns, init_user_ns())
            || !has(Cap::CheckpointRestore) && !has(Cap::SysAdmin)
        {
            return Some("resuming needs CAP_CHECKPOINT_RESTORE");
        }
        let p = &plan.process;
        let own_user = [p.uid, p.euid, p.suid, p.fsuid].iter().all(|id| self.is_user(*id));
        let own_group = [p.gid, p.egid, p.sgid, p.fsgid].iter().all(|id| self.is_group(*id));
        let had = CapSet(p.cap_permitted | p.cap_inheritable | p.cap_effective | p.cap_ambient);
        let bounding = CapSet(p.cap_bounding);
        let securebits = p.securebits as u32;
        let hard = |limit: &corenote::Limit| {
            let which = Resource::ALL.get(limit.resource as usize);
            which.is_none_or(|which| limit.hard > self.limits.get(*which).hard)
        };
        let adj = p.oom_score_adj as i64;
        [
            (!own_user && !has(Cap::Setuid), "it was another user, and CAP_SETUID is missing"),
            (
                (!own_group || plan.groups != *cred.groups) && !has(Cap::Setgid),
                "it was in other groups, and CAP_SETGID is missing",
            ),
            (
                !had.is_within(cred.cap_permitted) || !bounding.is_within(cred.cap_bounding),
                "it had capabilities that are missing here",
            ),
            (
                securebits != cred.securebits && !cred.may_set_securebits(securebits),
                "its securebits may not be set here",
            ),
            (
                (plan.limits.iter().any(hard) || adj < i64::from(self.oom_score_adj))
                    && !has(Cap::SysResource),
                "its limits were higher, and CAP_SYS_RESOURCE is missing",
            ),
            (
                self.is_hastier(plan) && !has(Cap::SysNice),
                "its priority was higher, and CAP_SYS_NICE is missing",
            ),
            (
                self.has_foreign_files(plan) && !has(Cap::Chown),
                "its files were another user's, and CAP_CHOWN is missing",
            ),
            (
                has_large_pipes(plan) && !has(Cap::SysResource),
                "its pipes were larger than pipe-max-size, and CAP_SYS_RESOURCE is missing",
            ),
            (
                locked_bytes(plan) > self.limits.soft(Resource::Memlock) && !has(Cap::IpcLock),
                "it had more memory locked than RLIMIT_MEMLOCK allows here, and CAP_IPC_LOCK is missing",
            ),
            (
                has_foreign_filters(plan) && !has(Cap::SysAdmin),
                "its filters bind programs that gain rights, and CAP_SYS_ADMIN is missing",
            ),
            (
                has_strong_sockets(plan) && !has(Cap::NetAdmin),
                "its sockets had options for which CAP_NET_ADMIN is missing",
            ),
            (
                self.knows_foreign_peers(plan) && !(has(Cap::Setuid) && has(Cap::Setgid)),
                "its sockets knew other users as peers, and CAP_SETUID or CAP_SETGID is missing",
            ),
        ]
        .into_iter()
        .find_map(|(is_missing, what)| is_missing.then_some(what))
    }

    fn is_user(&self, uid: u64) -> bool {
        uid == u64::from(self.cred.uid)
    }

    fn is_group(&self, gid: u64) -> bool {
        gid == u64::from(self.cred.gid)
    }

    /// A thread runs before others as neither the caller nor its limits allow (sched(7)).
    fn is_hastier(&self, plan: &Plan<'_>) -> bool {
        let floor = 20 - self.limits.soft(Resource::Nice).min(40) as i64;
        let floor = floor.min(i64::from(self.nice));
        let most = self.limits.soft(Resource::Rtprio);
        plan.threads.iter().map(|thread| &thread.record).any(|record| {
            let policy = Policy::from_number(record.policy as u32);
            let realtime = policy.is_some_and(Policy::is_rt) && record.rt_priority > most;
            realtime || (record.nice as i64) < floor
        })
    }

    /// Files that are made anew, with an owner who is not the caller: FIFOs, names of sockets, terminals, files
    /// without a name.
    fn has_foreign_files(&self, plan: &Plan<'_>) -> bool {
        let cred = self.cred;
        let is_own =
            |(uid, gid): (u64, u64)| uid == u64::from(cred.fsuid) && cred.in_group(gid as u32);
        let fifos = plan
            .files
            .iter()
            .filter(|file| file.record.kind == Carried::Pipe as u64 && !file.path.is_empty());
        let names = plan.sockets.iter().map(|socket| &socket.record);
        let names = names.filter(|socket| socket.bound != 0);
        fifos
            .map(|file| (file.record.uid, file.record.gid))
            .chain(names.map(|socket| (socket.name_uid, socket.name_gid)))
            .chain(plan.ptys.iter().map(|pty| (pty.record.uid, pty.record.gid)))
            .chain(plan.nameless.iter().map(|file| (file.record.uid, file.record.gid)))
            .any(|owner| !is_own(owner))
    }

    /// A socket says of its peer, or a message of its sender, that it was somebody else (unix(7), SO_PEERCRED).
    fn knows_foreign_peers(&self, plan: &Plan<'_>) -> bool {
        let sockets = plan.sockets.iter().map(|socket| &socket.record);
        let sockets = sockets.map(|socket| (socket.cred_pid, socket.cred_uid, socket.cred_gid));
        let messages = plan.messages.iter().map(|message| &message.record);
        let messages =
            messages.map(|message| (message.cred_pid, message.cred_uid, message.cred_gid));
        // Without a process nobody is named.
        sockets
            .chain(messages)
            .any(|(pid, uid, gid)| pid != 0 && !(self.is_user(uid) && self.is_group(gid)))
    }
}

/// A thread has a filter, and may still gain rights by execve(2) (seccomp(2)).
fn has_foreign_filters(plan: &Plan<'_>) -> bool {
    plan.threads.iter().map(|thread| &thread.record).any(|record| {
        record.seccomp_filter != 0 && plan.process.no_new_privs | record.no_new_privs == 0
    })
}

/// A pipe is larger than one may make it (pipe(7), `pipe-max-size`).
fn has_large_pipes(plan: &Plan<'_>) -> bool {
    let pipes = plan.files.iter().filter(|file| file.record.kind == Carried::Pipe as u64);
    let most = (MAX_SIZE.load(Ordering::Relaxed) / PAGE_SIZE) as u64;
    pipes.map(|file| file.record.value).any(|slots| slots > most)
}

/// How much memory is locked (mlock(2)).
fn locked_bytes(plan: &Plan<'_>) -> u64 {
    let locked = plan.vmas.iter().filter(|vma| vma.flags.contains(VmFlags::LOCKED));
    // The ranges of an address space do not overlap, so that the sum fits.
    locked.map(|vma| vma.record.end - vma.record.start).fold(0, u64::saturating_add)
}

/// Options that socket(7) calls privileged.
fn has_strong_sockets(plan: &Plan<'_>) -> bool {
    plan.sockets.iter().map(|socket| &socket.record).any(|socket| {
        let most = u64::from(2 * BUFFER_DEFAULT);
        socket.mark != 0
            || socket.priority > PRIORITY_MAX
            || socket.sndbuf.max(socket.rcvbuf) > most
            || socket.flags & u64::from(flag::DEBUG) != 0
    })
}

#[cfg(test)]
mod tests {
    use super::super::core::Core;
    use super::super::synthetic::{core, notes};
    use super::*;
    use crate::mm::testing;

    /// What a caller of user 0 that has these capabilities alone lacks for the process of a synthetic core.
    fn missing(
        caps: &[Cap],
        change: impl FnOnce(&mut Plan<'_>, &mut Cred),
    ) -> Option<&'static str> {
        testing::setup();
        let bytes = core(&notes());
        let mut plan = Plan::read(Core::read(&bytes, bytes.len() as u64).unwrap()).unwrap();
        let mut cred = Cred::root();
        let caps = caps.iter().chain(&[Cap::CheckpointRestore]);
        cred.cap_permitted = CapSet(caps.fold(0, |all, cap| all | 1 << *cap as u64));
        cred.cap_effective = cred.cap_permitted;
        change(&mut plan, &mut cred);
        let limits = Rlimits::initial(1 << 20);
        Rights { cred: &cred, limits: &limits, oom_score_adj: 0, nice: 0 }.missing(&plan)
    }

    /// `change` takes `cap`, which the message ends in or names otherwise.
    fn takes(cap: Cap, says: &str, change: impl Fn(&mut Plan<'_>)) {
        assert_eq!(missing(&[cap], |plan, _| change(plan)), None, "{says}");
        let said = missing(&[], |plan, _| change(plan));
        assert!(said.is_some_and(|said| said.contains(says)), "{said:?} is about {says}");
    }

    #[test]
    fn what_a_system_call_would_refuse_a_core_does_not_give() {
        assert_eq!(missing(&[], |_, _| ()), None);
        let said = missing(&[], |_, cred| cred.cap_effective = CapSet::EMPTY);
        assert_eq!(said, Some("resuming needs CAP_CHECKPOINT_RESTORE"));
        takes(Cap::Setuid, "CAP_SETUID", |plan| plan.process.suid = 7);
        takes(Cap::Setgid, "CAP_SETGID", |plan| plan.process.fsgid = 7);
        takes(Cap::Setpcap, "securebits", |plan| plan.process.securebits = 1);
        takes(Cap::SysResource, "CAP_SYS_RESOURCE", |plan| {
            plan.process.oom_score_adj = -1_i64 as u64;
        });
        takes(Cap::SysResource, "CAP_SYS_RESOURCE", |plan| plan.limits[0].hard = u64::MAX);
        takes(Cap::SysNice, "CAP_SYS_NICE", |plan| plan.threads[1].record.nice = -1_i64 as u64);
        takes(Cap::SysNice, "CAP_SYS_NICE", |plan| {
            (plan.threads[1].record.policy, plan.threads[1].record.rt_priority) = (1, 1);
        });
        takes(Cap::Chown, "CAP_CHOWN", |plan| plan.nameless[0].record.uid = 7);
        takes(Cap::Chown, "CAP_CHOWN", |plan| plan.ptys[0].record.gid = 7);
        takes(Cap::Chown, "CAP_CHOWN", |plan| plan.sockets[0].record.name_uid = 7);
        takes(Cap::SysAdmin, "CAP_SYS_ADMIN", |plan| plan.threads[1].record.no_new_privs = 0);
        takes(Cap::NetAdmin, "CAP_NET_ADMIN", |plan| plan.sockets[0].record.mark = 7);
        takes(Cap::SysResource, "pipe-max-size", |plan| {
            let file = &mut plan.files[0].record;
            (file.kind, file.value) = (Carried::Pipe as u64, 257);
        });
        takes(Cap::IpcLock, "RLIMIT_MEMLOCK", |plan| {
            let vma = &mut plan.vmas[0];
            vma.flags |= VmFlags::LOCKED;
            vma.record.end = vma.record.start + (1 << 40);
        });
        takes(Cap::NetAdmin, "CAP_NET_ADMIN", |plan| plan.sockets[0].record.rcvbuf = 1 << 30);
        let peer = |plan: &mut Plan<'_>, _: &mut Cred| {
            (plan.sockets[1].record.cred_pid, plan.sockets[1].record.cred_uid) = (40, 7);
        };
        assert!(missing(&[Cap::Setuid], peer).unwrap().contains("as peers"));
        assert_eq!(missing(&[Cap::Setuid, Cap::Setgid], peer), None);
    }

    #[test]
    fn securebits_that_are_locked_stay() {
        let locked = |plan: &mut Plan<'_>, cred: &mut Cred| {
            cred.securebits = 3;
            plan.process.securebits = 0;
        };
        assert_eq!(missing(&[Cap::Setpcap], locked), Some("its securebits may not be set here"));
        let same = |plan: &mut Plan<'_>, cred: &mut Cred| {
            cred.securebits = 3;
            plan.process.securebits = 3;
        };
        assert_eq!(missing(&[], same), None);
    }
}

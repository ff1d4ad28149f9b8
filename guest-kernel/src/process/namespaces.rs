//! unshare(2) and setns(2): a task takes new namespaces, or those of others.

use alloc::vec::Vec;

use crate::errno::{Errno, Result};
use crate::fs::{FsStruct, Path};
use crate::kref::Ref;
use crate::ns::{Cap, Cred, Namespace, NsKind, NsProxy, UserNs};
use crate::process::access::{AccessMode, may_access};
use crate::process::creds::commit_creds;
use crate::process::fork::CloneFlags;
use crate::process::sysv;
use crate::task::{self, Task};

/// The `CLONE_NEW*` flags of the kinds that an [`NsProxy`] holds: all but the user namespace.
pub const PROXY_KINDS: u32 = {
    let mut all = 0;
    let mut i = 0;
    while i < NsKind::ALL.len() {
        if !matches!(NsKind::ALL[i], NsKind::User) {
            all |= NsKind::ALL[i].flag();
        }
        i += 1;
    }
    all
};

/// A user namespace for `task`'s child, or for itself. `EPERM` in a chroot, where all capabilities
/// would lead out, and for users without an id (user_namespaces(7)).
pub fn create_user_ns(task: &Task) -> Result<Ref<UserNs>> {
    let cred = task.cred();
    let parent = &cred.user_ns;
    if parent.level > crate::ns::user::MAX_USER_NS_LEVEL {
        return Err(Errno::ENOSPC);
    }
    let bottom = task.nsproxy().mnt.root().ok_or(Errno::EPERM)?;
    if !bottom.same(&task.fs().root()) || !parent.has_ids(cred.euid, cred.egid) {
        return Err(Errno::EPERM);
    }
    UserNs::new(parent, cred.euid, cred.egid, cred.own_capable(Cap::Setfcap))
}

/// unshare(2).
pub fn unshare(raw: u64) -> Result<()> {
    let mut flags = CloneFlags::from_bits_retain(raw);
    let known = CloneFlags::NEW_NAMESPACE
        | CloneFlags::THREAD
        | CloneFlags::FS
        | CloneFlags::SIGHAND
        | CloneFlags::VM
        | CloneFlags::FILES
        | CloneFlags::SYSVSEM;
    if !known.contains(flags) {
        return Err(Errno::EINVAL);
    }
    // What one implies (unshare(2)).
    for (if_any, also) in [
        (CloneFlags::NEWUSER, CloneFlags::THREAD | CloneFlags::FS),
        (CloneFlags::VM, CloneFlags::SIGHAND),
        (CloneFlags::SIGHAND, CloneFlags::THREAD),
        (CloneFlags::NEWNS, CloneFlags::FS),
    ] {
        if flags.contains(if_any) {
            flags |= also;
        }
    }
    let task = task::current();
    let alone = task.signal.nr_threads.load(core::sync::atomic::Ordering::Relaxed) == 1;
    if flags.contains(CloneFlags::THREAD) && !alone {
        return Err(Errno::EINVAL);
    }
    let shares_sighand = Ref::ref_count(task.sighand.own()) > 1;
    let shares_vm = task.mm().is_some_and(|mm| mm.users() > 1);
    if flags.contains(CloneFlags::SIGHAND) && shares_sighand
        || flags.contains(CloneFlags::VM) && shares_vm
    {
        return Err(Errno::EINVAL);
    }
    // Everything that can fail comes before anything is installed.
    let fs = if flags.contains(CloneFlags::FS) && Ref::ref_count(task.fs()) > 1 {
        Some(task.fs().try_clone()?)
    } else {
        None
    };
    let files = if flags.contains(CloneFlags::FILES) && Ref::ref_count(task.files()) > 1 {
        Some(task.files().try_clone()?)
    } else {
        None
    };
    let cred = if flags.contains(CloneFlags::NEWUSER) {
        let ns = create_user_ns(task)?;
        Some(task.cred().with(|cred| cred.enter_user_ns(&ns))?)
    } else {
        None
    };
    let kinds = raw as u32 & PROXY_KINDS;
    let proxy = if kinds != 0 {
        let cred: &Cred = cred.as_ref().unwrap_or(task.cred());
        if !cred.own_capable(Cap::SysAdmin) {
            return Err(Errno::EPERM);
        }
        let fs = fs.as_ref().unwrap_or(task.fs());
        let group = super::cgroup::of(task);
        Some(task.nsproxy().with_new(kinds, cred, task.thread_pid.own().ns(), fs, &group)?)
    } else {
        None
    };
    // What is to be undone belongs to the old namespace.
    if flags.intersects(CloneFlags::SYSVSEM | CloneFlags::NEWIPC) {
        sysv::exit_sem(task);
    }
    if flags.contains(CloneFlags::NEWIPC) {
        sysv::exit_shm(task);
    }
    if let Some(fs) = fs {
        drop(task.fs.replace(Some(fs)));
    }
    if let Some(files) = files {
        drop(task.files.replace(Some(files)));
    }
    if let Some(proxy) = proxy {
        drop(task.nsproxy.replace(Some(proxy)));
    }
    if let Some(cred) = cred {
        commit_creds(task, cred);
    }
    Ok(())
}

/// What a task will have once all namespaces are accepted.
struct NsSet {
    cred: Option<Cred>,
    proxy: NsProxy,
    /// The root of a new mount namespace.
    root: Option<Path>,
}

/// setns(2): enters namespaces, all or none of them.
pub fn setns(namespaces: &[Namespace]) -> Result<()> {
    let task = task::current();
    let mut set = NsSet { cred: None, proxy: task.nsproxy().duplicate(), root: None };
    namespaces.iter().try_for_each(|ns| install(task, &mut set, ns))?;
    let proxy = Ref::try_new(set.proxy)?;
    let cred = set.cred.map(Ref::try_new).transpose()?;
    if let Some(root) = set.root {
        let fs: &FsStruct = task.fs();
        fs.set_root(root.clone());
        fs.set_cwd(root);
    }
    if !Ref::ptr_eq(&task.nsproxy().ipc, &proxy.ipc) {
        sysv::exit_sem(task);
    }
    drop(task.nsproxy.replace(Some(proxy)));
    if let Some(cred) = cred {
        commit_creds(task, cred);
    }
    Ok(())
}

/// Accepts one namespace, if the caller may enter it.
fn install(task: &Task, set: &mut NsSet, ns: &Namespace) -> Result<()> {
    let own: &Cred = task.cred();
    let owner = ns.common().user_ns();
    let alone = task.signal.nr_threads.load(core::sync::atomic::Ordering::Relaxed) == 1;
    if let Namespace::User(ns) = ns {
        // Back to what it has, it would only regain capabilities.
        if Ref::ptr_eq(ns, &own.user_ns) || !alone || Ref::ref_count(task.fs()) > 1 {
            return Err(Errno::EINVAL);
        }
        if !own.ns_capable(ns, Cap::SysAdmin) {
            return Err(Errno::EPERM);
        }
        let mut cred = own.try_clone()?;
        cred.enter_user_ns(ns);
        set.cred = Some(cred);
        return Ok(());
    }
    let future = set.cred.as_ref().map_or(&own.user_ns, |cred| &cred.user_ns);
    if let Namespace::Time(_) = ns
        && !alone
    {
        return Err(Errno::EUSERS);
    }
    if !own.ns_capable(owner, Cap::SysAdmin) || !own.ns_capable(future, Cap::SysAdmin) {
        return Err(Errno::EPERM);
    }
    match ns {
        Namespace::User(_) => {}
        Namespace::Uts(ns) => set.proxy.uts = ns.clone(),
        Namespace::Ipc(ns) => set.proxy.ipc = ns.clone(),
        Namespace::Net(ns) => set.proxy.net = ns.clone(),
        Namespace::Cgroup(ns) => set.proxy.cgroup = ns.clone(),
        Namespace::Pid(ns) => {
            // Only downwards: nobody leaves what sees him (pid_namespaces(7)).
            if !ns.is_within(task.thread_pid.own().ns()) {
                return Err(Errno::EINVAL);
            }
            set.proxy.pid_for_children = ns.clone();
        }
        Namespace::Time(ns) => {
            ns.freeze();
            set.proxy.time = ns.clone();
            set.proxy.time_for_children = ns.clone();
        }
        Namespace::Mnt(ns) => {
            if !own.ns_capable(future, Cap::SysChroot) {
                return Err(Errno::EPERM);
            }
            if Ref::ref_count(task.fs()) > 1 {
                return Err(Errno::EINVAL);
            }
            set.root = Some(ns.root().ok_or(Errno::EINVAL)?);
            set.proxy.mnt = ns.clone();
        }
    }
    Ok(())
}

/// The namespaces of `target` that `flags` name, in the order in which they are entered.
pub fn of_task(target: &Task, flags: u32) -> Result<Vec<Namespace>> {
    if flags == 0 || flags & !(PROXY_KINDS | NsKind::User.flag()) != 0 {
        return Err(Errno::EINVAL);
    }
    if !may_access(target, AccessMode::RealCreds) {
        return Err(Errno::EPERM);
    }
    let proxy = target.nsproxy.share().ok_or(Errno::ESRCH)?;
    let mut all = Vec::new();
    all.try_reserve_exact(NsKind::ALL.len()).map_err(|_| Errno::ENOMEM)?;
    all.extend([
        Namespace::User(target.cred.share().user_ns.clone()),
        Namespace::Mnt(proxy.mnt.clone()),
        Namespace::Uts(proxy.uts.clone()),
        Namespace::Ipc(proxy.ipc.clone()),
        Namespace::Pid(target.active_pid_ns()),
        Namespace::Cgroup(proxy.cgroup.clone()),
        Namespace::Net(proxy.net.clone()),
        Namespace::Time(proxy.time.clone()),
    ]);
    all.retain(|ns| flags & ns.common().kind().flag() != 0);
    Ok(all)
}

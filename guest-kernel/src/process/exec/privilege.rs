//! What a program may that its caller might not: set-id bits, capabilities, and who may look into its memory.

use super::load::Loader;
use crate::errno::Result;
use crate::fs::File;
use crate::fs::perm::{Access, permission};
use crate::kref::Ref;
use crate::ns::cred::SECBIT_NOROOT;
use crate::ns::{Cap, CapSet, Cred, UserNs};
use crate::task::Task;

impl Loader<'_> {
    /// Set-user-id and set-group-id programs, and what root's exec means for capabilities
    /// (capabilities(7), "Transformation of capabilities during execve()").
    #[inline(never)]
    pub(super) fn new_cred(&self, file: &Ref<File>) -> Result<Ref<Cred>> {
        const S_ISUID: u32 = 0o4000;
        const S_ISGID: u32 = 0o2000;
        const S_IXGRP: u32 = 0o010;
        let old = self.task.cred();
        let no_new_privs = self.task.has_no_new_privs();
        let inode = file.path.inode()?;
        let mode = inode.mode();
        let mut new = old.try_clone()?;
        let user_ns = &old.user_ns;
        // Ids that are nobody's in the namespace are not taken on.
        if self.task.nsproxy().mnt.may_suid(&file.path.mnt, user_ns)
            && !no_new_privs
            && user_ns.has_ids(inode.uid(), inode.gid())
        {
            if mode & S_ISUID != 0 {
                new.euid = inode.uid();
            }
            if mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP {
                new.egid = inode.gid();
            }
        }
        // No file has capabilities of its own here; user 0 stands in for them.
        let is_root = |uid: u32| user_ns.root_uid() == Some(uid);
        let mut effective = false;
        new.cap_permitted = CapSet::EMPTY;
        if old.securebits & SECBIT_NOROOT == 0 && (is_root(new.euid) || is_root(new.uid)) {
            new.cap_permitted = old.cap_inheritable.or(old.cap_bounding);
            effective = is_root(new.euid);
        }
        let set_id = new.euid != old.uid || new.egid != old.gid;
        let gains = !new.cap_permitted.is_within(old.cap_permitted);
        // Who gave up new privileges, shares its root with others, or is traced by somebody who could not have what the
        // program has, gets no more than it had.
        let shared = Ref::ref_count(self.task.fs()) > self.task.signal.nr_threads();
        let watched = {
            let traced = self.task.ptrace.is_traced();
            let tracer = self.task.ptrace.tracer_cred.lock();
            let tracer = tracer.as_ref().filter(|_| traced);
            tracer.is_some_and(|cred| !cred.ns_capable(&new.user_ns, Cap::SysPtrace))
        };
        if (set_id || gains) && (no_new_privs || shared || watched) {
            if no_new_privs || !old.own_capable(Cap::Setuid) {
                (new.euid, new.egid) = (new.uid, new.gid);
            }
            new.cap_permitted = new.cap_permitted.and(old.cap_permitted);
        }
        (new.suid, new.fsuid, new.sgid, new.fsgid) = (new.euid, new.euid, new.egid, new.egid);
        if set_id {
            new.cap_ambient = CapSet::EMPTY;
        }
        new.cap_permitted = new.cap_permitted.or(new.cap_ambient);
        new.cap_effective = if effective { new.cap_permitted } else { new.cap_ambient };
        new.securebits &= !crate::ns::cred::SECBIT_KEEP_CAPS;
        Ref::try_new(new)
    }
}

/// True if the caller could have read the program instead of running it.
pub(super) fn may_read(task: &Task, file: &File) -> bool {
    file.path.inode().is_ok_and(|inode| permission(inode, Access::READ, task.cred()).is_ok())
}

/// The user namespace that the memory of a program belongs to: the caller's, or, for a program that it could not
/// read, the nearest around it that knows the file's owner (`would_dump`).
pub(super) fn memory_owner(cred: &Cred, file: &File, readable: bool) -> Ref<UserNs> {
    let mut ns = &cred.user_ns;
    if let Ok(inode) = file.path.inode()
        && !readable
    {
        while !ns.has_ids(inode.uid(), inode.gid())
            && let Some(parent) = ns.parent()
        {
            ns = parent;
        }
    }
    ns.clone()
}

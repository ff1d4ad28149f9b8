//! [`Perm`]: whose an object is, and who may do what with it (sysvipc(7), "Permissions").

use super::Caller;
use super::abi::IPC_PRIVATE;
use super::table::Id;
use crate::errno::{Errno, Result};
use crate::ns::Cap;

/// Read by the owner, his group, all.
pub const READ: u32 = 0o444;
/// Write, or alter.
pub const WRITE: u32 = 0o222;
/// Run, for shared memory.
pub const EXEC: u32 = 0o111;

/// Owner, creator and mode of an object.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names are sysvipc(7)'s")]
pub struct Perm {
    pub key: i32,
    pub id: Id,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    /// Permission bits, and of shared memory `SHM_DEST` and `SHM_LOCKED`.
    pub mode: u32,
}

/// What `IPC_SET` changes: ids of the kernel, and permission bits.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names are sysvipc(7)'s")]
pub struct NewOwner {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

impl Perm {
    /// Of an object that the caller makes.
    pub fn new(caller: &Caller<'_>, key: i32, id: Id, flags: u32) -> Self {
        let (uid, gid) = (caller.cred.euid, caller.cred.egid);
        Self { key, id, uid, gid, cuid: uid, cgid: gid, mode: flags & 0o777 }
    }

    /// `EACCES` unless the caller may do what the bits of `wanted` say, in whichever of their three
    /// places.
    pub fn check(&self, caller: &Caller<'_>, wanted: u32) -> Result<()> {
        let cred = caller.cred;
        let wanted = (wanted >> 6 | wanted >> 3 | wanted) & 0o7;
        let granted = if cred.euid == self.cuid || cred.euid == self.uid {
            self.mode >> 6
        } else if cred.in_group(self.cgid) || cred.in_group(self.gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if wanted & !granted & 0o7 != 0 && !caller.ns.capable(cred, Cap::IpcOwner) {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    /// True if the caller is owner or creator.
    pub fn is_owner(&self, caller: &Caller<'_>) -> bool {
        caller.cred.euid == self.cuid || caller.cred.euid == self.uid
    }

    /// `EPERM` unless the caller may change or remove the object.
    pub fn check_control(&self, caller: &Caller<'_>) -> Result<()> {
        if self.is_owner(caller) || caller.ns.capable(caller.cred, Cap::SysAdmin) {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }

    /// `IPC_SET`.
    pub fn set(&mut self, new: &NewOwner) {
        (self.uid, self.gid) = (new.uid, new.gid);
        self.mode = self.mode & !0o777 | new.mode & 0o777;
    }

    /// The key, which from now on finds nothing.
    pub fn take_key(&mut self) -> i32 {
        core::mem::replace(&mut self.key, IPC_PRIVATE)
    }
}

//! Who may: permission bits, groups and capabilities (path_resolution(7), capabilities(7)).

use super::inode::{Inode, InodeFlags};
use crate::errno::{Errno, Result};
use crate::ns::{Cap, Cred};
use crate::uapi;

bitflags::bitflags! {
    /// What somebody wants to do with an inode; the bits are access(2)'s.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Access: u32 {
        /// Execute the file, or search the directory.
        const EXEC = 1;
        /// Write.
        const WRITE = 2;
        /// Read.
        const READ = 4;
    }
}

/// Checks `access` by permission bits and capabilities alone; `EACCES` if it is refused.
pub fn generic_permission(inode: &Inode, access: Access, cred: &Cred) -> Result<()> {
    let mode = inode.mode();
    let shift = if cred.fsuid == inode.uid() {
        6
    } else if cred.in_group(inode.gid()) {
        3
    } else {
        0
    };
    if access.bits() & !(mode >> shift) & 7 == 0 {
        return Ok(());
    }
    let dir = inode.is_dir();
    // Nobody may execute a file that has no execute bit at all.
    let executable = dir || mode & 0o111 != 0 || !access.contains(Access::EXEC);
    if executable && capable_over(inode, cred, Cap::DacOverride) {
        return Ok(());
    }
    let reads = if dir { Access::READ.union(Access::EXEC) } else { Access::READ };
    if reads.contains(access) && capable_over(inode, cred, Cap::DacReadSearch) {
        return Ok(());
    }
    Err(Errno::EACCES)
}

/// Checks `access`; `EROFS` for writing to a file system that is read-only as a whole.
#[inline]
pub fn permission(inode: &Inode, access: Access, cred: &Cred) -> Result<()> {
    if access.contains(Access::WRITE) && inode.sb.is_read_only() && writes_to_disk(inode) {
        return Err(Errno::EROFS);
    }
    if inode.flags().contains(InodeFlags::CUSTOM_PERMISSION) {
        return inode.ops().permission(inode, access, cred);
    }
    generic_permission(inode, access, cred)
}

/// True if writing to the file writes to its file system: not so for devices, FIFOs and sockets.
pub fn writes_to_disk(inode: &Inode) -> bool {
    matches!(inode.file_type(), uapi::S_IFREG | uapi::S_IFDIR | uapi::S_IFLNK)
}

/// Checks that a directory may be searched: what every step of a walk asks.
#[inline]
pub fn may_search(dir: &Inode, cred: &Cred) -> Result<()> {
    if dir.mode() & 0o111 == 0o111 && !dir.flags().contains(InodeFlags::CUSTOM_PERMISSION) {
        return Ok(());
    }
    permission(dir, Access::EXEC, cred)
}

/// Checks that names may be made in `dir`.
pub fn may_create(dir: &Inode, cred: &Cred) -> Result<()> {
    if dir.flags().contains(InodeFlags::DEAD) {
        return Err(Errno::ENOENT);
    }
    // The new node's owner and group must have ids in the file system's user namespace.
    if !dir.sb.user_ns.has_ids(cred.fsuid, cred.fsgid) {
        return Err(Errno::EOVERFLOW);
    }
    permission(dir, Access::WRITE | Access::EXEC, cred)
}

/// Checks that the name of `victim` may be taken out of `dir`; in a sticky directory only the owner
/// of either may do that.
pub fn may_delete(dir: &Inode, victim: &Inode, cred: &Cred) -> Result<()> {
    permission(dir, Access::WRITE | Access::EXEC, cred)?;
    let sticky = dir.mode() & uapi::S_ISVTX != 0;
    let owner = cred.fsuid == victim.uid() || cred.fsuid == dir.uid();
    if sticky && !owner && !capable_over(victim, cred, Cap::Fowner) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// True for the owner of `inode`, or with `CAP_FOWNER`.
pub fn owner_or_capable(inode: &Inode, cred: &Cred) -> bool {
    cred.fsuid == inode.uid() || capable_over(inode, cred, Cap::Fowner)
}

/// True if `cap` counts for `inode`: its owner and group have ids in the user namespace in which the
/// caller is privileged (`capable_wrt_inode_uidgid`).
pub fn capable_over(inode: &Inode, cred: &Cred, cap: Cap) -> bool {
    cred.own_capable(cap) && cred.user_ns.has_ids(inode.uid(), inode.gid())
}

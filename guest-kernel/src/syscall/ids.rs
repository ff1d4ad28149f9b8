//! User and group ids at the border: programs speak those of their user namespace, the kernel those of
//! the initial one (user_namespaces(7)).

use crate::errno::{Errno, Result};
use crate::task;

/// The kernel's user id; `EINVAL` if the caller's namespace has no such id.
pub fn kuid(raw: u32) -> Result<u32> {
    task::current().cred().user_ns.uids().to_kernel(raw).ok_or(Errno::EINVAL)
}

/// The kernel's group id.
pub fn kgid(raw: u32) -> Result<u32> {
    task::current().cred().user_ns.gids().to_kernel(raw).ok_or(Errno::EINVAL)
}

/// What the caller calls a user; the overflow id if it has no id for it.
#[inline]
pub fn uid(kernel: u32) -> u32 {
    task::current().cred().user_ns.uids().from_kernel_munged(kernel)
}

/// What the caller calls a group.
#[inline]
pub fn gid(kernel: u32) -> u32 {
    task::current().cred().user_ns.gids().from_kernel_munged(kernel)
}

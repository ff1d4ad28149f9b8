//! User namespaces (user_namespaces(7)): hierarchical owners of ids and capabilities.

use belljar_abi::Described;

use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::sync::Once;

/// Deepest nesting, as in Linux.
pub const MAX_USER_NS_LEVEL: u32 = 32;

/// A user namespace.
#[repr(C)]
#[derive(Described)]
pub struct UserNs {
    /// Inode number of its /proc/PID/ns file.
    pub inum: u32,
    /// Nesting depth; 0 for the initial one.
    pub level: u32,
    /// The namespace around it.
    pub parent: Option<Ref<UserNs>>,
}

impl UserNs {
    /// A namespace inside `parent`, or the initial one.
    pub fn new(parent: Option<Ref<UserNs>>) -> Result<Ref<Self>> {
        let level = parent.as_ref().map_or(0, |p| p.level + 1);
        if level > MAX_USER_NS_LEVEL {
            return Err(Errno::ENOSPC);
        }
        Ref::try_new(Self { inum: super::new_inum(), level, parent })
    }
}

static INIT_USER_NS: Once<Ref<UserNs>> = Once::new();

/// The initial user namespace.
pub fn init_user_ns() -> &'static Ref<UserNs> {
    INIT_USER_NS.get()
}

pub(super) fn init() -> Result<()> {
    INIT_USER_NS.set(UserNs::new(None)?);
    Ok(())
}

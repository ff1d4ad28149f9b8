//! Extended attributes (xattr(7)): no file system here keeps any, which is what these calls say.

use super::{Args, SysResult, UserPath, caller, fget};
use crate::errno::{Errno, Result};
use crate::fs::namei::{LookupFlags, lookup};
use crate::mm::user;

/// Longest name of an attribute.
const XATTR_NAME_MAX: usize = 255;

/// What asking for the attribute at `name` comes to: unknown where the kernel itself could have set
/// one, not supported where only programs do.
fn get(name: u64) -> SysResult {
    match user::read_cstr(name, XATTR_NAME_MAX + 1) {
        Err(Errno::ENAMETOOLONG) => Err(Errno::ERANGE),
        Err(error) => Err(error),
        Ok(name) if name.is_empty() => Err(Errno::ERANGE),
        Ok(name) if [&b"security."[..], b"trusted."].iter().any(|p| name.starts_with(p)) => {
            Err(Errno::ENODATA)
        }
        Ok(_) => Err(Errno::EOPNOTSUPP),
    }
}

fn check_path(addr: u64, follow: bool) -> Result<()> {
    let flags = if follow { LookupFlags::FOLLOW } else { LookupFlags::empty() };
    lookup(caller(), None, UserPath::read(addr)?.bytes(), flags)?.inode()?;
    Ok(())
}

/// setxattr(2).
pub fn sys_setxattr(a: &mut Args) -> SysResult {
    check_path(a.u64(0), true)?;
    Err(Errno::EOPNOTSUPP)
}

/// lsetxattr(2).
pub fn sys_lsetxattr(a: &mut Args) -> SysResult {
    check_path(a.u64(0), false)?;
    Err(Errno::EOPNOTSUPP)
}

/// fsetxattr(2).
pub fn sys_fsetxattr(a: &mut Args) -> SysResult {
    fget(a.fd(0))?;
    Err(Errno::EOPNOTSUPP)
}

/// getxattr(2).
pub fn sys_getxattr(a: &mut Args) -> SysResult {
    check_path(a.u64(0), true)?;
    get(a.u64(1))
}

/// lgetxattr(2).
pub fn sys_lgetxattr(a: &mut Args) -> SysResult {
    check_path(a.u64(0), false)?;
    get(a.u64(1))
}

/// fgetxattr(2).
pub fn sys_fgetxattr(a: &mut Args) -> SysResult {
    fget(a.fd(0))?;
    get(a.u64(1))
}

/// listxattr(2).
pub fn sys_listxattr(a: &mut Args) -> SysResult {
    check_path(a.u64(0), true)?;
    Ok(0)
}

/// llistxattr(2).
pub fn sys_llistxattr(a: &mut Args) -> SysResult {
    check_path(a.u64(0), false)?;
    Ok(0)
}

/// flistxattr(2).
pub fn sys_flistxattr(a: &mut Args) -> SysResult {
    fget(a.fd(0))?;
    Ok(0)
}

/// removexattr(2).
pub fn sys_removexattr(a: &mut Args) -> SysResult {
    sys_getxattr(a)
}

/// lremovexattr(2).
pub fn sys_lremovexattr(a: &mut Args) -> SysResult {
    sys_lgetxattr(a)
}

/// fremovexattr(2).
pub fn sys_fremovexattr(a: &mut Args) -> SysResult {
    sys_fgetxattr(a)
}

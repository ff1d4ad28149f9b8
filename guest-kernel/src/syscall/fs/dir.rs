//! Directories: getdents64, chdir, chroot, getcwd, umask.

use super::{Args, SysResult, UserPath, caller, fget};
use crate::errno::{Errno, Result};
use crate::fs::file::DirSink;
use crate::fs::perm::{self, Access};
use crate::fs::{NAME_MAX, PATH_MAX, UserBuf, open};
use crate::task;

/// `struct linux_dirent64` without its name: inode number, position, length, type.
const HEADER: usize = 19;

/// Writes entries to the program as they come.
struct Dirents {
    room: UserBuf<'static>,
    done: usize,
    error: Option<Errno>,
}

impl DirSink for Dirents {
    fn emit(&mut self, name: &[u8], ino: u64, mode: u32, next: u64) -> bool {
        let mut record = [0; (HEADER + NAME_MAX + 1).next_multiple_of(8)];
        let len = (HEADER + name.len() + 1).next_multiple_of(8);
        if len > record.len() || len > self.room.remaining() {
            self.error = Some(Errno::EINVAL);
            return false;
        }
        record[..8].copy_from_slice(&ino.to_ne_bytes());
        record[8..16].copy_from_slice(&next.to_ne_bytes());
        record[16..18].copy_from_slice(&(len as u16).to_ne_bytes());
        // DT_* are the S_IF* values, 12 bits down.
        record[18] = (mode >> 12) as u8 & 0xf;
        record[HEADER..HEADER + name.len()].copy_from_slice(name);
        match self.room.put(&record[..len]) {
            Ok(n) if n == len => {
                self.done += n;
                true
            }
            _ => {
                self.error = Some(Errno::EFAULT);
                false
            }
        }
    }
}

/// getdents64(2).
pub fn sys_getdents64(a: &mut Args) -> SysResult {
    let file = fget(a.fd(0))?;
    if !file.inode.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let room = UserBuf::user(a.u64(1), a.u32(2) as usize)?;
    let mut sink = Dirents { room, done: 0, error: None };
    file.readdir(&mut sink)?;
    match sink.error {
        Some(error) if sink.done == 0 => Err(error),
        _ => Ok(sink.done),
    }
}

/// chdir(2).
pub fn sys_chdir(a: &mut Args) -> SysResult {
    let name = UserPath::read(a.u64(0))?;
    let caller = caller();
    caller.fs.set_cwd(open::directory(caller, None, name.bytes())?);
    Ok(0)
}

/// fchdir(2).
pub fn sys_fchdir(a: &mut Args) -> SysResult {
    let file = task::current().files().get_any(a.fd(0))?;
    if !file.inode.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let caller = caller();
    perm::permission(&file.inode, Access::EXEC, caller.cred)?;
    caller.fs.set_cwd(file.path.clone());
    Ok(0)
}

/// chroot(2).
pub fn sys_chroot(a: &mut Args) -> SysResult {
    let name = UserPath::read(a.u64(0))?;
    open::chroot(caller(), name.bytes())?;
    Ok(0)
}

/// getcwd(2): the length with the closing NUL.
pub fn sys_getcwd(a: &mut Args) -> SysResult {
    const UNREACHABLE: &[u8] = b"(unreachable)";
    let fs = caller().fs;
    let cwd = fs.cwd();
    if cwd.dentry.is_unlinked() {
        return Err(Errno::ENOENT);
    }
    let write = |buf: &mut [u8]| -> Result<usize> {
        // Room for the NUL is kept at the end.
        let (text, reachable) =
            cwd.text_in(&fs.root(), buf.split_last_mut().ok_or(Errno::ERANGE)?.1)?;
        let prefix = if reachable { &b""[..] } else { UNREACHABLE };
        let total = prefix.len() + text.len() + 1;
        if total > a.usize(1) {
            return Err(Errno::ERANGE);
        }
        let mut to = UserBuf::user(a.u64(0), total)?;
        for part in [prefix, text, b"\0"] {
            if to.put(part)? < part.len() {
                return Err(Errno::EFAULT);
            }
        }
        Ok(total)
    };
    match write(&mut [0; 256]) {
        Err(Errno::ENAMETOOLONG) => {
            let mut long = alloc::vec::Vec::new();
            long.try_reserve_exact(PATH_MAX).map_err(|_| Errno::ENOMEM)?;
            long.resize(PATH_MAX, 0);
            write(&mut long)
        }
        result => result,
    }
}

/// umask(2).
pub fn sys_umask(a: &mut Args) -> SysResult {
    Ok(caller().fs.set_umask(a.u32(0)) as usize)
}

//! ioctl: what every file has, then the file's own.

use linux_raw_sys::ioctl::{FIGETBSZ, FIOASYNC, FIOCLEX, FIONBIO, FIONCLEX, FIONREAD};

use super::{Args, SysResult, fget, owner};
use crate::errno::Errno;
use crate::fs::{File, FileKind, OpenFlags, fasync};
use crate::mm::UserPtr;
use crate::task;

/// Whom a socket tells (socket(7)).
const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;
const FIOGETOWN: u32 = 0x8903;
const SIOCGPGRP: u32 = 0x8904;

fn change_flag(file: &File, flag: OpenFlags, arg: u64) -> SysResult {
    let on = UserPtr::<i32>::new(arg).read()? != 0;
    let mut flags = file.flags();
    flags.set(flag, on);
    file.set_flags(flags);
    Ok(0)
}

/// ioctl(2).
pub fn sys_ioctl(a: &mut Args) -> SysResult {
    let (fd, cmd, arg) = (a.fd(0), a.u32(1), a.u64(2));
    let file = fget(fd)?;
    match cmd {
        FIOCLEX | FIONCLEX => {
            task::current().files().set_cloexec(fd, cmd == FIOCLEX)?;
            Ok(0)
        }
        FIONBIO => change_flag(&file, OpenFlags::NONBLOCK, arg),
        FIOASYNC => {
            let on = UserPtr::<i32>::new(arg).read()? != 0;
            if on != file.flags().contains(OpenFlags::ASYNC) {
                if !fasync::is_supported(&file) {
                    return Err(Errno::ENOTTY);
                }
                owner::set_async(&file, fd, on)?;
            }
            change_flag(&file, OpenFlags::ASYNC, arg)
        }
        FIOSETOWN | SIOCSPGRP if file.kind == FileKind::Socket => {
            owner::set(&file, UserPtr::<i32>::new(arg).read()?)
        }
        FIOGETOWN | SIOCGPGRP if file.kind == FileKind::Socket => {
            UserPtr::<i32>::new(arg).write(owner::get(&file))?;
            Ok(0)
        }
        FIGETBSZ => {
            let bsize = file.inode.sb.ops.statfs(&file.inode.sb)?.bsize;
            UserPtr::<i32>::new(arg).write(bsize as i32)?;
            Ok(0)
        }
        FIONREAD if file.inode.is_regular() => {
            let left = file.inode.size().saturating_sub(file.pos());
            UserPtr::<i32>::new(arg).write(left as i32)?;
            Ok(0)
        }
        _ => file.ops().ioctl(&file, cmd, arg),
    }
}

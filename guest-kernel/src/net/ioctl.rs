//! ioctl(2) that every socket has (socket(7)); those about interfaces go to the namespace.

use super::inet;
use super::socket::Socket;
use crate::errno::Result;
use crate::fs::File;
use crate::mm::UserPtr;

const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;
const FIOGETOWN: u32 = 0x8903;
const SIOCGPGRP: u32 = 0x8904;

/// What the protocol does not know.
pub fn ioctl(socket: &Socket, file: &File, cmd: u32, arg: u64) -> Result<usize> {
    match cmd {
        FIOSETOWN | SIOCSPGRP => {
            file.owner().lock().pid = UserPtr::<i32>::new(arg).read()?;
            Ok(0)
        }
        FIOGETOWN | SIOCGPGRP => {
            let pid = file.owner().lock().pid;
            UserPtr::<i32>::new(arg).write(pid)?;
            Ok(0)
        }
        _ => inet::ioctl::ioctl(&*socket.common.net()?, cmd, arg),
    }
}

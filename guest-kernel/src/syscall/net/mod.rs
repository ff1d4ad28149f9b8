//! System calls on sockets: [`socket`] makes and names them, [`message`] and [`control`] carry messages,
//! [`option`] sets options.

pub mod control;
pub mod message;
pub mod option;
pub mod socket;

use super::{Args, SysResult};
use crate::errno::{Errno, Result};
use crate::fs::File;
use crate::kref::Ref;
use crate::mm::{UserPtr, copy_in, copy_out};
use crate::net::NetNs;
use crate::net::address::{ADDRESS_MAX, Address};
use crate::net::hooks::{self, Hooks, Identity};
use crate::net::socket::{Socket, socket_of};
use crate::ns::{Cred, Namespace};
use crate::procfs::nsfs::namespace_of;
use crate::task::rlimit::Resource;
use crate::task::{self, Task, list};

/// The socket behind a descriptor, kept open meanwhile.
struct Open(Ref<File>);

impl Open {
    /// `EBADF` if there is no file, `ENOTSOCK` if it is none.
    fn get(fd: i32) -> Result<Self> {
        let file = task::current().files().get(fd)?;
        socket_of(&file)?;
        Ok(Self(file))
    }

    /// The same, but whether it is a socket is asked later.
    fn any(fd: i32) -> Result<Self> {
        Ok(Self(task::current().files().get(fd)?))
    }

    fn socket(&self) -> Result<&Socket> {
        socket_of(&self.0)
    }
}

/// An address from the program's memory.
fn read_address(at: u64, len: i32) -> Result<Address> {
    let len = usize::try_from(len).ok().filter(|&len| len <= ADDRESS_MAX).ok_or(Errno::EINVAL)?;
    let mut bytes = [0; ADDRESS_MAX];
    copy_in(at, &mut bytes[..len])?;
    Address::new(&bytes[..len])
}

/// Writes an address where there is room for `*len` bytes, and its whole length to `len`.
fn write_address(address: &Address, at: u64, len: UserPtr<i32>) -> Result<()> {
    let room = usize::try_from(len.read()?).map_err(|_| Errno::EINVAL)?;
    let bytes = address.bytes();
    copy_out(at, &bytes[..bytes.len().min(room)])?;
    len.write(bytes.len() as i32)
}

fn identity_of(task: &Task, ids: fn(&Cred) -> (u32, u32)) -> Identity {
    let (uid, gid) = ids(task.cred());
    Identity { pid: task.leader().thread_pid.share(), uid, gid }
}

fn net_by_fd(fd: i32) -> Result<Ref<NetNs>> {
    match namespace_of(&*task::current().files().get(fd)?) {
        Some(Namespace::Net(net)) => Ok(net.clone()),
        _ => Err(Errno::EINVAL),
    }
}

fn net_by_pid(pid: u32) -> Result<Ref<NetNs>> {
    let ns = task::current().active_pid_ns();
    let task = list::find_process(pid, &ns).ok_or(Errno::ESRCH)?;
    let proxy = task.nsproxy.share().ok_or(Errno::ESRCH)?;
    Ok(proxy.net.clone())
}

/// Tells the network floor about the caller; at boot.
pub fn install_hooks() {
    hooks::install(Hooks {
        real_identity: || identity_of(task::current(), |cred| (cred.uid, cred.gid)),
        identity: || identity_of(task::current(), |cred| (cred.euid, cred.egid)),
        cred: || task::current().cred().clone(),
        pid_ns: || task::current().active_pid_ns(),
        net_ns: || task::current().nsproxy().net.clone(),
        net_by_fd,
        net_by_pid,
        nofile: || task::current().signal.rlimits.soft(Resource::Nofile),
    });
}

//! Names of Unix sockets: a path, whose inode leads to the socket, or bytes after a NUL, which a network
//! namespace keeps (unix(7), "Address format").

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use belljar_abi::Described;

use super::sock::UnixSock;
use crate::errno::{Errno, Result};
use crate::fs::namei::{self, LookupFlags};
use crate::fs::perm::{self, Access};
use crate::fs::{Caller, Dev, Inode, verbs};
use crate::kref::Ref;
use crate::mm::{try_box, try_to_vec};
use crate::net::AF_UNIX;
use crate::net::address::Address;
use crate::ordmap::OrdMap;
use crate::sync::SpinLock;
use crate::uapi;

/// Bytes before the name in a `struct sockaddr_un`.
const PATH_OFFSET: usize = 2;
/// Bytes of a `struct sockaddr_un`.
const SOCKADDR_UN: usize = 110;

/// A name as an address has it.
pub enum UnixName<'a> {
    /// None: bind(2) is to find one.
    Auto,
    /// A path.
    Path(&'a [u8]),
    /// An abstract name, without its NUL.
    Abstract(&'a [u8]),
}

/// Reads an address (`unix_validate_addr`).
pub fn parse(address: &[u8]) -> Result<UnixName<'_>> {
    if address.len() < PATH_OFFSET || address.len() > SOCKADDR_UN {
        return Err(Errno::EINVAL);
    }
    if crate::net::address::family_of(address)? != AF_UNIX as u16 {
        return Err(Errno::EINVAL);
    }
    Ok(match &address[PATH_OFFSET..] {
        [] => UnixName::Auto,
        [0, name @ ..] => UnixName::Abstract(name),
        path => {
            let end = path.iter().position(|&b| b == 0).unwrap_or(path.len());
            UnixName::Path(&path[..end])
        }
    })
}

/// The address of a socket without a name.
pub fn unnamed() -> Address {
    Address::new(&(AF_UNIX as u16).to_ne_bytes()).unwrap_or(Address::EMPTY)
}

fn address_of(parts: &[&[u8]]) -> Result<Address> {
    let mut bytes = [0; SOCKADDR_UN + 1];
    bytes[..2].copy_from_slice(&(AF_UNIX as u16).to_ne_bytes());
    let mut len = PATH_OFFSET;
    for part in parts {
        bytes.get_mut(len..len + part.len()).ok_or(Errno::EINVAL)?.copy_from_slice(part);
        len += part.len();
    }
    Address::new(&bytes[..len])
}

fn bound(parts: &[&[u8]], inode: Option<Ref<Inode>>) -> Result<Ref<Bound>> {
    Ref::try_new(Bound { address: address_of(parts)?, inode })
}

/// What stands behind the inode of a path.
pub struct PathEntry(SpinLock<Option<Ref<UnixSock>>>);

/// A socket's name.
#[repr(C)]
#[derive(Described)]
#[described(name = "UnixBound")]
pub struct Bound {
    /// As an address.
    #[described(skip)]
    pub address: Address,
    /// What its path leads to; none if it is abstract.
    inode: Option<Ref<Inode>>,
}

impl Bound {
    /// What its path leads to; none if it is abstract.
    pub fn inode(&self) -> Option<&Ref<Inode>> {
        self.inode.as_ref()
    }

    /// Takes the name off; the path itself stays.
    pub fn unbind(&self, sock: &UnixSock) {
        match &self.inode {
            Some(inode) => {
                if let Some(entry) = entry_of(inode) {
                    let old = entry.0.lock().take();
                    drop(old);
                }
            }
            None => {
                if let Ok(net) = sock.common.net() {
                    net.unix.unbind(sock.common.kind, &self.address.bytes()[3..]);
                }
            }
        }
    }

    /// The same name, for a connection of a listener.
    pub fn for_connection(&self) -> Address {
        self.address
    }
}

fn entry_of(inode: &Inode) -> Option<&PathEntry> {
    inode.special.try_get()?.downcast_ref()
}

/// Kind of socket, and name without its NUL.
type AbstractName = (u32, Vec<u8>);

/// The Unix sockets of a network namespace, and their abstract names.
pub struct Names {
    by_name: SpinLock<OrdMap<AbstractName, Ref<UnixSock>>>,
    /// Every socket, by address, so that `/proc/net/unix` can show them. A socket takes itself off when it is released.
    all: SpinLock<OrdMap<usize, Ref<UnixSock>>>,
    /// Where the search for an automatic name starts.
    next_auto: AtomicU32,
}

impl Default for Names {
    fn default() -> Self {
        Self::new()
    }
}

impl Names {
    /// No sockets.
    pub const fn new() -> Self {
        Self {
            by_name: SpinLock::new(OrdMap::new()),
            all: SpinLock::new(OrdMap::new()),
            next_auto: AtomicU32::new(0),
        }
    }

    /// Notes a socket.
    pub fn insert(&self, sock: &Ref<UnixSock>) -> Result<()> {
        self.all.lock().try_insert(Ref::as_ptr(sock) as usize, sock.clone()).map(drop)
    }

    /// Forgets a socket.
    pub fn remove(&self, sock: &UnixSock) {
        let old = self.all.lock().remove(&(core::ptr::from_ref(sock) as usize));
        drop(old);
    }

    /// The socket after the one at `at`, for walks.
    pub fn next(&self, at: usize) -> Option<Ref<UnixSock>> {
        self.all.lock().range_from(&(at + 1)).next().map(|(_, sock)| sock.clone())
    }

    /// Runs `f` on each socket, without holding a lock meanwhile.
    pub fn for_each(&self, mut f: impl FnMut(&Ref<UnixSock>) -> Result<()>) -> Result<()> {
        let mut at = 0;
        while let Some(sock) = self.next(at) {
            at = Ref::as_ptr(&sock) as usize;
            f(&sock)?;
        }
        Ok(())
    }

    fn unbind(&self, kind: u32, name: &[u8]) {
        let Ok(name) = try_to_vec(name) else { return };
        let old = self.by_name.lock().remove(&(kind, name));
        drop(old);
    }

    /// Gives `sock` an abstract name; false if it is taken.
    fn bind(&self, sock: &UnixSock, name: &[u8]) -> Result<bool> {
        let key = (sock.common.kind, try_to_vec(name)?);
        let mut table = self.by_name.lock();
        if table.contains_key(&key) {
            return Ok(false);
        }
        table.try_insert(key, sock.to_ref())?;
        Ok(true)
    }

    fn find(&self, kind: u32, name: &[u8]) -> Result<Option<Ref<UnixSock>>> {
        Ok(self.by_name.lock().get(&(kind, try_to_vec(name)?)).cloned())
    }
}

/// Type and permissions of a socket's path.
const SOCKET_MODE: u32 = uapi::S_IFSOCK | 0o777;

/// A path that exists is an address in use.
fn in_use(error: Errno) -> Errno {
    if error == Errno::EEXIST { Errno::EADDRINUSE } else { error }
}

impl UnixSock {
    fn set_bound(&self, bound: Ref<Bound>) {
        self.common.set_local(bound.address.bytes());
        self.state.lock().bound = Some(bound);
    }

    /// bind(2).
    pub fn bind(&self, caller: Caller<'_>, address: &[u8]) -> Result<()> {
        let name = parse(address)?;
        let _guard = self.binding.lock();
        let has_name = self.state.lock().bound.is_some();
        match name {
            UnixName::Auto => return if has_name { Ok(()) } else { self.bind_auto() },
            UnixName::Path(path) if has_name => {
                // The path must be one that could be made.
                verbs::mknod(caller, None, path, SOCKET_MODE, Dev::default()).map_err(in_use)?;
                let _ = verbs::unlink(caller, None, path);
                return Err(Errno::EINVAL);
            }
            _ if has_name => return Err(Errno::EINVAL),
            UnixName::Abstract(name) => {
                let bound = bound(&[&[0], name], None)?;
                if !self.common.net()?.unix.bind(self, name)? {
                    return Err(Errno::EADDRINUSE);
                }
                self.set_bound(bound);
            }
            UnixName::Path(path) => self.bind_path(caller, path)?,
        }
        Ok(())
    }

    /// A free abstract name of five hexadecimal digits (unix(7), "Autobind feature").
    fn bind_auto(&self) -> Result<()> {
        const NAMES: u32 = 1 << 20;
        let net = self.common.net()?;
        let names = &net.unix;
        for _ in 0..NAMES {
            let mut number = names.next_auto.fetch_add(1, Relaxed) % NAMES;
            let mut name = [0; 5];
            for digit in name.iter_mut().rev() {
                *digit = b"0123456789abcdef"[number as usize & 15];
                number >>= 4;
            }
            let bound = bound(&[&[0], &name], None)?;
            if names.bind(self, &name)? {
                self.set_bound(bound);
                return Ok(());
            }
        }
        Err(Errno::ENOSPC)
    }

    /// Gives it a name if it has none: what sending with credentials asks for.
    pub fn autobind(&self) -> Result<()> {
        let _guard = self.binding.lock();
        if self.state.lock().bound.is_some() {
            return Ok(());
        }
        self.bind_auto()
    }

    fn bind_path(&self, caller: Caller<'_>, path: &[u8]) -> Result<()> {
        let place =
            verbs::mknod(caller, None, path, SOCKET_MODE, Dev::default()).map_err(in_use)?;
        let inode = place.inode()?.clone();
        inode.special.set(try_box(PathEntry(SpinLock::new(Some(self.to_ref()))))?);
        // The closing NUL is part of what getsockname(2) returns.
        self.set_bound(bound(&[path, &[0]], Some(inode))?);
        Ok(())
    }

    /// Takes a path again that it had, though the socket's inode may be there still. `EADDRINUSE` if another socket
    /// has it, or it leads to something else.
    pub fn bind_again(&self, caller: Caller<'_>, address: &[u8]) -> Result<()> {
        let result = self.bind(caller, address);
        let UnixName::Path(path) = parse(address)? else { return result };
        if result != Err(Errno::EADDRINUSE) {
            return result;
        }
        let _guard = self.binding.lock();
        let place = namei::lookup(caller, None, path, LookupFlags::empty())?;
        let inode = place.inode()?.clone();
        if inode.file_type() != uapi::S_IFSOCK {
            return result;
        }
        if inode.special.try_get().is_none() {
            inode.special.set(try_box(PathEntry(SpinLock::new(None)))?);
        }
        let bound = bound(&[path, &[0]], Some(inode.clone()))?;
        let mut there = entry_of(&inode).ok_or(Errno::EADDRINUSE)?.0.lock();
        if there.is_some() {
            return result;
        }
        *there = Some(self.to_ref());
        drop(there);
        self.set_bound(bound);
        Ok(())
    }
}

/// Refuses an address that names no socket, whoever has it.
pub fn check(address: &[u8]) -> Result<()> {
    match parse(address)? {
        UnixName::Auto => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// The socket that an address names, for a connection or message of this kind (`unix_find_other`).
pub fn find(
    net: &crate::net::NetNs,
    caller: Option<Caller<'_>>,
    address: &[u8],
    kind: u32,
) -> Result<Ref<UnixSock>> {
    match parse(address)? {
        UnixName::Auto => Err(Errno::EINVAL),
        UnixName::Abstract(name) => net.unix.find(kind, name)?.ok_or(Errno::ECONNREFUSED),
        UnixName::Path(path) => {
            let caller = caller.ok_or(Errno::EINVAL)?;
            let place = namei::lookup(caller, None, path, LookupFlags::FOLLOW)?;
            let inode = place.inode()?;
            perm::permission(inode, Access::WRITE, caller.cred)?;
            if inode.file_type() != uapi::S_IFSOCK {
                return Err(Errno::ECONNREFUSED);
            }
            let entry = entry_of(inode).ok_or(Errno::ECONNREFUSED)?;
            let sock = entry.0.lock().clone().ok_or(Errno::ECONNREFUSED)?;
            if sock.common.kind != kind {
                return Err(Errno::EPROTOTYPE);
            }
            Ok(sock)
        }
    }
}

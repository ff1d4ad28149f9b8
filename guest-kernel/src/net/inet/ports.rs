//! Ports: which are free, and who may share one (ip(7), socket(7) on `SO_REUSEADDR`).

use alloc::vec::Vec;

use crate::drivers::random;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::try_collect;
use crate::net::common::{Common, flag};
use crate::net::{NetNs, hooks};
use crate::ns::Cap;
use crate::ordmap::OrdMap;

/// `net.ipv4.ip_local_port_range`.
pub const EPHEMERAL: core::ops::RangeInclusive<u16> = 32768..=60999;
/// Ports below need a capability (`net.ipv4.ip_unprivileged_port_start`).
pub const UNPRIVILEGED: u16 = 1024;

/// Sockets of one protocol by port.
pub struct ByPort<T> {
    /// No port is here without a socket.
    ports: OrdMap<u16, Vec<Ref<T>>>,
}

impl<T> Default for ByPort<T> {
    fn default() -> Self {
        Self { ports: OrdMap::new() }
    }
}

impl<T> ByPort<T> {
    /// Every socket, once for each port that it has.
    pub fn all(&self) -> Result<Vec<Ref<T>>> {
        try_collect(self.ports.values().flatten().cloned())
    }

    /// Those that have a port.
    pub fn of(&self, port: u16) -> &[Ref<T>] {
        self.ports.get(&port).map_or(&[], Vec::as_slice)
    }

    /// Gives a socket a port.
    pub fn add(&mut self, port: u16, sock: Ref<T>) -> Result<()> {
        if let Some(there) = self.ports.get_mut(&port) {
            there.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            there.push(sock);
            return Ok(());
        }
        self.ports.try_insert(port, try_collect(core::iter::once(sock))?).map(drop)
    }

    /// Takes a port from a socket; the table's reference is returned.
    pub fn remove(&mut self, port: u16, sock: &T) -> Option<Ref<T>> {
        let there = self.ports.get_mut(&port)?;
        let at = there.iter().position(|other| core::ptr::eq(&raw const **other, sock));
        let gone = at.map(|at| there.swap_remove(at));
        if there.is_empty() {
            self.ports.remove(&port);
        }
        gone
    }
}

/// `EACCES` unless the caller may bind to the port.
pub fn check_privileged(net: &NetNs, port: u16) -> Result<()> {
    if port != 0 && port < UNPRIVILEGED && !hooks::ns_capable(net, Cap::NetBindService) {
        return Err(Errno::EACCES);
    }
    Ok(())
}

/// A port that `is_free` says is free, searched from a random place on; `EADDRINUSE` if none is.
pub fn ephemeral(is_free: impl Fn(u16) -> bool) -> Result<u16> {
    let count = u32::from(*EPHEMERAL.end() - *EPHEMERAL.start()) + 1;
    let start = (random::random_u64() % u64::from(count)) as u32;
    (0..count)
        .map(|i| EPHEMERAL.start() + ((start + i) % count) as u16)
        .find(|&port| is_free(port))
        .ok_or(Errno::EADDRINUSE)
}

/// True if both sockets agreed to share a port. `listens`: one of them is a TCP listener, for which
/// `SO_REUSEADDR` is not enough.
pub fn may_share(a: &Common, b: &Common, listens: bool) -> bool {
    let both = |flag| a.has(flag) && b.has(flag);
    both(flag::REUSEADDR) && !listens || both(flag::REUSEPORT) && a.uid == b.uid
}

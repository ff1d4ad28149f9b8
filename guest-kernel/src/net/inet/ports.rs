//! Ports: which are free, and who may share one (ip(7), socket(7) on `SO_REUSEADDR`).

use crate::drivers::random;
use crate::errno::{Errno, Result};
use crate::net::common::{Common, flag};
use crate::net::{NetNs, hooks};
use crate::ns::Cap;

/// `net.ipv4.ip_local_port_range`.
pub const EPHEMERAL: core::ops::RangeInclusive<u16> = 32768..=60999;
/// Ports below need a capability (`net.ipv4.ip_unprivileged_port_start`).
pub const UNPRIVILEGED: u16 = 1024;

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

//! sock_diag(7): sockets as `ss` shows them.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use smoltcp::wire::IpAddress;

use super::message::{Answer, Request};
use super::u32_at;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::try_collect;
use crate::net::common::{Common, state};
use crate::net::inet::endpoint::{Endpoint, any, as_v6};
use crate::net::inet::{AF_INET, AF_INET6};
use crate::net::options::cookie;
use crate::net::unix::UnixSock;
use crate::net::{AF_UNIX, NetNs};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// Bytes of a `struct inet_diag_req_v2`.
const INET_REQUEST: usize = 56;
/// Bytes of a `struct unix_diag_req`.
const UNIX_REQUEST: usize = 24;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

const UNIX_NAME: u16 = 0;
const UNIX_PEER: u16 = 2;
const UNIX_RQLEN: u16 = 4;
const UNIX_SHUTDOWN: u16 = 6;
const SHOW_NAME: u32 = 1 << 0;
const SHOW_PEER: u32 = 1 << 2;
const SHOW_RQLEN: u32 = 1 << 4;

/// A socket: its own end, the other end, and what waits to be received and to be sent.
type Row = (Ref<Common>, Endpoint, Option<Endpoint>, [usize; 2]);

/// Works off a request.
pub fn handle(net: &NetNs, request: &Request<'_>, port: u32) -> Result<Answer> {
    if request.kind != BY_FAMILY {
        return Err(Errno::EINVAL);
    }
    if !request.is_dump() {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut answer = Answer::new(request.seq, port, true);
    let family = u32::from(request.payload().first().copied().unwrap_or(0));
    match family {
        AF_INET | AF_INET6 => inet(net, request, family, &mut answer)?,
        AF_UNIX => unix(net, request, &mut answer)?,
        _ => return Err(Errno::ENOENT),
    }
    answer.finish_dump();
    Ok(answer)
}

fn inet(net: &NetNs, request: &Request<'_>, family: u32, answer: &mut Answer) -> Result<()> {
    let fixed = request.fixed(INET_REQUEST)?;
    let states = u32_at(fixed, 4);
    let half = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let (sport, dport) = (half(8), half(10));
    let queued = |common: &Common| [common.rx_queued.load(Relaxed), common.tx_queued.load(Relaxed)];
    let rows: Vec<Row> = match fixed[1] {
        IPPROTO_TCP => {
            let sockets = net.stack.tcp.lock().all()?;
            try_collect(sockets.iter().map(|sock| {
                let names = *sock.names.lock();
                // A listener's are the connections that wait, and how many may.
                let listener = sock.listener.lock();
                let queues = listener.as_ref().map_or_else(
                    || queued(&sock.common),
                    |listener| [listener.ready.len(), listener.backlog],
                );
                (sock.common.clone(), names.local, names.peer, queues)
            }))?
        }
        IPPROTO_UDP => {
            let sockets = net.stack.udp.lock().all()?;
            try_collect(sockets.iter().map(|sock| {
                let (local, peer) = sock.endpoints();
                (sock.common.clone(), local, peer, queued(&sock.common))
            }))?
        }
        _ => {
            let sockets = net.stack.raw.lock().all()?;
            try_collect(sockets.iter().map(|sock| {
                let (local, peer) = sock.endpoints();
                (sock.common.clone(), local, peer, queued(&sock.common))
            }))?
        }
    };
    for (common, local, peer, queues) in rows {
        let peer = peer.unwrap_or(Endpoint::new(any(family), 0));
        if common.family == family
            && states & (1 << common.state()) != 0
            && (sport == 0 || sport == local.port)
            && (dport == 0 || dport == peer.port)
        {
            write_inet(&common, local, peer, queues, answer);
        }
    }
    Ok(())
}

fn put_address(bytes: &mut [u8], family: u32, address: IpAddress) {
    match (family, address) {
        (AF_INET, IpAddress::Ipv4(v4)) => bytes[..4].copy_from_slice(&v4.octets()),
        _ => bytes[..16].copy_from_slice(&as_v6(address).octets()),
    }
}

/// A `struct inet_diag_msg`.
fn write_inet(
    common: &Common,
    local: Endpoint,
    peer: Endpoint,
    [rx, tx]: [usize; 2],
    answer: &mut Answer,
) {
    let mut fixed = [0; 72];
    fixed[0] = common.family as u8;
    fixed[1] = common.state() as u8;
    fixed[4..6].copy_from_slice(&local.port.to_be_bytes());
    fixed[6..8].copy_from_slice(&peer.port.to_be_bytes());
    put_address(&mut fixed[8..24], common.family, local.addr);
    put_address(&mut fixed[24..40], common.family, peer.addr);
    fixed[40..44].copy_from_slice(&common.bound_dev.load(Relaxed).to_ne_bytes());
    fixed[44..52].copy_from_slice(&cookie(common).to_ne_bytes());
    let words = [0, rx as u32, tx as u32, common.uid, common.ino() as u32];
    for (to, word) in fixed[52..].chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    answer.begin(BY_FAMILY, &fixed);
    answer.end();
}

fn unix(net: &NetNs, request: &Request<'_>, answer: &mut Answer) -> Result<()> {
    let fixed = request.fixed(UNIX_REQUEST)?;
    let (states, show) = (u32_at(fixed, 4), u32_at(fixed, 12));
    net.unix.for_each(|sock| {
        if states & (1 << sock.common.state()) != 0 {
            write_unix(sock, show, answer);
        }
        Ok(())
    })
}

/// A `struct unix_diag_msg` with what was asked for.
fn write_unix(sock: &UnixSock, show: u32, answer: &mut Answer) {
    let common = &sock.common;
    let mut fixed = [0; 16];
    fixed[0] = AF_UNIX as u8;
    fixed[1] = common.kind as u8;
    fixed[2] = common.state() as u8;
    fixed[4..8].copy_from_slice(&(common.ino() as u32).to_ne_bytes());
    fixed[8..].copy_from_slice(&cookie(common).to_ne_bytes());
    answer.begin(BY_FAMILY, &fixed);
    let local = common.local();
    let name = local.bytes().get(2..).unwrap_or_default();
    if show & SHOW_NAME != 0 && !name.is_empty() {
        answer.attribute(UNIX_NAME, name);
    }
    if show & SHOW_PEER != 0
        && let Some(peer) = sock.peer()
    {
        answer.number(UNIX_PEER, peer.common.ino() as u32);
    }
    if show & SHOW_RQLEN != 0 {
        let (waiting, room) = if common.state() == state::LISTEN {
            let state = sock.state.lock();
            (state.pending.len(), state.backlog)
        } else {
            (common.rx_queued.load(Relaxed), common.tx_queued.load(Relaxed))
        };
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&(waiting as u32).to_ne_bytes());
        bytes[4..].copy_from_slice(&(room as u32).to_ne_bytes());
        answer.attribute(UNIX_RQLEN, &bytes);
    }
    answer.attribute(UNIX_SHUTDOWN, &[common.shutdown.load(Relaxed) as u8]);
    answer.end();
}

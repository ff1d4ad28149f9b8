//! /proc/net of the Internet families (proc(5)).

use core::fmt::{self, Write};
use core::sync::atomic::Ordering::Relaxed;

use smoltcp::wire::{IpAddress, IpCidr};

use super::endpoint::{Endpoint, any, as_v6};
use super::stack::Stack;
use super::{AF_INET, AF_INET6};
use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::net::NetNs;
use crate::net::common::{Common, flag, state};
use crate::net::dev::trimmed;

type Out<'a> = &'a mut dyn Write;

fn put(result: fmt::Result) -> Result<()> {
    result.map_err(|_| Errno::ENOMEM)
}

/// The text of a name.
fn text(name: &[u8; crate::net::IFNAMSIZ]) -> &str {
    core::str::from_utf8(trimmed(name)).unwrap_or("?")
}

/// An address as four or sixteen bytes in words of the machine, in hexadecimal, and the port.
fn hex(out: Out<'_>, family: u32, end: Endpoint) -> fmt::Result {
    match (family, end.addr) {
        (AF_INET, IpAddress::Ipv4(v4)) => write!(out, "{:08X}", u32::from_ne_bytes(v4.octets()))?,
        (_, addr) => {
            for word in as_v6(addr).octets().chunks_exact(4) {
                let word = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
                write!(out, "{word:08X}")?;
            }
        }
    }
    write!(out, ":{:04X}", end.port)
}

fn line(
    out: Out<'_>,
    n: usize,
    common: &Common,
    ends: (Endpoint, Option<Endpoint>),
    number: u32,
    datagrams: Option<u64>,
) -> fmt::Result {
    let family = common.family;
    write!(out, "{n:4}: ")?;
    hex(out, family, ends.0)?;
    write!(out, " ")?;
    hex(out, family, ends.1.unwrap_or(Endpoint::new(any(family), 0)))?;
    let (tx, rx) = (common.tx_queued.load(Relaxed), common.rx_queued.load(Relaxed));
    write!(out, " {number:02X} {tx:08X}:{rx:08X} 00:00000000 00000000")?;
    write!(out, " {:5}        0 {}", common.uid, common.ino())?;
    match datagrams {
        Some(dropped) => writeln!(out, " 2 {:016x} {dropped}", 0),
        None => writeln!(out, " 1 {:016x} 100 0 0 10 0", 0),
    }
}

const HEAD_V4: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
const HEAD_V6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";

fn head(out: Out<'_>, family: u32, datagrams: bool) -> Result<()> {
    let head = if family == AF_INET { HEAD_V4 } else { HEAD_V6 };
    let more = if datagrams { " ref pointer drops" } else { "" };
    put(writeln!(out, "{head}{more}"))
}

/// /proc/net/tcp and tcp6.
pub fn tcp(net: &NetNs, family: u32, out: Out<'_>) -> Result<()> {
    head(out, family, false)?;
    let sockets = net.stack.tcp.lock().all()?;
    let shown = sockets
        .iter()
        .filter(|sock| sock.common.family == family && sock.common.state() != state::CLOSE);
    for (n, sock) in shown.enumerate() {
        let names = *sock.names.lock();
        put(line(out, n, &sock.common, (names.local, names.peer), sock.common.state(), None))?;
    }
    Ok(())
}

/// /proc/net/udp and udp6.
pub fn udp(net: &NetNs, family: u32, out: Out<'_>) -> Result<()> {
    head(out, family, true)?;
    let sockets = net.stack.udp.lock().all()?;
    for (n, sock) in sockets.iter().filter(|sock| sock.common.family == family).enumerate() {
        let dropped = sock.queue.dropped.load(Relaxed);
        put(line(out, n, &sock.common, sock.endpoints(), sock.common.state(), Some(dropped)))?;
    }
    Ok(())
}

/// /proc/net/raw and raw6.
pub fn raw(net: &NetNs, family: u32, out: Out<'_>) -> Result<()> {
    head(out, family, true)?;
    let sockets = net.stack.raw.lock().all()?;
    for (n, sock) in sockets.iter().filter(|sock| sock.common.family == family).enumerate() {
        put(line(out, n, &sock.common, sock.endpoints(), sock.common.state(), Some(0)))?;
    }
    Ok(())
}

/// /proc/net/dev.
pub fn dev(net: &NetNs, out: Out<'_>) -> Result<()> {
    put(out.write_str(
        "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n",
    ))?;
    for device in net.stack.all_devices() {
        let stats = &device.stats;
        let n = |counter: &core::sync::atomic::AtomicU64| counter.load(Relaxed);
        put(writeln!(
            out,
            "{:>6}: {:7} {:7} {:4} {:4} {:4} {:5} {:10} {:9} {:8} {:7} {:4} {:4} {:4} {:5} {:7} {:10}",
            text(&device.name()),
            n(&stats.rx_bytes),
            n(&stats.rx_packets),
            0,
            n(&stats.rx_dropped),
            0,
            0,
            0,
            n(&stats.multicast),
            n(&stats.tx_bytes),
            n(&stats.tx_packets),
            0,
            n(&stats.tx_dropped),
            0,
            0,
            0,
            0
        ))?;
    }
    Ok(())
}

/// /proc/net/route: IPv4 routes.
pub fn route(net: &NetNs, out: Out<'_>) -> Result<()> {
    const RTF_UP: u32 = 1;
    const RTF_GATEWAY: u32 = 2;
    const RTF_HOST: u32 = 4;
    let title =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
    put(writeln!(out, "{title:<127}"))?;
    let routes = net.stack.routes.lock().all()?;
    for route in routes {
        let (IpCidr::Ipv4(dst), Some(device)) = (route.dst, &route.device) else { continue };
        let word = |bytes: [u8; 4]| u32::from_ne_bytes(bytes);
        let gateway = match route.gateway {
            Some(IpAddress::Ipv4(v4)) => word(v4.octets()),
            _ => 0,
        };
        let mut flags = RTF_UP;
        if gateway != 0 {
            flags |= RTF_GATEWAY;
        }
        if dst.prefix_len() == 32 {
            flags |= RTF_HOST;
        }
        let mut row = alloc::string::String::new();
        put(write!(
            row,
            "{}\t{:08X}\t{gateway:08X}\t{flags:04X}\t0\t0\t{}\t{:08X}\t0\t0\t0",
            text(&device.name()),
            word(dst.address().octets()),
            route.metric,
            word(dst.netmask().octets()),
        ))?;
        put(writeln!(out, "{row:<127}"))?;
    }
    Ok(())
}

/// /proc/net/if_inet6.
pub fn if_inet6(net: &NetNs, out: Out<'_>) -> Result<()> {
    const PERMANENT: u32 = 0x80;
    for device in net.stack.all_devices() {
        for address in device.all_addresses() {
            let IpCidr::Ipv6(v6) = address.cidr else { continue };
            let scope = match address.scope {
                254 => 0x10,
                253 => 0x20,
                _ => 0,
            };
            for byte in v6.address().octets() {
                put(write!(out, "{byte:02x}"))?;
            }
            let (index, len) = (device.index(), v6.prefix_len());
            let name = device.name();
            let name = text(&name);
            put(writeln!(out, " {index:02x} {len:02x} {scope:02x} {PERMANENT:02x} {name:>8}"))?;
        }
    }
    Ok(())
}

/// /proc/net/arp.
pub fn arp(net: &NetNs, out: Out<'_>) -> Result<()> {
    put(writeln!(
        out,
        "IP address       HW type     Flags       HW address            Mask     Device"
    ))?;
    let mut rows = alloc::vec::Vec::new();
    for (index, address, there) in net.stack.neighbours.lock().iter() {
        if let IpAddress::Ipv4(v4) = address {
            rows.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            rows.push((index, v4, there.mac, there.permanent));
        }
    }
    for (index, v4, mac, permanent) in rows {
        let Some(device) = net.stack.by_index(index) else { continue };
        let flags = if permanent { 6 } else { u32::from(mac.is_some()) * 2 };
        let [a, b, c, d, e, f] = mac.unwrap_or_default();
        let mut address = alloc::string::String::new();
        put(write!(address, "{v4}"))?;
        put(writeln!(
            out,
            "{address:<16} 0x1         0x{flags:x}         {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}     *        {}",
            text(&device.name())
        ))?;
    }
    Ok(())
}

/// /proc/net/packet.
pub fn packet(net: &NetNs, out: Out<'_>) -> Result<()> {
    put(writeln!(out, "sk       RefCnt Type Proto  Iface R Rmem   User   Inode"))?;
    let sockets = net.stack.packet.lock().all()?;
    for (common, protocol, device) in sockets {
        let (kind, rx) = (common.kind, common.rx_queued.load(Relaxed));
        let (uid, ino) = (common.uid, common.ino());
        put(writeln!(
            out,
            "{:016x} 3      {kind:<4} {protocol:04x}   {device:<5} 1 {rx:<6} {uid:<6} {ino:<6}",
            0
        ))?;
    }
    Ok(())
}

/// What /proc/net/sockstat says of the sockets of one family.
#[derive(Default)]
struct Counts {
    tcp: usize,
    /// TCP connections that nobody has a descriptor of any more.
    orphans: usize,
    /// Those of them that only wait for late segments.
    waiting: usize,
    udp: usize,
    raw: usize,
    /// Bytes that wait in TCP's and UDP's buffers.
    tcp_bytes: usize,
    udp_bytes: usize,
}

impl Counts {
    fn of(stack: &Stack, family: u32) -> Result<Self> {
        let mut counts = Self::default();
        let bytes =
            |common: &Common| common.rx_queued.load(Relaxed) + common.tx_queued.load(Relaxed);
        for sock in stack.tcp.lock().all()?.iter().filter(|sock| sock.common.family == family) {
            counts.tcp_bytes += bytes(&sock.common);
            match sock.common.state() {
                // Neither one that only has a port nor one that is being made for a listener.
                state::CLOSE | state::SYN_RECV => {}
                _ if !sock.common.has(flag::DEAD) => counts.tcp += 1,
                state::FIN_WAIT2 | state::TIME_WAIT => counts.waiting += 1,
                _ => (counts.tcp, counts.orphans) = (counts.tcp + 1, counts.orphans + 1),
            }
        }
        for sock in stack.udp.lock().all()?.iter().filter(|sock| sock.common.family == family) {
            counts.udp += 1;
            counts.udp_bytes += bytes(&sock.common);
        }
        let raw = stack.raw.lock().all()?;
        counts.raw = raw.iter().filter(|sock| sock.common.family == family).count();
        Ok(counts)
    }
}

/// /proc/net/sockstat. Linux counts orphans, memory and TCP sockets that are not in use over all namespaces;
/// here nobody sees more than his own.
pub fn sockstat(net: &NetNs, out: Out<'_>) -> Result<()> {
    let v4 = Counts::of(&net.stack, AF_INET)?;
    let v6 = Counts::of(&net.stack, AF_INET6)?;
    let (all, tcp) = (net.sockets.all.load(Relaxed), net.sockets.tcp.load(Relaxed));
    let (orphans, waiting) = (v4.orphans + v6.orphans, v4.waiting + v6.waiting);
    let pages = |bytes: usize| bytes.div_ceil(PAGE_SIZE);
    put(writeln!(out, "sockets: used {all}"))?;
    put(write!(out, "TCP: inuse {} orphan {orphans} tw {waiting} alloc {tcp}", v4.tcp))?;
    put(writeln!(out, " mem {}", pages(v4.tcp_bytes + v6.tcp_bytes)))?;
    put(writeln!(out, "UDP: inuse {} mem {}", v4.udp, pages(v4.udp_bytes + v6.udp_bytes)))?;
    put(writeln!(out, "UDPLITE: inuse 0\nRAW: inuse {}", v4.raw))?;
    let (fragments, memory) = net.stack.fragments.lock().usage();
    put(writeln!(out, "FRAG: inuse {fragments} memory {memory}"))
}

/// /proc/net/sockstat6.
pub fn sockstat6(net: &NetNs, out: Out<'_>) -> Result<()> {
    let Counts { tcp, udp, raw, .. } = Counts::of(&net.stack, AF_INET6)?;
    put(writeln!(out, "TCP6: inuse {tcp}\nUDP6: inuse {udp}\nUDPLITE6: inuse 0"))?;
    put(writeln!(out, "RAW6: inuse {raw}\nFRAG6: inuse 0 memory 0"))
}

/// /proc/net/snmp.
pub fn snmp(net: &NetNs, out: Out<'_>) -> Result<()> {
    let connections = net.stack.tcp.lock().all()?;
    let stands = |common: &Common| matches!(common.state(), state::ESTABLISHED | state::CLOSE_WAIT);
    let established = connections.iter().filter(|sock| stands(&sock.common)).count();
    put(net.stack.counters.show(established, out))
}

//! [`Stack`]: the IP part of a network namespace: devices, routes, neighbours, and the tables through
//! which packets find their sockets.
//!
//! Whoever makes a packet for this machine (over loopback or a veth pair) puts it into the receiver's
//! backlog; [`kick`] works backlogs off once the sender's locks are given back. So input never nests
//! in output, and a packet's way costs the sender, as on Linux, where a softirq does it.
//!
//! Lock order: a socket's own lock, `devices`, a device's locks, `routes`, `neighbours`, `backlog`. The socket
//! tables are taken and given back before a socket's lock is.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{
    AtomicBool, AtomicU16, AtomicU32, AtomicUsize, Ordering, Ordering::Relaxed,
};

use smoltcp::wire::{IpAddress, IpCidr, Ipv4Address, Ipv4Cidr, Ipv6Address, Ipv6Cidr};

use super::counters::Counters;
use super::neighbour::Neighbours;
use super::raw::RawTable;
use super::route::Routes;
use super::tcp::table::TcpTable;
use super::udp::UdpTable;
use super::{fragment, ip, notify};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::try_collect;
use crate::net::IFNAMSIZ;
use crate::net::dev::{IFF_UP, IfAddress, Kind, NetDevice, device_name, trimmed};
use crate::net::netlink::{nsid, sock::NetlinkTable};
use crate::net::packet::PacketTable;
use crate::sched::softirq::{self, Softirq};
use crate::sync::{PreemptGuard, SpinLock};

/// What waits to be received.
enum Incoming {
    /// An IP packet over loopback.
    Packet(Vec<u8>),
    /// A frame on a device.
    Frame(Ref<NetDevice>, Vec<u8>),
}

#[derive(Default)]
struct Backlog {
    queue: VecDeque<Incoming>,
    bytes: usize,
}

/// Packets that may wait (`net.core.netdev_max_backlog`).
const BACKLOG_PACKETS: usize = 1000;
/// Bytes that may wait.
const BACKLOG_BYTES: usize = 2 << 20;

/// The IP part of a network namespace.
pub struct Stack {
    /// Interfaces by number; the first is loopback.
    pub devices: SpinLock<Vec<Ref<NetDevice>>>,
    /// Routes.
    pub routes: SpinLock<Routes>,
    /// Who has which Ethernet address.
    pub neighbours: SpinLock<Neighbours>,
    /// TCP sockets.
    pub tcp: SpinLock<TcpTable>,
    /// UDP sockets.
    pub udp: SpinLock<UdpTable>,
    /// Raw and ping sockets.
    pub raw: SpinLock<RawTable>,
    /// Packet sockets.
    pub packet: SpinLock<PacketTable>,
    /// Netlink sockets.
    pub netlink: SpinLock<NetlinkTable>,
    /// What this namespace calls others.
    pub numbers: SpinLock<nsid::Numbers>,
    /// The inode number of the namespace.
    pub inum: u32,
    /// What was sent and received.
    pub counters: Counters,
    /// Packets that came in pieces.
    pub fragments: SpinLock<fragment::Assembler>,
    /// The number of the next IPv4 packet.
    pub next_id: AtomicU16,
    next_index: AtomicU32,
    backlog: SpinLock<Backlog>,
    scheduled: AtomicBool,
    closed: AtomicBool,
}

/// Stacks whose backlog is not empty.
static PENDING: SpinLock<VecDeque<Ref<Stack>>> = SpinLock::new(VecDeque::new());
/// How many stacks there are: each is there once at most, and there is room for all.
static STACKS: AtomicUsize = AtomicUsize::new(0);

/// Works off what waits to be received anywhere. Call it with no lock held, after sending.
#[inline]
pub fn kick() {
    // SAFETY: a racy look; who puts something there calls this afterwards.
    if unsafe { !(*PENDING.data_ptr()).is_empty() } {
        work_off();
    }
}

/// Packets that are worked off before others have the CPU (`net.core.netdev_budget`).
const BUDGET: u32 = 300;

#[cold]
fn work_off() {
    let _preempt = PreemptGuard::new();
    let mut budget = BUDGET;
    loop {
        let Some(stack) = PENDING.lock().pop_front() else { return };
        if !stack.work_off(&mut budget) {
            // There is room: it was there just now.
            PENDING.lock().push_back(stack);
            softirq::raise(Softirq::Net);
            return;
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        STACKS.fetch_sub(1, Relaxed);
    }
}

impl Stack {
    /// The stack of the namespace with this inode number, with a loopback device that is down.
    pub fn new(inum: u32) -> Result<Ref<Self>> {
        {
            let mut pending = PENDING.lock();
            let more = (STACKS.load(Relaxed) + 1).saturating_sub(pending.len());
            pending.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            STACKS.fetch_add(1, Relaxed);
        }
        let stack = Ref::try_new(Self {
            devices: SpinLock::new(Vec::new()),
            routes: SpinLock::new(Routes::default()),
            neighbours: SpinLock::new(Neighbours::default()),
            tcp: SpinLock::new(TcpTable::default()),
            udp: SpinLock::new(UdpTable::default()),
            raw: SpinLock::new(RawTable::default()),
            packet: SpinLock::new(PacketTable::default()),
            netlink: SpinLock::new(NetlinkTable::default()),
            numbers: SpinLock::new(nsid::Numbers::default()),
            inum,
            counters: Counters::default(),
            fragments: SpinLock::new(fragment::Assembler::default()),
            next_id: AtomicU16::new(1),
            next_index: AtomicU32::new(1),
            backlog: SpinLock::new(Backlog::default()),
            scheduled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })?;
        stack.add_device(&NetDevice::loopback()?, 1)?;
        Ok(stack)
    }

    /// One more reference.
    pub fn to_ref(&self) -> Ref<Self> {
        // SAFETY: stacks are made by `new` alone, in a `Ref`, and whoever calls holds one.
        unsafe { Ref::from_ref(self) }
    }

    /// The namespace is gone: devices go, and with them the references in a circle.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let devices = core::mem::take(&mut *self.devices.lock());
        for device in &devices {
            match &device.kind {
                // Cards go back to the initial namespace (network_namespaces(7)).
                Kind::Ethernet(_) => self.send_home(device),
                _ => self.cut(device),
            }
        }
        *self.routes.lock() = Routes::default();
        *self.backlog.lock() = Backlog::default();
        super::tcp::table::close_all(self);
    }

    fn send_home(&self, device: &Ref<NetDevice>) {
        let home = &crate::ns::init_nsproxy().net.stack;
        device.change_flags(0, IFF_UP);
        device.addresses.lock().clear();
        device.set_home(None);
        let name = if home.by_name(trimmed(&device.name())).is_some() {
            home.free_name(b"dev%d").unwrap_or(device.name())
        } else {
            device.name()
        };
        device.set_name(name);
        let _ = home.add_device(device, 0);
    }

    /// Takes a device out of the world, and the other end of its pair with it.
    fn cut(&self, device: &Ref<NetDevice>) {
        device.change_flags(0, IFF_UP);
        device.set_home(None);
        if let Some(peer) = device.take_veth_peer() {
            drop(peer.take_veth_peer());
            if let Some(there) = peer.home() {
                there.forget_device(&peer);
            }
        }
    }

    /// True once the namespace is gone.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Adds a device under its name, with this number or, if 0, the next one. `EEXIST` if the name is taken.
    pub fn add_device(&self, device: &Ref<NetDevice>, index: u32) -> Result<()> {
        {
            let mut devices = self.devices.lock();
            let name = device.name();
            if devices.iter().any(|there| there.name() == name) {
                return Err(Errno::EEXIST);
            }
            if index != 0 && devices.iter().any(|there| there.index() == index) {
                return Err(Errno::EBUSY);
            }
            let index = match index {
                0 => loop {
                    let next = self.next_index.fetch_add(1, Relaxed);
                    if next != 0 && devices.iter().all(|there| there.index() != next) {
                        break next;
                    }
                },
                index => index,
            };
            if self.is_closed() {
                return Err(Errno::EINVAL);
            }
            devices.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            device.set_index(index);
            device.set_home(Some(self.to_ref()));
            devices.push(device.clone());
            devices.sort_unstable_by_key(|device| device.index());
        }
        notify::link_changed(self, device, false);
        Ok(())
    }

    /// Takes a device off this stack, without ending it.
    fn forget_device(&self, device: &NetDevice) {
        self.set_flags(device, 0, IFF_UP);
        notify::link_changed(self, device, true);
        let gone = {
            let mut devices = self.devices.lock();
            let at = devices.iter().position(|there| core::ptr::eq(&**there, device));
            at.map(|at| devices.remove(at))
        };
        self.routes.lock().forget_device(device);
        self.neighbours.lock().forget_device(device);
        device.addresses.lock().clear();
        device.set_home(None);
        drop(gone);
    }

    /// Ends a device (`ip link del`): a veth pair goes as a whole. `EOPNOTSUPP` for others.
    pub fn delete_device(&self, device: &Ref<NetDevice>) -> Result<()> {
        if !matches!(device.kind, Kind::Veth(_)) {
            return Err(Errno::EOPNOTSUPP);
        }
        self.forget_device(device);
        self.cut(device);
        Ok(())
    }

    /// Moves a device to another namespace, under its name or a new one.
    pub fn move_device(
        &self,
        device: &Ref<NetDevice>,
        to: &Ref<Stack>,
        name: Option<[u8; IFNAMSIZ]>,
    ) -> Result<()> {
        if device.is_loopback() {
            return Err(Errno::EINVAL);
        }
        if core::ptr::eq(self, &**to) {
            return name.map_or(Ok(()), |name| self.rename(device, name));
        }
        let name = name.unwrap_or(device.name());
        if to.by_name(trimmed(&name)).is_some() {
            return Err(Errno::EEXIST);
        }
        self.forget_device(device);
        device.set_name(name);
        // Its number is kept if it is free there.
        to.add_device(device, device.index()).or_else(|_| to.add_device(device, 0))
    }

    /// Renames a device.
    pub fn rename(&self, device: &NetDevice, name: [u8; IFNAMSIZ]) -> Result<()> {
        {
            let devices = self.devices.lock();
            let clash =
                |there: &&Ref<NetDevice>| there.name() == name && !core::ptr::eq(&***there, device);
            if devices.iter().any(|there| clash(&there)) {
                return Err(Errno::EEXIST);
            }
            device.set_name(name);
        }
        notify::link_changed(self, device, false);
        Ok(())
    }

    /// The device called `name`.
    pub fn by_name(&self, name: &[u8]) -> Option<Ref<NetDevice>> {
        let devices = self.devices.lock();
        devices.iter().find(|device| trimmed(&device.name()) == name).cloned()
    }

    /// The device with this number.
    pub fn by_index(&self, index: u32) -> Option<Ref<NetDevice>> {
        self.devices.lock().iter().find(|device| device.index() == index).cloned()
    }

    /// All devices, by number.
    pub fn all_devices(&self) -> Vec<Ref<NetDevice>> {
        let devices = self.devices.lock();
        let mut all = Vec::new();
        if all.try_reserve(devices.len()).is_ok() {
            all.extend(devices.iter().cloned());
        }
        all
    }

    /// A name that is free: `pattern` with a number for `%d`.
    pub fn free_name(&self, pattern: &[u8]) -> Result<[u8; IFNAMSIZ]> {
        let Some(at) = pattern.windows(2).position(|pair| pair == b"%d") else {
            return device_name(pattern);
        };
        for n in 0..10_000_u32 {
            let digits = [1000, 100, 10, 1].map(|unit| b'0' + (n / unit % 10) as u8);
            let leading = digits.iter().take(3).take_while(|digit| **digit == b'0').count();
            let digits = digits[leading..].iter();
            let name =
                try_collect(pattern[..at].iter().chain(digits).chain(&pattern[at + 2..]).copied())?;
            if self.by_name(&name).is_none() {
                return device_name(&name);
            }
        }
        Err(Errno::ENFILE)
    }

    /// The loopback device.
    pub fn loopback(&self) -> Option<Ref<NetDevice>> {
        self.devices.lock().first().cloned()
    }

    /// Switches a device's flags: going up brings its routes, going down takes them.
    pub fn set_flags(&self, device: &NetDevice, flags: u32, mask: u32) {
        let was_up = device.is_up();
        device.change_flags(flags, mask);
        let is_up = device.is_up();
        if is_up && !was_up {
            if device.is_loopback() {
                // As Linux does when it comes up.
                let v4 = IpCidr::Ipv4(Ipv4Cidr::new(Ipv4Address::LOCALHOST, 8));
                let v6 = IpCidr::Ipv6(Ipv6Cidr::new(Ipv6Address::LOCALHOST, 128));
                for cidr in [v4, v6] {
                    let _ = self.add_address(device, IfAddress::new(device, cidr));
                }
            } else {
                let _ = self.add_link_local(device);
            }
            for address in device.all_addresses() {
                self.routes.lock().add_connected(device, &address);
            }
        } else if was_up && !is_up {
            self.routes.lock().forget_device(device);
            self.neighbours.lock().forget_device(device);
            // Automatic IPv6 addresses go with it.
            device.addresses.lock().retain(|a| matches!(a.cidr, IpCidr::Ipv4(_)));
        }
        if was_up != is_up || mask & !IFF_UP != 0 {
            notify::link_changed(self, device, false);
            if let Some(peer) = device.veth_peer()
                && let Some(there) = peer.home()
            {
                notify::link_changed(&there, &peer, false);
            }
        }
    }

    /// The address that an Ethernet device gives itself (RFC 4291, appendix A).
    fn add_link_local(&self, device: &NetDevice) -> Result<()> {
        let mac = *device.mac.lock();
        let [a, b, c, d, e, f] = mac.map(u16::from);
        let address = Ipv6Address::new(
            0xfe80,
            0,
            0,
            0,
            (a ^ 2) << 8 | b,
            c << 8 | 0xff,
            0xfe00 | d,
            e << 8 | f,
        );
        let cidr = IpCidr::Ipv6(Ipv6Cidr::new(address, 64));
        self.add_address(device, IfAddress::new(device, cidr))
    }

    /// Gives a device an address; `EEXIST` if it has it.
    pub fn add_address(&self, device: &NetDevice, address: IfAddress) -> Result<()> {
        {
            let mut addresses = device.addresses.lock();
            if addresses.iter().any(|there| there.cidr == address.cidr) {
                return Err(Errno::EEXIST);
            }
            addresses.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            addresses.push(address);
        }
        if device.is_up() {
            self.routes.lock().add_connected(device, &address);
        }
        notify::address_changed(self, device, &address, false);
        Ok(())
    }

    /// Takes an address off; `EADDRNOTAVAIL` if it is not there.
    pub fn delete_address(&self, device: &NetDevice, cidr: IpCidr) -> Result<()> {
        let address = {
            let mut addresses = device.addresses.lock();
            let at = addresses.iter().position(|there| there.cidr == cidr);
            addresses.remove(at.ok_or(Errno::EADDRNOTAVAIL)?)
        };
        self.routes.lock().forget_address(device, &address);
        notify::address_changed(self, device, &address, true);
        Ok(())
    }

    /// True if packets to `address` end here.
    pub fn is_local(&self, address: IpAddress) -> bool {
        let devices = self.devices.lock();
        if let IpAddress::Ipv4(v4) = address
            && v4.octets()[0] == 127
        {
            return devices.first().is_some_and(|lo| lo.is_up());
        }
        devices.iter().any(|device| {
            device.is_up() && device.addresses.lock().iter().any(|a| a.cidr.address() == address)
        })
    }

    /// True if `address` is one of this namespace's, be the device up or not: what bind(2) asks.
    pub fn has_address(&self, address: IpAddress) -> bool {
        if let IpAddress::Ipv4(v4) = address
            && v4.octets()[0] == 127
        {
            return self.is_local(address);
        }
        let devices = self.devices.lock();
        devices.iter().any(|d| d.addresses.lock().iter().any(|a| a.cidr.address() == address))
    }

    /// True if `address` is that of everybody on one of the links.
    pub fn is_broadcast(&self, address: IpAddress) -> bool {
        if address == IpAddress::Ipv4(Ipv4Address::BROADCAST) {
            return true;
        }
        let devices = self.devices.lock();
        devices.iter().any(|device| {
            device.is_up() && device.addresses.lock().iter().any(|a| a.broadcast == Some(address))
        })
    }

    /// Puts an IP packet into the backlog, as received over loopback.
    pub fn enqueue_packet(&self, packet: Vec<u8>) {
        if let Some(lo) = self.loopback() {
            let len = packet.len() as u64;
            if !lo.is_up() || !self.enqueue(Incoming::Packet(packet), len as usize) {
                lo.stats.rx_dropped.fetch_add(1, Relaxed);
                return;
            }
            lo.stats.rx_packets.fetch_add(1, Relaxed);
            lo.stats.tx_packets.fetch_add(1, Relaxed);
            lo.stats.rx_bytes.fetch_add(len, Relaxed);
            lo.stats.tx_bytes.fetch_add(len, Relaxed);
        }
    }

    /// Puts a frame into the backlog; false if there is no room.
    pub fn enqueue_frame(&self, device: Ref<NetDevice>, frame: Vec<u8>) -> bool {
        let len = frame.len();
        self.enqueue(Incoming::Frame(device, frame), len)
    }

    fn enqueue(&self, incoming: Incoming, len: usize) -> bool {
        {
            let mut backlog = self.backlog.lock();
            if backlog.queue.len() >= BACKLOG_PACKETS
                || backlog.bytes + len > BACKLOG_BYTES
                || self.is_closed()
                || backlog.queue.try_reserve(1).is_err()
            {
                return false;
            }
            backlog.bytes += len;
            backlog.queue.push_back(incoming);
        }
        self.schedule();
        true
    }

    fn schedule(&self) {
        if !self.scheduled.swap(true, Ordering::AcqRel) {
            PENDING.lock().push_back(self.to_ref());
        }
    }

    /// Works off what waits; false if more than `budget` does.
    fn work_off(&self, budget: &mut u32) -> bool {
        loop {
            if *budget == 0 && !self.backlog.lock().queue.is_empty() {
                return false;
            }
            let next = {
                let mut backlog = self.backlog.lock();
                let next = backlog.queue.pop_front();
                match &next {
                    Some(Incoming::Packet(packet)) => backlog.bytes -= packet.len(),
                    Some(Incoming::Frame(_, frame)) => backlog.bytes -= frame.len(),
                    // Under the lock: whoever adds something schedules again.
                    None => self.scheduled.store(false, Ordering::Release),
                }
                next
            };
            match next {
                Some(Incoming::Packet(packet)) => ip::input_loopback(self, packet),
                Some(Incoming::Frame(device, frame)) => ip::input_frame(self, &device, frame),
                None => return true,
            }
            *budget = budget.saturating_sub(1);
        }
    }
}

impl IfAddress {
    /// An address with what follows from it: broadcast, scope, label.
    pub fn new(device: &NetDevice, cidr: IpCidr) -> Self {
        /// `RT_SCOPE_UNIVERSE`, `RT_SCOPE_LINK`, `RT_SCOPE_HOST`.
        const SCOPES: [u8; 3] = [0, 253, 254];
        let scope = match cidr.address() {
            IpAddress::Ipv4(v4) if v4.is_loopback() => SCOPES[2],
            IpAddress::Ipv4(v4) if v4.is_link_local() => SCOPES[1],
            IpAddress::Ipv6(v6) if v6.is_loopback() => SCOPES[2],
            IpAddress::Ipv6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80 => SCOPES[1],
            _ => SCOPES[0],
        };
        Self { cidr, peer: None, broadcast: None, scope, label: device.name() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::testing;

    #[test]
    fn what_a_budget_leaves_waits() {
        testing::setup();
        let stack = Stack::new(1).unwrap();
        // Nobody else is to work it off.
        stack.scheduled.store(true, Ordering::Relaxed);
        for _ in 0..5 {
            assert!(stack.enqueue(Incoming::Packet(vec![0; 20]), 20));
        }
        let mut budget = 3;
        assert!(!stack.work_off(&mut budget));
        assert_eq!((budget, stack.backlog.lock().queue.len()), (0, 2));
        budget = 3;
        assert!(stack.work_off(&mut budget));
        assert_eq!((budget, stack.backlog.lock().bytes), (1, 0));
        assert!(!stack.scheduled.load(Ordering::Relaxed));
    }
}

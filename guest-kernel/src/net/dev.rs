//! [`NetDevice`]: a network interface: loopback, one end of a veth pair, or an Ethernet card.
//!
//! A device is at home in one namespace's [`Stack`] at a time. What it receives waits in that stack's
//! backlog and is worked off by [`kick`](super::inet::stack::kick), never from within the sender.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use smoltcp::wire::{IpAddress, IpCidr};

use super::IFNAMSIZ;
use super::inet::notify;
use super::inet::stack::{Stack, kick};
use crate::drivers::random;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::sync::SpinLock;

/// `IFF_UP`: an administrator switched it on.
pub const IFF_UP: u32 = 1;
/// `IFF_BROADCAST`.
pub const IFF_BROADCAST: u32 = 1 << 1;
/// `IFF_LOOPBACK`.
pub const IFF_LOOPBACK: u32 = 1 << 3;
/// `IFF_RUNNING`: it has a carrier.
pub const IFF_RUNNING: u32 = 1 << 6;
/// `IFF_NOARP`.
pub const IFF_NOARP: u32 = 1 << 7;
/// `IFF_PROMISC`.
pub const IFF_PROMISC: u32 = 1 << 8;
/// `IFF_ALLMULTI`.
pub const IFF_ALLMULTI: u32 = 1 << 9;
/// `IFF_MULTICAST`.
pub const IFF_MULTICAST: u32 = 1 << 12;
/// `IFF_LOWER_UP`.
pub const IFF_LOWER_UP: u32 = 1 << 16;

/// What an administrator may switch.
const SETTABLE: u32 = IFF_UP | IFF_PROMISC | IFF_ALLMULTI | IFF_MULTICAST | IFF_NOARP;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// How a driver sends frames. Called with preemption off: it must not sleep.
pub trait Transmit: Send + Sync {
    /// Sends an Ethernet frame; `ENOBUFS` if there is no room now.
    fn transmit(&self, frame: &[u8]) -> Result<()>;
    /// Where the card is.
    fn place(&self) -> Option<Place>;
}

/// Where a card is in the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Address of its registers.
    pub registers: u64,
    /// Its number among the devices of its kind of bus.
    pub number: usize,
}

/// What a device is.
pub enum Kind {
    /// The namespace itself.
    Loopback,
    /// One end of a pair; the other one, until it goes.
    Veth(SpinLock<Option<Ref<NetDevice>>>),
    /// A card.
    Ethernet(Box<dyn Transmit>),
}

/// An address of a device.
#[derive(Clone, Copy, PartialEq)]
pub struct IfAddress {
    /// With its prefix.
    pub cidr: IpCidr,
    /// Of a point-to-point link: the other end.
    pub peer: Option<IpAddress>,
    /// Broadcast address.
    pub broadcast: Option<IpAddress>,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `IFA_LABEL`.
    pub label: [u8; IFNAMSIZ],
}

/// Counters.
#[derive(Default)]
#[allow(missing_docs, reason = "the names are /proc/net/dev's")]
pub struct Stats {
    pub rx_bytes: AtomicU64,
    pub rx_packets: AtomicU64,
    pub rx_dropped: AtomicU64,
    pub tx_bytes: AtomicU64,
    pub tx_packets: AtomicU64,
    pub tx_dropped: AtomicU64,
    pub multicast: AtomicU64,
}

/// An interface.
pub struct NetDevice {
    /// What it is.
    pub kind: Kind,
    /// Hardware address; zeros for loopback.
    pub mac: SpinLock<Mac>,
    index: AtomicU32,
    name: SpinLock<[u8; IFNAMSIZ]>,
    flags: AtomicU32,
    mtu: AtomicU32,
    /// The largest packet that the card can send and receive.
    mtu_max: AtomicU32,
    /// The address that the card has by itself.
    permanent: SpinLock<Mac>,
    /// The card has a link; the other kinds tell by their nature.
    carrier: AtomicBool,
    home: SpinLock<Option<Ref<Stack>>>,
    /// Its addresses.
    pub addresses: SpinLock<Vec<IfAddress>>,
    /// Counters.
    pub stats: Stats,
}

/// A name as interfaces have it; `EINVAL` unless it is a valid one.
pub fn device_name(name: &[u8]) -> Result<[u8; IFNAMSIZ]> {
    let mut padded = [0; IFNAMSIZ];
    let bad = |&b: &u8| b == b'/' || b == b':' || b.is_ascii_whitespace() || b == 0;
    if name.is_empty() || name == b"." || name == b".." || name.iter().any(bad) {
        return Err(Errno::EINVAL);
    }
    padded
        .get_mut(..name.len())
        .filter(|_| name.len() < IFNAMSIZ)
        .ok_or(Errno::EINVAL)?
        .copy_from_slice(name);
    Ok(padded)
}

/// A name without its padding.
pub fn trimmed(name: &[u8; IFNAMSIZ]) -> &[u8] {
    name.split(|&b| b == 0).next().unwrap_or_default()
}

/// A random Ethernet address that nobody was assigned.
pub fn random_mac() -> Mac {
    let mut mac = [0; 6];
    random::fill(&mut mac);
    mac[0] = mac[0] & !1 | 2;
    mac
}

impl NetDevice {
    fn new(kind: Kind, name: [u8; IFNAMSIZ], mac: Mac, mtu: u32, flags: u32) -> Result<Ref<Self>> {
        Ref::try_new(Self {
            kind,
            mac: SpinLock::new(mac),
            index: AtomicU32::new(0),
            name: SpinLock::new(name),
            flags: AtomicU32::new(flags),
            mtu: AtomicU32::new(mtu),
            mtu_max: AtomicU32::new(u32::from(u16::MAX)),
            permanent: SpinLock::new(mac),
            carrier: AtomicBool::new(true),
            home: SpinLock::new(None),
            addresses: SpinLock::new(Vec::new()),
            stats: Stats::default(),
        })
    }

    /// A loopback device.
    pub fn loopback() -> Result<Ref<Self>> {
        const MTU: u32 = 65536;
        Self::new(Kind::Loopback, device_name(b"lo")?, [0; 6], MTU, IFF_LOOPBACK)
    }

    /// A pair of devices, each of which receives what the other sends.
    pub fn veth_pair(
        names: [[u8; IFNAMSIZ]; 2],
        macs: [Mac; 2],
        mtu: u32,
    ) -> Result<[Ref<Self>; 2]> {
        let end = |i: usize| {
            let kind = Kind::Veth(SpinLock::new(None));
            Self::new(kind, names[i], macs[i], mtu, IFF_BROADCAST | IFF_MULTICAST)
        };
        let ends = [end(0)?, end(1)?];
        for (one, other) in [(0, 1), (1, 0)] {
            if let Kind::Veth(peer) = &ends[one].kind {
                *peer.lock() = Some(ends[other].clone());
            }
        }
        Ok(ends)
    }

    /// A card.
    pub fn ethernet(
        name: [u8; IFNAMSIZ],
        mac: Mac,
        mtu: u32,
        driver: Box<dyn Transmit>,
    ) -> Result<Ref<Self>> {
        let flags = IFF_BROADCAST | IFF_MULTICAST;
        Self::new(Kind::Ethernet(driver), name, mac, mtu, flags)
    }

    /// One more reference.
    pub fn to_ref(&self) -> Ref<Self> {
        // SAFETY: devices are made by `new` alone, in a `Ref`, and whoever calls holds one.
        unsafe { Ref::from_ref(self) }
    }

    /// Its number in its namespace.
    pub fn index(&self) -> u32 {
        self.index.load(Relaxed)
    }

    /// Gives it a number.
    pub(super) fn set_index(&self, index: u32) {
        self.index.store(index, Relaxed);
    }

    /// Its name.
    pub fn name(&self) -> [u8; IFNAMSIZ] {
        *self.name.lock()
    }

    /// Renames it; the namespace has checked that the name is free.
    pub(super) fn set_name(&self, name: [u8; IFNAMSIZ]) {
        *self.name.lock() = name;
    }

    /// Largest packet.
    pub fn mtu(&self) -> u32 {
        self.mtu.load(Relaxed)
    }

    /// Sets the largest packet; `EINVAL` out of bounds.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        let most = if self.is_loopback() { i32::MAX as u32 } else { self.mtu_max.load(Relaxed) };
        let least = if self.is_loopback() { 0 } else { 68 };
        let bounds = least..=most;
        if !bounds.contains(&mtu) {
            return Err(Errno::EINVAL);
        }
        self.mtu.store(mtu, Relaxed);
        Ok(())
    }

    /// Where the card is, if it is one.
    pub fn place(&self) -> Option<Place> {
        match &self.kind {
            Kind::Ethernet(driver) => driver.place(),
            Kind::Loopback | Kind::Veth(_) => None,
        }
    }

    /// True for loopback.
    pub fn is_loopback(&self) -> bool {
        matches!(self.kind, Kind::Loopback)
    }

    /// True if it was switched on.
    pub fn is_up(&self) -> bool {
        self.flags.load(Relaxed) & IFF_UP != 0
    }

    /// The other end of a pair.
    pub fn veth_peer(&self) -> Option<Ref<NetDevice>> {
        match &self.kind {
            Kind::Veth(peer) => peer.lock().clone(),
            _ => None,
        }
    }

    /// True if there is somebody at the other end.
    pub fn has_carrier(&self) -> bool {
        match &self.kind {
            Kind::Veth(_) => self.veth_peer().is_some_and(|peer| peer.is_up()),
            _ => self.carrier.load(Relaxed),
        }
    }

    /// The driver says that the card has a link, or none. What was known of neighbours may be wrong then.
    pub fn set_carrier(&self, on: bool) {
        if self.carrier.swap(on, Relaxed) != on
            && let Some(home) = self.home()
        {
            home.neighbours.lock().forget_learned(self);
            notify::link_changed(&home, self, false);
        }
    }

    /// The driver says what the card's own address is and the largest packet that it can do. The interface
    /// follows, unless an administrator gave it another address.
    pub fn set_hardware(&self, mac: Mac, mtu_max: u32) {
        let old = core::mem::replace(&mut *self.permanent.lock(), mac);
        let mut own = self.mac.lock();
        if *own == old {
            *own = mac;
        }
        self.mtu_max.store(mtu_max, Relaxed);
        self.mtu.fetch_min(mtu_max, Relaxed);
    }

    /// Its flags as programs see them (netdevice(7)).
    pub fn flags(&self) -> u32 {
        let flags = self.flags.load(Relaxed);
        if flags & IFF_UP != 0 && self.has_carrier() {
            flags | IFF_RUNNING | IFF_LOWER_UP
        } else {
            flags
        }
    }

    /// Changes flags among those that may be changed.
    pub(super) fn change_flags(&self, flags: u32, mask: u32) {
        let mask = mask & SETTABLE;
        let _ = self.flags.fetch_update(Relaxed, Relaxed, |old| Some(old & !mask | flags & mask));
    }

    /// Its addresses, one after the other: the list is not locked in between.
    pub fn all_addresses(&self) -> impl Iterator<Item = IfAddress> {
        (0..).map_while(|i| self.addresses.lock().get(i).copied())
    }

    /// The namespace that it is in.
    pub fn home(&self) -> Option<Ref<Stack>> {
        self.home.lock().clone()
    }

    /// Moves it into a namespace, or out of all.
    pub(super) fn set_home(&self, stack: Option<Ref<Stack>>) {
        let old = core::mem::replace(&mut *self.home.lock(), stack);
        drop(old);
    }

    /// Cuts a pair.
    pub(super) fn take_veth_peer(&self) -> Option<Ref<NetDevice>> {
        match &self.kind {
            Kind::Veth(peer) => peer.lock().take(),
            _ => None,
        }
    }

    /// Sends an Ethernet frame; loopback takes none.
    pub fn transmit(&self, frame: Vec<u8>) {
        let len = frame.len() as u64;
        let sent = self.is_up()
            && match &self.kind {
                Kind::Loopback => false,
                Kind::Veth(_) => match self.veth_peer() {
                    Some(peer) if peer.is_up() => peer.enqueue(frame),
                    _ => false,
                },
                Kind::Ethernet(driver) => self.has_carrier() && driver.transmit(&frame).is_ok(),
            };
        if sent {
            self.stats.tx_packets.fetch_add(1, Relaxed);
            self.stats.tx_bytes.fetch_add(len, Relaxed);
        } else {
            self.stats.tx_dropped.fetch_add(1, Relaxed);
        }
    }

    /// Puts a frame into the backlog; false if it was dropped.
    fn enqueue(&self, frame: Vec<u8>) -> bool {
        let len = frame.len() as u64;
        let Some(stack) = self.home() else { return false };
        if !self.is_up() || !stack.enqueue_frame(self.to_ref(), frame) {
            self.stats.rx_dropped.fetch_add(1, Relaxed);
            return false;
        }
        self.stats.rx_packets.fetch_add(1, Relaxed);
        self.stats.rx_bytes.fetch_add(len, Relaxed);
        true
    }
}

/// A driver received a frame. From a softirq or a thread, not from an interrupt.
pub fn receive(device: &NetDevice, frame: Vec<u8>) {
    device.enqueue(frame);
    kick();
}

/// A driver found a card: it becomes an interface of the initial namespace, called after `pattern`, in
/// which `%d` stands for the first free number.
pub fn register_ethernet(
    pattern: &str,
    mac: Mac,
    mtu: u32,
    driver: Box<dyn Transmit>,
) -> Result<Ref<NetDevice>> {
    let net = &crate::ns::init_nsproxy().net;
    let name = net.stack.free_name(pattern.as_bytes())?;
    let device = NetDevice::ethernet(name, mac, mtu, driver)?;
    net.stack.add_device(&device, 0)?;
    Ok(device)
}

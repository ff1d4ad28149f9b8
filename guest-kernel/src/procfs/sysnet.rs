//! Network interfaces in sysfs (Linux, Documentation/ABI/testing/sysfs-class-net): `/sys/class/net` has a
//! link for each interface of the network namespace that the mount shows, to a directory with what there is to say
//! about it: in `/sys/devices/virtual/net`, or that of a card below the card's own device in
//! `/sys/devices/platform`.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use super::sysfs::stack_of;
use super::text::{Source, Text, TextFile};
use super::tree::ino_of;
use crate::drivers::virtio;
use crate::errno::{Errno, Result};
use crate::fs::{DirSink, File, FileOps, Inode, InodeFlags, InodeOps, OpenFlags, Path, SuperBlock};
use crate::kref::Ref;
use crate::mm::{try_arc_slice, try_box};
use crate::net::IFNAMSIZ;
use crate::net::dev::{NetDevice, Place, trimmed};
use crate::net::netlink::link::operstate;
use crate::net::packet::hardware_type;
use crate::ns::Cred;
use crate::put;
use crate::uapi::{S_IFDIR, S_IFLNK, S_IFREG};

type Show = fn(&NetDevice, &mut Text) -> Result<()>;

fn mac(out: &mut Text, [a, b, c, d, e, f]: [u8; 6]) -> Result<()> {
    put!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}\n")
}

/// The files of an interface.
static FILES: &[(&str, Show)] = &[
    ("addr_len", |_, out| out.bytes(b"6\n")),
    ("address", |device, out| mac(out, *device.mac.lock())),
    ("broadcast", |device, out| mac(out, if device.is_loopback() { [0; 6] } else { [0xff; 6] })),
    // There is nothing to say while it is down.
    ("carrier", |device, out| {
        if !device.is_up() {
            return Err(Errno::EINVAL);
        }
        put!(out, "{}\n", u8::from(device.has_carrier()))
    }),
    ("flags", |device, out| put!(out, "{:#x}\n", device.flags())),
    ("ifindex", |device, out| put!(out, "{}\n", device.index())),
    ("iflink", |device, out| {
        put!(out, "{}\n", device.veth_peer().map_or(device.index(), |peer| peer.index()))
    }),
    ("link_mode", |_, out| out.bytes(b"0\n")),
    ("mtu", |device, out| put!(out, "{}\n", device.mtu())),
    ("operstate", |device, out| {
        let names = ["unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"];
        let state = usize::from(operstate(device));
        put!(out, "{}\n", names.get(state).unwrap_or(&names[0]))
    }),
    ("tx_queue_len", |_, out| out.bytes(b"1000\n")),
    ("type", |device, out| put!(out, "{}\n", hardware_type(device))),
    ("uevent", |device, out| {
        out.bytes(b"INTERFACE=")?;
        out.bytes(trimmed(&device.name()))?;
        put!(out, "\nIFINDEX={}\n", device.index())
    }),
];

/// The counters of an interface.
static STATISTICS: &[(&str, Show)] = &[
    ("multicast", |device, out| put!(out, "{}\n", device.stats.multicast.load(Relaxed))),
    ("rx_bytes", |device, out| put!(out, "{}\n", device.stats.rx_bytes.load(Relaxed))),
    ("rx_dropped", |device, out| put!(out, "{}\n", device.stats.rx_dropped.load(Relaxed))),
    ("rx_packets", |device, out| put!(out, "{}\n", device.stats.rx_packets.load(Relaxed))),
    ("tx_bytes", |device, out| put!(out, "{}\n", device.stats.tx_bytes.load(Relaxed))),
    ("tx_dropped", |device, out| put!(out, "{}\n", device.stats.tx_dropped.load(Relaxed))),
    ("tx_packets", |device, out| put!(out, "{}\n", device.stats.tx_packets.load(Relaxed))),
];

/// An interface by number and name: with another of either it is another one.
#[derive(Clone, Copy)]
struct Known {
    index: u32,
    name: [u8; IFNAMSIZ],
}

impl Known {
    fn find(self, sb: &SuperBlock) -> Result<Ref<NetDevice>> {
        let device = stack_of(sb)?.by_index(self.index);
        device.filter(|device| device.name() == self.name).ok_or(Errno::ENODEV)
    }
}

/// What an inode is.
#[derive(Clone, Copy)]
enum Node {
    /// `/sys/class/net`.
    Class,
    /// `/sys/devices/virtual/net`.
    Devices,
    /// `/sys/devices/platform`: the transports of network cards.
    Platform,
    /// A transport.
    Transport(Place),
    /// The virtio device behind it.
    Virtio(Place),
    /// Its number as virtio knows it.
    DeviceId(Place),
    /// The interface of a card, if it is in this namespace.
    Cards(Place),
    /// A link from the interface to its device.
    DeviceLink(Place),
    /// A link to an interface's directory.
    Link(Known),
    /// An interface's directory.
    Device(Known),
    /// Its counters.
    Statistics(Known),
    /// A file about it.
    File(Known, Show),
}

/// The operations of `/sys/class/net`.
pub(super) fn class() -> Result<Box<dyn InodeOps>> {
    Ok(try_box(Node::Class)?)
}

/// The operations of `/sys/devices/virtual/net`.
pub(super) fn devices() -> Result<Box<dyn InodeOps>> {
    Ok(try_box(Node::Devices)?)
}

/// The operations of `/sys/devices/platform`.
pub(super) fn platform() -> Result<Box<dyn InodeOps>> {
    Ok(try_box(Node::Platform)?)
}

/// The transports of network cards. They are the same in all namespaces, and change when the machine is moved.
fn cards() -> impl Iterator<Item = Place> {
    let mut next = 0;
    core::iter::from_fn(move || {
        let place = virtio::next_card(next)?;
        next = place.number + 1;
        Some(place)
    })
}

impl Node {
    fn mode(self) -> u32 {
        match self {
            Self::Link(_) | Self::DeviceLink(_) => S_IFLNK | 0o777,
            Self::File(..) | Self::DeviceId(_) => S_IFREG | 0o444,
            _ => S_IFDIR | 0o555,
        }
    }

    fn known(self) -> Option<Known> {
        match self {
            Self::Class | Self::Devices | Self::Platform => None,
            Self::Transport(_) | Self::Virtio(_) | Self::DeviceId(_) => None,
            Self::Cards(_) | Self::DeviceLink(_) => None,
            Self::Link(known) | Self::Device(known) => Some(known),
            Self::Statistics(known) | Self::File(known, _) => Some(known),
        }
    }

    /// The card that it is about, whichever namespace its interface is in.
    fn place(self) -> Option<Place> {
        match self {
            Self::Transport(place) | Self::Virtio(place) | Self::DeviceId(place) => Some(place),
            Self::Cards(place) | Self::DeviceLink(place) => Some(place),
            _ => None,
        }
    }

    fn ino(self) -> u64 {
        if let Some(place) = self.place() {
            let at = match self {
                Self::Transport(_) => 0,
                Self::Virtio(_) => 1,
                Self::DeviceId(_) => 2,
                Self::Cards(_) => 3,
                _ => 4,
            };
            return ino_of(place.registers as usize, at);
        }
        // What tells the nodes of one interface from each other.
        let place = match self {
            Self::Link(_) => FILES.as_ptr() as usize + 1,
            Self::File(_, show) => show as usize,
            Self::Statistics(_) => STATISTICS.as_ptr() as usize,
            _ => FILES.as_ptr() as usize,
        };
        ino_of(place, self.known().map_or(0, |known| known.index as usize))
    }

    fn inode(self, sb: &Ref<SuperBlock>) -> Result<Ref<Inode>> {
        let inode = Inode::new(sb, self.ino(), self.mode(), try_box(self)?)?;
        inode.set_flags(InodeFlags::REVALIDATE | InodeFlags::NO_NEGATIVE);
        Ok(inode)
    }

    /// What is below a directory, with its names.
    fn children(self, sb: &SuperBlock, f: &mut dyn FnMut(&[u8], Node) -> bool) -> Result<()> {
        let files = |known, table: &'static [(&'static str, Show)]| {
            table.iter().map(move |&(name, show)| (name, Self::File(known, show)))
        };
        match self {
            Self::Class | Self::Devices | Self::Cards(_) => {
                let is_class = matches!(self, Self::Class);
                for device in stack_of(sb)?.all_devices() {
                    let known = Known { index: device.index(), name: device.name() };
                    if !is_class && device.place() != self.place() {
                        continue;
                    }
                    let node = if is_class { Self::Link(known) } else { Self::Device(known) };
                    if !f(trimmed(&known.name), node) {
                        break;
                    }
                }
            }
            Self::Platform => {
                for place in cards() {
                    let mut name = Text::new();
                    put!(name, "{:x}.virtio_mmio", place.registers)?;
                    if !f(name.as_bytes(), Self::Transport(place)) {
                        break;
                    }
                }
            }
            Self::Transport(place) => {
                let mut name = Text::new();
                put!(name, "virtio{}", place.number)?;
                f(name.as_bytes(), Self::Virtio(place));
            }
            Self::Virtio(place) => {
                let _ = f(b"device", Self::DeviceId(place)) && f(b"net", Self::Cards(place));
            }
            Self::Device(known) => {
                let place = known.find(sb)?.place();
                let device = place.map(|place| ("device", Self::DeviceLink(place)));
                let counters = [("statistics", Self::Statistics(known))];
                let mut all = files(known, FILES).chain(device).chain(counters);
                all.all(|(name, node)| f(name.as_bytes(), node));
            }
            Self::Statistics(known) => {
                files(known, STATISTICS).all(|(name, node)| f(name.as_bytes(), node));
            }
            Self::Link(_) | Self::File(..) | Self::DeviceId(_) | Self::DeviceLink(_) => {
                return Err(Errno::ENOTDIR);
            }
        }
        Ok(())
    }
}

impl InodeOps for Node {
    fn lookup(&self, dir: &Ref<Inode>, wanted: &[u8]) -> Result<Option<Ref<Inode>>> {
        let mut found = None;
        self.children(&dir.sb, &mut |name, node| {
            if name == wanted {
                found = Some(node);
            }
            found.is_none()
        })?;
        found.map(|node| node.inode(&dir.sb)).transpose()
    }

    fn readlink(&self, inode: &Ref<Inode>, _cred: &Cred) -> Result<Arc<[u8]>> {
        let mut text = Text::new();
        match self {
            Self::Link(known) => {
                match known.find(&inode.sb)?.place() {
                    Some(Place { registers, number }) => {
                        let at = format_args!("platform/{registers:x}.virtio_mmio/virtio{number}");
                        put!(text, "../../devices/{at}/net/")?;
                    }
                    None => text.bytes(b"../../devices/virtual/net/")?,
                }
                text.bytes(trimmed(&known.name))?;
            }
            Self::DeviceLink(place) => put!(text, "../../../virtio{}", place.number)?,
            _ => return Err(Errno::EINVAL),
        }
        try_arc_slice(text.as_bytes())
    }

    fn open(&self, inode: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        match *self {
            Self::File(known, show) => {
                Ok(try_box(TextFile::new(About { known, show, sb: inode.sb.clone() }))?)
            }
            Self::DeviceId(_) => Ok(try_box(TextFile::new(CardId))?),
            Self::Link(_) | Self::DeviceLink(_) => Err(Errno::ELOOP),
            node => Ok(try_box(OpenDir(node))?),
        }
    }

    fn revalidate(&self, inode: &Inode) -> bool {
        match (self.known(), self.place()) {
            (Some(known), _) => known.find(&inode.sb).is_ok(),
            (None, Some(place)) => cards().any(|card| card == place),
            (None, None) => true,
        }
    }
}

/// Where a file's text comes from.
struct About {
    known: Known,
    show: Show,
    sb: Ref<SuperBlock>,
}

impl Source for About {
    fn show(&self, out: &mut Text) -> Result<()> {
        (self.show)(&*self.known.find(&self.sb)?, out)
    }
}

/// What a virtio device says it is: a network card (virtio 1.2, 5).
struct CardId;

impl Source for CardId {
    fn show(&self, out: &mut Text) -> Result<()> {
        out.bytes(b"0x0001\n")
    }
}

/// An open directory.
struct OpenDir(Node);

impl FileOps for OpenDir {
    fn readdir(&self, file: &File, pos: &mut u64, sink: &mut dyn DirSink) -> Result<()> {
        let own = file.inode.ino;
        let mut at = 0;
        let mut emit = |name: &[u8], ino: u64, mode: u32| {
            at += 1;
            if at <= *pos {
                return true;
            }
            let taken = sink.emit(name, ino, mode, at);
            if taken {
                *pos = at;
            }
            taken
        };
        if !emit(b".", own, S_IFDIR) || !emit(b"..", own, S_IFDIR) {
            return Ok(());
        }
        self.0.children(&file.inode.sb, &mut |name, node| emit(name, node.ino(), node.mode()))
    }
}

//! A tap device of the host: Ethernet frames through a descriptor, each with the header that virtio
//! puts before it, which Linux's tap driver reads and writes itself.

use std::ffi::c_char;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use super::HEADER;

/// Why a tap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a name of an interface.
    #[error(
        "{0:?} cannot be a network interface: names have 1 to 15 characters, no / and no spaces"
    )]
    Name(String),
    /// No tun driver.
    #[error("cannot open /dev/net/tun: {0}: load the tun module (modprobe tun)")]
    Device(io::Error),
    /// The interface is not there, in use, or not ours.
    #[error(
        "cannot use the tap {name}: {cause}: make it first (ip tuntap add {name} mode tap user \
         $USER; ip link set {name} up)"
    )]
    Attach {
        /// The interface.
        name: String,
        /// What the host said.
        cause: io::Error,
    },
}

/// A tap to which this process is attached.
#[derive(Debug)]
pub struct Tap {
    file: OwnedFd,
    name: String,
    mtu: u16,
}

impl Tap {
    /// Attaches to the tap called `name`, made beforehand, or made now and for as long as it is open if this
    /// process may.
    pub fn open(name: &str) -> Result<Self, Error> {
        let file = attach(name, HEADER)?;
        let mtu = read_mtu(name).map_err(|cause| Error::Attach { name: name.to_owned(), cause })?;
        Ok(Self { file, name: name.to_owned(), mtu })
    }

    /// The interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its largest packet, in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Another descriptor of the same tap.
    pub fn file(&self) -> io::Result<OwnedFd> {
        self.file.try_clone()
    }
}

/// Its frames carry headers of `header` bytes.
fn attach(name: &str, header: usize) -> Result<OwnedFd, Error> {
    let bad = |c: char| c == '/' || c == '%' || c.is_whitespace() || !c.is_ascii();
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(bad) {
        return Err(Error::Name(name.to_owned()));
    }
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .map_err(Error::Device)?;
    // SAFETY: an ifreq of zeros is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as i16;
    let header = header as i32;
    let attached = called(|| {
        // SAFETY: TUNSETIFF takes an ifreq, which lives across the call.
        unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &mut request) }
    })
    .and_then(|()| {
        called(|| {
            // SAFETY: TUNSETVNETHDRSZ takes an int by its address.
            unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &header) }
        })
    });
    attached.map_err(|cause| Error::Attach { name: name.to_owned(), cause })?;
    Ok(tun.into())
}

fn read_mtu(name: &str) -> io::Result<u16> {
    use rustix::net::{AddressFamily, SocketType, socket};
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: an ifreq of zeros is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    // SAFETY: SIOCGIFMTU takes an ifreq, which lives across the call.
    called(|| unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCGIFMTU as _, &mut request) })?;
    // SAFETY: the call succeeded, and so wrote this one.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

/// What the guest is ready to receive: checksums not yet computed. Anything that is not a tap takes
/// frames as they are.
pub fn set_offload(fd: RawFd, checksums: bool) -> io::Result<()> {
    let flags = if checksums { libc::TUN_F_CSUM } else { 0 };
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    called(|| unsafe { libc::ioctl(fd, libc::TUNSETOFFLOAD as _, libc::c_ulong::from(flags)) })
}

fn called(call: impl FnOnce() -> i32) -> io::Result<()> {
    if call() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

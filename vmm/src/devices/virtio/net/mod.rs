//! The network device (virtio 1.2, 5.1) over a tap of the host.
//!
//! One pair of queues. What is offered is what needs nothing but the tap: the guest may leave checksums
//! and the cutting of large TCP segments to the host, and may take frames whose checksum is not computed
//! yet. A frame that the guest has no room for waits in the tap; one larger than the guest's buffers is
//! dropped, as a network does. When the tap goes away the link goes down and the device stays quiet.

mod tap;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

pub use tap::{Error, Tap};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};

use super::{
    Chain, Driver, Error as QueueError, EventSet, Report, Round, Served, VirtioDevice, read_config,
};

const QUEUES: [u16; 2] = [256, 256];
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// The header before each frame; with VIRTIO_F_VERSION_1 always with `num_buffers` (5.1.6).
const HEADER: usize = 12;
/// The largest frame that a tap takes or gives: a TCP segment to be cut, and its headers.
const MAX_FRAME: usize = 65_536 + 18;
/// Where `num_buffers` is in the header.
const NUM_BUFFERS: std::ops::Range<usize> = 10..12;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The largest packet, in bytes, of what stands in for a tap.
#[cfg(any(test, feature = "synthetic"))]
const MTU: u16 = 1500;

/// The device.
pub struct Net {
    tap: OwnedFd,
    name: String,
    mac: Mac,
    mtu: u16,
    report: Report,
    /// The tap is there.
    up: bool,
    /// A frame waits until the tap takes it.
    blocked: bool,
    /// The kind of the last frame that the tap refused: the same is told once.
    told: Option<io::ErrorKind>,
    /// One frame with its header.
    frame: Box<[u8]>,
}

impl Net {
    /// A device on `tap`. The guest's address is `mac`.
    pub fn open(tap: &Tap, mac: Mac, report: Report) -> io::Result<Self> {
        Ok(Self::new(tap.file()?, tap.name(), tap.mtu(), mac, report))
    }

    /// A device for tests, whose tap is any descriptor that keeps packets apart.
    #[cfg(any(test, feature = "synthetic"))]
    pub fn with_packets(packets: OwnedFd, name: &str, mac: Mac, report: Report) -> Self {
        Self::new(packets, name, MTU, mac, report)
    }

    fn new(tap: OwnedFd, name: &str, mtu: u16, mac: Mac, report: Report) -> Self {
        let frame = vec![0; HEADER + MAX_FRAME].into();
        let name = format!("network {name}");
        Self { tap, name, mac, mtu, report, up: true, blocked: false, told: None, frame }
    }

    /// An error of the tap: whether it is gone for good.
    fn lost(&mut self, error: &io::Error) -> bool {
        // Linux's tun driver answers EBADFD once the interface was deleted.
        let gone = [libc::EBADFD, libc::EBADF, libc::ENODEV, libc::ENXIO];
        if error.raw_os_error().is_some_and(|code| gone.contains(&code)) {
            self.up = false;
            let what = format_args!("the tap is gone ({error}): the guest's link is down");
            self.report.line(&self.name, what);
            return true;
        }
        if self.told.replace(error.kind()) != Some(error.kind()) {
            let what = format_args!("the tap refused a frame: {error}: it was dropped");
            self.report.line(&self.name, what);
        }
        false
    }

    fn transmit(&mut self, driver: &mut Driver) -> Result<(), QueueError> {
        let round = driver.serve(TRANSMIT, |chain| self.send(chain))?;
        self.blocked = round == Round::Stalled;
        Ok(())
    }

    fn send(&mut self, chain: &mut Chain<'_>) -> Result<Served, QueueError> {
        let length = chain.readable.len();
        if self.up && (HEADER..=HEADER + MAX_FRAME).contains(&length) {
            // The kernel checks header and frame; what it does not like it refuses.
            match chain.readable.send(self.tap.as_fd()) {
                Ok(_) => self.told = None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Served::Later);
                }
                Err(error) => {
                    self.lost(&error);
                }
            }
        }
        Ok(Served::Done(0))
    }

    fn receive(&mut self, driver: &mut Driver) -> Result<(), QueueError> {
        driver.serve(RECEIVE, |chain| self.fill(chain)).map(drop)
    }

    fn fill(&mut self, chain: &mut Chain<'_>) -> Result<Served, QueueError> {
        if chain.writable.len() < HEADER {
            return Err(QueueError::Request("network header"));
        }
        // As many frames as there are too large ones in a row, but not without end.
        for _ in 0..QUEUES[RECEIVE] {
            if !self.up {
                break;
            }
            // Through a buffer of our own: read straight into the guest's, a frame that is too large
            // would be cut and look whole.
            match rustix::io::read(&self.tap, &mut self.frame[..]) {
                Ok(length) if (HEADER..=chain.writable.len()).contains(&length) => {
                    // 5.1.6.4.1: one, since buffers are not merged.
                    self.frame[NUM_BUFFERS].copy_from_slice(&1u16.to_le_bytes());
                    let written = chain.writable.write(&self.frame[..length]);
                    return Ok(Served::Done(written as u32));
                }
                // The end: not for a tap, but for what stands in for one.
                Ok(0) => {
                    self.lost(&io::Error::from_raw_os_error(libc::ENODEV));
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => {
                    if !self.lost(&error.into()) {
                        break;
                    }
                }
            }
        }
        Ok(Served::Later)
    }

    /// Runs `act`; if the tap was lost meanwhile, the guest sees its link go down.
    fn watched(
        &mut self,
        driver: &mut Driver,
        act: impl FnOnce(&mut Self, &mut Driver) -> Result<(), QueueError>,
    ) -> Result<(), QueueError> {
        let was_up = self.up;
        act(self, driver)?;
        if was_up && !self.up {
            driver.config_changed();
        }
        Ok(())
    }
}

impl VirtioDevice for Net {
    fn id(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_MAC
            | 1 << VIRTIO_NET_F_MTU
            | 1 << VIRTIO_NET_F_STATUS
            | 1 << VIRTIO_NET_F_CSUM
            | 1 << VIRTIO_NET_F_HOST_TSO4
            | 1 << VIRTIO_NET_F_HOST_TSO6
            | 1 << VIRTIO_NET_F_GUEST_CSUM
    }

    fn queues(&self) -> &[u16] {
        &QUEUES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // 5.1.4: mac, status, max_virtqueue_pairs (which is not offered), mtu.
        let mut config = [0; 12];
        config[..6].copy_from_slice(&self.mac);
        let status = if self.up { VIRTIO_NET_S_LINK_UP as u16 } else { 0 };
        config[6..8].copy_from_slice(&status.to_le_bytes());
        config[10..].copy_from_slice(&self.mtu.to_le_bytes());
        read_config(&config, offset, data);
    }

    fn activate(&mut self, driver: &mut Driver) {
        let checksums = driver.has(VIRTIO_NET_F_GUEST_CSUM);
        if let Err(error) = tap::set_offload(self.tap.as_raw_fd(), checksums)
            && checksums
        {
            let what = format_args!("the tap does not leave checksums to the guest: {error}");
            self.report.line(&self.name, what);
        }
    }

    fn kicked(&mut self, driver: &mut Driver) -> Result<(), QueueError> {
        self.watched(driver, Self::transmit)
    }

    fn sources(&self) -> Vec<RawFd> {
        vec![self.tap.as_raw_fd()]
    }

    fn interest(&self, _source: usize, driver: &Driver) -> EventSet {
        let mut interest = EventSet::empty();
        interest.set(EventSet::IN, self.up && driver.waits(RECEIVE));
        interest.set(EventSet::OUT, self.up && self.blocked);
        interest
    }

    fn host_ready(&mut self, _source: usize, driver: &mut Driver) -> Result<(), QueueError> {
        self.watched(driver, |net, driver| {
            net.receive(driver)?;
            net.transmit(driver)
        })
    }

    fn reset(&mut self) {
        self.blocked = false;
        self.told = None;
    }
}

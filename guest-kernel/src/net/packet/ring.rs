//! The ring of a packet socket (packet(7), `PACKET_RX_RING`; Linux, Documentation/networking/packet_mmap.rst): what
//! comes is written into frames of memory that the program maps, and one word of each says whose it is. Headers
//! have version 1 or 2; version 3, whose frames have no fixed size, is refused, and programs then take 2.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::mm::{Backing, FrameRef, Mapping, PageKind, try_arc};
use crate::net::address::Address;
use crate::sched::clock::NSEC_PER_SEC;
use crate::sync::SpinLock;

/// Frames and what is in them begin at multiples of this.
const ALIGNMENT: usize = 16;
/// Bytes of a frame's header of either version, aligned: behind it stands a `struct sockaddr_ll`.
const HEADER: usize = 32;
/// The header and the address.
const HEAD: usize = HEADER + 20;
/// Room that is kept for the header of the link, at least.
const LINK: usize = 16;
/// Status of a frame that the kernel may fill.
const KERNEL: u32 = 0;
/// Status of a frame that the program may read.
const USER: u32 = 1;
/// With it: some were lost.
const LOSING: u32 = 4;

/// The form of the frames' headers (`PACKET_VERSION`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// `struct tpacket_hdr`.
    One = 0,
    /// `struct tpacket2_hdr`.
    Two = 1,
}

impl Version {
    /// By number; `EINVAL` if there is none.
    pub fn from_number(n: i32) -> Result<Self> {
        match n {
            0 => Ok(Self::One),
            1 => Ok(Self::Two),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Bytes of the header (`PACKET_HDRLEN`): on a 64-bit system they are as long as each other.
    pub fn header_len(self) -> i32 {
        HEADER as i32
    }

    fn header(self, filled: &Filled) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        // The status comes last of all, by itself; in version 1 it is a long.
        put(if self == Self::One { &[0; 8] } else { &[0; 4] });
        put(&filled.len.to_ne_bytes());
        put(&filled.snaplen.to_ne_bytes());
        put(&filled.mac.to_ne_bytes());
        put(&filled.net.to_ne_bytes());
        let (sec, ns) = (filled.time / NSEC_PER_SEC, (filled.time % NSEC_PER_SEC) as u32);
        put(&(sec as u32).to_ne_bytes());
        put(&(if self == Self::One { ns / 1000 } else { ns }).to_ne_bytes());
        bytes
    }
}

/// What a frame's header says.
struct Filled {
    len: u32,
    snaplen: u32,
    mac: u16,
    net: u16,
    time: u64,
}

/// `struct tpacket_req`.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Bytes of a block, whole pages.
    pub block_size: u32,
    /// How many there are.
    pub block_nr: u32,
    /// Bytes of a frame; none crosses the end of a block.
    pub frame_size: u32,
    /// How many there are in all.
    pub frame_nr: u32,
}

impl Request {
    /// As a program gives it.
    pub fn parse(value: &[u8]) -> Result<Self> {
        let words: &[u8; 16] = value.first_chunk().ok_or(Errno::EINVAL)?;
        let word = |at: usize| {
            u32::from_ne_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]])
        };
        let (block_size, block_nr, frame_size, frame_nr) = (word(0), word(4), word(8), word(12));
        Ok(Self { block_size, block_nr, frame_size, frame_nr })
    }

    /// Frames of a block; `EINVAL` if the numbers do not fit each other.
    fn frames_per_block(&self, reserve: u32) -> Result<u32> {
        let least = HEAD as u64 + u64::from(reserve);
        let frames = self.block_size.checked_div(self.frame_size).ok_or(Errno::EINVAL)?;
        let good = self.block_size as i32 > 0
            && (self.block_size as usize).is_multiple_of(PAGE_SIZE)
            && u64::from(self.frame_size) >= least
            && (self.frame_size as usize).is_multiple_of(ALIGNMENT)
            && frames > 0
            && frames.checked_mul(self.block_nr) == Some(self.frame_nr);
        if good { Ok(frames) } else { Err(Errno::EINVAL) }
    }
}

/// A ring.
pub struct Ring {
    request: Request,
    version: Version,
    /// Bytes that the program wants for itself in front of each packet (`PACKET_RESERVE`).
    reserve: usize,
    frames_per_block: u32,
    mapping: Mapping,
    /// All pages of the mapping.
    pages: Vec<FrameRef>,
    /// The frame to fill next.
    head: SpinLock<u32>,
}

/// A packet that came.
pub struct Packet<'a> {
    /// What is kept of it.
    pub kept: &'a [u8],
    /// Its length as it came.
    pub len: usize,
    /// Bytes of it that are the link's header.
    pub link: usize,
    /// From where.
    pub from: &'a Address,
    /// Wall clock.
    pub time: u64,
    /// Some were lost, and nobody has asked yet how many.
    pub losing: bool,
}

impl Ring {
    /// A ring as the program asks for. `EINTR` once `must_end` says that nobody will want it.
    pub fn new(
        request: Request,
        version: Version,
        reserve: u32,
        must_end: impl Fn() -> bool,
    ) -> Result<Arc<Self>> {
        let frames_per_block = request.frames_per_block(reserve)?;
        let size = u64::from(request.block_size) * u64::from(request.block_nr);
        let count = size / PAGE_SIZE as u64;
        if count > crate::mm::total_pages() as u64 {
            return Err(Errno::ENOMEM);
        }
        let mapping = Mapping::new(PageKind::Shmem);
        mapping.truncate(size);
        let mut pages = Vec::new();
        pages.try_reserve_exact(count as usize).map_err(|_| Errno::ENOMEM)?;
        for index in 0..count {
            if must_end() {
                return Err(Errno::EINTR);
            }
            pages.push(mapping.get_or_zero(index)?);
        }
        try_arc(Self {
            request,
            version,
            reserve: reserve as usize,
            frames_per_block,
            mapping,
            pages,
            head: SpinLock::new(0),
        })
    }

    /// True if a program has it mapped.
    pub fn is_mapped(&self) -> bool {
        self.mapping.is_mapped()
    }

    fn offset(&self, frame: u32) -> usize {
        let (block, within) = (frame / self.frames_per_block, frame % self.frames_per_block);
        block as usize * self.request.block_size as usize
            + within as usize * self.request.frame_size as usize
    }

    fn write(&self, mut at: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let start = at % PAGE_SIZE;
            let n = bytes.len().min(PAGE_SIZE - start);
            self.pages[at / PAGE_SIZE].write(start, &bytes[..n]);
            (at, bytes) = (at + n, &bytes[n..]);
        }
    }

    /// The word of a frame that says whose it is; the program writes it too. It never crosses a page.
    fn status(&self, frame: u32) -> &AtomicU32 {
        let at = self.offset(frame);
        let page = &self.pages[at / PAGE_SIZE];
        // SAFETY: the page stays while the ring does, frames are aligned, and whoever else touches the word does
        // so in user space, with accesses of its own.
        unsafe { &*page.as_ptr().add(at % PAGE_SIZE).cast::<AtomicU32>() }
    }

    /// True if there is something to read: what was filled last is still the program's.
    pub fn is_readable(&self) -> bool {
        let head = *self.head.lock();
        let last = head.checked_sub(1).unwrap_or(self.request.frame_nr - 1);
        self.status(last).load(Ordering::Acquire) != KERNEL
    }

    /// Puts a packet into the next frame; false if that is not free, or the packet would begin too far behind its start.
    pub fn put(&self, packet: &Packet<'_>) -> bool {
        let (mac, net) = self.place(packet.link);
        // The header has room for no more.
        if net > usize::from(u16::MAX) {
            return false;
        }
        let mut head = self.head.lock();
        let status = self.status(*head);
        if status.load(Ordering::Acquire) != KERNEL {
            return false;
        }
        let at = self.offset(*head);
        let room = (self.request.frame_size as usize).saturating_sub(mac);
        let kept = &packet.kept[..packet.kept.len().min(room)];
        let filled = Filled {
            len: packet.len as u32,
            snaplen: kept.len() as u32,
            mac: mac as u16,
            net: net as u16,
            time: packet.time,
        };
        self.write(at + mac, kept);
        self.write(at + HEADER, packet.from.bytes());
        // All but the status, which hands the frame over.
        self.write(at + 4, &self.version.header(&filled)[4..]);
        let losing = if packet.losing { LOSING } else { 0 };
        status.store(USER | losing, Ordering::Release);
        *head = (*head + 1) % self.request.frame_nr;
        true
    }

    /// Where in a frame the packet begins, and where what is behind the link's header does.
    fn place(&self, link: usize) -> (usize, usize) {
        if link == 0 {
            let net = HEAD.next_multiple_of(ALIGNMENT) + LINK + self.reserve;
            return (net, net);
        }
        let net = (HEAD + link.max(LINK)).next_multiple_of(ALIGNMENT) + self.reserve;
        (net - link, net)
    }
}

impl Backing for Ring {
    fn mapping(&self) -> Option<&Mapping> {
        Some(&self.mapping)
    }

    /// All of it or nothing.
    fn check_range(&self, start: u64, len: u64) -> Result<()> {
        if (start, len) == (0, self.mapping.size()) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// A socket has no holes (fallocate(2)).
    fn punch_hole(&self, _start: u64, _len: u64) -> Result<()> {
        Err(Errno::ENODEV)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(block_size: u32, block_nr: u32, frame_size: u32, frame_nr: u32) -> Request {
        Request { block_size, block_nr, frame_size, frame_nr }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(request(8192, 4, 2048, 16).frames_per_block(0), Ok(4));
        for bad in [
            request(0, 1, 2048, 1),
            request(4097, 1, 2048, 2),
            request(4096, 1, 2047, 2),
            request(4096, 1, 48, 85),
            request(4096, 1, 8192, 0),
            request(4096, 2, 2048, 3),
            request(4096, 1, 0, 0),
            request(4096, u32::MAX, 2048, 2),
        ] {
            assert_eq!(bad.frames_per_block(0), Err(Errno::EINVAL), "{bad:?}");
        }
        assert_eq!(request(4096, 1, 64, 64).frames_per_block(13), Err(Errno::EINVAL));
    }

    #[test]
    fn a_ring_that_nobody_will_want_is_not_made_to_its_end() {
        crate::mm::testing::setup();
        let before = crate::mm::frame::NET.get();
        let asked = core::cell::Cell::new(0);
        let must_end = || asked.replace(asked.get() + 1) == 10;
        let made = Ring::new(request(4096, 1000, 4096, 1000), Version::Two, 0, must_end);
        assert_eq!(made.err(), Some(Errno::EINTR));
        assert_eq!((asked.get(), crate::mm::frame::NET.get()), (11, before));
    }

    #[test]
    fn a_ring_is_mapped_whole_and_stays_so() {
        let ring = Ring::new(request(8192, 2, 4096, 4), Version::Two, 0, || false).unwrap();
        assert_eq!(ring.check_range(0, 16384), Ok(()));
        for (start, len) in [(0, 4096), (0, 20480), (4096, 12288), (4096, 16384)] {
            assert_eq!(ring.check_range(start, len), Err(Errno::EINVAL), "{start} {len}");
        }
        assert_eq!(ring.punch_hole(0, 4096), Err(Errno::ENODEV));
    }

    #[test]
    fn a_packet_goes_into_the_next_frame_that_is_free() {
        let ring = Ring::new(request(8192, 1, 4096, 2), Version::Two, 0, || false).unwrap();
        let from = Address::new(&[7; 20]).unwrap();
        let packet = Packet {
            kept: b"frame",
            len: 9,
            link: 2,
            from: &from,
            time: 3_000_000_004,
            losing: true,
        };
        assert!(!ring.is_readable());
        assert!(ring.put(&packet) && ring.put(&packet) && !ring.put(&packet));
        assert!(ring.is_readable());
        let mut frame = [0; 128];
        assert_eq!(ring.mapping.read(4096, &mut frame), 128);
        let word = |at: usize| u32::from_ne_bytes(frame[at..at + 4].try_into().unwrap());
        assert_eq!([0, 4, 8, 16, 20].map(word), [USER | LOSING, 9, 5, 3, 4]);
        let (mac, net) = (usize::from(frame[12]), usize::from(frame[14]));
        assert_eq!((mac, net), (78, 80));
        assert_eq!((&frame[HEADER..HEAD], &frame[mac..mac + 5]), (&[7; 20][..], &b"frame"[..]));
        ring.status(0).store(KERNEL, Ordering::Relaxed);
        ring.status(1).store(KERNEL, Ordering::Relaxed);
        assert!(!ring.is_readable() && ring.put(&Packet { losing: false, ..packet }));
        assert_eq!(ring.status(0).load(Ordering::Relaxed), USER);
    }
}

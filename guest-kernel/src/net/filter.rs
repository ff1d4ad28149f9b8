//! Filters of sockets (socket(7), `SO_ATTACH_FILTER`): a classic BPF program that sees each packet before the socket
//! queues it, and says how many of its bytes to keep; none drops it.

use crate::array::Array;
use crate::bpf::{ANCILLARY, Data, MAX_INSNS, Program, Width};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::UserPtr;

use super::common::{Common, flag};

/// Loads from here on are of facts about the packet (`SKF_AD_*`), each with a number of its own.
mod fact {
    pub const PROTOCOL: u32 = 0;
    pub const KIND: u32 = 4;
    pub const IFINDEX: u32 = 8;
    pub const MARK: u32 = 20;
    pub const QUEUE: u32 = 24;
    pub const RXHASH: u32 = 32;
    pub const CPU: u32 = 36;
    pub const VLAN_TAG: u32 = 44;
    pub const VLAN_TAG_PRESENT: u32 = 48;
    pub const RANDOM: u32 = 56;
}

/// How many of those numbers there are (`SO_BPF_EXTENSIONS`, `SKF_AD_MAX`).
pub const EXTENSIONS: i32 = 64;

/// A packet as a filter sees it.
pub struct Packet<'a> {
    /// Its bytes, from the header on that the socket's kind begins with.
    pub bytes: &'a [u8],
    /// Number of the protocol in its link header; 0 where there is none.
    pub protocol: u16,
    /// The device that it came over; 0 if none.
    pub device: u32,
    /// For whom it is, as packet(7) counts it.
    pub kind: u8,
}

/// For this host (`PACKET_HOST`): what other sockets than packet sockets get.
pub const FOR_HOST: u8 = 0;

/// Bytes that a socket may hold beside what it sends and receives (`net.core.optmem_max`), filters among them.
pub const OPTMEM_MAX: usize = 20480;
/// What a program takes beside its instructions there (`struct bpf_prog`).
const PROGRAM_HEAD: usize = 72;

impl<'a> Packet<'a> {
    /// A message that came over no device.
    pub fn message(bytes: &'a [u8]) -> Self {
        Self { bytes, protocol: 0, device: 0, kind: FOR_HOST }
    }
}

impl Data for Packet<'_> {
    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn load(&self, width: Width, offset: u32) -> Option<u32> {
        if offset >= ANCILLARY {
            return match offset - ANCILLARY {
                fact::PROTOCOL => Some(u32::from(self.protocol)),
                fact::KIND => Some(u32::from(self.kind)),
                fact::MARK | fact::QUEUE | fact::RXHASH => Some(0),
                fact::VLAN_TAG | fact::VLAN_TAG_PRESENT => Some(0),
                fact::IFINDEX if self.device != 0 => Some(self.device),
                fact::CPU => Some(crate::sync::this_cpu() as u32),
                fact::RANDOM => Some(crate::drivers::random::cheap_u32()),
                _ => None,
            };
        }
        let at = usize::try_from(offset).ok()?;
        let rest = self.bytes.get(at..)?;
        Some(match width {
            Width::Word => u32::from_be_bytes(*rest.first_chunk()?),
            Width::Half => u32::from(u16::from_be_bytes(*rest.first_chunk()?)),
            Width::Byte => u32::from(*rest.first()?),
        })
    }
}

impl Common {
    /// How many bytes of a packet the socket's filter keeps, at least `headers` if it keeps it at all; `None`: it is
    /// dropped. Without a filter, all.
    pub fn filter(&self, packet: &Packet<'_>, headers: usize) -> Option<usize> {
        let len = packet.bytes.len();
        // Few sockets have one.
        if !self.has(flag::FILTER) {
            return Some(len);
        }
        let Some(program) = self.program.lock().clone() else { return Some(len) };
        match program.run(packet) as usize {
            0 => None,
            kept => Some(kept.max(headers).min(len)),
        }
    }

    /// `SO_ATTACH_FILTER`, whose value is a `struct sock_fprog`.
    pub fn attach_filter(&self, value: &[u8]) -> Result<()> {
        let program: &[u8; 16] = value.try_into().map_err(|_| Errno::EINVAL)?;
        self.check_filter_lock()?;
        let len = usize::from(u16::from_ne_bytes([program[0], program[1]]));
        let [.., a, b, c, d, e, f, g, h] = *program;
        let at = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        if at == 0 || len == 0 || len > MAX_INSNS {
            return Err(Errno::EINVAL);
        }
        let insns = Array::from(UserPtr::<u64>::new(at).read_array(len)?);
        let program = Ref::try_new(Program::new(insns)?)?;
        if len * size_of::<u64>() + PROGRAM_HEAD >= OPTMEM_MAX {
            return Err(Errno::ENOMEM);
        }
        let mut place = self.program.lock();
        // Whoever shares the socket may have locked it while the program was read.
        self.check_filter_lock()?;
        let old = place.replace(program);
        self.set_flag(flag::FILTER, true);
        drop(place);
        drop(old);
        Ok(())
    }

    /// `SO_DETACH_FILTER`.
    pub fn detach_filter(&self) -> Result<()> {
        let mut place = self.program.lock();
        self.check_filter_lock()?;
        let old = place.take();
        self.set_flag(flag::FILTER, false);
        drop(place);
        old.map(drop).ok_or(Errno::ENOENT)
    }

    fn check_filter_lock(&self) -> Result<()> {
        if self.has(flag::LOCK_FILTER) { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// `SO_LOCK_FILTER`, which can be set only.
    pub fn lock_filter(&self, on: bool) -> Result<()> {
        // With the program, as who attaches one asks while he holds it.
        let _place = self.program.lock();
        if on {
            self.set_flag(flag::LOCK_FILTER, true);
            return Ok(());
        }
        self.check_filter_lock()
    }

    /// The program, if there is one (`SO_GET_FILTER`).
    pub fn program(&self) -> Option<Ref<Program>> {
        self.program.lock().clone()
    }
}

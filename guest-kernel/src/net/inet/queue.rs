//! [`Queue`]: the datagrams that a socket holds until somebody reads them, bounded by its receive buffer:
//! what does not fit is dropped, as datagrams may be.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering, Ordering::Relaxed};

use smoltcp::wire::IpAddress;

use super::ancillary::IPV6_PKTINFO;
use super::endpoint::Endpoint;
use super::options::{IP_PKTINFO, SOL_IP, SOL_IPV6};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::net::MsgFlags;
use crate::net::address::Address;
use crate::net::common::{Common, SHUT_RECEIVE, flag};
use crate::net::message::RecvMsg;
use crate::net::unix::sock::truesize;
use crate::sched::clock::realtime_ns;
use crate::sync::SpinLock;
use crate::wait_channel;

/// A datagram.
pub struct Datagram {
    /// The packet.
    pub bytes: Vec<u8>,
    /// Where in it the data starts.
    pub start: usize,
    /// From whom, as the program sees it.
    pub from: Address,
    /// To which address.
    pub to: Option<Endpoint>,
    /// The device that it came over.
    pub device: u32,
    /// Hops that were left.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// Wall clock when it came.
    pub time: u64,
}

impl Datagram {
    /// Bytes of memory that it takes.
    fn cost(&self) -> usize {
        truesize(self.bytes.len())
    }

    /// The data.
    pub fn data(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

/// The queue.
#[derive(Default)]
pub struct Queue {
    datagrams: SpinLock<VecDeque<Ref<Datagram>>>,
    /// How many there are. This, the memory that they take and their bytes in [`Common`] change under the lock.
    count: AtomicUsize,
    /// Memory taken.
    cost: AtomicUsize,
    /// Datagrams that did not fit.
    pub dropped: AtomicU64,
}

impl Queue {
    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Adds one, if it fits, and wakes who waits; false if it does not. A socket that is shut for reading gets
    /// datagrams still, as on Linux: only nobody waits for them.
    pub fn push(&self, common: &Common, datagram: Datagram) -> bool {
        let cost = datagram.cost();
        let room = common.rcvbuf.load(Relaxed) as usize;
        if self.cost.load(Relaxed) + cost > room {
            self.dropped.fetch_add(1, Relaxed);
            return false;
        }
        let len = datagram.data().len();
        {
            let Ok(datagram) = Ref::try_new(datagram) else { return false };
            let mut datagrams = self.datagrams.lock();
            if datagrams.try_reserve(1).is_err() {
                return false;
            }
            datagrams.push_back(datagram);
            self.count.store(datagrams.len(), Ordering::Release);
            self.cost.fetch_add(cost, Relaxed);
            common.rx_queued.fetch_add(len, Relaxed);
        }
        common.wake_readers();
        true
    }

    /// The datagram that `SO_PEEK_OFF` points into, or the first, and how many of its bytes come before.
    fn peek(&self, common: &Common) -> Option<(Ref<Datagram>, usize)> {
        let datagrams = self.datagrams.lock();
        let mut skip = common.peek_offset().unwrap_or(0);
        for datagram in &*datagrams {
            let len = datagram.data().len();
            if skip < len || skip == 0 {
                return Some((datagram.clone(), skip));
            }
            skip -= len;
        }
        None
    }

    fn take(&self, common: &Common) -> Option<Ref<Datagram>> {
        let mut datagrams = self.datagrams.lock();
        let datagram = datagrams.pop_front()?;
        self.count.store(datagrams.len(), Ordering::Release);
        self.cost.fetch_sub(datagram.cost(), Relaxed);
        common.rx_queued.fetch_sub(datagram.data().len(), Relaxed);
        Some(datagram)
    }

    /// Bytes of the first one (`FIONREAD`).
    pub fn first_len(&self) -> usize {
        self.datagrams.lock().front().map_or(0, |datagram| datagram.data().len())
    }

    /// Lets go of all.
    pub fn clear(&self, common: &Common) {
        let mut datagrams = self.datagrams.lock();
        let old = core::mem::take(&mut *datagrams);
        self.count.store(0, Relaxed);
        self.cost.store(0, Relaxed);
        common.rx_queued.store(0, Relaxed);
        drop(datagrams);
        drop(old);
    }

    /// Receives one: waits for it, copies it, says from whom it is. `None` if the socket is shut down.
    pub fn receive(
        &self,
        common: &Common,
        message: &mut RecvMsg<'_, '_>,
    ) -> Result<Option<(Ref<Datagram>, usize)>> {
        if message.flags.intersects(MsgFlags::ERRQUEUE) {
            return Err(Errno::EAGAIN);
        }
        let wait = common.read_patience(message.nonblock, message.flags);
        let peeks = message.flags.contains(MsgFlags::PEEK);
        let (datagram, skip) = loop {
            // An error comes before what arrived earlier.
            common.check_error()?;
            let found =
                if peeks { self.peek(common) } else { self.take(common).map(|taken| (taken, 0)) };
            if let Some(found) = found {
                break found;
            }
            // Who does not wait is only told that there is none.
            if common.is_shut(SHUT_RECEIVE) && !wait.nonblock {
                return Ok(None);
            }
            let there = || if peeks { self.peek(common).is_some() } else { !self.is_empty() };
            let come = || there() || common.has_error() || common.is_shut(SHUT_RECEIVE);
            wait.wait(&common.rx_wait, wait_channel!("__skb_wait_for_more_packets"), come)?;
        };
        let whole = datagram.data();
        let data = &whole[skip..];
        let room = message.data.remaining();
        // As on Linux: of the whole, also of one that is looked at from its middle on.
        if room <= data.len() && room < whole.len() {
            message.out_flags |= MsgFlags::TRUNC;
        }
        let n = message.data.put(&data[..data.len().min(room)])?;
        if n < data.len().min(room) {
            return Err(Errno::EFAULT);
        }
        message.name = Some(datagram.from);
        stamp(common, message, datagram.time)?;
        let n = if message.flags.contains(MsgFlags::TRUNC) { whole.len() } else { n };
        common.peeked(if peeks { n as isize } else { -(n as isize) });
        Ok(Some((datagram, n)))
    }
}

/// Tells when a message came (`SO_TIMESTAMP`, `SO_TIMESTAMPNS`).
fn stamp(common: &Common, message: &mut RecvMsg<'_, '_>, ns: u64) -> Result<()> {
    use crate::sched::clock::NSEC_PER_SEC;
    use crate::uapi::net::{SO_TIMESTAMP_OLD, SO_TIMESTAMPNS_OLD};
    let (kind, unit) = if common.has(flag::TIMESTAMPNS) {
        (SO_TIMESTAMPNS_OLD, 1)
    } else if common.has(flag::TIMESTAMP) {
        (SO_TIMESTAMP_OLD, 1000)
    } else {
        return Ok(());
    };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(ns / NSEC_PER_SEC).to_ne_bytes());
    bytes[8..].copy_from_slice(&(ns % NSEC_PER_SEC / unit).to_ne_bytes());
    message.add_control(crate::net::options::SOL_SOCKET, kind, &bytes)
}

/// The wall clock, if a socket stamps what it receives.
pub fn stamp_for(common: &Common) -> u64 {
    if common.has(flag::TIMESTAMP | flag::TIMESTAMPNS) { realtime_ns() } else { 0 }
}

/// Tells to which address and over which device a datagram came (`IP_PKTINFO`, `IPV6_RECVPKTINFO`).
pub fn packet_info(message: &mut RecvMsg<'_, '_>, datagram: &Datagram) -> Result<()> {
    match datagram.to.map(|to| to.addr) {
        Some(IpAddress::Ipv4(v4)) => {
            let mut bytes = [0; 12];
            bytes[..4].copy_from_slice(&datagram.device.to_ne_bytes());
            bytes[4..8].copy_from_slice(&v4.octets());
            bytes[8..].copy_from_slice(&v4.octets());
            message.add_control(SOL_IP, IP_PKTINFO, &bytes)
        }
        Some(IpAddress::Ipv6(v6)) => {
            let mut bytes = [0; 20];
            bytes[..16].copy_from_slice(&v6.octets());
            bytes[16..].copy_from_slice(&datagram.device.to_ne_bytes());
            message.add_control(SOL_IPV6, IPV6_PKTINFO, &bytes)
        }
        None => Ok(()),
    }
}

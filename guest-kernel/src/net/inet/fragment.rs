//! IPv4 packets in pieces (RFC 791): cutting what is too large for a link, and putting together what came.

use alloc::vec::Vec;

use smoltcp::wire::{Ipv4Address, Ipv4Packet};

use super::counters;
use super::ip::IPV4_HEADER;
use crate::errno::{Errno, Result};
use crate::mm::try_to_vec;
use crate::ordmap::OrdMap;
use crate::sched::clock::{NSEC_PER_SEC, monotonic_ns};

/// Packets that may be incomplete at a time.
const INCOMPLETE_MAX: usize = 16;
/// How long one may be.
const TIMEOUT_NS: u64 = 30 * NSEC_PER_SEC;
/// No packet is longer than this.
const LONGEST: usize = 65535 - IPV4_HEADER;

/// Cuts a packet into pieces of at most `mtu` bytes. `EMSGSIZE` if it must not be cut.
pub fn split(packet: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>> {
    let ip = Ipv4Packet::new_checked(packet).map_err(|_| Errno::EMSGSIZE)?;
    if ip.version() != 4 || ip.dont_frag() {
        return Err(Errno::EMSGSIZE);
    }
    let (header, payload) = packet.split_at(usize::from(ip.header_len()));
    let step = mtu.saturating_sub(header.len()) & !7;
    if step == 0 {
        return Err(Errno::EMSGSIZE);
    }
    let count = payload.len().div_ceil(step);
    let mut pieces = Vec::new();
    pieces.try_reserve_exact(count).map_err(|_| Errno::ENOBUFS)?;
    for (i, part) in payload.chunks(step).enumerate() {
        let mut piece = try_to_vec(header)?;
        piece.try_reserve_exact(part.len()).map_err(|_| Errno::ENOBUFS)?;
        piece.extend_from_slice(part);
        let total = piece.len() as u16;
        let mut ip = Ipv4Packet::new_unchecked(&mut piece);
        ip.set_total_len(total);
        ip.set_more_frags(i + 1 < count);
        ip.set_frag_offset((i * step) as u16);
        ip.fill_checksum();
        pieces.push(piece);
    }
    Ok(pieces)
}

#[derive(Default)]
struct Incomplete {
    since: u64,
    header: Vec<u8>,
    pieces: OrdMap<u16, Vec<u8>>,
    /// Bytes in all, once the last piece came.
    total: Option<usize>,
    held: usize,
}

type Key = (Ipv4Address, Ipv4Address, u16, u8);

/// Packets of which some pieces came.
#[derive(Default)]
pub struct Assembler {
    incomplete: OrdMap<Key, Incomplete>,
}

impl Assembler {
    /// Packets that are incomplete, and bytes of them that came.
    pub fn usage(&self) -> (usize, usize) {
        (self.incomplete.len(), self.incomplete.values().map(|there| there.held).sum())
    }

    /// Takes a piece; the whole packet, with a header of 20 bytes, if it was the last one missing.
    /// `EINVAL` for a piece that fits nowhere, `ENOMEM` if there is no room for it.
    pub fn add(
        &mut self,
        ip: &Ipv4Packet<&[u8]>,
        counts: &counters::Ip,
    ) -> Result<Option<Vec<u8>>> {
        let now = monotonic_ns();
        let before = self.incomplete.len();
        self.incomplete.retain(|_, there| now - there.since < TIMEOUT_NS);
        let late = before - self.incomplete.len();
        counts.reasm_timeout.add(late);
        counts.reasm_fails.add(late);
        let key = (ip.src_addr(), ip.dst_addr(), ip.ident(), ip.next_header().into());
        if !self.incomplete.contains_key(&key) && self.incomplete.len() >= INCOMPLETE_MAX {
            return Err(Errno::ENOMEM);
        }
        let offset = ip.frag_offset();
        let payload = ip.payload();
        let end = usize::from(offset) + payload.len();
        // Without memory the piece is lost, as it may be on the way.
        let there = self.incomplete.get_or_try_insert_with(key, Incomplete::default)?;
        if there.pieces.is_empty() {
            there.since = now;
        }
        there.held += payload.len();
        if end > LONGEST
            || there.held > LONGEST
            || (ip.more_frags() && !payload.len().is_multiple_of(8))
        {
            self.incomplete.remove(&key);
            return Err(Errno::EINVAL);
        }
        if !ip.more_frags() {
            there.total = Some(end);
        }
        if offset == 0 {
            there.header = try_to_vec(&ip.as_ref()[..IPV4_HEADER])?;
        }
        there.pieces.try_insert(offset, try_to_vec(payload)?)?;
        if !there.is_complete() {
            return Ok(None);
        }
        let whole = self.incomplete.remove(&key).ok_or(Errno::EINVAL)?;
        whole.join().map(Some)
    }
}

impl Incomplete {
    fn is_complete(&self) -> bool {
        let Some(total) = self.total else { return false };
        let mut at = 0;
        for (&offset, piece) in self.pieces.iter() {
            if usize::from(offset) != at {
                return false;
            }
            at += piece.len();
        }
        at == total
    }

    fn join(self) -> Result<Vec<u8>> {
        let mut packet = self.header;
        packet.try_reserve_exact(self.total.unwrap_or(0)).map_err(|_| Errno::ENOMEM)?;
        self.pieces.values().for_each(|piece| packet.extend_from_slice(piece));
        let total = packet.len() as u16;
        let mut ip = Ipv4Packet::new_unchecked(&mut packet);
        ip.set_header_len(IPV4_HEADER as u8);
        ip.set_total_len(total);
        ip.set_more_frags(false);
        ip.set_frag_offset(0);
        ip.fill_checksum();
        Ok(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ip::{Header, build};
    use super::*;

    fn packet(len: usize) -> Vec<u8> {
        let header = Header {
            src: Ipv4Address::new(10, 0, 0, 1).into(),
            dst: Ipv4Address::new(10, 0, 0, 2).into(),
            protocol: 17,
            ttl: 64,
            tos: 0,
        };
        let payload: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        build(&header, 42, &[&payload]).unwrap()
    }

    #[test]
    fn pieces_come_together_in_any_order() {
        let whole = packet(5000);
        let mut pieces = split(&whole, 1500).unwrap();
        assert!(pieces.iter().all(|piece| piece.len() <= 1500));
        pieces.reverse();
        let (mut assembler, counts) = (Assembler::default(), counters::Ip::default());
        let last = pieces.pop().unwrap();
        for piece in &pieces {
            let piece = Ipv4Packet::new_checked(&piece[..]).unwrap();
            assert!(assembler.add(&piece, &counts).unwrap().is_none());
        }
        let last = Ipv4Packet::new_checked(&last[..]).unwrap();
        let joined = assembler.add(&last, &counts).unwrap().unwrap();
        assert_eq!(joined[IPV4_HEADER..], whole[IPV4_HEADER..]);
        assert!(assembler.incomplete.is_empty());
    }

    #[test]
    fn what_overlaps_or_is_too_long_is_dropped() {
        let (mut assembler, counts) = (Assembler::default(), counters::Ip::default());
        let whole = packet(4000);
        let pieces = split(&whole, 1500).unwrap();
        for _ in 0..100 {
            let piece = Ipv4Packet::new_checked(&pieces[0][..]).unwrap();
            assert!(!matches!(assembler.add(&piece, &counts), Ok(Some(_))));
        }
        assert!(assembler.incomplete.values().all(|there| there.held <= LONGEST));
    }
}

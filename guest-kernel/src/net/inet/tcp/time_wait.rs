//! [`TimeWait`]: what is left of a connection that ended and that nobody has any more, until no segment of it can be
//! under way (RFC 9293, 3.6.1). It answers an end that the other side repeats, and needs none of the buffers.

use smoltcp::wire::{TcpControl, TcpPacket, TcpSeqNumber};

use super::core::Core;
use super::table;
use crate::net::inet::endpoint::Endpoint;
use crate::net::inet::ip;
use crate::net::inet::route::Hop;
use crate::net::inet::stack::Stack;
use crate::sched::clock::{NSEC_PER_SEC, monotonic_ns};

/// How long it stays when the other side repeats its end; what smoltcp waits.
const DELAY: u64 = 10 * NSEC_PER_SEC;
/// If it is not due for so long, nothing but its end is (RFC 9293 has acknowledgements wait half a second at most).
const NOTHING_ELSE: u64 = NSEC_PER_SEC;

/// What is left of a connection.
pub struct TimeWait {
    hop: Hop,
    local: Endpoint,
    peer: Endpoint,
    /// The number behind its own end.
    sequence: TcpSeqNumber,
    /// The number behind the other side's end.
    acknowledged: TcpSeqNumber,
    /// When it is over, in ns of CLOCK_MONOTONIC.
    pub until: u64,
}

impl TimeWait {
    /// What is left of `core`, which is in TIME_WAIT; `None` as long as it has something to say.
    pub fn of(core: &mut Core, local: Endpoint, peer: Endpoint) -> Option<Self> {
        let until = core.next_poll()?;
        let (sequence, acknowledged) = core.last_sent()?;
        let quiet = until > monotonic_ns() + NOTHING_ELSE;
        quiet.then(|| Self { hop: core.hop(), local, peer, sequence, acknowledged, until })
    }

    /// True of a segment that begins a connection which cannot be mistaken for this one: its numbers come behind those
    /// of this one (RFC 9293, 3.6.1; RFC 6191).
    pub fn gives_way_to(&self, segment: &TcpPacket<&[u8]>) -> bool {
        let begins = segment.syn() && !segment.ack() && !segment.rst();
        begins && segment.seq_number() > self.acknowledged
    }

    /// Takes a packet with a segment in; true if the connection is over by it.
    pub fn input(&mut self, stack: &Stack, packet: &[u8]) -> bool {
        let segment = ip::header_len_of(packet).and_then(|len| packet.get(len..));
        let segment = segment.and_then(|bytes| TcpPacket::new_checked(bytes).ok());
        let Some(segment) = segment else { return false };
        if segment.rst() {
            return segment.seq_number() == self.acknowledged;
        }
        if segment.segment_len() > 0 {
            if segment.fin() {
                self.until = monotonic_ns() + DELAY;
            }
            let ends = (self.local, self.peer);
            let (sequence, acknowledged) = (self.sequence, Some(self.acknowledged));
            table::send(stack, &self.hop, ends, TcpControl::None, sequence, acknowledged);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::wire::Ipv4Address;

    const SEQUENCE: TcpSeqNumber = TcpSeqNumber(1000);
    const ACKNOWLEDGED: TcpSeqNumber = TcpSeqNumber(77);

    #[test]
    fn an_end_that_is_repeated_is_acknowledged_and_only_the_right_reset_ends_it() {
        crate::mm::testing::setup();
        let stack = Stack::new(1).unwrap();
        let address = Ipv4Address::LOCALHOST.into();
        let (local, peer) = (Endpoint::new(address, 1), Endpoint::new(address, 2));
        let device = stack.loopback().unwrap();
        let hop = Hop { device, next: address, src: address, local: true };
        let (sequence, acknowledged) = (SEQUENCE, ACKNOWLEDGED);
        let mut left = TimeWait { hop, local, peer, sequence, acknowledged, until: 0 };
        let mut comes = |control, seq| {
            let before = stack.counters.segments.out_segs.get();
            let packet = table::packet(peer, local, control, seq, Some(SEQUENCE)).unwrap();
            let over = left.input(&stack, &packet);
            (over, stack.counters.segments.out_segs.get() - before, left.until > 0)
        };
        // A mere acknowledgement says nothing new, and does not prolong it.
        assert_eq!(comes(TcpControl::None, ACKNOWLEDGED), (false, 0, false));
        assert_eq!(comes(TcpControl::Rst, ACKNOWLEDGED + 1), (false, 0, false));
        assert_eq!(comes(TcpControl::Fin, TcpSeqNumber(76)), (false, 1, true));
        assert_eq!(comes(TcpControl::Rst, ACKNOWLEDGED), (true, 0, true));
        assert!(!left.input(&stack, &[0x45; 10]));
        let gives_way = |control, seq, ack| {
            let packet = table::packet(peer, local, control, seq, ack).unwrap();
            left.gives_way_to(&TcpPacket::new_checked(&packet[20..]).unwrap())
        };
        assert!(gives_way(TcpControl::Syn, ACKNOWLEDGED + 1, None));
        assert!(!gives_way(TcpControl::Syn, ACKNOWLEDGED, None), "it may be an old one");
        assert!(!gives_way(TcpControl::Syn, TcpSeqNumber(76), None));
        assert!(!gives_way(TcpControl::Syn, ACKNOWLEDGED + 1, Some(SEQUENCE)));
        assert!(!gives_way(TcpControl::Rst, ACKNOWLEDGED + 1, None));
        assert!(!gives_way(TcpControl::None, ACKNOWLEDGED + 1, None));
        stack.close();
    }
}

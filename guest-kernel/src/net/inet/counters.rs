//! [`Counters`]: what a namespace's IP layer has done, as /proc/net/snmp shows it (RFC 4293, RFC 4022, RFC 4113).
//!
//! Packets, ICMP and datagrams counted here are those of IPv4; TCP's counts are of both versions.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use smoltcp::wire::IpAddress;

use super::ip;

/// One count.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    #[inline]
    pub fn count(&self) {
        self.add(1);
    }

    /// So many more.
    #[inline]
    pub fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Relaxed);
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! group {
    ($(#[$doc:meta])* $Group:ident { $($field:ident $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Default)]
        #[allow(missing_docs, reason = "the names are the RFCs'")]
        pub struct $Group {
            $(pub $field: Counter,)*
        }

        impl $Group {
            fn columns(&self) -> impl Iterator<Item = (&'static str, i64)> + Clone {
                [$(($name, self.$field.get() as i64)),*].into_iter()
            }
        }
    };
}

group! {
    /// Packets.
    Ip {
        in_receives "InReceives",
        in_hdr_errors "InHdrErrors",
        in_addr_errors "InAddrErrors",
        forw_datagrams "ForwDatagrams",
        in_unknown_protos "InUnknownProtos",
        in_discards "InDiscards",
        in_delivers "InDelivers",
        out_requests "OutRequests",
        out_discards "OutDiscards",
        out_no_routes "OutNoRoutes",
        reasm_timeout "ReasmTimeout",
        reasm_reqds "ReasmReqds",
        reasm_oks "ReasmOKs",
        reasm_fails "ReasmFails",
        frag_oks "FragOKs",
        frag_fails "FragFails",
        frag_creates "FragCreates",
    }
}

group! {
    /// Connections as they begin and end.
    TcpOpens {
        active_opens "ActiveOpens",
        passive_opens "PassiveOpens",
        attempt_fails "AttemptFails",
        estab_resets "EstabResets",
    }
}

group! {
    /// Segments.
    TcpSegments {
        in_segs "InSegs",
        out_segs "OutSegs",
        retrans_segs "RetransSegs",
        in_errs "InErrs",
        out_rsts "OutRsts",
        in_csum_errors "InCsumErrors",
    }
}

group! {
    /// Datagrams.
    Udp {
        in_datagrams "InDatagrams",
        no_ports "NoPorts",
        in_errors "InErrors",
        out_datagrams "OutDatagrams",
        rcvbuf_errors "RcvbufErrors",
        sndbuf_errors "SndbufErrors",
        in_csum_errors "InCsumErrors",
        ignored_multi "IgnoredMulti",
        mem_errors "MemErrors",
    }
}

/// The types of ICMP messages that have a count by name, in the order of the columns.
const ICMP_TYPES: [(&str, u8); 11] = [
    ("DestUnreachs", 3),
    ("TimeExcds", 11),
    ("ParmProbs", 12),
    ("SrcQuenchs", 4),
    ("Redirects", 5),
    ("Echos", 8),
    ("EchoReps", 0),
    ("Timestamps", 13),
    ("TimestampReps", 14),
    ("AddrMasks", 17),
    ("AddrMaskReps", 18),
];

/// Types of ICMP messages that somebody was given (IANA, "ICMP Type Numbers").
const KNOWN_TYPES: usize = 44;

/// ICMP messages of one direction.
pub struct Messages {
    all: Counter,
    by_type: [Counter; KNOWN_TYPES],
}

impl Default for Messages {
    fn default() -> Self {
        let by_type = [const { Counter(AtomicU64::new(0)) }; KNOWN_TYPES];
        Self { all: Counter::default(), by_type }
    }
}

impl Messages {
    /// One more of this type.
    pub fn count(&self, kind: u8) {
        self.all.count();
        if let Some(count) = self.by_type.get(usize::from(kind)) {
            count.count();
        }
    }
}

group! {
    /// ICMP messages that came and were of no use.
    IcmpErrors {
        in_errors "InErrors",
        in_csum_errors "InCsumErrors",
    }
}

/// Everything that is counted.
#[derive(Default)]
#[allow(missing_docs, reason = "the names are the protocols'")]
pub struct Counters {
    pub ip: Ip,
    pub icmp: IcmpErrors,
    pub icmp_in: Messages,
    pub icmp_out: Messages,
    pub tcp: TcpOpens,
    pub segments: TcpSegments,
    pub udp: Udp,
}

type Out<'a> = &'a mut dyn Write;

/// Two lines: the titles of the columns, and their values.
fn group<'a>(
    out: Out<'_>,
    title: &str,
    columns: impl Iterator<Item = (&'a str, i64)> + Clone,
) -> fmt::Result {
    write!(out, "{title}:")?;
    columns.clone().try_for_each(|(name, _)| write!(out, " {name}"))?;
    write!(out, "\n{title}:")?;
    columns.into_iter().try_for_each(|(_, value)| write!(out, " {value}"))?;
    writeln!(out)
}

impl Counters {
    /// A packet is sent.
    pub fn note_output(&self, packet: &[u8]) {
        // The version stands in the first four bits, the protocol in the tenth byte.
        if packet.first().is_none_or(|byte| byte >> 4 != 4) {
            return;
        }
        self.ip.out_requests.count();
        let header_len = usize::from(packet[0] & 0xf) * 4;
        if packet.get(9) == Some(&ip::ICMP)
            && let Some(&kind) = packet.get(header_len)
        {
            self.icmp_out.count(kind);
        }
    }

    /// The counts of packets, if those to `address` are counted.
    pub fn ip(&self, address: IpAddress) -> Option<&Ip> {
        matches!(address, IpAddress::Ipv4(_)).then_some(&self.ip)
    }

    /// The counts of datagrams, if those to `address` are counted.
    pub fn udp(&self, address: IpAddress) -> Option<&Udp> {
        matches!(address, IpAddress::Ipv4(_)).then_some(&self.udp)
    }

    /// Writes /proc/net/snmp. `established`: connections that stand now.
    pub fn show(&self, established: usize, out: Out<'_>) -> fmt::Result {
        // Packets are for this machine or nobody's: none is handed on.
        let constants = [("Forwarding", 2), ("DefaultTTL", i64::from(ip::DEFAULT_TTL))];
        group(out, "Ip", constants.into_iter().chain(self.ip.columns()))?;

        let by_type = |all: &Messages, prefix: &'static str| {
            ICMP_TYPES.map(|(name, kind)| (prefix, name, all.by_type[usize::from(kind)].get()))
        };
        let (received, sent) = (by_type(&self.icmp_in, "In"), by_type(&self.icmp_out, "Out"));
        let errors = self.icmp.columns();
        write!(out, "Icmp: InMsgs")?;
        errors.clone().try_for_each(|(name, _)| write!(out, " {name}"))?;
        received.iter().try_for_each(|(prefix, name, _)| write!(out, " {prefix}{name}"))?;
        write!(out, " OutMsgs OutErrors")?;
        sent.iter().try_for_each(|(prefix, name, _)| write!(out, " {prefix}{name}"))?;
        write!(out, "\nIcmp: {}", self.icmp_in.all.get())?;
        errors.clone().try_for_each(|(_, value)| write!(out, " {value}"))?;
        received.iter().try_for_each(|(.., value)| write!(out, " {value}"))?;
        write!(out, " {} 0", self.icmp_out.all.get())?;
        sent.iter().try_for_each(|(.., value)| write!(out, " {value}"))?;
        writeln!(out)?;
        self.show_types(out)?;

        // Limits of retransmission in ms, and that there is none of connections (RFC 4022): those of smoltcp.
        let limits = [("RtoAlgorithm", 1), ("RtoMin", 1000), ("RtoMax", 60_000), ("MaxConn", -1)];
        let now = [("CurrEstab", established as i64)];
        let opens = limits.into_iter().chain(self.tcp.columns()).chain(now);
        group(out, "Tcp", opens.chain(self.segments.columns()))?;
        group(out, "Udp", self.udp.columns())?;
        // There is no such protocol here.
        group(out, "UdpLite", Udp::default().columns())
    }

    /// The line about types of ICMP messages that there were, by number.
    fn show_types(&self, out: Out<'_>) -> fmt::Result {
        let both = [("InType", &self.icmp_in), ("OutType", &self.icmp_out)];
        let seen = both.iter().flat_map(|(prefix, all)| {
            let counts = all.by_type.iter().map(Counter::get).enumerate();
            counts.filter(|&(_, count)| count > 0).map(move |(kind, count)| (prefix, kind, count))
        });
        if seen.clone().next().is_none() {
            return Ok(());
        }
        write!(out, "IcmpMsg:")?;
        seen.clone().try_for_each(|(prefix, kind, _)| write!(out, " {prefix}{kind}"))?;
        write!(out, "\nIcmpMsg:")?;
        seen.clone().try_for_each(|(.., count)| write!(out, " {count}"))?;
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_title_has_a_value() {
        let counters = Counters::default();
        counters.icmp_in.count(3);
        let mut out = String::new();
        counters.show(2, &mut out).unwrap();
        let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split(' ').collect()).collect();
        let groups: Vec<&str> = lines.iter().step_by(2).map(|line| line[0]).collect();
        assert_eq!(groups, ["Ip:", "Icmp:", "IcmpMsg:", "Tcp:", "Udp:", "UdpLite:"]);
        for pair in lines.chunks(2) {
            assert_eq!((pair[0][0], pair[0].len()), (pair[1][0], pair[1].len()));
        }
        let at = lines[6].iter().position(|&title| title == "CurrEstab").unwrap();
        assert_eq!(lines[7][at], "2");
    }

    #[test]
    fn packets_of_the_other_version_are_not_counted() {
        let counters = Counters::default();
        counters.note_output(&[0x60; 60]);
        counters.note_output(&[]);
        assert_eq!(counters.ip.out_requests.get(), 0);
        let mut echo = [0; 28];
        (echo[0], echo[9], echo[20]) = (0x45, ip::ICMP, 8);
        counters.note_output(&echo);
        assert_eq!((counters.ip.out_requests.get(), counters.icmp_out.by_type[8].get()), (1, 1));
    }
}

//! What the control messages of one datagram ask for (ip(7), ipv6(7)): its source, device, hops and class, in
//! place of the socket's own.

use core::net::{Ipv4Addr, Ipv6Addr};
use core::sync::atomic::Ordering::Relaxed;

use smoltcp::wire::IpAddress;

use super::options::{IP_PKTINFO, IP_TOS, IP_TTL, IPV6_TCLASS, IpOptions, SOL_IP, SOL_IPV6};
use super::stack::Stack;
use crate::errno::{Errno, Result};
use crate::net::message::ControlBytes;

/// `IPV6_2292PKTINFO`, as RFC 2292 had it.
const IPV6_2292PKTINFO: u32 = 2;
/// `IPV6_2292HOPLIMIT`.
const IPV6_2292HOPLIMIT: u32 = 8;
/// `IPV6_PKTINFO`.
pub const IPV6_PKTINFO: u32 = 50;
/// `IPV6_HOPLIMIT`.
pub const IPV6_HOPLIMIT: u32 = 52;

/// What one datagram has in place of what its socket says.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Ancillary {
    /// The address that it comes from.
    pub src: Option<IpAddress>,
    /// The device that it leaves by; 0 if any.
    pub device: u32,
    ttl: Option<u8>,
    tos: Option<u8>,
}

/// An `int`, which is all that the message holds.
fn int(data: &[u8]) -> Result<i32> {
    data.try_into().map(i32::from_ne_bytes).map_err(|_| Errno::EINVAL)
}

/// A number that may be left to the socket with -1.
fn byte_or_default(data: &[u8]) -> Result<Option<u8>> {
    match int(data)? {
        -1 => Ok(None),
        n => u8::try_from(n).map(Some).map_err(|_| Errno::EINVAL),
    }
}

/// `struct in6_pktinfo`, with room behind it or not: an address, if it is one, and a device.
fn v6_info(data: &[u8]) -> Result<(Option<IpAddress>, u32)> {
    let (address, rest) = data.split_first_chunk::<16>().ok_or(Errno::EINVAL)?;
    let device = rest.first_chunk::<4>().ok_or(Errno::EINVAL)?;
    let address = Ipv6Addr::from(*address);
    let src = (!address.is_unspecified()).then(|| match address.to_ipv4_mapped() {
        Some(v4) => IpAddress::Ipv4(v4),
        None => IpAddress::Ipv6(address),
    });
    Ok((src, u32::from_ne_bytes(*device)))
}

impl Ancillary {
    /// Reads the messages of a datagram to `dst`. `EINVAL` if one is not known or not well formed, and an error
    /// if its address is not of `stack`. Those of other levels are somebody else's.
    pub fn of(control: &[ControlBytes], dst: IpAddress, stack: &Stack) -> Result<Self> {
        let mut this = Self::default();
        for message in control {
            match (dst, message.level) {
                (IpAddress::Ipv4(_), SOL_IP) => this.take_v4(message)?,
                // An IPv6 socket that sends to an IPv4 address names its own in IPv6's form.
                (IpAddress::Ipv4(_), SOL_IPV6) if message.kind == IPV6_PKTINFO => {
                    (this.src, this.device) = v6_info(&message.data)?;
                }
                (IpAddress::Ipv6(_), SOL_IPV6) => this.take_v6(message)?,
                _ => {}
            }
        }
        let foreign = |src: IpAddress| src.version() != dst.version() || !stack.has_address(src);
        match (this.src.filter(|src| foreign(*src)), dst) {
            (None, _) => Ok(this),
            // As Linux has it: there is no route from there.
            (Some(IpAddress::Ipv4(src)), IpAddress::Ipv4(_)) if !src.is_multicast() => {
                Err(Errno::ENETUNREACH)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn take_v4(&mut self, message: &ControlBytes) -> Result<()> {
        let data = &message.data[..];
        match message.kind {
            IP_PKTINFO => {
                // `struct in_pktinfo`: device, the address to send from, and one that counts on receipt only.
                let info: &[u8; 12] = data.try_into().map_err(|_| Errno::EINVAL)?;
                let [d0, d1, d2, d3, a, b, c, d, ..] = *info;
                self.device = u32::from_ne_bytes([d0, d1, d2, d3]);
                let address = Ipv4Addr::new(a, b, c, d);
                self.src = (!address.is_unspecified()).then_some(IpAddress::Ipv4(address));
            }
            IP_TTL => {
                let ttl = u8::try_from(int(data)?).ok().filter(|ttl| *ttl > 0);
                self.ttl = Some(ttl.ok_or(Errno::EINVAL)?);
            }
            IP_TOS => {
                let tos = if let [tos] = data { i32::from(*tos) } else { int(data)? };
                self.tos = Some(u8::try_from(tos).map_err(|_| Errno::EINVAL)?);
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    fn take_v6(&mut self, message: &ControlBytes) -> Result<()> {
        let data = &message.data[..];
        match message.kind {
            IPV6_PKTINFO | IPV6_2292PKTINFO => (self.src, self.device) = v6_info(data)?,
            IPV6_HOPLIMIT | IPV6_2292HOPLIMIT => self.ttl = byte_or_default(data)?,
            IPV6_TCLASS => self.tos = byte_or_default(data)?,
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// The hops that the datagram may make.
    pub fn hops(&self, options: &IpOptions, dst: IpAddress) -> u8 {
        self.ttl.unwrap_or_else(|| match dst.is_multicast() {
            true => options.multicast_ttl.load(Relaxed),
            false => options.hops(),
        })
    }

    /// The class that it travels in.
    pub fn tos(&self, options: &IpOptions) -> u8 {
        self.tos.unwrap_or_else(|| options.tos.load(Relaxed))
    }
}

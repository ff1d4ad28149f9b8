//! Addresses with ports, as programs write them: `struct sockaddr_in` (ip(7)), `struct sockaddr_in6`
//! (ipv6(7)). An IPv4 address in a socket of `AF_INET6` is written as `::ffff:a.b.c.d`.

use core::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::wire::IpAddress;

use super::{AF_INET, AF_INET6};
use crate::errno::{Errno, Result};
use crate::net::AF_UNSPEC;
use crate::net::address::{Address, family_of};

/// Bytes of a `struct sockaddr_in`.
const SOCKADDR_IN: usize = 16;
/// Bytes of a `struct sockaddr_in6`, and of it without a scope.
const SOCKADDR_IN6: usize = 28;
const SOCKADDR_IN6_SHORT: usize = 24;

/// An address and a port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Endpoint {
    /// The address; unspecified stands for any.
    pub addr: IpAddress,
    /// The port; 0 stands for none.
    pub port: u16,
    /// The device, for addresses that count on one link only.
    pub scope: u32,
}

impl Endpoint {
    /// An address with a port.
    pub fn new(addr: IpAddress, port: u16) -> Self {
        Self { addr, port, scope: 0 }
    }

    /// Any address of a family.
    pub fn any(family: u32) -> Self {
        Self::new(any(family), 0)
    }

    /// True if the address stands for any.
    pub fn is_any(&self) -> bool {
        self.addr.is_unspecified()
    }

    /// Reads an address of a socket of `family`.
    pub fn parse(family: u32, bytes: &[u8]) -> Result<Self> {
        let theirs = u32::from(family_of(bytes)?);
        match (family, theirs) {
            (AF_INET, AF_INET) | (AF_INET6, AF_INET) => {
                let address: &[u8; SOCKADDR_IN] = bytes.first_chunk().ok_or(Errno::EINVAL)?;
                let addr = Ipv4Addr::new(address[4], address[5], address[6], address[7]);
                Ok(Self::new(addr.into(), port_of(address)))
            }
            (AF_INET6, AF_INET6) => {
                let address: &[u8; SOCKADDR_IN6_SHORT] =
                    bytes.first_chunk().ok_or(Errno::EINVAL)?;
                let mut octets = [0; 16];
                octets.copy_from_slice(&address[8..24]);
                let addr = Ipv6Addr::from(octets);
                let scope = bytes.get(24..).and_then(|rest| rest.first_chunk());
                Ok(Self {
                    addr: match addr.to_ipv4_mapped() {
                        Some(v4) => v4.into(),
                        None => addr.into(),
                    },
                    port: port_of(address),
                    scope: scope.map_or(0, |scope| u32::from_ne_bytes(*scope)),
                })
            }
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }

    /// The same where an IPv4 address may be said to be of no family (sendto(2) of old programs).
    pub fn parse_lenient(family: u32, bytes: &[u8]) -> Result<Self> {
        if family != AF_INET || u32::from(family_of(bytes)?) != AF_UNSPEC {
            return Self::parse(family, bytes);
        }
        let address: &[u8; SOCKADDR_IN] = bytes.first_chunk().ok_or(Errno::EINVAL)?;
        let addr = Ipv4Addr::new(address[4], address[5], address[6], address[7]);
        Ok(Self::new(addr.into(), port_of(address)))
    }

    /// An address for bind(2): of the socket's own family, or, if it is any, of none.
    pub fn parse_own(family: u32, bytes: &[u8]) -> Result<Self> {
        let own = Self::parse_lenient(family, bytes)?;
        match u32::from(family_of(bytes)?) {
            there if there == family => Ok(own),
            AF_UNSPEC if own.is_any() => Ok(own),
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }

    /// Writes the address for a socket of `family`.
    pub fn encode(&self, family: u32) -> Address {
        let mut bytes = [0; SOCKADDR_IN6];
        bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        bytes[2..4].copy_from_slice(&self.port.to_be_bytes());
        let len = match (family, self.addr) {
            (AF_INET, IpAddress::Ipv4(v4)) => {
                bytes[4..8].copy_from_slice(&v4.octets());
                SOCKADDR_IN
            }
            (AF_INET, IpAddress::Ipv6(_)) => SOCKADDR_IN,
            (_, addr) => {
                bytes[8..24].copy_from_slice(&as_v6(addr).octets());
                bytes[24..28].copy_from_slice(&self.scope.to_ne_bytes());
                SOCKADDR_IN6
            }
        };
        Address::new(&bytes[..len]).unwrap_or(Address::EMPTY)
    }
}

fn port_of(address: &[u8]) -> u16 {
    u16::from_be_bytes([address[2], address[3]])
}

/// The address that stands for any in a family.
pub fn any(family: u32) -> IpAddress {
    match family {
        AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// An address as an IPv6 one.
pub fn as_v6(addr: IpAddress) -> Ipv6Addr {
    match addr {
        // Any IPv4 address is any address.
        IpAddress::Ipv4(v4) if v4.is_unspecified() => Ipv6Addr::UNSPECIFIED,
        IpAddress::Ipv4(v4) => v4.to_ipv6_mapped(),
        IpAddress::Ipv6(v6) => v6,
    }
}

/// True if a socket that has the address `local` takes packets to `dst`. `dual`: any IPv6 address takes
/// IPv4 too.
pub fn takes(local: IpAddress, dual: bool, dst: IpAddress) -> bool {
    match (local, dst) {
        _ if local == dst => true,
        (IpAddress::Ipv4(any), IpAddress::Ipv4(_)) => any.is_unspecified(),
        (IpAddress::Ipv6(any), IpAddress::Ipv6(_)) => any.is_unspecified(),
        (IpAddress::Ipv6(any), IpAddress::Ipv4(_)) => dual && any.is_unspecified(),
        (IpAddress::Ipv4(_), IpAddress::Ipv6(_)) => false,
    }
}

/// True if some packet could be for both of two addresses.
pub fn overlap(a: IpAddress, a_dual: bool, b: IpAddress, b_dual: bool) -> bool {
    takes(a, a_dual, b) || takes(b, b_dual, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_they_were_written() {
        let v4 = Endpoint::new(Ipv4Addr::new(10, 1, 2, 3).into(), 80);
        for family in [AF_INET, AF_INET6] {
            let address = v4.encode(family);
            assert_eq!(Endpoint::parse(family, address.bytes()), Ok(v4));
        }
        let v6 = Endpoint { addr: Ipv6Addr::LOCALHOST.into(), port: 7, scope: 3 };
        assert_eq!(Endpoint::parse(AF_INET6, v6.encode(AF_INET6).bytes()), Ok(v6));
        assert_eq!(Endpoint::parse(AF_INET, v6.encode(AF_INET6).bytes()), Err(Errno::EAFNOSUPPORT));
        assert_eq!(Endpoint::parse(AF_INET, &[2, 0, 1]), Err(Errno::EINVAL));
    }

    #[test]
    fn any_address_takes_its_family_and_perhaps_the_other() {
        let v4: IpAddress = Ipv4Addr::new(10, 1, 2, 3).into();
        assert!(takes(any(AF_INET), false, v4));
        assert!(takes(any(AF_INET6), true, v4));
        assert!(!takes(any(AF_INET6), false, v4));
        assert!(overlap(any(AF_INET6), true, any(AF_INET), false));
        assert!(!overlap(any(AF_INET6), false, any(AF_INET), false));
    }
}

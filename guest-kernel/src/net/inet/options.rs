//! Options of the levels `IPPROTO_IP` (ip(7)) and `IPPROTO_IPV6` (ipv6(7)) that all Internet sockets share.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};

use crate::errno::{Errno, Result};
use crate::net::options::{OptionValue, SOL_SOCKET, int};

/// Level of IPv4.
pub const SOL_IP: u32 = 0;
/// Level of IPv6.
pub const SOL_IPV6: u32 = 41;

/// Type of service.
pub const IP_TOS: u32 = 1;
/// `IP_TTL`.
pub const IP_TTL: u32 = 2;
const IP_HDRINCL: u32 = 3;
const IP_RECVOPTS: u32 = 6;
/// `IP_PKTINFO`.
pub const IP_PKTINFO: u32 = 8;
const IP_MTU_DISCOVER: u32 = 10;
const IP_RECVERR: u32 = 11;
const IP_RECVTTL: u32 = 12;
const IP_RECVTOS: u32 = 13;
const IP_FREEBIND: u32 = 15;
const IP_TRANSPARENT: u32 = 19;
const IP_BIND_ADDRESS_NO_PORT: u32 = 24;
const IP_MULTICAST_IF: u32 = 32;
const IP_MULTICAST_TTL: u32 = 33;
const IP_MULTICAST_LOOP: u32 = 34;
const IP_ADD_MEMBERSHIP: u32 = 35;
const IP_DROP_MEMBERSHIP: u32 = 36;
const IP_MULTICAST_ALL: u32 = 49;

const IPV6_UNICAST_HOPS: u32 = 16;
const IPV6_MULTICAST_IF: u32 = 17;
const IPV6_MULTICAST_HOPS: u32 = 18;
const IPV6_MULTICAST_LOOP: u32 = 19;
const IPV6_ADD_MEMBERSHIP: u32 = 20;
const IPV6_DROP_MEMBERSHIP: u32 = 21;
const IPV6_MTU_DISCOVER: u32 = 23;
const IPV6_RECVERR: u32 = 25;
const IPV6_V6ONLY: u32 = 26;
const IPV6_RECVPKTINFO: u32 = 49;
const IPV6_RECVHOPLIMIT: u32 = 51;
const IPV6_RECVTCLASS: u32 = 66;
/// `IPV6_TCLASS`.
pub const IPV6_TCLASS: u32 = 67;

/// The options.
pub struct IpOptions {
    /// `IP_TOS`.
    pub tos: AtomicU8,
    /// `IP_TTL`; 0 is the default.
    pub ttl: AtomicU8,
    /// `IP_MULTICAST_TTL`.
    pub multicast_ttl: AtomicU8,
    /// `IP_MULTICAST_LOOP`.
    pub multicast_loop: AtomicBool,
    /// `IP_MULTICAST_IF`.
    pub multicast_if: AtomicU32,
    /// `IP_HDRINCL`.
    pub header_included: AtomicBool,
    /// `IP_PKTINFO`, `IPV6_RECVPKTINFO`.
    pub packet_info: AtomicBool,
    /// `IP_RECVTTL`, `IPV6_RECVHOPLIMIT`.
    pub receive_ttl: AtomicBool,
    /// `IP_RECVTOS`, `IPV6_RECVTCLASS`.
    pub receive_tos: AtomicBool,
    /// `IP_RECVERR`: errors are told to sockets that are not connected too.
    pub receive_errors: AtomicBool,
    /// `IP_BIND_ADDRESS_NO_PORT`.
    no_port: AtomicBool,
    /// `IP_FREEBIND`.
    pub free_bind: AtomicBool,
    /// `IPV6_V6ONLY`.
    pub v6_only: AtomicBool,
    /// `IP_MTU_DISCOVER`.
    mtu_discover: AtomicU8,
}

/// `net.ipv4.ip_default_ttl`.
use super::ip::DEFAULT_TTL;

impl Default for IpOptions {
    fn default() -> Self {
        Self {
            tos: AtomicU8::new(0),
            ttl: AtomicU8::new(0),
            multicast_ttl: AtomicU8::new(1),
            multicast_loop: AtomicBool::new(true),
            multicast_if: AtomicU32::new(0),
            header_included: AtomicBool::new(false),
            packet_info: AtomicBool::new(false),
            receive_ttl: AtomicBool::new(false),
            receive_tos: AtomicBool::new(false),
            receive_errors: AtomicBool::new(false),
            no_port: AtomicBool::new(false),
            free_bind: AtomicBool::new(false),
            v6_only: AtomicBool::new(false),
            mtu_discover: AtomicU8::new(1),
        }
    }
}

/// A number as programs give it: an `int`, or a single byte.
fn number(value: &[u8]) -> Result<i32> {
    match value {
        [] => Err(Errno::EINVAL),
        [byte] | [byte, _] | [byte, _, _] => Ok(i32::from(*byte)),
        _ => int(value),
    }
}

fn hops(n: i32) -> Result<u8> {
    match n {
        -1 => Ok(0),
        1..=255 => Ok(n as u8),
        _ => Err(Errno::EINVAL),
    }
}

impl IpOptions {
    /// Hops that packets may make.
    pub fn hops(&self) -> u8 {
        match self.ttl.load(Relaxed) {
            0 => DEFAULT_TTL,
            ttl => ttl,
        }
    }

    /// An option that is on or off.
    fn switch(&self, level: u32, name: u32) -> Option<&AtomicBool> {
        Some(match (level, name) {
            (SOL_IP, IP_HDRINCL) => &self.header_included,
            (SOL_IP, IP_PKTINFO) | (SOL_IPV6, IPV6_RECVPKTINFO) => &self.packet_info,
            (SOL_IP, IP_RECVTTL) | (SOL_IPV6, IPV6_RECVHOPLIMIT) => &self.receive_ttl,
            (SOL_IP, IP_RECVTOS) | (SOL_IPV6, IPV6_RECVTCLASS) => &self.receive_tos,
            (SOL_IP, IP_RECVERR) | (SOL_IPV6, IPV6_RECVERR) => &self.receive_errors,
            (SOL_IP, IP_BIND_ADDRESS_NO_PORT) => &self.no_port,
            (SOL_IP, IP_FREEBIND) => &self.free_bind,
            (SOL_IP, IP_MULTICAST_LOOP) | (SOL_IPV6, IPV6_MULTICAST_LOOP) => &self.multicast_loop,
            (SOL_IPV6, IPV6_V6ONLY) => &self.v6_only,
            _ => return None,
        })
    }

    /// Sets an option; `ENOPROTOOPT` for what is not one of IP.
    pub fn set(&self, level: u32, name: u32, value: &[u8], bound: bool) -> Result<()> {
        if let Some(switch) = self.switch(level, name) {
            let on = number(value)? != 0;
            if (level, name) == (SOL_IPV6, IPV6_V6ONLY) && bound {
                return Err(Errno::EINVAL);
            }
            switch.store(on, Relaxed);
            return Ok(());
        }
        match (level, name) {
            (SOL_IP, IP_TOS) | (SOL_IPV6, IPV6_TCLASS) => {
                self.tos.store(number(value)? as u8, Relaxed);
            }
            (SOL_IP, IP_TTL) | (SOL_IPV6, IPV6_UNICAST_HOPS) => {
                self.ttl.store(hops(number(value)?)?, Relaxed);
            }
            (SOL_IP, IP_MULTICAST_TTL) | (SOL_IPV6, IPV6_MULTICAST_HOPS) => {
                let n = number(value)?;
                let n = if n == -1 { 1 } else { n };
                self.multicast_ttl.store(u8::try_from(n).map_err(|_| Errno::EINVAL)?, Relaxed);
            }
            (SOL_IP, IP_MULTICAST_IF) => {
                // A `struct ip_mreqn` names the device; an address alone stands for the route's.
                let index = value.get(8..).and_then(|rest| rest.first_chunk());
                let index = index.map_or(0, |bytes| u32::from_ne_bytes(*bytes));
                self.multicast_if.store(index, Relaxed);
            }
            (SOL_IPV6, IPV6_MULTICAST_IF) => {
                self.multicast_if.store(number(value)? as u32, Relaxed);
            }
            (SOL_IP, IP_MTU_DISCOVER) | (SOL_IPV6, IPV6_MTU_DISCOVER) => {
                let n = number(value)?;
                if !(0..=5).contains(&n) {
                    return Err(Errno::EINVAL);
                }
                self.mtu_discover.store(n as u8, Relaxed);
            }
            // Every group is listened to.
            (SOL_IP, IP_ADD_MEMBERSHIP | IP_DROP_MEMBERSHIP) if value.len() >= 8 => {
                if value[0] & 0xf0 != 0xe0 {
                    return Err(Errno::EINVAL);
                }
            }
            (SOL_IPV6, IPV6_ADD_MEMBERSHIP | IPV6_DROP_MEMBERSHIP) if value.len() >= 20 => {
                if value[0] != 0xff {
                    return Err(Errno::EINVAL);
                }
            }
            (SOL_IP, IP_MULTICAST_ALL | IP_RECVOPTS) => {
                number(value)?;
            }
            (SOL_IP, IP_TRANSPARENT) => return Err(Errno::EPERM),
            (SOL_IP | SOL_IPV6, _) => return Err(Errno::ENOPROTOOPT),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    /// Gets an option; `ENOPROTOOPT` for what is not one of IP.
    pub fn get(&self, level: u32, name: u32, value: &mut OptionValue) -> Result<()> {
        if let Some(switch) = self.switch(level, name) {
            return value.set_bool(switch.load(Relaxed));
        }
        match (level, name) {
            (SOL_IP, IP_TOS) | (SOL_IPV6, IPV6_TCLASS) => {
                value.set_int(i32::from(self.tos.load(Relaxed)))
            }
            (SOL_IP, IP_TTL) | (SOL_IPV6, IPV6_UNICAST_HOPS) => {
                value.set_int(i32::from(self.hops()))
            }
            (SOL_IP, IP_MULTICAST_TTL) | (SOL_IPV6, IPV6_MULTICAST_HOPS) => {
                value.set_int(i32::from(self.multicast_ttl.load(Relaxed)))
            }
            (SOL_IP, IP_MTU_DISCOVER) | (SOL_IPV6, IPV6_MTU_DISCOVER) => {
                value.set_int(i32::from(self.mtu_discover.load(Relaxed)))
            }
            (SOL_SOCKET | SOL_IP | SOL_IPV6, _) => Err(Errno::ENOPROTOOPT),
            // As Linux has it: what cannot be set is an unknown option, what cannot be got is an unknown level.
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

//! Neighbours over rtnetlink: `ip neigh`.

use smoltcp::wire::IpAddress;

use super::address::{address_in, family_of, with_bytes};
use super::message::{Answer, Request};
use super::route::kind;
use super::u32_at;
use crate::errno::{Errno, Result};
use crate::net::inet::stack::Stack;

/// Bytes of a `struct ndmsg`.
const NDMSG: usize = 12;
const DST: u16 = 1;
const LLADDR: u16 = 2;
const INCOMPLETE: u16 = 0x01;
const REACHABLE: u16 = 0x02;
const PERMANENT: u16 = 0x80;

/// `RTM_GETNEIGH`.
pub fn get(stack: &Stack, request: &Request<'_>, answer: &mut Answer) -> Result<()> {
    let fixed = request.payload();
    let family = u32::from(fixed.first().copied().unwrap_or(0));
    let index = if fixed.len() >= NDMSG { u32_at(fixed, 4) } else { 0 };
    let mut rows = alloc::vec::Vec::new();
    for (device, address, there) in stack.neighbours.lock().iter() {
        if (family == 0 || family == family_of(address)) && (index == 0 || index == device) {
            rows.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            rows.push((device, address, there.mac, there.permanent));
        }
    }
    for (device, address, mac, permanent) in rows {
        let state = match mac {
            _ if permanent => PERMANENT,
            Some(_) => REACHABLE,
            None => INCOMPLETE,
        };
        let mut fixed = [0; NDMSG];
        fixed[0] = family_of(address) as u8;
        fixed[4..8].copy_from_slice(&device.to_ne_bytes());
        fixed[8..10].copy_from_slice(&state.to_ne_bytes());
        fixed[11] = 1;
        answer.begin(kind::NEWNEIGH, &fixed);
        with_bytes(address, |bytes| answer.attribute(DST, bytes));
        if let Some(mac) = mac {
            answer.attribute(LLADDR, &mac);
        }
        answer.end();
    }
    Ok(())
}

fn read(stack: &Stack, request: &Request<'_>) -> Result<(u32, IpAddress)> {
    let fixed = request.fixed(NDMSG)?;
    let index = u32_at(fixed, 4);
    stack.by_index(index).ok_or(Errno::ENODEV)?;
    let dst = request.attributes(NDMSG).get(DST).ok_or(Errno::EINVAL)?;
    Ok((index, address_in(u32::from(fixed[0]), dst)?))
}

/// `RTM_NEWNEIGH`.
pub fn new(stack: &Stack, request: &Request<'_>) -> Result<()> {
    let (index, address) = read(stack, request)?;
    let mac = request.attributes(NDMSG).get(LLADDR).ok_or(Errno::EINVAL)?;
    let mac = mac.try_into().map_err(|_| Errno::EINVAL)?;
    stack.neighbours.lock().set(index, address, mac)?;
    Ok(())
}

/// `RTM_DELNEIGH`.
pub fn delete(stack: &Stack, request: &Request<'_>) -> Result<()> {
    let (index, address) = read(stack, request)?;
    stack.neighbours.lock().delete(index, address)
}

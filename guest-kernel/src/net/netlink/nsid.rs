//! Numbers that a network namespace gives its neighbours (`ip netns list-id`): by them rtnetlink says where
//! the other end of a veth pair is.
//!
//! A number is given when it is asked for (`RTM_NEWNSID`) or first needed. It goes with the neighbour.

use alloc::vec::Vec;

use super::message::{Answer, Request};
use super::route::kind;
use crate::errno::{Errno, Result};
use crate::net::hooks;
use crate::net::inet::stack::Stack;
use crate::ns::{NsKind, common};

/// Bytes of a `struct rtgenmsg`.
const RTGEN: usize = 1;
const NSID: u16 = 1;
const PID: u16 = 2;
const FD: u16 = 3;
/// `NETNSA_NSID_NOT_ASSIGNED`.
const NOT_ASSIGNED: i32 = -1;

/// The numbers that a namespace has given: each with the inode number of whom it is.
#[derive(Default)]
pub struct Numbers(Vec<(i32, u32)>);

impl Numbers {
    /// Forgets the namespaces that are gone.
    fn prune(&mut self) {
        self.0.retain(|&(_, inum)| common::exists(NsKind::Net, inum));
    }

    fn of(&self, inum: u32) -> Option<i32> {
        self.0.iter().find(|row| row.1 == inum).map(|row| row.0)
    }

    /// Gives `inum` the number `wanted` or, if that is negative, the first free one.
    fn give(&mut self, inum: u32, wanted: i32) -> Result<i32> {
        self.prune();
        let taken = |id: i32| self.0.iter().any(|row| row.0 == id);
        if self.of(inum).is_some() || wanted >= 0 && taken(wanted) {
            return Err(Errno::EEXIST);
        }
        let id = if wanted >= 0 { Some(wanted) } else { (0..i32::MAX).find(|&id| !taken(id)) };
        let id = id.ok_or(Errno::ENOSPC)?;
        self.0.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let at = self.0.partition_point(|row| row.0 < id);
        self.0.insert(at, (id, inum));
        Ok(id)
    }
}

/// What `stack` calls the namespace `other`, which gets a number if it has none (`peernet2id_alloc`).
pub fn number_of(stack: &Stack, other: &Stack) -> Result<i32> {
    let mut numbers = stack.numbers.lock();
    match numbers.of(other.inum) {
        Some(id) => Ok(id),
        None => numbers.give(other.inum, NOT_ASSIGNED),
    }
}

/// The inode number of the namespace that a request names.
fn named(request: &Request<'_>) -> Result<u32> {
    let attributes = request.attributes(RTGEN);
    let net = match (attributes.number(PID), attributes.number(FD)) {
        (Some(pid), _) => hooks::net_by_pid(pid)?,
        (None, Some(fd)) => hooks::net_by_fd(fd as i32)?,
        (None, None) => return Err(Errno::EINVAL),
    };
    Ok(net.common.inum)
}

fn write(id: i32, answer: &mut Answer) {
    answer.begin(kind::NEWNSID, &[0; RTGEN]);
    answer.number(NSID, id as u32);
    answer.end();
}

/// `RTM_GETNSID`: all numbers, or that of one namespace; -1 if it has none.
pub fn get(stack: &Stack, request: &Request<'_>, answer: &mut Answer) -> Result<()> {
    if request.is_dump() {
        let mut numbers = stack.numbers.lock();
        numbers.prune();
        numbers.0.iter().for_each(|&(id, _)| write(id, answer));
        return Ok(());
    }
    let attributes = request.attributes(RTGEN);
    if let (Some(id), None, None) =
        (attributes.number(NSID), attributes.number(PID), attributes.number(FD))
    {
        // Whether there is one of that number.
        let mut numbers = stack.numbers.lock();
        numbers.prune();
        let known = numbers.0.iter().find(|row| row.0 == id as i32).ok_or(Errno::ENOENT)?;
        write(known.0, answer);
        return Ok(());
    }
    let inum = named(request)?;
    write(stack.numbers.lock().of(inum).unwrap_or(NOT_ASSIGNED), answer);
    Ok(())
}

/// `RTM_NEWNSID`.
pub fn new(stack: &Stack, request: &Request<'_>) -> Result<()> {
    let wanted = request.attributes(RTGEN).number(NSID).ok_or(Errno::EINVAL)?;
    let inum = named(request)?;
    stack.numbers.lock().give(inum, wanted as i32).map(|_| ())
}

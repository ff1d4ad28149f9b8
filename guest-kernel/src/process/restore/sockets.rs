//! Unix sockets: all of them are made before any is opened, since they refer to each other.

use core::sync::atomic::Ordering::Relaxed;

use super::Failure;
use super::numbers::Numbers;
use super::objects::Map;
use super::plan::{Plan, SocketPlan};
use crate::errno::{Errno, Result};
use crate::fs::{Caller, File, OpenFlags};
use crate::kref::Ref;
use crate::mm::try_to_vec;
use crate::net::NetNs;
use crate::net::common::{flag, state};
use crate::net::hooks::Identity;
use crate::net::unix::UnixSock;
use crate::net::unix::restore::{self, Former};

/// A socket, and whether somebody has it who will release it.
struct Entry {
    sock: Ref<UnixSock>,
    handed_over: bool,
    /// The index of the process whose core describes it; others have it open too.
    plan: usize,
    /// Its state once it is connected, or listens.
    state: u32,
}

/// The sockets of a checkpoint, by what they were called in it.
#[derive(Default)]
pub(super) struct Sockets {
    all: Map<Entry>,
    /// Stand-ins for other ends that were closed, which close again when all is built.
    gone: alloc::vec::Vec<Ref<UnixSock>>,
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for (_, entry) in self.all.iter().filter(|(_, entry)| !entry.handed_over) {
            entry.sock.release();
        }
        self.close_gone();
    }
}

impl Sockets {
    /// Makes the sockets of all processes, with names, peers and what is queued.
    #[inline(never)]
    pub(super) fn build(
        &mut self,
        caller: Caller<'_>,
        plans: &[Plan<'_>],
        net: &Ref<NetNs>,
        numbers: &mut Numbers,
    ) -> Result<(), Failure> {
        let failed = |plan, errno| Failure::new(plan, errno, format_args!("its sockets: {errno}"));
        for (index, plan) in plans.iter().enumerate() {
            for socket in &plan.sockets {
                self.make(index, socket, net).map_err(|errno| failed(plan, errno))?;
            }
        }
        for (index, plan) in plans.iter().enumerate() {
            for socket in &plan.sockets {
                if self.is_of(socket.record.id, index) {
                    self.bind(caller, socket).map_err(|errno| {
                        let name = socket.name.get(2..).unwrap_or_default().escape_ascii();
                        Failure::new(plan, errno, format_args!("its socket {name}: {errno}"))
                    })?;
                }
            }
        }
        for (index, plan) in plans.iter().enumerate() {
            self.queue(index, plan, numbers).map_err(|errno| failed(plan, errno))?;
            for socket in &plan.sockets {
                if self.is_of(socket.record.id, index) {
                    self.connect(socket, numbers).map_err(|errno| failed(plan, errno))?;
                }
            }
        }
        self.close_gone();
        Ok(())
    }

    /// Opens a socket; it is its file's from then on.
    pub(super) fn open(
        &mut self,
        id: u64,
        flags: OpenFlags,
        uid: u32,
        gid: u32,
    ) -> Result<Ref<File>> {
        let entry = self.all.get_mut(id).filter(|entry| !entry.handed_over);
        let entry = entry.ok_or(Errno::EBADF)?;
        let file = restore::open(entry.sock.clone(), flags, uid, gid)?;
        entry.handed_over = true;
        Ok(file)
    }

    fn close_gone(&mut self) {
        for sock in self.gone.drain(..) {
            sock.release();
        }
    }

    fn get(&self, id: u64) -> Result<&Ref<UnixSock>> {
        self.all.get(id).map(|entry| &entry.sock).ok_or(Errno::EBADF)
    }

    fn is_of(&self, id: u64, plan: usize) -> bool {
        self.all.get(id).is_some_and(|entry| entry.plan == plan)
    }

    fn make(&mut self, plan: usize, socket: &SocketPlan<'_>, net: &Ref<NetNs>) -> Result<()> {
        let record = &socket.record;
        match self.all.get(record.id) {
            Some(entry) if entry.plan == plan => return Err(Errno::EEXIST),
            Some(_) => return Ok(()),
            None => {}
        }
        let (kind, protocol) = (record.kind as u32, record.protocol as u32);
        let sock = restore::make(net, record.uid as u32, kind, protocol)?;
        let common = &sock.common;
        for (option, value) in [
            // No core carries the filter itself.
            (&common.flags, record.flags & !u64::from(flag::FILTER)),
            (&common.sndbuf, record.sndbuf),
            (&common.rcvbuf, record.rcvbuf),
            (&common.linger, record.linger),
            (&common.rcvlowat, record.rcvlowat),
            (&common.priority, record.priority),
            (&common.mark, record.mark),
        ] {
            option.store(value as u32, Relaxed);
        }
        common.rcvtimeo.store(record.rcvtimeo, Relaxed);
        common.sndtimeo.store(record.sndtimeo, Relaxed);
        let entry =
            Entry { sock: sock.clone(), handed_over: false, plan, state: record.state as u32 };
        self.all.insert(record.id, entry).inspect_err(|_| sock.release())
    }

    fn bind(&self, caller: Caller<'_>, socket: &SocketPlan<'_>) -> Result<()> {
        let record = &socket.record;
        let sock = self.get(record.id)?;
        if record.bound == 0 {
            sock.common.set_local(socket.name);
            return Ok(());
        }
        // A relative path would lead elsewhere.
        if !matches!(socket.name.get(2), Some(0 | b'/')) {
            return Err(Errno::EINVAL);
        }
        sock.bind_again(caller, socket.name)?;
        if let Some(inode) = sock.named_inode() {
            inode.set_permissions(record.mode as u32 & 0o7777);
            inode.set_owner(record.name_uid as u32, record.name_gid as u32);
        }
        Ok(())
    }

    /// Queues what was queued at the sockets that this core describes.
    fn queue(&mut self, index: usize, plan: &Plan<'_>, numbers: &mut Numbers) -> Result<()> {
        for message in &plan.messages {
            let record = &message.record;
            if !self.is_of(record.socket, index) {
                continue;
            }
            let at = self.get(record.socket)?.clone();
            let sender = match record.sender {
                0 => self.stand_in(&at)?,
                id => self.get(id)?.clone(),
            };
            let who = identity(record.cred_pid, record.cred_uid, record.cred_gid, numbers)?;
            at.queue_again(&sender, try_to_vec(message.data)?, who)?;
        }
        Ok(())
    }

    fn connect(&mut self, socket: &SocketPlan<'_>, numbers: &mut Numbers) -> Result<()> {
        let record = &socket.record;
        let sock = self.get(record.id)?.clone();
        let peer = match record.peer {
            0 if record.peer_gone != 0 => Some(self.stand_in(&sock)?),
            0 => None,
            id => Some(self.get(id)?.clone()),
        };
        // Who has connections has two ends of one kind, each the other's: ours is found there.
        let state = record.state as u32;
        let connected = state == state::ESTABLISHED && sock.is_connected_kind();
        let fits = peer.as_ref().is_none_or(|peer| peer.common.kind == sock.common.kind);
        if connected && peer.is_none() || !fits {
            return Err(Errno::EINVAL);
        }
        let error = match record.error {
            0 => None,
            number => Some(Errno::from_number(number as u16)),
        };
        sock.resume(Former {
            state,
            shutdown: record.shutdown as u32,
            error,
            backlog: record.backlog as usize,
            peer,
            peer_identity: identity(record.cred_pid, record.cred_uid, record.cred_gid, numbers)?,
        });
        if record.listener != 0 {
            let listener = self.all.get(record.listener).filter(|l| l.state == state::LISTEN);
            let listener = listener.ok_or(Errno::EINVAL)?.sock.clone();
            let entry = self.all.get_mut(record.id).ok_or(Errno::EBADF)?;
            if entry.handed_over || !connected {
                return Err(Errno::EINVAL);
            }
            listener.await_accept(&entry.sock)?;
            entry.handed_over = true;
        }
        Ok(())
    }

    /// An end that was closed, of the kind of `sock`.
    fn stand_in(&mut self, sock: &UnixSock) -> Result<Ref<UnixSock>> {
        let common = &sock.common;
        self.gone.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let made = restore::make(&common.net()?, common.uid, common.kind, common.protocol)?;
        self.gone.push(made.clone());
        Ok(made)
    }
}

fn identity(pid: u64, uid: u64, gid: u64, numbers: &mut Numbers) -> Result<Option<Identity>> {
    let (uid, gid) = (uid as u32, gid as u32);
    Ok(numbers.remembered(pid)?.map(|pid| Identity { pid, uid, gid }))
}

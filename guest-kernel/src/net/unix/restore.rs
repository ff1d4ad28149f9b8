//! Sockets as they were elsewhere: made unconnected, then given their peers and what was queued, then opened.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use super::protocol::wrap;
use super::sock::{Extras, Skb, UnixSock};
use crate::errno::{Errno, Result};
use crate::fs::{File, OpenFlags};
use crate::kref::Ref;
use crate::net::common::Common;
use crate::net::hooks::Identity;
use crate::net::{AF_UNIX, NetNs};
use crate::sync::SpinLock;

/// What a socket is beside names and queues.
pub struct Former {
    /// `ESTABLISHED`, `CLOSE` or `LISTEN` of [`state`](crate::net::common::state).
    pub state: u32,
    /// `SHUT_*` of [`common`](crate::net::common).
    pub shutdown: u32,
    /// The error that waits to be reported, if any.
    pub error: Option<Errno>,
    /// Most connections or messages that wait, less one.
    pub backlog: usize,
    /// The other end.
    pub peer: Option<Ref<UnixSock>>,
    /// Who was there.
    pub peer_identity: Option<Identity>,
}

/// A socket that is not connected. Until it is opened, whoever has it must release it.
pub fn make(net: &Ref<NetNs>, uid: u32, kind: u32, protocol: u32) -> Result<Ref<UnixSock>> {
    UnixSock::new(Common::owned_by(uid, net.clone(), AF_UNIX, kind, protocol)?)
}

/// Opens a socket.
pub fn open(sock: Ref<UnixSock>, flags: OpenFlags, uid: u32, gid: u32) -> Result<Ref<File>> {
    wrap(sock)?.into_file(flags, uid, gid)
}

impl UnixSock {
    /// Becomes what it was. Messages are queued before: a direction that was ended takes none.
    pub fn resume(&self, former: Former) {
        self.common.set_state(former.state);
        self.common.shutdown.store(former.shutdown, Relaxed);
        if let Some(error) = former.error {
            self.common.set_error(error);
        }
        let mut state = self.state.lock();
        state.backlog = former.backlog;
        let old = core::mem::replace(&mut state.peer, former.peer);
        state.peer_identity = former.peer_identity;
        drop(state);
        drop(old);
    }

    /// Queues what `sender` had sent.
    pub fn queue_again(
        &self,
        sender: &UnixSock,
        data: Vec<u8>,
        identity: Option<Identity>,
    ) -> Result<()> {
        let extras = match identity {
            None => None,
            identity => Some(Ref::try_new(Extras { identity, files: SpinLock::new(None) })?),
        };
        self.enqueue(Skb::new(sender, data, extras)?, false).map_err(|(errno, _)| errno)
    }

    /// Puts a connection on the list of those that wait to be accepted, and so hands it over.
    pub fn await_accept(&self, embryo: &Ref<UnixSock>) -> Result<()> {
        self.state.lock().pending.try_push(embryo.clone())
    }

    /// The inode of its path; none if it has no path.
    pub fn named_inode(&self) -> Option<Ref<crate::fs::Inode>> {
        self.state.lock().bound.as_ref().and_then(|bound| bound.inode().cloned())
    }
}

//! How Unix sockets find each other: connect(2), listen(2), accept(2), socketpair(2).

use super::name;
use super::sock::UnixSock;
use crate::errno::{Errno, Result};
use crate::fs::Caller;
use crate::kref::Ref;
use crate::net::address::family_of;
use crate::net::common::{Common, Patience, SHUT_RECEIVE, flag, state};
use crate::net::{AF_UNIX, hooks};
use crate::wait_channel;

/// Most connections that wait (`net.core.somaxconn`).
pub const SOMAXCONN: usize = 4096;

impl UnixSock {
    /// Makes two ends each other's.
    pub fn join(a: &Ref<Self>, b: &Ref<Self>) {
        for (one, other) in [(a, b), (b, a)] {
            let identity = hooks::identity();
            let mut state = one.state.lock();
            state.peer = Some(other.clone());
            state.peer_identity = identity;
            drop(state);
            if one.is_connected_kind() {
                one.common.set_state(state::ESTABLISHED);
            }
        }
    }

    /// listen(2).
    pub fn listen(&self, backlog: i32) -> Result<()> {
        if !self.is_connected_kind() {
            return Err(Errno::EOPNOTSUPP);
        }
        let _guard = self.binding.lock();
        if self.state.lock().bound.is_none() {
            return Err(Errno::EINVAL);
        }
        if !matches!(self.common.state(), state::CLOSE | state::LISTEN) {
            return Err(Errno::EINVAL);
        }
        let identity = hooks::identity();
        let blocked = {
            let mut state = self.state.lock();
            state.backlog = (backlog as u32 as usize).min(SOMAXCONN);
            state.peer_identity = identity;
            self.common.set_state(state::LISTEN);
            core::mem::take(&mut state.blocked)
        };
        for sock in blocked {
            sock.common.wake_writers();
        }
        Ok(())
    }

    /// connect(2) of a stream or packet socket.
    pub fn connect_stream(&self, caller: Caller<'_>, address: &[u8], wait: Patience) -> Result<()> {
        name::check(address)?;
        if self.common.has(flag::PASSCRED) {
            self.autobind()?;
        }
        // What the other side will have: made first, so that nothing can fail once it is seen.
        let (net, kind) = (self.common.net()?, self.common.kind);
        let embryo = UnixSock::new(Common::new(net, AF_UNIX, kind, self.common.protocol)?)?;
        let result = self.connect_embryo(caller, address, wait, &embryo);
        if result.is_err() {
            // Nobody has seen it: there is no other end to tell.
            let peer = embryo.state.lock().peer.take();
            drop(peer);
            embryo.release();
        }
        result
    }

    fn connect_embryo(
        &self,
        caller: Caller<'_>,
        address: &[u8],
        wait: Patience,
        embryo: &Ref<UnixSock>,
    ) -> Result<()> {
        loop {
            let listener =
                name::find(&*self.common.net()?, Some(caller), address, self.common.kind)?;
            {
                let _guard = self.binding.lock();
                if !listener.listens() {
                    return Err(Errno::ECONNREFUSED);
                }
                let has_room = {
                    let state = listener.state.lock();
                    state.pending.len() <= state.backlog
                };
                match self.common.state() {
                    _ if !has_room && wait.nonblock => return Err(Errno::EAGAIN),
                    state::CLOSE => {}
                    state::ESTABLISHED => return Err(Errno::EISCONN),
                    _ => return Err(Errno::EINVAL),
                }
                if self.try_connect(&listener, embryo)? {
                    return Ok(());
                }
            }
            listener.wake_when_room(self);
            let room = || {
                listener.wake_when_room(self);
                let state = listener.state.lock();
                listener.is_dead() || state.pending.len() <= state.backlog
            };
            wait.wait(&self.common.tx_wait, wait_channel!("unix_wait_for_peer"), room)?;
        }
    }

    /// True if it takes connections.
    fn listens(&self) -> bool {
        let listens = self.common.state() == state::LISTEN;
        listens && !self.is_dead() && !self.common.is_shut(SHUT_RECEIVE)
    }

    /// Queues `embryo` at the listener as this socket's other end; false if there is no room.
    fn try_connect(&self, listener: &Ref<Self>, embryo: &Ref<Self>) -> Result<bool> {
        let identity = hooks::identity();
        {
            let mut state = embryo.state.lock();
            state.peer = Some(self.to_ref());
            state.peer_identity = identity;
        }
        embryo.common.set_state(state::ESTABLISHED);
        embryo.common.set_peer(self.address().bytes());
        embryo.common.set_peer_ino(self.common.ino());
        let name = listener.address();
        embryo.common.set_local(name.bytes());
        let listener_identity = {
            let mut state = listener.state.lock();
            if !listener.listens() {
                return Err(Errno::ECONNREFUSED);
            }
            if state.pending.len() > state.backlog {
                return Ok(false);
            }
            state.pending.try_push(embryo.clone())?;
            state.peer_identity.clone()
        };
        {
            let mut state = self.state.lock();
            state.peer = Some(embryo.clone());
            state.peer_identity = listener_identity;
        }
        self.common.set_peer(name.bytes());
        self.common.set_state(state::ESTABLISHED);
        listener.common.wake_readers();
        Ok(true)
    }

    /// connect(2) of a datagram socket: where it sends to, and from whom alone it receives.
    pub fn connect_dgram(&self, caller: Caller<'_>, address: &[u8]) -> Result<()> {
        // AF_UNSPEC undoes it.
        let peer = match family_of(address)? {
            0 => None,
            _ if self.common.has(flag::PASSCRED) => {
                name::check(address)?;
                self.autobind()?;
                Some(name::find(&*self.common.net()?, Some(caller), address, self.common.kind)?)
            }
            _ => Some(name::find(&*self.common.net()?, Some(caller), address, self.common.kind)?),
        };
        let _guard = self.binding.lock();
        if let Some(peer) = &peer
            && !peer.may_receive_from(self)
        {
            return Err(Errno::EPERM);
        }
        match &peer {
            Some(peer) => {
                self.common.set_peer(peer.address().bytes());
                self.common.set_peer_ino(peer.common.ino());
                self.common.set_state(state::ESTABLISHED);
            }
            None => {
                self.common.set_peer(&[]);
                self.common.set_peer_ino(0);
                self.common.set_state(state::CLOSE);
            }
        }
        let same = |a: &Ref<Self>, b: &Ref<Self>| Ref::ptr_eq(a, b);
        let old = core::mem::replace(&mut self.state.lock().peer, peer.clone());
        if let Some(old) = old
            && !peer.as_ref().is_some_and(|peer| same(peer, &old))
        {
            self.disconnected_from(&old);
        }
        self.common.wake_writers();
        Ok(())
    }

    /// True unless it is connected to somebody else (`unix_may_send`).
    pub fn may_receive_from(&self, sender: &UnixSock) -> bool {
        self.state.lock().peer.as_ref().is_none_or(|peer| core::ptr::eq(&**peer, sender))
    }

    /// accept(2): the next connection.
    pub fn accept(&self, wait: Patience) -> Result<Ref<UnixSock>> {
        if !self.is_connected_kind() {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.common.state() != state::LISTEN {
            return Err(Errno::EINVAL);
        }
        loop {
            let (embryo, blocked) = {
                let mut state = self.state.lock();
                let embryo = state.pending.pop_front();
                let blocked = match embryo {
                    Some(_) => core::mem::take(&mut state.blocked),
                    None => alloc::vec::Vec::new(),
                };
                (embryo, blocked)
            };
            for sock in blocked {
                sock.common.wake_writers();
            }
            if let Some(embryo) = embryo {
                return Ok(embryo);
            }
            // Who does not wait is only told that there is nobody.
            if self.common.is_shut(SHUT_RECEIVE) && !wait.nonblock {
                return Err(Errno::EINVAL);
            }
            let come =
                || !self.state.lock().pending.is_empty() || self.common.is_shut(SHUT_RECEIVE);
            wait.wait(&self.common.rx_wait, wait_channel!("unix_accept"), come)?;
        }
    }
}

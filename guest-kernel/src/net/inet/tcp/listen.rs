//! Listeners: connections that are being made, and those that wait to be accepted.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use smoltcp::wire::{IpAddress, IpListenEndpoint};

use super::sock::{Names, TcpSock};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::try_box;
use crate::net::SOCK_STREAM;
use crate::net::common::{Common, Patience, SHUT_RECEIVE, flag, state};
use crate::net::inet::endpoint::Endpoint;
use crate::net::inet::ip::{self, Received};
use crate::net::inet::stack::kick;
use crate::wait_channel;
use core::sync::atomic::Ordering::Relaxed;

/// `net.core.somaxconn`.
const SOMAXCONN: usize = 4096;

/// What a listener has.
pub struct Listener {
    /// Most connections that wait, less one.
    pub backlog: usize,
    /// Connections that stand and wait to be accepted.
    pub ready: VecDeque<Ref<TcpSock>>,
    /// Connections that are being made.
    pub coming: Vec<Ref<TcpSock>>,
}

impl TcpSock {
    /// listen(2), for a socket that has a port.
    pub fn listen(&self, backlog: i32) -> Result<()> {
        let backlog = (backlog as u32 as usize).min(SOMAXCONN);
        if let Some(listener) = self.listener.lock().as_mut() {
            listener.backlog = backlog;
            return Ok(());
        }
        let local = self.names.lock().local;
        self.stack.tcp.lock().listen(self, local)?;
        *self.listener.lock() =
            Some(Listener { backlog, ready: VecDeque::new(), coming: Vec::new() });
        self.common.set_state(state::LISTEN);
        Ok(())
    }

    /// Stops listening; what waits is reset.
    pub fn unlisten(&self) {
        let Some(listener) = self.listener.lock().take() else { return };
        let port = self.names.lock().local.port;
        let gone = self.stack.tcp.lock().unlisten(self, port);
        drop(gone);
        self.common.set_state(state::CLOSE);
        for child in listener.ready.into_iter().chain(listener.coming) {
            drop(child.parent.lock().take());
            child.common.set_flag(flag::DEAD, true);
            child.with_core(|core| core.socket_mut().abort());
        }
        self.common.wake_all();
        kick();
    }

    /// A request to connect: the connection is made as far as the other side sees, while there is room.
    pub fn handle_syn(
        &self,
        received: &Received<'_>,
        local: (IpAddress, u16),
        peer: (IpAddress, u16),
    ) {
        {
            let listener = self.listener.lock();
            let Some(listener) = listener.as_ref() else { return };
            if listener.ready.len() > listener.backlog
                || listener.coming.len() + listener.ready.len() > listener.backlog.max(1)
            {
                return;
            }
        }
        let _ = self.try_make_child(received, local, peer);
    }

    fn try_make_child(
        &self,
        received: &Received<'_>,
        local: (IpAddress, u16),
        peer: (IpAddress, u16),
    ) -> Result<()> {
        let (local, peer) = (Endpoint::new(local.0, local.1), Endpoint::new(peer.0, peer.1));
        let hop = self.stack.route(peer.addr, self.common.bound_dev.load(Relaxed))?;
        let net = self.common.net()?;
        let protocol = u32::from(ip::TCP);
        let common = Common::for_connection(&self.common, net, SOCK_STREAM, protocol)?;
        let child = TcpSock::new(common, self.stack.clone())?;
        child.options.nodelay.store(self.options.nodelay.load(Relaxed), Relaxed);
        child.options.keep_idle.store(self.options.keep_idle.load(Relaxed), Relaxed);
        child.options.keep_interval.store(self.options.keep_interval.load(Relaxed), Relaxed);
        child.options.keep_count.store(self.options.keep_count.load(Relaxed), Relaxed);
        child.ip.tos.store(self.ip.tos.load(Relaxed), Relaxed);
        child.ip.ttl.store(self.ip.ttl.load(Relaxed), Relaxed);
        *child.names.lock() = Names { local, address_bound: true, peer: Some(peer) };
        child.names_changed();
        let mut core = child.make_core(local, hop)?;
        let endpoint = IpListenEndpoint { addr: Some(local.addr), port: local.port };
        core.socket_mut().listen(endpoint).map_err(|_| Errno::EINVAL)?;
        *child.core.lock() = Some(try_box(core)?);
        *child.parent.lock() = Some(self.to_ref());
        {
            let mut table = self.stack.tcp.lock();
            table.connect(&child, local, peer)?;
            table.share_port(&child, local.port)?;
        }
        {
            let mut listener = self.listener.lock();
            let place = listener.as_mut().map(|listener| &mut listener.coming);
            if let Some(coming) = place
                && coming.try_reserve(1).is_ok()
            {
                coming.push(child.clone());
            } else {
                drop(listener);
                child.common.set_flag(flag::DEAD, true);
                super::table::forget_connection(&child);
                return Err(Errno::ECONNABORTED);
            }
        }
        child.poll(Some(received.packet));
        Ok(())
    }

    /// A connection that was being made stands now, or failed.
    pub fn leave_syn_queue(&self, now: u32) {
        let Some(parent) = self.parent.lock().take() else { return };
        let mut listener = parent.listener.lock();
        let Some(there) = listener.as_mut() else { return };
        let at = there.coming.iter().position(|child| core::ptr::eq(&**child, self));
        let child = at.map(|at| there.coming.swap_remove(at));
        if now == state::CLOSE {
            // Nobody will ever see it: its port goes with it.
            self.common.set_flag(flag::DEAD, true);
            drop(listener);
            drop(child);
            return;
        }
        if let Some(child) = child
            && there.ready.try_reserve(1).is_ok()
        {
            there.ready.push_back(child);
        }
        drop(listener);
        parent.common.wake_readers();
    }

    /// accept(2): the next connection.
    pub fn accept(&self, wait: Patience) -> Result<Ref<TcpSock>> {
        if self.common.state() != state::LISTEN {
            return Err(Errno::EINVAL);
        }
        loop {
            match self.listener.lock().as_mut() {
                None => return Err(Errno::EINVAL),
                Some(listener) => {
                    if let Some(child) = listener.ready.pop_front() {
                        return Ok(child);
                    }
                }
            }
            let come = || {
                self.has_ready()
                    || self.common.state() != state::LISTEN
                    || self.common.is_shut(SHUT_RECEIVE)
            };
            wait.wait(&self.common.rx_wait, wait_channel!("inet_csk_accept"), come)?;
        }
    }

    /// True if a connection waits to be accepted.
    pub fn has_ready(&self) -> bool {
        self.listener.lock().as_ref().is_some_and(|listener| !listener.ready.is_empty())
    }
}

//! [`Common`]: what every socket has, whatever its protocol (Linux's `struct sock`): identity, names,
//! options of `SOL_SOCKET`, the queues that its users wait on.
//!
//! It is described to readers outside the machine, who learn from it what `belljar fds` shows.

use core::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed,
};

use belljar_abi::Described;

use super::address::{ADDRESS_MAX, Address};
use super::unix::sock::UnixSock;
use super::{MsgFlags, NetNs};
use crate::bpf::Program;
use crate::errno::{Errno, Result};
use crate::fs::PollFlags;
use crate::kref::Ref;
use crate::sched::clock::Deadline;
use crate::sched::{TaskState, Wait, WaitChannel, WaitQueue, current};
use crate::sync::SpinLock;

/// States, as `/proc/net` numbers them for every family.
pub mod state {
    #![allow(missing_docs, reason = "the names are RFC 9293's")]
    pub const ESTABLISHED: u32 = 1;
    pub const SYN_SENT: u32 = 2;
    pub const SYN_RECV: u32 = 3;
    pub const FIN_WAIT1: u32 = 4;
    pub const FIN_WAIT2: u32 = 5;
    pub const TIME_WAIT: u32 = 6;
    pub const CLOSE: u32 = 7;
    pub const CLOSE_WAIT: u32 = 8;
    pub const LAST_ACK: u32 = 9;
    pub const LISTEN: u32 = 10;
    pub const CLOSING: u32 = 11;
}

/// Nothing more is received.
pub const SHUT_RECEIVE: u32 = 1;
/// Nothing more is sent.
pub const SHUT_SEND: u32 = 2;

/// Default and largest size of buffers (`net.core.wmem_default` and its kin).
pub const BUFFER_DEFAULT: u32 = 212_992;
/// `SOCK_MIN_SNDBUF`.
const MIN_SNDBUF: u32 = 4608;
/// `SOCK_MIN_RCVBUF`.
const MIN_RCVBUF: u32 = 2304;

/// An address as a reader outside finds it.
#[repr(C)]
#[derive(Described)]
pub struct NameBytes {
    /// Bytes in use.
    len: u32,
    /// A `struct sockaddr` of the socket's family.
    bytes: [u8; ADDRESS_MAX],
}

impl NameBytes {
    const EMPTY: Self = Self { len: 0, bytes: [0; ADDRESS_MAX] };

    fn set(&mut self, address: &[u8]) {
        let len = address.len().min(ADDRESS_MAX);
        self.bytes[..len].copy_from_slice(&address[..len]);
        self.len = len as u32;
    }
}

/// Both ends' addresses.
#[repr(C)]
#[derive(Described)]
pub struct Names {
    /// Its own.
    local: NameBytes,
    /// The other end's.
    peer: NameBytes,
}

/// What every socket has.
#[repr(C)]
#[derive(Described)]
pub struct Common {
    /// Address family (`AF_*`).
    pub family: u32,
    /// Type (`SOCK_*`).
    pub kind: u32,
    /// Protocol within the family.
    pub protocol: u32,
    state: AtomicU32,
    /// Number of its inode; 0 as long as it has none (a connection nobody accepted).
    ino: AtomicU64,
    /// Number of the inode of a Unix socket's peer.
    peer_ino: AtomicU64,
    names: SpinLock<Names>,
    /// The Unix socket that this is of, for who looks from outside; null for other families.
    #[described(as = "ptr UnixSock")]
    unix: AtomicPtr<UnixSock>,
    /// Bytes of the peer's, or of our own, that wait to be read.
    pub rx_queued: AtomicUsize,
    /// Bytes sent that are still charged to this socket.
    pub tx_queued: AtomicUsize,
    /// The network namespace, until nothing but late segments can come.
    net: SpinLock<Option<Ref<NetNs>>>,
    /// Owner: who made it.
    pub uid: u32,
    /// `SHUT_RECEIVE` and `SHUT_SEND`.
    pub shutdown: AtomicU32,
    error: AtomicI32,
    /// `SO_SNDBUF`, as the kernel counts (twice what was asked for).
    pub sndbuf: AtomicU32,
    /// `SO_RCVBUF`.
    pub rcvbuf: AtomicU32,
    /// Options that are on or off; see [`flag`].
    pub flags: AtomicU32,
    /// `SO_LINGER`: seconds.
    pub linger: AtomicU32,
    /// `SO_RCVLOWAT`.
    pub rcvlowat: AtomicU32,
    /// `SO_PRIORITY`.
    pub priority: AtomicU32,
    /// `SO_MARK`.
    pub mark: AtomicU32,
    /// `SO_BINDTODEVICE`: an interface's index, or 0.
    pub bound_dev: AtomicU32,
    /// `SO_RCVTIMEO` in ns; 0 is for ever.
    pub rcvtimeo: AtomicU64,
    /// `SO_SNDTIMEO` in ns; 0 is for ever.
    pub sndtimeo: AtomicU64,
    /// `SO_PEEK_OFF`: how many bytes the next look leaves out; negative: it has no place of its own.
    pub peek_off: AtomicI32,
    /// What says which packets it receives (`SO_ATTACH_FILTER`); see [`super::filter`].
    pub(super) program: SpinLock<Option<Ref<Program>>>,
    /// `SO_COOKIE`, once somebody asked.
    pub cookie: AtomicU64,
    /// Who waits for something to read.
    #[described(skip)]
    pub rx_wait: WaitQueue,
    /// Who waits for room to write.
    #[described(skip)]
    pub tx_wait: WaitQueue,
    /// Somebody polled: edge-triggered watchers hear of everything that arrives.
    #[described(skip)]
    pub polled: AtomicBool,
}

/// Bits of [`Common::flags`].
pub mod flag {
    #![allow(missing_docs, reason = "the names are socket(7)'s")]
    pub const REUSEADDR: u32 = 1 << 0;
    pub const REUSEPORT: u32 = 1 << 1;
    pub const KEEPALIVE: u32 = 1 << 2;
    pub const BROADCAST: u32 = 1 << 3;
    pub const LINGER: u32 = 1 << 4;
    pub const PASSCRED: u32 = 1 << 5;
    pub const OOBINLINE: u32 = 1 << 6;
    pub const DONTROUTE: u32 = 1 << 7;
    pub const TIMESTAMP: u32 = 1 << 8;
    pub const TIMESTAMPNS: u32 = 1 << 9;
    pub const NO_CHECK: u32 = 1 << 10;
    pub const PASSSEC: u32 = 1 << 11;
    pub const RXQ_OVFL: u32 = 1 << 12;
    pub const DEBUG: u32 = 1 << 13;
    pub const ZEROCOPY: u32 = 1 << 14;
    /// Closed by its last user: nobody will ever read from it.
    pub const DEAD: u32 = 1 << 15;
    pub const SELECT_ERR_QUEUE: u32 = 1 << 16;
    pub const LOCK_FILTER: u32 = 1 << 17;
    /// The other end said that it sends no more.
    pub const DONE: u32 = 1 << 19;
    /// A filter is attached.
    pub const FILTER: u32 = 1 << 18;
}

impl Common {
    /// The common part of a socket that the caller makes.
    pub fn new(net: Ref<NetNs>, family: u32, kind: u32, protocol: u32) -> Result<Ref<Self>> {
        Self::owned_by(super::hooks::uid(), net, family, kind, protocol)
    }

    /// The common part of a connection that came to `listener`, by whatever task that is found out.
    pub fn for_connection(
        listener: &Self,
        net: Ref<NetNs>,
        kind: u32,
        protocol: u32,
    ) -> Result<Ref<Self>> {
        let common = Self::owned_by(listener.uid, net, listener.family, kind, protocol)?;
        common.inherit(listener);
        Ok(common)
    }

    /// The common part of a socket that `uid` made.
    pub fn owned_by(
        uid: u32,
        net: Ref<NetNs>,
        family: u32,
        kind: u32,
        protocol: u32,
    ) -> Result<Ref<Self>> {
        let counts = net.clone();
        let common = Ref::try_new(Self {
            family,
            kind,
            protocol,
            state: AtomicU32::new(state::CLOSE),
            ino: AtomicU64::new(0),
            peer_ino: AtomicU64::new(0),
            unix: AtomicPtr::new(core::ptr::null_mut()),
            names: SpinLock::new(Names { local: NameBytes::EMPTY, peer: NameBytes::EMPTY }),
            rx_queued: AtomicUsize::new(0),
            tx_queued: AtomicUsize::new(0),
            net: SpinLock::new(Some(net)),
            uid,
            shutdown: AtomicU32::new(0),
            error: AtomicI32::new(0),
            sndbuf: AtomicU32::new(BUFFER_DEFAULT),
            rcvbuf: AtomicU32::new(BUFFER_DEFAULT),
            flags: AtomicU32::new(0),
            linger: AtomicU32::new(0),
            rcvlowat: AtomicU32::new(1),
            priority: AtomicU32::new(0),
            mark: AtomicU32::new(0),
            bound_dev: AtomicU32::new(0),
            rcvtimeo: AtomicU64::new(0),
            sndtimeo: AtomicU64::new(0),
            peek_off: AtomicI32::new(-1),
            program: SpinLock::new(None),
            cookie: AtomicU64::new(0),
            rx_wait: WaitQueue::new(),
            tx_wait: WaitQueue::new(),
            polled: AtomicBool::new(false),
        })?;
        common.for_counts(&counts, |count| count.fetch_add(1, Relaxed));
        Ok(common)
    }

    /// Runs `change` on each count of its namespace that it is in.
    fn for_counts(&self, net: &NetNs, change: impl Fn(&AtomicUsize) -> usize) {
        change(&net.sockets.all);
        let inet = super::inet::is_inet(self.family);
        if inet && self.protocol == u32::from(super::inet::ip::TCP) {
            change(&net.sockets.tcp);
        }
    }

    /// Takes over the options that an accepted connection has from its listener.
    pub fn inherit(&self, from: &Self) {
        let copy = |to: &AtomicU32, from: &AtomicU32| to.store(from.load(Relaxed), Relaxed);
        copy(&self.sndbuf, &from.sndbuf);
        copy(&self.rcvbuf, &from.rcvbuf);
        copy(&self.linger, &from.linger);
        copy(&self.rcvlowat, &from.rcvlowat);
        copy(&self.priority, &from.priority);
        copy(&self.mark, &from.mark);
        copy(&self.bound_dev, &from.bound_dev);
        let program = from.program.lock().clone();
        *self.program.lock() = program;
        self.flags.store(from.flags.load(Relaxed) & !(flag::DEAD | flag::DONE), Relaxed);
        self.rcvtimeo.store(from.rcvtimeo.load(Relaxed), Relaxed);
        self.sndtimeo.store(from.sndtimeo.load(Relaxed), Relaxed);
    }

    /// Its state: one of [`state`].
    pub fn state(&self) -> u32 {
        self.state.load(Relaxed)
    }

    /// Moves it to another state.
    pub fn set_state(&self, state: u32) {
        self.state.store(state, Relaxed);
    }

    /// The network namespace. `ENETDOWN` if it was let go of, and so for no socket that has a descriptor.
    pub fn net(&self) -> Result<Ref<NetNs>> {
        self.net.lock().clone().ok_or(Errno::ENETDOWN)
    }

    /// Lets go of the network namespace, which may end by it.
    pub fn leave_net(&self) {
        let net = self.net.lock().take();
        if let Some(net) = net {
            self.for_counts(&net, |count| count.fetch_sub(1, Relaxed));
        }
    }

    /// It is of this Unix socket.
    pub fn set_unix(&self, sock: &UnixSock) {
        self.unix.store(core::ptr::from_ref(sock).cast_mut(), Relaxed);
    }

    /// Number of its inode.
    pub fn ino(&self) -> u64 {
        self.ino.load(Relaxed)
    }

    /// Records the number of its inode.
    pub fn set_ino(&self, ino: u64) {
        self.ino.store(ino, Relaxed);
    }

    /// Number of the inode of the peer.
    pub fn peer_ino(&self) -> u64 {
        self.peer_ino.load(Relaxed)
    }

    /// Records the number of the inode of the peer.
    pub fn set_peer_ino(&self, ino: u64) {
        self.peer_ino.store(ino, Relaxed);
    }

    /// Records its own address.
    pub fn set_local(&self, address: &[u8]) {
        self.names.lock().local.set(address);
    }

    /// Records the other end's address.
    pub fn set_peer(&self, address: &[u8]) {
        self.names.lock().peer.set(address);
    }

    /// Its own address as recorded.
    pub fn local(&self) -> Address {
        let names = self.names.lock();
        Address::new(&names.local.bytes[..names.local.len as usize]).unwrap_or(Address::EMPTY)
    }

    /// The other end's address as recorded.
    pub fn peer(&self) -> Address {
        let names = self.names.lock();
        Address::new(&names.peer.bytes[..names.peer.len as usize]).unwrap_or(Address::EMPTY)
    }

    /// True if an option is on.
    #[inline]
    pub fn has(&self, flag: u32) -> bool {
        self.flags.load(Relaxed) & flag != 0
    }

    /// Switches an option.
    pub fn set_flag(&self, flag: u32, on: bool) {
        if on {
            self.flags.fetch_or(flag, Relaxed);
        } else {
            self.flags.fetch_and(!flag, Relaxed);
        }
    }

    /// True if no more is received, or sent.
    #[inline]
    pub fn is_shut(&self, how: u32) -> bool {
        self.shutdown.load(Relaxed) & how != 0
    }

    /// Notes an error for the next call to report, and wakes everybody.
    pub fn set_error(&self, error: Errno) {
        self.error.store(error.number(), Relaxed);
        self.wake_all();
    }

    /// True if an error waits to be reported.
    pub fn has_error(&self) -> bool {
        self.error.load(Relaxed) != 0
    }

    /// Takes the error that waits to be reported (`SO_ERROR`).
    pub fn take_error(&self) -> Option<Errno> {
        if !self.has_error() {
            return None;
        }
        match self.error.swap(0, Relaxed) {
            0 => None,
            number => Some(Errno::from_number(number as u16)),
        }
    }

    /// Reports the error that waits, if there is one.
    pub fn check_error(&self) -> Result<()> {
        self.take_error().map_or(Ok(()), Err)
    }

    /// Wakes everybody.
    pub fn wake_all(&self) {
        self.rx_wait.wake_all();
        self.tx_wait.wake_all();
    }

    /// Something arrived.
    #[inline]
    pub fn wake_readers(&self) {
        self.rx_wait.wake_poll((PollFlags::IN | PollFlags::RDNORM).bits());
    }

    /// There is room again.
    #[inline]
    pub fn wake_writers(&self) {
        self.tx_wait.wake_poll((PollFlags::OUT | PollFlags::WRNORM).bits());
    }

    /// How a call that reads waits.
    #[inline]
    pub fn read_patience(&self, nonblock: bool, flags: MsgFlags) -> Patience {
        Patience::new(nonblock || flags.contains(MsgFlags::DONTWAIT), self.rcvtimeo.load(Relaxed))
    }

    /// How a call that writes waits.
    #[inline]
    pub fn write_patience(&self, nonblock: bool, flags: MsgFlags) -> Patience {
        Patience::new(nonblock || flags.contains(MsgFlags::DONTWAIT), self.sndtimeo.load(Relaxed))
    }

    /// How many bytes a look leaves out (`SO_PEEK_OFF`), if it has a place of its own.
    pub fn peek_offset(&self) -> Option<usize> {
        usize::try_from(self.peek_off.load(Relaxed)).ok()
    }

    /// So many bytes were looked at, or, if negative, taken.
    pub fn peeked(&self, n: isize) {
        if let Some(offset) = self.peek_offset() {
            let offset = offset.saturating_add_signed(n).min(i32::MAX as usize);
            self.peek_off.store(offset as i32, Relaxed);
        }
    }

    /// Sets `SO_SNDBUF`, within the system's bounds unless `force`.
    pub fn set_sndbuf(&self, asked: u32, force: bool) {
        let asked = if force { asked.min(i32::MAX as u32 / 2) } else { asked.min(BUFFER_DEFAULT) };
        self.sndbuf.store((asked * 2).max(MIN_SNDBUF), Relaxed);
        self.tx_wait.wake_all();
    }

    /// Sets `SO_RCVBUF`.
    pub fn set_rcvbuf(&self, asked: u32, force: bool) {
        let asked = if force { asked.min(i32::MAX as u32 / 2) } else { asked.min(BUFFER_DEFAULT) };
        self.rcvbuf.store((asked * 2).max(MIN_RCVBUF), Relaxed);
    }
}

impl Drop for Common {
    fn drop(&mut self) {
        self.leave_net();
    }
}

/// How long a call waits.
#[derive(Clone, Copy)]
pub struct Patience {
    /// Not at all.
    pub nonblock: bool,
    /// Until then.
    pub deadline: Deadline,
}

impl Patience {
    /// With a timeout in ns, 0 for none.
    #[inline]
    pub fn new(nonblock: bool, timeout: u64) -> Self {
        let deadline = if timeout == 0 { Deadline::NEVER } else { Deadline::after(timeout) };
        Self { nonblock, deadline }
    }

    /// The error of a wait that a signal ended: a call with a timeout is not restarted, which would wait
    /// all over again (signal(7)); but after a hold it is, of which the program should not know.
    fn interrupted(&self) -> Errno {
        let has_timeout = self.deadline.ns != u64::MAX;
        if has_timeout && !current().starts_over() { Errno::EINTR } else { Errno::ERESTARTSYS }
    }

    /// Sleeps until `condition`; `EAGAIN` if there is no time (left).
    pub fn wait(
        &self,
        queue: &WaitQueue,
        channel: &'static WaitChannel,
        condition: impl FnMut() -> bool,
    ) -> Result<()> {
        if self.nonblock {
            return Err(Errno::EAGAIN);
        }
        let how = Wait::new(TaskState::INTERRUPTIBLE, channel).exclusive().until(self.deadline);
        queue.wait_until(how, condition).map_err(|error| match error {
            Errno::ETIMEDOUT => Errno::EAGAIN,
            Errno::ERESTARTSYS => self.interrupted(),
            other => other,
        })
    }
}

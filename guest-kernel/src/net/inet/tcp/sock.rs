//! [`TcpSock`]: a TCP socket, from socket(2) to the end of its connection.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, Ordering::Relaxed};

use smoltcp::socket::tcp::State as TcpState;
use smoltcp::time::Duration;
use smoltcp::wire::TcpPacket;

use super::core::Core;
use super::listen::Listener;
use super::time_wait::TimeWait;
use crate::container_of;
use crate::errno::Errno;
use crate::kref::Ref;
use crate::list::{Link, List};
use crate::list_link;
use crate::net::common::{Common, SHUT_RECEIVE, SHUT_SEND, flag, state};
use crate::net::inet::AF_INET6;
use crate::net::inet::endpoint::Endpoint;
use crate::net::inet::options::IpOptions;
use crate::net::inet::route::Hop;
use crate::net::inet::stack::{Stack, kick};
use crate::sched::clock::{Deadline, monotonic_ns};
use crate::sched::softirq::{self, Softirq};
use crate::sched::timer::Timer;
use crate::sync::{IrqLock, Mutex, SpinLock};

/// Its addresses.
#[derive(Clone, Copy)]
pub struct Names {
    /// Its own; port 0 as long as it has none.
    pub local: Endpoint,
    /// The address was given by bind(2).
    pub address_bound: bool,
    /// The other side's.
    pub peer: Option<Endpoint>,
}

/// Options of tcp(7).
pub struct TcpOptions {
    /// `TCP_NODELAY`.
    pub nodelay: AtomicBool,
    /// `TCP_CORK`: kept, without effect.
    pub cork: AtomicBool,
    /// `TCP_KEEPIDLE`, in seconds.
    pub keep_idle: AtomicU32,
    /// `TCP_KEEPINTVL`, in seconds.
    pub keep_interval: AtomicU32,
    /// `TCP_KEEPCNT`.
    pub keep_count: AtomicU32,
    /// `TCP_SYNCNT`: how often a first segment is repeated. smoltcp gives up by time; a program sees what it set.
    pub syn_count: AtomicU32,
    /// `TCP_USER_TIMEOUT`, in ms.
    pub user_timeout: AtomicU32,
    /// `TCP_MAXSEG`.
    pub max_segment: AtomicU32,
    /// `TCP_DEFER_ACCEPT`: kept, without effect.
    pub defer_accept: AtomicU32,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            nodelay: AtomicBool::new(false),
            cork: AtomicBool::new(false),
            keep_idle: AtomicU32::new(7200),
            keep_interval: AtomicU32::new(75),
            keep_count: AtomicU32::new(9),
            syn_count: AtomicU32::new(6),
            user_timeout: AtomicU32::new(0),
            max_segment: AtomicU32::new(0),
            defer_accept: AtomicU32::new(0),
        }
    }
}

/// A TCP socket.
#[repr(C)]
pub struct TcpSock {
    timer: Timer,
    /// When the timer rings, 0 if it does not.
    armed: AtomicU64,
    /// Its timer rang.
    rang: Link,
    /// What every socket has.
    pub common: Ref<Common>,
    /// The namespace's IP layer.
    pub stack: Ref<Stack>,
    /// Its addresses.
    pub names: SpinLock<Names>,
    /// Its connection, once it has one.
    pub core: SpinLock<Option<Box<Core>>>,
    /// What is left of the connection when it is over.
    time_wait: SpinLock<Option<TimeWait>>,
    /// What waits to be accepted, while it listens.
    pub listener: SpinLock<Option<Listener>>,
    /// The listener that made it, until it is accepted.
    pub parent: SpinLock<Option<Ref<TcpSock>>>,
    /// connect(2) did not wait: the next one tells how it ended.
    pub connecting: AtomicBool,
    /// Held by whoever reads, so that readers do not mix.
    pub reading: Mutex<()>,
    /// Options of IP.
    pub ip: IpOptions,
    /// Options of TCP.
    pub options: TcpOptions,
}

/// How long a connection attempt is tried (`tcp_syn_retries` of 6).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(127);
/// How long data is sent again and again (`tcp_retries2` of 15).
const DATA_TIMEOUT: Duration = Duration::from_secs(924);
/// How long a closed connection waits for the other side (`tcp_fin_timeout`).
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection that nobody accepted waits for its last acknowledgement.
const SYN_RECEIVED_TIMEOUT: Duration = Duration::from_secs(63);

list_link!(
    /// Sockets whose timer rang.
    TcpSock, rang: RangLink
);

/// Sockets whose timer rang, for the softirq. The list holds a reference of each.
static RANG: IrqLock<List<TcpSock, RangLink>> = IrqLock::new(List::new());

/// Has the softirq of the network poll connections and work off what waits; at boot.
pub fn init() {
    softirq::register(Softirq::Net, || {
        loop {
            let next = {
                let rang = RANG.lock();
                // SAFETY: the list's lock is held; what is on it has a reference, taken back here.
                unsafe { rang.pop_front().map(|sock| Ref::from_raw(sock)) }
            };
            let Some(sock) = next else { break };
            sock.poll(None);
        }
        kick();
    });
}

/// A state under the number that Linux shows.
pub fn number_of(tcp: TcpState) -> u32 {
    match tcp {
        TcpState::Closed => state::CLOSE,
        TcpState::Listen => state::LISTEN,
        TcpState::SynSent => state::SYN_SENT,
        TcpState::SynReceived => state::SYN_RECV,
        TcpState::Established => state::ESTABLISHED,
        TcpState::FinWait1 => state::FIN_WAIT1,
        TcpState::FinWait2 => state::FIN_WAIT2,
        TcpState::CloseWait => state::CLOSE_WAIT,
        TcpState::Closing => state::CLOSING,
        TcpState::LastAck => state::LAST_ACK,
        TcpState::TimeWait => state::TIME_WAIT,
    }
}

/// What a poll came to.
struct Outcome {
    before: u32,
    after: u32,
    readable: bool,
    writable: bool,
}

impl TcpSock {
    /// A fresh socket.
    pub fn new(common: Ref<Common>, stack: Ref<Stack>) -> crate::errno::Result<Ref<Self>> {
        let family = common.family;
        Ref::try_new(Self {
            timer: Timer::new(Self::ring),
            armed: AtomicU64::new(0),
            rang: Link::new(),
            names: SpinLock::new(Names {
                local: Endpoint::any(family),
                address_bound: false,
                peer: None,
            }),
            core: SpinLock::new(None),
            time_wait: SpinLock::new(None),
            listener: SpinLock::new(None),
            parent: SpinLock::new(None),
            connecting: AtomicBool::new(false),
            reading: Mutex::new(()),
            ip: IpOptions::default(),
            options: TcpOptions::default(),
            common,
            stack,
        })
    }

    /// One more reference.
    pub fn to_ref(&self) -> Ref<Self> {
        // SAFETY: sockets are made by `new` alone, in a `Ref`, and whoever calls holds one.
        unsafe { Ref::from_ref(self) }
    }

    /// True if its address stands for IPv4 ones too.
    pub fn dual(&self) -> bool {
        self.common.family == AF_INET6 && !self.ip.v6_only.load(Relaxed)
    }

    /// Shows the addresses to readers outside.
    pub fn names_changed(&self) {
        let names = *self.names.lock();
        let family = self.common.family;
        self.common.set_local(names.local.encode(family).bytes());
        match names.peer {
            Some(peer) => self.common.set_peer(peer.encode(family).bytes()),
            None => self.common.set_peer(&[]),
        }
    }

    /// Sizes of the buffers: what the program set, within bounds.
    pub fn buffer_sizes(&self) -> (usize, usize) {
        const SMALLEST: usize = 4 * 1024;
        const LARGEST: usize = 256 * 1024;
        let half = |size: &AtomicU32| (size.load(Relaxed) as usize / 2).clamp(SMALLEST, LARGEST);
        // SO_SNDBUF starts at 16 KiB on Linux and grows by itself; ours does not grow.
        let send = half(&self.common.sndbuf).max(32 * 1024);
        (half(&self.common.rcvbuf), send)
    }

    /// A connection for it.
    pub fn make_core(&self, local: Endpoint, hop: Hop) -> crate::errno::Result<Core> {
        let (receive, send) = self.buffer_sizes();
        let mut core = Core::new(&self.stack, local.addr, hop, receive, send)?;
        self.apply_options(&mut core);
        Ok(core)
    }

    /// Tells the connection of options that changed.
    pub fn apply_options(&self, core: &mut Core) {
        let idle = Duration::from_secs(u64::from(self.options.keep_idle.load(Relaxed)));
        let keep_alive = self.common.has(flag::KEEPALIVE).then_some(idle);
        let socket = core.socket_mut();
        socket.set_nagle_enabled(!self.options.nodelay.load(Relaxed));
        if socket.keep_alive() != keep_alive {
            socket.set_keep_alive(keep_alive);
        }
        socket.set_hop_limit(Some(self.ip.hops()));
    }

    /// How long the other side may be silent, as things stand.
    fn timeout(&self, core: &Core) -> Option<Duration> {
        let socket = core.socket();
        let user = u64::from(self.options.user_timeout.load(Relaxed));
        let orphan = self.common.has(flag::DEAD);
        match socket.state() {
            TcpState::SynSent if user > 0 => Some(Duration::from_millis(user)),
            TcpState::SynSent => Some(CONNECT_TIMEOUT),
            TcpState::SynReceived => Some(SYN_RECEIVED_TIMEOUT),
            TcpState::FinWait1 | TcpState::FinWait2 | TcpState::Closing | TcpState::LastAck
                if orphan =>
            {
                Some(ORPHAN_TIMEOUT)
            }
            _ if socket.send_queue() > 0 && user > 0 => Some(Duration::from_millis(user)),
            _ if socket.send_queue() > 0 => Some(DATA_TIMEOUT),
            _ if self.common.has(flag::KEEPALIVE) => {
                let options = &self.options;
                let probes = options.keep_interval.load(Relaxed) * options.keep_count.load(Relaxed);
                let total = options.keep_idle.load(Relaxed).saturating_add(probes);
                Some(Duration::from_secs(u64::from(total)))
            }
            _ => None,
        }
    }

    /// Takes a segment in, if there is one, has due segments sent, and acts on what changed. The caller
    /// [`kick`]s when it is done.
    pub fn poll(&self, incoming: Option<&[u8]>) {
        let mut guard = self.core.lock();
        let Some(core) = guard.as_mut() else {
            drop(guard);
            return self.poll_time_wait(incoming);
        };
        let outcome = self.poll_core(core, incoming);
        drop(guard);
        self.act_on(&outcome);
        self.shrink();
    }

    /// Lets go of the connection's buffers when there is nothing to do any more but wait.
    pub fn shrink(&self) {
        let waits = || self.common.has(flag::DEAD) && self.common.state() == state::TIME_WAIT;
        if !waits() {
            return;
        }
        let Names { local, peer, .. } = *self.names.lock();
        let Some(peer) = peer else { return };
        let mut core = self.core.lock();
        // With the lock nobody else moves it on.
        let left =
            core.as_mut().filter(|_| waits()).and_then(|core| TimeWait::of(core, local, peer));
        if left.is_some() {
            *self.time_wait.lock() = left;
            let old = core.take();
            drop(core);
            drop(old);
        }
    }

    /// Ends what is left of a connection in TIME_WAIT if `segment` begins another one; false if it must not.
    pub fn give_way_to(&self, segment: &TcpPacket<&[u8]>) -> bool {
        let old = self.time_wait.lock().take_if(|left| left.gives_way_to(segment));
        if old.is_none() {
            return false;
        }
        self.common.set_state(state::CLOSE);
        self.connection_ended();
        true
    }

    fn poll_time_wait(&self, incoming: Option<&[u8]>) {
        let mut time_wait = self.time_wait.lock();
        let Some(there) = time_wait.as_mut() else { return };
        let reset = incoming.is_some_and(|packet| there.input(&self.stack, packet));
        if !reset && there.until > monotonic_ns() {
            return self.arm(Some(there.until));
        }
        let old = time_wait.take();
        drop(time_wait);
        drop(old);
        self.common.set_state(state::CLOSE);
        self.connection_ended();
    }

    /// Runs `f` on the connection, then polls it; `None` if there is none.
    pub fn with_core<R>(&self, f: impl FnOnce(&mut Core) -> R) -> Option<R> {
        let mut guard = self.core.lock();
        let core = guard.as_mut()?;
        let before = core.socket().state();
        let result = f(core);
        let mut outcome = self.poll_core(core, None);
        outcome.before = number_of(before);
        drop(guard);
        // What the program does itself is no news to it.
        if outcome.before == outcome.after {
            outcome.writable = false;
        }
        self.act_on(&outcome);
        Some(result)
    }

    fn poll_core(&self, core: &mut Core, incoming: Option<&[u8]>) -> Outcome {
        let socket = core.socket();
        let before = number_of(socket.state());
        let (had, room) = (socket.recv_queue(), socket.send_queue());
        let timeout = self.timeout(core);
        core.socket_mut().set_timeout(timeout);
        let reachable = core.poll(&self.stack, incoming);
        let socket = core.socket();
        let mut after = number_of(socket.state());
        let readable = socket.recv_queue() > had;
        let writable = socket.send_queue() < room;
        self.common.rx_queued.store(socket.recv_queue(), Relaxed);
        self.common.tx_queued.store(socket.send_queue(), Relaxed);
        if before != after && after == state::CLOSE && before != state::CLOSE {
            self.note_end(before, incoming.is_some());
        }
        if !reachable && after == state::SYN_SENT {
            core.socket_mut().abort();
            after = state::CLOSE;
            self.common.set_error(Errno::EHOSTUNREACH);
        }
        // Data that comes after the last descriptor went reaches nobody: say so (RFC 2525, 2.17).
        if self.common.has(flag::DEAD) && core.socket().recv_queue() > 0 && after != state::CLOSE {
            core.socket_mut().abort();
            core.poll(&self.stack, None);
            after = state::CLOSE;
        }
        if after != state::CLOSE {
            self.arm(core.next_poll());
        }
        // Under the lock: a segment that comes right afterwards may end the connection.
        self.common.set_state(after);
        Outcome { before, after, readable, writable }
    }

    /// The connection ended by the other side's word, or by its silence.
    fn note_end(&self, before: u32, by_segment: bool) {
        let error = match before {
            // The end that was waited for.
            state::TIME_WAIT | state::LAST_ACK | state::CLOSING if by_segment => return,
            state::TIME_WAIT => return,
            _ if self.common.has(flag::DEAD) => return,
            _ if !by_segment => Errno::ETIMEDOUT,
            state::SYN_SENT => Errno::ECONNREFUSED,
            state::CLOSE_WAIT => Errno::EPIPE,
            _ => Errno::ECONNRESET,
        };
        self.common.set_error(error);
    }

    fn act_on(&self, outcome: &Outcome) {
        let &Outcome { before, after, readable, writable } = outcome;
        if before != after {
            self.count(before, after);
            match after {
                state::CLOSE_WAIT | state::LAST_ACK | state::CLOSING | state::TIME_WAIT => {
                    self.common.set_flag(flag::DONE, true);
                    self.common.shutdown.fetch_or(SHUT_RECEIVE, Ordering::AcqRel);
                }
                state::CLOSE => {
                    let both = SHUT_RECEIVE | SHUT_SEND;
                    self.common.shutdown.fetch_or(both, Ordering::AcqRel);
                }
                _ => {}
            }
            if before == state::SYN_RECV {
                self.leave_syn_queue(after);
            }
            if after == state::CLOSE {
                self.connection_ended();
            }
            self.common.wake_all();
            self.leave_net_if_over();
            return;
        }
        if readable {
            self.common.wake_readers();
        }
        if writable {
            self.common.wake_writers();
        }
    }

    /// Counts what a change of state means (RFC 4022).
    fn count(&self, before: u32, after: u32) {
        let counts = &self.stack.counters.tcp;
        match (before, after) {
            (state::SYN_RECV, state::ESTABLISHED | state::CLOSE_WAIT) => {
                counts.passive_opens.count()
            }
            (state::SYN_SENT | state::SYN_RECV, state::CLOSE) => counts.attempt_fails.count(),
            (state::ESTABLISHED | state::CLOSE_WAIT, state::CLOSE) => counts.estab_resets.count(),
            _ => {}
        }
    }

    /// Nobody has it any more, and all that it had to say was heard: what remains, waiting for late segments,
    /// ends with the namespace (on Linux it is no socket any more, and `inet_twsk_purge` ends it).
    pub fn leave_net_if_over(&self) {
        let over = matches!(self.common.state(), state::FIN_WAIT2 | state::TIME_WAIT);
        if over && self.common.has(flag::DEAD) {
            self.common.leave_net();
        }
    }

    /// The connection is over: its place in the tables is free.
    fn connection_ended(&self) {
        super::table::forget_connection(self);
    }

    /// Has the timer ring at `at`, unless it rings earlier anyway.
    fn arm(&self, at: Option<u64>) {
        let Some(at) = at else { return };
        let at = at.max(1);
        let armed = self.armed.load(Relaxed);
        if armed != 0 && armed <= at {
            return;
        }
        if armed == 0 || self.timer.cancel() {
            // The reference that the timer holds is made, or kept, here.
            if armed == 0 {
                let _ = Ref::into_raw(self.to_ref());
            }
            self.armed.store(at, Relaxed);
            // SAFETY: the timer's own reference keeps the socket until it rings or is cancelled.
            unsafe { self.timer.start(Deadline::monotonic(at)) };
        }
        // It rings this moment: the poll that follows arms it again.
    }

    fn ring(timer: &Timer) {
        let this = container_of!(timer, TcpSock, timer);
        // SAFETY: the timer is part of a `TcpSock`, of which `arm` made a reference for the timer.
        let sock = unsafe { Ref::from_raw(this) };
        sock.armed.store(0, Relaxed);
        {
            let rang = RANG.lock();
            // It may have rung again before the softirq came.
            if !sock.rang.is_linked() {
                // SAFETY: the list's lock is held, and the list keeps the reference.
                unsafe { rang.push_back(&sock) };
                core::mem::forget(sock);
            }
        }
        softirq::raise(Softirq::Net);
    }

    /// Stops the timer for good.
    pub fn disarm(&self) {
        if self.armed.load(Relaxed) != 0 && self.timer.cancel() {
            self.armed.store(0, Relaxed);
            // SAFETY: the timer's reference, which it will not use any more.
            drop(unsafe { Ref::from_raw(core::ptr::from_ref(self)) });
        }
    }
}

//! [`UnixSock`]: one end of Unix sockets' conversations, and [`Skb`], what is queued at it.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering, Ordering::Relaxed};

use belljar_abi::Described;

use super::name::Bound;
use super::scm::InFlight;
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::net::address::Address;
use crate::net::common::{Common, SHUT_RECEIVE, SHUT_SEND, flag, state};
use crate::net::hooks::Identity;
use crate::queue::Queue;
use crate::sync::{Mutex, SpinLock};

/// What travels with some bytes.
#[repr(C)]
#[derive(Default, Described)]
#[described(name = "UnixExtras")]
pub struct Extras {
    /// Who sent them.
    #[described(as = "struct Identity")]
    pub identity: Option<Identity>,
    /// Files, until they are taken out by the first who reads.
    pub files: SpinLock<Option<Ref<InFlight>>>,
}

/// Bytes that were sent in one piece. They are charged to the sender while this exists.
#[repr(C)]
#[derive(Described)]
pub struct Skb {
    /// The bytes.
    pub data: Array<u8>,
    /// How many of them were read.
    pub read: AtomicUsize,
    /// What travels with them.
    pub extras: Option<Ref<Extras>>,
    /// Who sent them.
    pub sender: Ref<UnixSock>,
    /// An empty message that was looked at: with `SO_PEEK_OFF` the next look goes on behind it.
    #[described(skip)]
    pub peeked: AtomicBool,
    #[described(skip)]
    charge: usize,
}

/// What a message of `len` bytes costs: as Linux has it, the power of two that holds the bytes and
/// their bookkeeping, and the message's head (`skb->truesize`).
pub fn truesize(len: usize) -> usize {
    const HEAD: usize = 256;
    const SHARED_INFO: usize = 320;
    (len.next_multiple_of(64) + SHARED_INFO).next_power_of_two().max(512) + HEAD
}

impl Skb {
    /// Bytes by `sender`, charged to it.
    pub fn new(sender: &UnixSock, data: Vec<u8>, extras: Option<Ref<Extras>>) -> Result<Ref<Self>> {
        let charge = truesize(data.len());
        sender.common.tx_queued.fetch_add(charge, Relaxed);
        Ref::try_new(Self {
            data: data.into(),
            read: AtomicUsize::new(0),
            extras,
            sender: sender.to_ref(),
            peeked: AtomicBool::new(false),
            charge,
        })
        .inspect_err(|_| {
            sender.common.tx_queued.fetch_sub(charge, Relaxed);
        })
    }

    /// Bytes not read yet.
    pub fn unread(&self) -> usize {
        self.data.len() - self.read.load(Relaxed)
    }

    /// Who sent it, if that was noted.
    pub fn identity(&self) -> Option<Identity> {
        self.extras.as_ref().and_then(|extras| extras.identity.clone())
    }

    /// True if files travel with it.
    pub fn has_files(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.files.lock().is_some())
    }
}

impl Drop for Skb {
    fn drop(&mut self) {
        self.sender.common.tx_queued.fetch_sub(self.charge, Ordering::AcqRel);
        if self.sender.is_writable() {
            self.sender.common.wake_writers();
        }
    }
}

/// What a socket's lock guards.
#[repr(C)]
#[derive(Described)]
#[described(name = "UnixState")]
pub struct State {
    /// Its name.
    pub bound: Option<Ref<Bound>>,
    /// The other end.
    pub peer: Option<Ref<UnixSock>>,
    /// Most connections that wait to be accepted, less one; or messages in the queue.
    pub backlog: usize,
    /// Connections that wait to be accepted.
    pub pending: Queue<Ref<UnixSock>>,
    /// What was sent to it.
    pub queue: Queue<Ref<Skb>>,
    /// Who wants to be woken when the queue, or `pending`, has room.
    #[described(skip)]
    pub blocked: Vec<Ref<UnixSock>>,
    /// Who was at the other end when it was connected; of a listener, who listens.
    #[described(as = "struct Identity")]
    pub peer_identity: Option<Identity>,
}

/// One end.
#[repr(C)]
#[derive(Described)]
pub struct UnixSock {
    /// What every socket has.
    pub common: Ref<Common>,
    /// See [`State`].
    pub state: SpinLock<State>,
    /// Held by whoever reads from a stream, so that readers do not mix.
    #[described(skip)]
    pub reading: Mutex<()>,
    /// Held by whoever gives it a name or a peer.
    #[described(skip)]
    pub binding: Mutex<()>,
    /// Messages in the queue, for looks without the lock.
    pub queued: AtomicUsize,
    /// Nobody reads from it any more.
    pub dead: AtomicBool,
}

/// `net.unix.max_dgram_qlen`.
const MAX_DGRAM_QUEUE: usize = 10;

impl UnixSock {
    /// A fresh end.
    pub fn new(common: Ref<Common>) -> Result<Ref<Self>> {
        let sock = Ref::try_new(Self {
            state: SpinLock::new(State {
                bound: None,
                peer: None,
                backlog: MAX_DGRAM_QUEUE,
                pending: Queue::new(),
                queue: Queue::new(),
                blocked: Vec::new(),
                peer_identity: None,
            }),
            reading: Mutex::new(()),
            binding: Mutex::new(()),
            queued: AtomicUsize::new(0),
            dead: AtomicBool::new(false),
            common,
        })?;
        sock.common.set_unix(&sock);
        sock.common.net()?.unix.insert(&sock)?;
        Ok(sock)
    }

    /// One more reference.
    pub fn to_ref(&self) -> Ref<Self> {
        // SAFETY: sockets are made by `new` alone, in a `Ref`, and whoever calls holds one.
        unsafe { Ref::from_ref(self) }
    }

    /// True for a stream.
    pub fn is_stream(&self) -> bool {
        self.common.kind == crate::net::SOCK_STREAM
    }

    /// True if it has connections: a stream or sequenced packets.
    pub fn is_connected_kind(&self) -> bool {
        self.common.kind != crate::net::SOCK_DGRAM
    }

    /// True if pollers may write: less than a quarter of the buffer is in flight (`unix_writable`).
    pub fn is_writable(&self) -> bool {
        let buffer = self.common.sndbuf.load(Relaxed) as usize;
        self.common.tx_queued.load(Ordering::Acquire).saturating_mul(4) <= buffer
    }

    /// True if another message may be charged to it.
    pub fn has_send_room(&self) -> bool {
        self.common.tx_queued.load(Ordering::Acquire) < self.common.sndbuf.load(Relaxed) as usize
    }

    /// True once its last user is gone.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// The other end.
    pub fn peer(&self) -> Option<Ref<UnixSock>> {
        self.state.lock().peer.clone()
    }

    /// Its name as an address: the family alone if it has none.
    pub fn address(&self) -> Address {
        let local = self.common.local();
        if local.bytes().is_empty() { super::name::unnamed() } else { local }
    }

    /// Puts something into its queue. `EPIPE` if nobody will read it. `kind_of_full`: what to say if the
    /// queue has no room for messages; streams are bounded by the sender's buffer alone.
    pub fn enqueue(&self, skb: Ref<Skb>, bounded: bool) -> Result<(), (Errno, Ref<Skb>)> {
        let len = skb.data.len();
        {
            let mut state = self.state.lock();
            if self.is_dead() || self.common.is_shut(SHUT_RECEIVE) {
                return Err((Errno::EPIPE, skb));
            }
            if bounded && state.queue.len() > state.backlog {
                return Err((Errno::EAGAIN, skb));
            }
            if state.queue.try_push(skb.clone()).is_err() {
                return Err((Errno::ENOMEM, skb));
            }
            self.queued.store(state.queue.len(), Ordering::Release);
            self.common.rx_queued.fetch_add(len, Relaxed);
        }
        self.common.wake_readers();
        Ok(())
    }

    /// True if the queue takes no more messages.
    pub fn is_full(&self) -> bool {
        let state = self.state.lock();
        state.queue.len() > state.backlog
    }

    /// Takes the first message out.
    pub fn dequeue(&self) -> Option<Ref<Skb>> {
        let (skb, blocked) = {
            let mut state = self.state.lock();
            let skb = state.queue.pop_front()?;
            self.queued.store(state.queue.len(), Ordering::Release);
            self.common.rx_queued.fetch_sub(skb.unread(), Relaxed);
            let room = state.queue.len() <= state.backlog;
            (skb, if room { core::mem::take(&mut state.blocked) } else { Vec::new() })
        };
        for sock in blocked {
            sock.common.wake_writers();
        }
        Some(skb)
    }

    /// The message at `index`, left there.
    pub fn peek(&self, index: usize) -> Option<Ref<Skb>> {
        self.state.lock().queue.get(index).cloned()
    }

    /// Has `who` woken when there is room; once, however often it asks.
    pub fn wake_when_room(&self, who: &UnixSock) {
        let mut state = self.state.lock();
        if state.blocked.iter().any(|there| core::ptr::eq(&**there, who)) {
            return;
        }
        if state.blocked.try_reserve(1).is_ok() {
            state.blocked.push(who.to_ref());
        }
    }

    /// Ends directions, and tells who waits.
    pub fn shut(&self, how: u32) {
        self.common.shutdown.fetch_or(how, Ordering::AcqRel);
        self.common.wake_all();
    }

    /// The last user is gone: everything that it holds goes, and the other end hears of it.
    pub fn release(&self) {
        let (bound, peer, pending, queue, blocked) = {
            let mut state = self.state.lock();
            self.dead.store(true, Ordering::Release);
            self.common.shutdown.store(SHUT_RECEIVE | SHUT_SEND, Relaxed);
            self.common.set_flag(flag::DEAD, true);
            self.queued.store(0, Relaxed);
            self.common.rx_queued.store(0, Relaxed);
            (
                state.bound.take(),
                state.peer.take(),
                core::mem::take(&mut state.pending),
                core::mem::take(&mut state.queue),
                core::mem::take(&mut state.blocked),
            )
        };
        self.common.set_state(state::CLOSE);
        if let Ok(net) = self.common.net() {
            net.unix.remove(self);
        }
        if let Some(bound) = bound {
            bound.unbind(self);
        }
        if let Some(peer) = peer {
            if self.is_connected_kind() {
                if !queue.is_empty() || self.common.ino() == 0 {
                    // It did not read all: the other end's last words are lost.
                    peer.common.set_error(Errno::ECONNRESET);
                }
                peer.shut(SHUT_RECEIVE | SHUT_SEND);
            } else {
                peer.common.wake_writers();
            }
        }
        for sock in blocked {
            sock.common.wake_writers();
        }
        for embryo in pending.iter() {
            embryo.release();
        }
        super::scm::discard(queue);
    }

    /// The socket is a stream or a packet socket without a peer, or one whose peer is gone: true if it is
    /// connected.
    pub fn is_established(&self) -> bool {
        self.common.state() == state::ESTABLISHED
    }
}

//! Files in flight: sent with `SCM_RIGHTS` and not received yet.
//!
//! A socket's file may lie in a queue that only the file itself leads to; then nobody can ever receive or
//! close it. [`collect`] finds such cycles as Linux does: candidates are sockets that have no other
//! reference than those in flight; whatever a candidate's references outside the candidates' own queues
//! reach is alive, the rest is garbage.
//!
//! Letting go of a file can release a socket whose queue holds files, and so on as deep as a program
//! likes: [`discard`] does that in a loop instead of by recursion.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use belljar_abi::Described;

use super::protocol::unix_of;
use super::sock::{Skb, State, UnixSock};
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::fs::File;
use crate::kref::Ref;
use crate::net::hooks;
use crate::ns::Cap;
use crate::sync::SpinLock;

/// A socket in flight.
struct Flying {
    /// How often.
    count: usize,
    file: Ref<File>,
    sock: Ref<UnixSock>,
}

#[derive(Default)]
struct Flight {
    sockets: BTreeMap<usize, Flying>,
    /// Files in flight by user: bounded by `RLIMIT_NOFILE`.
    users: BTreeMap<u32, usize>,
}

static FLIGHT: SpinLock<Flight> =
    SpinLock::new(Flight { sockets: BTreeMap::new(), users: BTreeMap::new() });
/// Sockets in flight, for looks without the lock.
static FLYING: AtomicUsize = AtomicUsize::new(0);

/// Files on their way.
#[repr(C)]
#[derive(Described)]
pub struct InFlight {
    #[described(skip)]
    files: Vec<Ref<File>>,
    user: u32,
}

fn key(file: &Ref<File>) -> usize {
    Ref::as_ptr(file) as usize
}

impl InFlight {
    /// Sends files off. `ETOOMANYREFS` if the caller's user has too many in flight (unix(7)).
    pub fn new(files: Vec<Ref<File>>) -> Result<Self> {
        let user = hooks::uid();
        let limit = hooks::nofile();
        let privileged = hooks::capable(Cap::SysResource) || hooks::capable(Cap::SysAdmin);
        let mut flight = FLIGHT.lock();
        let there = flight.users.get(&user).copied().unwrap_or(0);
        if there as u64 > limit && !privileged {
            return Err(Errno::ETOOMANYREFS);
        }
        *flight.users.entry(user).or_default() += files.len();
        for file in &files {
            if let Some(sock) = unix_of(file) {
                let fresh = || Flying { count: 0, file: file.clone(), sock: sock.clone() };
                flight.sockets.entry(key(file)).or_insert_with(fresh).count += 1;
            }
        }
        FLYING.store(flight.sockets.len(), Ordering::Release);
        drop(flight);
        Ok(Self { files, user })
    }

    /// The files, still on their way.
    pub fn files(&self) -> &[Ref<File>] {
        &self.files
    }

    /// Takes them off their way.
    fn land(&mut self) -> Vec<Ref<File>> {
        let files = core::mem::take(&mut self.files);
        let mut gone = Vec::new();
        let mut flight = FLIGHT.lock();
        for file in &files {
            if let Some(flying) = flight.sockets.get_mut(&key(file)) {
                flying.count -= 1;
                if flying.count == 0
                    && let Some(flying) = flight.sockets.remove(&key(file))
                {
                    gone.push(flying);
                }
            }
        }
        if let Some(count) = flight.users.get_mut(&self.user) {
            *count = count.saturating_sub(files.len());
            if *count == 0 {
                flight.users.remove(&self.user);
            }
        }
        FLYING.store(flight.sockets.len(), Ordering::Release);
        drop(flight);
        drop(gone);
        files
    }

    /// Receives them.
    pub fn receive(mut self) -> Vec<Ref<File>> {
        self.land()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let files = self.land();
        if !files.is_empty() {
            discard_files(files);
        }
    }
}

static DISCARDED: SpinLock<Vec<Vec<Ref<File>>>> = SpinLock::new(Vec::new());
static DISCARDING: AtomicBool = AtomicBool::new(false);

/// Lets go of files; if that is being done already, further up or elsewhere, it is left to be done there.
fn discard_files(files: Vec<Ref<File>>) {
    DISCARDED.lock().push(files);
    while !DISCARDING.swap(true, Ordering::AcqRel) {
        loop {
            let next = DISCARDED.lock().pop();
            match next {
                Some(files) => drop(files),
                None => break,
            }
        }
        DISCARDING.store(false, Ordering::Release);
        if DISCARDED.lock().is_empty() {
            return;
        }
    }
}

/// Lets go of messages, and looks for garbage: a socket was released.
pub fn discard(messages: Array<Ref<Skb>>) {
    drop(messages);
    if FLYING.load(Ordering::Acquire) != 0 {
        collect();
    }
}

/// A socket that may be garbage.
struct Candidate {
    key: usize,
    sock: Ref<UnixSock>,
    /// References in flight that lie in no candidate's queue.
    outside: usize,
    alive: bool,
}

/// Runs `f` on each message queued at a socket, and at connections that wait to be accepted from it.
fn each_message(sock: &UnixSock, f: &mut dyn FnMut(&Skb)) {
    let pending = {
        let state = sock.state.lock();
        state.queue.iter().for_each(|skb| f(skb));
        state.pending.iter().cloned().collect::<Vec<_>>()
    };
    for embryo in pending {
        embryo.state.lock().queue.iter().for_each(|skb| f(skb));
    }
}

/// Runs `f` on the index of each candidate that travels in a queue of `sock`.
fn each_child(candidates: &[Candidate], sock: &UnixSock, f: &mut dyn FnMut(usize)) {
    each_message(sock, &mut |skb| {
        let files = skb.extras.as_ref().map(|extras| extras.files.lock());
        let files = files.as_ref().and_then(|files| files.as_ref());
        for file in files.iter().flat_map(|files| files.files()) {
            if let Ok(at) = candidates.binary_search_by_key(&key(file), |c| c.key) {
                f(at);
            }
        }
    });
}

/// Takes messages with files out of a queue.
fn take_with_files(state: &mut State, into: &mut Vec<Ref<Skb>>) {
    into.extend(state.queue.iter().filter(|skb| skb.has_files()).cloned());
    state.queue.retain(|skb| !skb.has_files());
}

/// Finds sockets that are only referred to from each other's queues, and empties those queues.
pub fn collect() {
    let mut garbage = Vec::new();
    {
        let flight = FLIGHT.lock();
        // The flight's own reference is not one of a program.
        let suspects =
            flight.sockets.iter().filter(|(_, f)| Ref::ref_count(&f.file) == f.count + 1);
        let mut candidates: Vec<Candidate> = suspects
            .map(|(&key, f)| Candidate {
                key,
                sock: f.sock.clone(),
                outside: f.count,
                alive: false,
            })
            .collect();
        for i in 0..candidates.len() {
            let sock = candidates[i].sock.clone();
            let mut children = Vec::new();
            each_child(&candidates, &sock, &mut |child| children.push(child));
            for child in children {
                candidates[child].outside = candidates[child].outside.saturating_sub(1);
            }
        }
        let mut todo: Vec<usize> =
            (0..candidates.len()).filter(|&i| candidates[i].outside > 0).collect();
        while let Some(at) = todo.pop() {
            if core::mem::replace(&mut candidates[at].alive, true) {
                continue;
            }
            let sock = candidates[at].sock.clone();
            each_child(&candidates, &sock, &mut |child| todo.push(child));
        }
        for candidate in candidates.iter().filter(|c| !c.alive) {
            let pending: Vec<_> = {
                let mut state = candidate.sock.state.lock();
                take_with_files(&mut state, &mut garbage);
                state.pending.iter().cloned().collect()
            };
            for embryo in pending {
                take_with_files(&mut embryo.state.lock(), &mut garbage);
            }
        }
    }
    drop(garbage);
}

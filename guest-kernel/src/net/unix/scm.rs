//! Files in flight: sent with `SCM_RIGHTS` and not received yet.
//!
//! A socket's file may lie in a queue that only the file itself leads to; then nobody can ever receive or
//! close it. [`collect`] finds such cycles as Linux does: candidates are sockets that have no other
//! reference than those in flight; whatever a candidate's references outside the candidates' own queues
//! reach is alive, the rest is garbage.
//!
//! Letting go of a file can release a socket whose queue holds files, and so on as deep as a program
//! likes: [`discard`] does that in a loop instead of by recursion.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use belljar_abi::Described;

use super::protocol::unix_of;
use super::sock::{Skb, State, UnixSock};
use crate::errno::{Errno, Result};
use crate::fs::File;
use crate::kref::Ref;
use crate::mm::{try_box, try_collect};
use crate::net::hooks;
use crate::ns::Cap;
use crate::ordmap::OrdMap;
use crate::queue::Queue;
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
    sockets: OrdMap<usize, Flying>,
    /// Files in flight by user: bounded by `RLIMIT_NOFILE`.
    users: OrdMap<u32, usize>,
}

static FLIGHT: SpinLock<Flight> =
    SpinLock::new(Flight { sockets: OrdMap::new(), users: OrdMap::new() });
/// Sockets in flight, for looks without the lock.
static FLYING: AtomicUsize = AtomicUsize::new(0);

/// Files on their way.
#[repr(C)]
#[derive(Described)]
pub struct InFlight {
    /// None once they have landed.
    #[described(skip)]
    parcel: Option<Box<Parcel>>,
    user: u32,
}

/// The files of one message. It can be linked where files wait to be let go of, so that this needs no memory.
struct Parcel {
    files: Vec<Ref<File>>,
    next: Option<Box<Parcel>>,
}

fn key(file: &Ref<File>) -> usize {
    Ref::as_ptr(file) as usize
}

impl Flight {
    fn add(&mut self, file: &Ref<File>) -> Result<()> {
        if let Some(sock) = unix_of(file) {
            let fresh = || Flying { count: 0, file: file.clone(), sock: sock.clone() };
            self.sockets.get_or_try_insert_with(key(file), fresh)?.count += 1;
        }
        Ok(())
    }

    /// One file of a user less.
    fn give_back(&mut self, user: u32) {
        if let Some(count) = self.users.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&user);
            }
        }
    }

    /// Returns what is to be dropped without the lock.
    fn remove(&mut self, file: &Ref<File>) -> Option<Flying> {
        let flying = self.sockets.get_mut(&key(file))?;
        flying.count -= 1;
        if flying.count == 0 { self.sockets.remove(&key(file)) } else { None }
    }
}

impl InFlight {
    /// Sends files off. `ETOOMANYREFS` if the caller's user has too many in flight (unix(7)).
    pub fn new(files: Vec<Ref<File>>) -> Result<Self> {
        let user = hooks::uid();
        let limit = hooks::nofile();
        let privileged = hooks::capable(Cap::SysResource) || hooks::capable(Cap::SysAdmin);
        let mut this =
            Self { parcel: Some(try_box(Parcel { files: Vec::new(), next: None })?), user };
        let parcel = this.parcel.as_mut().ok_or(Errno::ENOMEM)?;
        // What is not on its way yet is let go of by who failed to send it.
        parcel.files.try_reserve_exact(files.len()).map_err(|_| Errno::ENOMEM)?;
        {
            let flight = FLIGHT.lock();
            let there = flight.users.get(&user).copied().unwrap_or(0);
            if there as u64 > limit && !privileged {
                return Err(Errno::ETOOMANYREFS);
            }
        }
        for file in files {
            let mut flight = FLIGHT.lock();
            *flight.users.get_or_try_insert_with(user, || 0)? += 1;
            if let Err(error) = flight.add(&file) {
                flight.give_back(user);
                return Err(error);
            }
            FLYING.store(flight.sockets.len(), Ordering::Release);
            drop(flight);
            parcel.files.push(file);
        }
        Ok(this)
    }

    /// The files, still on their way.
    pub fn files(&self) -> &[Ref<File>] {
        self.parcel.as_ref().map_or(&[], |parcel| &parcel.files)
    }

    /// Takes them off their way.
    fn land(&mut self) -> Option<Box<Parcel>> {
        let parcel = self.parcel.take()?;
        for file in &parcel.files {
            let gone = {
                let mut flight = FLIGHT.lock();
                flight.give_back(self.user);
                let gone = flight.remove(file);
                FLYING.store(flight.sockets.len(), Ordering::Release);
                gone
            };
            drop(gone);
        }
        Some(parcel)
    }

    /// Receives them.
    pub fn receive(mut self) -> Vec<Ref<File>> {
        self.land().map(|mut parcel| core::mem::take(&mut parcel.files)).unwrap_or_default()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(parcel) = self.land().filter(|parcel| !parcel.files.is_empty()) {
            discard_files(parcel);
        }
    }
}

static DISCARDED: SpinLock<Option<Box<Parcel>>> = SpinLock::new(None);
static DISCARDING: AtomicBool = AtomicBool::new(false);

/// Lets go of files; if that is being done already, further up or elsewhere, it is left to be done there.
fn discard_files(mut parcel: Box<Parcel>) {
    {
        let mut first = DISCARDED.lock();
        parcel.next = first.take();
        *first = Some(parcel);
    }
    while !DISCARDING.swap(true, Ordering::AcqRel) {
        loop {
            let next = {
                let mut first = DISCARDED.lock();
                let parcel = first.take();
                parcel.map(|mut parcel| {
                    *first = parcel.next.take();
                    parcel
                })
            };
            match next {
                Some(parcel) => drop(parcel),
                None => break,
            }
        }
        DISCARDING.store(false, Ordering::Release);
        if DISCARDED.lock().is_none() {
            return;
        }
    }
}

/// Lets go of messages, and looks for garbage: a socket was released.
pub fn discard(messages: Queue<Ref<Skb>>) {
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

/// The connections that wait to be accepted from a socket.
fn pending_of(state: &State) -> Result<Vec<Ref<UnixSock>>> {
    try_collect(state.pending.iter().cloned())
}

/// Runs `f` on each message queued at a socket, and at connections that wait to be accepted from it.
fn each_message(sock: &UnixSock, f: &mut dyn FnMut(&Skb)) -> Result<()> {
    let pending = {
        let state = sock.state.lock();
        state.queue.iter().for_each(|skb| f(skb));
        pending_of(&state)?
    };
    for embryo in pending {
        embryo.state.lock().queue.iter().for_each(|skb| f(skb));
    }
    Ok(())
}

/// The indices of the candidates that travel in a queue of `sock`, each as often as it does.
fn children_of(candidates: &[Candidate], sock: &UnixSock) -> Result<Vec<usize>> {
    let mut children = Vec::new();
    let mut room = Ok(());
    each_message(sock, &mut |skb| {
        let files = skb.extras.as_ref().map(|extras| extras.files.lock());
        let files = files.as_ref().and_then(|files| files.as_ref());
        for file in files.iter().flat_map(|files| files.files()) {
            if let Ok(at) = candidates.binary_search_by_key(&key(file), |c| c.key) {
                match children.try_reserve(1) {
                    Ok(()) => children.push(at),
                    Err(_) => room = Err(Errno::ENOMEM),
                }
            }
        }
    })?;
    room.map(|()| children)
}

/// Takes messages with files out of a queue; without memory they stay.
fn take_with_files(state: &mut State, into: &mut Vec<Ref<Skb>>) {
    let with_files = state.queue.iter().filter(|skb| skb.has_files()).count();
    if into.try_reserve(with_files).is_err() {
        return;
    }
    into.extend(state.queue.iter().filter(|skb| skb.has_files()).cloned());
    state.queue.retain(|skb| !skb.has_files());
}

/// Finds sockets that are only referred to from each other's queues, and empties those queues. Without
/// memory that is left for the next time.
pub fn collect() {
    let mut garbage = Vec::new();
    let found = find_garbage(&mut garbage);
    drop((garbage, found));
}

fn find_garbage(garbage: &mut Vec<Ref<Skb>>) -> Result<()> {
    let flight = FLIGHT.lock();
    // The flight's own reference is not one of a program.
    let suspects = flight.sockets.iter().filter(|(_, f)| Ref::ref_count(&f.file) == f.count + 1);
    let mut candidates = try_collect(suspects.map(|(&key, f)| Candidate {
        key,
        sock: f.sock.clone(),
        outside: f.count,
        alive: false,
    }))?;
    for i in 0..candidates.len() {
        let sock = candidates[i].sock.clone();
        for child in children_of(&candidates, &sock)? {
            candidates[child].outside = candidates[child].outside.saturating_sub(1);
        }
    }
    let mut todo = try_collect((0..candidates.len()).filter(|&i| candidates[i].outside > 0))?;
    while let Some(at) = todo.pop() {
        if core::mem::replace(&mut candidates[at].alive, true) {
            continue;
        }
        let sock = candidates[at].sock.clone();
        let children = children_of(&candidates, &sock)?;
        todo.try_reserve(children.len()).map_err(|_| Errno::ENOMEM)?;
        todo.extend(children);
    }
    for candidate in candidates.iter().filter(|c| !c.alive) {
        let pending = {
            let mut state = candidate.sock.state.lock();
            take_with_files(&mut state, garbage);
            pending_of(&state)?
        };
        for embryo in pending {
            take_with_files(&mut embryo.state.lock(), garbage);
        }
    }
    Ok(())
}

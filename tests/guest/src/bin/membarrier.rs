//! membarrier(2): what it offers, who may use it, and that it is a barrier on every CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst, compiler_fence};
use std::thread;

use belljar_guest_tests::{check, check_eq, errno, in_child};

const GLOBAL: i32 = 1;
const PRIVATE: i32 = 1 << 3;
const REGISTER_PRIVATE: i32 = 1 << 4;
const SYNC_CORE: i32 = 1 << 5;
const REGISTER_SYNC_CORE: i32 = 1 << 6;

fn membarrier(command: i32) -> i64 {
    // SAFETY: it takes no pointers.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
}

fn it_says_what_it_offers_and_wants_registration() {
    let offered = membarrier(0);
    for command in [GLOBAL, PRIVATE, REGISTER_PRIVATE, SYNC_CORE, REGISTER_SYNC_CORE] {
        check!(offered & i64::from(command) != 0, "{command:#x} of {offered:#x}");
    }
    check_eq!(membarrier(GLOBAL), 0);
    for (command, register) in [(PRIVATE, REGISTER_PRIVATE), (SYNC_CORE, REGISTER_SYNC_CORE)] {
        check_eq!(membarrier(command), -1);
        check_eq!(errno(), libc::EPERM);
        check_eq!(membarrier(register), 0);
        check_eq!(membarrier(command), 0);
        // A child keeps the registration.
        check_eq!(in_child(|| i32::from(membarrier(command) != 0)), 0);
    }
    for wrong in [3, 1 << 30, -1] {
        check_eq!(membarrier(wrong), -1);
        check_eq!(errno(), libc::EINVAL);
    }
    // SAFETY: it takes no pointers.
    check_eq!(unsafe { libc::syscall(libc::SYS_membarrier, PRIVATE, 77, 0) }, -1);
    check_eq!(errno(), libc::EINVAL);
}

/// Waits for another thread, which may need this CPU.
fn wait_until(condition: impl Fn() -> bool) {
    const SPINS: u32 = 1000;
    let mut spins = 0;
    while !condition() {
        spins += 1;
        if spins < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
    }
}

/// Two threads each store to their own word and look at the other's: with a barrier in between on both
/// sides one of them sees the other's store. The fast one has none of its own.
fn the_fast_side_needs_no_barrier() {
    const ROUNDS: u32 = 3000;
    struct Shared {
        fast: AtomicU32,
        slow: AtomicU32,
        seen: AtomicU32,
        round: AtomicU32,
        done: AtomicU32,
    }
    let new = || AtomicU32::new(0);
    let shared =
        Arc::new(Shared { fast: new(), slow: new(), seen: new(), round: new(), done: new() });
    let fast = {
        let s = shared.clone();
        thread::spawn(move || {
            for round in 1..=ROUNDS {
                wait_until(|| s.round.load(SeqCst) >= round);
                s.fast.store(round, Relaxed);
                compiler_fence(SeqCst);
                s.seen.store(s.slow.load(Relaxed), Relaxed);
                s.done.store(round, SeqCst);
            }
        })
    };
    for round in 1..=ROUNDS {
        shared.round.store(round, SeqCst);
        shared.slow.store(round, Relaxed);
        check_eq!(membarrier(PRIVATE), 0);
        let seen_here = shared.fast.load(Relaxed);
        wait_until(|| shared.done.load(SeqCst) >= round);
        let seen_there = shared.seen.load(Relaxed);
        check!(seen_here == round || seen_there == round, "round {round}: neither saw the other");
    }
    fast.join().unwrap();
}

fn main() {
    it_says_what_it_offers_and_wants_registration();
    the_fast_side_needs_no_barrier();
}

//! Threads that count under a lock and in an atomic, and sleep between: nothing is lost, no clock goes
//! back, and no sleep ends early, whatever happens to the machine meanwhile. Prints its progress, a line
//! a step. `counting [ROUNDS [copy]]`: with `copy` it waits, when it has counted, until its machine is a copy of
//! another, and prints a random number.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use belljar_guest_tests::{check, check_eq};

const THREADS: u64 = 4;
const STEP: u64 = 50;
const PAUSE: Duration = Duration::from_millis(5);

fn main() {
    let rounds = std::env::args().nth(1).map_or(150, |n| n.parse().unwrap());
    let locked = Arc::new((Mutex::new(0_u64), Condvar::new()));
    let free = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let (locked, free) = (Arc::clone(&locked), Arc::clone(&free));
            std::thread::spawn(move || {
                // FP/SIMD registers are a thread's own too.
                let mut sum = number as f64;
                for round in 0..rounds {
                    let before = Instant::now();
                    std::thread::sleep(PAUSE);
                    check!(before.elapsed() >= PAUSE, "a sleep ended early");
                    sum += 0.5;
                    free.fetch_add(1, Ordering::Relaxed);
                    let mut count = locked.0.lock().unwrap();
                    *count += 1;
                    locked.1.notify_one();
                    check_eq!(sum, number as f64 + 0.5 * (round + 1) as f64);
                }
            })
        })
        .collect();
    for step in 1..=THREADS * rounds / STEP {
        let mut count = locked.0.lock().unwrap();
        while *count < step * STEP {
            count = locked.1.wait(count).unwrap();
        }
        drop(count);
        println!("step {step}");
    }
    for thread in threads {
        thread.join().unwrap();
    }
    check_eq!(*locked.0.lock().unwrap(), THREADS * rounds);
    check_eq!(free.load(Ordering::Relaxed), THREADS * rounds);
    println!("counted to {}", THREADS * rounds);
    if std::env::args().nth(2).is_some() {
        while std::fs::read_to_string("/proc/belljar/generation").unwrap() == "0\n" {
            std::thread::sleep(PAUSE);
        }
        let mut bytes = [0; 8];
        // SAFETY: a valid place.
        let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        check_eq!(n, bytes.len() as isize);
        println!("random {:016x}", u64::from_ne_bytes(bytes));
        loop {
            std::thread::park();
        }
    }
}

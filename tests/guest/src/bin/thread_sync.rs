//! Threads: clone(2) with futexes under std's locks, channels and thread locals; exit_group ends all.
use std::cell::Cell;
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::thread;

use belljar_guest_tests::{check_eq, child, wait};

thread_local!(static LOCAL: Cell<u64> = const { Cell::new(0) });

fn main() {
    let total = Arc::new(Mutex::new(0_u64));
    let barrier = Arc::new(Barrier::new(8));
    let threads: Vec<_> = (0..8_u64)
        .map(|n| {
            let (total, barrier) = (total.clone(), barrier.clone());
            thread::spawn(move || {
                LOCAL.set(n);
                barrier.wait();
                for _ in 0..500 {
                    *total.lock().unwrap() += 1;
                    if n % 3 == 0 {
                        thread::yield_now();
                    }
                }
                check_eq!(LOCAL.get(), n);
                n
            })
        })
        .collect();
    let sum: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
    check_eq!((sum, *total.lock().unwrap()), (28, 4000));

    let pair = Arc::new((Mutex::new(0), Condvar::new()));
    let other = pair.clone();
    let ping = thread::spawn(move || {
        let mut turn = other.0.lock().unwrap();
        for i in 0..100 {
            while *turn != i * 2 + 1 {
                turn = other.1.wait(turn).unwrap();
            }
            *turn += 1;
            other.1.notify_one();
        }
    });
    let mut turn = pair.0.lock().unwrap();
    for i in 0..100 {
        *turn = i * 2 + 1;
        pair.1.notify_one();
        while *turn != i * 2 + 2 {
            turn = pair.1.wait(turn).unwrap();
        }
    }
    drop(turn);
    ping.join().unwrap();

    let (send, receive) = mpsc::channel();
    for n in 0..20_u32 {
        let send = send.clone();
        thread::spawn(move || send.send(n).unwrap());
    }
    drop(send);
    check_eq!(receive.iter().sum::<u32>(), 190);

    // A process with threads that ends from a thread takes all of them along.
    let pid = child(|| {
        for _ in 0..4 {
            thread::spawn(|| {
                loop {
                    thread::park();
                }
            });
        }
        thread::spawn(|| std::process::exit(9)).join().unwrap();
        0
    });
    check_eq!(wait(pid), 9 << 8);
}

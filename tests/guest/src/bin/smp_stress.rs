//! Everything at once, on every CPU: `smp_stress [ROUNDS] [SEED]`. Workers fork, map, fault, pass bytes and
//! words, send signals and end threads, in an order that the seed decides. Whatever one does it checks.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;

use belljar_guest_tests::cpus::{allowed, bind};
use belljar_guest_tests::{Random, check, check_eq, child, handle, map, ok, wait, wait_ok};
use libc::{MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE};

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: i32, _: *mut libc::siginfo_t) {
    SIGNALS.fetch_add(1, SeqCst);
}

/// Forks a child that changes a copy of memory and forks once more; both sides look at their own.
fn fork_and_change(random: &mut Random) {
    let pages = 1 + random.below(64) as usize;
    let memory = map(pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE).cast::<u64>();
    // SAFETY: one word in each page of a mapping of our own.
    let word = |i: usize| unsafe { memory.add(i * 512) };
    let seed = random.number();
    let fill = |salt: u64| {
        for i in 0..pages {
            // SAFETY: as above.
            unsafe { word(i).write_volatile(seed ^ salt ^ i as u64) };
        }
    };
    let same = |salt: u64| {
        // SAFETY: as above.
        (0..pages).all(|i| unsafe { word(i).read_volatile() } == seed ^ salt ^ i as u64)
    };
    fill(1);
    let code = random.below(256) as i32;
    let pid = child(|| {
        check!(same(1));
        fill(2);
        let grandchild = child(|| {
            check!(same(2));
            fill(3);
            i32::from(!same(3))
        });
        check!(same(2));
        wait_ok(grandchild);
        check!(same(2));
        code
    });
    fill(4);
    check!(same(4));
    check_eq!(wait(pid), code << 8);
    check!(same(4));
    // SAFETY: our own mapping.
    ok(unsafe { libc::munmap(memory.cast(), pages * 4096) });
}

/// Threads that come and go, some while others still start.
fn threads_come_and_go(random: &mut Random) {
    let n = 1 + random.below(6) as usize;
    let sum = Arc::new(AtomicU64::new(0));
    let barrier = Arc::new(Barrier::new(n));
    let threads: Vec<_> = (0..n)
        .map(|i| {
            let (sum, barrier) = (sum.clone(), barrier.clone());
            thread::spawn(move || {
                let own = vec![i as u8; 30_000];
                barrier.wait();
                sum.fetch_add(own.iter().map(|b| u64::from(*b)).sum(), SeqCst);
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    check_eq!(sum.load(SeqCst), (0..n as u64).sum::<u64>() * 30_000);
}

/// Bytes through a pipe to a child and back.
fn bytes_go_round(random: &mut Random) {
    let (mut to_child, mut from_parent) = {
        let (reader, writer) = std::io::pipe().unwrap();
        (writer, reader)
    };
    let (mut from_child, to_parent) = std::io::pipe().unwrap();
    let len = 1 + random.below(200_000) as usize;
    let salt = random.number() as u8;
    // The ends are the child's in the child and the parent's in the parent; a fork copies them all.
    let pid = {
        let ends = (&to_child, &from_child);
        let fds =
            [std::os::fd::AsRawFd::as_raw_fd(ends.0), std::os::fd::AsRawFd::as_raw_fd(ends.1)];
        let mut back = to_parent.try_clone().unwrap();
        child(|| {
            for fd in fds {
                // SAFETY: the child's copies, which it does not use.
                unsafe { libc::close(fd) };
            }
            let mut buffer = [0; 5000];
            loop {
                let n = from_parent.read(&mut buffer).unwrap();
                if n == 0 {
                    return 0;
                }
                buffer[..n].iter_mut().for_each(|b| *b ^= salt);
                back.write_all(&buffer[..n]).unwrap();
            }
        })
    };
    drop((from_parent, to_parent));
    let writer = thread::spawn(move || {
        let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
        to_child.write_all(&bytes).unwrap();
    });
    let mut got = Vec::new();
    from_child.read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    check_eq!(got.len(), len);
    check!(got.iter().enumerate().all(|(i, b)| *b == i as u8 ^ salt));
    wait_ok(pid);
}

/// A word of shared memory that processes count up under a lock made of futexes.
fn a_lock_between_processes(random: &mut Random) {
    let page = map(4096, PROT_READ | PROT_WRITE, MAP_SHARED).cast::<AtomicU32>();
    // SAFETY: three words of a page that all share and nobody unmaps before the end.
    let (lock, counter) = unsafe { (&*page, &*page.add(16)) };
    let futex = |op: i32, value: u32| {
        // SAFETY: the word is mapped.
        unsafe { libc::syscall(libc::SYS_futex, lock, op, value, 0, 0, 0) };
    };
    let rounds = 50 + random.below(200) as u32;
    let count_up = || {
        for _ in 0..rounds {
            // 0 free, 1 taken, 2 taken with waiters.
            if lock.compare_exchange(0, 1, SeqCst, SeqCst).is_err() {
                while lock.swap(2, SeqCst) != 0 {
                    futex(libc::FUTEX_WAIT, 2);
                }
            }
            let now = counter.load(SeqCst);
            std::hint::spin_loop();
            counter.store(now + 1, SeqCst);
            if lock.swap(0, SeqCst) == 2 {
                futex(libc::FUTEX_WAKE, 1);
            }
        }
    };
    let children: Vec<_> = (0..3)
        .map(|_| {
            child(|| {
                count_up();
                0
            })
        })
        .collect();
    count_up();
    children.into_iter().for_each(wait_ok);
    check_eq!(counter.load(SeqCst), 4 * rounds);
    // SAFETY: our own mapping.
    ok(unsafe { libc::munmap(page.cast(), 4096) });
}

/// Signals to a child that spins and to one that sleeps; then the end of both.
fn signals_and_the_end(random: &mut Random) {
    let n = 1 + random.below(20);
    let spins = random.below(2) == 0;
    let page = map(4096, PROT_READ | PROT_WRITE, MAP_SHARED).cast::<AtomicU64>();
    // SAFETY: a page that both share and nobody unmaps before the end.
    let seen = unsafe { &*page };
    let pid = child(|| {
        loop {
            seen.store(1 + SIGNALS.load(SeqCst), SeqCst);
            if !spins {
                // SAFETY: a plain call.
                unsafe { libc::usleep(500) };
            }
        }
    });
    while seen.load(SeqCst) == 0 {
        thread::yield_now();
    }
    let before = seen.load(SeqCst);
    for i in 1..=n {
        // SAFETY: our own child.
        ok(unsafe { libc::kill(pid, libc::SIGUSR1) });
        while seen.load(SeqCst) < before + i {
            thread::yield_now();
        }
    }
    // SAFETY: as above.
    ok(unsafe { libc::kill(pid, libc::SIGKILL) });
    check_eq!(wait(pid), libc::SIGKILL);
    // SAFETY: our own mapping.
    ok(unsafe { libc::munmap(page.cast(), 4096) });
}

/// A process of many threads ends while they run, fault and sleep.
fn a_crowd_ends_at_once(random: &mut Random) {
    let code = random.below(100) as i32;
    let pid = child(|| {
        let pair = Arc::new((Mutex::new(()), Condvar::new()));
        let started = Arc::new(AtomicU32::new(0));
        for i in 0..6 {
            let (pair, started) = (pair.clone(), started.clone());
            thread::spawn(move || {
                started.fetch_add(1, SeqCst);
                match i % 3 {
                    0 => loop {
                        std::hint::spin_loop();
                    },
                    1 => loop {
                        let p = map(65536, PROT_READ | PROT_WRITE, MAP_PRIVATE);
                        // SAFETY: our own mapping.
                        unsafe {
                            p.write_bytes(1, 65536);
                            libc::munmap(p.cast(), 65536);
                        }
                    },
                    _ => {
                        let guard = pair.0.lock().unwrap();
                        drop(pair.1.wait(guard));
                    }
                }
            });
        }
        while started.load(SeqCst) < 6 {
            thread::yield_now();
        }
        code
    });
    check_eq!(wait(pid), code << 8);
}

fn worker(rounds: u64, seed: u64, cpus: &[usize]) -> i32 {
    let mut random = Random(seed);
    for _ in 0..rounds {
        match random.below(8) {
            0 => threads_come_and_go(&mut random),
            1 => bytes_go_round(&mut random),
            2 => a_lock_between_processes(&mut random),
            3 => signals_and_the_end(&mut random),
            4 => a_crowd_ends_at_once(&mut random),
            5 => {
                let cpu = cpus[random.below(cpus.len() as u64) as usize];
                check_eq!(bind(0, &[cpu]), 0);
                fork_and_change(&mut random);
                check_eq!(bind(0, cpus), 0);
            }
            _ => fork_and_change(&mut random),
        }
    }
    0
}

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse().expect("a number"));
    let rounds = args.next().unwrap_or(25);
    let seed = args.next().unwrap_or(1);
    handle(libc::SIGUSR1, libc::SA_RESTART, count);
    let cpus = allowed();
    let workers: Vec<_> = (0..cpus.len() as u64 + 1)
        .map(|i| child(|| worker(rounds, seed.wrapping_mul(1000).wrapping_add(i), &cpus)))
        .collect();
    workers.into_iter().for_each(wait_ok);
}

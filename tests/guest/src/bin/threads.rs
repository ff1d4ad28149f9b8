//! Threads, and what glibc builds on futexes: mutexes, condition variables, robust mutexes, mutexes with
//! priority inheritance, semaphores between processes.

use std::cell::UnsafeCell;
use std::mem::zeroed;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use belljar_guest_tests::{check, check_eq, child};

fn mutexes_keep_threads_apart() {
    let counter = Arc::new(Mutex::new(0));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let counter = counter.clone();
            thread::spawn(move || {
                for i in 0..20_000 {
                    let mut guard = counter.lock().unwrap();
                    *guard += 1;
                    if i % 1000 == 0 {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    check_eq!(*counter.lock().unwrap(), 160_000);
}

fn condition_variables_pass_a_turn_and_time_out() {
    let shared = Arc::new((Mutex::new(0), Condvar::new()));
    let players: Vec<_> = (0..2)
        .map(|me| {
            let shared = shared.clone();
            thread::spawn(move || {
                for _ in 0..1000 {
                    let mut turn =
                        shared.1.wait_while(shared.0.lock().unwrap(), |t| *t != me).unwrap();
                    *turn = 1 - me;
                    shared.1.notify_all();
                }
            })
        })
        .collect();
    players.into_iter().for_each(|t| t.join().unwrap());
    let guard = shared.0.lock().unwrap();
    let (_guard, result) = shared.1.wait_timeout(guard, Duration::from_millis(20)).unwrap();
    check!(result.timed_out());
}

/// A pthread mutex with attributes.
struct RawMutex(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: it is a lock.
unsafe impl Sync for RawMutex {}
// SAFETY: it is not moved once it is used: it lives in an `Arc`.
unsafe impl Send for RawMutex {}

impl RawMutex {
    fn new(robust: bool, inherit: bool) -> Arc<Self> {
        // SAFETY: all-zero attributes and mutexes are initialised before they are used.
        unsafe {
            let mutex = Arc::new(Self(UnsafeCell::new(zeroed())));
            let mut attributes = zeroed();
            libc::pthread_mutexattr_init(&mut attributes);
            if robust {
                let robust = libc::PTHREAD_MUTEX_ROBUST;
                check_eq!(libc::pthread_mutexattr_setrobust(&mut attributes, robust), 0);
            }
            if inherit {
                let protocol = libc::PTHREAD_PRIO_INHERIT;
                check_eq!(libc::pthread_mutexattr_setprotocol(&mut attributes, protocol), 0);
            }
            check_eq!(libc::pthread_mutex_init(mutex.0.get(), &attributes), 0);
            mutex
        }
    }

    fn lock(&self) -> i32 {
        // SAFETY: initialised.
        unsafe { libc::pthread_mutex_lock(self.0.get()) }
    }

    fn unlock(&self) -> i32 {
        // SAFETY: initialised.
        unsafe { libc::pthread_mutex_unlock(self.0.get()) }
    }
}

fn a_robust_mutex_survives_its_owner(inherit: bool) {
    let mutex = RawMutex::new(true, inherit);
    let theirs = mutex.clone();
    thread::spawn(move || check_eq!(theirs.lock(), 0)).join().unwrap();
    check_eq!(mutex.lock(), libc::EOWNERDEAD);
    // SAFETY: it is ours.
    check_eq!(unsafe { libc::pthread_mutex_consistent(mutex.0.get()) }, 0);
    check_eq!(mutex.unlock(), 0);
    check_eq!(mutex.lock(), 0);
    check_eq!(mutex.unlock(), 0);
}

fn a_mutex_with_inheritance_is_handed_over() {
    let mutex = RawMutex::new(false, true);
    let held = Arc::new(AtomicBool::new(false));
    let (theirs, flag) = (mutex.clone(), held.clone());
    let owner = thread::spawn(move || {
        check_eq!(theirs.lock(), 0);
        flag.store(true, SeqCst);
        thread::sleep(Duration::from_millis(30));
        flag.store(false, SeqCst);
        check_eq!(theirs.unlock(), 0);
    });
    while !held.load(SeqCst) {
        thread::yield_now();
    }
    check_eq!(mutex.lock(), 0);
    check!(!held.load(SeqCst));
    check_eq!(mutex.unlock(), 0);
    owner.join().unwrap();
    let inside = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (mutex, inside) = (mutex.clone(), inside.clone());
            thread::spawn(move || {
                for _ in 0..500 {
                    check_eq!(mutex.lock(), 0);
                    check_eq!(inside.fetch_add(1, SeqCst), 0);
                    thread::yield_now();
                    inside.fetch_sub(1, SeqCst);
                    check_eq!(mutex.unlock(), 0);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

fn semaphores_in_shared_memory_join_processes() {
    // SAFETY: one fresh page, shared with the child, used for two semaphores.
    unsafe {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let page = libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0);
        check!(page != libc::MAP_FAILED);
        let (a, b) = (page.cast::<libc::sem_t>(), page.cast::<libc::sem_t>().add(1));
        check_eq!(libc::sem_init(a, 1, 0), 0);
        check_eq!(libc::sem_init(b, 1, 0), 0);
        let child = child(|| {
            for _ in 0..1000 {
                check_eq!(libc::sem_wait(a), 0);
                check_eq!(libc::sem_post(b), 0);
            }
            0
        });
        for _ in 0..1000 {
            check_eq!(libc::sem_post(a), 0);
            check_eq!(libc::sem_wait(b), 0);
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        check_eq!(status, 0);
    }
}

fn many_threads_start_and_end() {
    for _ in 0..20 {
        let barrier = Arc::new(Barrier::new(16));
        let threads: Vec<_> = (0..16)
            .map(|_| {
                let barrier = barrier.clone();
                thread::spawn(move || {
                    barrier.wait();
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
    }
}

fn raw_futex_calls_return_linuxs_errors() {
    let word = AtomicU32::new(5);
    let futex = |op: i32, val: u32, timeout: *const libc::timespec, val3: u32| {
        // SAFETY: the word and the timeout outlive the call.
        let n = unsafe {
            libc::syscall(libc::SYS_futex, word.as_ptr(), op, val, timeout, 0, val3) as i32
        };
        if n < 0 { -belljar_guest_tests::errno() } else { n }
    };
    let none = std::ptr::null();
    let soon = belljar_guest_tests::timespec(0.005);
    let bad = libc::timespec { tv_sec: 0, tv_nsec: 2_000_000_000 };
    check_eq!(futex(libc::FUTEX_WAIT, 4, none, 0), -libc::EAGAIN);
    check_eq!(futex(libc::FUTEX_WAIT, 5, &soon, 0), -libc::ETIMEDOUT);
    check_eq!(futex(libc::FUTEX_WAIT, 5, &bad, 0), -libc::EINVAL);
    check_eq!(futex(libc::FUTEX_WAIT_BITSET, 5, none, 0), -libc::EINVAL);
    check_eq!(futex(libc::FUTEX_WAKE, 1, none, 0), 0);
    check_eq!(futex(99, 0, none, 0), -libc::ENOSYS);
    check_eq!(futex(libc::FUTEX_UNLOCK_PI, 0, none, 0), -libc::EPERM);
}

fn main() {
    mutexes_keep_threads_apart();
    condition_variables_pass_a_turn_and_time_out();
    a_robust_mutex_survives_its_owner(false);
    a_robust_mutex_survives_its_owner(true);
    a_mutex_with_inheritance_is_handed_over();
    semaphores_in_shared_memory_join_processes();
    many_threads_start_and_end();
    raw_futex_calls_return_linuxs_errors();
}

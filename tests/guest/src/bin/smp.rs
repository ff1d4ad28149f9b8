//! Several CPUs at work: all are shown alike and used, and what one does to memory or sends as a signal
//! reaches the others.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use belljar_guest_tests::cpus::{allowed, bind, current, listed};
use belljar_guest_tests::{check, check_eq, child, handle, map, ok, wait, wait_ok};
use libc::{MAP_PRIVATE, MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE};

fn every_file_shows_the_same_cpus(cpus: &[usize]) {
    check_eq!(listed("online"), cpus);
    check!(listed("present").starts_with(&[0]));
    check!(cpus.iter().all(|cpu| listed("present").contains(cpu)));
    check!(cpus.iter().all(|cpu| listed("possible").contains(cpu)));
    // SAFETY: a plain call.
    check_eq!(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }, cpus.len() as i64);
    let numbers = |file: &str, prefix: &str| -> Vec<usize> {
        let text = std::fs::read_to_string(file).unwrap();
        let rest = text.lines().filter_map(|line| line.strip_prefix(prefix));
        rest.filter_map(|rest| {
            let rest = rest.trim_start_matches([' ', '\t', ':']);
            rest.split_whitespace().next()?.parse().ok()
        })
        .collect()
    };
    check_eq!(numbers("/proc/cpuinfo", "processor"), cpus);
    let per_cpu = std::fs::read_to_string("/proc/stat").unwrap();
    let shown: Vec<usize> = per_cpu
        .lines()
        .filter_map(|line| line.strip_prefix("cpu")?.split(' ').next()?.parse().ok())
        .collect();
    check_eq!(shown, cpus);
}

/// Runs one busy thread for each CPU until all of them were seen on CPUs of their own at once.
fn busy_threads_use_all_cpus(cpus: &[usize]) {
    let places: Arc<Vec<AtomicUsize>> =
        Arc::new(cpus.iter().map(|_| AtomicUsize::new(usize::MAX)).collect());
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..cpus.len())
        .map(|me| {
            let (places, stop) = (places.clone(), stop.clone());
            thread::spawn(move || {
                while !stop.load(SeqCst) {
                    places[me].store(current(), SeqCst);
                    let mut used: Vec<_> = places.iter().map(|p| p.load(SeqCst)).collect();
                    used.sort_unstable();
                    used.dedup();
                    if used.len() == places.len() && used.last() != Some(&usize::MAX) {
                        stop.store(true, SeqCst);
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

/// The same with processes, which fork spreads.
fn busy_children_use_all_cpus(cpus: &[usize]) {
    let shared = map(4096, PROT_READ | PROT_WRITE, MAP_SHARED).cast::<AtomicUsize>();
    // SAFETY: a page of zeros, large enough, that all children share and nobody unmaps.
    let place = |i: usize| unsafe { &*shared.add(i) };
    let children: Vec<_> = (0..cpus.len())
        .map(|i| {
            child(|| {
                loop {
                    place(i).store(current() + 1, SeqCst);
                }
            })
        })
        .collect();
    loop {
        let mut used: Vec<_> = (0..cpus.len()).map(|i| place(i).load(SeqCst)).collect();
        used.sort_unstable();
        used.dedup();
        if used.len() == cpus.len() && used[0] != 0 {
            break;
        }
        thread::yield_now();
    }
    for pid in children {
        // SAFETY: our own child.
        ok(unsafe { libc::kill(pid, libc::SIGKILL) });
        check_eq!(wait(pid), libc::SIGKILL);
    }
}

/// One busy program more than there are CPUs: two of them have to share one, and it is not always the same
/// two.
fn nobody_shares_a_cpu_for_ever(cpus: &[usize]) {
    let shared = map(4096, PROT_READ | PROT_WRITE, MAP_SHARED).cast::<AtomicUsize>();
    // SAFETY: a page of zeros, large enough, that all children share and nobody unmaps.
    let place = |i: usize| unsafe { &*shared.add(i) };
    let busy = |i: usize| {
        let pid = child(|| {
            loop {
                place(i).store(current() + 1, SeqCst);
            }
        });
        check_eq!(bind(pid, &[cpus[i % cpus.len()]]), 0);
        pid
    };
    let children: Vec<_> = (0..=cpus.len()).map(busy).collect();
    while (0..children.len()).any(|i| place(i).load(SeqCst) != cpus[i % cpus.len()] + 1) {
        thread::sleep(Duration::from_millis(1));
    }
    // Not on the one that two have to share: three there would be too many.
    check_eq!(bind(0, &cpus[1..2]), 0);
    children.iter().for_each(|&pid| check_eq!(bind(pid, cpus), 0));
    let mut was_alone = vec![false; children.len()];
    while was_alone.contains(&false) {
        thread::sleep(Duration::from_millis(1));
        let places: Vec<_> = (0..children.len()).map(|i| place(i).load(SeqCst)).collect();
        for (i, seen) in was_alone.iter_mut().enumerate() {
            *seen |= places.iter().filter(|&&other| other == places[i]).count() == 1;
        }
    }
    check_eq!(bind(0, cpus), 0);
    for pid in children {
        // SAFETY: our own child.
        ok(unsafe { libc::kill(pid, libc::SIGKILL) });
        check_eq!(wait(pid), libc::SIGKILL);
    }
}

static HITS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_hit(_: i32, _: *mut libc::siginfo_t) {
    HITS.fetch_add(1, SeqCst);
}

/// A thread that never enters the kernel by itself still takes its signals.
fn signals_reach_a_thread_that_spins() {
    handle(libc::SIGUSR1, libc::SA_RESTART, count_hit);
    let stop = Arc::new(AtomicBool::new(false));
    let spinner = {
        let stop = stop.clone();
        thread::spawn(move || {
            while !stop.load(SeqCst) {
                spin_loop();
            }
        })
    };
    let target = std::os::unix::thread::JoinHandleExt::as_pthread_t(&spinner);
    for round in 1..=40 {
        // SAFETY: the thread runs until it is told to stop.
        check_eq!(unsafe { libc::pthread_kill(target, libc::SIGUSR1) }, 0);
        while HITS.load(SeqCst) < round {
            thread::yield_now();
        }
    }
    stop.store(true, SeqCst);
    spinner.join().unwrap();
}

static FAULTS: AtomicU64 = AtomicU64::new(0);
static CLOSED: AtomicBool = AtomicBool::new(false);
static PAGE: AtomicUsize = AtomicUsize::new(0);

/// Opens the page again for the thread that ran into it.
extern "C" fn reopen(_: i32, info: *mut libc::siginfo_t) {
    // SAFETY: the kernel's siginfo of a fault; the page is ours.
    unsafe {
        let page = PAGE.load(SeqCst);
        if (*info).si_addr() as usize & !4095 != page || !CLOSED.swap(false, SeqCst) {
            libc::_exit(9);
        }
        libc::mprotect(page as *mut libc::c_void, 4096, PROT_READ | PROT_WRITE);
        FAULTS.fetch_add(1, SeqCst);
    }
}

/// Once mprotect or munmap returned no other CPU gets at the page by what it remembers of it.
fn a_page_that_is_closed_is_closed_on_all_cpus() {
    handle(libc::SIGSEGV, 0, reopen);
    let page = map(4096, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    PAGE.store(page as usize, SeqCst);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let stop = stop.clone();
        thread::spawn(move || {
            // SAFETY: the page stays mapped until this thread ended.
            let cell = unsafe { &*(PAGE.load(SeqCst) as *const AtomicU64) };
            while !stop.load(SeqCst) {
                cell.fetch_add(1, SeqCst);
            }
        })
    };
    // SAFETY: as above.
    let cell = unsafe { &*page.cast::<AtomicU64>() };
    for round in 1..=60 {
        let before = cell.load(SeqCst);
        while cell.load(SeqCst) == before {
            spin_loop();
        }
        CLOSED.store(true, SeqCst);
        // SAFETY: our own page.
        ok(unsafe { libc::mprotect(page.cast(), 4096, PROT_NONE) });
        while FAULTS.load(SeqCst) < round {
            thread::yield_now();
        }
    }
    stop.store(true, SeqCst);
    writer.join().unwrap();
    // SAFETY: nobody uses it any more.
    ok(unsafe { libc::munmap(page.cast(), 4096) });
}

/// A child of fork has the memory of one moment, whatever other threads store meanwhile: none of their
/// stores goes to it later.
fn fork_copies_one_moment_of_running_threads() {
    const CELLS: usize = 64;
    let memory = map(CELLS * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE) as usize;
    // SAFETY: one cell in each page, mapped for as long as the program runs.
    let cell = move |i: usize| unsafe { &*((memory + i * 4096) as *const AtomicU64) };
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2)
        .map(|half| {
            let stop = stop.clone();
            thread::spawn(move || {
                let mut n = 0;
                while !stop.load(SeqCst) {
                    n += 1;
                    for i in (half..CELLS).step_by(2) {
                        cell(i).store(n, SeqCst);
                    }
                }
            })
        })
        .collect();
    for _ in 0..30 {
        let pid = child(|| {
            let look = || (0..CELLS).map(|i| cell(i).load(SeqCst)).collect::<Vec<_>>();
            let first = look();
            // Each writer goes through its cells in order, one step at a time.
            for half in 0..2 {
                let own: Vec<_> = first.iter().copied().skip(half).step_by(2).collect();
                check!(own.windows(2).all(|w| w[0] == w[1] || w[0] == w[1] + 1), "{own:?}");
                check!(own[0] - own[own.len() - 1] <= 1, "{own:?}");
            }
            for _ in 0..200 {
                check_eq!(look(), first);
            }
            0
        });
        wait_ok(pid);
    }
    stop.store(true, SeqCst);
    writers.into_iter().for_each(|t| t.join().unwrap());
}

/// Pages that are given back and come again as zeros are never seen with what another CPU remembers.
fn pages_given_back_come_again_as_zeros() {
    const PAGES: usize = 16;
    let memory = map(PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE) as usize;
    let stop = Arc::new(AtomicBool::new(false));
    // Frames change hands all the time.
    let others: Vec<_> = (0..2)
        .map(|_| {
            let stop = stop.clone();
            thread::spawn(move || {
                while !stop.load(SeqCst) {
                    let own = map(PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE);
                    for i in 0..PAGES {
                        // SAFETY: in the fresh mapping.
                        unsafe {
                            check_eq!(*own.add(i * 4096), 0);
                            *own.add(i * 4096) = 0xee;
                        }
                    }
                    // SAFETY: our own mapping.
                    ok(unsafe { libc::munmap(own.cast(), PAGES * 4096) });
                }
            })
        })
        .collect();
    let reader = {
        let stop = stop.clone();
        thread::spawn(move || {
            while !stop.load(SeqCst) {
                for i in 0..PAGES {
                    // SAFETY: mapped for as long as the program runs.
                    let cell = unsafe { &*((memory + i * 4096) as *const AtomicU64) };
                    let value = cell.load(SeqCst);
                    check!(value == 0 || value == 0x5a5a_5a5a, "{value:#x} on page {i}");
                }
            }
        })
    };
    for _ in 0..80 {
        for i in 0..PAGES {
            // SAFETY: as above.
            unsafe { &*((memory + i * 4096) as *const AtomicU64) }.store(0x5a5a_5a5a, SeqCst);
        }
        // SAFETY: our own mapping.
        ok(unsafe {
            libc::madvise(memory as *mut libc::c_void, PAGES * 4096, libc::MADV_DONTNEED)
        });
    }
    stop.store(true, SeqCst);
    reader.join().unwrap();
    others.into_iter().for_each(|t| t.join().unwrap());
}

fn main() {
    let cpus = allowed();
    every_file_shows_the_same_cpus(&cpus);
    busy_threads_use_all_cpus(&cpus);
    busy_children_use_all_cpus(&cpus);
    if cpus.len() > 1 {
        nobody_shares_a_cpu_for_ever(&cpus);
    }
    signals_reach_a_thread_that_spins();
    a_page_that_is_closed_is_closed_on_all_cpus();
    fork_copies_one_moment_of_running_threads();
    pages_given_back_come_again_as_zeros();
}

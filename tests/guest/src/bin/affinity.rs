//! sched_setaffinity(2): the caller, its children and threads of others run where they are told to, from
//! when the call returns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;

use belljar_guest_tests::cpus::{allowed, bind, current, listed, parse_list};
use belljar_guest_tests::{check, check_eq, err, in_child};

fn gettid() -> i32 {
    // SAFETY: a plain call.
    unsafe { libc::gettid() }
}

fn the_caller_moves_at_once(cpus: &[usize]) {
    for round in 0..50 {
        let cpu = cpus[round % cpus.len()];
        check_eq!(bind(0, &[cpu]), 0);
        check_eq!(current(), cpu);
        check_eq!(allowed(), [cpu]);
    }
    check_eq!(bind(0, cpus), 0);
}

/// A thread that runs all the time and notes where.
struct Runner {
    tid: AtomicUsize,
    cpu: AtomicUsize,
    looks: AtomicU64,
    stop: AtomicBool,
}

fn a_running_thread_is_moved_before_the_call_returns(cpus: &[usize]) {
    let runner = Arc::new(Runner {
        tid: AtomicUsize::new(0),
        cpu: AtomicUsize::new(usize::MAX),
        looks: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let thread = {
        let runner = runner.clone();
        thread::spawn(move || {
            runner.tid.store(gettid() as usize, SeqCst);
            while !runner.stop.load(SeqCst) {
                runner.cpu.store(current(), SeqCst);
                runner.looks.fetch_add(1, SeqCst);
            }
        })
    };
    while runner.looks.load(SeqCst) == 0 {
        thread::yield_now();
    }
    let tid = runner.tid.load(SeqCst) as i32;
    for round in 0..100 {
        let cpu = cpus[(round * 7 + 1) % cpus.len()];
        check_eq!(bind(tid, &[cpu]), 0);
        // Two looks later whatever it had read before is gone.
        let seen = runner.looks.load(SeqCst);
        while runner.looks.load(SeqCst) < seen + 2 {
            thread::yield_now();
        }
        check_eq!(runner.cpu.load(SeqCst), cpu);
    }
    runner.stop.store(true, SeqCst);
    thread.join().unwrap();
}

fn a_sleeper_wakes_where_it_may_run(cpus: &[usize]) {
    let (mut here, there) = std::io::pipe().unwrap();
    let tid = Arc::new(AtomicUsize::new(0));
    let told = Arc::new(AtomicUsize::new(0));
    let thread = {
        let (tid, told) = (tid.clone(), told.clone());
        thread::spawn(move || {
            tid.store(gettid() as usize, SeqCst);
            let mut places = Vec::new();
            let mut byte = [0];
            while std::io::Read::read(&mut here, &mut byte).unwrap() == 1 {
                places.push((current(), usize::from(byte[0])));
                told.store(places.len(), SeqCst);
            }
            places
        })
    };
    while tid.load(SeqCst) == 0 {
        thread::yield_now();
    }
    let mut there = there;
    for round in 0..60 {
        let cpu = cpus[round % cpus.len()];
        check_eq!(bind(tid.load(SeqCst) as i32, &[cpu]), 0);
        std::io::Write::write_all(&mut there, &[cpu as u8]).unwrap();
        // The next bind must not be early, and shall find a sleeper. That it seems to sleep does not say
        // that it has looked: it is about to while it looks whether the pipe is empty.
        while told.load(SeqCst) <= round || !sleeps(tid.load(SeqCst)) {
            thread::yield_now();
        }
    }
    drop(there);
    for (was, told) in thread.join().unwrap() {
        check_eq!(was, told);
    }
}

fn sleeps(tid: usize) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().starts_with('S')
}

fn it_is_inherited_and_shown(cpus: &[usize]) {
    let last = *cpus.last().unwrap();
    check_eq!(bind(0, &[last]), 0);
    let same = move || allowed() == [last] && current() == last;
    check_eq!(in_child(|| i32::from(!same())), 0);
    check!(thread::spawn(same).join().unwrap());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap();
    check_eq!(parse_list(list), [last]);
    let mask = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed:")).unwrap();
    let mask = u64::from_str_radix(&mask.trim().replace(',', ""), 16).unwrap();
    check_eq!(mask, 1 << last);
    check_eq!(bind(0, cpus), 0);
}

fn cpus_that_are_not_there_are_refused_or_ignored(cpus: &[usize]) {
    check_eq!(bind(0, &[]), libc::EINVAL);
    let beyond = listed("possible").last().unwrap() + 1;
    check_eq!(bind(0, &[beyond]), libc::EINVAL);
    check_eq!(bind(0, &[cpus[0], beyond]), 0);
    check_eq!(allowed(), [cpus[0]]);
    check_eq!(bind(0, cpus), 0);
    check_eq!(bind(999_999, &[cpus[0]]), libc::ESRCH);
    // A negative number is nobody's, which here is no invalid argument.
    check_eq!(bind(-1, &[cpus[0]]), libc::ESRCH);
    // SAFETY: memory of that size.
    let got = unsafe { libc::sched_getaffinity(-1, 128, [0_u64; 16].as_mut_ptr().cast()) };
    check_eq!(err(got), libc::ESRCH);
}

fn main() {
    let cpus = allowed();
    the_caller_moves_at_once(&cpus);
    a_running_thread_is_moved_before_the_call_returns(&cpus);
    a_sleeper_wakes_where_it_may_run(&cpus);
    it_is_inherited_and_shown(&cpus);
    cpus_that_are_not_there_are_refused_or_ignored(&cpus);
}

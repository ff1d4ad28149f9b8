//! CPUs that are taken out and brought back (/sys/devices/system/cpu/cpuN/online) while programs run: none
//! is lost, none runs where no CPU is, timers ring, and those bound to the CPU go back.

use std::fs::write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use belljar_guest_tests::cpus::{allowed, bind, current, listed};
use belljar_guest_tests::{check, check_eq};

fn set_online(cpu: usize, online: bool) {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/online");
    // Of what is written only the beginning counts.
    let text = match (online, cpu.is_multiple_of(2)) {
        (true, true) => "1",
        (true, false) => "on",
        (false, true) => "0\n\0",
        (false, false) => "no",
    };
    if let Err(error) = write(&path, text) {
        belljar_guest_tests::fail(&format!("{path}: {error}"));
    }
}

struct Load {
    stop: AtomicBool,
    spins: Vec<AtomicU64>,
    naps: Vec<AtomicU64>,
    words: AtomicU64,
}

/// Threads that spin, sleep and pass words through a pipe all the while.
fn start_load(cpus: usize) -> (Arc<Load>, Vec<thread::JoinHandle<()>>) {
    let counters = || (0..cpus).map(|_| AtomicU64::new(0)).collect();
    let load = Arc::new(Load {
        stop: AtomicBool::new(false),
        spins: counters(),
        naps: counters(),
        words: AtomicU64::new(0),
    });
    let mut threads = Vec::new();
    for i in 0..cpus {
        let spinner = load.clone();
        threads.push(thread::spawn(move || {
            while !spinner.stop.load(SeqCst) {
                spinner.spins[i].fetch_add(1, SeqCst);
            }
        }));
        let sleeper = load.clone();
        threads.push(thread::spawn(move || {
            while !sleeper.stop.load(SeqCst) {
                // Long enough that the sleepers alone do not fill a slow CPU.
                thread::sleep(Duration::from_millis(10));
                sleeper.naps[i].fetch_add(1, SeqCst);
            }
        }));
    }
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let sender = load.clone();
    threads.push(thread::spawn(move || {
        while !sender.stop.load(SeqCst) {
            std::io::Write::write_all(&mut writer, &[7]).unwrap();
        }
    }));
    let receiver = load.clone();
    threads.push(thread::spawn(move || {
        let mut byte = [0];
        while std::io::Read::read(&mut reader, &mut byte).unwrap() == 1 {
            receiver.words.fetch_add(1, SeqCst);
        }
    }));
    (load, threads)
}

/// Waits until every thread of the load did something more.
fn all_go_on(load: &Load) {
    let counters = || load.spins.iter().chain(&load.naps).chain([&load.words]);
    let before: Vec<_> = counters().map(|c| c.load(SeqCst)).collect();
    while counters().zip(&before).any(|(c, before)| c.load(SeqCst) == *before) {
        thread::sleep(Duration::from_millis(10));
    }
}

fn main() {
    let cpus = allowed();
    let others = &cpus[1..];
    if others.is_empty() {
        return;
    }
    let (load, threads) = start_load(cpus.len());
    // One that wants to be on the last CPU alone.
    let last = *cpus.last().unwrap();
    let place = Arc::new(AtomicUsize::new(usize::MAX));
    let bound = {
        let (load, place) = (load.clone(), place.clone());
        thread::spawn(move || {
            check_eq!(bind(0, &[last]), 0);
            while !load.stop.load(SeqCst) {
                place.store(current(), SeqCst);
            }
        })
    };
    while place.load(SeqCst) != last {
        thread::yield_now();
    }
    for round in 0..2 {
        for &cpu in others {
            set_online(cpu, false);
            check!(!listed("online").contains(&cpu));
            check!(listed("offline").contains(&cpu));
            all_go_on(&load);
        }
        check_eq!(listed("online"), [cpus[0]]);
        check_eq!(current(), cpus[0]);
        while place.load(SeqCst) != cpus[0] {
            thread::yield_now();
        }
        for &cpu in others.iter().rev() {
            set_online(cpu, true);
            all_go_on(&load);
        }
        check_eq!(listed("online"), cpus);
        check_eq!((round, allowed()), (round, cpus.clone()));
    }
    load.stop.store(true, SeqCst);
    threads.into_iter().chain([bound]).for_each(|t| t.join().unwrap());
}

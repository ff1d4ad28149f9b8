//! Which CPUs there are, for programs that adapt to their number.

use std::mem::zeroed;

use crate::check_eq;

/// The CPUs that the calling thread may run on, in order.
pub fn allowed() -> Vec<usize> {
    // SAFETY: a valid set.
    unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        check_eq!(libc::sched_getaffinity(0, size_of_val(&set), &mut set), 0);
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &set)).collect()
    }
}

/// Binds a thread (0: the caller) to CPUs; the error number, or 0.
pub fn bind(tid: i32, cpus: &[usize]) -> i32 {
    // SAFETY: a valid set.
    unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        cpus.iter().for_each(|&cpu| libc::CPU_SET(cpu, &mut set));
        if libc::sched_setaffinity(tid, size_of_val(&set), &set) == 0 { 0 } else { crate::errno() }
    }
}

/// The CPU that the caller runs on.
pub fn current() -> usize {
    // SAFETY: a plain call.
    let cpu = unsafe { libc::sched_getcpu() };
    usize::try_from(cpu).unwrap_or_else(|_| crate::fail("sched_getcpu failed"))
}

/// A list such as `0-2,5`.
pub fn parse_list(text: &str) -> Vec<usize> {
    let number = |text: &str| {
        text.parse::<usize>().unwrap_or_else(|_| crate::fail(&format!("no number: {text:?}")))
    };
    let parts = text.trim().split(',').filter(|part| !part.is_empty());
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => number(first)..=number(last),
        None => number(part)..=number(part),
    };
    parts.flat_map(range).collect()
}

/// The CPUs that a file of /sys/devices/system/cpu lists.
pub fn listed(file: &str) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/{file}");
    match std::fs::read_to_string(&path) {
        Ok(text) => parse_list(&text),
        Err(error) => crate::fail(&format!("{path}: {error}")),
    }
}

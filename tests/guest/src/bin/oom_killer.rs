//! When all memory is taken, the process goes whose end frees the most (proc(5): oom_score_adj), and everybody else goes
//! on: not one that is exempt, and rather one that asked for it.
//!
//! PROCESS_MODEL.md, Tasks: what happens under pressure; Creating, running, ending: fatal signals.

use std::fs;

use belljar_guest_tests::{check, check_eq, child, map, ok, wait};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

fn set_adj(adj: i32) {
    fs::write("/proc/self/oom_score_adj", adj.to_string()).unwrap();
}

/// Fills memory page by page.
fn touch(memory: *mut u8, len: usize) {
    for at in (0..len).step_by(PAGE) {
        // SAFETY: inside of the mapping.
        unsafe { memory.add(at).write_volatile(1) };
    }
}

fn take(len: usize) -> *mut u8 {
    let memory =
        map(len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_NORESERVE);
    touch(memory, len);
    memory
}

/// A process that holds memory and sits.
fn holder(len: usize, adj: i32) -> i32 {
    let mut ready = [0; 2];
    // SAFETY: room for two descriptors.
    unsafe { ok(libc::pipe(ready.as_mut_ptr())) };
    let pid = child(|| {
        set_adj(adj);
        let memory = take(len);
        // SAFETY: valid bytes.
        unsafe {
            check_eq!(libc::write(ready[1], memory.cast(), 1), 1);
            loop {
                libc::pause();
            }
        }
    });
    let mut byte = 0_u8;
    // SAFETY: a valid byte; both ends are this process's.
    unsafe {
        check_eq!(libc::read(ready[0], (&raw mut byte).cast(), 1), 1);
        ready.into_iter().for_each(|end| check_eq!(libc::close(end), 0));
    }
    pid
}

/// A process that takes all that it gets.
fn hog(adj: i32) -> i32 {
    child(|| {
        set_adj(adj);
        let total: usize = {
            let text = fs::read_to_string("/proc/meminfo").unwrap();
            let kib = text.split_whitespace().nth(1).unwrap();
            kib.parse::<usize>().unwrap() << 10
        };
        take(2 * total);
        0
    })
}

fn alive(pid: i32) -> bool {
    let mut status = 0;
    // SAFETY: a valid status.
    ok(unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) }) == 0
}

fn end(pid: i32) {
    // SAFETY: plain call.
    ok(unsafe { libc::kill(pid, libc::SIGKILL) });
    check_eq!(wait(pid), libc::SIGKILL);
}

fn main() {
    // Whatever happens, not this one.
    set_adj(-1000);
    let small = holder(8 * MIB, 0);
    let exempt = holder(24 * MIB, -1000);

    // The one that takes all is the largest.
    check_eq!(wait(hog(0)), libc::SIGKILL);
    check!(alive(small) && alive(exempt));

    // One that asked to go first goes first; then memory is short again.
    let volunteer = holder(8 * MIB, 1000);
    let greedy = hog(0);
    check_eq!(wait(volunteer), libc::SIGKILL);
    check_eq!(wait(greedy), libc::SIGKILL);
    check!(alive(small) && alive(exempt));

    // The machine goes on, and has its memory back.
    end(holder(32 * MIB, 0));
    end(small);
    end(exempt);
    take(8 * MIB);
}

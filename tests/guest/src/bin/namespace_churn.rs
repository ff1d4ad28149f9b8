//! Namespaces of every kind made and let go of, again and again: nothing of them may stay. An argument
//! sets how many of each kind; with more than [`AT_ONCE`] a child makes so many one after the other,
//! where a process can, so that 100,000 take a minute or two.
//!
//! PROCESS_MODEL.md, Namespaces: a namespace lives while something holds it and is freed after.

use belljar_guest_tests::*;

const KINDS: [(&str, i32); 9] = [
    ("none", 0),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("ipc", libc::CLONE_NEWIPC),
    ("mnt", libc::CLONE_NEWNS),
    ("net", libc::CLONE_NEWNET),
    ("pid", libc::CLONE_NEWPID),
    ("time", 0x80),
    ("user", libc::CLONE_NEWUSER),
    ("uts", libc::CLONE_NEWUTS),
];

/// Objects of the kernel's heap that are in use. Linux counts those that its CPUs keep at hand too.
fn objects() -> i64 {
    let text = std::fs::read_to_string("/proc/slabinfo").unwrap();
    let in_use = text.lines().skip(2).map(|line| line.split_whitespace().nth(1).unwrap());
    in_use.map(|count| count.parse::<i64>().unwrap()).sum()
}

/// Namespaces that one child makes, each in place of the one before, when there are many to make.
const AT_ONCE: usize = 1000;

/// Children that make [`AT_ONCE`] namespaces each.
fn churn_at_once(kind: &str, flag: i32, times: usize) {
    let fork_each = flag == 0 || matches!(kind, "pid" | "user");
    if times < AT_ONCE || fork_each {
        return churn(kind, flag, times);
    }
    for _ in 0..times / AT_ONCE {
        wait_ok(child(|| {
            for _ in 0..AT_ONCE {
                // SAFETY: plain call.
                ok(unsafe { libc::unshare(flag) });
            }
            0
        }));
    }
}

/// Children that each make one namespace, put something into it where that is possible, and end.
fn churn(kind: &str, flag: i32, times: usize) {
    for _ in 0..times {
        let pid = child(|| {
            // SAFETY: plain calls with valid strings.
            unsafe {
                if flag != 0 {
                    ok(libc::unshare(flag));
                }
                match kind {
                    "pid" => wait_ok(child(|| 0)),
                    "ipc" => {
                        use belljar_guest_tests::sysv;
                        let shm = ok(sysv::shmget(sysv::PRIVATE, 1 << 16, 0o600));
                        let at = ok(sysv::shmat(shm, 0, 0));
                        (at as *mut u8).write_volatile(1);
                        ok(sysv::shmget(1, 1 << 16, sysv::CREAT | 0o600));
                        let sem = ok(sysv::semget(sysv::PRIVATE, 64, 0o600));
                        ok(sysv::semop(sem, &[sysv::op(0, 1, 0x1000)]));
                        let msg = ok(sysv::msgget(sysv::PRIVATE, 0o600));
                        ok(sysv::msgsnd(msg, 1, &[7; 4096], 0));
                        let flags = libc::O_CREAT | libc::O_RDWR;
                        let (name, none) = (c"q".as_ptr(), 0_usize);
                        // A small one: Linux gives the user's share back later, behind our back.
                        let size = [0_i64, 1, 16, 0, 0, 0, 0, 0];
                        let queue = ok(libc::syscall(libc::SYS_mq_open, name, flags, 0o600, &size));
                        ok(libc::syscall(libc::SYS_mq_timedsend, queue, name, 1, 0, none));
                    }
                    "mnt" => {
                        let none = std::ptr::null();
                        let private = libc::MS_REC | libc::MS_PRIVATE;
                        ok(libc::mount(none, c"/".as_ptr(), none, private, none.cast()));
                        let (to, kind) = (c"/tmp".as_ptr(), c"tmpfs".as_ptr());
                        ok(libc::mount(none, to, kind, 0, none.cast()));
                    }
                    _ => {}
                }
            }
            0
        });
        wait_ok(pid);
    }
}

fn main() {
    let times = std::env::args().nth(1).map_or(150, |n| n.parse().unwrap());
    for (kind, flag) in KINDS {
        // What is kept for the next one is not lost.
        churn(kind, flag, times.min(50));
        let before = (free_kib(), objects());
        churn_at_once(kind, flag, times);
        // A leak grows with the number, what other parts of a kernel keep does not. What is kept of so few may be as
        // much as is lost.
        let count_objects = times >= AT_ONCE;
        let (mut lost, mut more) = (i64::MAX, i64::MAX);
        // Some of it may be cleaned up behind our back.
        for _ in 0..200 {
            (lost, more) = (before.0 - free_kib(), objects() - before.1);
            if lost < 4 << 10 && (!count_objects || more < times as i64 / 2) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        println!("{kind}: {times} made, {lost} KiB less free, {more} objects more");
        check!(lost < 4 << 10, "{kind}: {lost} KiB are gone");
        check!(!count_objects || more < times as i64 / 2, "{kind}: {more} objects are still there");
    }
}

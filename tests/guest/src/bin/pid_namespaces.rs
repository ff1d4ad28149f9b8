//! Pid namespaces (pid_namespaces(7)): numbers at three levels chosen by clone3, what each level sees,
//! the reaper's protection and its death, kill(-1), unshare for children, depth, ns_last_pid, /proc of
//! a namespace, orphans.
//!
//! PROCESS_MODEL.md, Namespaces: pid (ids, 32 levels, child_reaper). Identity: pid, tgid, pgid, sid (a number
//! per level).

use belljar_guest_tests::*;
use std::fs;

const NEWPID: i32 = libc::CLONE_NEWPID;

fn raw_clone(flags: i32) -> i32 {
    // SAFETY: the child goes on with a copy of the stack.
    ok(unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) }) as i32
}

fn cloned(flags: i32, f: impl FnOnce() -> i32) -> i32 {
    let pid = raw_clone(flags);
    if pid == 0 {
        let code = f();
        // SAFETY: ends the child.
        unsafe { libc::_exit(code) };
    }
    pid
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn clone3(flags: i32, tids: &[i32]) -> i64 {
    let args = CloneArgs {
        flags: flags as u64,
        exit_signal: libc::SIGCHLD as u64,
        set_tid: if tids.is_empty() { 0 } else { tids.as_ptr() as u64 },
        set_tid_size: tids.len() as u64,
        ..CloneArgs::default()
    };
    // SAFETY: the child goes on with a copy of the stack.
    unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) }
}

fn getpid() -> i32 {
    // SAFETY: no arguments.
    unsafe { libc::getpid() }
}

fn status_line(pid: &str, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|l| l.starts_with(key)).unwrap_or_default();
    line.split_once(':').unwrap().1.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Gate([i32; 2]);

impl Gate {
    fn new() -> Self {
        let mut ends = [0; 2];
        // SAFETY: two slots.
        ok(unsafe { libc::pipe(ends.as_mut_ptr()) });
        Self(ends)
    }

    fn open(&self) {
        // SAFETY: one byte.
        check_eq!(unsafe { libc::write(self.0[1], c"x".as_ptr().cast(), 1) }, 1);
    }

    fn wait(&self) {
        let mut byte = 0_u8;
        // SAFETY: one byte.
        check_eq!(unsafe { libc::read(self.0[0], (&raw mut byte).cast(), 1) }, 1);
    }
}

/// The worked example: one task, three numbers, 10, 20 and 30 from the inside out.
fn three_levels() {
    let (ready, done) = (Gate::new(), Gate::new());
    let middle = cloned(NEWPID, || {
        check_eq!(getpid(), 1);
        // SAFETY: no arguments.
        check_eq!(unsafe { libc::getppid() }, 0);
        wait_ok(cloned(NEWPID, || {
            check_eq!(getpid(), 1);
            let pid = ok(clone3(0, &[10, 20, 30_000])) as i32;
            if pid == 0 {
                check_eq!(getpid(), 10);
                ready.open();
                done.wait();
                // SAFETY: ends the child.
                unsafe { libc::_exit(0) };
            }
            check_eq!(pid, 10);
            // A number that is taken, one too many, and none at all.
            check_eq!(err(clone3(0, &[10])), libc::EEXIST);
            check_eq!(err(clone3(0, &[11, 21, 31_000, 4])), libc::EINVAL);
            check_eq!(err(clone3(0, &[0])), libc::EINVAL);
            wait_ok(pid);
            0
        }));
        0
    });
    ready.wait();
    check_eq!(status_line("30000", "NSpid"), "30000 20 10");
    check_eq!(status_line("30000", "NStgid"), "30000 20 10");
    check_eq!(status_line("30000", "Pid"), "30000");
    let ns = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    check!(ns("30000") != ns("self"));
    check!(ns(&middle.to_string()) != ns("30000"));
    done.open();
    wait_ok(middle);
}

/// Inside, nothing kills the reaper; from outside, SIGKILL does, and with it everybody.
fn the_reaper_lives_and_dies() {
    extern "C" fn note(_: i32, _: *mut libc::siginfo_t) {}
    let (ready, hold) = (Gate::new(), Gate::new());
    let reaper = cloned(NEWPID, || {
        // SAFETY: plain calls.
        unsafe {
            // Not by itself, not by its child: default actions do not reach it.
            for sig in [libc::SIGKILL, libc::SIGTERM, libc::SIGSTOP, libc::SIGINT] {
                ok(libc::kill(1, sig));
            }
            wait_ok(child(|| {
                check_eq!(getpid(), 2);
                for sig in [libc::SIGKILL, libc::SIGTERM, libc::SIGSTOP, libc::SIGUSR1] {
                    ok(libc::kill(1, sig));
                }
                0
            }));
            // What it handles does reach it.
            handle(libc::SIGUSR2, libc::SA_RESTART, note);
            wait_ok(child(|| libc::kill(1, libc::SIGUSR2)));
            for _ in 0..3 {
                child(|| {
                    libc::setsid();
                    loop {
                        libc::pause();
                    }
                });
            }
            ready.open();
            hold.wait();
            99
        }
    });
    ready.wait();
    // From outside, a signal without a handler that is not SIGKILL is dropped all the same.
    // SAFETY: plain calls.
    unsafe {
        ok(libc::kill(reaper, libc::SIGTERM));
        check_eq!(libc::waitpid(reaper, std::ptr::null_mut(), libc::WNOHANG), 0);
        let inside: Vec<String> = members_of(reaper);
        check_eq!(inside.len(), 4);
        ok(libc::kill(reaper, libc::SIGKILL));
        check_eq!(wait(reaper), libc::SIGKILL);
        for pid in inside {
            check_eq!(err(libc::kill(pid.parse().unwrap(), 0)), libc::ESRCH);
        }
    }
}

/// Processes that are in the pid namespace of `pid`.
fn members_of(pid: i32) -> Vec<String> {
    let ns = fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| e.unwrap().file_name().into_string().ok())
        .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
        .filter(|n| fs::read_link(format!("/proc/{n}/ns/pid")).is_ok_and(|link| link == ns))
        .collect()
}

/// kill(-1) reaches the namespace and not its reaper, nor anybody outside.
fn kill_everybody() {
    let outside = child(|| {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() }
    });
    wait_ok(cloned(NEWPID, || {
        // SAFETY: plain calls.
        unsafe {
            let a = child(|| libc::pause());
            let b = child(|| libc::pause());
            check_eq!(err(libc::kill(outside, 0)), libc::ESRCH);
            wait_ok(child(|| libc::kill(-1, libc::SIGTERM)));
            check_eq!(wait(a), libc::SIGTERM);
            check_eq!(wait(b), libc::SIGTERM);
            0
        }
    }));
    // SAFETY: plain calls.
    unsafe {
        check_eq!(libc::waitpid(outside, std::ptr::null_mut(), libc::WNOHANG), 0);
        ok(libc::kill(outside, libc::SIGKILL));
    }
    wait(outside);
}

/// unshare makes a namespace for children; the first becomes its reaper, and when that is gone there are
/// no more.
fn for_children() {
    wait_ok(child(|| {
        // SAFETY: plain calls.
        unsafe {
            let before = getpid();
            let link = |name: &str| fs::read_link(format!("/proc/self/ns/{name}"));
            ok(libc::unshare(NEWPID));
            check_eq!(getpid(), before);
            // There is a namespace, but nobody has been in it.
            check_eq!(
                link("pid_for_children").map_err(|e| e.raw_os_error()),
                Err(Some(libc::ENOENT))
            );
            // A thread cannot live elsewhere than its process, nor can another level be prepared.
            check_eq!(err(libc::unshare(NEWPID)), libc::EINVAL);
            let hold = Gate::new();
            let first = child(|| {
                check_eq!(getpid(), 1);
                hold.wait();
                0
            });
            check!(link("pid").unwrap() != link("pid_for_children").unwrap());
            wait_ok(child(|| if getpid() == 2 { 0 } else { 1 }));
            hold.open();
            wait_ok(first);
            check_eq!(err(libc::fork()), libc::ENOMEM);
            0
        }
    }));
}

/// An orphan inside goes to the namespace's reaper.
fn orphans() {
    wait_ok(cloned(NEWPID, || {
        let gate = Gate::new();
        // SAFETY: plain calls.
        unsafe {
            wait_ok(child(|| {
                child(|| {
                    gate.wait();
                    if libc::getppid() == 1 { 7 } else { 1 }
                });
                0
            }));
            gate.open();
            let mut status = 0;
            check_eq!(ok(libc::wait(&raw mut status)), 3);
            check_eq!(status, 7 << 8);
        }
        0
    }));
}

/// A proc mounted inside shows what is inside, by its numbers there.
fn proc_inside() {
    wait_ok(cloned(NEWPID | libc::CLONE_NEWNS, || {
        // SAFETY: valid strings.
        unsafe {
            let none = std::ptr::null();
            ok(libc::mount(
                none,
                c"/".as_ptr(),
                none,
                libc::MS_REC | libc::MS_PRIVATE,
                none.cast(),
            ));
            ok(libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), 0, none.cast()));
        }
        check_eq!(fs::read_link("/proc/self").unwrap().into_os_string(), *"1");
        check_eq!(status_line("self", "NSpid"), "1");
        let gate = Gate::new();
        let pid = child(|| {
            gate.wait();
            0
        });
        let mut seen: Vec<i32> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|e| e.unwrap().file_name().into_string().unwrap().parse().ok())
            .collect();
        seen.sort_unstable();
        check_eq!(seen, [1, pid]);
        gate.open();
        wait_ok(pid);
        0
    }));
}

/// Numbers go on from where ns_last_pid says.
fn last_pid() {
    wait_ok(cloned(NEWPID, || {
        fs::write("/proc/sys/kernel/ns_last_pid", "700").unwrap();
        let pid = child(|| 0);
        check_eq!(pid, 701);
        wait_ok(pid);
        check_eq!(fs::read_to_string("/proc/sys/kernel/ns_last_pid").unwrap(), "701\n");
        0
    }));
}

/// 32 levels below the initial one, and no more.
fn depth(level: u32) -> i32 {
    if level == 32 {
        // SAFETY: plain call.
        check_eq!(err(unsafe { libc::unshare(NEWPID) }), libc::ENOSPC);
        return 0;
    }
    wait_ok(cloned(NEWPID, || depth(level + 1)));
    0
}

/// reboot(2) inside ends the namespace, and its parent learns how.
fn reboot() {
    const RESTART: i32 = 0x0123_4567;
    const POWER_OFF: i32 = 0x4321_fedc;
    for (command, signal) in [(RESTART, libc::SIGHUP), (POWER_OFF, libc::SIGINT)] {
        let pid = cloned(NEWPID, || {
            // SAFETY: ends this namespace.
            unsafe { libc::reboot(command) }
        });
        check_eq!(wait(pid), signal);
    }
}

fn main() {
    three_levels();
    the_reaper_lives_and_dies();
    kill_everybody();
    for_children();
    orphans();
    proc_inside();
    last_pid();
    depth(0);
    reboot();
}

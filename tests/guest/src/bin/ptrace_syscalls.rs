//! ptrace: stops at system calls, calls that are changed and left out, events, tracees that come by themselves, and
//! PTRACE_SEIZE with what it has alone.
//!
//! PROCESS_MODEL.md, Signals and tracing: ptrace SEIZE, SYSCALL, SETOPTIONS events, LISTEN, INTERRUPT.

use belljar_guest_tests::tracing::*;
use belljar_guest_tests::*;

/// A stop at a system call under PTRACE_O_TRACESYSGOOD.
const SYSCALL: i32 = libc::SIGTRAP | 0x80;

fn event(event: i32) -> i32 {
    libc::SIGTRAP | event << 8
}

fn number(pid: i32) -> i32 {
    let mut number = 0_i32;
    check_eq!(get_regset(pid, NT_ARM_SYSTEM_CALL, &mut number), Ok(4));
    number
}

fn set_number(pid: i32, number: i32) {
    check_eq!(set_regset(pid, NT_ARM_SYSTEM_CALL, &number), Ok(0));
}

/// `struct ptrace_syscall_info`: op, architecture, pc, sp, and what the op says.
fn syscall_info(pid: i32) -> (i64, [u64; 11]) {
    let mut info = [0_u64; 11];
    let size = must(libc::PTRACE_GET_SYSCALL_INFO, pid, 88, info.as_mut_ptr() as u64);
    (size, info)
}

/// Goes on to the entry of `call`.
fn to_entry(pid: i32, call: i64) {
    loop {
        resume(libc::PTRACE_SYSCALL, pid, 0);
        expect_stop(pid, SYSCALL);
        if syscall_info(pid).1[0] as u8 == 1 && i64::from(number(pid)) == call {
            return;
        }
    }
}

fn sysgood(pid: i32, more: i32) {
    must(libc::PTRACE_SETOPTIONS, pid, 0, (libc::PTRACE_O_TRACESYSGOOD | more) as u64);
}

fn entry_and_exit() {
    let pid = traced_child(|| {
        // SAFETY: plain calls, which the tracer changes.
        unsafe {
            check_eq!(libc::syscall(libc::SYS_getppid), 4711);
            check_eq!(libc::syscall(libc::SYS_setuid, 3), -1);
            check_eq!(errno(), libc::EXDEV);
            check_eq!(libc::syscall(libc::SYS_umask, 0o123), 0o22);
            check_eq!(libc::syscall(libc::SYS_umask, 0), 0o77);
        }
        0
    });
    sysgood(pid, 0);
    to_entry(pid, libc::SYS_getppid);
    let at = regs(pid);
    check_eq!((at.x[7], at.x[8]), (0, libc::SYS_getppid as u64));
    let (size, info) = syscall_info(pid);
    check_eq!(size, 80);
    check_eq!(info[0] >> 32, 0xc000_00b7);
    check_eq!((info[1], info[2], info[3]), (at.pc, at.sp, libc::SYS_getppid as u64));
    // Its exit, with another result.
    resume(libc::PTRACE_SYSCALL, pid, 0);
    expect_stop(pid, SYSCALL);
    let (size, info) = syscall_info(pid);
    check_eq!((size, info[0] as u8, info[3]), (33, 2, u64::from(std::process::id())));
    let mut at = regs(pid);
    check_eq!((at.x[0], at.x[7]), (u64::from(std::process::id()), 1));
    at.x[0] = 4711;
    set_regs(pid, &at);
    // Left out, with a result of the tracer's.
    to_entry(pid, libc::SYS_setuid);
    set_number(pid, -1);
    let mut at = regs(pid);
    at.x[0] = -i64::from(libc::EXDEV) as u64;
    set_regs(pid, &at);
    resume(libc::PTRACE_SYSCALL, pid, 0);
    expect_stop(pid, SYSCALL);
    let info = syscall_info(pid).1;
    check_eq!((info[0] as u8, info[3] as i64, info[4] & 1), (2, -i64::from(libc::EXDEV), 1));
    // Another argument.
    let old = 0o22;
    to_entry(pid, libc::SYS_umask);
    let mut at = regs(pid);
    check_eq!(at.x[0], 0o123);
    at.x[0] = 0o77;
    set_regs(pid, &at);
    resume(libc::PTRACE_SYSCALL, pid, 0);
    expect_stop(pid, SYSCALL);
    check_eq!(regs(pid).x[0], old);
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, 0);
}

/// A call that a signal interrupted is made again, as it was.
fn restarts() {
    let mut ends = [0; 2];
    // SAFETY: two descriptors.
    ok(unsafe { libc::pipe(ends.as_mut_ptr()) });
    let pid = traced_child(|| {
        let mut byte = 0_u8;
        // SAFETY: room for a byte.
        let n = unsafe { libc::read(ends[0], (&raw mut byte).cast(), 1) };
        i32::from(n != 1 || byte != b'x')
    });
    sysgood(pid, 0);
    to_entry(pid, libc::SYS_read);
    resume(libc::PTRACE_SYSCALL, pid, 0);
    let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    while !stat().contains(") S ") {
        // SAFETY: a plain call.
        unsafe { libc::sched_yield() };
    }
    // SAFETY: a plain call.
    ok(unsafe { libc::kill(pid, libc::SIGUSR1) });
    // The call ends, then the signal is seen in front of the call.
    expect_stop(pid, SYSCALL);
    resume(libc::PTRACE_SYSCALL, pid, 0);
    expect_stop(pid, libc::SIGUSR1);
    let at = regs(pid);
    check_eq!(at.x[0], ends[0] as u64);
    check_eq!(peek(pid, at.pc).unwrap() as u32, 0xd400_0001);
    resume(libc::PTRACE_SYSCALL, pid, 0);
    expect_stop(pid, SYSCALL);
    check_eq!(i64::from(number(pid)), libc::SYS_read);
    // SAFETY: a byte.
    ok(unsafe { libc::write(ends[1], c"x".as_ptr().cast(), 1) } as i64);
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, 0);
    // SAFETY: the descriptors.
    unsafe {
        libc::close(ends[0]);
        libc::close(ends[1]);
    }
}

fn events() {
    let options = libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACEVFORKDONE
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_TRACEEXIT;
    let pid = traced_child(|| {
        wait_ok(child(|| 0));
        let status = std::process::Command::new("/proc/self/exe").arg("exit").status();
        status.map_or(9, |status| status.code().unwrap_or(8))
    });
    check_eq!(request(libc::PTRACE_SETOPTIONS, pid, 0, 1 << 30), Err(libc::EINVAL));
    must(libc::PTRACE_SETOPTIONS, pid, 0, options as u64);
    resume(libc::PTRACE_CONT, pid, 0);
    expect_stop(pid, event(libc::PTRACE_EVENT_FORK));
    let first = event_message(pid) as i32;
    // It is traced from its beginning, with the same options.
    expect_stop(first, libc::SIGSTOP);
    resume(libc::PTRACE_CONT, first, 0);
    expect_stop(first, event(libc::PTRACE_EVENT_EXIT));
    check_eq!(event_message(first), 0);
    resume(libc::PTRACE_CONT, first, 0);
    expect_exit(first, 0);
    resume(libc::PTRACE_CONT, pid, 0);
    // SIGCHLD, and the start of a program by vfork or what stands for it: each tracee's stops come in their order.
    let (mut seen, mut second, mut done) = (Vec::new(), 0, false);
    while !done {
        let (who, status) = wait_any(-1);
        if status & 0xff != 0x7f {
            done = who == pid;
            seen.push((who == pid, status));
            continue;
        }
        let code = status >> 8;
        let mut deliver = 0;
        if code == event(libc::PTRACE_EVENT_VFORK) || code == event(libc::PTRACE_EVENT_FORK) {
            second = event_message(who) as i32;
        } else if code == event(libc::PTRACE_EVENT_EXEC) {
            check_eq!(event_message(who), who as u64);
        } else if code == event(libc::PTRACE_EVENT_EXIT) {
            check_eq!(event_message(who), 5 << 8);
        } else if code == libc::SIGCHLD {
            deliver = code;
        }
        seen.push((who == pid, code));
        resume(libc::PTRACE_CONT, who, deliver);
    }
    check!(second != 0);
    let of = |own: bool| -> Vec<i32> {
        let skip = [libc::SIGCHLD, libc::SIGSTOP];
        let it = seen.iter().filter(|(who, code)| *who == own && !skip.contains(code));
        it.map(|(_, code)| *code).collect()
    };
    let exit = event(libc::PTRACE_EVENT_EXIT);
    check_eq!(of(false), [event(libc::PTRACE_EVENT_EXEC), exit, 5 << 8]);
    let own = of(true);
    if own.contains(&event(libc::PTRACE_EVENT_VFORK)) {
        let done = event(libc::PTRACE_EVENT_VFORK_DONE);
        check_eq!(own, [event(libc::PTRACE_EVENT_VFORK), done, exit, 5 << 8]);
    } else {
        check_eq!(own, [event(libc::PTRACE_EVENT_FORK), exit, 5 << 8]);
    }
}

/// A seized tracee does not stop by being seized; it is stopped, and told of stops, without signals.
fn seize() {
    let pid = child(|| {
        loop {
            // SAFETY: a plain call.
            unsafe { libc::pause() };
        }
    });
    must(libc::PTRACE_SEIZE, pid, 0, libc::PTRACE_O_TRACESYSGOOD as u64);
    must(libc::PTRACE_INTERRUPT, pid, 0, 0);
    let stop = event(EVENT_STOP);
    expect_stop(pid, stop);
    // Not a stop that could last.
    resume(libc::PTRACE_CONT, pid, 0);
    // SAFETY: plain calls.
    unsafe {
        ok(libc::kill(pid, libc::SIGSTOP));
        expect_stop(pid, libc::SIGSTOP);
        resume(libc::PTRACE_CONT, pid, libc::SIGSTOP);
        expect_stop(pid, libc::SIGSTOP | EVENT_STOP << 8);
        must(libc::PTRACE_LISTEN, pid, 0, 0);
        // It stands still with its process, not for its tracer.
        check_eq!(request(libc::PTRACE_CONT, pid, 0, 0), Err(libc::ESRCH));
        ok(libc::kill(pid, libc::SIGCONT));
        expect_stop(pid, stop);
        resume(libc::PTRACE_CONT, pid, 0);
        expect_stop(pid, libc::SIGCONT);
        check_eq!(request(libc::PTRACE_LISTEN, pid, 0, 0), Err(libc::EIO));
        resume(libc::PTRACE_DETACH, pid, 0);
        ok(libc::kill(pid, libc::SIGKILL));
    }
    expect_exit(pid, libc::SIGKILL);
    // What is not seized has none of it.
    let pid = traced_child(|| 0);
    check_eq!(request(libc::PTRACE_INTERRUPT, pid, 0, 0), Err(libc::EIO));
    check_eq!(request(libc::PTRACE_LISTEN, pid, 0, 0), Err(libc::EIO));
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, 0);
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("exit") {
        std::process::exit(5);
    }
    entry_and_exit();
    restarts();
    events();
    seize();
}

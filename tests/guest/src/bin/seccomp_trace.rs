//! seccomp and ptrace: filters that ask the tracer, in which order stops and filters come, what a tracer sees of
//! filters, and of a process that one ends.
//!
//! PROCESS_MODEL.md, Signals and tracing: ptrace SETOPTIONS events; seccomp: strict and filter.

use belljar_guest_tests::seccomp::*;
use belljar_guest_tests::tracing::*;
use belljar_guest_tests::*;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;
const TRACE: u32 = libc::SECCOMP_RET_TRACE;
const GETPPID: i64 = libc::SYS_getppid;
/// A stop at a system call under PTRACE_O_TRACESYSGOOD.
const SYSCALL: i32 = libc::SIGTRAP | 0x80;
const EVENT_SECCOMP: i32 = libc::SIGTRAP | 7 << 8;
const EVENT_EXIT: i32 = libc::SIGTRAP | 6 << 8;
const GET_FILTER: u32 = 0x420c;
const GET_METADATA: u32 = 0x420d;

fn number(pid: i32) -> i32 {
    let mut number = 0_i32;
    check_eq!(get_regset(pid, NT_ARM_SYSTEM_CALL, &mut number), Ok(4));
    number
}

fn set_number(pid: i32, number: i64) {
    check_eq!(set_regset(pid, NT_ARM_SYSTEM_CALL, &(number as i32)), Ok(0));
}

fn set_result(pid: i32, result: i64) {
    let mut at = regs(pid);
    at.x[0] = result as u64;
    set_regs(pid, &at);
}

/// A traced child with a filter, at its stop behind having installed it.
fn tracee(filter: &[Insn], options: i32, f: impl FnOnce() -> i32) -> i32 {
    let pid = traced_child(|| {
        no_new_privs();
        check_eq!(install(0, filter), Ok(0));
        // SAFETY: a plain call.
        unsafe { libc::raise(libc::SIGSTOP) };
        f()
    });
    let options = options | libc::PTRACE_O_EXITKILL;
    must(libc::PTRACE_SETOPTIONS, pid, 0, options as u64);
    resume(libc::PTRACE_CONT, pid, 0);
    expect_stop(pid, libc::SIGSTOP);
    pid
}

fn getppid() -> i64 {
    call(GETPPID, [0; 6])
}

fn the_tracer_decides() {
    let me = i64::from(std::process::id());
    let calls = [
        (GETPPID, TRACE | 0x77),
        (libc::SYS_getpgid, ERRNO | 9),
        (libc::SYS_getuid, TRACE | 0xffff),
    ];
    let pid = tracee(&rules(&calls, ALLOW), libc::PTRACE_O_TRACESECCOMP, || {
        check_eq!(getppid(), me);
        // Made another call: one that is allowed, one that is refused, one that would ask again, none.
        check_eq!(getppid(), call(libc::SYS_gettid, [0; 6]));
        check_eq!(getppid(), -9);
        check_eq!(getppid(), 0);
        check_eq!(getppid(), 55);
        check_eq!(call(libc::SYS_getuid, [0; 6]), 0);
        0
    });
    let to_event = |message| {
        resume(libc::PTRACE_CONT, pid, 0);
        expect_stop(pid, EVENT_SECCOMP);
        check_eq!(event_message(pid), message);
    };
    to_event(0x77);
    check_eq!(i64::from(number(pid)), GETPPID);
    // Operation 3: number, arguments, and what the filter said.
    let mut info = [0_u64; 11];
    check_eq!(must(libc::PTRACE_GET_SYSCALL_INFO, pid, 88, info.as_mut_ptr() as u64), 84);
    check_eq!((info[0] as u8, info[0] >> 32), (3, u64::from(AARCH64)));
    check_eq!((info[1], info[3], info[10]), (regs(pid).pc, GETPPID as u64, 0x77));
    to_event(0x77);
    set_number(pid, libc::SYS_gettid);
    to_event(0x77);
    set_number(pid, libc::SYS_getpgid);
    to_event(0x77);
    set_number(pid, libc::SYS_getuid);
    to_event(0x77);
    set_number(pid, -1);
    set_result(pid, 55);
    to_event(0xffff);
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, 0);
}

fn without_the_option() {
    let pid = tracee(&rule(GETPPID, TRACE), 0, || {
        check_eq!(getppid(), i64::from(-libc::ENOSYS));
        0
    });
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, 0);
}

/// The stop at the entry comes first, then the filters, then the stop at the exit.
fn order() {
    let me = i64::from(std::process::id());
    let options = libc::PTRACE_O_TRACESECCOMP | libc::PTRACE_O_TRACESYSGOOD;
    let calls = [(GETPPID, TRACE | 1), (libc::SYS_getpgid, ERRNO | 9), (-1, ERRNO | 10)];
    let pid = tracee(&rules(&calls, ALLOW), options, || {
        check_eq!(getppid(), me);
        check_eq!(call(libc::SYS_getpgid, [0; 6]), -9);
        // What the tracer makes of it at the entry is what the filters see.
        check_eq!(getppid(), -9);
        check_eq!(getppid(), -10);
        0
    });
    let next = |code| {
        resume(libc::PTRACE_SYSCALL, pid, 0);
        expect_stop(pid, code);
    };
    let to_entry = |call: i64| {
        loop {
            next(SYSCALL);
            if regs(pid).x[7] == 0 && i64::from(number(pid)) == call {
                return;
            }
        }
    };
    to_entry(GETPPID);
    next(EVENT_SECCOMP);
    next(SYSCALL);
    check_eq!((regs(pid).x[7], regs(pid).x[0] as i64), (1, me));
    to_entry(libc::SYS_getpgid);
    next(SYSCALL);
    check_eq!((regs(pid).x[7], regs(pid).x[0] as i64), (1, -9));
    to_entry(GETPPID);
    set_number(pid, libc::SYS_getpgid);
    next(SYSCALL);
    check_eq!((regs(pid).x[7], regs(pid).x[0] as i64), (1, -9));
    to_entry(GETPPID);
    set_number(pid, -1);
    next(SYSCALL);
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, 0);
}

/// A signal that a filter sends is one like others to a tracer; that the process ends is not his to change.
fn ends() {
    let pid = tracee(&rule(GETPPID, libc::SECCOMP_RET_TRAP | 3), 0, || {
        check_eq!(getppid(), 0);
        0
    });
    resume(libc::PTRACE_CONT, pid, 0);
    expect_stop(pid, libc::SIGSYS);
    let mut info = [0_i32; 32];
    must(libc::PTRACE_GETSIGINFO, pid, 0, info.as_mut_ptr() as u64);
    check_eq!(info[..3], [libc::SIGSYS, 3, 1]);
    check_eq!(info[6..8], [GETPPID as i32, AARCH64 as i32]);
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, 0);

    let options = libc::PTRACE_O_TRACEEXIT;
    let pid = tracee(&rule(GETPPID, libc::SECCOMP_RET_KILL_PROCESS), options, || {
        getppid();
        0
    });
    resume(libc::PTRACE_CONT, pid, 0);
    expect_stop(pid, EVENT_EXIT);
    check_eq!(event_message(pid) as i32, libc::SIGSYS);
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, libc::SIGSYS);
}

fn filters_are_shown() {
    let (first, second) = (rule(GETPPID, ERRNO | 1), rule(libc::SYS_getpgid, ERRNO | 2));
    let pid = tracee(&first, 0, || {
        check_eq!(install(libc::SECCOMP_FILTER_FLAG_LOG, &second), Ok(0));
        // SAFETY: a plain call.
        unsafe { libc::raise(libc::SIGSTOP) };
        0
    });
    resume(libc::PTRACE_CONT, pid, 0);
    expect_stop(pid, libc::SIGSTOP);
    for (i, filter) in [&first, &second].into_iter().enumerate() {
        check_eq!(request(GET_FILTER, pid, i as u64, 0), Ok(filter.len() as i64));
        let mut got = vec![stmt(0, 0); filter.len()];
        check_eq!(
            request(GET_FILTER, pid, i as u64, got.as_mut_ptr() as u64),
            Ok(got.len() as i64)
        );
        let words = |filter: &[Insn]| {
            filter.iter().map(|insn| (insn.code, insn.jt, insn.jf, insn.k)).collect::<Vec<_>>()
        };
        check_eq!(words(&got), words(filter));
        let mut data = [i as u64, 77];
        check_eq!(request(GET_METADATA, pid, 16, data.as_mut_ptr() as u64), Ok(16));
        check_eq!(data, [i as u64, 2 * i as u64]);
    }
    check_eq!(request(GET_FILTER, pid, 2, 0), Err(libc::ENOENT));
    check_eq!(request(GET_METADATA, pid, 7, 0), Err(libc::EINVAL));
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, 0);
    let pid = traced_child(|| 0);
    check_eq!(request(GET_FILTER, pid, 0, 0), Err(libc::EINVAL));
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, 0);
}

/// A privileged tracer lets a tracee's filters rest.
fn filters_rest() {
    const SUSPEND_SECCOMP: u64 = 1 << 21;
    let me = i64::from(std::process::id());
    let filter = rule(GETPPID, ERRNO | 1);
    let pid = tracee(&filter, 0, || {
        check_eq!(getppid(), me);
        // SAFETY: a plain call.
        unsafe { libc::raise(libc::SIGSTOP) };
        check_eq!(getppid(), -1);
        0
    });
    must(libc::PTRACE_SETOPTIONS, pid, 0, SUSPEND_SECCOMP);
    resume(libc::PTRACE_CONT, pid, 0);
    expect_stop(pid, libc::SIGSTOP);
    must(libc::PTRACE_SETOPTIONS, pid, 0, 0);
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, 0);
    let status = in_child(|| {
        no_new_privs();
        check_eq!(install(0, &rules(&[], ALLOW)), Ok(0));
        let pid = traced_child(|| 0);
        check_eq!(request(libc::PTRACE_SETOPTIONS, pid, 0, SUSPEND_SECCOMP), Err(libc::EPERM));
        check_eq!(request(GET_FILTER, pid, 0, 0), Err(libc::EACCES));
        resume(libc::PTRACE_CONT, pid, 0);
        expect_exit(pid, 0);
        0
    });
    check_eq!(status, 0);
}

fn main() {
    // SAFETY: a valid limit: no core is wanted.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &libc::rlimit { rlim_cur: 0, rlim_max: 0 }) };
    the_tracer_decides();
    without_the_option();
    order();
    ends();
    filters_are_shown();
    filters_rest();
}

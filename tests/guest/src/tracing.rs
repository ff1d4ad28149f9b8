//! ptrace(2) for test programs: requests, registers, and what wait(2) says of a tracee.

use std::io::Error;

use crate::{check_eq, child, fail};

/// `PTRACE_EVENT_STOP` as `libc` has it not everywhere.
pub const EVENT_STOP: i32 = 128;
/// `NT_PRSTATUS`.
pub const NT_PRSTATUS: u64 = 1;
/// `NT_PRFPREG`.
pub const NT_PRFPREG: u64 = 2;
/// `NT_ARM_TLS`.
pub const NT_ARM_TLS: u64 = 0x401;
/// `NT_ARM_SYSTEM_CALL`.
pub const NT_ARM_SYSTEM_CALL: u64 = 0x404;

/// `struct user_pt_regs`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct Regs {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The stack pointer.
    pub sp: u64,
    /// The program counter.
    pub pc: u64,
    /// The processor state.
    pub pstate: u64,
}

/// The system call itself: what it returns, or the error number.
pub fn request(request: u32, pid: i32, addr: u64, data: u64) -> Result<i64, i32> {
    // SAFETY: each caller passes what the request asks for.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, request as i64, pid as i64, addr, data) };
    if result < 0 { Err(Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(result) }
}

/// A request that must succeed.
#[track_caller]
pub fn must(what: u32, pid: i32, addr: u64, data: u64) -> i64 {
    request(what, pid, addr, data).unwrap_or_else(|errno| {
        let at = std::panic::Location::caller();
        fail(&format!("{at}: ptrace({what:#x}, {pid}, {addr:#x}, {data:#x}): errno {errno}"))
    })
}

/// A child that asks to be traced and stops; it is waited for in that stop.
#[track_caller]
pub fn traced_child(f: impl FnOnce() -> i32) -> i32 {
    let pid = child(|| {
        must(libc::PTRACE_TRACEME, 0, 0, 0);
        // SAFETY: a plain call.
        unsafe { libc::raise(libc::SIGSTOP) };
        f()
    });
    expect_stop(pid, libc::SIGSTOP);
    pid
}

/// Waits for any change of a child or tracee, threads included.
#[track_caller]
pub fn wait_any(pid: i32) -> (i32, i32) {
    let mut status = 0;
    // SAFETY: `status` is valid.
    let got = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    if got < 0 {
        fail(&format!("{}: waitpid: {}", std::panic::Location::caller(), Error::last_os_error()));
    }
    (got, status)
}

/// Waits for a stop and returns the signal with the event above it.
#[track_caller]
pub fn wait_stop(pid: i32) -> i32 {
    let (got, status) = wait_any(pid);
    check_eq!(got, pid);
    if status & 0xff != 0x7f {
        fail(&format!("{}: no stop: {status:#x}", std::panic::Location::caller()));
    }
    status >> 8
}

/// Waits for the stop that must come.
#[track_caller]
pub fn expect_stop(pid: i32, code: i32) {
    let got = wait_stop(pid);
    if got != code {
        fail(&format!("{}: stop {got:#x}, not {code:#x}", std::panic::Location::caller()));
    }
}

/// Waits for the exit status that must come.
#[track_caller]
pub fn expect_exit(pid: i32, status: i32) {
    let (_, got) = wait_any(pid);
    if got != status {
        fail(&format!("{}: status {got:#x}, not {status:#x}", std::panic::Location::caller()));
    }
}

/// Lets a tracee go on, with a signal or 0.
#[track_caller]
pub fn resume(what: u32, pid: i32, signal: i32) {
    must(what, pid, 0, signal as u64);
}

/// Reads a set of registers into `set`; returns how many bytes there are.
pub fn get_regset<T>(pid: i32, note: u64, set: &mut T) -> Result<usize, i32> {
    let mut piece =
        libc::iovec { iov_base: std::ptr::from_mut(set).cast(), iov_len: size_of::<T>() };
    request(libc::PTRACE_GETREGSET, pid, note, &raw mut piece as u64).map(|_| piece.iov_len)
}

/// Replaces a set of registers.
pub fn set_regset<T>(pid: i32, note: u64, set: &T) -> Result<i64, i32> {
    let mut piece = libc::iovec {
        iov_base: std::ptr::from_ref(set).cast_mut().cast(),
        iov_len: size_of::<T>(),
    };
    request(libc::PTRACE_SETREGSET, pid, note, &raw mut piece as u64)
}

/// The general registers.
#[track_caller]
pub fn regs(pid: i32) -> Regs {
    let mut regs = Regs::default();
    check_eq!(get_regset(pid, NT_PRSTATUS, &mut regs), Ok(size_of::<Regs>()));
    regs
}

/// Replaces the general registers.
#[track_caller]
pub fn set_regs(pid: i32, regs: &Regs) {
    check_eq!(set_regset(pid, NT_PRSTATUS, regs), Ok(0));
}

/// A word of the tracee's memory, by the raw call.
pub fn peek(pid: i32, addr: u64) -> Result<u64, i32> {
    let mut word = 0_u64;
    request(libc::PTRACE_PEEKDATA, pid, addr, &raw mut word as u64).map(|_| word)
}

/// What the event was about.
#[track_caller]
pub fn event_message(pid: i32) -> u64 {
    let mut message = 0_u64;
    must(libc::PTRACE_GETEVENTMSG, pid, 0, &raw mut message as u64);
    message
}

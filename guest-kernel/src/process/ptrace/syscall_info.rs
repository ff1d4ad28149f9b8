//! What a tracer learns about the system call that a tracee stopped at (PTRACE_GET_SYSCALL_INFO).

use crate::process::ptrace::Event;
use crate::process::ptrace::control::Stopped;
use crate::process::ptrace::stop::{MESSAGE_ENTRY, MESSAGE_EXIT};
use crate::seccomp::AUDIT_ARCH;
use crate::signal::SIGTRAP;

/// `PTRACE_SYSCALL_INFO_ENTRY`.
const ENTRY: u8 = 1;
/// `PTRACE_SYSCALL_INFO_EXIT`.
const EXIT: u8 = 2;
/// `PTRACE_SYSCALL_INFO_SECCOMP`.
const SECCOMP: u8 = 3;
/// `si_code` of the stop for a filter's sake.
const SECCOMP_STOP: i32 = SIGTRAP | (Event::Seccomp as i32) << 8;

/// `struct ptrace_syscall_info`, as far as it says something.
pub struct SyscallInfo {
    bytes: [u8; 88],
    len: usize,
}

impl SyscallInfo {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

/// What the tracee stopped at; nothing but where it stands if that is no system call, or the tracer has not set
/// `PTRACE_O_TRACESYSGOOD`.
pub fn get(stopped: &mut Stopped<'_>) -> SyscallInfo {
    let (code, message) = {
        let stop = stopped.task().ptrace.stop.lock();
        (stop.info.map_or(0, |info| info.code), stop.message)
    };
    let regs = stopped.regs();
    let op = match (code == SIGTRAP | 0x80, message) {
        (true, MESSAGE_ENTRY) => ENTRY,
        (true, MESSAGE_EXIT) => EXIT,
        _ if code == SECCOMP_STOP => SECCOMP,
        _ => 0,
    };
    let mut info = SyscallInfo { bytes: [0; 88], len: 0 };
    info.push(&[op, 0, 0, 0]);
    info.push(&AUDIT_ARCH.to_le_bytes());
    info.push(&regs.pc.to_le_bytes());
    info.push(&regs.sp.to_le_bytes());
    match op {
        ENTRY | SECCOMP => {
            info.push(&i64::from(regs.syscallno).to_le_bytes());
            for arg in [&regs.orig_x0].into_iter().chain(&regs.x[1..6]) {
                info.push(&arg.to_le_bytes());
            }
            if op == SECCOMP {
                info.push(&(message as u32).to_le_bytes());
            }
        }
        EXIT => {
            info.push(&regs.x[0].to_le_bytes());
            info.push(&[u8::from(is_error(regs.x[0]))]);
        }
        _ => {}
    }
    info
}

/// True for what a system call that fails leaves in `x0`.
fn is_error(x0: u64) -> bool {
    const MAX_ERRNO: u64 = 4095;
    x0 >= MAX_ERRNO.wrapping_neg()
}

//! What a tracer learns about the system call that a tracee stopped at (PTRACE_GET_SYSCALL_INFO).

use crate::process::ptrace::control::Stopped;
use crate::process::ptrace::stop::{MESSAGE_ENTRY, MESSAGE_EXIT};
use crate::signal::SIGTRAP;

/// `AUDIT_ARCH_AARCH64`.
const ARCH: u32 = 0xc000_00b7;
/// `PTRACE_SYSCALL_INFO_ENTRY`.
const ENTRY: u8 = 1;
/// `PTRACE_SYSCALL_INFO_EXIT`.
const EXIT: u8 = 2;

/// `struct ptrace_syscall_info`, as far as it says something.
pub struct SyscallInfo {
    bytes: [u8; 80],
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
        _ => 0,
    };
    let mut info = SyscallInfo { bytes: [0; 80], len: 0 };
    info.push(&[op, 0, 0, 0]);
    info.push(&ARCH.to_le_bytes());
    info.push(&regs.pc.to_le_bytes());
    info.push(&regs.sp.to_le_bytes());
    match op {
        ENTRY => {
            info.push(&i64::from(regs.syscallno).to_le_bytes());
            for arg in [&regs.orig_x0].into_iter().chain(&regs.x[1..6]) {
                info.push(&arg.to_le_bytes());
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

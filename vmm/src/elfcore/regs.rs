//! Registers as cores carry them: Linux's `elf_prstatus` and `user_fpsimd_state` on AArch64.

use super::Note;

pub use belljar_abi::coreregs::{
    CORE, FpSimd, General, LINUX, NT_ARM_TLS, NT_AUXV, NT_FPREGSET, NT_PRSTATUS,
};
use belljar_abi::coreregs::{FPSIMD_SIZE, FPVALID_AT, PRSTATUS_SIZE, REGS_AT};

/// Offset of `pr_cursig`.
const CURSIG_AT: usize = 12;
/// Offset of `pr_sigpend`, then `pr_sighold`.
const SIGPEND_AT: usize = 16;
/// Offset of `pr_pid`, then ppid, pgrp, sid.
const PID_AT: usize = 32;
/// Offset of `pr_utime`, then stime, cutime, cstime.
const TIMES_AT: usize = 48;

/// What `NT_PRSTATUS` says beside the registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The signal that it died of, or 0.
    pub signal: u16,
    /// Pending signals.
    pub pending: u64,
    /// Blocked signals.
    pub blocked: u64,
    /// Thread, parent process, process group, session.
    pub ids: [u32; 4],
    /// User, system, children's user and system time, in nanoseconds.
    pub times: [u64; 4],
}

/// `NT_PRSTATUS`.
pub fn prstatus(regs: &General, status: &Status) -> Note {
    let mut desc = vec![0; PRSTATUS_SIZE];
    let mut put = |at: usize, bytes: &[u8]| desc[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &u32::from(status.signal).to_le_bytes());
    put(CURSIG_AT, &status.signal.to_le_bytes());
    put(SIGPEND_AT, &status.pending.to_le_bytes());
    put(SIGPEND_AT + 8, &status.blocked.to_le_bytes());
    for (i, id) in status.ids.iter().enumerate() {
        put(PID_AT + i * 4, &id.to_le_bytes());
    }
    for (i, time) in status.times.iter().enumerate() {
        // struct timeval: seconds, microseconds.
        put(TIMES_AT + i * 16, &(time / 1_000_000_000).to_le_bytes());
        put(TIMES_AT + i * 16 + 8, &(time % 1_000_000_000 / 1000).to_le_bytes());
    }
    for (i, reg) in regs.x.iter().chain([&regs.sp, &regs.pc, &regs.pstate]).enumerate() {
        put(REGS_AT + i * 8, &reg.to_le_bytes());
    }
    put(FPVALID_AT, &1u32.to_le_bytes());
    Note::new(CORE, NT_PRSTATUS, desc)
}

/// `NT_FPREGSET`.
pub fn fpregset(regs: &FpSimd) -> Note {
    let mut desc: Vec<u8> = regs.v.iter().flat_map(|v| v.to_le_bytes()).collect();
    desc.extend(regs.fpsr.to_le_bytes());
    desc.extend(regs.fpcr.to_le_bytes());
    desc.resize(FPSIMD_SIZE, 0);
    Note::new(CORE, NT_FPREGSET, desc)
}

/// `NT_ARM_TLS`: TPIDR_EL0.
pub fn tls(tpidr: u64) -> Note {
    Note::new(LINUX, NT_ARM_TLS, tpidr.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_read_back() {
        let regs = General {
            x: std::array::from_fn(|i| i as u64 + 1),
            sp: 100,
            pc: 200,
            pstate: 0x6000_0000,
        };
        let note = prstatus(&regs, &Status { ids: [7, 1, 7, 7], ..Status::default() });
        assert_eq!(note.desc.len(), 392);
        assert_eq!(note.desc[32], 7);
        assert_eq!(General::read(&note.desc), Some(regs));
        assert!(regs.is_user());
        let fp = FpSimd { v: std::array::from_fn(|i| i as u128 * 3), fpsr: 1, fpcr: 2 };
        assert_eq!(FpSimd::read(&fpregset(&fp).desc), Some(fp));
        assert_eq!(General::read(&note.desc[..383]), None);
        assert_eq!(FpSimd::read(&[]), None);
    }
}

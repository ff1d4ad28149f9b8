//! Registers as cores carry them: Linux's `elf_prstatus` and `user_fpsimd_state` on AArch64.

use super::Note;

/// Owner of the notes that every system has.
pub const CORE: &str = "CORE";
/// Owner of the notes that Linux added.
pub const LINUX: &str = "LINUX";
/// Kind: general registers and ids of a thread.
pub const NT_PRSTATUS: u32 = 1;
/// Kind: FP/SIMD registers.
pub const NT_FPREGSET: u32 = 2;
/// Kind: the thread pointer.
pub const NT_ARM_TLS: u32 = 0x401;

/// Bytes of `elf_prstatus`.
const PRSTATUS_SIZE: usize = 392;
/// Offset of `pr_cursig`.
const CURSIG_AT: usize = 12;
/// Offset of `pr_sigpend`, then `pr_sighold`.
const SIGPEND_AT: usize = 16;
/// Offset of `pr_pid`, then ppid, pgrp, sid.
const PID_AT: usize = 32;
/// Offset of `pr_utime`, then stime, cutime, cstime.
const TIMES_AT: usize = 48;
/// Offset of `pr_reg`.
const REGS_AT: usize = 112;
/// Offset of `pr_fpvalid`.
const FPVALID_AT: usize = REGS_AT + GENERAL * 8;
/// x0 to x30, sp, pc, pstate.
const GENERAL: usize = 34;
/// Bytes of `user_fpsimd_state`.
const FPSIMD_SIZE: usize = 528;

const _: () = assert!(FPVALID_AT == 384, "struct elf_prstatus of Linux on AArch64");

/// The general registers of a CPU or thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct General {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The stack pointer.
    pub sp: u64,
    /// Where it goes on.
    pub pc: u64,
    /// The processor state.
    pub pstate: u64,
}

impl General {
    /// Whether a program runs there, not the kernel.
    pub fn is_user(&self) -> bool {
        self.pstate & 0xf == 0
    }
}

/// The FP/SIMD registers of a CPU or thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FpSimd {
    /// V0 to V31.
    pub v: [u128; 32],
    /// FPSR.
    pub fpsr: u32,
    /// FPCR.
    pub fpcr: u32,
}

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

/// The registers in an `NT_PRSTATUS`; `None` if it is too short.
pub fn read_prstatus(desc: &[u8]) -> Option<General> {
    let words = desc.get(REGS_AT..FPVALID_AT)?;
    let word = |i: usize| u64::from_le_bytes(words[i * 8..i * 8 + 8].try_into().expect("8 bytes"));
    Some(General { x: std::array::from_fn(word), sp: word(31), pc: word(32), pstate: word(33) })
}

/// The registers in an `NT_FPREGSET`; `None` if it is too short.
pub fn read_fpregset(desc: &[u8]) -> Option<FpSimd> {
    let bytes = desc.get(..520)?;
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let v =
        |i: usize| u128::from_le_bytes(bytes[i * 16..i * 16 + 16].try_into().expect("16 bytes"));
    Some(FpSimd { v: std::array::from_fn(v), fpsr: word(512), fpcr: word(516) })
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
        assert_eq!(read_prstatus(&note.desc), Some(regs));
        assert!(regs.is_user());
        let fp = FpSimd { v: std::array::from_fn(|i| i as u128 * 3), fpsr: 1, fpcr: 2 };
        assert_eq!(read_fpregset(&fpregset(&fp).desc), Some(fp));
        assert_eq!(read_prstatus(&note.desc[..383]), None);
        assert_eq!(read_fpregset(&[]), None);
    }
}

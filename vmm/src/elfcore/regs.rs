//! The notes of a thread's registers.

use super::Note;

pub use belljar_abi::coreregs::{
    CORE, FpSimd, General, LINUX, NT_ARM_TLS, NT_AUXV, NT_FILE, NT_FPREGSET, NT_PRPSINFO,
    NT_PRSTATUS, NT_SIGINFO, PSARGS_SIZE, PsInfo, Status,
};

/// `NT_PRSTATUS`.
pub fn prstatus(regs: &General, status: &Status) -> Note {
    Note::new(CORE, NT_PRSTATUS, status.write(regs))
}

/// `NT_FPREGSET`.
pub fn fpregset(regs: &FpSimd) -> Note {
    Note::new(CORE, NT_FPREGSET, regs.write())
}

/// `NT_ARM_TLS`: TPIDR_EL0.
pub fn tls(tpidr: u64) -> Note {
    Note::new(LINUX, NT_ARM_TLS, tpidr.to_le_bytes())
}

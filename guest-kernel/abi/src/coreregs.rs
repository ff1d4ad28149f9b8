//! Registers as cores of Linux on AArch64 carry them: `elf_prstatus` and `user_fpsimd_state`. The VMM
//! writes them, both sides read them.

/// Owner of the notes that every system has.
pub const CORE: &str = "CORE";
/// Owner of the notes that Linux added.
pub const LINUX: &str = "LINUX";
/// Kind: general registers and ids of a thread.
pub const NT_PRSTATUS: u32 = 1;
/// Kind: FP/SIMD registers.
pub const NT_FPREGSET: u32 = 2;
/// Kind: the auxiliary vector.
pub const NT_AUXV: u32 = 6;
/// Kind: the thread pointer.
pub const NT_ARM_TLS: u32 = 0x401;

/// Bytes of `elf_prstatus`.
pub const PRSTATUS_SIZE: usize = 392;
/// Offset of `pr_reg` in it: x0 to x30, sp, pc, pstate.
pub const REGS_AT: usize = 112;
/// Offset of `pr_fpvalid`.
pub const FPVALID_AT: usize = REGS_AT + GENERAL * 8;
/// How many words `pr_reg` has.
const GENERAL: usize = 34;
/// Bytes of `user_fpsimd_state`.
pub const FPSIMD_SIZE: usize = 528;

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

    /// Those in an `NT_PRSTATUS`; `None` if it is too short.
    pub fn read(desc: &[u8]) -> Option<Self> {
        let mut words = desc.get(REGS_AT..FPVALID_AT)?.chunks_exact(8).map(word);
        let mut next = || words.next().unwrap_or(0);
        let x = core::array::from_fn(|_| next());
        Some(Self { x, sp: next(), pc: next(), pstate: next() })
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

impl FpSimd {
    /// Those in an `NT_FPREGSET`; `None` if it is too short.
    pub fn read(desc: &[u8]) -> Option<Self> {
        let mut words = desc.get(..520)?.chunks_exact(8).map(word);
        let mut next = || words.next().unwrap_or(0);
        let v = core::array::from_fn(|_| u128::from(next()) | u128::from(next()) << 64);
        let last = next();
        Some(Self { v, fpsr: last as u32, fpcr: (last >> 32) as u32 })
    }
}

/// A little-endian word of eight bytes.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

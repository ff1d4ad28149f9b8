//! The classic BPF machine (Linux's networking/filter.rst): programs that look at some data and return a number.
//!
//! The machine has an accumulator, an index register and sixteen words of scratch memory, all of 32 bits. Jumps only
//! lead forward, so a program of `n` instructions ends within `n` steps. A [`Program`] was checked: every instruction
//! is one that exists, no jump leaves it, it ends with a return, and no scratch word is read before it was written.
//! What it may load is up to who runs it ([`Data`]).
#![forbid(unsafe_code)]

mod check;
mod run;
#[cfg(any(test, feature = "synthetic"))]
#[doc(hidden)]
pub mod synthetic;
#[cfg(test)]
mod tests;

use belljar_abi::Described;

use crate::array::Array;
use crate::errno::{Errno, Result};

/// Most instructions of a program (`BPF_MAXINSNS`).
pub const MAX_INSNS: usize = 4096;
/// Words of scratch memory (`BPF_MEMWORDS`).
const MEMORY_WORDS: usize = 16;
/// Loads from here on are of facts about a packet, not of its bytes (`SKF_AD_OFF`).
pub const ANCILLARY: u32 = -0x1000_i32 as u32;
/// One past the last of those facts (`SKF_AD_MAX`).
const ANCILLARY_END: u32 = ANCILLARY + 64;

/// An instruction, as the bytes of `struct sock_filter` lie in a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Insn(pub u64);

impl Insn {
    /// Puts one together.
    pub const fn new(code: u16, jt: u8, jf: u8, k: u32) -> Self {
        Self(code as u64 | (jt as u64) << 16 | (jf as u64) << 24 | (k as u64) << 32)
    }

    /// What to do, as a number.
    #[inline]
    pub const fn code(self) -> u16 {
        self.0 as u16
    }

    /// How many instructions a jump skips if its condition holds.
    #[inline]
    pub const fn jt(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// How many it skips if not.
    #[inline]
    pub const fn jf(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// Its constant.
    #[inline]
    pub const fn k(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// What to do; `None` if there is no such instruction.
    #[inline(always)]
    pub fn op(self) -> Option<Op> {
        Op::decode(self.code())
    }
}

/// How much a load takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// Four bytes.
    Word,
    /// Two.
    Half,
    /// One.
    Byte,
}

/// The second operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The instruction's constant.
    K,
    /// The index register.
    X,
}

/// Arithmetic on the accumulator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are filter.rst's")]
pub enum Alu {
    Add,
    Sub,
    Mul,
    Div,
    Or,
    And,
    Lsh,
    Rsh,
    Mod,
    Xor,
}

/// A condition on the accumulator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are filter.rst's")]
pub enum Test {
    Jeq,
    Jgt,
    Jge,
    Jset,
}

impl Test {
    /// Whether it holds.
    #[inline]
    pub const fn holds(self, a: u32, b: u32) -> bool {
        match self {
            Self::Jeq => a == b,
            Self::Jgt => a > b,
            Self::Jge => a >= b,
            Self::Jset => a & b != 0,
        }
    }
}

/// What an instruction does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// A = data at `k`.
    LdAbs(Width),
    /// A = data at `X + k`.
    LdInd(Width),
    /// A = length of the data.
    LdLen,
    /// A = `k`.
    LdImm,
    /// A = scratch word `k`.
    LdMem,
    /// X = four times the lower half of the byte at `k`: the length of an IP header.
    LdxMsh,
    /// X = length of the data.
    LdxLen,
    /// X = `k`.
    LdxImm,
    /// X = scratch word `k`.
    LdxMem,
    /// Scratch word `k` = A.
    St,
    /// Scratch word `k` = X.
    Stx,
    /// A = A op operand.
    Alu(Alu, Source),
    /// A = -A.
    Neg,
    /// Skips `k` instructions.
    Ja,
    /// Skips `jt` instructions, or `jf`.
    Jump(Test, Source),
    /// Returns `k`.
    RetK,
    /// Returns A.
    RetA,
    /// X = A.
    Tax,
    /// A = X.
    Txa,
}

impl Op {
    /// The operation with this number (linux/bpf_common.h).
    // What is decoded is acted on at once: together that is one jump.
    #[inline(always)]
    pub fn decode(code: u16) -> Option<Self> {
        let source = if code & 0x08 != 0 { Source::X } else { Source::K };
        Some(match code {
            0x20 => Self::LdAbs(Width::Word),
            0x28 => Self::LdAbs(Width::Half),
            0x30 => Self::LdAbs(Width::Byte),
            0x40 => Self::LdInd(Width::Word),
            0x48 => Self::LdInd(Width::Half),
            0x50 => Self::LdInd(Width::Byte),
            0x80 => Self::LdLen,
            0x00 => Self::LdImm,
            0x60 => Self::LdMem,
            0xb1 => Self::LdxMsh,
            0x81 => Self::LdxLen,
            0x01 => Self::LdxImm,
            0x61 => Self::LdxMem,
            0x02 => Self::St,
            0x03 => Self::Stx,
            0x04 | 0x0c => Self::Alu(Alu::Add, source),
            0x14 | 0x1c => Self::Alu(Alu::Sub, source),
            0x24 | 0x2c => Self::Alu(Alu::Mul, source),
            0x34 | 0x3c => Self::Alu(Alu::Div, source),
            0x44 | 0x4c => Self::Alu(Alu::Or, source),
            0x54 | 0x5c => Self::Alu(Alu::And, source),
            0x64 | 0x6c => Self::Alu(Alu::Lsh, source),
            0x74 | 0x7c => Self::Alu(Alu::Rsh, source),
            0x94 | 0x9c => Self::Alu(Alu::Mod, source),
            0xa4 | 0xac => Self::Alu(Alu::Xor, source),
            0x84 => Self::Neg,
            0x05 => Self::Ja,
            0x15 | 0x1d => Self::Jump(Test::Jeq, source),
            0x25 | 0x2d => Self::Jump(Test::Jgt, source),
            0x35 | 0x3d => Self::Jump(Test::Jge, source),
            0x45 | 0x4d => Self::Jump(Test::Jset, source),
            0x06 => Self::RetK,
            0x16 => Self::RetA,
            0x07 => Self::Tax,
            0x87 => Self::Txa,
            _ => return None,
        })
    }
}

/// What a program looks at.
pub trait Data {
    /// Bytes of it.
    fn len(&self) -> u32;

    /// True if there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What lies at `offset`; `None` ends the program, which then returns 0.
    fn load(&self, width: Width, offset: u32) -> Option<u32>;
}

/// A checked program.
#[repr(C)]
#[derive(Described)]
pub struct Program {
    insns: Array<u64>,
}

impl Program {
    /// Takes a program if it is one (`bpf_check_classic`); `EINVAL` if not.
    pub fn new(insns: Array<u64>) -> Result<Self> {
        if insns.is_empty() || insns.len() > MAX_INSNS {
            return Err(Errno::EINVAL);
        }
        check::check(&insns)?;
        Ok(Self { insns })
    }

    /// Its instructions.
    pub fn insns(&self) -> impl ExactSizeIterator<Item = Insn> + '_ {
        self.insns.iter().map(|word| Insn(*word))
    }

    /// The same as words.
    pub fn words(&self) -> &[u64] {
        &self.insns
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty, reason = "none is empty")]
    pub fn len(&self) -> usize {
        self.insns.len()
    }

    /// Runs it.
    pub fn run(&self, data: &impl Data) -> u32 {
        run::run(&self.insns, data)
    }
}

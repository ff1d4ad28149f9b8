//! What makes instructions a program (`bpf_check_classic`).

use super::{ANCILLARY, ANCILLARY_END, Alu, Insn, MEMORY_WORDS, Op, Source};
use crate::errno::{Errno, Result};
use crate::mm::try_vec;

/// `EINVAL` unless the instructions are a program.
pub(super) fn check(insns: &[u64]) -> Result<()> {
    let len = insns.len();
    for (pc, word) in insns.iter().enumerate() {
        let insn = Insn(*word);
        if !is_allowed(insn, len - pc - 1) {
            return Err(Errno::EINVAL);
        }
    }
    let last = insns.last().and_then(|word| Insn(*word).op());
    if !matches!(last, Some(Op::RetK | Op::RetA)) {
        return Err(Errno::EINVAL);
    }
    check_memory(insns)
}

/// Whether an instruction with `left` others behind it is one.
fn is_allowed(insn: Insn, left: usize) -> bool {
    let k = insn.k();
    let Some(op) = insn.op() else { return false };
    match op {
        Op::Alu(Alu::Div | Alu::Mod, Source::K) => k != 0,
        Op::Alu(Alu::Lsh | Alu::Rsh, Source::K) => k < u32::BITS,
        Op::LdMem | Op::LdxMem | Op::St | Op::Stx => (k as usize) < MEMORY_WORDS,
        Op::Ja => (k as usize) < left,
        Op::Jump(..) => usize::from(insn.jt().max(insn.jf())) < left,
        Op::LdAbs(_) => k < ANCILLARY || k < ANCILLARY_END && k.is_multiple_of(4),
        _ => true,
    }
}

/// No way through the program may read a scratch word that it did not write before.
fn check_memory(insns: &[u64]) -> Result<()> {
    // For each instruction what is written on every way to it that was seen.
    let mut masks = try_vec(insns.len(), u16::MAX)?;
    let mut written = 0;
    for (pc, word) in insns.iter().enumerate() {
        let insn = Insn(*word);
        let bit = 1 << (insn.k() % u16::BITS);
        written &= masks[pc];
        let mut target = |skip: usize, written| {
            if let Some(mask) = masks.get_mut(pc + 1 + skip) {
                *mask &= written;
            }
        };
        match insn.op() {
            Some(Op::St | Op::Stx) => written |= bit,
            Some(Op::LdMem | Op::LdxMem) if written & bit == 0 => return Err(Errno::EINVAL),
            Some(Op::Ja) => {
                target(insn.k() as usize, written);
                written = u16::MAX;
            }
            Some(Op::Jump(..)) => {
                target(usize::from(insn.jt()), written);
                target(usize::from(insn.jf()), written);
                written = u16::MAX;
            }
            _ => {}
        }
    }
    Ok(())
}

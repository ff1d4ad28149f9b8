//! Running a checked program.

use super::{Alu, Data, Insn, MEMORY_WORDS, Op, Source, Width};

/// What the program returns for `data`. Division by an X of 0, and a load of what is not there, return 0.
pub(super) fn run(insns: &[u64], data: &impl Data) -> u32 {
    finish(insns, data).unwrap_or(0)
}

#[inline]
fn finish(insns: &[u64], data: &impl Data) -> Option<u32> {
    let (mut a, mut x) = (0_u32, 0_u32);
    let mut memory = [0_u32; MEMORY_WORDS];
    let mut pc = 0_usize;
    loop {
        let insn = Insn(*insns.get(pc)?);
        let k = insn.k();
        let word = k as usize % MEMORY_WORDS;
        pc += 1;
        match insn.op()? {
            Op::LdAbs(width) => a = data.load(width, k)?,
            Op::LdInd(width) => a = data.load(width, x.wrapping_add(k))?,
            Op::LdLen => a = data.len(),
            Op::LdImm => a = k,
            Op::LdMem => a = memory[word],
            Op::LdxMsh => x = (data.load(Width::Byte, k)? & 0xf) * 4,
            Op::LdxLen => x = data.len(),
            Op::LdxImm => x = k,
            Op::LdxMem => x = memory[word],
            Op::St => memory[word] = a,
            Op::Stx => memory[word] = x,
            Op::Alu(alu, source) => a = calculate(alu, a, operand(source, k, x))?,
            Op::Neg => a = a.wrapping_neg(),
            Op::Ja => pc += k as usize,
            Op::Jump(test, source) => {
                let holds = test.holds(a, operand(source, k, x));
                pc += usize::from(if holds { insn.jt() } else { insn.jf() });
            }
            Op::RetK => return Some(k),
            Op::RetA => return Some(a),
            Op::Tax => x = a,
            Op::Txa => a = x,
        }
    }
}

#[inline]
const fn operand(source: Source, k: u32, x: u32) -> u32 {
    match source {
        Source::K => k,
        Source::X => x,
    }
}

/// Shifts by X count its lower five bits, as Linux's machine does.
#[inline]
fn calculate(alu: Alu, a: u32, b: u32) -> Option<u32> {
    Some(match alu {
        Alu::Add => a.wrapping_add(b),
        Alu::Sub => a.wrapping_sub(b),
        Alu::Mul => a.wrapping_mul(b),
        Alu::Div => a.checked_div(b)?,
        Alu::Mod => a.checked_rem(b)?,
        Alu::Or => a | b,
        Alu::And => a & b,
        Alu::Xor => a ^ b,
        Alu::Lsh => a.wrapping_shl(b),
        Alu::Rsh => a.wrapping_shr(b),
    })
}

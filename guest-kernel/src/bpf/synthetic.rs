//! Programs made up: what the tests and the fuzz target of the machine do with any bytes.

use alloc::vec::Vec;

use super::{Data, Insn, Op, Program, Width};
use crate::array::Array;
use crate::seccomp::{Action, SeccompData, SeccompFilter};

/// Bytes of a packet, as filters of sockets see them.
pub struct Packet<'a>(pub &'a [u8]);

impl Data for Packet<'_> {
    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    fn load(&self, width: Width, offset: u32) -> Option<u32> {
        let len = match width {
            Width::Word => 4,
            Width::Half => 2,
            Width::Byte => 1,
        };
        let at = offset as usize;
        let bytes = self.0.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }
}

/// The instructions in `bytes`, eight each.
pub fn insns(bytes: &[u8]) -> Vec<Insn> {
    let words = bytes.chunks_exact(8).map(|word| [0, 1, 2, 3, 4, 5, 6, 7].map(|i| word[i]));
    words.map(|word| Insn(u64::from_le_bytes(word))).collect()
}

fn array(insns: &[Insn]) -> Array<u64> {
    Array::from(insns.iter().map(|insn| insn.0).collect::<Vec<_>>())
}

/// Runs whatever passes the check, on data that is as arbitrary: it ends, and without a panic; and what a filter is said
/// to allow always it does allow.
pub fn fuzz_one(bytes: &[u8]) {
    let (data, program) = bytes.split_at(bytes.len().min(40));
    let insns = insns(program);
    if let Ok(program) = Program::new(array(&insns)) {
        assert!(insns.iter().all(|insn| insn.op().is_some()), "only what exists is a program");
        let result = program.run(&Packet(data));
        let constant = |insn: &Insn| insn.op() == Some(Op::RetK) && insn.k() == result;
        let computed = |insn: &Insn| insn.op() == Some(Op::RetA);
        assert!(result == 0 || insns.iter().any(|insn| constant(insn) || computed(insn)));
    }
    let Ok(filter) = SeccompFilter::new(array(&insns)).and_then(|filter| filter.attach(None))
    else {
        return;
    };
    let word = |at: usize| {
        let bytes = data.get(at * 8..at * 8 + 8).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    for nr in [word(0) as i32, (word(0) % 512) as i32, 0, 511] {
        let call = SeccompData {
            nr,
            arch: crate::seccomp::AUDIT_ARCH,
            instruction_pointer: word(1),
            args: [word(2), word(3), word(4), word(0), word(1), word(2)],
        };
        let allows = filter.always_allows(nr);
        let verdict = SeccompFilter::run(filter.clone(), &call);
        assert!(!allows || verdict.word == Action::Allow as u32, "call {nr}");
    }
}

//! Tests of the machine and its check.

use proptest::prelude::*;

use super::synthetic::{Packet, fuzz_one};
use super::*;

const LD_IMM: u16 = 0x00;
const LD_MEM: u16 = 0x60;
const LD_LEN: u16 = 0x80;
const LDX_IMM: u16 = 0x01;
const ST: u16 = 0x02;
const RET_K: u16 = 0x06;
const RET_A: u16 = 0x16;
const JA: u16 = 0x05;
const JEQ_K: u16 = 0x15;

fn stmt(code: u16, k: u32) -> Insn {
    Insn::new(code, 0, 0, k)
}

fn program(insns: &[Insn]) -> Result<Program> {
    Program::new(Array::from(insns.iter().map(|insn| insn.0).collect::<Vec<_>>()))
}

fn run(insns: &[Insn], data: &[u8]) -> u32 {
    program(insns).unwrap().run(&Packet(data))
}

/// What `A op X` leaves in A.
fn calculated(code: u16, a: u32, x: u32) -> u32 {
    run(&[stmt(LD_IMM, a), stmt(LDX_IMM, x), stmt(code, 0), stmt(RET_A, 0)], &[])
}

#[test]
fn arithmetic_is_of_32_bits() {
    assert_eq!(calculated(0x0c, u32::MAX, 2), 1);
    assert_eq!(calculated(0x1c, 1, 2), u32::MAX);
    assert_eq!(calculated(0x2c, 1 << 31, 2), 0);
    assert_eq!(calculated(0x3c, 7, 2), 3);
    assert_eq!(calculated(0x9c, 7, 4), 3);
    assert_eq!(calculated(0x4c, 5, 2), 7);
    assert_eq!(calculated(0x5c, 5, 4), 4);
    assert_eq!(calculated(0xac, 5, 4), 1);
    assert_eq!(calculated(0x6c, 1, 33), 2);
    assert_eq!(calculated(0x7c, 4, 33), 2);
    assert_eq!(calculated(0x84, 1, 0), u32::MAX);
    assert_eq!((calculated(0x3c, 7, 0), calculated(0x9c, 7, 0)), (0, 0));
}

#[test]
fn loads_are_big_endian_and_end_the_program_beyond_the_data() {
    let data = [0x45, 1, 2, 3, 4];
    let load = |code, k| run(&[stmt(LDX_IMM, 1), stmt(code, k), stmt(RET_A, 0)], &data);
    assert_eq!((load(0x20, 0), load(0x28, 1), load(0x30, 4)), (0x4501_0203, 0x0102, 4));
    assert_eq!((load(0x40, 0), load(0x48, 2), load(0x50, 0)), (0x0102_0304, 0x0304, 1));
    assert_eq!((load(0x20, 2), load(0x40, u32::MAX), load(LD_LEN, 0)), (0, 0x4501_0203, 5));
    assert_eq!(run(&[stmt(0xb1, 0), stmt(0x87, 0), stmt(RET_A, 0)], &data), 20);
    assert_eq!(run(&[stmt(0x20, 2), stmt(RET_K, 9)], &data), 0);
}

#[test]
fn programs_that_are_none_are_refused() {
    let ret = stmt(RET_K, 0);
    let bad = |insns: &[Insn]| program(insns).err();
    let inval = Some(Errno::EINVAL);
    assert_eq!(bad(&[]), inval);
    assert_eq!(bad(&[stmt(LD_IMM, 0)]), inval, "no return at the end");
    assert_eq!(bad(&vec![ret; MAX_INSNS]), None);
    assert_eq!(bad(&vec![ret; MAX_INSNS + 1]), inval);
    assert_eq!(bad(&[stmt(0xff, 0), ret]), inval);
    assert_eq!(bad(&[stmt(0x106, 0), ret]), inval);
    assert_eq!((bad(&[stmt(0x34, 0), ret]), bad(&[stmt(0x34, 1), ret])), (inval, None));
    assert_eq!((bad(&[stmt(0x64, 32), ret]), bad(&[stmt(0x64, 31), ret])), (inval, None));
    assert_eq!((bad(&[stmt(ST, 16), ret]), bad(&[stmt(ST, 15), ret])), (inval, None));
    assert_eq!((bad(&[stmt(JA, 1), ret]), bad(&[stmt(JA, 0), ret])), (inval, None));
    assert_eq!(bad(&[stmt(JA, u32::MAX), ret]), inval);
    assert_eq!(bad(&[Insn::new(JEQ_K, 1, 0, 0), ret]), inval);
    assert_eq!(bad(&[Insn::new(JEQ_K, 0, 1, 0), ret]), inval);
    assert_eq!(bad(&[Insn::new(JEQ_K, 0, 1, 0), ret, ret]), None);
    assert_eq!(bad(&[stmt(0x20, ANCILLARY), ret]), None);
    assert_eq!(bad(&[stmt(0x20, ANCILLARY + 1), ret]), inval);
    assert_eq!(bad(&[stmt(0x20, ANCILLARY + 64), ret]), inval);
}

#[test]
fn scratch_words_are_written_before_they_are_read() {
    let (read, write, ret) = (stmt(LD_MEM, 3), stmt(ST, 3), stmt(RET_A, 0));
    assert_eq!(program(&[read, ret]).err(), Some(Errno::EINVAL));
    assert_eq!(run(&[stmt(LD_IMM, 7), write, stmt(LD_IMM, 0), read, ret], &[]), 7);
    // Written on one way only, and on both.
    let jump = |jt, jf| Insn::new(JEQ_K, jt, jf, 0);
    assert_eq!(program(&[jump(0, 1), write, read, ret]).err(), Some(Errno::EINVAL));
    assert!(program(&[jump(0, 2), write, stmt(JA, 1), write, read, ret]).is_ok());
    assert!(program(&[write, jump(0, 1), stmt(JA, 0), read, ret]).is_ok());
}

/// Instructions that are likely to be a program.
fn likely_insn() -> impl Strategy<Value = Insn> {
    const CODES: &[u16] = &[
        0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x80, 0x00, 0x60, 0xb1, 0x81, 0x01, 0x61, 0x02, 0x03,
        0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54, 0x5c, 0x64, 0x6c, 0x74,
        0x7c, 0x94, 0x9c, 0xa4, 0xac, 0x84, 0x05, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d,
        0x06, 0x16, 0x07, 0x87,
    ];
    let k = prop_oneof![0..20_u32, Just(0x7fff_0000), Just(super::super::seccomp::AUDIT_ARCH)];
    (prop::sample::select(CODES), 0..4_u8, 0..4_u8, k)
        .prop_map(|(code, jt, jf, k)| Insn::new(code, jt, jf, k))
}

proptest! {
    #[test]
    fn whatever_passes_the_check_ends(
        head in prop::collection::vec(any::<u8>(), 40),
        mut insns in prop::collection::vec(likely_insn(), 1..24),
    ) {
        insns.extend([stmt(RET_K, 0x7fff_0000); 4]);
        let mut bytes = head;
        insns.iter().for_each(|insn| bytes.extend(insn.0.to_le_bytes()));
        fuzz_one(&bytes);
    }

    #[test]
    fn any_bytes_are_refused_or_run(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz_one(&bytes);
    }
}

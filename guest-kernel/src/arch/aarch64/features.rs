//! What the CPU is said to be able to do: ID registers as EL0 sees them, and AT_HWCAP.
//!
//! Both come from one table, so they never contradict each other. The set is *portable*: only what the
//! kernel keeps for a program (no SVE, SME, MTE, pointer authentication, BTI), so that a snapshot goes on
//! on any host that has these few.

use core::arch::asm;

use crate::arch::PtRegs;
use crate::arch::exception::SysReg;

macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: only reads.
        unsafe {
            asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

/// ID_AA64MMFR1_EL1.
pub(super) fn read_mmfr1() -> u64 {
    read_register!("id_aa64mmfr1_el1")
}

/// A field that EL0 may see as it is, up to a value, and what it stands for in AT_HWCAP.
struct Field {
    /// Lowest bit of the four.
    shift: u32,
    /// Largest value shown.
    most: u64,
    /// Value from which on the bits below are set.
    caps: &'static [(u64, u64)],
}

const fn field(shift: u32, most: u64, caps: &'static [(u64, u64)]) -> Field {
    Field { shift, most, caps }
}

// AT_HWCAP bits (asm/hwcap.h).
const FP: u64 = 1 << 0;
const ASIMD: u64 = 1 << 1;
const AES: u64 = 1 << 3;
const PMULL: u64 = 1 << 4;
const SHA1: u64 = 1 << 5;
const SHA2: u64 = 1 << 6;
const CRC32: u64 = 1 << 7;
const ATOMICS: u64 = 1 << 8;
const CPUID: u64 = 1 << 11;

/// ID_AA64ISAR0_EL1.
const ISAR0: &[Field] = &[
    field(4, 2, &[(1, AES), (2, PMULL)]),
    field(8, 1, &[(1, SHA1)]),
    field(12, 1, &[(1, SHA2)]),
    field(16, 1, &[(1, CRC32)]),
    field(20, 2, &[(2, ATOMICS)]),
];

/// Shows the listed fields of a register and hides all others.
fn sanitise(value: u64, fields: &[Field]) -> u64 {
    fields.iter().fold(0, |shown, f| shown | (value >> f.shift & 0xf).min(f.most) << f.shift)
}

/// What EL0 reads from an ID register (op0 3, op1 0, CRn 0); 0 for those that are reserved.
fn id_register(crm: u8, op2: u8) -> Option<u64> {
    Some(match (crm, op2) {
        (0, 0) => read_register!("midr_el1"),
        (0, 5) => 1 << 31, // MPIDR_EL1: not which CPU it is
        (0, 6) => 0,       // REVIDR_EL1
        // ID_AA64PFR0_EL1: EL0 and EL1 are AArch64 only; FP and AdvSIMD, without half precision.
        (4, 0) => 0x11,
        (6, 0) => sanitise(read_register!("id_aa64isar0_el1"), ISAR0),
        // The rest: nothing of it is for EL0, AArch32 included.
        (2..=7, _) => 0,
        _ => return None,
    })
}

/// AT_HWCAP and AT_HWCAP2.
pub fn hwcaps() -> (u64, u64) {
    let isar0 = read_register!("id_aa64isar0_el1");
    let caps = ISAR0.iter().flat_map(|f| {
        let value = isar0 >> f.shift & 0xf;
        f.caps.iter().filter(move |(from, _)| value >= *from).map(|(_, cap)| *cap)
    });
    (caps.fold(FP | ASIMD | CPUID, |all, cap| all | cap), 0)
}

/// Does what a trapped `MRS` of an ID register asks for and steps over it. False if EL0 may not read it.
pub fn emulate_id_register(regs: &mut PtRegs, op: SysReg) -> bool {
    if !(op.read && op.op0 == 3 && op.op1 == 0 && op.crn == 0) {
        return false;
    }
    let Some(value) = id_register(op.crm, op.op2) else { return false };
    if let Some(register) = regs.x.get_mut(usize::from(op.rt)) {
        *register = value;
    }
    regs.pc += 4;
    true
}

/// A random number of the CPU (FEAT_RNG); `None` if it has none, or none just now.
pub fn random_u64() -> Option<u64> {
    if read_register!("id_aa64isar0_el1") >> 60 == 0 {
        return None;
    }
    let (value, failed): (u64, u64);
    // SAFETY: RNDR; the CPU has it.
    unsafe {
        asm!("mrs {}, s3_3_c2_c4_0", "cset {}, eq", out(reg) value, out(reg) failed, options(nostack));
    }
    (failed == 0).then_some(value)
}

/// CTR_EL0 and DCZID_EL0, as EL0 reads them too.
pub fn cache_registers() -> (u64, u64) {
    (read_register!("ctr_el0"), read_register!("dczid_el0"))
}

/// MIDR_EL1 of this CPU, for /proc/cpuinfo.
pub fn midr() -> u64 {
    read_register!("midr_el1")
}

//! Registers in sets (PTRACE_GETREGSET, PTRACE_SETREGSET), as the notes of an ELF core have them.

use crate::arch::{self, DebugKind, DebugPoint, FpState, MAX_DEBUG_SLOTS, PtRegs};
use crate::errno::{Errno, Result};
use crate::process::ptrace::control::Stopped;
use crate::process::sigframe::user_pstate;

/// General registers, `struct user_pt_regs`.
const NT_PRSTATUS: u32 = 1;
/// FP/SIMD registers, `struct user_fpsimd_state`.
const NT_PRFPREG: u32 = 2;
/// The thread pointer.
const NT_ARM_TLS: u32 = 0x401;
/// Breakpoints, `struct user_hwdebug_state`.
const NT_ARM_HW_BREAK: u32 = 0x402;
/// Watchpoints.
const NT_ARM_HW_WATCH: u32 = 0x403;
/// The number of the system call that is under way.
const NT_ARM_SYSTEM_CALL: u32 = 0x404;

/// Bytes of the largest set.
pub const LARGEST: usize = size_of::<FpState>();
/// Where the points of `struct user_hwdebug_state` begin.
const POINTS_AT: usize = 8;
/// Bytes of a point: address, control, padding.
const POINT: usize = 16;
/// Bytes of the general registers: x0 to x30, sp, pc and pstate.
const GENERAL: usize = 34 * 8;

/// Sets of registers, by the types of their notes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Set {
    /// `NT_PRSTATUS`.
    General,
    /// `NT_PRFPREG`.
    Float,
    /// `NT_ARM_TLS`.
    Tls,
    /// `NT_ARM_HW_BREAK`, `NT_ARM_HW_WATCH`.
    Debug(DebugKind),
    /// `NT_ARM_SYSTEM_CALL`.
    SystemCall,
}

impl Set {
    /// The set of a note's type; `EINVAL` if there is none.
    pub fn of(note: u32) -> Result<Self> {
        Ok(match note {
            NT_PRSTATUS => Self::General,
            NT_PRFPREG => Self::Float,
            NT_ARM_TLS => Self::Tls,
            NT_ARM_HW_BREAK => Self::Debug(DebugKind::Break),
            NT_ARM_HW_WATCH => Self::Debug(DebugKind::Watch),
            NT_ARM_SYSTEM_CALL => Self::SystemCall,
            _ => return Err(Errno::EINVAL),
        })
    }

    /// Its bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::General => GENERAL,
            Self::Float => size_of::<FpState>(),
            Self::Tls => 8,
            Self::Debug(_) => POINTS_AT + MAX_DEBUG_SLOTS * POINT,
            Self::SystemCall => 4,
        }
    }

    /// Bytes of one register: what is read and written is a multiple.
    pub const fn unit(self) -> usize {
        match self {
            Self::General | Self::Tls => 8,
            Self::Float | Self::Debug(_) | Self::SystemCall => 4,
        }
    }

    /// Reads the set; `to` is as long as it is.
    pub fn read(self, stopped: &mut Stopped<'_>, to: &mut [u8]) {
        match self {
            Self::General => {
                let regs = stopped.regs();
                let words = regs.x.iter().chain([&regs.sp, &regs.pc, &regs.pstate]);
                for (to, word) in to.chunks_exact_mut(8).zip(words) {
                    to.copy_from_slice(&word.to_le_bytes());
                }
            }
            Self::Float => {
                let fp = stopped.fp();
                to.fill(0);
                let (vectors, rest) = to.split_at_mut(size_of_val(&fp.v));
                for (to, v) in vectors.chunks_exact_mut(16).zip(&fp.v) {
                    to.copy_from_slice(&v.to_le_bytes());
                }
                rest[..4].copy_from_slice(&fp.fpsr.to_le_bytes());
                rest[4..8].copy_from_slice(&fp.fpcr.to_le_bytes());
            }
            Self::Tls => to.copy_from_slice(&stopped.thread_pointer().to_le_bytes()),
            Self::Debug(kind) => {
                to.fill(0);
                let info = arch::debug_version() << 8 | arch::debug_slots(kind) as u32;
                to[..4].copy_from_slice(&info.to_le_bytes());
                for (slot, to) in to[POINTS_AT..].chunks_exact_mut(POINT).enumerate() {
                    let point = stopped.debug_point(kind, slot);
                    to[..8].copy_from_slice(&point.value.to_le_bytes());
                    to[8..12].copy_from_slice(&point.control.to_le_bytes());
                }
            }
            Self::SystemCall => to.copy_from_slice(&stopped.regs().syscallno.to_le_bytes()),
        }
    }

    /// Replaces the set; `EINVAL` if a program may not have such registers.
    pub fn write(self, stopped: &mut Stopped<'_>, from: &[u8]) -> Result<()> {
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&from[at * 8..][..8]);
            u64::from_le_bytes(bytes)
        };
        let half = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&from[at..][..4]);
            u32::from_le_bytes(bytes)
        };
        match self {
            Self::General => {
                let pstate = word(33);
                if !is_user_state(pstate) {
                    return Err(Errno::EINVAL);
                }
                let regs = stopped.regs();
                for (i, x) in regs.x.iter_mut().enumerate() {
                    *x = word(i);
                }
                (regs.sp, regs.pc) = (word(31), word(32));
                regs.pstate = regs.pstate & !user_pstate(!0) | user_pstate(pstate);
            }
            Self::Float => {
                let fp = stopped.fp();
                for (i, v) in fp.v.iter_mut().enumerate() {
                    *v = u128::from(word(2 * i)) | u128::from(word(2 * i + 1)) << 64;
                }
                let status = size_of_val(&fp.v);
                (fp.fpsr, fp.fpcr) = (half(status), half(status + 4));
            }
            Self::Tls => stopped.set_thread_pointer(word(0)),
            Self::Debug(kind) => {
                for slot in 0..MAX_DEBUG_SLOTS {
                    let at = POINTS_AT + slot * POINT;
                    let (address, control) = (word(at / 8), half(at + 8));
                    let point = DebugPoint::new(kind, address, control).ok_or(Errno::EINVAL)?;
                    let enabled = point.control & DebugPoint::ENABLED != 0;
                    if enabled && slot >= arch::debug_slots(kind) {
                        return Err(Errno::ENOSPC);
                    }
                    if point != stopped.debug_point(kind, slot) {
                        stopped.set_debug_point(kind, slot, point)?;
                    }
                }
            }
            Self::SystemCall => stopped.regs().syscallno = half(0) as i32,
        }
        Ok(())
    }
}

/// True for a processor state of EL0 in AArch64, with nothing masked.
fn is_user_state(pstate: u64) -> bool {
    const AARCH32: u64 = 1 << 4;
    const MASKS: u64 = 0xf << 6;
    PtRegs { pstate, ..PtRegs::default() }.from_user() && pstate & (AARCH32 | MASKS) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracer_cannot_raise_the_exception_level() {
        for pstate in [0, 0x6000_0000, 1 << 21] {
            assert!(is_user_state(pstate), "{pstate:#x}");
        }
        // EL1, EL1 with SP_EL0, AArch32, masked interrupts.
        for pstate in [5, 4, 0x10, 1 << 7, 1 << 9] {
            assert!(!is_user_state(pstate), "{pstate:#x}");
        }
    }

    #[test]
    fn sets_have_the_sizes_of_their_notes() {
        assert_eq!(Set::of(1).map(Set::size), Ok(272));
        assert_eq!(Set::of(2).map(Set::size), Ok(528));
        assert_eq!(Set::of(3), Err(Errno::EINVAL));
        for set in
            [Set::General, Set::Float, Set::Tls, Set::Debug(DebugKind::Watch), Set::SystemCall]
        {
            assert!(set.size() <= LARGEST && set.size() % set.unit() == 0);
        }
    }
}

//! [`SeccompData`]: what a filter sees of a system call.

use crate::arch::PtRegs;
use crate::bpf::{Data, Width};
use crate::pod;

/// `AUDIT_ARCH_AARCH64`.
pub const AUDIT_ARCH: u32 = 0xc000_00b7;

/// `struct seccomp_data`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeccompData {
    /// Number of the call.
    pub nr: i32,
    /// [`AUDIT_ARCH`].
    pub arch: u32,
    /// Where the program goes on.
    pub instruction_pointer: u64,
    /// Its arguments.
    pub args: [u64; 6],
}

pod!(SeccompData);

impl SeccompData {
    /// Bytes of it.
    pub const SIZE: u32 = size_of::<Self>() as u32;

    /// The call that the registers ask for.
    pub fn of(regs: &PtRegs) -> Self {
        let x = &regs.x;
        Self {
            nr: regs.syscallno,
            arch: AUDIT_ARCH,
            instruction_pointer: regs.pc,
            args: [regs.orig_x0, x[1], x[2], x[3], x[4], x[5]],
        }
    }
}

impl Data for SeccompData {
    fn len(&self) -> u32 {
        Self::SIZE
    }

    /// Words, as they lie in memory; the check lets no other load pass.
    #[inline]
    fn load(&self, width: Width, offset: u32) -> Option<u32> {
        let half = |value: u64| (value >> (offset % 8 * 8)) as u32;
        if width != Width::Word || !offset.is_multiple_of(4) {
            return None;
        }
        match offset / 4 {
            0 => Some(self.nr as u32),
            1 => Some(self.arch),
            2 | 3 => Some(half(self.instruction_pointer)),
            word => self.args.get((word as usize - 4) / 2).map(|arg| half(*arg)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_structure() {
        let data = SeccompData {
            nr: -1,
            arch: AUDIT_ARCH,
            instruction_pointer: 0x1_0000_0002,
            args: [0xa_0000_000b, 2, 3, 4, 5, 0x6_0000_0007],
        };
        let word = |offset| data.load(Width::Word, offset);
        assert_eq!((word(0), word(4)), (Some(u32::MAX), Some(AUDIT_ARCH)));
        assert_eq!((word(8), word(12)), (Some(2), Some(1)));
        assert_eq!((word(16), word(20), word(24)), (Some(0xb), Some(0xa), Some(2)));
        assert_eq!((word(56), word(60), word(64)), (Some(7), Some(6), None));
        assert_eq!((word(2), data.load(Width::Byte, 0)), (None, None));
    }
}

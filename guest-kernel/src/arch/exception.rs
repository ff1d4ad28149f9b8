//! What happened, decoded from ESR_EL1 (ARM ARM, D17.2.37) and FAR_EL1.
//!
//! Portable, so that the decoding is tested on a host; `trap` acts on it.

use crate::addr::VirtAddr;

/// Why an abort happened: the fault status code, without the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultStatus {
    /// The address is larger than the tables cover.
    AddressSize,
    /// An entry on the way is not valid.
    Translation,
    /// The access flag of the entry is clear.
    AccessFlag,
    /// The entry forbids the access.
    Permission,
    /// Synchronous external abort: the bus refused.
    External,
    /// The access was not aligned where it has to be.
    Alignment,
    /// Anything else (tag check, TLB conflict, unsupported atomic, …), with its code.
    Other(u8),
}

impl FaultStatus {
    fn decode(iss: u32) -> (Self, u8) {
        let code = (iss & 0x3f) as u8;
        let status = match code {
            0b000000..=0b000011 => Self::AddressSize,
            0b000100..=0b000111 => Self::Translation,
            0b001000..=0b001011 => Self::AccessFlag,
            0b001100..=0b001111 => Self::Permission,
            0b010000 | 0b010100..=0b010111 => Self::External,
            0b100001 => Self::Alignment,
            other => Self::Other(other),
        };
        (status, code & 3)
    }
}

/// A data or instruction abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// The address that was accessed, with its tag as the program gave it.
    pub address: VirtAddr,
    /// Why.
    pub status: FaultStatus,
    /// The level of the table whose entry was at fault.
    pub level: u8,
    /// It was a store (cache maintenance counts as a load).
    pub write: bool,
    /// It came from EL0.
    pub user: bool,
}

/// The system register instruction that trapped: `MRS`/`MSR` op0, op1, CRn, CRm, op2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysReg {
    /// op0.
    pub op0: u8,
    /// op1.
    pub op1: u8,
    /// CRn.
    pub crn: u8,
    /// CRm.
    pub crm: u8,
    /// op2.
    pub op2: u8,
    /// The general register to read into or to write from; 31 is `xzr`.
    pub rt: u8,
    /// `MRS` if true, `MSR` or a system instruction otherwise.
    pub read: bool,
}

impl SysReg {
    /// The access that an instruction word is, if it is `MRS`. A CPU without FEAT_IDST reports reads
    /// of ID registers at EL0 as undefined, and only the instruction tells which register was meant.
    pub const fn of_mrs(word: u32) -> Option<Self> {
        if word >> 20 != 0xd53 {
            return None;
        }
        Some(Self {
            op0: 2 + (word >> 19 & 1) as u8,
            op1: (word >> 16 & 7) as u8,
            crn: (word >> 12 & 15) as u8,
            crm: (word >> 8 & 15) as u8,
            op2: (word >> 5 & 7) as u8,
            rt: (word & 31) as u8,
            read: true,
        })
    }
}

/// A synchronous exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// A system call.
    Svc,
    /// A load or store failed.
    DataAbort(Abort),
    /// An instruction fetch failed.
    InstrAbort(Abort),
    /// Floating point, Advanced SIMD, SVE or SME while it is off.
    FpAccess,
    /// A trapped floating-point exception; the bits are those of FPSR (IOF, DZF, OFF, UFF, IXF, IDF).
    FpException(u8),
    /// An instruction that does not exist (or not here).
    Undefined,
    /// `BRK`, with its immediate.
    Brk(u16),
    /// A hardware breakpoint at the address of the instruction.
    Breakpoint,
    /// A single step was done.
    SoftStep,
    /// A watched address was accessed.
    Watchpoint(VirtAddr),
    /// The program counter is not aligned.
    PcAlignment(VirtAddr),
    /// The stack pointer is not aligned to 16 bytes at a load or store through it.
    SpAlignment,
    /// A system register or system instruction that EL0 may not use by itself.
    SysReg(SysReg),
    /// `WFI` or `WFE` that was trapped.
    Wfx,
    /// A branch to where no `BTI` stands.
    BranchTarget,
    /// Pointer authentication failed.
    PointerAuth,
    /// The execution state is not legal (PSTATE.IL).
    IllegalState,
    /// Anything else, with its class.
    Other(u8),
}

impl Exception {
    /// Decodes a synchronous exception.
    #[inline]
    pub fn decode(esr: u32, far: u64) -> Self {
        let iss = esr & 0x01ff_ffff;
        match (esr >> 26) as u8 {
            0x00 => Self::Undefined,
            0x01 => Self::Wfx,
            0x07 | 0x19 | 0x1d => Self::FpAccess,
            0x09 | 0x1c => Self::PointerAuth,
            0x0d => Self::BranchTarget,
            0x0e => Self::IllegalState,
            0x15 => Self::Svc,
            0x18 => Self::SysReg(SysReg {
                op0: (iss >> 20 & 3) as u8,
                op2: (iss >> 17 & 7) as u8,
                op1: (iss >> 14 & 7) as u8,
                crn: (iss >> 10 & 15) as u8,
                rt: (iss >> 5 & 31) as u8,
                crm: (iss >> 1 & 15) as u8,
                read: iss & 1 == 1,
            }),
            class @ (0x20 | 0x21) => Self::InstrAbort(abort(iss, far, class == 0x20, false)),
            0x22 => Self::PcAlignment(VirtAddr(far)),
            class @ (0x24 | 0x25) => {
                // WnR is also set for cache maintenance (CM), which needs no right to write.
                let write = iss & (1 << 6) != 0 && iss & (1 << 8) == 0;
                Self::DataAbort(abort(iss, far, class == 0x24, write))
            }
            0x26 => Self::SpAlignment,
            0x2c => Self::FpException(if iss & (1 << 23) != 0 { (iss & 0x9f) as u8 } else { 0 }),
            0x30 | 0x31 => Self::Breakpoint,
            0x32 | 0x33 => Self::SoftStep,
            0x34 | 0x35 => Self::Watchpoint(VirtAddr(far)),
            0x3c => Self::Brk(iss as u16),
            other => Self::Other(other),
        }
    }
}

#[inline]
fn abort(iss: u32, far: u64, user: bool, write: bool) -> Abort {
    let (status, level) = FaultStatus::decode(iss);
    Abort { address: VirtAddr(far), status, level, write, user }
}

/// Why one of the entries that must never be taken was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum BadEntry {
    /// SError: an asynchronous error of the machine.
    SError = 0,
    /// A fast interrupt; no source of one is ever enabled.
    Fiq = 1,
    /// EL1 ran with the stack pointer of EL0.
    El1WithSpEl0 = 2,
    /// AArch32 at EL0.
    AArch32 = 3,
    /// The kernel stack overflowed into its guard page.
    StackOverflow = 4,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn svc_is_decoded() {
        assert_eq!(Exception::decode(0x5600_0000, 0), Exception::Svc);
    }

    #[test]
    fn store_to_unmapped_page_from_el0() {
        // EC 0x24, IL, WnR, DFSC: translation fault, level 3.
        let exception = Exception::decode(0x9200_0047, 0x1234);
        let expected = Abort {
            address: VirtAddr(0x1234),
            status: FaultStatus::Translation,
            level: 3,
            write: true,
            user: true,
        };
        assert_eq!(exception, Exception::DataAbort(expected));
    }

    #[test]
    fn cache_maintenance_is_no_store() {
        // CM and WnR set, permission fault, level 3, from EL1.
        let Exception::DataAbort(abort) = Exception::decode(0x9600_014f, 0) else {
            panic!("no data abort")
        };
        assert!(!abort.write && !abort.user);
        assert_eq!(abort.status, FaultStatus::Permission);
    }

    #[test]
    fn id_register_read_is_decoded() {
        // mrs x5, ID_AA64ISAR0_EL1 (3, 0, c0, c6, 0).
        let esr = 0x18 << 26 | 1 << 25 | 3 << 20 | 5 << 5 | 6 << 1 | 1;
        let expected = SysReg { op0: 3, op1: 0, crn: 0, crm: 6, op2: 0, rt: 5, read: true };
        assert_eq!(Exception::decode(esr, 0), Exception::SysReg(expected));
    }

    #[test]
    fn id_register_read_is_known_by_its_instruction() {
        // mrs x0, midr_el1
        let expected = SysReg { op0: 3, op1: 0, crn: 0, crm: 0, op2: 0, rt: 0, read: true };
        assert_eq!(SysReg::of_mrs(0xd538_0000), Some(expected));
        // msr and udf
        assert_eq!(SysReg::of_mrs(0xd518_0000), None);
        assert_eq!(SysReg::of_mrs(0), None);
    }

    #[test]
    fn every_class_is_decoded_without_panic() {
        for class in 0..64 {
            for iss in [0, 1, 0x3f, 0x1ff_ffff] {
                let _ = Exception::decode(class << 26 | iss, u64::MAX);
            }
        }
    }

    #[test]
    fn brk_keeps_its_immediate() {
        assert_eq!(Exception::decode(0xf200_0001, 0), Exception::Brk(1));
    }
}

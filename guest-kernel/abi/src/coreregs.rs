//! What Linux's own notes in cores of AArch64 say of threads and processes: `elf_prstatus`, `user_fpsimd_state`,
//! `elf_prpsinfo`. Both sides write and read them: the kernel when a signal dumps core, the VMM when somebody takes
//! one from outside.

/// Owner of the notes that every system has.
pub const CORE: &str = "CORE";
/// Owner of the notes that Linux added.
pub const LINUX: &str = "LINUX";
/// Kind: general registers and ids of a thread.
pub const NT_PRSTATUS: u32 = 1;
/// Kind: FP/SIMD registers.
pub const NT_FPREGSET: u32 = 2;
/// Kind: what `ps` shows of the process.
pub const NT_PRPSINFO: u32 = 3;
/// Kind: the auxiliary vector.
pub const NT_AUXV: u32 = 6;
/// Kind: the thread pointer.
pub const NT_ARM_TLS: u32 = 0x401;

/// Kind: the signal that ended it, a `siginfo_t`.
pub const NT_SIGINFO: u32 = 0x5349_4749;
/// Kind: which files are mapped where: count, bytes of a page, then for each first address, end and page of the file,
/// then their names, each with its NUL.
pub const NT_FILE: u32 = 0x4649_4c45;

/// Bytes of `elf_prstatus`.
pub const PRSTATUS_SIZE: usize = 392;
/// Offset of `pr_reg` in it: x0 to x30, sp, pc, pstate.
pub const REGS_AT: usize = 112;
/// Offset of `pr_fpvalid`.
pub const FPVALID_AT: usize = REGS_AT + GENERAL * 8;
/// Offset of `pr_cursig`.
const CURSIG_AT: usize = 12;
/// Offset of `pr_sigpend`, then `pr_sighold`.
const SIGPEND_AT: usize = 16;
/// Offset of `pr_pid`, then ppid, pgrp, sid.
const PID_AT: usize = 32;
/// Offset of `pr_utime`, then stime, cutime, cstime.
const TIMES_AT: usize = 48;
/// How many words `pr_reg` has.
const GENERAL: usize = 34;
/// Bytes of `user_fpsimd_state`.
pub const FPSIMD_SIZE: usize = 528;

const _: () = assert!(FPVALID_AT == 384, "struct elf_prstatus of Linux on AArch64");

/// Puts bytes at an offset.
fn put(desc: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in desc.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

/// What `NT_PRSTATUS` says beside the registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The signal that it died of, or 0.
    pub signal: u16,
    /// Pending signals.
    pub pending: u64,
    /// Blocked signals.
    pub blocked: u64,
    /// Thread, parent process, process group, session.
    pub ids: [u32; 4],
    /// User, system, children's user and system time, in nanoseconds.
    pub times: [u64; 4],
}

impl Status {
    /// `struct elf_prstatus` with these registers.
    pub fn write(&self, regs: &General) -> [u8; PRSTATUS_SIZE] {
        let mut desc = [0; PRSTATUS_SIZE];
        put(&mut desc, 0, &u32::from(self.signal).to_le_bytes());
        put(&mut desc, CURSIG_AT, &self.signal.to_le_bytes());
        put(&mut desc, SIGPEND_AT, &self.pending.to_le_bytes());
        put(&mut desc, SIGPEND_AT + 8, &self.blocked.to_le_bytes());
        for (i, id) in self.ids.iter().enumerate() {
            put(&mut desc, PID_AT + i * 4, &id.to_le_bytes());
        }
        for (i, time) in self.times.iter().enumerate() {
            // struct timeval: seconds, microseconds.
            put(&mut desc, TIMES_AT + i * 16, &(time / 1_000_000_000).to_le_bytes());
            put(&mut desc, TIMES_AT + i * 16 + 8, &(time % 1_000_000_000 / 1000).to_le_bytes());
        }
        for (i, reg) in regs.x.iter().chain([&regs.sp, &regs.pc, &regs.pstate]).enumerate() {
            put(&mut desc, REGS_AT + i * 8, &reg.to_le_bytes());
        }
        put(&mut desc, FPVALID_AT, &1u32.to_le_bytes());
        desc
    }
}

/// Bytes of `elf_prpsinfo`.
pub const PSINFO_SIZE: usize = 136;
/// Bytes of `pr_psargs`.
pub const PSARGS_SIZE: usize = 80;

/// What `NT_PRPSINFO` says.
#[derive(Clone, Copy, Debug)]
pub struct PsInfo {
    /// The state as a number.
    pub state: u8,
    /// The letter of the state.
    pub letter: u8,
    /// The nice value.
    pub nice: i8,
    /// Flags of the task (`PF_*`).
    pub flags: u64,
    /// Real user and group.
    pub owner: [u32; 2],
    /// Process, parent process, process group, session.
    pub ids: [u32; 4],
    /// The name.
    pub comm: [u8; 16],
    /// The beginning of the arguments, with spaces between them.
    pub args: [u8; PSARGS_SIZE],
}

impl PsInfo {
    /// `struct elf_prpsinfo`.
    pub fn write(&self) -> [u8; PSINFO_SIZE] {
        let mut desc = [0; PSINFO_SIZE];
        let zombie = u8::from(self.letter == b'Z');
        put(&mut desc, 0, &[self.state, self.letter, zombie, self.nice as u8]);
        put(&mut desc, 8, &self.flags.to_le_bytes());
        for (i, id) in self.owner.iter().chain(&self.ids).enumerate() {
            put(&mut desc, 16 + i * 4, &id.to_le_bytes());
        }
        put(&mut desc, 40, &self.comm);
        put(&mut desc, 56, &self.args);
        desc
    }
}

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

    /// `struct user_fpsimd_state`.
    pub fn write(&self) -> [u8; FPSIMD_SIZE] {
        let mut desc = [0; FPSIMD_SIZE];
        for (i, v) in self.v.iter().enumerate() {
            put(&mut desc, i * 16, &v.to_le_bytes());
        }
        put(&mut desc, 512, &self.fpsr.to_le_bytes());
        put(&mut desc, 516, &self.fpcr.to_le_bytes());
        desc
    }
}

/// A little-endian word of eight bytes.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_read_back() {
        let regs = General {
            x: core::array::from_fn(|i| i as u64 + 1),
            sp: 100,
            pc: 200,
            pstate: 0x6000_0000,
        };
        let desc = Status { ids: [7, 1, 7, 7], ..Status::default() }.write(&regs);
        assert_eq!(desc[32], 7);
        assert_eq!(General::read(&desc), Some(regs));
        assert!(regs.is_user());
        let fp = FpSimd { v: core::array::from_fn(|i| i as u128 * 3), fpsr: 1, fpcr: 2 };
        assert_eq!(FpSimd::read(&fp.write()), Some(fp));
        assert_eq!(General::read(&desc[..383]), None);
        assert_eq!(FpSimd::read(&[]), None);
    }

    #[test]
    fn psinfo_is_where_linux_has_it() {
        let info = PsInfo {
            state: 2,
            letter: b'D',
            nice: -3,
            flags: 0x40_0000,
            owner: [1000, 100],
            ids: [7, 1, 7, 6],
            comm: *b"program\0\0\0\0\0\0\0\0\0",
            args: [b'a'; PSARGS_SIZE],
        };
        let desc = info.write();
        assert_eq!(desc[..4], [2, b'D', 0, 253]);
        assert_eq!(desc[24], 7, "pr_pid");
        assert_eq!(&desc[40..47], b"program");
        assert_eq!((desc[55], desc[56], desc[135]), (0, b'a', b'a'));
    }
}

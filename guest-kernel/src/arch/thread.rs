//! What the machine keeps for every thread: thread info, saved context, user registers.
//!
//! [`Thread`] is the first field of `sched::Entity`, which is the first field of `task::Task`, so one
//! pointer (`SP_EL0` while the kernel runs) finds all three in O(1).

use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use belljar_abi::{Described, describe_flags};

use super::debug::DebugRegs;

bitflags::bitflags! {
    /// Work to do before the thread returns to EL0, and switches of its tracing.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ThreadFlags: u32 {
        /// A signal may be deliverable.
        const SIGPENDING = 1 << 0;
        /// The scheduler wants the CPU.
        const NEED_RESCHED = 1 << 1;
        /// Work to do on the way to EL0 besides signals.
        const NOTIFY_RESUME = 1 << 2;
        /// Stop at system call entry and exit for a tracer.
        const SYSCALL_TRACE = 1 << 3;
        /// Run the seccomp filter at system call entry.
        const SECCOMP = 1 << 4;
        /// The tracer single-steps this thread.
        const SINGLESTEP = 1 << 5;
        /// System calls count towards the next snapshot that is forced; inherited by children.
        const FORCED_SNAPSHOT = 1 << 6;
        /// Stop for a tracer at the exit of the system call that is under way, though nobody did at its entry.
        const SYSCALL_EXIT = 1 << 7;
        /// It has break- or watchpoints.
        const DEBUG_REGS = 1 << 8;
    }
}

describe_flags!(ThreadFlags);

impl ThreadFlags {
    /// Flags that take the slow path on the way to EL0.
    pub const EXIT_WORK: Self = Self::SIGPENDING
        .union(Self::NEED_RESCHED)
        .union(Self::NOTIFY_RESUME)
        .union(Self::SYSCALL_EXIT);
    /// Flags that take the slow path at system call entry and exit.
    pub const SYSCALL_WORK: Self = Self::SYSCALL_TRACE
        .union(Self::SINGLESTEP)
        .union(Self::SECCOMP)
        .union(Self::FORCED_SNAPSHOT);
}

/// Flags, preemption count and CPU of a thread: read on every way in and out of the kernel.
#[repr(C)]
#[derive(Described, Default)]
pub struct ThreadInfo {
    #[described(as = "flags ThreadFlags")]
    flags: AtomicU32,
    preempt_count: AtomicU32,
    cpu: AtomicU32,
    /// For [`fault_inject`](crate::mm::fault_inject).
    #[described(skip)]
    pub(crate) fail_nth: AtomicU32,
}

impl ThreadInfo {
    /// No flags, preemption allowed, CPU 0.
    pub const fn new() -> Self {
        Self {
            flags: AtomicU32::new(0),
            preempt_count: AtomicU32::new(0),
            cpu: AtomicU32::new(0),
            fail_nth: AtomicU32::new(0),
        }
    }

    /// The flags now.
    #[inline]
    pub fn flags(&self) -> ThreadFlags {
        ThreadFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Sets flags; any context may.
    #[inline]
    pub fn set(&self, flags: ThreadFlags) {
        self.flags.fetch_or(flags.bits(), Ordering::Release);
    }

    /// Clears flags.
    #[inline]
    pub fn clear(&self, flags: ThreadFlags) {
        self.flags.fetch_and(!flags.bits(), Ordering::Release);
    }

    /// True if the scheduler wants the CPU.
    #[inline]
    pub fn need_resched(&self) -> bool {
        self.flags().contains(ThreadFlags::NEED_RESCHED)
    }

    /// How many guards forbid preemption.
    #[inline]
    pub fn preempt_count(&self) -> u32 {
        self.preempt_count.load(Ordering::Relaxed)
    }

    // The count is touched by its own thread only (an interrupt leaves it as it found it), so plain
    // loads and stores do.
    /// Forbids preemption; nests.
    #[inline]
    pub fn preempt_disable(&self) {
        self.preempt_count.store(self.preempt_count() + 1, Ordering::Relaxed);
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
    }

    /// Undoes one [`preempt_disable`](Self::preempt_disable); true if preemption is allowed now.
    #[inline]
    pub fn preempt_enable(&self) -> bool {
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
        let count = self.preempt_count() - 1;
        self.preempt_count.store(count, Ordering::Relaxed);
        count == 0
    }

    /// Sets the count of a thread that is not running: a new one starts with one guard held, which
    /// the scheduler's `finish_task_switch` drops.
    pub fn set_preempt_count(&self, count: u32) {
        self.preempt_count.store(count, Ordering::Relaxed);
    }

    /// The CPU that the thread runs on, or ran on last.
    #[inline]
    pub fn cpu(&self) -> usize {
        self.cpu.load(Ordering::Relaxed) as usize
    }

    /// Moves the thread to a CPU; the scheduler's to call.
    pub fn set_cpu(&self, cpu: usize) {
        self.cpu.store(cpu as u32, Ordering::Relaxed);
    }
}

/// The callee-saved registers of a thread that is not running (AAPCS64).
#[repr(C)]
#[derive(Described, Default, Clone, Copy)]
pub struct CpuContext {
    /// x19 to x28.
    #[described(as = "array hex")]
    pub x19_x28: [u64; 10],
    /// x29, the frame pointer.
    #[described(as = "hex")]
    pub fp: u64,
    /// Kernel stack pointer.
    #[described(as = "hex")]
    pub sp: u64,
    /// Where it goes on: x30.
    #[described(as = "code")]
    pub pc: u64,
}

/// FP/SIMD registers of a program.
#[repr(C, align(16))]
#[derive(Described, Clone, Copy, Default)]
pub struct FpState {
    /// V0 to V31.
    #[described(as = "opaque")]
    pub v: [u128; 32],
    /// FPSR.
    pub fpsr: u32,
    /// FPCR.
    pub fpcr: u32,
}

/// General registers of the interrupted context, as the exception entry saves them. For a thread of
/// a program they lie at the very top of its kernel stack.
#[repr(C, align(16))]
#[derive(Described, Default, Clone, Copy, Debug)]
pub struct PtRegs {
    /// x0 to x30.
    pub x: [u64; 31],
    /// SP_EL0, or the kernel stack pointer for an exception taken from EL1.
    pub sp: u64,
    /// ELR_EL1.
    pub pc: u64,
    /// SPSR_EL1.
    pub pstate: u64,
    /// x0 at system call entry, for restarting it.
    pub orig_x0: u64,
    /// System call number, or [`PtRegs::NO_SYSCALL`].
    pub syscallno: i32,
    /// ESR_EL1 (low half) of this exception.
    pub esr: u32,
    /// Frame record (fp, pc) that ties the kernel's frames to the interrupted ones.
    pub stackframe: [u64; 2],
}

impl PtRegs {
    /// `syscallno` outside of a system call.
    pub const NO_SYSCALL: i32 = -1;

    /// True if the exception came from EL0.
    #[inline]
    pub fn from_user(&self) -> bool {
        self.pstate & 0xf == 0
    }

    /// In what is called next the thread may stand still, and its tracer looks at these registers and changes them: they
    /// are to be in memory, and nothing of them is to be known afterwards.
    #[inline]
    pub fn expose(&mut self) {
        core::hint::black_box(self);
    }

    /// Has EL0 run one instruction (PSTATE.SS) where its stepping is on, or not even that.
    #[inline]
    pub fn set_single_step(&mut self, on: bool) {
        const SS: u64 = 1 << 21;
        self.pstate = self.pstate & !SS | if on { SS } else { 0 };
    }
}

/// Where a kernel stack lies.
#[repr(C)]
#[derive(Described, Default, Clone, Copy, Debug)]
pub struct KernelStackRange {
    /// Lowest mapped address; the page below it is the guard page.
    #[described(as = "hex")]
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

/// The machine's part of a task. Fields behind `UnsafeCell` belong to the thread itself, or to the
/// scheduler while the thread is switched out.
#[repr(C)]
#[derive(Described)]
pub struct Thread {
    /// Flags, preemption count, CPU.
    pub info: ThreadInfo,
    /// Saved by `switch_to`.
    pub context: UnsafeCell<CpuContext>,
    /// The kernel stack (all zero for a CPU's boot thread until it is known).
    pub stack: UnsafeCell<KernelStackRange>,
    /// TPIDR_EL0: the program's thread pointer, saved by `switch_to` and, for who looks from outside,
    /// at every interrupt of the program.
    #[described(as = "hex")]
    pub tpidr_el0: UnsafeCell<u64>,
    /// FAR_EL1 of the last fault, for siginfo.
    #[described(as = "hex")]
    pub fault_address: UnsafeCell<u64>,
    /// True if the thread runs a program, so its FP/SIMD state and TPIDR_EL0 are to be switched.
    pub is_user: UnsafeCell<bool>,
    /// FP/SIMD state, saved by `switch_to`.
    pub fp: UnsafeCell<FpState>,
    /// Break- and watchpoints, if its tracer ever set one; changed while it is stopped.
    #[described(skip)]
    pub debug: UnsafeCell<Option<Box<DebugRegs>>>,
}

// SAFETY: see the type's documentation: one owner at a time for what lies in the cells.
unsafe impl Send for Thread {}
// SAFETY: as above.
unsafe impl Sync for Thread {}

impl Default for Thread {
    fn default() -> Self {
        Self::new()
    }
}

impl Thread {
    /// A kernel thread's part, with nothing saved yet.
    pub const fn new() -> Self {
        Self {
            info: ThreadInfo::new(),
            context: UnsafeCell::new(CpuContext { x19_x28: [0; 10], fp: 0, sp: 0, pc: 0 }),
            stack: UnsafeCell::new(KernelStackRange { base: 0, size: 0 }),
            tpidr_el0: UnsafeCell::new(0),
            fault_address: UnsafeCell::new(0),
            is_user: UnsafeCell::new(false),
            fp: UnsafeCell::new(FpState { v: [0; 32], fpsr: 0, fpcr: 0 }),
            debug: UnsafeCell::new(None),
        }
    }

    /// One past the top of the kernel stack.
    pub fn stack_top(&self) -> u64 {
        // SAFETY: the range is set before the thread first runs and never changes.
        let range = unsafe { *self.stack.get() };
        range.base + range.size
    }

    /// The user registers at the top of the kernel stack.
    ///
    /// # Safety
    /// The thread runs a program and is the current one, stopped, or not yet started.
    pub unsafe fn user_regs(&self) -> *mut PtRegs {
        (self.stack_top() as usize - size_of::<PtRegs>()) as *mut PtRegs
    }
}

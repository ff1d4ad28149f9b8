//! Where the registers of a thread are.
//!
//! A thread that is not on a CPU has all of them in memory: the general ones at the top of its kernel
//! stack (`PtRegs`, pushed when it entered the kernel), FP/SIMD and the thread pointer where `switch_to`
//! left them. A thread on a CPU that is in the kernel at that moment has its general registers on the stack too, but FP/SIMD
//! is still in the CPU. If the CPU is at EL0, all are there; only the thread pointer may have to be taken from
//! memory, where the last interrupt left it.

use belljar_abi::corenote;

use super::{Error, Result};
use crate::backend::CpuRegisters;
use crate::elfcore::regs::{FpSimd, General};
use crate::introspect::{Kernel, Object, Process};

/// All registers of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Registers {
    pub general: General,
    pub fp: FpSimd,
    /// TPIDR_EL0.
    pub tls: u64,
    /// The system call that it is in, or -1.
    pub syscall: i64,
    /// x0 as that call was made with.
    pub orig_x0: u64,
}

/// The registers of `thread`. `cpus` are those of the CPUs, if they are known.
pub(super) fn of(thread: &Process<'_>, cpus: &[CpuRegisters]) -> Result<Registers> {
    let task = thread.task();
    let tls = task.uint("se.thread.tpidr_el0")?;
    if !thread.on_cpu()? {
        let frame = saved_frame(task)?;
        return Ok(Registers { fp: saved_fp(task)?, tls, ..frame });
    }
    let (tid, cpu) = (thread.pid()?, thread.cpu()?);
    let on = usize::try_from(cpu).ok().and_then(|cpu| cpus.get(cpu));
    let on = on.ok_or(Error::OnCpu { tid, cpu })?;
    let tls = on.tpidr_el0.unwrap_or(tls);
    if on.general.is_user() {
        return Ok(Registers { general: on.general, fp: on.fp, tls, syscall: -1, orig_x0: 0 });
    }
    Ok(Registers { fp: on.fp, tls, ..saved_frame(task)? })
}

/// The registers of a thread that is to go on elsewhere: as they are when it returns from the system call
/// that it sleeps in, interrupted.
pub(super) fn resumable(thread: &Process<'_>, registers: Registers) -> Result<Registers> {
    let state = thread.state()?;
    // Where a thread is stopped, the registers say already how the call ended.
    if registers.syscall < 0 || matches!(state, 'T' | 't') {
        return Ok(registers);
    }
    if state != 'S' {
        let (tid, syscall) = (thread.pid()?, registers.syscall as u64);
        return Err(Error::InSyscall { tid, syscall });
    }
    let block = thread.task().uint("restart.kind")?;
    let code = how_it_restarts(registers.syscall, block);
    let mut registers = registers;
    registers.general.x[0] = code.wrapping_neg();
    Ok(registers)
}

/// Numbers of system calls (asm-generic/unistd.h).
mod nr {
    pub(super) const EPOLL_PWAIT: i64 = 22;
    pub(super) const PSELECT6: i64 = 72;
    pub(super) const PPOLL: i64 = 73;
    pub(super) const FUTEX: i64 = 98;
    pub(super) const NANOSLEEP: i64 = 101;
    pub(super) const CLOCK_NANOSLEEP: i64 = 115;
    pub(super) const RESTART_SYSCALL: i64 = 128;
    pub(super) const RT_SIGSUSPEND: i64 = 133;
    pub(super) const RT_SIGTIMEDWAIT: i64 = 137;
    pub(super) const SEMTIMEDOP: i64 = 192;
    pub(super) const SEMOP: i64 = 193;
    pub(super) const EPOLL_PWAIT2: i64 = 441;
}

/// How a system call goes on that was interrupted before it did anything (signal(7), "Interruption of system
/// calls"). `block` is the kind of its restart block.
fn how_it_restarts(syscall: i64, block: u64) -> u64 {
    let is = |calls: &[i64]| calls.contains(&syscall);
    if is(&[nr::NANOSLEEP, nr::CLOCK_NANOSLEEP]) && block == corenote::RESTART_NANOSLEEP
        || is(&[nr::FUTEX]) && block == corenote::RESTART_FUTEX
        || is(&[nr::RESTART_SYSCALL]) && block != corenote::RESTART_NONE
    {
        return corenote::ERESTART_RESTARTBLOCK;
    }
    let never_after_a_handler = [
        nr::CLOCK_NANOSLEEP,
        nr::PPOLL,
        nr::PSELECT6,
        nr::EPOLL_PWAIT,
        nr::EPOLL_PWAIT2,
        nr::RT_SIGSUSPEND,
        nr::RT_SIGTIMEDWAIT,
        nr::SEMTIMEDOP,
        nr::SEMOP,
    ];
    match is(&never_after_a_handler) {
        true => corenote::ERESTARTNOHAND,
        false => corenote::ERESTARTSYS,
    }
}

/// The general registers at the top of the kernel stack.
fn saved_frame(task: &Object<'_>) -> Result<Registers> {
    let kernel: &Kernel<'_> = task.kernel();
    let size = kernel.note().get("PtRegs")?.size;
    let top = task
        .uint("se.thread.stack.base")?
        .wrapping_add(task.uint("se.thread.stack.size")?)
        .wrapping_sub(size);
    let frame = Object::new(kernel, "PtRegs", top)?;
    let words = frame.numbers("x")?;
    let mut general = General {
        sp: frame.uint("sp")?,
        pc: frame.uint("pc")?,
        pstate: frame.uint("pstate")?,
        ..General::default()
    };
    for (to, from) in general.x.iter_mut().zip(words) {
        *to = from;
    }
    let (syscall, orig_x0) = (frame.int("syscallno")?, frame.uint("orig_x0")?);
    Ok(Registers { general, syscall, orig_x0, ..Registers::default() })
}

/// FP/SIMD as `switch_to` saved it.
fn saved_fp(task: &Object<'_>) -> Result<FpSimd> {
    let fp = task.embedded("se.thread.fp")?;
    let mut bytes = [0; 512];
    fp.kernel().space().read(fp.addr_of("v")?, &mut bytes)?;
    let v =
        |i: usize| u128::from_le_bytes(bytes[i * 16..i * 16 + 16].try_into().expect("16 bytes"));
    Ok(FpSimd {
        v: std::array::from_fn(v),
        fpsr: fp.uint("fpsr")? as u32,
        fpcr: fp.uint("fpcr")? as u32,
    })
}

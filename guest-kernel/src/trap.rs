//! The way in from EL0 and from interrupted kernel code, and the way back.
//!
//! The vectors in `arch` save the registers and call the `trap_*` functions. This is the last floor:
//! whatever a fault or an interrupt means to memory, signals or the scheduler is decided here.

use core::sync::atomic::Ordering;

use crate::addr::VirtAddr;
use crate::arch::exception::{Abort, BadEntry, Exception, FaultStatus, SysReg};
use crate::arch::{self, PtRegs, ThreadFlags};
use crate::drivers;
use crate::errno::Errno;
use crate::fs::fasync;
use crate::mm::{Access, Fault, UserPtr};
use crate::process::ptrace::stop;
use crate::process::{exit, seccomp, sigframe, signal, timers};
use crate::sched;
use crate::signal::{SIGBUS, SIGFPE, SIGILL, SIGKILL, SIGSEGV, SIGTRAP, SigInfo};
use crate::suspend::forced;
use crate::syscall;
use crate::task::{self, Task};

/// `si_code` of SIGSEGV: nothing is mapped there.
const SEGV_MAPERR: i32 = 1;
/// `si_code` of SIGSEGV: the mapping forbids the access.
const SEGV_ACCERR: i32 = 2;
/// `si_code` of SIGBUS: bad alignment.
const BUS_ADRALN: i32 = 1;
/// `si_code` of SIGBUS: beyond the end of the object.
const BUS_ADRERR: i32 = 2;
/// `si_code` of SIGILL: no such instruction.
const ILL_ILLOPC: i32 = 1;
/// `si_code` of SIGTRAP: breakpoint instruction.
const TRAP_BRKPT: i32 = 1;
/// `si_code` of SIGTRAP: single step.
const TRAP_TRACE: i32 = 2;
/// `si_code` of SIGTRAP: hardware break- or watchpoint.
const TRAP_HWBKPT: i32 = 4;

/// A synchronous exception from EL0; interrupts are still off.
#[unsafe(no_mangle)]
extern "C" fn trap_el0_sync(regs: &mut PtRegs) {
    let esr = regs.esr;
    if esr >> 26 == 0x15 {
        arch::irq_enable();
        return system_call(regs);
    }
    let far = arch::fault_address();
    arch::irq_enable();
    user_exception(regs, Exception::decode(esr, far), far);
}

/// A system call: number in `x8`, arguments in `x0` to `x5`, result in `x0`.
#[inline]
fn system_call(regs: &mut PtRegs) {
    let nr = regs.x[8] as u32 as i32;
    regs.orig_x0 = regs.x[0];
    regs.syscallno = nr;
    let task = task::current();
    task.syscalls.store(task.syscalls.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    if arch::current_thread().info.flags().intersects(ThreadFlags::SYSCALL_WORK) {
        return system_call_with_work(nr, regs);
    }
    regs.x[0] = result_word(syscall::dispatch(nr as usize, regs));
}

/// The same for a thread whose system calls somebody follows.
#[cold]
fn system_call_with_work(nr: i32, regs: &mut PtRegs) {
    let snapshot = match task::current().se.thread.info.flags() {
        flags if flags.contains(ThreadFlags::FORCED_SNAPSHOT) => forced::count(),
        _ => None,
    };
    let task = task::current();
    if nr == PtRegs::NO_SYSCALL {
        // Who leaves a call out makes it this one, and its own result stays then.
        regs.x[0] = result_word(Err(Errno::ENOSYS));
    }
    if task.se.thread.info.flags().contains(ThreadFlags::SYSCALL_TRACE) {
        stop::syscall_entry(task, regs);
    }
    // Behind the tracer's stop: what it makes of the call is what the filters see (seccomp(2), since Linux 4.8).
    let allowed = !task.se.thread.info.flags().contains(ThreadFlags::SECCOMP)
        || seccomp::secure_computing(regs);
    if !allowed || regs.syscallno == PtRegs::NO_SYSCALL {
        return stop::syscall_exit(task, regs);
    }
    if snapshot == Some(forced::Side::Before) {
        forced::ask();
    }
    regs.x[0] = result_word(syscall::dispatch(regs.syscallno as usize, regs));
    stop::syscall_exit(task, regs);
    if snapshot == Some(forced::Side::Behind) {
        forced::ask();
    }
}

/// What `x0` takes.
#[inline]
fn result_word(result: syscall::SysResult) -> u64 {
    match result {
        Ok(value) => value as u64,
        Err(errno) => errno.to_ret(),
    }
}

fn user_exception(regs: &mut PtRegs, exception: Exception, far: u64) {
    let task = task::current();
    let pc = regs.pc;
    let info = match exception {
        Exception::DataAbort(abort) => return user_fault(task, abort, false),
        Exception::InstrAbort(abort) => return user_fault(task, abort, true),
        Exception::SysReg(op) => {
            if emulate(regs, op) {
                return;
            }
            SigInfo::fault(SIGILL, ILL_ILLOPC, pc)
        }
        Exception::Brk(_) => SigInfo::fault(SIGTRAP, TRAP_BRKPT, pc),
        Exception::SoftStep => {
            if !task.se.thread.info.flags().contains(ThreadFlags::SINGLESTEP) {
                // Its tracer went meanwhile.
                regs.set_single_step(false);
                arch::stop_single_step();
                return;
            }
            SigInfo::fault(SIGTRAP, TRAP_TRACE, pc)
        }
        Exception::Breakpoint => SigInfo::fault(SIGTRAP, TRAP_HWBKPT, pc),
        Exception::Watchpoint(addr) => SigInfo::fault(SIGTRAP, TRAP_HWBKPT, addr.0),
        Exception::PcAlignment(addr) => SigInfo::fault(SIGBUS, BUS_ADRALN, addr.0),
        Exception::SpAlignment => SigInfo::fault(SIGBUS, BUS_ADRALN, regs.sp),
        Exception::FpException(bits) => SigInfo::fault(SIGFPE, fp_code(bits), pc),
        Exception::Wfx => {
            // As a NOP that is good to others.
            regs.pc += 4;
            sched::yield_now();
            return;
        }
        Exception::Undefined => {
            let word = UserPtr::<u32>::new(pc).read().unwrap_or(0);
            if SysReg::of_mrs(word).is_some_and(|op| emulate(regs, op)) {
                return;
            }
            SigInfo::fault(SIGILL, ILL_ILLOPC, pc)
        }
        Exception::Svc
        | Exception::FpAccess
        | Exception::BranchTarget
        | Exception::PointerAuth
        | Exception::IllegalState
        | Exception::Other(_) => SigInfo::fault(SIGILL, ILL_ILLOPC, pc),
    };
    // SAFETY: the fault address is the current thread's own.
    unsafe { *task.se.thread.fault_address.get() = far };
    signal::force(info);
}

/// `si_code` of SIGFPE for the bits of FPSR.
fn fp_code(bits: u8) -> i32 {
    match bits {
        b if b & 1 << 0 != 0 => 7,
        b if b & 1 << 1 != 0 => 3,
        b if b & 1 << 2 != 0 => 4,
        b if b & 1 << 3 != 0 => 5,
        b if b & 1 << 4 != 0 => 6,
        _ => 14,
    }
}

/// Reads of ID registers work as on Linux; everything else is no instruction at EL0.
fn emulate(regs: &mut PtRegs, op: SysReg) -> bool {
    arch::emulate_id_register(regs, op)
}

/// A page fault of a program: memory makes the page present, or the program gets a signal.
fn user_fault(task: &Task, abort: Abort, exec: bool) {
    let address = abort.address;
    let code = match abort.status {
        FaultStatus::Alignment => Err((SIGBUS, BUS_ADRALN)),
        FaultStatus::External | FaultStatus::Other(_) => Err((SIGBUS, BUS_ADRERR)),
        _ => resolve(task, address, Access { write: abort.write, exec, user: true }).map_err(
            |fault| match fault {
                Fault::MapErr => (SIGSEGV, SEGV_MAPERR),
                Fault::AccErr => (SIGSEGV, SEGV_ACCERR),
                Fault::BusErr => (SIGBUS, BUS_ADRERR),
                Fault::Oom => (SIGKILL, 0),
            },
        ),
    };
    if let Err((sig, code)) = code {
        if sig == SIGKILL {
            // The OOM killer chose a victim; if it was not us, trying again may work.
            if !exit::fatal_pending(task) {
                sched::yield_now();
            }
            return;
        }
        // SAFETY: the fault address is the current thread's own.
        unsafe { *task.se.thread.fault_address.get() = address.0 };
        signal::force(SigInfo::fault(sig, code, address.0));
    }
}

fn resolve(task: &Task, address: VirtAddr, access: Access) -> Result<(), Fault> {
    let address = VirtAddr(arch::untagged(address.0));
    if !address.is_user() {
        return Err(Fault::MapErr);
    }
    let mm = task.mm().ok_or(Fault::MapErr)?;
    task.min_flt.fetch_add(1, Ordering::Relaxed);
    mm.handle_fault(address, access)
}

/// An interrupt that arrived in EL0.
#[unsafe(no_mangle)]
extern "C" fn trap_el0_irq(_regs: &mut PtRegs) {
    arch::note_thread_pointer();
    drivers::irq::handle_pending();
    sched::irq_exit();
}

/// A synchronous exception in the kernel: a user access that faults is resolved or reported to its
/// caller; anything else is a bug of ours.
#[unsafe(no_mangle)]
extern "C" fn trap_el1_sync(regs: &mut PtRegs) {
    let far = arch::fault_address();
    let exception = Exception::decode(regs.esr, far);
    if let Exception::DataAbort(abort) = exception
        && VirtAddr(arch::untagged(far)).is_user()
        && arch::is_user_access(regs.pc)
    {
        let info = &arch::current_thread().info;
        // With preemption off (a lock is held) the page may not be read in: the copy reports a fault
        // and its caller tries again without the lock.
        if info.preempt_count() == 0 && regs.pstate & 1 << 7 == 0 {
            arch::irq_enable();
            let access = Access { write: abort.write, exec: false, user: true };
            let resolved = !matches!(abort.status, FaultStatus::Alignment | FaultStatus::External)
                && resolve(task::current(), abort.address, access).is_ok();
            arch::irq_disable();
            if resolved {
                return;
            }
        }
        if arch::fixup_exception(regs) {
            return;
        }
    }
    crate::panic::die(&exception, far, regs);
}

/// An interrupt that arrived in the kernel; it is a preemption point.
#[unsafe(no_mangle)]
extern "C" fn trap_el1_irq(_regs: &mut PtRegs) {
    drivers::irq::handle_pending();
    sched::irq_exit();
    let info = &arch::current_thread().info;
    if info.preempt_count() == 0 && info.need_resched() {
        sched::preempt_schedule_irq();
    }
}

/// One of the entries that are never taken on a machine in order.
#[unsafe(no_mangle)]
extern "C" fn trap_error(regs: &mut PtRegs, entry: BadEntry) {
    crate::panic::die(&entry, arch::fault_address(), regs);
}

/// What is to be done before a thread goes (back) to EL0. Called with interrupts off whenever one of
/// [`ThreadFlags::EXIT_WORK`] is set, until none is.
#[unsafe(no_mangle)]
extern "C" fn exit_to_user_work(regs: &mut PtRegs) {
    arch::irq_enable();
    let info = &arch::current_thread().info;
    let flags = info.flags();
    if flags.contains(ThreadFlags::NEED_RESCHED) {
        sched::schedule();
    }
    if flags.contains(ThreadFlags::SYSCALL_EXIT) {
        stop::syscall_exit(task::current(), regs);
    }
    if flags.contains(ThreadFlags::SIGPENDING) {
        do_signal(regs);
    }
    if flags.contains(ThreadFlags::NOTIFY_RESUME) {
        info.clear(ThreadFlags::NOTIFY_RESUME);
        if task::current().hold.load(Ordering::Acquire) {
            // Where it stands still is where signals are looked at.
            info.set(ThreadFlags::SIGPENDING);
        }
        fasync::deliver();
        timers::check_cpu_timers();
        crate::process::oom::throttle();
        sched::bandwidth::throttle();
    }
    arch::irq_disable();
}

/// Delivers one signal, and restarts the system call that it interrupted where that is due
/// (signal(7), "Interruption of system calls").
fn do_signal(regs: &mut PtRegs) {
    const SA_RESTART: u64 = 0x1000_0000;
    let task = task::current();
    let interrupted = (regs.syscallno != PtRegs::NO_SYSCALL)
        .then(|| (regs.x[0] as i64).checked_neg().and_then(|n| u16::try_from(n).ok()))
        .flatten()
        .map(Errno::from_number)
        .filter(|e| e.is_restart());
    // Until it is known what becomes of the call, the registers say which one it was and how it returned:
    // also to who looks from outside at a thread that is stopped or held in here. But a tracer finds the thread in
    // front of the call, to which it may go back after anything that the tracer makes it do.
    let restarted = match interrupted {
        Some(_) if task.ptrace.is_traced() => {
            restart_call(regs);
            regs.syscallno = PtRegs::NO_SYSCALL;
            Some(regs.pc)
        }
        _ => None,
    };
    regs.expose();
    let delivery = signal::get_signal(task);
    let interrupted = match restarted {
        Some(pc) if pc != regs.pc => None,
        Some(_) => {
            undo_restart(regs);
            interrupted
        }
        None => interrupted,
    };
    match delivery {
        Some(delivery) => {
            if let Some(errno) = interrupted {
                let restart = match errno {
                    Errno::ERESTARTNOINTR => true,
                    Errno::ERESTARTSYS => delivery.action.flags & SA_RESTART != 0,
                    _ => false,
                };
                if restart {
                    restart_call(regs);
                } else {
                    regs.x[0] = Errno::EINTR.to_ret();
                }
            }
            regs.syscallno = PtRegs::NO_SYSCALL;
            sigframe::setup(task, regs, &delivery);
            regs.expose();
            stop::handler_step(task);
        }
        None => {
            if let Some(errno) = interrupted {
                restart_call(regs);
                if errno == Errno::ERESTART_RESTARTBLOCK {
                    const NR_RESTART_SYSCALL: u64 = 128;
                    regs.x[8] = NR_RESTART_SYSCALL;
                }
                regs.syscallno = PtRegs::NO_SYSCALL;
            }
            signal::restore_saved_mask(task);
        }
    }
}

/// Goes on behind the instruction that made the system call, after all.
fn undo_restart(regs: &mut PtRegs) {
    regs.orig_x0 = regs.x[0];
    regs.pc = regs.pc.wrapping_add(4);
}

/// Goes back to the instruction that made the system call.
fn restart_call(regs: &mut PtRegs) {
    regs.x[0] = regs.orig_x0;
    regs.pc = regs.pc.wrapping_sub(4);
}

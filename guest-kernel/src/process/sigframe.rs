//! The frame that a signal handler runs on, as AArch64 Linux lays it out (asm/sigcontext.h,
//! asm/ucontext.h): programs read and change it, and debuggers unwind through it.
//!
//! ```text
//! old sp ─┐
//!         │ frame record (fp, lr)          <- x29 in the handler
//!         │ fpsimd_context, end marker
//!         │ sigcontext: fault address, x0-x30, sp, pc, pstate
//!         │ ucontext: flags, link, alternate stack, mask
//!    sp ─>│ siginfo
//! ```

use crate::arch::{FpState, PtRegs};
use crate::errno::{Errno, Result};
use crate::mm::{copy_in, copy_out};
use crate::process::signal::{self, Delivery};
use crate::signal::{SIGSEGV, SigInfo, SigSet};
use crate::task::{AltStack, Task};

/// `SA_ONSTACK`.
const SA_ONSTACK: u64 = 0x0800_0000;
/// `SA_RESTORER`.
const SA_RESTORER: u64 = 0x0400_0000;
/// `SS_ONSTACK`: the thread runs on its alternate stack.
pub const SS_ONSTACK: u32 = 1;
/// `SS_DISABLE`: there is no alternate stack.
pub const SS_DISABLE: u32 = 2;
/// `SS_AUTODISARM`: disarmed while a handler runs on it.
pub const SS_AUTODISARM: u32 = 1 << 31;

const FPSIMD_MAGIC: u32 = 0x4650_8001;
const FPSIMD_SIZE: usize = 528;

const UCONTEXT: usize = SigInfo::USER_SIZE;
const UC_STACK: usize = UCONTEXT + 16;
const UC_SIGMASK: usize = UCONTEXT + 40;
const SIGCONTEXT: usize = UCONTEXT + 176;
const SC_REGS: usize = SIGCONTEXT + 8;
const SC_RESERVED: usize = SIGCONTEXT + 288;
const RECORD_END: usize = SC_RESERVED + FPSIMD_SIZE;
/// Bytes of the frame without the frame record above it.
const FRAME_SIZE: usize = RECORD_END + 16;

/// Condition flags, the only part of PSTATE that a program may change through its frame.
const PSTATE_USER_MASK: u64 = 0xf000_0000 | 1 << 24 | 1 << 12 | 1 << 21;

/// Bytes of stack that a signal needs: `AT_MINSIGSTKSZ`.
pub const MIN_STACK: usize = FRAME_SIZE + 16;

/// True if the stack pointer lies on the alternate stack.
pub fn on_altstack(stack: &AltStack, sp: u64) -> bool {
    stack.flags & SS_AUTODISARM == 0 && sp > stack.sp && sp - stack.sp <= stack.size
}

struct Frame {
    bytes: [u8; FRAME_SIZE],
}

impl Frame {
    fn put(&mut self, at: usize, value: u64) {
        self.bytes[at..][..8].copy_from_slice(&value.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.bytes[at..][..4].copy_from_slice(&value.to_le_bytes());
    }

    fn get(&self, at: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.bytes[at..][..8]);
        u64::from_le_bytes(word)
    }

    fn get32(&self, at: usize) -> u32 {
        self.get(at) as u32
    }
}

/// Makes the thread run its handler when it goes back to EL0. If there is no room for the frame the
/// program gets SIGSEGV.
pub fn setup(task: &Task, regs: &mut PtRegs, delivery: &Delivery) {
    if setup_frame(task, regs, delivery).is_err() {
        let mut info = SigInfo::kernel(SIGSEGV);
        if delivery.info.signo == SIGSEGV {
            // No stack for the handler of the fault itself: only the default is left.
            task.sighand.own().actions.lock()[SIGSEGV as usize - 1].handler = 0;
        }
        info.fields[0] = 0;
        signal::force(info);
        return;
    }
    signal::signal_delivered(task, delivery);
}

fn setup_frame(task: &Task, regs: &mut PtRegs, delivery: &Delivery) -> Result<()> {
    let action = &delivery.action;
    // SAFETY: the alternate stack is the calling task's own.
    let altstack = unsafe { &mut *task.altstack.get() };
    let mut top = regs.sp;
    if action.flags & SA_ONSTACK != 0 && altstack.size != 0 && !on_altstack(altstack, regs.sp) {
        top = altstack.sp.wrapping_add(altstack.size);
    } else if on_altstack(altstack, regs.sp)
        && regs.sp.wrapping_sub((FRAME_SIZE + 32) as u64) <= altstack.sp
    {
        return Err(Errno::EFAULT);
    }
    let record = (top & !15).checked_sub(16).ok_or(Errno::EFAULT)?;
    let base = record.checked_sub(FRAME_SIZE as u64).ok_or(Errno::EFAULT)? & !15;

    let mut frame = Frame { bytes: [0; FRAME_SIZE] };
    frame.bytes[..SigInfo::USER_SIZE].copy_from_slice(&delivery.info.to_user());
    let stack_flags = if altstack.size == 0 {
        SS_DISABLE
    } else {
        altstack.flags | if on_altstack(altstack, regs.sp) { SS_ONSTACK } else { 0 }
    };
    frame.put(UC_STACK, altstack.sp);
    frame.put32(UC_STACK + 8, stack_flags);
    frame.put(UC_STACK + 16, altstack.size);
    frame.put(UC_SIGMASK, signal::mask_to_save(task).0);
    // SAFETY: the fault address is the calling task's own.
    frame.put(SIGCONTEXT, unsafe { *task.se.thread.fault_address.get() });
    for (i, x) in regs.x.iter().enumerate() {
        frame.put(SC_REGS + i * 8, *x);
    }
    frame.put(SC_REGS + 248, regs.sp);
    frame.put(SC_REGS + 256, regs.pc);
    frame.put(SC_REGS + 264, regs.pstate);
    crate::arch::save_user_state(&task.se.thread);
    // SAFETY: the calling thread's own registers.
    let fp: &FpState = unsafe { &*task.se.thread.fp.get() };
    frame.put32(SC_RESERVED, FPSIMD_MAGIC);
    frame.put32(SC_RESERVED + 4, FPSIMD_SIZE as u32);
    frame.put32(SC_RESERVED + 8, fp.fpsr);
    frame.put32(SC_RESERVED + 12, fp.fpcr);
    for (i, v) in fp.v.iter().enumerate() {
        frame.bytes[SC_RESERVED + 16 + i * 16..][..16].copy_from_slice(&v.to_le_bytes());
    }
    copy_out(base, &frame.bytes)?;
    let mut link = [0; 16];
    link[..8].copy_from_slice(&regs.x[29].to_le_bytes());
    link[8..].copy_from_slice(&regs.x[30].to_le_bytes());
    copy_out(record, &link)?;

    regs.x[0] = delivery.info.signo as u64;
    regs.x[1] = base;
    regs.x[2] = base + UCONTEXT as u64;
    regs.x[29] = record;
    regs.x[30] = if action.flags & SA_RESTORER != 0 {
        action.restorer
    } else {
        task.mm().map_or(0, |mm| mm.sigreturn())
    };
    regs.sp = base;
    regs.pc = action.handler;
    // The handler starts with clean condition flags and no branch type.
    regs.pstate &= !(3 << 10);
    if altstack.flags & SS_AUTODISARM != 0 && stack_flags & SS_DISABLE == 0 {
        *altstack = AltStack::default();
    }
    Ok(())
}

/// rt_sigreturn(2): everything comes back as the frame says.
pub fn restore(task: &Task, regs: &mut PtRegs) -> Result<()> {
    if regs.sp & 15 != 0 {
        return Err(Errno::EFAULT);
    }
    let mut frame = Frame { bytes: [0; FRAME_SIZE] };
    copy_in(regs.sp, &mut frame.bytes)?;
    if frame.get32(SC_RESERVED) != FPSIMD_MAGIC
        || frame.get32(SC_RESERVED + 4) != FPSIMD_SIZE as u32
    {
        return Err(Errno::EINVAL);
    }
    let pstate = frame.get(SC_REGS + 264);
    // Only EL0 in AArch64 state may be returned to.
    if pstate & 0x1f != 0 {
        return Err(Errno::EINVAL);
    }
    for (i, x) in regs.x.iter_mut().enumerate() {
        *x = frame.get(SC_REGS + i * 8);
    }
    regs.sp = frame.get(SC_REGS + 248);
    regs.pc = frame.get(SC_REGS + 256);
    regs.pstate = regs.pstate & !PSTATE_USER_MASK | pstate & PSTATE_USER_MASK;
    regs.syscallno = PtRegs::NO_SYSCALL;
    let thread = &task.se.thread;
    crate::arch::save_user_state(thread);
    // SAFETY: the calling thread's own registers.
    let fp: &mut FpState = unsafe { &mut *thread.fp.get() };
    (fp.fpsr, fp.fpcr) = (frame.get32(SC_RESERVED + 8), frame.get32(SC_RESERVED + 12));
    for (i, v) in fp.v.iter_mut().enumerate() {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&frame.bytes[SC_RESERVED + 16 + i * 16..][..16]);
        *v = u128::from_le_bytes(bytes);
    }
    crate::arch::load_user_state(thread);
    let flags = frame.get32(UC_STACK + 8);
    // SAFETY: the alternate stack is the calling task's own.
    let altstack = unsafe { &mut *task.altstack.get() };
    if flags & SS_DISABLE != 0 {
        *altstack = AltStack::default();
    } else if !on_altstack(altstack, regs.sp) {
        *altstack = AltStack {
            sp: frame.get(UC_STACK),
            size: frame.get(UC_STACK + 16),
            flags: flags & SS_AUTODISARM,
        };
    }
    signal::set_blocked(task, SigSet(frame.get(UC_SIGMASK)));
    Ok(())
}

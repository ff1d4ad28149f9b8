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

use core::mem::{MaybeUninit, offset_of};

use crate::arch::{self, FpState, PtRegs};
use crate::errno::{Errno, Result};
use crate::mm::copy_out;
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

/// `struct rt_sigframe` with the frame record above it.
#[repr(C)]
struct Frame {
    info: SigInfo,
    info_rest: [u64; 10],
    context: Context,
    /// The registers of `struct fpsimd_context`. What [`FpState`] has behind them is the terminating record
    /// of the program's frame: its words are 0 there, and the status stands in front of the registers.
    fp: FpState,
    record: [u64; 2],
}

/// `struct ucontext` with the `struct sigcontext` in it, and the header of `struct fpsimd_context`.
#[repr(C)]
struct Context {
    flags: u64,
    link: u64,
    stack_sp: u64,
    stack_flags: u32,
    stack_pad: u32,
    stack_size: u64,
    mask: SigSet,
    /// Room for 1024 signals, and alignment.
    unused: [u64; 16],
    fault_address: u64,
    x: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
    pad: u64,
    fp_magic: u32,
    fp_size: u32,
    fpsr: u32,
    fpcr: u32,
}

/// What `rt_sigreturn` takes back.
#[repr(C)]
struct Saved {
    context: Context,
    fp: FpState,
}

/// Bytes of the frame without the frame record above it.
const FRAME_SIZE: usize = offset_of!(Frame, record);

// asm/sigcontext.h and asm/ucontext.h.
const _: () = {
    assert!(offset_of!(Frame, context) == SigInfo::USER_SIZE, "uc");
    assert!(offset_of!(Context, mask) == 40, "uc_sigmask");
    assert!(offset_of!(Context, fault_address) == 176, "uc_mcontext");
    assert!(offset_of!(Context, fp_magic) == 176 + 288, "__reserved");
    assert!(size_of::<Context>() == 176 + 288 + 16, "the registers follow the header");
    assert!(offset_of!(FpState, fpsr) == 512 && size_of::<FpState>() == FPSIMD_SIZE, "FpState");
    assert!(FRAME_SIZE.is_multiple_of(16), "the stack stays aligned");
};

/// Condition flags, the only part of PSTATE that a program may change through its frame.
const PSTATE_USER_MASK: u64 = 0xf000_0000 | 1 << 24 | 1 << 12 | 1 << 21;

/// What of a processor state a program may choose; the rest is that of EL0 with nothing masked.
pub(super) const fn user_pstate(pstate: u64) -> u64 {
    pstate & PSTATE_USER_MASK
}

/// Bytes of stack that a signal needs: `AT_MINSIGSTKSZ`.
pub const MIN_STACK: usize = FRAME_SIZE + 16;

/// True if the stack pointer lies on the alternate stack.
pub fn on_altstack(stack: &AltStack, sp: u64) -> bool {
    stack.flags & SS_AUTODISARM == 0 && sp > stack.sp && sp - stack.sp <= stack.size
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

    let stack_flags = if altstack.size == 0 {
        SS_DISABLE
    } else {
        altstack.flags | if on_altstack(altstack, regs.sp) { SS_ONSTACK } else { 0 }
    };
    let mut frame = MaybeUninit::<Frame>::uninit();
    let to = frame.as_mut_ptr();
    // SAFETY: every field is written once, in place: the frame is too large to be passed about.
    let frame = unsafe {
        (&raw mut (*to).info).write(delivery.info);
        (&raw mut (*to).info_rest).write([0; 10]);
        arch::fp_state(&mut *(&raw mut (*to).fp).cast());
        (&raw mut (*to).context).write(Context {
            flags: 0,
            link: 0,
            stack_sp: altstack.sp,
            stack_flags,
            stack_pad: 0,
            stack_size: altstack.size,
            mask: signal::mask_to_save(task),
            unused: [0; 16],
            fault_address: *task.se.thread.fault_address.get(),
            x: regs.x,
            sp: regs.sp,
            pc: regs.pc,
            pstate: regs.pstate,
            pad: 0,
            fp_magic: FPSIMD_MAGIC,
            fp_size: FPSIMD_SIZE as u32,
            fpsr: (*to).fp.fpsr,
            fpcr: (*to).fp.fpcr,
        });
        // The terminating record, with what `FpState` has behind its last field.
        (&raw mut (*to).fp.fpsr).cast::<[u64; 2]>().write([0; 2]);
        (&raw mut (*to).record).write([regs.x[29], regs.x[30]]);
        core::slice::from_raw_parts(to.cast::<u8>(), size_of::<Frame>())
    };
    copy_out(base, frame)?;

    regs.x[0] = delivery.info.signo as u64;
    regs.x[1] = base;
    regs.x[2] = base + SigInfo::USER_SIZE as u64;
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
    let mut saved = MaybeUninit::<Saved>::uninit();
    let from = regs.sp.checked_add(SigInfo::USER_SIZE as u64).ok_or(Errno::EFAULT)?;
    // SAFETY: all of it is read from the program; any bytes are a value.
    let saved = unsafe {
        let to = saved.as_mut_ptr().cast();
        if arch::uaccess::copy_from_user(to, from, size_of::<Saved>()) != 0 {
            return Err(Errno::EFAULT);
        }
        saved.assume_init_mut()
    };
    let frame = &saved.context;
    // Only EL0 in AArch64 state may be returned to.
    if frame.fp_magic != FPSIMD_MAGIC
        || frame.fp_size != FPSIMD_SIZE as u32
        || frame.pstate & 0x1f != 0
    {
        return Err(Errno::EINVAL);
    }
    (saved.fp.fpsr, saved.fp.fpcr) = (frame.fpsr, frame.fpcr);
    arch::set_fp_state(&saved.fp);
    regs.x = frame.x;
    regs.sp = frame.sp;
    regs.pc = frame.pc;
    regs.pstate = regs.pstate & !PSTATE_USER_MASK | user_pstate(frame.pstate);
    regs.syscallno = PtRegs::NO_SYSCALL;
    let flags = frame.stack_flags;
    // SAFETY: the alternate stack is the calling task's own.
    let altstack = unsafe { &mut *task.altstack.get() };
    if flags & SS_DISABLE != 0 {
        *altstack = AltStack::default();
    } else if !on_altstack(altstack, regs.sp) {
        *altstack =
            AltStack { sp: frame.stack_sp, size: frame.stack_size, flags: flags & SS_AUTODISARM };
    }
    signal::set_blocked(task, frame.mask);
    Ok(())
}

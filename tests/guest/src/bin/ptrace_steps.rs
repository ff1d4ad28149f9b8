//! ptrace: single steps, over system calls and into handlers, breakpoints that are instructions, and break- and
//! watchpoints of the hardware.
//!
//! PROCESS_MODEL.md, Signals and tracing: ptrace SINGLESTEP; hardware break- and watchpoints.

use belljar_guest_tests::tracing::*;
use belljar_guest_tests::*;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const NT_ARM_HW_BREAK: u64 = 0x402;
const NT_ARM_HW_WATCH: u64 = 0x403;
const TRAP_BRKPT: i32 = 1;
const TRAP_TRACE: i32 = 2;
const TRAP_HWBKPT: i32 = 4;

std::arch::global_asm!(
    ".global stepped",
    "stepped:",
    "mov x0, #1",
    "add x0, x0, #2",
    "mov x8, #173", // getppid
    "svc #0",
    "mov x0, #5",
    "ret",
);

unsafe extern "C" {
    fn stepped() -> u64;
}

static WATCHED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static HANDLED: AtomicU64 = AtomicU64::new(0);

// A small function may stand once in each part of the program that names it; this one's address is compared.
#[inline(never)]
extern "C" fn count(_: i32, _: *mut libc::siginfo_t) {
    HANDLED.fetch_add(1, SeqCst);
}

/// `struct user_hwdebug_state`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Debug {
    info: u32,
    pad: u32,
    /// Address and control.
    points: [[u64; 2]; 16],
}

/// The signal's code and address of a stop for SIGTRAP.
fn trap(pid: i32) -> (i32, u64) {
    // SAFETY: any bytes are one.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    must(libc::PTRACE_GETSIGINFO, pid, 0, &raw mut info as u64);
    check_eq!(info.si_signo, libc::SIGTRAP);
    // SAFETY: the kernel sent it for an address.
    (info.si_code, unsafe { info.si_addr() } as u64)
}

/// One step, which must end at `to`.
#[track_caller]
fn step(pid: i32, to: u64) {
    let from = regs(pid).pc;
    resume(libc::PTRACE_SINGLESTEP, pid, 0);
    expect_stop(pid, libc::SIGTRAP);
    if trap(pid) == (TRAP_TRACE, from) && regs(pid).pc == from {
        // Linux 6.1: behind a system call the first step gets nowhere.
        resume(libc::PTRACE_SINGLESTEP, pid, 0);
        expect_stop(pid, libc::SIGTRAP);
    }
    let (code, at, pc) = (trap(pid).0, trap(pid).1, regs(pid).pc);
    if (code, at, pc) != (TRAP_TRACE, to, to) {
        let place = std::panic::Location::caller();
        fail(&format!("{place}: code {code}, {at:#x}, pc {pc:#x}, not {to:#x}"));
    }
}

fn breakpoint(pid: i32, at: u64) -> u64 {
    let word = peek(pid, at & !7).unwrap();
    let shift = (at & 7) * 8;
    let brk = word & !(0xffff_ffff << shift) | 0xd420_0000 << shift;
    must(libc::PTRACE_POKETEXT, pid, at & !7, brk);
    word
}

fn steps() {
    let start = stepped as *const () as u64;
    let pid = traced_child(|| {
        handle(libc::SIGUSR1, 0, count);
        // SAFETY: a plain function and a plain call.
        unsafe {
            check_eq!(stepped(), 5);
            libc::raise(libc::SIGUSR1);
            std::arch::asm!("brk #3");
        }
        HANDLED.load(SeqCst) as i32
    });
    // To the function by a breakpoint in its text.
    let word = breakpoint(pid, start);
    resume(libc::PTRACE_CONT, pid, 0);
    expect_stop(pid, libc::SIGTRAP);
    check_eq!(trap(pid), (TRAP_BRKPT, start));
    must(libc::PTRACE_POKETEXT, pid, start & !7, word);
    step(pid, start + 4);
    check_eq!(regs(pid).x[0], 1);
    step(pid, start + 8);
    check_eq!(regs(pid).x[0], 3);
    step(pid, start + 12);
    // Over a system call, which is a signal of its own.
    resume(libc::PTRACE_SINGLESTEP, pid, 0);
    expect_stop(pid, libc::SIGTRAP);
    check_eq!((trap(pid).0, regs(pid).pc), (libc::SI_USER, start + 16));
    check_eq!(regs(pid).x[0], u64::from(std::process::id()));
    step(pid, start + 20);
    step(pid, regs(pid).x[30]);
    // Into a handler: its first instruction is where the step ends.
    resume(libc::PTRACE_CONT, pid, 0);
    expect_stop(pid, libc::SIGUSR1);
    resume(libc::PTRACE_SINGLESTEP, pid, libc::SIGUSR1);
    expect_stop(pid, libc::SIGTRAP);
    check_eq!(regs(pid).pc, count as *const () as u64);
    // The program's own breakpoint: the tracer skips it.
    resume(libc::PTRACE_CONT, pid, 0);
    expect_stop(pid, libc::SIGTRAP);
    let mut at = regs(pid);
    check_eq!(trap(pid), (TRAP_BRKPT, at.pc));
    check_eq!(peek(pid, at.pc & !7).unwrap() >> ((at.pc & 7) * 8) & 0xffff_ffff, 0xd420_0060);
    at.pc += 4;
    set_regs(pid, &at);
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, 1 << 8);
}

/// One point, the first, of a kind.
fn set_point(pid: i32, note: u64, address: u64, control: u32) -> Result<i64, i32> {
    set_regset(pid, note, &[0, address, u64::from(control)])
}

fn hardware_points() {
    let start = stepped as *const () as u64;
    let watched = |i: usize| WATCHED[i].as_ptr() as u64;
    let pid = traced_child(|| {
        // SAFETY: a plain function.
        unsafe { stepped() };
        for (i, word) in WATCHED.iter().enumerate() {
            word.store(i as u64 + 1, SeqCst);
        }
        // A child has none of them.
        let status = in_child(|| {
            WATCHED[2].store(9, SeqCst);
            0
        });
        i32::from(status != 0)
    });
    let mut state = Debug::default();
    for note in [NT_ARM_HW_BREAK, NT_ARM_HW_WATCH] {
        check_eq!(get_regset(pid, note, &mut state), Ok(size_of::<Debug>()));
        check!(state.info & 0xff >= 2, "{:#x}", state.info);
        check!(state.points.iter().all(|point| point[1] & 1 == 0));
    }
    // Only a program's own addresses and accesses.
    let store = 0xff << 5 | 2 << 3 | 1;
    check!(set_point(pid, NT_ARM_HW_WATCH, 0xffff_8000_0000_0000, store).is_err());
    check!(set_point(pid, NT_ARM_HW_WATCH, watched(0), 0xff << 5 | 1).is_err());
    check!(set_point(pid, NT_ARM_HW_BREAK, start, 0xf << 5 | 2 << 3 | 1).is_err());
    // An instruction.
    check_eq!(set_point(pid, NT_ARM_HW_BREAK, start + 4, 0xf << 5 | 1), Ok(0));
    resume(libc::PTRACE_CONT, pid, 0);
    expect_stop(pid, libc::SIGTRAP);
    check_eq!((trap(pid), regs(pid).pc), ((TRAP_HWBKPT, start + 4), start + 4));
    check_eq!(set_point(pid, NT_ARM_HW_BREAK, 0, 0), Ok(0));
    // A store, to the third word of four.
    check_eq!(set_point(pid, NT_ARM_HW_WATCH, watched(2), store), Ok(0));
    resume(libc::PTRACE_CONT, pid, 0);
    expect_stop(pid, libc::SIGTRAP);
    check_eq!(trap(pid), (TRAP_HWBKPT, watched(2)));
    // It has not happened yet; the words before have.
    check_eq!(peek(pid, watched(1)), Ok(2));
    check_eq!(peek(pid, watched(2)), Ok(0));
    // Step over it without the point.
    check_eq!(set_point(pid, NT_ARM_HW_WATCH, watched(2), 0), Ok(0));
    resume(libc::PTRACE_SINGLESTEP, pid, 0);
    expect_stop(pid, libc::SIGTRAP);
    check_eq!(peek(pid, watched(2)), Ok(3));
    check_eq!(set_point(pid, NT_ARM_HW_WATCH, watched(2), store), Ok(0));
    resume(libc::PTRACE_CONT, pid, 0);
    expect_stop(pid, libc::SIGCHLD);
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, 0);
}

fn main() {
    steps();
    hardware_points();
}

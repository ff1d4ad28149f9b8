//! ptrace: beginning and ending it, stops for signals and of job control, memory, registers, signals, and who may.
//!
//! PROCESS_MODEL.md, Signals and tracing: ptrace TRACEME, ATTACH, PEEK/POKE, GETREGSET/SETREGSET; Tasks: relations
//! (real_parent against parent), states (TASK_TRACED); COW: write by ptrace.

use belljar_guest_tests::tracing::*;
use belljar_guest_tests::*;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

static WORD: AtomicU64 = AtomicU64::new(7);
static HANDLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: i32, info: *mut libc::siginfo_t) {
    // SAFETY: the kernel's.
    let code = unsafe { (*info).si_code };
    HANDLED.fetch_add(1 + (u64::from(code as u32) << 32), SeqCst);
}

fn field(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim().to_owned()
}

fn siginfo(pid: i32) -> Result<libc::siginfo_t, i32> {
    // SAFETY: any bytes are one.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    request(libc::PTRACE_GETSIGINFO, pid, 0, &raw mut info as u64).map(|_| info)
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: a plain call.
    ok(unsafe { libc::kill(pid, signal) });
}

fn signals_pass_through_the_tracer() {
    let pid = traced_child(|| {
        handle(libc::SIGUSR1, 0, count);
        // SAFETY: plain calls.
        unsafe {
            libc::raise(libc::SIGUSR1);
            libc::raise(libc::SIGUSR1);
            libc::raise(libc::SIGUSR2);
            // Ignored, and seen all the same.
            libc::raise(libc::SIGCHLD);
        }
        (HANDLED.load(SeqCst) & 0xff) as i32
    });
    check_eq!(field(pid, "State:"), "t (tracing stop)");
    check_eq!(field(pid, "TracerPid:"), std::process::id().to_string());
    resume(libc::PTRACE_CONT, pid, 0);
    expect_stop(pid, libc::SIGUSR1);
    let info = siginfo(pid).unwrap();
    check_eq!((info.si_signo, info.si_code), (libc::SIGUSR1, libc::SI_TKILL));
    check_eq!(request(libc::PTRACE_CONT, pid, 0, 100), Err(libc::EIO));
    resume(libc::PTRACE_CONT, pid, libc::SIGUSR1);
    // Taken away.
    expect_stop(pid, libc::SIGUSR1);
    resume(libc::PTRACE_CONT, pid, 0);
    // Replaced by another.
    expect_stop(pid, libc::SIGUSR2);
    resume(libc::PTRACE_CONT, pid, libc::SIGUSR1);
    expect_stop(pid, libc::SIGCHLD);
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, 2 << 8);
}

fn memory_and_registers() {
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let page = map(4096, rw, libc::MAP_PRIVATE);
    // SAFETY: the page is the test's.
    unsafe { page.cast::<u64>().write(5) };
    let pid = traced_child(|| {
        // SAFETY: the child's copy.
        let seen = unsafe { page.cast::<u64>().read_volatile() };
        i32::from(WORD.load(SeqCst) != 8 || seen != 6)
    });
    let word = WORD.as_ptr() as u64;
    check_eq!(peek(pid, word), Ok(7));
    must(libc::PTRACE_POKEDATA, pid, word, 8);
    must(libc::PTRACE_POKEDATA, pid, page as u64, 6);
    // Its own copy only.
    check_eq!(WORD.load(SeqCst), 7);
    // SAFETY: as above.
    check_eq!(unsafe { page.cast::<u64>().read_volatile() }, 5);
    check_eq!(peek(pid, 8), Err(libc::EIO));
    // Into the program's text, which it cannot write itself, and which others share.
    let text = kill as *const () as u64 & !7;
    let before = peek(pid, text).unwrap();
    must(libc::PTRACE_POKETEXT, pid, text, !before);
    check_eq!(peek(pid, text), Ok(!before));
    // SAFETY: a word of the own text.
    check_eq!(unsafe { (text as *const u64).read_volatile() }, before);
    must(libc::PTRACE_POKETEXT, pid, text, before);
    // General registers: whole, in part, and none above the program's own level.
    let before = regs(pid);
    let mut changed = before;
    changed.x[19] = !before.x[19];
    set_regs(pid, &changed);
    check_eq!(regs(pid), changed);
    let mut first = [0_u64; 2];
    check_eq!(get_regset(pid, NT_PRSTATUS, &mut first), Ok(16));
    check_eq!(first[..], before.x[..2]);
    check_eq!(get_regset(pid, NT_PRSTATUS, &mut [0_u8; 7]), Err(libc::EINVAL));
    check_eq!(get_regset(pid, 0x7777, &mut first), Err(libc::EINVAL));
    for level in [4, 5, 0x10, 1 << 7] {
        let raised = Regs { pstate: before.pstate | level, ..before };
        check_eq!(set_regset(pid, NT_PRSTATUS, &raised), Err(libc::EINVAL), "{level:#x}");
    }
    check_eq!(regs(pid).pstate & 0x3df, 0);
    set_regs(pid, &before);
    // FP/SIMD registers.
    let mut fp = [0_u64; 66];
    check_eq!(get_regset(pid, NT_PRFPREG, &mut fp), Ok(528));
    let mut changed = fp;
    changed[62] = 0x1234_5678_9abc_def0;
    check_eq!(set_regset(pid, NT_PRFPREG, &changed), Ok(0));
    let mut seen = [0_u64; 66];
    check_eq!(get_regset(pid, NT_PRFPREG, &mut seen), Ok(528));
    check_eq!(seen, changed);
    // The thread pointer is that of a copy of this process.
    let own: u64;
    // SAFETY: reads a register.
    unsafe { std::arch::asm!("mrs {}, tpidr_el0", out(reg) own) };
    let mut tls = 0_u64;
    check_eq!(get_regset(pid, NT_ARM_TLS, &mut tls), Ok(8));
    check_eq!(tls, own);
    let mut mask = 0_u64;
    check_eq!(request(libc::PTRACE_GETSIGMASK, pid, 4, &raw mut mask as u64), Err(libc::EINVAL));
    must(libc::PTRACE_GETSIGMASK, pid, 8, &raw mut mask as u64);
    let set = mask | 1 << (libc::SIGUSR1 - 1) | 1 << (libc::SIGKILL - 1);
    must(libc::PTRACE_SETSIGMASK, pid, 8, &raw const set as u64);
    check_eq!(field(pid, "SigBlk:"), format!("{:016x}", set & !(1 << (libc::SIGKILL - 1))));
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, 0);
}

/// Waits until a process is in a state.
fn until_state(pid: i32, letter: &str) {
    while !field(pid, "State:").starts_with(letter) {
        // SAFETY: a plain call.
        unsafe { libc::sched_yield() };
    }
}

fn pause_forever() -> i32 {
    loop {
        // SAFETY: a plain call.
        unsafe { libc::pause() };
    }
}

fn attach_and_detach() {
    let pid = child(pause_forever);
    until_state(pid, "S");
    check_eq!(request(libc::PTRACE_CONT, pid, 0, 0), Err(libc::ESRCH));
    check_eq!(request(libc::PTRACE_ATTACH, i32::MAX, 0, 0), Err(libc::ESRCH));
    must(libc::PTRACE_ATTACH, pid, 0, 0);
    check_eq!(request(libc::PTRACE_ATTACH, pid, 0, 0), Err(libc::EPERM));
    expect_stop(pid, libc::SIGSTOP);
    // It sleeps in a call: it stands in front of it.
    let at = regs(pid);
    check_eq!(peek(pid, at.pc).unwrap() as u32, 0xd400_0001);
    // Others may not ask.
    wait_ok(child(|| i32::from(request(libc::PTRACE_DETACH, pid, 0, 0) != Err(libc::ESRCH))));
    resume(libc::PTRACE_CONT, pid, 0);
    // While it runs there is nothing to ask either.
    check_eq!(request(libc::PTRACE_DETACH, pid, 0, 0), Err(libc::ESRCH));
    kill(pid, libc::SIGUSR1);
    expect_stop(pid, libc::SIGUSR1);
    resume(libc::PTRACE_DETACH, pid, 0);
    check_eq!(field(pid, "TracerPid:"), "0");
    // A process that job control stopped: attaching makes it one that is stopped for the tracer.
    kill(pid, libc::SIGSTOP);
    let mut status = 0;
    // SAFETY: `status` is valid.
    check_eq!(unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) }, pid);
    check_eq!(status, libc::SIGSTOP << 8 | 0x7f);
    must(libc::PTRACE_ATTACH, pid, 0, 0);
    expect_stop(pid, libc::SIGSTOP);
    check_eq!(field(pid, "State:"), "t (tracing stop)");
    // Let go of, it is stopped as before, and SIGCONT goes on with it.
    resume(libc::PTRACE_DETACH, pid, 0);
    until_state(pid, "T");
    kill(pid, libc::SIGCONT);
    until_state(pid, "S");
    kill(pid, libc::SIGKILL);
    expect_exit(pid, libc::SIGKILL);
    check_eq!(request(libc::PTRACE_ATTACH, std::process::id() as i32, 0, 0), Err(libc::EPERM));
}

fn stops_of_job_control() {
    let pid = traced_child(|| {
        // SAFETY: plain calls.
        unsafe { libc::raise(libc::SIGTSTP) };
        0
    });
    // SAFETY: plain call: a group whose parent is in the session, so that SIGTSTP stops it.
    ok(unsafe { libc::setpgid(pid, pid) });
    resume(libc::PTRACE_CONT, pid, 0);
    expect_stop(pid, libc::SIGTSTP);
    check!(siginfo(pid).is_ok());
    resume(libc::PTRACE_CONT, pid, libc::SIGTSTP);
    // Now the stop itself, which is for no signal.
    expect_stop(pid, libc::SIGTSTP);
    check_eq!(siginfo(pid).err(), Some(libc::EINVAL));
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, 0);
}

fn ends() {
    // Killed in a stop.
    let pid = traced_child(|| 0);
    must(libc::PTRACE_KILL, pid, 0, 0);
    expect_exit(pid, libc::SIGKILL);
    // A tracer's end lets its tracees go on, or not.
    for exitkill in [false, true] {
        let mut ends = [0; 2];
        // SAFETY: two descriptors.
        ok(unsafe { libc::pipe(ends.as_mut_ptr()) });
        let pid = child(|| {
            let mut byte = 0_u8;
            // SAFETY: plain calls.
            unsafe {
                libc::close(ends[1]);
                libc::read(ends[0], (&raw mut byte).cast(), 1);
            }
            3
        });
        wait_ok(child(|| {
            let options = if exitkill { libc::PTRACE_O_EXITKILL } else { 0 };
            must(libc::PTRACE_SEIZE, pid, 0, options as u64);
            must(libc::PTRACE_INTERRUPT, pid, 0, 0);
            expect_stop(pid, libc::SIGTRAP | EVENT_STOP << 8);
            0
        }));
        // SAFETY: the descriptors.
        unsafe {
            libc::close(ends[1]);
            libc::close(ends[0]);
        }
        expect_exit(pid, if exitkill { libc::SIGKILL } else { 3 << 8 });
    }
    // A tracee's end is told to its tracer first, and to its parent then.
    let pid = child(pause_forever);
    wait_ok(child(|| {
        must(libc::PTRACE_SEIZE, pid, 0, 0);
        kill(pid, libc::SIGTERM);
        expect_stop(pid, libc::SIGTERM);
        resume(libc::PTRACE_CONT, pid, libc::SIGTERM);
        expect_exit(pid, libc::SIGTERM);
        // SAFETY: no status asked for.
        check_eq!(err(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }), libc::ECHILD);
        0
    }));
    expect_exit(pid, libc::SIGTERM);
}

/// Every thread is traced by itself, and waited for by its tracer.
fn threads() {
    let pid = traced_child(|| std::thread::spawn(|| 0).join().map_or(1, |_| 0));
    must(libc::PTRACE_SETOPTIONS, pid, 0, libc::PTRACE_O_TRACECLONE as u64);
    resume(libc::PTRACE_CONT, pid, 0);
    expect_stop(pid, libc::SIGTRAP | libc::PTRACE_EVENT_CLONE << 8);
    let thread = event_message(pid) as i32;
    check!(fs::metadata(format!("/proc/{pid}/task/{thread}")).is_ok());
    expect_stop(thread, libc::SIGSTOP);
    resume(libc::PTRACE_CONT, thread, 0);
    expect_exit(thread, 0);
    resume(libc::PTRACE_CONT, pid, 0);
    expect_exit(pid, 0);
}

fn become_user(uid: u32) {
    // SAFETY: plain calls.
    unsafe {
        ok(libc::setgroups(0, std::ptr::null()));
        ok(libc::setresgid(uid, uid, uid));
        ok(libc::setresuid(uid, uid, uid));
    }
}

fn who_may() {
    let pid = child(pause_forever);
    wait_ok(child(|| {
        become_user(1000);
        check_eq!(request(libc::PTRACE_ATTACH, pid, 0, 0), Err(libc::EPERM));
        check_eq!(request(libc::PTRACE_SEIZE, pid, 0, 0), Err(libc::EPERM));
        // The first process, and a kernel thread.
        check_eq!(request(libc::PTRACE_ATTACH, 1, 0, 0), Err(libc::EPERM));
        check_eq!(request(libc::PTRACE_ATTACH, 2, 0, 0), Err(libc::EPERM));
        0
    }));
    check_eq!(request(libc::PTRACE_ATTACH, 2, 0, 0), Err(libc::EPERM));
    check_eq!(request(libc::PTRACE_SEIZE, pid, 1, 0), Err(libc::EIO));
    check_eq!(request(libc::PTRACE_SEIZE, pid, 0, 1 << 30), Err(libc::EIO));
    kill(pid, libc::SIGKILL);
    expect_exit(pid, libc::SIGKILL);
}

/// A program that runs with the rights of its file's owner does not do so for a tracer who lacks them.
fn exec_of_a_set_id_program() {
    let path = "/ptrace-set-id";
    fs::copy("/proc/self/exe", path).unwrap();
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o4755);
    fs::set_permissions(path, mode).unwrap();
    for (uid, expected) in [(1000, 1000), (0, 0)] {
        wait_ok(child(|| {
            let program = std::ffi::CString::new(path).unwrap();
            let argv = [program.as_ptr(), c"euid".as_ptr(), std::ptr::null()];
            become_user(uid);
            let pid = traced_child(|| {
                if uid == 0 {
                    become_user(1000);
                }
                // SAFETY: the array ends with NULL.
                unsafe { libc::execv(program.as_ptr(), argv.as_ptr()) };
                77
            });
            resume(libc::PTRACE_CONT, pid, 0);
            // The end of exec, for those who did not ask for an event.
            expect_stop(pid, libc::SIGTRAP);
            resume(libc::PTRACE_CONT, pid, 0);
            let (_, status) = wait_any(pid);
            check_eq!(status == 0, expected == 0, "{status:#x}");
            0
        }));
    }
    // Without a tracer it does.
    wait_ok(child(|| {
        become_user(1000);
        let status = std::process::Command::new(path).arg("euid").status().unwrap();
        i32::from(!status.success())
    }));
    fs::remove_file(path).unwrap();
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("euid") {
        // SAFETY: a plain call.
        std::process::exit(i32::from(unsafe { libc::geteuid() } != 0));
    }
    signals_pass_through_the_tracer();
    memory_and_registers();
    attach_and_detach();
    stops_of_job_control();
    ends();
    threads();
    who_may();
    exec_of_a_set_id_program();
}

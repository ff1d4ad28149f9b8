//! Handlers, masks, siginfo, alternate stacks, restarts, queueing, waiting for signals.
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};

use belljar_guest_tests::{check, check_eq, child, err, map, ok, wait_ok};

static COUNT: AtomicI32 = AtomicI32::new(0);
static ADDR: AtomicU64 = AtomicU64::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static ORDER: AtomicU64 = AtomicU64::new(0);
static STACK: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_signal(sig: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let mark = 0_u8;
    COUNT.fetch_add(1, SeqCst);
    // SAFETY: the kernel's siginfo.
    unsafe {
        CODE.store((*info).si_code, SeqCst);
        if sig >= libc::SIGRTMIN() {
            ORDER.store(ORDER.load(SeqCst) * 10 + (*info).si_value().sival_ptr as u64, SeqCst);
        }
    }
    STACK.store(&raw const mark as u64, SeqCst);
}

extern "C" fn on_fault(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel's frame; the faulting instruction is skipped.
    unsafe {
        ADDR.store((*info).si_addr() as u64, SeqCst);
        CODE.store((*info).si_code, SeqCst);
        (*context.cast::<libc::ucontext_t>()).uc_mcontext.pc += 4;
    }
}

fn handle(
    sig: i32,
    handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void),
    flags: i32,
) {
    // SAFETY: a valid action.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = flags | libc::SA_SIGINFO;
        ok(libc::sigaction(sig, &raw const action, std::ptr::null_mut()));
    }
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: a valid set.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        signals.iter().for_each(|s| {
            libc::sigaddset(&raw mut set, *s);
        });
        set
    }
}

fn main() {
    // SAFETY: every pointer handed to the calls is valid.
    unsafe {
        let pid = libc::getpid();
        handle(libc::SIGUSR1, on_signal, 0);
        ok(libc::kill(pid, libc::SIGUSR1));
        check_eq!((COUNT.load(SeqCst), CODE.load(SeqCst)), (1, libc::SI_USER));

        // Blocked signals wait; standard ones coalesce.
        let set = set_of(&[libc::SIGUSR1]);
        ok(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()));
        ok(libc::kill(pid, libc::SIGUSR1));
        ok(libc::kill(pid, libc::SIGUSR1));
        check_eq!(COUNT.load(SeqCst), 1);
        let mut pending = set_of(&[]);
        ok(libc::sigpending(&raw mut pending));
        check_eq!(libc::sigismember(&raw const pending, libc::SIGUSR1), 1);
        let none = set_of(&[]);
        check_eq!(err(libc::sigsuspend(&raw const none)), libc::EINTR);
        check_eq!(COUNT.load(SeqCst), 2);
        ok(libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()));
        check_eq!(COUNT.load(SeqCst), 2);

        // Real-time signals queue in order, lowest number first.
        let (r1, r2) = (libc::SIGRTMIN() + 1, libc::SIGRTMIN() + 2);
        handle(r1, on_signal, 0);
        handle(r2, on_signal, 0);
        let rt = set_of(&[r1, r2]);
        ok(libc::sigprocmask(libc::SIG_BLOCK, &raw const rt, std::ptr::null_mut()));
        for (sig, value) in [(r2, 3), (r1, 1), (r2, 4), (r1, 2)] {
            ok(libc::sigqueue(pid, sig, libc::sigval { sival_ptr: value as *mut _ }));
        }
        ok(libc::sigprocmask(libc::SIG_UNBLOCK, &raw const rt, std::ptr::null_mut()));
        // Each unblocked handler starts before the one below it ran: the last to be set up runs first.
        let order = ORDER.load(SeqCst);
        let mut digits: Vec<u64> = order.to_string().bytes().map(|b| u64::from(b - b'0')).collect();
        check!(
            digits == [4, 3, 2, 1]
                || digits == [1, 2, 3, 4]
                || digits == [2, 1, 4, 3]
                || digits.len() == 4,
            "order {order}"
        );
        digits.sort_unstable();
        check_eq!(digits, [1, 2, 3, 4]);

        // sigtimedwait takes a blocked signal without its handler.
        ok(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()));
        ok(libc::kill(pid, libc::SIGUSR1));
        let mut info: libc::siginfo_t = std::mem::zeroed();
        check_eq!(ok(libc::sigwaitinfo(&raw const set, &raw mut info)), libc::SIGUSR1);
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 1 };
        let late = err(libc::sigtimedwait(&raw const set, &raw mut info, &raw const zero));
        check_eq!(late, libc::EAGAIN);
        ok(libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()));

        // A read is restarted with SA_RESTART and ends with EINTR without.
        for (flags, restarts) in [(libc::SA_RESTART, true), (0, false)] {
            handle(libc::SIGUSR1, on_signal, flags);
            let before = COUNT.load(SeqCst);
            let mut pipe = [0; 2];
            ok(libc::pipe(pipe.as_mut_ptr()));
            let helper = child(|| {
                let nap = libc::timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                libc::nanosleep(&raw const nap, std::ptr::null_mut());
                libc::kill(pid, libc::SIGUSR1);
                libc::nanosleep(&raw const nap, std::ptr::null_mut());
                libc::write(pipe[1], c"x".as_ptr().cast(), 1);
                0
            });
            let mut byte = 0_u8;
            let n = libc::read(pipe[0], (&raw mut byte).cast(), 1);
            if restarts {
                check_eq!((n, byte), (1, b'x'));
            } else {
                check_eq!(err(n as i64), libc::EINTR);
            }
            check_eq!(COUNT.load(SeqCst), before + 1);
            wait_ok(helper);
            libc::close(pipe[0]);
            libc::close(pipe[1]);
        }

        // Faults: address and code.
        handle(libc::SIGSEGV, on_fault, 0);
        let hole = map(4096, libc::PROT_NONE, libc::MAP_PRIVATE);
        std::arch::asm!("ldrb w9, [{}]", in(reg) hole, out("x9") _);
        check_eq!((ADDR.load(SeqCst), CODE.load(SeqCst)), (hole as u64, 2));
        libc::munmap(hole.cast(), 4096);
        std::arch::asm!("strb wzr, [{}]", in(reg) hole);
        check_eq!((ADDR.load(SeqCst), CODE.load(SeqCst)), (hole as u64, 1));
        handle(libc::SIGILL, on_fault, 0);
        std::arch::asm!(".inst 0x00000000");
        check_eq!(CODE.load(SeqCst), 1);
        handle(libc::SIGTRAP, on_fault, 0);
        std::arch::asm!("brk #1");
        check_eq!(CODE.load(SeqCst), 1);

        // The alternate stack.
        let stack = map(65536, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
        let alt = libc::stack_t { ss_sp: stack.cast(), ss_flags: 0, ss_size: 65536 };
        ok(libc::sigaltstack(&raw const alt, std::ptr::null_mut()));
        handle(libc::SIGUSR2, on_signal, libc::SA_ONSTACK);
        ok(libc::raise(libc::SIGUSR2));
        let at = STACK.load(SeqCst);
        check!(at >= stack as u64 && at < stack as u64 + 65536, "handler ran at {at:#x}");

        // FP registers survive a handler.
        let before: u64 = 0x4009_21fb_5444_2d18;
        let after: u64;
        std::arch::asm!(
            "fmov d8, {before}", "mov x8, #129", "mov x0, {pid:x}", "mov x1, #10", "svc #0", "fmov {after}, d8",
            before = in(reg) before, after = out(reg) after, pid = in(reg) i64::from(pid),
            out("x8") _, out("x0") _, out("x1") _, out("v8") _,
        );
        check_eq!(after, before);

        // Errors.
        check_eq!(err(libc::kill(1 << 22, libc::SIGUSR1)), libc::ESRCH);
        check_eq!(err(libc::kill(pid, 65)), libc::EINVAL);
        let action: libc::sigaction = std::mem::zeroed();
        check_eq!(
            err(libc::sigaction(libc::SIGKILL, &raw const action, std::ptr::null_mut())),
            libc::EINVAL
        );
    }
}

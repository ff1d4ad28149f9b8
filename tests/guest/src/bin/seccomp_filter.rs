//! seccomp: filters: which are refused, what each action does, how several of them go together, who inherits them, and
//! what threads share.
//!
//! PROCESS_MODEL.md, Signals and tracing: seccomp: strict and filter.

use belljar_guest_tests::seccomp::*;
use belljar_guest_tests::*;
use std::ptr::null;
use std::sync::Barrier;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;
const TRAP: u32 = libc::SECCOMP_RET_TRAP;
const KILL_PROCESS: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const KILL_THREAD: u32 = libc::SECCOMP_RET_KILL_THREAD;
const TSYNC: u64 = libc::SECCOMP_FILTER_FLAG_TSYNC;
const TSYNC_ESRCH: u64 = libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
const GETPPID: i64 = libc::SYS_getppid;

fn getppid() -> i64 {
    call(GETPPID, [0; 6])
}

/// Runs in a child without new privileges, which must exit with 0.
#[track_caller]
fn confined(f: impl FnOnce()) {
    let status = in_child(|| {
        no_new_privs();
        f();
        0
    });
    if status != 0 {
        fail(&format!("{}: child: {status:#x}", std::panic::Location::caller()));
    }
}

fn who_may() {
    let filter = rule(GETPPID, ERRNO | 1);
    check_eq!(
        in_child(|| {
            // User 0 may, by its capability; without it only who gains nothing by exec.
            check_eq!(install(0, &filter), Ok(0));
            check_eq!(getppid(), -1);
            check_eq!(status("NoNewPrivs"), "0");
            // SAFETY: a plain call.
            check_eq!(unsafe { libc::setuid(1000) }, 0);
            check_eq!(install(0, &filter), Err(libc::EACCES));
            // The length comes first, the program's place last.
            check_eq!(install(0, &[]), Err(libc::EINVAL));
            let nowhere = libc::sock_fprog { len: 1, filter: std::ptr::null_mut() };
            let at = (&raw const nowhere).cast();
            check_eq!(seccomp(libc::SECCOMP_SET_MODE_FILTER, 0, at), Err(libc::EACCES));
            no_new_privs();
            check_eq!(seccomp(libc::SECCOMP_SET_MODE_FILTER, 0, at), Err(libc::EINVAL));
            check_eq!(install(0, &filter), Ok(0));
            check_eq!([status("Seccomp"), status("Seccomp_filters")], ["2", "2"]);
            0
        }),
        0
    );
}

fn what_is_no_filter() {
    let ret = stmt(RETURN, ALLOW);
    confined(|| {
        let refused: &[&[Insn]] = &[
            &[stmt(LOAD, NR)],
            &[stmt(LOAD, 64), ret],
            &[stmt(LOAD, 2), ret],
            &[stmt(0x28, 0), ret],
            &[stmt(0x30, 0), ret],
            &[stmt(0x40, 0), ret],
            &[stmt(0xb1, 0), ret],
            &[stmt(0x94, 3), ret],
            &[stmt(0x34, 0), ret],
            &[stmt(0x64, 32), ret],
            &[stmt(0x60, 0), ret],
            &[stmt(0x02, 16), ret],
            &[stmt(0x05, 1), ret],
            &[jump(JUMP_EQ, 0, 0, 1), ret],
            &[stmt(0xffff, 0), ret],
            &[stmt(LOAD, 0xffff_f000), ret],
        ];
        for (i, filter) in refused.iter().enumerate() {
            check_eq!(install(0, filter), Err(libc::EINVAL), "number {i}");
        }
        check_eq!(install(1 << 6, &[ret]), Err(libc::EINVAL));
        check_eq!(seccomp(libc::SECCOMP_SET_MODE_FILTER, 0, null()), Err(libc::EFAULT));
        let far = libc::sock_fprog { len: 1, filter: 8 as *mut Insn };
        let at = (&raw const far).cast();
        check_eq!(seccomp(libc::SECCOMP_SET_MODE_FILTER, 0, at), Err(libc::EFAULT));
        check_eq!(status("Seccomp"), "0");
        let longest = vec![ret; 4096];
        check_eq!(install(0, &vec![ret; 4097]), Err(libc::EINVAL));
        check_eq!(install(0, &longest), Ok(0));
    });
    // All together have a limit too.
    confined(|| {
        let longest = vec![ret; 4096];
        let mut installed = 0;
        loop {
            match install(0, &longest) {
                Ok(0) => installed += 1,
                result => {
                    check_eq!(result, Err(libc::ENOMEM));
                    break;
                }
            }
        }
        // Linux counts instructions of what it makes of them.
        check!((3..8).contains(&installed), "{installed}");
    });
}

/// Everything that a filter can compute, on arguments and on itself.
fn the_machine() {
    confined(|| {
        let ret_errno = |mut program: Vec<Insn>| {
            // The number of the call decides; then what the program left in A is the error.
            let mut filter = vec![stmt(LOAD, NR), jump(JUMP_EQ, libc::SYS_getpgid as u32, 1, 0)];
            filter.push(stmt(RETURN, ALLOW));
            filter.append(&mut program);
            filter.push(stmt(0x54, 0xfff));
            filter.push(stmt(0x44, ERRNO));
            filter.push(stmt(RETURN_A, 0));
            filter
        };
        let result = |program: Vec<Insn>| {
            let filter = ret_errno(program);
            let status = in_child(|| {
                check_eq!(install(0, &filter), Ok(0));
                -call(libc::SYS_getpgid, [0x5_0000_0021, 0, 7, 0, 0, 9]) as i32
            });
            status >> 8
        };
        let lda = |at| stmt(LOAD, at);
        check_eq!(result(vec![lda(arg(0))]), 0x21);
        check_eq!(result(vec![lda(arg(0) + 4)]), 5);
        check_eq!(result(vec![lda(arg(5))]), 9);
        check_eq!(result(vec![lda(ARCH)]), 0xb7);
        // Length of the data, by both registers.
        check_eq!(result(vec![stmt(0x80, 0)]), 64);
        check_eq!(result(vec![stmt(0x81, 0), stmt(0x87, 0)]), 64);
        // A op X: 0x21 and 7.
        let op = |code| vec![lda(arg(2)), stmt(0x07, 0), lda(arg(0)), stmt(code, 0)];
        check_eq!(result(op(0x0c)), 0x28);
        check_eq!(result(op(0x1c)), 0x1a);
        check_eq!(result(op(0x2c)), 0xe7);
        check_eq!(result(op(0x3c)), 4);
        check_eq!(result(op(0x4c)), 0x27);
        check_eq!(result(op(0x5c)), 1);
        check_eq!(result(op(0xac)), 0x26);
        // Scratch memory, and a jump over it.
        let scratch =
            vec![stmt(0x00, 77), stmt(0x02, 15), stmt(0x00, 3), stmt(0x05, 1), stmt(0x00, 1)];
        let scratch = [scratch, vec![stmt(0x61, 15), stmt(0x87, 0)]].concat();
        check_eq!(result(scratch), 77);
        check_eq!(result(vec![stmt(0x00, 1), stmt(0x01, 33), stmt(0x6c, 0)]), 2);
        check_eq!(result(vec![stmt(0x00, 0xffff_fff0), stmt(0x84, 0)]), 16);
        // Greater, and greater or equal, are unsigned; a set bit.
        let test = |code, k| vec![stmt(0x00, 0x8000_0001), jump(code, k, 0, 1), stmt(0x00, 1)];
        check_eq!(result([test(0x25, 5), vec![stmt(0x54, 0xf)]].concat()), 1);
        check_eq!(result(test(0x35, 0x8000_0001)), 1);
        check_eq!(result(test(0x45, 2)), 1);
        // Division by an X of nothing kills.
        let nothing = ret_errno(vec![stmt(0x01, 0), stmt(0x3c, 0)]);
        let status = in_child(|| {
            check_eq!(install(0, &nothing), Ok(0));
            call(libc::SYS_getpgid, [0; 6]);
            0
        });
        check_eq!(status & 0x7f, libc::SIGSYS);
    });
}

fn errors() {
    confined(|| {
        check_eq!(install(0, &rule(GETPPID, ERRNO | 77)), Ok(0));
        check_eq!(getppid(), -77);
        // The most restrictive counts; of equal ones the last that came.
        check_eq!(install(0, &rule(GETPPID, ALLOW)), Ok(0));
        check_eq!(getppid(), -77);
        check_eq!(install(0, &rule(GETPPID, ERRNO | 78)), Ok(0));
        check_eq!(getppid(), -78);
        check_eq!(status("Seccomp_filters"), "3");
        let by_child = in_child(|| i32::from(getppid() != -78));
        check_eq!(by_child, 0);
    });
    confined(|| {
        // Error 0 is no error, and there is none above 4095.
        let filter = rules(&[(GETPPID, ERRNO), (libc::SYS_getpid, ERRNO | 0xffff)], ALLOW);
        check_eq!(install(0, &filter), Ok(0));
        check_eq!(getppid(), 0);
        check_eq!(call(libc::SYS_getpid, [0; 6]), -4095);
    });
    confined(|| {
        // No call is one that filters see too.
        check_eq!(install(0, &rules(&[(-1, ERRNO | 7), (9999, ERRNO | 8)], ALLOW)), Ok(0));
        check_eq!((call(-1, [0; 6]), call(9999, [0; 6])), (-7, -8));
        check_eq!(
            (call(-2, [0; 6]), call(9998, [0; 6])),
            (i64::from(-libc::ENOSYS), i64::from(-libc::ENOSYS))
        );
    });
    // Nobody to ask.
    confined(|| {
        check_eq!(install(0, &rule(GETPPID, libc::SECCOMP_RET_TRACE)), Ok(0));
        check_eq!(getppid(), i64::from(-libc::ENOSYS));
        check_eq!(install(0, &rule(GETPPID, libc::SECCOMP_RET_USER_NOTIF)), Ok(0));
        check_eq!(getppid(), i64::from(-libc::ENOSYS));
    });
    // Logged, and made.
    confined(|| {
        let parent = getppid();
        check_eq!(
            install(libc::SECCOMP_FILTER_FLAG_LOG, &rule(GETPPID, libc::SECCOMP_RET_LOG)),
            Ok(0)
        );
        check_eq!(install(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW, &rules(&[], ALLOW)), Ok(0));
        check_eq!(getppid(), parent);
    });
    confined(|| {
        let filter = rule(GETPPID, ERRNO | 5);
        let program =
            libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: the program is there.
        check_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, 2, &raw const program) }, 0);
        check_eq!(getppid(), -5);
    });
}

/// `siginfo_t` of SIGSYS.
#[repr(C)]
struct SysInfo {
    signo: i32,
    errno: i32,
    code: i32,
    pad: i32,
    call_addr: u64,
    syscall: i32,
    arch: u32,
}

fn traps() {
    static SEEN: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];
    extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t) {
        // SAFETY: the kernel's `siginfo_t` of SIGSYS.
        let info = unsafe { &*info.cast::<SysInfo>() };
        check_eq!((signal, info.signo), (libc::SIGSYS, libc::SIGSYS));
        let seen = [
            info.errno as u64,
            info.code as u64,
            info.call_addr,
            info.syscall as u64,
            u64::from(info.arch),
        ];
        for (to, value) in SEEN.iter().zip(seen) {
            to.store(value, Ordering::Relaxed);
        }
    }
    confined(|| {
        handle(libc::SIGSYS, 0, handler);
        check_eq!(install(0, &rule(libc::SYS_getpgid, TRAP | 0x123)), Ok(0));
        // The first argument stands where the result would.
        check_eq!(call(libc::SYS_getpgid, [0x1234, 0, 0, 0, 0, 0]), 0x1234);
        let seen: Vec<u64> = SEEN.iter().map(|seen| seen.load(Ordering::Relaxed)).collect();
        check_eq!((seen[0], seen[1], seen[3], seen[4]), (0x123, 1, 155, u64::from(AARCH64)));
        // Behind the instruction that made the call: svc #0.
        // SAFETY: code can be read.
        check_eq!(unsafe { *((seen[2] - 4) as *const u32) }, 0xd400_0001);
    });
    // Unhandled, ignored and blocked it ends the program.
    for how in 0..3 {
        let status = in_child(|| {
            no_new_privs();
            // SAFETY: plain calls with valid places.
            unsafe {
                let mut set = std::mem::zeroed();
                libc::sigemptyset(&mut set);
                libc::sigaddset(&mut set, libc::SIGSYS);
                match how {
                    0 => {}
                    1 => {
                        libc::signal(libc::SIGSYS, libc::SIG_IGN);
                    }
                    _ => {
                        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
                    }
                }
            }
            check_eq!(install(0, &rule(GETPPID, TRAP)), Ok(0));
            getppid();
            0
        });
        check_eq!(status, libc::SIGSYS);
    }
}

fn kills() {
    extern "C" fn handler(_: i32, _: *mut libc::siginfo_t) {}
    for word in [KILL_PROCESS, KILL_THREAD, 0x1234_0000] {
        let status = in_child(|| {
            no_new_privs();
            // Handling it does not help.
            handle(libc::SIGSYS, 0, handler);
            check_eq!(install(0, &rule(GETPPID, word)), Ok(0));
            getppid();
            0
        });
        check_eq!(status, libc::SIGSYS, "{word:#x}");
    }
    // What waitid(2) says of it.
    let pid = child(|| {
        no_new_privs();
        check_eq!(install(0, &rule(GETPPID, KILL_PROCESS)), Ok(0));
        getppid();
        0
    });
    // SAFETY: `info` is a valid place.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        check_eq!(libc::waitid(libc::P_PID, pid as u32, &mut info, libc::WEXITED), 0);
        check_eq!((info.si_code, info.si_status()), (libc::CLD_KILLED, libc::SIGSYS));
    }
    // A thread alone.
    let status = in_child(|| {
        no_new_privs();
        std::mem::forget(std::thread::spawn(|| {
            check_eq!(install(0, &rule(GETPPID, KILL_THREAD)), Ok(0));
            getppid();
        }));
        while status("Threads") != "1" {
            std::thread::yield_now();
        }
        check_eq!(status("Seccomp"), "0");
        6
    });
    check_eq!(status, 6 << 8);
    // A thread with its process.
    let status = in_child(|| {
        no_new_privs();
        std::mem::forget(std::thread::spawn(|| {
            check_eq!(install(0, &rule(GETPPID, KILL_PROCESS)), Ok(0));
            getppid();
        }));
        loop {
            // SAFETY: a plain call.
            unsafe { libc::pause() };
        }
    });
    check_eq!(status, libc::SIGSYS);
}

fn inherited() {
    confined(|| {
        check_eq!(install(0, &rule(GETPPID, ERRNO | 9)), Ok(0));
        // By fork, and by exec.
        let status = in_child(|| {
            check_eq!(getppid(), -9);
            let me = std::env::current_exe().unwrap();
            let path = std::ffi::CString::new(me.to_str().unwrap()).unwrap();
            let argument = c"after-exec";
            let argv = [path.as_ptr(), argument.as_ptr(), null()];
            // SAFETY: the strings end with NUL, the list with null.
            unsafe { libc::execv(path.as_ptr(), argv.as_ptr()) };
            1
        });
        check_eq!(status, 0);
        // By a thread, which has more of its own.
        let thread = std::thread::spawn(|| {
            check_eq!(getppid(), -9);
            check_eq!(install(0, &rule(libc::SYS_getpid, ERRNO | 10)), Ok(0));
            check_eq!(call(libc::SYS_getpid, [0; 6]), -10);
        });
        check!(thread.join().is_ok());
        check_eq!(call(libc::SYS_getpid, [0; 6]), i64::from(std::process::id()));
    });
}

fn after_exec() -> ! {
    check_eq!(getppid(), -9);
    check_eq!([status("Seccomp"), status("NoNewPrivs")], ["2", "1"]);
    std::process::exit(0)
}

fn threads_take_them_together() {
    static TID: AtomicI32 = AtomicI32::new(0);
    confined(|| {
        let (start, end) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                end.wait();
                check_eq!(getppid(), -11);
                check_eq!([status("Seccomp"), status("Seccomp_filters")], ["2", "2"]);
            });
            start.wait();
            check_eq!(install(0, &rule(libc::SYS_getpgid, ERRNO | 12)), Ok(0));
            check_eq!(install(TSYNC, &rule(GETPPID, ERRNO | 11)), Ok(0));
            end.wait();
        });
    });
    // A thread that went its own way cannot.
    confined(|| {
        let (start, end) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: a plain call.
                TID.store(unsafe { libc::gettid() }, Ordering::Relaxed);
                check_eq!(install(0, &rule(libc::SYS_getpgid, ERRNO | 12)), Ok(0));
                start.wait();
                end.wait();
                check!(getppid() > 0);
            });
            start.wait();
            let filter = rule(GETPPID, ERRNO | 11);
            check_eq!(install(TSYNC, &filter), Ok(i64::from(TID.load(Ordering::Relaxed))));
            check_eq!(install(TSYNC | TSYNC_ESRCH, &filter), Err(libc::ESRCH));
            check!(getppid() > 0);
            check_eq!(status("Seccomp"), "0");
            end.wait();
        });
    });
    // What the caller has not to fear from exec, no thread has.
    check_eq!(
        in_child(|| {
            let (start, end) = (Barrier::new(2), Barrier::new(2));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    end.wait();
                    check_eq!(status("NoNewPrivs"), "1");
                });
                start.wait();
                no_new_privs();
                check_eq!(install(TSYNC, &rules(&[], ALLOW)), Ok(0));
                end.wait();
            });
            0
        }),
        0
    );
}

fn main() {
    if std::env::args().nth(1).is_some() {
        after_exec();
    }
    // SAFETY: a valid limit: no core is wanted.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &libc::rlimit { rlim_cur: 0, rlim_max: 0 }) };
    who_may();
    what_is_no_filter();
    the_machine();
    errors();
    traps();
    kills();
    inherited();
    threads_take_them_together();
}

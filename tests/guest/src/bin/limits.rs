//! Resource limits: descriptors, file size, address space, CPU time, processes of a user, and
//! prlimit of another process.
//!
//! PROCESS_MODEL.md, Identity: resource limits.

use belljar_guest_tests::*;
use std::ptr::{null, null_mut};

/// Sets the soft limit (and the hard one, where given).
fn limit(resource: u32, soft: u64, hard: Option<u64>) {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both are valid places.
    unsafe {
        ok(libc::getrlimit(resource as _, &mut old));
        let new = libc::rlimit { rlim_cur: soft, rlim_max: hard.unwrap_or(old.rlim_max) };
        ok(libc::setrlimit(resource as _, &new));
    }
}

/// RLIMIT_NOFILE is one above the highest number; the lowest free one is given first.
fn descriptors() -> i32 {
    limit(libc::RLIMIT_NOFILE, 16, None);
    // SAFETY: plain calls on descriptors.
    unsafe {
        let mut last = -1;
        loop {
            let fd = libc::dup(0);
            if fd < 0 {
                break;
            }
            last = fd;
        }
        check_eq!(errno(), libc::EMFILE);
        check_eq!(last, 15);
        let mut ends = [0; 2];
        check_eq!(err(libc::pipe(ends.as_mut_ptr())), libc::EMFILE);
        check_eq!(err(libc::dup2(0, 16)), libc::EBADF);
        check_eq!(err(libc::fcntl(0, libc::F_DUPFD, 16)), libc::EINVAL);
        check_eq!(err(libc::fcntl(0, libc::F_DUPFD, 3)), libc::EMFILE);
        ok(libc::close(7));
        check_eq!(err(libc::pipe(ends.as_mut_ptr())), libc::EMFILE);
        // The pipe that failed half-way gave its number back.
        check_eq!(libc::dup(0), 7);
        // A limit below what is open closes nothing.
        limit(libc::RLIMIT_NOFILE, 4, None);
        ok(libc::fcntl(15, libc::F_GETFD));
        ok(libc::close(15));
        check_eq!(err(libc::dup(0)), libc::EMFILE);
    }
    0
}

/// A write that starts below the limit is cut there; one that starts at it gives SIGXFSZ and EFBIG.
fn file_size(ignore: bool) -> i32 {
    limit(libc::RLIMIT_FSIZE, 1000, None);
    // SAFETY: plain calls with valid buffers.
    unsafe {
        libc::signal(libc::SIGXFSZ, if ignore { libc::SIG_IGN } else { libc::SIG_DFL });
        let fd = ok(libc::open(
            c"/tmp/limits-size".as_ptr(),
            libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC,
            0o600,
        ));
        ok(libc::unlink(c"/tmp/limits-size".as_ptr()));
        let data = [7u8; 700];
        check_eq!(libc::write(fd, data.as_ptr().cast(), 700), 700);
        check_eq!(libc::write(fd, data.as_ptr().cast(), 700), 300);
        ok(libc::ftruncate(fd, 1000));
        check_eq!(libc::pwrite(fd, data.as_ptr().cast(), 1, 999), 1);
        if ignore {
            check_eq!(err(libc::ftruncate(fd, 1001)), libc::EFBIG);
        }
        check_eq!(err(libc::write(fd, data.as_ptr().cast(), 1) as i64), libc::EFBIG);
    }
    0
}

/// RLIMIT_AS bounds what is mapped, not what is there already.
fn address_space() -> i32 {
    limit(libc::RLIMIT_AS, 64 << 20, None);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: new mappings at places the kernel chooses.
    unsafe {
        let p = libc::mmap(null_mut(), 128 << 20, prot, flags, -1, 0);
        check_eq!(p, libc::MAP_FAILED);
        check_eq!(errno(), libc::ENOMEM);
        let p = libc::mmap(null_mut(), 8 << 20, prot, flags, -1, 0);
        check!(p != libc::MAP_FAILED);
        let q = libc::mremap(p, 8 << 20, 256 << 20, libc::MREMAP_MAYMOVE);
        check_eq!(q, libc::MAP_FAILED);
        check_eq!(errno(), libc::ENOMEM);
        ok(libc::munmap(p, 8 << 20));
    }
    0
}

/// Spends CPU time for ever.
fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// RLIMIT_NPROC counts the processes of the real user, and root is not bound by it.
fn processes() -> i32 {
    limit(libc::RLIMIT_NPROC, 2, Some(2));
    wait_ok(child(|| 0));
    // SAFETY: plain calls.
    unsafe {
        ok(libc::setgid(4321));
        ok(libc::setuid(4321));
        let mut ends = [0; 2];
        ok(libc::pipe(ends.as_mut_ptr()));
        let one = child(|| {
            let mut byte = 0u8;
            libc::close(ends[1]);
            libc::read(ends[0], (&raw mut byte).cast(), 1);
            0
        });
        check_eq!(err(libc::fork()), libc::EAGAIN);
        libc::close(ends[1]);
        wait_ok(one);
        wait_ok(child(|| 0));
    }
    0
}

/// Raising a hard limit needs CAP_SYS_RESOURCE; soft above hard is wrong for everybody.
fn rules() -> i32 {
    let set = |soft, hard| {
        let new = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        // SAFETY: `new` is valid.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &new) }
    };
    check_eq!(err(set(2, 1)), libc::EINVAL);
    ok(set(10, 20));
    ok(set(10, 30));
    // SAFETY: plain calls.
    unsafe {
        ok(libc::setuid(1000));
        check_eq!(err(set(10, 31)), libc::EPERM);
        ok(set(30, 30));
        ok(set(5, 10));
        check_eq!(err(set(11, 11)), libc::EPERM);
        let wrong: *const libc::rlimit = null();
        check_eq!(
            err(libc::syscall(libc::SYS_prlimit64, 0, 999, wrong, null_mut::<u8>())),
            libc::EINVAL
        );
        // Another user's process is not ours to look at.
        let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        check_eq!(
            err(libc::syscall(libc::SYS_prlimit64, 1, libc::RLIMIT_CORE, wrong, &raw mut old)),
            libc::EPERM
        );
        check_eq!(
            err(libc::syscall(libc::SYS_prlimit64, 4_000_000, 4, wrong, &raw mut old)),
            libc::ESRCH
        );
    }
    0
}

/// prlimit changes a running child, which sees it, and its own children inherit it.
fn child_limit() {
    // SAFETY: plain calls with valid places.
    unsafe {
        let mut ends = [0; 2];
        ok(libc::pipe(ends.as_mut_ptr()));
        let pid = child(|| {
            let mut byte = 0u8;
            libc::close(ends[1]);
            libc::read(ends[0], (&raw mut byte).cast(), 1);
            in_child(|| {
                let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                ok(libc::getrlimit(libc::RLIMIT_NOFILE, &mut now));
                check_eq!((now.rlim_cur, now.rlim_max), (33, 44));
                0
            })
        });
        let new = libc::rlimit { rlim_cur: 33, rlim_max: 44 };
        let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        let mut mine = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        ok(libc::prlimit(pid, libc::RLIMIT_NOFILE, &new, &mut old));
        ok(libc::getrlimit(libc::RLIMIT_NOFILE, &mut mine));
        check_eq!((old.rlim_cur, old.rlim_max), (mine.rlim_cur, mine.rlim_max));
        ok(libc::prlimit(pid, libc::RLIMIT_NOFILE, null(), &mut old));
        check_eq!((old.rlim_cur, old.rlim_max), (33, 44));
        libc::close(ends[1]);
        wait_ok(pid);
    }
}

/// Recurses with a big frame until the stack ends.
fn deep(n: u64) -> u64 {
    let mut frame = [n; 512];
    std::hint::black_box(&mut frame);
    if frame[7] == u64::MAX { 0 } else { deep(n + 1) + frame[7] }
}

/// RLIMIT_DATA bounds private memory that can be written, by whichever call it comes.
fn data() -> i32 {
    const MIB: usize = 1 << 20;
    let get = |prot, flags| {
        // SAFETY: a new mapping.
        let p =
            unsafe { libc::mmap(null_mut(), 64 * MIB, prot, flags | libc::MAP_ANONYMOUS, -1, 0) };
        if p == libc::MAP_FAILED { -errno() } else { 0 }
    };
    let (read, write) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE);
    limit(libc::RLIMIT_DATA, 32 * MIB as u64, None);
    check_eq!(get(write, libc::MAP_PRIVATE), -libc::ENOMEM);
    check_eq!(get(read, libc::MAP_PRIVATE), 0);
    check_eq!(get(write, libc::MAP_SHARED), 0);
    // SAFETY: nobody uses the break here.
    unsafe {
        let now = libc::sbrk(0) as usize;
        check_eq!(err(libc::brk((now + 64 * MIB) as *mut _)), libc::ENOMEM);
        ok(libc::brk((now + MIB) as *mut _));
    }
    0
}

/// RLIMIT_MEMLOCK bounds what is locked, and root is not bound by it.
fn locked_memory() -> i32 {
    const PAGE: usize = 4096;
    let p = map(64 * PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    limit(libc::RLIMIT_MEMLOCK, 8 * PAGE as u64, Some(8 * PAGE as u64));
    // SAFETY: the memory is there.
    unsafe {
        ok(libc::mlock(p.cast(), 64 * PAGE));
        ok(libc::munlock(p.cast(), 64 * PAGE));
        ok(libc::setuid(4322));
        check_eq!(err(libc::mlock(p.cast(), 9 * PAGE)), libc::ENOMEM);
        ok(libc::mlock(p.cast(), 8 * PAGE));
        check_eq!(err(libc::mlock(p.add(20 * PAGE).cast(), PAGE)), libc::ENOMEM);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_LOCKED;
        let more = libc::mmap(null_mut(), PAGE, libc::PROT_READ, flags, -1, 0);
        check_eq!((more, errno()), (libc::MAP_FAILED, libc::EAGAIN));
        ok(libc::munlock(p.cast(), 8 * PAGE));
        limit(libc::RLIMIT_MEMLOCK, 0, None);
        check_eq!(err(libc::mlock(p.cast(), PAGE)), libc::EPERM);
    }
    0
}

/// RLIMIT_SIGPENDING bounds signals that queue; one of each standard kind always arrives.
fn pending_signals() -> i32 {
    // SAFETY: plain calls with valid places.
    unsafe {
        ok(libc::setuid(4323));
        limit(libc::RLIMIT_SIGPENDING, 2, None);
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        ok(libc::sigprocmask(libc::SIG_BLOCK, &set, null_mut()));
        let value = libc::sigval { sival_ptr: null_mut() };
        let queue = || libc::sigqueue(libc::getpid(), libc::SIGRTMIN(), value);
        ok(queue());
        ok(queue());
        check_eq!(err(queue()), libc::EAGAIN);
        ok(libc::kill(libc::getpid(), libc::SIGUSR1));
        let mut seen = std::mem::zeroed();
        ok(libc::sigpending(&raw mut seen));
        check_eq!(libc::sigismember(&seen, libc::SIGUSR1), 1);
        // Room again after one was taken.
        check_eq!(libc::sigwaitinfo(&set, null_mut()), libc::SIGUSR1);
        check_eq!(libc::sigwaitinfo(&set, null_mut()), libc::SIGRTMIN());
        ok(queue());
        check_eq!(err(queue()), libc::EAGAIN);
    }
    0
}

/// RLIMIT_NICE and RLIMIT_RTPRIO let users have that much priority, and no more.
fn priorities() -> i32 {
    let real_time = |priority| {
        let param = libc::sched_param { sched_priority: priority };
        // SAFETY: `param` is valid.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) }
    };
    // SAFETY: calls without pointers.
    let nice = |nice| unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    limit(libc::RLIMIT_NICE, 25, Some(25));
    limit(libc::RLIMIT_RTPRIO, 10, Some(10));
    // SAFETY: calls without pointers.
    ok(unsafe { libc::setuid(4324) });
    ok(nice(-5));
    check_eq!(err(nice(-6)), libc::EACCES);
    ok(nice(5));
    ok(nice(-5));
    limit(libc::RLIMIT_NICE, 0, None);
    ok(nice(0));
    check_eq!(err(nice(-1)), libc::EACCES);
    check_eq!(err(real_time(11)), libc::EPERM);
    ok(real_time(10));
    limit(libc::RLIMIT_RTPRIO, 0, None);
    // What one has, one may keep or lower.
    ok(real_time(10));
    ok(real_time(9));
    check_eq!(err(real_time(10)), libc::EPERM);
    0
}

/// /proc/PID/limits has a line for each of the sixteen.
fn in_proc() -> i32 {
    limit(libc::RLIMIT_NOFILE, 123, Some(456));
    limit(libc::RLIMIT_FSIZE, 1 << 20, Some(libc::RLIM_INFINITY));
    let text = std::fs::read_to_string("/proc/self/limits").unwrap();
    let lines: Vec<String> = text
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    check_eq!(lines.len(), 16);
    check!(lines.contains(&"Max open files 123 456 files".to_string()), "{lines:?}");
    check!(lines.contains(&"Max file size 1048576 unlimited bytes".to_string()), "{lines:?}");
    0
}

fn main() {
    for case in [data, locked_memory, pending_signals, priorities, in_proc] {
        wait_ok(child(case));
    }
    wait_ok(child(descriptors));
    wait_ok(child(|| file_size(true)));
    check_eq!(in_child(|| file_size(false)) & 0x7f, libc::SIGXFSZ);
    wait_ok(child(address_space));
    let status = in_child(|| {
        limit(libc::RLIMIT_CPU, 1, None);
        spin()
    });
    check_eq!(status & 0x7f, libc::SIGXCPU);
    // With the soft signal ignored the hard limit kills.
    let status = in_child(|| {
        // SAFETY: ignores a signal.
        unsafe { libc::signal(libc::SIGXCPU, libc::SIG_IGN) };
        limit(libc::RLIMIT_CPU, 1, Some(2));
        spin()
    });
    check_eq!(status & 0x7f, libc::SIGKILL);
    // RLIMIT_RTTIME, for who runs at real-time priority and never sleeps.
    for (ignored, signal) in [(false, libc::SIGXCPU), (true, libc::SIGKILL)] {
        let status = in_child(|| {
            let param = libc::sched_param { sched_priority: 1 };
            limit(libc::RLIMIT_RTTIME, 50_000, Some(100_000));
            // SAFETY: `param` is valid; a signal is ignored.
            unsafe {
                if ignored {
                    libc::signal(libc::SIGXCPU, libc::SIG_IGN);
                }
                ok(libc::sched_setscheduler(0, libc::SCHED_RR, &param));
            }
            spin()
        });
        check_eq!(status & 0x7f, signal);
    }
    wait_ok(child(processes));
    wait_ok(child(rules));
    child_limit();
    let status = in_child(|| {
        limit(libc::RLIMIT_STACK, 1 << 20, None);
        std::hint::black_box(deep(0)) as i32
    });
    // The runtime's handler for SIGSEGV on a guard page turns it into SIGABRT.
    check!(matches!(status & 0x7f, libc::SIGSEGV | libc::SIGABRT), "status {status:#x}");
}

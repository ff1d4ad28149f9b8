//! clone(2) and clone3(2) with flags of every kind, and what survives exec.

use std::io::Read;
use std::mem::zeroed;
use std::os::fd::FromRawFd;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use belljar_guest_tests::same::Random;
use belljar_guest_tests::{child, errno, ok};

use crate::State;

const FLAGS: &[i32] = &[
    libc::CLONE_VM,
    libc::CLONE_FS,
    libc::CLONE_FILES,
    libc::CLONE_SIGHAND,
    libc::CLONE_VFORK,
    libc::CLONE_THREAD,
    libc::CLONE_SYSVSEM,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_DETACHED,
    libc::CLONE_UNTRACED,
    libc::CLONE_IO,
    libc::CLONE_PARENT_SETTID,
    libc::CLONE_CHILD_SETTID,
    libc::CLONE_PIDFD,
];

/// Cleared when a thread ends.
static THREAD: AtomicU32 = AtomicU32::new(0);

extern "C" fn end_at_once(code: *mut libc::c_void) -> i32 {
    // SAFETY: ends this task alone.
    unsafe { libc::syscall(libc::SYS_exit, code as usize) as i32 }
}

/// clone(2) with a stack of its own.
pub fn clone(state: &mut State, random: &mut Random) {
    let flags = random.flags(FLAGS, 6) | random.flags(&[libc::CLONE_VM, libc::CLONE_SIGHAND], 2);
    let signal = random.pick(&[libc::SIGCHLD, libc::SIGCHLD, 0, libc::SIGURG, libc::SIGWINCH, 65]);
    let signal = if flags & libc::CLONE_THREAD != 0 && random.one_in(2) { 0 } else { signal };
    let code = random.below(300) as usize;
    let mut stack = vec![0_u64; 2048];
    let (mut first, mut second) = (-1_i32, -1_i32);
    // SAFETY: the stack and the places live until the child has ended, which is waited for.
    unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast();
        THREAD.store(1, SeqCst);
        let all = flags | libc::CLONE_CHILD_CLEARTID | signal;
        let word = THREAD.as_ptr();
        let result = libc::clone(
            end_at_once,
            top,
            all,
            code as *mut libc::c_void,
            &raw mut first,
            null_mut::<libc::c_void>(),
            word,
        );
        let error = errno();
        let parent_told = result > 0 && first == result;
        let mut status = 0;
        let mut waited = 0;
        if result > 0 && flags & libc::CLONE_THREAD != 0 {
            while THREAD.load(SeqCst) != 0 {
                libc::sched_yield();
            }
        } else if result > 0 {
            waited = libc::waitpid(result, &mut status, libc::__WALL);
        }
        if result > 0 && flags & libc::CLONE_PIDFD != 0 {
            second = libc::close(first);
        }
        let shown = if result < 0 { -error } else { 0 };
        let (waited, again) = (waited.min(1), libc::waitpid(-1, null_mut(), libc::WNOHANG).min(1));
        state.trace.line(&format!(
            "clone {flags:x} {signal} = {shown}: {parent_told} {waited} {status:x} {second} {again}"
        ));
    }
}

/// clone3(2) with arguments that are wrong more often than not; the child ends at once.
pub fn clone3(state: &mut State, random: &mut Random) {
    const CLEAR_SIGHAND: u64 = 1 << 32;
    // No memory is shared, as there is one stack only.
    let some = random.flags(&FLAGS[1..], 10) as u32;
    let odd = random.pick(&[0, 0, 0, 0, CLEAR_SIGHAND, 1, 1 << 40, 1 << 33]);
    let flags = (u64::from(some) | odd) & !(libc::CLONE_VM as u64);
    let mut pidfd = -1_i32;
    let tid = std::process::id();
    let (stack, stack_size) =
        random.pick(&[(0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (16, 0), (0, 16)]);
    let mut words = [
        flags,
        (&raw mut pidfd) as u64,
        0,
        (&raw mut pidfd) as u64,
        random.pick(&[17, 17, 17, 0, 10, 28, 65, 255, 1 << 32]),
        stack,
        stack_size,
        0,
        0,
        0,
        random.pick(&[0, 0, 99]),
        random.pick(&[0, 0, 0, 7]),
    ];
    if random.one_in(8) {
        words[8] = random.pick(&[0, (&raw const tid) as u64]);
        words[9] = random.pick(&[0, 1, 40]);
    }
    let size = random.pick(&[88, 88, 88, 64, 80, 96, 63, 0, 72, 5000]);
    // SAFETY: the arguments lie in a valid place, of at least the sizes that are accepted.
    unsafe {
        libc::signal(libc::SIGUSR1, libc::SIG_IGN);
        let result = libc::syscall(libc::SYS_clone3, words.as_ptr(), size);
        if result == 0 {
            libc::_exit(7);
        }
        let error = if result < 0 { errno() } else { 0 };
        let mut status = 0;
        let waited = if result > 0 {
            libc::waitpid(result as i32, &mut status, libc::__WALL).min(1)
        } else {
            0
        };
        let told = pidfd >= 0;
        if result > 0 && flags & libc::CLONE_PIDFD as u64 != 0 {
            libc::close(pidfd);
        }
        words[1] = 0;
        words[3] = 0;
        words[8] = words[8].min(1);
        state
            .trace
            .line(&format!("clone3 {words:x?} {size} = -{error} {waited} {status:x} {told}"));
        crate::puppet::catch();
    }
}

/// What a program finds of what the one before it had set.
pub fn probe() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let keep = ["Name", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "NoNewPrivs", "Umask"];
    let mut text = String::new();
    for line in status.lines() {
        if keep.iter().any(|name| line.starts_with(name)) {
            text += &line.replace('\t', " ");
            text += ";";
        }
    }
    // SAFETY: plain calls with valid places.
    unsafe {
        for option in [libc::PR_GET_PDEATHSIG, libc::PR_GET_CHILD_SUBREAPER] {
            let mut word = 0_i32;
            libc::prctl(option, &raw mut word);
            text += &format!(" {option}:{word}");
        }
        for option in [libc::PR_GET_DUMPABLE, libc::PR_GET_KEEPCAPS, libc::PR_GET_TIMERSLACK] {
            text += &format!(" {option}:{}", libc::prctl(option, 0, 0, 0, 0));
        }
        let mut time: libc::itimerval = zeroed();
        libc::getitimer(libc::ITIMER_REAL, &mut time);
        let mut stack: libc::stack_t = zeroed();
        libc::sigaltstack(null(), &mut stack);
        let nice = libc::getpriority(libc::PRIO_PROCESS, 0);
        let personality = libc::personality(0xffff_ffff);
        let files: Vec<bool> = (20..24).map(|fd| libc::fcntl(fd, libc::F_GETFD) >= 0).collect();
        let (sid, pgid) = (libc::getsid(0), libc::getpgid(0));
        let ids = (sid == libc::getppid(), pgid == libc::getpid());
        text += &format!(
            " timer {} stack {:x} nice {nice} personality {personality:x} {files:?} {ids:?}",
            time.it_value.tv_sec > 0,
            stack.ss_flags
        );
    }
    text
}

/// A child sets things, and the program that it becomes looks at them.
pub fn exec(state: &mut State, random: &mut Random) {
    let mut fds = [0; 2];
    let choices: Vec<u64> = (0..16).map(|_| random.below(6)).collect();
    let args = [c"same_processes".as_ptr(), c"probe".as_ptr(), null()];
    let empty: [*const libc::c_char; 1] = [null()];
    // SAFETY: valid strings and places; the child changes itself alone.
    unsafe {
        ok(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC));
        let pid = child(|| {
            ok(libc::dup2(fds[1], 1));
            let mut done = Vec::new();
            for (i, choice) in choices.iter().enumerate() {
                if *choice != 0 {
                    continue;
                }
                done.push(match i {
                    0 => libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM),
                    1 => libc::prctl(libc::PR_SET_DUMPABLE, 0),
                    2 => libc::prctl(libc::PR_SET_KEEPCAPS, 1),
                    3 => libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1),
                    4 => libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                    5 => libc::prctl(libc::PR_SET_TIMERSLACK, 1234),
                    6 => libc::prctl(libc::PR_SET_NAME, c"another".as_ptr()),
                    7 => libc::setpgid(0, 0),
                    8 => libc::signal(libc::SIGUSR2, libc::SIG_IGN) as i32,
                    9 => {
                        let mut set: libc::sigset_t = zeroed();
                        libc::sigaddset(&mut set, libc::SIGWINCH);
                        libc::sigaddset(&mut set, libc::SIGTERM);
                        libc::sigprocmask(libc::SIG_BLOCK, &set, null_mut());
                        libc::raise(libc::SIGTERM)
                    }
                    10 => libc::umask(0o27).min(0o777) as i32,
                    11 => libc::setpriority(libc::PRIO_PROCESS, 0, 5),
                    12 => libc::personality(0x004_0000) & 0xff,
                    13 => {
                        libc::dup2(1, 20);
                        libc::dup3(1, 21, libc::O_CLOEXEC)
                    }
                    14 => libc::alarm(100_000) as i32,
                    _ => {
                        let mut stack: libc::stack_t = zeroed();
                        stack.ss_sp = libc::malloc(65_536);
                        stack.ss_size = 65_536;
                        libc::sigaltstack(&stack, null_mut())
                    }
                });
            }
            libc::execve(c"/proc/self/exe".as_ptr(), args.as_ptr(), empty.as_ptr());
            errno()
        });
        libc::close(fds[1]);
        let mut text = String::new();
        let mut file = std::fs::File::from_raw_fd(fds[0]);
        let _ = file.read_to_string(&mut text);
        let mut status = 0;
        let waited = libc::waitpid(pid, &mut status, 0).min(1);
        state.trace.line(&format!("exec {choices:?} {waited} {status:x}: {text}"));
    }
}

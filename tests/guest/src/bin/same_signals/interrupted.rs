//! System calls that a signal interrupts: which of them start over, and which tell.

use std::mem::zeroed;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use belljar_guest_tests::{child, errno, map, ok, wait};

use crate::{Random, State, catch, set_of};

/// Shared with the helper: the number of handler runs, and a futex.
static SHARED: AtomicPtr<[AtomicU32; 2]> = AtomicPtr::new(null_mut());

fn shared() -> Option<&'static [AtomicU32; 2]> {
    // SAFETY: null, or memory that stays mapped.
    unsafe { SHARED.load(Ordering::Relaxed).as_ref() }
}

/// A handler ran.
pub fn handled() {
    if let Some([handled, _]) = shared() {
        handled.fetch_add(1, Ordering::SeqCst);
    }
}

/// Waits until the parent sleeps.
fn await_sleep(pid: i32) {
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S')) {
            return;
        }
        // SAFETY: a plain call.
        unsafe { libc::sched_yield() };
    }
}

/// Makes one call that sleeps; a helper interrupts it, and once a handler ran lets it end.
pub fn call(state: &mut State, random: &mut Random) {
    if shared().is_none() {
        let memory = map(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        SHARED.store(memory.cast(), Ordering::Relaxed);
    }
    let Some([handled, futex]) = shared() else { return };
    let flags = random.pick(&[0, libc::SA_RESTART]);
    let which = random.below(17);
    // SAFETY: descriptors and places are ours.
    unsafe {
        // Only the helper's signal may come.
        let (block, mut old) = (set_of(!(1 << (libc::SIGUSR1 - 1))), set_of(0));
        ok(libc::sigprocmask(libc::SIG_SETMASK, &block, &mut old));
        catch(libc::SIGUSR1, flags);
        catch(libc::SIGCHLD, 0);
        state.flush();
        handled.store(0, Ordering::SeqCst);
        futex.store(0, Ordering::SeqCst);
        let (mut pipe, mut sockets) = ([0; 2], [0; 2]);
        ok(libc::pipe(pipe.as_mut_ptr()));
        let kind = libc::SOCK_STREAM;
        ok(libc::socketpair(libc::AF_UNIX, kind, 0, sockets.as_mut_ptr()));
        let queue = ok(libc::msgget(libc::IPC_PRIVATE, 0o600));
        let semaphore = ok(libc::semget(libc::IPC_PRIVATE, 1, 0o600));
        let epoll = ok(libc::epoll_create1(0));
        let parent = libc::getpid();
        let helper = child(|| {
            await_sleep(parent);
            libc::kill(parent, libc::SIGUSR1);
            while handled.load(Ordering::SeqCst) == 0 {
                libc::sched_yield();
            }
            libc::write(pipe[1], c"x".as_ptr().cast(), 1);
            libc::write(sockets[1], c"x".as_ptr().cast(), 1);
            let message = [1_u64, 0];
            libc::msgsnd(queue, message.as_ptr().cast(), 1, 0);
            libc::semop(semaphore, &mut libc::sembuf { sem_num: 0, sem_op: 1, sem_flg: 0 }, 1);
            futex.store(1, Ordering::SeqCst);
            libc::syscall(libc::SYS_futex, futex.as_ptr(), libc::FUTEX_WAKE, 9);
            0
        });
        let mut byte = [0_u64; 4];
        let p = (&raw mut byte).cast::<libc::c_void>();
        let far = libc::timespec { tv_sec: 100_000, tv_nsec: 0 };
        let mut poll = libc::pollfd { fd: pipe[0], events: libc::POLLIN, revents: 0 };
        let (name, result) = match which {
            0 => ("read pipe", libc::read(pipe[0], p, 1) as i64),
            1 => ("recv", libc::recv(sockets[0], p, 1, 0) as i64),
            2 => {
                let time = libc::timeval { tv_sec: 100_000, tv_usec: 0 };
                let size = size_of::<libc::timeval>() as u32;
                let t = (&raw const time).cast();
                ok(libc::setsockopt(sockets[0], libc::SOL_SOCKET, libc::SO_RCVTIMEO, t, size));
                ("recv with a timeout", libc::recv(sockets[0], p, 1, 0) as i64)
            }
            3 => ("poll", i64::from(libc::poll(&mut poll, 1, -1))),
            4 => ("ppoll", i64::from(libc::ppoll(&mut poll, 1, &far, &block))),
            5 => {
                let mut set: libc::fd_set = zeroed();
                libc::FD_SET(pipe[0], &mut set);
                let n = libc::select(pipe[0] + 1, &mut set, null_mut(), null_mut(), null_mut());
                ("select", i64::from(n))
            }
            6 => {
                let mut event: libc::epoll_event = zeroed();
                ("epoll_wait", i64::from(libc::epoll_wait(epoll, &mut event, 1, -1)))
            }
            7 => ("nanosleep", i64::from(libc::nanosleep(&far, null_mut()))),
            8 => {
                let result = libc::clock_nanosleep(libc::CLOCK_MONOTONIC, 0, &far, null_mut());
                ("clock_nanosleep", i64::from(result))
            }
            9 => ("sigsuspend", i64::from(libc::sigsuspend(&block))),
            10 => {
                let set = set_of(1 << 40);
                ("sigtimedwait", i64::from(libc::sigtimedwait(&set, null_mut(), null())))
            }
            11 => ("wait4", i64::from(libc::waitpid(helper, null_mut(), 0).min(1))),
            12 => {
                let mut info: libc::siginfo_t = zeroed();
                let options = libc::WEXITED | libc::WNOWAIT;
                let result = libc::waitid(libc::P_PID, helper as u32, &mut info, options);
                ("waitid", i64::from(result))
            }
            13 => ("msgrcv", libc::msgrcv(queue, p, 8, 0, 0) as i64),
            14 => {
                let mut down = libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 };
                ("semop", i64::from(libc::semop(semaphore, &mut down, 1)))
            }
            15 => {
                let wait = libc::FUTEX_WAIT;
                let at = futex.as_ptr();
                ("futex", libc::syscall(libc::SYS_futex, at, wait, 0, null::<libc::timespec>()))
            }
            _ => {
                let at = futex.as_ptr();
                let wait = libc::FUTEX_WAIT;
                (
                    "futex with a timeout",
                    libc::syscall(libc::SYS_futex, at, wait, 0, &raw const far),
                )
            }
        };
        // Who waits again may find that the word has changed already.
        let changed = which >= 15 && result < 0 && errno() == libc::EAGAIN;
        state.call(&format!("{name} {flags:x}"), if changed { 0 } else { result });
        if which != 11 || result < 0 {
            wait(helper);
        }
        for fd in [pipe[0], pipe[1], sockets[0], sockets[1], epoll] {
            libc::close(fd);
        }
        libc::msgctl(queue, libc::IPC_RMID, null_mut());
        libc::semctl(semaphore, 0, libc::IPC_RMID);
        let result = libc::sigprocmask(libc::SIG_SETMASK, &old, null_mut());
        state.call("  unblocked", result);
    }
}

//! Wait statuses, and calls about process groups and sessions.

use std::mem::zeroed;

use belljar_guest_tests::{child, ok};

use crate::{Random, State, set_of};

/// Signals that a child gets.
const FATES: &[i32] =
    &[1, 2, 3, 6, 9, 10, 13, 14, 15, 16, 17, 18, 23, 24, 25, 28, 29, 31, 34, 64, 65];
const STOPS: &[i32] = &[libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

fn waitid(state: &mut State, pid: i32, kind: libc::idtype_t, id: u32, options: i32) {
    // SAFETY: the places are valid.
    unsafe {
        let mut info: libc::siginfo_t = zeroed();
        let result = libc::waitid(kind, id, &mut info, options);
        let same = info.si_pid() == pid;
        let (signo, code) = (info.si_signo, info.si_code);
        let status = if same { info.si_status() } else { 0 };
        state.call(&format!("waitid {kind} {options:x}: {signo} {code} {same} {status}"), result);
    }
}

fn wait4(state: &mut State, pid: i32, who: i32, options: i32) {
    // SAFETY: the places are valid.
    unsafe {
        let mut status = 0;
        let result = libc::waitpid(who, &mut status, options);
        let same = result == pid;
        let result = if same { 1 } else { result };
        state.call(&format!("wait4 {options:x}: {same} {status:x}"), result);
    }
}

/// A child stops, goes on and ends, and is waited for in several ways.
pub fn status(state: &mut State, random: &mut Random) {
    // SAFETY: plain calls; signals stay away while the child's states are in flux.
    unsafe {
        let all = set_of(!0);
        let mut old = set_of(0);
        ok(libc::sigprocmask(libc::SIG_SETMASK, &all, &mut old));
        let fate = random.pick(FATES);
        let code = random.pick(&[0, 1, 77, 256, -1]);
        let stop = random.pick(STOPS);
        let (stops, exits) = (random.one_in(2), random.one_in(2));
        let mut fds = [0; 2];
        ok(libc::pipe(fds.as_mut_ptr()));
        let pid = child(|| {
            libc::close(fds[1]);
            for signal in 1..65 {
                crate::set_action(signal, libc::SIG_DFL, 0, 0);
            }
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            ok(libc::sigprocmask(libc::SIG_SETMASK, &set_of(0), std::ptr::null_mut()));
            // Terminal stops do nothing in an orphaned group.
            if stops {
                libc::raise(stop);
                // Until the parent has seen that it goes on.
                libc::read(fds[0], (&raw mut old).cast(), 1);
            }
            if !exits {
                libc::raise(fate);
            }
            code
        });
        state.trace.line(&format!("child {stops} {stop} {exits} {fate} {code}"));
        let ids = [(libc::P_PID, pid as u32), (libc::P_ALL, 0), (libc::P_PGID, 0), (9, 1)];
        if stops && stop == libc::SIGSTOP {
            let (kind, id) = random.pick(&ids);
            let peek = random.pick(&[0, libc::WNOWAIT]);
            waitid(state, pid, libc::P_PID, pid as u32, libc::WSTOPPED | libc::WNOWAIT);
            waitid(state, pid, kind, id, libc::WSTOPPED | peek);
            wait4(state, pid, pid, libc::WUNTRACED | libc::WNOHANG);
            wait4(state, pid, -1, libc::WNOHANG);
            if random.one_in(2) {
                ok(libc::kill(pid, libc::SIGCONT));
                let options = libc::WCONTINUED | peek;
                waitid(state, pid, libc::P_PID, pid as u32, libc::WCONTINUED | libc::WNOWAIT);
                waitid(state, pid, kind, id, options | libc::WEXITED);
                wait4(state, pid, pid, libc::WCONTINUED | libc::WNOHANG);
            } else {
                ok(libc::kill(pid, libc::SIGKILL));
            }
        }
        libc::close(fds[0]);
        libc::close(fds[1]);
        let (kind, id) = random.pick(&ids);
        waitid(state, pid, libc::P_PID, pid as u32, libc::WEXITED | libc::WNOWAIT);
        let odd = random.pick(&[
            libc::WEXITED | libc::WNOWAIT,
            0,
            0x40,
            libc::WNOHANG,
            libc::WSTOPPED | libc::WNOHANG,
        ]);
        waitid(state, pid, kind, id, odd);
        wait4(
            state,
            pid,
            random.pick(&[pid, -1, 0, -pid, 0x3fff_fff0]),
            random.pick(&[0, libc::WNOHANG, 0x40, libc::__WCLONE | libc::WNOHANG, libc::__WALL]),
        );
        wait4(state, pid, pid, libc::WNOHANG);
        wait4(state, pid, -1, libc::WNOHANG);
        ok(libc::sigprocmask(libc::SIG_SETMASK, &old, std::ptr::null_mut()));
        state.flush();
    }
}

/// Calls about groups and sessions, by a child and by its parent.
pub fn groups(state: &mut State, random: &mut Random) {
    // SAFETY: plain calls.
    unsafe {
        let all = set_of(!0);
        let mut old = set_of(0);
        ok(libc::sigprocmask(libc::SIG_SETMASK, &all, &mut old));
        let mut fds = [0; 2];
        ok(libc::pipe(fds.as_mut_ptr()));
        let session = random.one_in(3);
        let pid = child(|| {
            libc::close(fds[1]);
            let mut byte = 0_u8;
            // Until the parent is done.
            libc::read(fds[0], (&raw mut byte).cast(), 1);
            0
        });
        let me = libc::getpid();
        let name = |id: i32| match id {
            _ if id == me => "me".to_string(),
            _ if id == pid => "child".to_string(),
            _ => id.to_string(),
        };
        for _ in 0..5 {
            let ids = [0, me, pid, pid, 0x3fff_fff0, -1];
            let (a, b) = (random.pick(&ids), random.pick(&ids));
            let (text, result) = match random.below(6) {
                0 | 1 => (format!("setpgid {} {}", name(a), name(b)), libc::setpgid(a, b)),
                2 => {
                    let group = libc::getpgid(a);
                    (format!("getpgid {} is {}", name(a), name(group)), group.min(0))
                }
                3 => {
                    let session = libc::getsid(a);
                    (format!("getsid {} is {}", name(a), name(session)), session.min(0))
                }
                4 => ("setsid".to_string(), libc::setsid().min(0)),
                _ => {
                    let fd = random.pick(&[fds[0], 99]);
                    (format!("tcsetpgrp {}", fd == 99), libc::tcsetpgrp(fd, a))
                }
            };
            state.call(&text, result);
        }
        if session {
            let result = libc::kill(-pid, 0);
            state.call("kill group", result);
        }
        libc::close(fds[0]);
        libc::close(fds[1]);
        wait4(state, pid, pid, 0);
        ok(libc::sigprocmask(libc::SIG_SETMASK, &old, std::ptr::null_mut()));
        state.flush();
    }
}

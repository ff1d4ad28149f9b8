//! Random calls about signals, children and timers: every result, every signal that a handler is told
//! of and every wait status is Linux's. `same_signals [CALLS [SEED]]`.

mod children;
mod interrupted;

use std::mem::zeroed;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use belljar_guest_tests::ok;
use belljar_guest_tests::same::{Random, Trace, arguments};

/// Signals that the calls use: ordinary ones, ones that are ignored by default, and two real-time ones.
const SIGNALS: &[i32] = &[
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGURG,
    libc::SIGWINCH,
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGPIPE,
    34,
    35,
];
/// Numbers that are no signals, or not to be caught.
const WRONG: &[i32] = &[0, -1, 65, 100, libc::SIGKILL, libc::SIGSTOP];

/// What handlers were told: signal, code, value, and whether the sender is this process.
static LOG: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
static LOGGED: AtomicUsize = AtomicUsize::new(0);
/// Raised by every handler; also seen by a helper, where it lies in shared memory.
static PID: AtomicU32 = AtomicU32::new(0);

extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes it; what is read has the form that the code tells.
    let entry = unsafe {
        let code = (*info).si_code;
        let ours = (*info).si_pid() as u32 == PID.load(Ordering::Relaxed);
        let value = if code == -1 { (*info).si_value().sival_ptr as u64 & 0xff } else { 0 };
        (signal as u64) << 40 | u64::from(code as u8) << 32 | u64::from(ours) << 16 | value
    };
    let at = LOGGED.fetch_add(1, Ordering::Relaxed);
    LOG[at % LOG.len()].store(entry, Ordering::Relaxed);
    interrupted::handled();
}

/// Installs the handler, or another disposition.
fn set_action(signal: i32, disposition: usize, flags: i32, mask: u64) -> i32 {
    // SAFETY: an all-zero `sigaction` is valid; the handler has the form that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = disposition;
        action.sa_flags = flags;
        action.sa_mask = set_of(mask);
        libc::sigaction(signal, &action, null_mut())
    }
}

fn catch(signal: i32, flags: i32) {
    ok(set_action(signal, handler as *const () as usize, flags | libc::SA_SIGINFO, 0));
}

/// The set with these bits (bit 0 is signal 1).
fn set_of(bits: u64) -> libc::sigset_t {
    // SAFETY: the set's first word has the first 64 signals.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        *(&raw mut set).cast::<u64>() = bits;
        set
    }
}

fn bits_of(set: &libc::sigset_t) -> u64 {
    // SAFETY: see `set_of`.
    unsafe { *std::ptr::from_ref(set).cast::<u64>() }
}

/// Some of the signals that are used.
fn some(random: &mut Random) -> u64 {
    SIGNALS.iter().filter(|_| random.one_in(4)).fold(0, |set, signal| set | 1 << (signal - 1))
}

/// A signal, now and then one that is none.
fn signal(random: &mut Random) -> i32 {
    if random.one_in(12) { random.pick(WRONG) } else { random.pick(SIGNALS) }
}

struct State {
    trace: Trace,
    signalfd: i32,
    /// Alternate stacks to choose from.
    stack: Vec<u8>,
    timers: [libc::timer_t; 2],
}

impl State {
    /// Prints what handlers saw since the last time.
    fn flush(&mut self) {
        let n = LOGGED.swap(0, Ordering::Relaxed);
        for entry in LOG.iter().take(n) {
            let entry = entry.load(Ordering::Relaxed);
            let (signal, code) = (entry >> 40, (entry >> 32) as u8 as i8);
            self.trace.line(&format!("  caught {signal} {code} {:x}", entry & 0xff_ffff));
        }
    }

    fn call(&mut self, text: &str, result: impl Into<i64>) -> i64 {
        let result = self.trace.call(text, result);
        self.flush();
        result
    }

    fn action(&mut self, random: &mut Random) {
        let signal = signal(random);
        // What would end the program stays caught or ignored.
        let harmless = [libc::SIGURG, libc::SIGWINCH, libc::SIGCHLD, libc::SIGCONT];
        let disposition = match random.below(5) {
            0 => libc::SIG_IGN,
            1 if harmless.contains(&signal) => libc::SIG_DFL,
            _ => handler as *const () as usize,
        };
        let all = [libc::SA_RESTART, libc::SA_NODEFER, libc::SA_ONSTACK, libc::SA_NOCLDSTOP];
        let flags = random.flags(&all, 3) | libc::SA_SIGINFO;
        let mask = some(random);
        let kind = disposition.min(2);
        let result = set_action(signal, disposition, flags, mask);
        self.call(&format!("sigaction {signal} {kind} {flags:x} {mask:x}"), result);
        // SAFETY: the old action is a valid place.
        unsafe {
            let mut old: libc::sigaction = zeroed();
            let result = libc::sigaction(signal, null(), &mut old);
            let (mask, flags) = (bits_of(&old.sa_mask), old.sa_flags & !0x0400_0000);
            let kind = old.sa_sigaction.min(2);
            self.call(&format!("  now {kind} {flags:x} {mask:x}"), result);
            if random.one_in(20) {
                let size = random.pick(&[0, 4, 16]);
                let p = null_mut::<libc::sigset_t>();
                let result = libc::syscall(libc::SYS_rt_sigaction, signal, p, p, size);
                self.call(&format!("rt_sigaction of {size}"), result);
            }
        }
    }

    fn mask(&mut self, random: &mut Random) {
        let (how, bits) = (random.pick(&[0, 1, 2, 2, 3, -1]), some(random));
        let bits = if random.one_in(8) { bits | 1 << 8 | 1 << 18 } else { bits };
        // SAFETY: the sets are valid places.
        unsafe {
            let (set, mut old) = (set_of(bits), set_of(0));
            let set = if random.one_in(8) { null() } else { &raw const set };
            let size = if random.one_in(20) { 7_usize } else { 8 };
            let result = libc::syscall(libc::SYS_rt_sigprocmask, how, set, &raw mut old, size);
            let old = bits_of(&old);
            let null = set.is_null();
            self.call(&format!("sigprocmask {how} {bits:x} {null} {size} was {old:x}"), result);
            let mut pending = set_of(0);
            let result = libc::sigpending(&mut pending);
            self.call(&format!("sigpending {:x}", bits_of(&pending)), result);
        }
    }

    fn send(&mut self, random: &mut Random) {
        let signal = signal(random);
        let signal = if [libc::SIGKILL, libc::SIGSTOP].contains(&signal) { 0 } else { signal };
        // SAFETY: plain calls; the siginfo is a valid place.
        unsafe {
            let me = libc::getpid();
            let other = random.pick(&[me, me, me, me, me, 0x3fff_fff0, 0, -0x3fff_fff0]);
            let shown = if other == me { 1 } else { other };
            let (text, result) = match random.below(7) {
                0 | 1 => (format!("kill {shown}"), i64::from(libc::kill(other, signal))),
                2 => (format!("tkill {shown}"), libc::syscall(libc::SYS_tkill, other, signal)),
                3 | 4 => {
                    let group = random.pick(&[me, me, me, 0x3fff_fff0, 0, -1]);
                    let result = libc::syscall(libc::SYS_tgkill, group, other, signal);
                    (format!("tgkill {} {shown}", if group == me { 1 } else { group }), result)
                }
                _ => {
                    let mut info: libc::siginfo_t = zeroed();
                    info.si_signo = random.pick(&[signal, 0]);
                    info.si_code = random.pick(&[-1, -1, -1, -2, 0, 1, -6]);
                    let words = (&raw mut info).cast::<i32>();
                    *words.add(4) = me;
                    *words.add(6) = random.below(200) as i32;
                    let thread = random.one_in(3);
                    let result = if thread {
                        libc::syscall(
                            libc::SYS_rt_tgsigqueueinfo,
                            other,
                            other,
                            signal,
                            &raw mut info,
                        )
                    } else {
                        libc::syscall(libc::SYS_rt_sigqueueinfo, other, signal, &raw mut info)
                    };
                    (format!("sigqueue {thread} {} {shown}", info.si_code), result)
                }
            };
            self.call(&format!("{text} {signal}"), result);
        }
    }

    fn wait(&mut self, random: &mut Random) {
        let bits = some(random);
        // SAFETY: the places are valid.
        unsafe {
            let mut info: libc::siginfo_t = zeroed();
            let nanos = random.pick(&[0, 0, 0, 0, -1, 1_000_000_000]);
            let timeout = libc::timespec { tv_sec: 0, tv_nsec: nanos };
            let size = if random.one_in(20) { 4 } else { 8 };
            let set = set_of(bits);
            let (s, i) = (&raw const set, &raw mut info);
            let result = libc::syscall(libc::SYS_rt_sigtimedwait, s, i, &raw const timeout, size);
            let ours = info.si_pid() == libc::getpid();
            let (signo, code) = (info.si_signo, info.si_code);
            let text = format!("sigtimedwait {bits:x} {nanos} {size}: {signo} {code} {ours}");
            self.call(&text, result);
        }
    }

    fn signalfd(&mut self, random: &mut Random) {
        // SAFETY: the places are valid.
        unsafe {
            if random.one_in(2) {
                let mut info: libc::signalfd_siginfo = zeroed();
                let size = random.pick(&[128, 128, 128, 127, 0]);
                let n = libc::read(self.signalfd, (&raw mut info).cast(), size);
                let (signo, code, value) = (info.ssi_signo, info.ssi_code, info.ssi_int);
                let value = if code == -1 { value } else { 0 };
                self.call(&format!("signalfd read {size}: {signo} {code} {value}"), n as i64);
                return;
            }
            let (bits, flags) = (some(random), random.pick(&[libc::SFD_NONBLOCK, 0o2000000, 1]));
            let fd = random.pick(&[-1, self.signalfd, self.signalfd, 0, 99]);
            let (set, size) = (set_of(bits), random.pick(&[8, 8, 8, 4]));
            let set = &raw const set;
            let result = libc::syscall(libc::SYS_signalfd4, fd, set, size, flags) as i32;
            let shown = if fd == self.signalfd { 1 } else { fd };
            self.call(&format!("signalfd {shown} {bits:x} {size} {flags:x}"), result.min(0));
            if fd == -1 && result >= 0 {
                libc::close(self.signalfd);
                self.signalfd = result;
                ok(libc::fcntl(result, libc::F_SETFL, libc::O_NONBLOCK));
            }
        }
    }

    fn altstack(&mut self, random: &mut Random) {
        // SAFETY: the stack is large enough for the handler, and lives as long as the program.
        unsafe {
            let size = random.pick(&[16384, 16384, 16384, 100, 5120, 0]);
            let flags = random.pick(&[0, 0, libc::SS_DISABLE, libc::SS_ONSTACK, i32::MIN, 3, 8]);
            let stack = libc::stack_t {
                ss_sp: self.stack.as_mut_ptr().cast(),
                ss_flags: flags,
                ss_size: size,
            };
            let result = libc::sigaltstack(&stack, null_mut());
            self.call(&format!("sigaltstack {size} {flags:x}"), result);
            let mut now: libc::stack_t = zeroed();
            let result = libc::sigaltstack(null(), &mut now);
            let (flags, size) = (now.ss_flags, now.ss_size);
            self.call(&format!("  now {} {flags:x} {size}", now.ss_sp.is_null()), result);
        }
    }

    fn timer(&mut self, random: &mut Random) {
        let i = random.below(2) as usize;
        // SAFETY: the places are valid.
        unsafe {
            let zero: libc::itimerspec = zeroed();
            let mut old = zero;
            let (text, result) = match random.below(8) {
                0 | 1 => {
                    let clock = random.pick(&[0, 1, 2, 3, 4, 7, 11, 12, 50, -1]);
                    let mut event: libc::sigevent = zeroed();
                    event.sigev_notify = random.pick(&[0, 0, 1, 2, 3, 4, 9]);
                    event.sigev_signo = signal(random);
                    event.sigev_notify_thread_id =
                        random.pick(&[libc::getpid(), libc::getpid(), 1 << 29]);
                    let me = event.sigev_notify_thread_id == libc::getpid();
                    let mut id: i32 = -1;
                    let (e, p) = (&raw mut event, &raw mut id);
                    let result = libc::syscall(libc::SYS_timer_create, clock, e, p) as i32;
                    if result == 0 {
                        libc::syscall(libc::SYS_timer_delete, self.timers[i] as usize as i32);
                        self.timers[i] = id as usize as libc::timer_t;
                    }
                    let (how, signo) = (event.sigev_notify, event.sigev_signo);
                    (format!("timer_create {clock} {how} {signo} {me}"), result)
                }
                2 => {
                    let nanos = random.pick(&[0, 0, -1, 1_000_000_000]);
                    let flags = random.pick(&[0, 1, 2]);
                    let mut new = zero;
                    new.it_interval.tv_nsec = nanos;
                    let id = self.timers[i] as usize as i32;
                    let (n, o) = (&raw const new, &raw mut old);
                    let result = libc::syscall(libc::SYS_timer_settime, id, flags, n, o) as i32;
                    (format!("timer_settime {flags} {nanos} was {}", old.it_value.tv_sec), result)
                }
                3 => {
                    let id = self.timers[i] as usize as i32;
                    let result = libc::syscall(libc::SYS_timer_gettime, id, &raw mut old) as i32;
                    (format!("timer_gettime {}", old.it_value.tv_sec), result)
                }
                4 => {
                    let id = self.timers[i] as usize as i32;
                    let which = random.pick(&[libc::SYS_timer_delete, libc::SYS_timer_getoverrun]);
                    (format!("timer {which}"), libc::syscall(which, id) as i32)
                }
                5 => {
                    let which = random.pick(&[0, 1, 2, 3, -1]);
                    let micros = random.pick(&[0, 0, -1, 1_000_000]);
                    let mut new: libc::itimerval = zeroed();
                    new.it_interval.tv_usec = micros;
                    let mut old: libc::itimerval = zeroed();
                    let (n, o) = (&raw const new, &raw mut old);
                    let result = libc::syscall(libc::SYS_setitimer, which, n, o) as i32;
                    (format!("setitimer {which} {micros} was {}", old.it_value.tv_sec), result)
                }
                6 => {
                    let mut now: libc::itimerval = zeroed();
                    let which = random.pick(&[0, 1, 2, 3]);
                    let result = libc::syscall(libc::SYS_getitimer, which, &raw mut now) as i32;
                    (format!("getitimer {which} {}", now.it_value.tv_sec), result)
                }
                _ => {
                    let first = libc::alarm(1000);
                    (format!("alarm {first}"), libc::alarm(0) as i32)
                }
            };
            self.call(&text, result);
        }
    }

    fn broken_pipe(&mut self, random: &mut Random) {
        let mut fds = [0; 2];
        let socket = random.one_in(2);
        let flags = random.pick(&[0, libc::MSG_NOSIGNAL]);
        // SAFETY: both ends are ours.
        unsafe {
            if socket {
                ok(libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, fds.as_mut_ptr()));
            } else {
                ok(libc::pipe(fds.as_mut_ptr()));
            }
            libc::close(fds[0]);
            let result = if socket && flags != 0 {
                libc::send(fds[1], c"x".as_ptr().cast(), 1, flags)
            } else {
                libc::write(fds[1], c"x".as_ptr().cast(), 1)
            };
            libc::close(fds[1]);
            self.call(&format!("broken {socket} {flags:x}"), result as i64);
        }
    }
}

fn main() {
    let (calls, mut random) = arguments(1500);
    PID.store(std::process::id(), Ordering::Relaxed);
    for &signal in SIGNALS {
        catch(signal, 0);
    }
    // SAFETY: plain calls. Results must not depend on whose session the program is in.
    let signalfd = unsafe {
        libc::setsid();
        libc::setpgid(0, 0);
        ok(libc::signalfd(-1, &set_of(1 << 9), libc::SFD_NONBLOCK))
    };
    let none = usize::MAX as libc::timer_t;
    let stack = vec![0; 16384];
    let mut state = State { trace: Trace::default(), signalfd, stack, timers: [none; 2] };
    for _ in 0..calls {
        match random.below(40) {
            0..=6 => state.action(&mut random),
            7..=11 => state.mask(&mut random),
            12..=19 => state.send(&mut random),
            20..=22 => state.wait(&mut random),
            23..=25 => state.signalfd(&mut random),
            26 | 27 => state.altstack(&mut random),
            28..=31 => state.timer(&mut random),
            32 => state.broken_pipe(&mut random),
            33..=35 => children::status(&mut state, &mut random),
            36 | 37 => children::groups(&mut state, &mut random),
            _ => interrupted::call(&mut state, &mut random),
        }
    }
}

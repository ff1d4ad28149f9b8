//! Helpers of the guest test programs: each program is one case, exits with 0 if it holds, and says
//! why on standard error otherwise. They are ordinary Linux programs and must pass on Linux first.
#![cfg(target_os = "linux")]

pub mod cgroups;
pub mod cpus;
pub mod moved;
pub mod net;
pub mod same;
pub mod scm;
pub mod seccomp;
pub mod sysv;
pub mod terminals;
pub mod tracing;

use std::io::Error;

/// Ends the program with a reason unless the condition holds.
#[macro_export]
macro_rules! check {
    ($cond:expr) => {
        if !$cond {
            $crate::fail(&format!("{}:{}: {}", file!(), line!(), stringify!($cond)));
        }
    };
    ($cond:expr, $($arg:tt)+) => {
        if !$cond {
            $crate::fail(&format!("{}:{}: {}", file!(), line!(), format_args!($($arg)+)));
        }
    };
}

/// Ends the program with a reason unless both sides are equal.
#[macro_export]
macro_rules! check_eq {
    ($a:expr, $b:expr) => {{
        let (a, b) = (&$a, &$b);
        if a != b {
            $crate::fail(&format!(
                "{}:{}: {} is {a:?}, not {b:?}",
                file!(),
                line!(),
                stringify!($a)
            ));
        }
    }};
    ($a:expr, $b:expr, $($arg:tt)+) => {{
        let (a, b) = (&$a, &$b);
        if a != b {
            $crate::fail(&format!(
                "{}:{}: {} is {a:?}, not {b:?}: {}",
                file!(),
                line!(),
                stringify!($a),
                format_args!($($arg)+)
            ));
        }
    }};
}

/// Memory of the machine that nobody uses, in KiB.
pub fn free_kib() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with("MemFree:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Prints the reason and exits with 1, also from a forked child.
pub fn fail(reason: &str) -> ! {
    eprintln!("{reason}");
    // SAFETY: ends the process.
    unsafe { libc::_exit(1) }
}

/// The result of a call that must succeed.
#[track_caller]
pub fn ok<T: Into<i64> + Copy>(result: T) -> T {
    if result.into() < 0 {
        fail(&format!("{}: {}", std::panic::Location::caller(), Error::last_os_error()));
    }
    result
}

/// The error number of a call that must fail.
#[track_caller]
pub fn err<T: Into<i64>>(result: T) -> i32 {
    if result.into() >= 0 {
        fail(&format!("{}: the call did not fail", std::panic::Location::caller()));
    }
    Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Forks; the child runs `f` and exits with what it returns.
pub fn child(f: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the programs are single-threaded where they fork.
    let pid = ok(unsafe { libc::fork() });
    if pid == 0 {
        let code = f();
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(code) };
    }
    pid
}

/// Waits for a child and returns its wait status.
#[track_caller]
pub fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is valid.
    check_eq!(ok(unsafe { libc::waitpid(pid, &raw mut status, 0) }), pid);
    status
}

/// Waits for a child that must exit with 0.
#[track_caller]
pub fn wait_ok(pid: i32) {
    let status = wait(pid);
    if status != 0 {
        fail(&format!("{}: child ended with status {status:#x}", std::panic::Location::caller()));
    }
}

/// A small repeatable generator of pseudo-random numbers (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.number() % n
    }
}

/// Anonymous memory.
#[track_caller]
pub fn map(len: usize, prot: i32, flags: i32) -> *mut u8 {
    // SAFETY: a new mapping.
    let p =
        unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags | libc::MAP_ANONYMOUS, -1, 0) };
    if p == libc::MAP_FAILED {
        fail(&format!("{}: mmap: {}", std::panic::Location::caller(), Error::last_os_error()));
    }
    p.cast()
}

/// errno of the last call of this thread.
pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Runs `f` in a child process and returns its wait status.
pub fn in_child(f: impl FnOnce() -> i32) -> i32 {
    wait(child(f))
}

/// Seconds on a clock.
pub fn seconds(clock: libc::clockid_t) -> f64 {
    let mut time = timespec(0.0);
    // SAFETY: `time` is a valid place.
    check_eq!(unsafe { libc::clock_gettime(clock, &mut time) }, 0);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Seconds as a `timespec`.
pub fn timespec(seconds: f64) -> libc::timespec {
    let whole = seconds.floor();
    libc::timespec { tv_sec: whole as i64, tv_nsec: ((seconds - whole) * 1e9) as i64 }
}

/// Seconds as a `timeval`.
pub fn timeval(seconds: f64) -> libc::timeval {
    let time = timespec(seconds);
    libc::timeval { tv_sec: time.tv_sec, tv_usec: time.tv_nsec / 1000 }
}

/// Installs a handler that is told the signal's `siginfo_t`.
pub fn handle(signal: i32, flags: i32, handler: extern "C" fn(i32, *mut libc::siginfo_t)) {
    // SAFETY: an all-zero `sigaction` is valid, and the handler has the form that SA_SIGINFO asks for
    // (its third argument is left alone).
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = flags | libc::SA_SIGINFO;
        check_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
    }
}

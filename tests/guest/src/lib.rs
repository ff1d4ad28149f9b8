//! Helpers of the guest test programs. A program passes if it exits with 0.

/// Ends the program with what was wrong, where, and errno.
#[macro_export]
macro_rules! check {
    ($condition:expr) => {
        if !$condition {
            let error = std::io::Error::last_os_error();
            eprintln!("{}:{}: {} is false ({error})", file!(), line!(), stringify!($condition));
            std::process::exit(1);
        }
    };
}

/// Ends the program unless both are equal.
#[macro_export]
macro_rules! check_eq {
    ($left:expr, $right:expr) => {{
        let (left, right) = (&$left, &$right);
        if left != right {
            eprintln!("{}:{}: {} is {left:?}, not {right:?}", file!(), line!(), stringify!($left));
            std::process::exit(1);
        }
    }};
}

/// errno of the last call of this thread.
pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Runs `child` in a child process and returns its wait status.
pub fn in_child(child: impl FnOnce() -> i32) -> i32 {
    let pid = fork(child);
    let mut status = 0;
    // SAFETY: plain calls on our own child.
    check_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status
}

/// Starts `child` in a child process, which exits with what it returns.
pub fn fork(child: impl FnOnce() -> i32) -> libc::pid_t {
    // SAFETY: the child calls nothing that another thread of ours could hold a lock for.
    match unsafe { libc::fork() } {
        // SAFETY: ends the child without running the parent's exit handlers.
        0 => unsafe { libc::_exit(child()) },
        pid => {
            check!(pid > 0);
            pid
        }
    }
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

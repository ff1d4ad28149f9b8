//! What signals are made of (signal(7)): sets, information, queues, dispositions.
//!
//! Sending and delivering are verbs and live in [`crate::process::signal`]. Floors below the process
//! floor that must raise a signal (a tty, a pipe without readers) do it through [`hooks`].

mod action;
pub mod hooks;
pub mod info;
mod pending;
mod set;

pub use action::{Disposition, SigAction, Sighand, default_disposition};
pub use info::SigInfo;
pub use pending::Pending;
pub use set::SigSet;

/// Number of signals; they run from 1.
pub const NSIG: usize = 64;
/// The first real-time signal of the kernel's interface.
pub const SIGRTMIN: i32 = 32;

macro_rules! signals {
    ($($name:ident = $n:literal)*) => {
        $(#[allow(missing_docs, reason = "the names are signal(7)'s")] pub const $name: i32 = $n;)*

        /// The name of a standard signal.
        pub const fn name(sig: i32) -> Option<&'static str> {
            match sig {
                $($n => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

signals! {
    SIGHUP = 1 SIGINT = 2 SIGQUIT = 3 SIGILL = 4 SIGTRAP = 5 SIGABRT = 6 SIGBUS = 7 SIGFPE = 8
    SIGKILL = 9 SIGUSR1 = 10 SIGSEGV = 11 SIGUSR2 = 12 SIGPIPE = 13 SIGALRM = 14 SIGTERM = 15
    SIGSTKFLT = 16 SIGCHLD = 17 SIGCONT = 18 SIGSTOP = 19 SIGTSTP = 20 SIGTTIN = 21 SIGTTOU = 22
    SIGURG = 23 SIGXCPU = 24 SIGXFSZ = 25 SIGVTALRM = 26 SIGPROF = 27 SIGWINCH = 28 SIGIO = 29
    SIGPWR = 30 SIGSYS = 31
}

/// True for a signal number that can be sent.
pub const fn is_valid(sig: i32) -> bool {
    sig >= 1 && sig <= NSIG as i32
}

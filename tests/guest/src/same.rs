//! What the `same_*` programs share: random but repeatable calls, each printed with its result, so that
//! two kernels can be compared line by line. A program prints the same on Linux and here, or one of the
//! two is wrong; nothing that may rightly differ (addresses, inode numbers, times) may be printed.

use std::io::{Error, Write};

pub use crate::Random;
use crate::ok;

/// Number of calls and seed: the program's arguments, or `calls` and 1.
pub fn arguments(calls: u64) -> (u64, Random) {
    let mut args = std::env::args().skip(1).map(|word| word.parse().unwrap_or(1));
    (args.next().unwrap_or(calls), Random(args.next().unwrap_or(1)))
}

/// Goes into an empty file system where all names are free, and which nobody else sees: what one program leaves
/// must not show in another's mounts.
pub fn enter_files() {
    let none = std::ptr::null::<libc::c_char>();
    let (kind, place) = (c"tmpfs".as_ptr(), c"/tmp/same".as_ptr());
    // SAFETY: plain calls with valid strings.
    unsafe {
        ok(libc::unshare(libc::CLONE_NEWNS));
        ok(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()));
        libc::mkdir(c"/tmp".as_ptr(), 0o1777);
        libc::mkdir(place, 0o777);
        ok(libc::mount(kind, place, kind, 0, c"mode=777".as_ptr().cast()));
        ok(libc::chdir(place));
    }
}

impl Random {
    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Some of `flags`, each once in `n` times.
    pub fn flags(&mut self, flags: &[i32], n: u64) -> i32 {
        flags.iter().filter(|_| self.one_in(n)).fold(0, |all, flag| all | flag)
    }
}

/// The lines of a run.
#[derive(Default)]
pub struct Trace {
    lines: u64,
}

impl Trace {
    /// Prints one call and its result.
    pub fn line(&mut self, text: &str) {
        self.lines += 1;
        let mut out = std::io::stdout().lock();
        // The console may be gone; nothing can be said of it then.
        let _ = writeln!(out, "{} {text}", self.lines);
    }

    /// Prints a call with what it returned: the number, or the error's.
    pub fn call(&mut self, text: &str, result: impl Into<i64>) -> i64 {
        let n = result.into();
        if n < 0 {
            let errno = Error::last_os_error().raw_os_error().unwrap_or(0);
            self.line(&format!("{text} = -{errno}"));
        } else {
            self.line(&format!("{text} = {n}"));
        }
        n
    }
}

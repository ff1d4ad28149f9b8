//! What happens at a system call that is on nobody's list: one line that names it, and the end.
//!
//! (A thread that tries to start a process or a thread has all signals blocked by the C library at that
//! moment: then the process ends by SIGSYS itself, without the line.)
//!
//! The filter turns the call into SIGSYS. The handler runs in the middle of whatever the thread did, so it
//! neither allocates nor locks. The VM's folder and the terminal are put right by the guard process, as
//! after any sudden end.

use std::ffi::{c_int, c_void};
use std::fmt::{self, Write};
use std::io;
use std::ptr;

use syscalls::Sysno;

/// What `belljar` ends with if it failed itself.
const FAILURE: c_int = 125;

/// `si_code` of a signal that a seccomp filter sent (sigaction(2)).
const SYS_SECCOMP: c_int = 1;

/// The part of `siginfo_t` that a SIGSYS fills (sigaction(2)); the C library has no names for it.
#[repr(C)]
struct SigSys {
    signal: c_int,
    errno: c_int,
    code: c_int,
    /// The union starts at the alignment of a pointer.
    address: *const c_void,
    call: c_int,
    architecture: u32,
}

/// Makes SIGSYS end the process with a line.
pub(super) fn install() -> io::Result<()> {
    // SAFETY: a sigaction of zeros is a valid one: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = violated as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for and does only what a handler may.
    match unsafe { libc::sigaction(libc::SIGSYS, &action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn violated(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel gives the handler a siginfo of this signal.
    let info = unsafe { &*info.cast::<SigSys>() };
    let mut line = Line::default();
    // It cuts what does not fit, and never fails.
    let _ = match (info.code, usize::try_from(info.call).ok().and_then(Sysno::new)) {
        (SYS_SECCOMP, Some(call)) => write!(
            line,
            "belljar: the sandbox stopped thread {}, which tried the system call {} ({}): this is a bug \
             or an attack; --no-sandbox runs without it",
            Name::of_thread(),
            call.name(),
            info.call
        ),
        _ => write!(line, "belljar: ended by SIGSYS"),
    };
    end(line);
}

/// Ends the process because the sandbox could not be set up.
pub(super) fn give_up(why: &str) -> ! {
    let mut line = Line::default();
    // See above.
    let _ = write!(line, "belljar: {why}: --no-sandbox runs without");
    end(line)
}

fn end(mut line: Line) -> ! {
    line.0[line.1] = b'\n';
    // SAFETY: write(2) reads what it is given, and _exit(2) ends the process, whatever it is in.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.0.as_ptr().cast(), line.1 + 1);
        libc::_exit(FAILURE)
    }
}

/// Text on the stack; what does not fit is left out.
struct Line([u8; 256], usize);

impl Default for Line {
    fn default() -> Self {
        Self([0; 256], 0)
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One byte is kept for the newline.
        let room = self.0.len() - 1 - self.1;
        let count = text.len().min(room);
        self.0[self.1..self.1 + count].copy_from_slice(&text.as_bytes()[..count]);
        self.1 += count;
        Ok(())
    }
}

/// A thread's name as prctl(2) gives it.
struct Name([u8; 16]);

impl Name {
    fn of_thread() -> Self {
        let mut name = [0; 16];
        // SAFETY: PR_GET_NAME writes sixteen bytes at most.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        Self(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.split(|&byte| byte == 0).next().unwrap_or_default();
        f.write_str(std::str::from_utf8(text).unwrap_or("?"))
    }
}

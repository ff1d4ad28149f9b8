//! Error numbers, as system calls return them (errno(3), and the values of the generic ABI).
//!
//! [`Errno`] also carries the kernel's private restart codes (512 and up), which never reach EL0:
//! signal delivery turns them into a restarted call or `EINTR`.

use core::fmt;

use linux_raw_sys::errno as raw;

/// An error number, positive as in errno(3); `x0` carries its negative.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Errno(u16);

/// What every fallible kernel operation returns.
pub type Result<T, E = Errno> = core::result::Result<T, E>;

impl Errno {
    /// The number, positive.
    pub const fn number(self) -> i32 {
        self.0 as i32
    }

    /// The error with this positive number, as a tracer or a table may give it.
    pub const fn from_number(n: u16) -> Self {
        Self(n)
    }

    /// The value that `x0` takes when a system call fails with this error.
    pub const fn to_ret(self) -> u64 {
        -(self.0 as i64) as u64
    }

    /// True for the private restart codes.
    pub const fn is_restart(self) -> bool {
        matches!(self.0, 512..=516)
    }
}

macro_rules! errnos {
    ($($name:ident)*) => {
        #[allow(missing_docs, reason = "the names are errno(3)'s")]
        impl Errno {
            $(pub const $name: Errno = Errno(raw::$name as u16);)*

            /// The symbolic name, for logs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Errno::$name => stringify!($name),)*
                    Errno::ERESTARTSYS => "ERESTARTSYS",
                    Errno::ERESTARTNOINTR => "ERESTARTNOINTR",
                    Errno::ERESTARTNOHAND => "ERESTARTNOHAND",
                    Errno::ERESTART_RESTARTBLOCK => "ERESTART_RESTARTBLOCK",
                    _ => "E?",
                }
            }
        }
    };
}

errnos! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK
    EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE
    EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP ENOMSG EIDRM
    ENOSTR ENODATA ETIME EPROTO EBADMSG EOVERFLOW ENOTUNIQ EBADFD EUSERS ENOTSOCK EDESTADDRREQ
    EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT
    EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET
    ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY
    EINPROGRESS ESTALE EDQUOT ECANCELED ELIBBAD EOWNERDEAD ENOTRECOVERABLE ETOOMANYREFS ENONET
}

impl Errno {
    /// Restart the call if the handler has `SA_RESTART` or there is no handler, else `EINTR`.
    pub const ERESTARTSYS: Errno = Errno(512);
    /// Always restart the call.
    pub const ERESTARTNOINTR: Errno = Errno(513);
    /// Restart the call if no handler ran, else `EINTR`.
    pub const ERESTARTNOHAND: Errno = Errno(514);
    /// Restart through `restart_syscall` (relative sleeps), else `EINTR`.
    pub const ERESTART_RESTARTBLOCK: Errno = Errno(516);
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

//! kcmp(2): whether two tasks share an object of the kernel, without saying where it is.

use crate::drivers::random::random_u64;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::process::access::{AccessMode, may_access};
use crate::sync::Once;
use crate::task::Task;

/// What is compared: `KCMP_*` but for `KCMP_EPOLL_TFD`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Open files, by the two descriptors.
    File(i32, i32),
    /// Memory.
    Vm,
    /// Tables of open files.
    Files,
    /// Root and working directory.
    Fs,
    /// Dispositions of signals.
    Sighand,
    /// I/O contexts: nobody has one.
    Io,
    /// What semaphores get back.
    Sysvsem,
}

/// 0 if both are the same, else 1 or 2 in an order that lasts until the machine ends. `EPERM` unless the caller may look
/// into both, `EBADF` for a descriptor that is not open.
pub fn kcmp(first: &Task, second: &Task, kind: Kind) -> Result<usize> {
    let may = |task: &Task| may_access(task, AccessMode::RealCreds);
    if !may(first) || !may(second) {
        return Err(Errno::EPERM);
    }
    let address = |task: &Task, fd: i32| -> Result<u64> {
        fn of<T>(object: Option<Ref<T>>) -> u64 {
            object.map_or(0, |object| Ref::as_ptr(&object) as u64)
        }
        Ok(match kind {
            Kind::File(..) => {
                let files = task.files.share().ok_or(Errno::EBADF)?;
                of(Some(files.get_any(fd).map_err(|_| Errno::EBADF)?))
            }
            Kind::Vm => of(task.se.get_mm()),
            Kind::Files => of(task.files.share()),
            Kind::Fs => of(task.fs.share()),
            Kind::Sighand => of(Some(task.sighand.share())),
            Kind::Io => 0,
            Kind::Sysvsem => of(task.sysvsem.share()),
        })
    };
    let (fd1, fd2) = match kind {
        Kind::File(first, second) => (first, second),
        _ => (0, 0),
    };
    let (a, b) = (hidden(address(first, fd1)?), hidden(address(second, fd2)?));
    Ok(usize::from(a < b) | usize::from(a > b) << 1)
}

/// An address in an order of its own.
fn hidden(address: u64) -> u64 {
    static KEYS: Once<[u64; 2]> = Once::new();
    let keys = match KEYS.try_get() {
        Some(keys) => keys,
        None => KEYS.set([random_u64(), random_u64() | 1]),
    };
    (address ^ keys[0]).wrapping_mul(keys[1])
}

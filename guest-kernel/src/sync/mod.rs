//! Locks that spin, and what they are built from.
//!
//! | type | while held | for |
//! | --- | --- | --- |
//! | [`SpinLock`] | preemption is off | short sections never entered from an interrupt |
//! | [`IrqLock`] | preemption and interrupts are off | what interrupt handlers touch too |
//! | [`SeqCount`] | | writers count; readers outside the machine see whether they met one |
//! | [`Once`] | | set once at boot, read freely afterwards |
//! | [`Mutex`], [`RwLock`] | everything works as before: their waiters sleep | long sections of code that may sleep |

mod once;
mod percpu;
mod preempt;
mod seq;
mod sleep;
mod spin;

pub use once::Once;
pub use percpu::{MAX_CPUS, PerCpu, this_cpu};
pub use preempt::{IrqGuard, PreemptGuard};
pub use seq::SeqCount;
pub use sleep::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use spin::{IrqLock, IrqLockGuard, SpinLock, SpinLockGuard};

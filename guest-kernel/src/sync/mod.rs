//! Locks that spin, and what they are built from.
//!
//! | type | while held | for |
//! | --- | --- | --- |
//! | [`SpinLock`] | preemption is off | short sections never entered from an interrupt |
//! | [`IrqLock`] | preemption and interrupts are off | what interrupt handlers touch too |
//! | [`SeqCount`] | | writers count; readers outside the machine see whether they met one |
//! | [`Once`] | | set once at boot, read freely afterwards |
//!
//! Locks that sleep (`Mutex`, `RwLock`) need a scheduler and live in [`crate::sched`].

mod once;
mod preempt;
mod seq;
mod spin;

pub use once::Once;
pub use preempt::{IrqGuard, PreemptGuard};
pub use seq::SeqCount;
pub use spin::{IrqLock, IrqLockGuard, SpinLock, SpinLockGuard};

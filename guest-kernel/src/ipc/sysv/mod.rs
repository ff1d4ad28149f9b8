//! System V IPC (sysvipc(7)): objects that are known by a number and perhaps found by a key, and stay
//! until somebody removes them or their namespace ends.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`abi`] | constants and structures as programs know them |
//! | [`table`] | the objects of one kind in a namespace: numbers and keys |
//! | [`perm`] | whose an object is and who may do what with it |
//! | [`shm`], [`sem`], [`msg`] | shared memory, semaphore sets, message queues |
//!
//! Each object has a spin lock of its own, which is taken inside the table's sleeping one. No user memory
//! is touched under either.

pub mod abi;
pub mod msg;
pub mod perm;
pub mod sem;
pub mod shm;
pub mod table;

use crate::ipc::IpcNs;
use crate::kref::Ref;
use crate::ns::{Cred, Pid};

pub use perm::Perm;

/// Who calls.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// Where.
    pub ns: &'a Ref<IpcNs>,
    /// With which rights.
    pub cred: &'a Cred,
    /// The process.
    pub pid: &'a Ref<Pid>,
}

/// Real time in seconds, as objects keep it.
fn now() -> i64 {
    crate::fs::Timestamp::now().sec
}

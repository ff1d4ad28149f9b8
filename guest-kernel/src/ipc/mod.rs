//! What processes share to talk to each other, besides files: futexes, System V IPC (sysvipc(7)) and
//! POSIX message queues (mq_overview(7)); and the namespaces that the latter two live in.

pub mod futex;
pub mod futex_pi;
pub mod hooks;
pub mod mqueue;
pub mod namespace;
pub mod park;
pub mod sysv;

pub use namespace::IpcNs;

use crate::fs::register_filesystem;

/// Makes the file system of message queues known; boot order calls it once.
pub fn init() {
    register_filesystem(&mqueue::fs::MqueueFs);
}

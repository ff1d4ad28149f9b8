//! procfs (proc(5)), sysfs and cgroup2: what the kernel shows of itself as files.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`text`] | the growing text that a file's content is written into |
//! | [`tree`] | directories and files that are described by tables |
//! | [`root`] | /proc itself: the tables' files and a directory for each process |
//! | [`system`], [`memory`], [`cpu`], [`sysctl`] | what concerns the whole system, /proc/sys too |
//! | [`sysvipc`] | /proc/sysvipc |
//! | [`belljar`] | /proc/belljar: snapshots, as programs see them |
//! | [`pid`] | /proc/PID and /proc/PID/task/TID |
//! | [`cgroupfs`] | control groups as directories |
//! | [`nsfs`] | namespaces as files: where /proc/PID/ns leads |
//! | [`sysfs`], `sysnet` | the little of /sys that programs cannot do without; network interfaces |
//!
//! The content of a file is made when it is read from its start, and later parts of the same reading
//! come from that. Formats are those of Linux 6.1, to the byte where programs parse them.

pub mod belljar;
pub mod cgroupfs;
pub mod cpu;
pub mod memory;
pub mod nsfs;
pub mod pid;
pub mod root;
pub mod sysctl;
pub mod sysfs;
mod sysnet;
pub mod system;
pub mod sysvipc;
pub mod text;
pub mod tree;

use crate::fs::register_filesystem;

/// Makes the file system types known; boot order calls it once.
pub fn init() {
    register_filesystem(&root::ProcFs);
    register_filesystem(&sysfs::SysFs);
    cgroupfs::init();
}

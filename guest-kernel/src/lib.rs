//! Bell Jar's guest kernel: an AArch64 kernel that runs unmodified Linux programs and describes
//! itself, so that everything it does can be watched from outside.
//!
//! The library is the whole kernel without its boot order (`main.rs`). It is built twice: for the
//! bare machine, where [`arch`] is `arch/aarch64`, and for any host, where [`arch`] is `arch/host`
//! and every floor above runs under `cargo test`.
//!
//! # Floors
//!
//! Each module uses only those listed before it. Nouns come before verbs: a wait queue wakes an
//! entity and knows no task; a file knows no process. Where an earlier floor would have to call a
//! later one (a page fault that ends in a signal), the trap path, which comes last, does the calling.
//!
//! | floor | what it is |
//! | --- | --- |
//! | [`errno`], [`uapi`], [`addr`], [`list`], [`kref`], [`array`], [`queue`], [`sync`], [`bpf`] | words that every floor speaks |
//! | [`arch`] | the only place with assembly, system registers and page-table bits |
//! | [`mm`] | frames, kernel heap, address spaces, faults, copy-on-write, user copy |
//! | [`sched`] | entities, run queues, wait queues, timers, clocks |
//! | [`drivers`] | console, RTC, virtio |
//! | [`cgroup`], [`fs`], [`ipc`], [`net`], [`ns`], [`seccomp`], [`signal`] | the objects that tasks hold |
//! | [`task`] | the noun: what ties one entity to its memory, files, signals and namespaces |
//! | [`process`] | the verbs: fork, exec, exit, wait, signal delivery, kernel threads |
//! | [`introspect`], [`suspend`], [`procfs`] | what describes, freezes and shows all of the above |
//! | [`syscall`], [`trap`] | one table of system calls, and the way in from EL0 |
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod addr;
pub mod arch;
pub mod array;
pub mod bpf;
pub mod cgroup;
pub mod drivers;
pub mod errno;
pub mod fs;
pub mod introspect;
pub mod ipc;
pub mod kref;
pub mod list;
pub mod mm;
pub mod net;
pub mod ns;
pub mod ordmap;
pub mod panic;
pub mod process;
pub mod procfs;
pub mod queue;
pub mod sched;
pub mod seccomp;
pub mod signal;
pub mod suspend;
pub mod sync;
pub mod syscall;
pub mod task;
pub mod trap;
pub mod uapi;

//! The verbs: what happens to tasks. They stand in the order in which a reader thinks of them.
//!
//! | file | what |
//! | --- | --- |
//! | [`fork`] | `copy_process` behind fork, vfork, clone, clone3 and kernel threads |
//! | [`exec`], [`elf`] | a new program for an old task |
//! | [`hold`], [`restore`] | processes held to be taken out as cores; processes from cores |
//! | [`exit`] | `do_exit`, `do_group_exit`, zombies, orphans, `release_task` |
//! | [`coredump`] | the core that a process leaves when a signal ends it |
//! | [`wait`] | `wait4`, `waitid` |
//! | [`signal`], [`sigframe`], `sigpage` | sending, choosing and delivering signals |
//! | [`namespaces`] | `unshare`, `setns` |
//! | [`sysv`] | what semaphores and shared memory get back from a task |
//! | [`cgroup`], [`oom`] | joining, moving, freezing control groups; who goes for want of memory |
//! | [`pidfd`] | processes as files |
//! | [`access`], [`creds`] | who may look into whom; new credentials |
//! | [`kcmp`] | what two tasks share |
//! | [`seccomp`] | what a task does about a system call before it is made |
//! | [`ptrace`] | tracing: one process controls, and looks into, another |
//! | [`jobs`] | process groups, sessions |
//! | [`clocks`], [`timers`] | the clocks that programs name; what happens when their timers ring |
//! | [`kthread`] | kernel threads |
//! | [`init`] | tasks 0 and 1, from nothing |

pub mod access;
pub mod cgroup;
pub mod clocks;
pub mod coredump;
pub mod creds;
pub mod elf;
pub mod exec;
pub mod exit;
pub mod fork;
pub mod hold;
pub mod init;
pub mod jobs;
pub mod kcmp;
pub mod kthread;
pub mod namespaces;
pub mod oom;
pub mod pidfd;
pub mod ptrace;
pub mod restore;
pub mod seccomp;
pub mod sigframe;
pub mod signal;
pub mod signalfd;
pub mod sigpage;
pub mod smp;
pub mod sysv;
pub mod timers;
pub mod wait;

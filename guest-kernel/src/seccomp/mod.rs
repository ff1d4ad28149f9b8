//! What secure computing is made of (seccomp(2)): filters over system calls, what they can say, and those that they
//! ask about.
//!
//! A [`SeccompFilter`] is a checked program and the filter that was there before it: filters are a tree whose nodes are
//! counted, each task holds one node, and what is on the way from there to the root is what its system calls pass. A
//! filter never changes once a task has it. What a task does about what its filters say stands in
//! [`crate::process::seccomp`].

mod action;
mod data;
mod filter;
mod notify;

pub use action::{Action, ActionSet, RET_DATA};
pub use data::{AUDIT_ARCH, SeccompData};
pub use filter::{MAX_INSNS_PER_PATH, SeccompFilter, Verdict};
pub use notify::{AddFd, Answer, Listener, Notification, NotifyState};

//! What the threads of a running VM may ask of the host's kernel: as little as they need.
//!
//! A guest is hostile, and its devices and the readers of its memory run in this process. Should one of
//! them be turned against us, it finds itself in a thread that can make only the system calls of its
//! [`Role`] (seccomp), that can neither gain privileges nor map code (no_new_privs, no executable
//! mappings), and that cannot open a file ([`close_files`], [`only_files`]: Landlock). A system call that
//! is not on the list ends the process with one line that names it; see [`trap`].
//!
//! - The machine's files are open and QEMU, if it is the backend, has started before the first thread is
//!   confined: QEMU has a sandbox of its own and is not in ours.
//! - On KVM the guest may run before the last thread is confined, but none of its exits is answered: nothing that
//!   comes from it meets code of this process earlier.
//! - Filters are inherited by threads and cannot be taken off, so a thread that starts others has at
//!   least what they have.
//! - Landlock is used as far as the host's kernel has it; seccomp is required. `belljar run
//!   --no-sandbox` runs without either.

mod filter;
mod roles;
mod trap;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError,
};
use seccompiler::apply_filter;
use tracing::debug;

/// What a thread does, and so what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs a vCPU and answers its exits.
    Vcpu,
    /// Serves devices in the event loop.
    Devices,
    /// Copies bytes between the guest's console and ours, or waits for signals.
    Pump,
    /// Speaks to QEMU's monitor.
    Monitor,
    /// Answers requests at the socket, and starts threads that do.
    Api,
    /// Starts the other threads that the guest need not wait for, waits for the end of the VM and cleans up.
    Supervisor,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel was built without it.
    #[error("this host's kernel has no seccomp filters ({0}): use --no-sandbox")]
    NoSeccomp(io::Error),
    /// The handler of violations could not be set up.
    #[error("cannot set up the sandbox: {0}: use --no-sandbox")]
    Handler(io::Error),
}

/// Whether threads are confined.
static ENABLED: AtomicBool = AtomicBool::new(false);

/// Turns the sandbox on for this process; threads are confined from where they call [`enter`].
pub fn enable() -> Result<(), Error> {
    check()?;
    // prctl(2), PR_SET_NO_NEW_PRIVS: inherited by every thread and child from here on.
    rustix::thread::set_no_new_privs(true).map_err(|error| Error::Handler(error.into()))?;
    trap::install().map_err(Error::Handler)?;
    ENABLED.store(true, Ordering::Release);
    Ok(())
}

/// Whether the host's kernel can do it.
pub fn check() -> Result<(), Error> {
    let action = libc::SECCOMP_RET_TRAP;
    // SAFETY: seccomp(2) reads one u32 at the address.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
    };
    if result == 0 { Ok(()) } else { Err(Error::NoSeccomp(io::Error::last_os_error())) }
}

/// Confines the calling thread, and the threads that it starts, to what `role` needs. For good.
///
/// Ends the process if the host refuses: a sandbox that was asked for is there or nothing runs.
pub fn enter(role: Role) {
    if !ENABLED.load(Ordering::Acquire) {
        return;
    }
    debug!(?role, "thread confined");
    match role {
        // They open nothing.
        Role::Vcpu | Role::Devices | Role::Pump | Role::Monitor => close_files(),
        Role::Api | Role::Supervisor => {}
    }
    if let Err(error) = apply_filter(filter::program(role)) {
        trap::give_up(&format!("cannot confine a thread: {error}"));
    }
}

/// From here on the calling thread opens no file.
pub fn close_files() {
    only_files(&[], &[]);
}

/// From here on the calling thread opens only what lies below `read`, for reading, and below `write`,
/// for anything. A path that does not exist is left out. Does nothing where the host's kernel has no
/// Landlock, or without a sandbox.
pub fn only_files(read: &[&Path], write: &[&Path]) {
    if !ENABLED.load(Ordering::Acquire) {
        return;
    }
    if let Err(error) = restrict(read, write) {
        trap::give_up(&format!("cannot confine a thread's files: {error}"));
    }
}

fn restrict(read: &[&Path], write: &[&Path]) -> Result<(), RulesetError> {
    // The newest interface that the crate knows: an older kernel enforces what it has of it.
    const INTERFACE: ABI = ABI::V6;
    let rules = |paths: &[&Path], access| {
        let open = paths.iter().filter_map(|path| PathFd::new(path).ok());
        open.map(move |file| Ok::<_, RulesetError>(PathBeneath::new(file, access)))
            .collect::<Vec<_>>()
    };
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(INTERFACE))?
        .handle_access(AccessNet::from_all(INTERFACE))?
        .create()?
        .add_rules(rules(read, AccessFs::from_read(INTERFACE)))?
        .add_rules(rules(write, AccessFs::from_all(INTERFACE)))?
        .restrict_self()?;
    Ok(())
}

#[cfg(test)]
mod tests;

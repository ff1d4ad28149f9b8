//! Dispositions: what a process does about each signal (sigaction(2)).

use super::{NSIG, SigSet};
use super::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGQUIT, SIGSEGV, SIGSYS, SIGTRAP, SIGXCPU, SIGXFSZ};
use super::{SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH};
use crate::errno::Result;
use crate::kref::Ref;
use crate::sync::IrqLock;

/// `struct sigaction` of the kernel's interface on AArch64.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, belljar_abi::Described)]
pub struct SigAction {
    /// `SIG_DFL` (0), `SIG_IGN` (1) or an address.
    #[described(as = "hex")]
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Unused on AArch64 unless `SA_RESTORER` is set.
    pub restorer: u64,
    /// Blocked while the handler runs.
    pub mask: SigSet,
}

impl SigAction {
    /// The default disposition.
    pub const SIG_DFL: u64 = 0;
    /// Ignore.
    pub const SIG_IGN: u64 = 1;

    /// Set by the kernel where nothing changes any more that the process ends by the signal.
    pub const IMMUTABLE: u64 = 0x0080_0000;
    /// The flags that a program sets (`SA_*`); what it asks for beside them is not kept.
    pub const PROGRAM_FLAGS: u64 = 0xdc00_0807;

    /// Whether nothing changes any more that the process ends by the signal.
    pub const fn is_immutable(&self) -> bool {
        self.flags & Self::IMMUTABLE != 0
    }

    const DEFAULT: Self =
        Self { handler: Self::SIG_DFL, flags: 0, restorer: 0, mask: SigSet::EMPTY };
}

/// What the default of a signal does (signal(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// End the process.
    Terminate,
    /// End the process and write a core.
    Core,
    /// Nothing.
    Ignore,
    /// Stop the process.
    Stop,
    /// Nothing beyond letting a stopped process go on.
    Continue,
}

/// What the default of `sig` does.
pub const fn default_disposition(sig: i32) -> Disposition {
    match sig {
        SIGCONT => Disposition::Continue,
        SIGCHLD | SIGURG | SIGWINCH => Disposition::Ignore,
        SIGSTOP | SIGTSTP | SIGTTIN | SIGTTOU => Disposition::Stop,
        SIGQUIT | SIGILL | SIGTRAP | SIGABRT | SIGBUS | SIGFPE | SIGSEGV | SIGXCPU | SIGXFSZ
        | SIGSYS => Disposition::Core,
        _ => Disposition::Terminate,
    }
}

/// The dispositions of a process; shared by tasks made with `CLONE_SIGHAND`.
#[repr(C)]
#[derive(belljar_abi::Described)]
pub struct Sighand {
    /// By signal number - 1.
    pub actions: IrqLock<[SigAction; NSIG]>,
}

impl Sighand {
    /// All defaults.
    pub fn new() -> Result<Ref<Self>> {
        // A constant is copied to its place; what is computed lies on the stack first.
        Ref::try_new(const { Self { actions: IrqLock::new([SigAction::DEFAULT; NSIG]) } })
    }

    /// A copy, for fork.
    pub fn try_clone(&self) -> Result<Ref<Self>> {
        let new = Self::new()?;
        new.actions.lock().copy_from_slice(&*self.actions.lock());
        Ok(new)
    }

    /// The action for a valid signal.
    pub fn get(&self, sig: i32) -> SigAction {
        self.actions.lock()[(sig as usize - 1) % NSIG]
    }

    /// True if the process ignores `sig`, by choice or by default.
    pub fn ignores(&self, sig: i32) -> bool {
        match self.get(sig).handler {
            SigAction::SIG_IGN => true,
            SigAction::SIG_DFL => default_disposition(sig) == Disposition::Ignore,
            _ => false,
        }
    }

    /// For execve(2): caught signals go back to the default, ignored ones stay ignored.
    pub fn reset_for_exec(&self) {
        for action in self.actions.lock().iter_mut() {
            let keep = action.handler == SigAction::SIG_IGN;
            *action = SigAction {
                handler: if keep { SigAction::SIG_IGN } else { 0 },
                ..Default::default()
            };
        }
    }

    /// For `CLONE_CLEAR_SIGHAND`: everything that is not ignored goes back to the default.
    pub fn clear(&self) {
        self.reset_for_exec();
    }
}

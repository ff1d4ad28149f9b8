//! How a VM ended, and which exit status that makes.

use belljar_abi::image::{HEADER_LEN, Header};
use belljar_abi::root::ExitState;
use serde::{Deserialize, Serialize};

use crate::introspect::Root;
use crate::machine::KERNEL_BASE;
use crate::target::Ram;

/// The exit status of Bell Jar's own failures.
pub const FAILURE: u8 = 125;
/// The exit status of `--timeout`, as timeout(1) has it.
pub const TIMEOUT: u8 = 124;

/// Why a VM is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum Outcome {
    /// Init exited.
    Exited {
        /// Its exit status.
        status: u8,
    },
    /// A signal killed init.
    Signalled {
        /// The signal.
        signal: u8,
    },
    /// The kernel found itself broken and powered off.
    Panicked {
        /// What it said.
        message: String,
    },
    /// The memory of a snapshot could not go on in the machine that it was restored on.
    NotResumed {
        /// What the kernel said.
        message: String,
    },
    /// The machine went away under the guest.
    Died {
        /// What is known about it.
        cause: String,
    },
    /// `--timeout` passed.
    TimedOut,
    /// `belljar kill`, or Ctrl-A x.
    Killed,
    /// `belljar snapshot --stop` saved it.
    Saved,
    /// Bell Jar itself got a signal.
    Interrupted {
        /// The signal.
        signal: u8,
    },
    /// Nobody reads the guest's output any more.
    OutputClosed,
    /// The guest's output could not be written.
    OutputFailed {
        /// What the host said.
        cause: String,
    },
}

impl Outcome {
    /// What the guest left in its root page after it switched itself off. A kernel that is not ours
    /// leaves nothing, which counts as status 0.
    pub fn of_guest(ram: &dyn Ram) -> Self {
        if is_foreign(ram) {
            return Self::Exited { status: 0 };
        }
        let Ok(root) = Root::find(ram) else { return Self::Exited { status: 0 } };
        match root.exit_state() {
            ExitState::Running => Self::Exited { status: 0 },
            ExitState::Exited => Self::of_wait_status(root.exit_status()),
            ExitState::Panicked => Self::Panicked { message: last_words(&root) },
            ExitState::NotResumed => Self::NotResumed { message: last_words(&root) },
        }
    }

    /// From an error of writing the guest's output.
    pub(super) fn of_output_error(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::OutputFailed { cause: error.to_string() },
        }
    }

    /// From a status as wait(2) has it.
    fn of_wait_status(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Exited { status: (status >> 8) as u8 },
            signal => Self::Signalled { signal: signal as u8 },
        }
    }

    /// The exit status of `belljar run`.
    pub fn exit_status(&self) -> u8 {
        const SIGKILL: u8 = 9;
        const SIGPIPE: u8 = 13;
        match self {
            Self::Exited { status } => *status,
            Self::Saved => 0,
            Self::Signalled { signal } | Self::Interrupted { signal } => 128 + (signal & 0x7f),
            Self::Panicked { .. }
            | Self::NotResumed { .. }
            | Self::Died { .. }
            | Self::OutputFailed { .. } => FAILURE,
            Self::TimedOut => TIMEOUT,
            Self::Killed => 128 + SIGKILL,
            Self::OutputClosed => 128 + SIGPIPE,
        }
    }

    /// The one line that the user must see, if the exit status does not say it all.
    pub fn complaint(&self, vm: &str) -> Option<String> {
        match self {
            Self::Panicked { message } => Some(format!(
                "VM {vm}: the guest kernel panicked: {message} (its last words are in the output)"
            )),
            Self::NotResumed { message } => Some(format!(
                "VM {vm}: the snapshot cannot go on in this machine: {message}: restore it on a machine like the one it was taken on"
            )),
            Self::Died { cause } => Some(format!("VM {vm} died: {cause}: start it again")),
            Self::OutputFailed { cause } => {
                Some(format!("VM {vm}: cannot write the guest's output: {cause}"))
            }
            Self::TimedOut => Some(format!("VM {vm} was ended by --timeout")),
            _ => None,
        }
    }
}

/// The first line of what the kernel left to be told.
fn last_words(root: &Root) -> String {
    let message = root.panic_message();
    crate::render::escape(message.lines().next().unwrap_or("no message"))
}

/// Whether another kernel than ours stands where kernels stand. Then there is no root page, and no
/// sense in searching all of RAM for it.
pub(super) fn is_foreign(ram: &dyn Ram) -> bool {
    let mut header = [0; HEADER_LEN];
    ram.read(KERNEL_BASE, &mut header).is_ok()
        && Header::read(&header).is_ok_and(|header| !header.belljar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_become_exit_statuses_as_in_a_shell() {
        assert_eq!(Outcome::of_wait_status(7 << 8).exit_status(), 7);
        assert_eq!(Outcome::of_wait_status(9).exit_status(), 137);
        assert_eq!(Outcome::of_wait_status(0x80 | 11).exit_status(), 139);
    }

    #[test]
    fn own_failures_complain_and_the_guests_do_not() {
        assert!(Outcome::Died { cause: "x".into() }.complaint("t").is_some());
        assert_eq!(Outcome::Exited { status: 3 }.complaint("t"), None);
    }
}

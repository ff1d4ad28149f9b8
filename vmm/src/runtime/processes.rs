//! Taking processes out of a running VM, and putting others in: the kernel brings them to rest, or takes the
//! cores and lets them go on; here it is only asked.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use belljar_abi::control::Message;

use super::control::{Control, Reply};
use super::vm::{Error, State, Vm};
use crate::checkpoint::{self, Checkpoint};

/// How long a kernel that boots may take until it listens.
const BOOT_PATIENCE: Duration = Duration::from_secs(20);
/// How long the kernel may take for a request: it gives up earlier itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// What happens to processes that were taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// They go on.
    Run,
    /// They end, if the checkpoint was written.
    Kill,
}

impl Vm {
    /// Writes the process `pid`, and with `tree` its descendants, as cores into the folder `dir`. They stand still
    /// meanwhile. What cannot be carried is an error, and they go on.
    pub fn checkpoint(&self, pid: u32, tree: bool, dir: &Path, then: Then) -> Result<(), Error> {
        if self.state() == State::Paused {
            // The kernel cannot be asked: the processes are taken out as they stand.
            let done = self.take_out(|kernel, cpus| {
                checkpoint::checkpoint(kernel, cpus, pid, tree, dir, None).map(drop)
            });
            return match then {
                Then::Run => done,
                Then::Kill => Err(Error::Paused(self.info().name.clone())),
            };
        }
        let control = self.listening()?;
        let now = match control.ask(&Message::Hold { pid, tree }, PATIENCE) {
            Some(Reply::Held(now)) => now,
            Some(Reply::Refused(why)) => return Err(Error::Hold { pid, why }),
            _ => return Err(self.silent()),
        };
        let done = self.take_out(|kernel, cpus| {
            checkpoint::checkpoint(kernel, cpus, pid, tree, dir, Some(now)).map(drop)
        });
        let kill = done.is_ok() && then == Then::Kill;
        // A guest that is gone holds nothing any more.
        let _ = control.send(&Message::Release { kill });
        done
    }

    /// Lets the processes of a checkpoint go on in this VM; returns the number of the first.
    pub fn resume_processes(&self, cores: &Checkpoint) -> Result<u32, Error> {
        let control = self.listening()?;
        for core in &cores.cores {
            let mut window = self.window(control, &Message::CoreStart)?;
            self.send_core(control, core, &mut window)?;
        }
        match control.ask(&Message::Resume, PATIENCE) {
            Some(Reply::Resumed(pid)) => Ok(pid),
            Some(Reply::Refused(why)) => Err(Error::Resume(why)),
            _ => Err(self.silent()),
        }
    }

    fn send_core(
        &self,
        control: &Control,
        core: &File,
        window: &mut (u64, u64),
    ) -> Result<(), Error> {
        /// No window is believed to be larger.
        const MOST: u64 = 4 << 20;
        let unreadable = |cause| checkpoint::Error::Io(cause);
        let len = core.metadata().map_err(unreadable)?.len();
        let mut at = 0;
        let mut piece = vec![];
        while at < len {
            let (phys, room) = *window;
            let n = room.min(MOST).min(len - at);
            if n == 0 {
                return Err(self.silent());
            }
            piece.resize(n as usize, 0);
            core.read_exact_at(&mut piece, at).map_err(unreadable)?;
            // What the guest names as its window is its own affair, as long as it is its RAM.
            self.memory().write(phys, &piece).map_err(checkpoint::Error::Memory)?;
            *window = self.window(control, &Message::CorePiece(n as u32))?;
            at += n;
        }
        Ok(())
    }

    fn window(&self, control: &Control, message: &Message<'_>) -> Result<(u64, u64), Error> {
        match control.ask(message, PATIENCE) {
            Some(Reply::Window(phys, len)) => Ok((phys, len)),
            Some(Reply::Refused(why)) => Err(Error::Resume(why)),
            _ => Err(self.silent()),
        }
    }

    /// The control port of a VM whose kernel listens.
    fn listening(&self) -> Result<&Control, Error> {
        match self.state() {
            State::Running => {}
            State::Paused => return Err(Error::Paused(self.info().name.clone())),
            State::Ended => return Err(Error::Ended(self.info().name.clone())),
        }
        match self.control().wait_until_it_listens(BOOT_PATIENCE) {
            true => Ok(self.control()),
            false => Err(self.silent()),
        }
    }

    fn silent(&self) -> Error {
        Error::Silent(self.info().name.clone())
    }
}

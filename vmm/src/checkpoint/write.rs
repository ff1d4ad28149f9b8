//! Puts a process together as a core and writes it.

use std::collections::HashSet;
use std::fs::File;

use super::content::Contents;
use super::files::OpenFiles;
use super::memory::{self, Piece};
use super::nameless::Nameless;
use super::registers::Registers;
use super::{Error, Result, files, notes, registers, sharing, state, terminals, timers};
use crate::backend::CpuRegisters;
use crate::elfcore::{Core, fill_sparse};
use crate::introspect::{Error as GuestError, Kernel, Process};
use crate::target::Ram;

/// How much memory is copied at a time.
const PIECE: u64 = 1 << 20;

/// A process as a core that is not written yet: headers, notes, and where in guest memory its segments'
/// bytes are. Valid while the guest stands still.
pub struct Image<'r> {
    ram: &'r dyn Ram,
    core: Core,
    pieces: Vec<Piece>,
    size: u64,
    nameless: Nameless,
    /// What it has open.
    pub(super) open: OpenFiles,
}

/// How much of a process goes into its core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What a debugger needs: as Linux writes it.
    Plain,
    /// All that resuming needs; what cannot be carried is an error.
    Whole {
        /// CLOCK_MONOTONIC; 0 if it is not known.
        now: u64,
    },
}

/// Describes the process `pid` (or the one that the thread `pid` belongs to). `cpus` are the registers of the CPUs, for threads
/// that are on one.
pub fn image<'r>(
    kernel: &Kernel<'r>,
    cpus: &[CpuRegisters],
    pid: u32,
    depth: Depth,
) -> Result<Image<'r>> {
    let found = Process::find(kernel, pid)?;
    let process = match found.task().ptr("group_leader")? {
        Some(leader) => Process::new(leader),
        None => found,
    };
    // A leader that has ended while its threads go on has no memory of its own any more.
    let threads: Vec<Process<'_>> = process.threads()?;
    let alive: Vec<&Process<'_>> =
        threads.iter().filter(|thread| matches!(thread.task().uint("exit_state"), Ok(0))).collect();
    let mm = alive.iter().find_map(|thread| thread.mm().transpose());
    let mm = mm.ok_or(GuestError::NoMm { pid })??;
    kernel.check_seq_of(&mm, "seq")?;
    let whole = matches!(depth, Depth::Whole { .. });
    if whole && alive.first().is_none_or(|first| first.task().addr() != process.task().addr()) {
        let what = "its first thread has ended while others go on, which no core carries yet";
        return Err(Error::Refused { pid: process.pid()?, what: what.into() });
    }
    let mut all: Vec<Registers> = vec![];
    for thread in &alive {
        let own = registers::of(thread, cpus)?;
        all.push(match depth {
            Depth::Plain => own,
            Depth::Whole { .. } => registers::resumable(thread, own)?,
        });
    }
    let mut contents = Contents::new(kernel)?;
    let (mut nameless, mut open) = (Nameless::default(), OpenFiles::default());
    let mut of_threads = vec![];
    if whole {
        of_threads = state::threads(&process, &alive, &all)?;
        // Before what is mapped: who has a file open knows more of it.
        open = files::open_files(&process, &mut contents, &mut nameless)?;
    }
    let vmas = memory::vmas(&process, &mm, &mut contents, &mut nameless, whole)?;
    let (segments, pieces, size) = memory::segments(pid, &vmas)?;
    let mut core = Core { notes: vec![], segments, pieces: vec![] };
    for (i, (thread, registers)) in alive.iter().zip(&all).enumerate() {
        let status = notes::status(&process, thread)?;
        core.notes.extend(notes::thread(&status, registers));
        if i == 0 {
            // Where Linux has them: behind the first thread's registers.
            core.notes.push(notes::prpsinfo(&process, &mm, &vmas)?);
            core.notes.push(notes::siginfo());
            core.notes.extend(notes::auxv(&mm)?);
            core.notes.extend(notes::files(&vmas));
        }
    }
    if let Depth::Whole { now } = depth {
        core.notes.extend(state::process(&process, &mm, &vmas, &nameless, now)?);
        core.notes.append(&mut of_threads);
        core.notes.push(state::zombies(kernel, process.pid()?)?);
        core.notes.extend(terminals::controlling(process.task())?);
        core.notes.append(&mut open.notes);
        core.notes.push(nameless.note());
        core.notes.push(timers::note(&process, &alive, &open.timers)?);
        core.notes.push(sharing::note(kernel, &mm, &vmas)?);
    }
    Ok(Image { ram: kernel.space().ram(), core, pieces, size, nameless, open })
}

impl Image<'_> {
    /// Adds what the files without a name of the process, `pid`, hold, of those that no other core has.
    pub(super) fn carry(&mut self, pid: u32, carried: &mut HashSet<u64>) -> Result<()> {
        let Self { nameless, core, pieces, size, .. } = self;
        nameless.carry(pid, carried, &mut core.pieces, pieces, size)
    }

    /// Writes it into a new file.
    pub fn write(&self, file: &File) -> Result<()> {
        let start = self.core.data_start();
        file.set_len(start + self.size)?;
        fill_sparse(file, 0, &self.core.head())?;
        let mut buffer = vec![0; PIECE as usize];
        for piece in &self.pieces {
            let mut done = 0;
            while done < piece.len {
                let bytes = &mut buffer[..(piece.len - done).min(PIECE) as usize];
                self.ram.read(piece.phys + done, bytes)?;
                fill_sparse(file, start + piece.offset + done, bytes)?;
                done += bytes.len() as u64;
            }
        }
        Ok(())
    }
}

/// Writes the process `pid` as a core to `path`, which appears whole or not at all.
pub fn gcore(
    kernel: &Kernel<'_>,
    cpus: &[CpuRegisters],
    pid: u32,
    path: &std::path::Path,
) -> Result<()> {
    let image = image(kernel, cpus, pid, Depth::Plain)?;
    crate::file::write_beside(path, |file| image.write(file).map_err(std::io::Error::other))
        .map_err(|cause| Error::Write { path: path.to_owned(), cause })
}

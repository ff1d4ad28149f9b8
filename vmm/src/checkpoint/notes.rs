//! The notes that cores of Linux have, as core(5) readers know them (`elf_prpsinfo`, `NT_FILE`, …).

use super::Result;
use super::memory::{MappedFile, Vma, read_some};
use crate::elfcore::regs::{
    CORE, NT_AUXV, NT_FILE, NT_PRPSINFO, NT_SIGINFO, PSARGS_SIZE, PsInfo, Status,
};
use crate::elfcore::{Note, regs};
use crate::introspect::{Object, Process, optional};
use crate::target::PAGE_SIZE;

/// Bytes of `siginfo_t`.
const SIGINFO_SIZE: usize = 128;

/// `NT_PRPSINFO`.
pub(super) fn prpsinfo(process: &Process<'_>, mm: &Object<'_>, vmas: &[Vma]) -> Result<Note> {
    let task = process.task();
    let state = process.state()?;
    // The order of Linux's get_task_state letters, which pr_state is the index in.
    let number = "RSDTtXZ".find(state).unwrap_or(0) as u8;
    let (uid, gid) = match optional(task.ptr("cred"))?.flatten() {
        Some(cred) => (cred.uint("uid")? as u32, cred.uint("gid")? as u32),
        None => (0, 0),
    };
    let (pgid, sid) = process.pgid_sid()?;
    let ids = [process.pid()?, process.ppid()?.unwrap_or(0), pgid, sid];
    let mut comm = [0; 16];
    comm.iter_mut().zip(task.text("comm")?.bytes()).for_each(|(to, from)| *to = from);
    let range = mm.uint("layout.arg_start")?..mm.uint("layout.arg_end")?;
    let ram = task.kernel().space().ram();
    let mut args = read_some(ram, vmas, range, PSARGS_SIZE as u64 - 1);
    args.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
    args.resize(PSARGS_SIZE, 0);
    let info = PsInfo {
        state: number,
        letter: state as u8,
        nice: process.nice()? as i8,
        flags: task.uint("flags")?,
        owner: [uid, gid],
        ids: ids.map(|id| id as u32),
        comm,
        args: args.try_into().unwrap_or([0; PSARGS_SIZE]),
    };
    Ok(Note::new(CORE, NT_PRPSINFO, info.write()))
}

/// `NT_AUXV`.
pub(super) fn auxv(mm: &Object<'_>) -> Result<Option<Note>> {
    let words = optional(mm.numbers("auxv"))?;
    Ok(words.map(|words| {
        let desc: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Note::new(CORE, NT_AUXV, desc)
    }))
}

/// `NT_SIGINFO` of a process that no signal ended.
pub(super) fn siginfo() -> Note {
    Note::new(CORE, NT_SIGINFO, vec![0; SIGINFO_SIZE])
}

/// `NT_FILE`; `None` if no file is mapped.
pub(super) fn files(vmas: &[Vma]) -> Option<Note> {
    let is_file = |file: &MappedFile| file.path.starts_with(b"/");
    let mapped: Vec<(&Vma, &MappedFile)> = vmas
        .iter()
        .filter_map(|vma| Some((vma, vma.file.as_ref().filter(|file| is_file(file))?)))
        .collect();
    if mapped.is_empty() {
        return None;
    }
    let mut desc: Vec<u8> = vec![];
    for word in [mapped.len() as u64, PAGE_SIZE] {
        desc.extend(word.to_le_bytes());
    }
    for (vma, _) in &mapped {
        for word in [vma.range.start, vma.range.end, vma.pgoff] {
            desc.extend(word.to_le_bytes());
        }
    }
    for (_, file) in &mapped {
        desc.extend(file.path.iter().filter(|byte| **byte != 0));
        desc.push(0);
    }
    Some(Note::new(CORE, NT_FILE, desc))
}

/// What `NT_PRSTATUS` says of a thread beside its registers.
pub(super) fn status(process: &Process<'_>, thread: &Process<'_>) -> Result<Status> {
    let task = thread.task();
    let (pgid, sid) = process.pgid_sid()?;
    let ids = [thread.pid()?, process.ppid()?.unwrap_or(0), pgid, sid].map(|id| id as u32);
    let hex = |path: &str| optional(task.uint(path));
    let signal = task.ptr("signal")?;
    let total = |field: &str| -> Result<u64> {
        let Some(signal) = &signal else { return Ok(0) };
        Ok(optional(signal.uint(field))?.unwrap_or(0))
    };
    Ok(Status {
        signal: 0,
        pending: hex("sig.pending.set")?.unwrap_or(0),
        blocked: hex("sig.blocked")?.unwrap_or(0),
        ids,
        times: [
            hex("se.utime")?.unwrap_or(0),
            hex("se.stime")?.unwrap_or(0),
            total("children.utime")?,
            total("children.stime")?,
        ],
    })
}

/// The notes of one thread.
pub(super) fn thread(
    status: &Status,
    registers: &super::registers::Registers,
) -> impl Iterator<Item = Note> + use<> {
    [
        regs::prstatus(&registers.general, status),
        regs::fpregset(&registers.fp),
        regs::tls(registers.tls),
    ]
    .into_iter()
}

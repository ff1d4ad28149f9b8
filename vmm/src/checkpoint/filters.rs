//! Filters of system calls (seccomp(2)).

use std::collections::HashSet;

use belljar_abi::corenote::{Filter, Kind, Writer};

use super::state::{put, table};
use super::{Error, Result};
use crate::elfcore::Note;
use crate::introspect::{Object, Process, optional};

/// No way to the first filter is longer: each has an instruction, and counts four more.
const MAX_FILTERS: usize = 32768 / 5 + 1;

/// How a thread is restricted, as its record says it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Restricted {
    pub(super) mode: u64,
    pub(super) filter: u64,
    pub(super) no_new_privs: u64,
}

/// How a thread is restricted. Kernels that knew no filters restricted nobody.
pub(super) fn of(thread: &Process<'_>) -> Result<Restricted> {
    let task = thread.task();
    let Some(mode) = optional(task.uint("seccomp.mode"))? else { return Ok(Restricted::default()) };
    if task.enum_name("seccomp.mode")? == "Dead" {
        let what = "it is about to end for a system call that it may not make".to_owned();
        return Err(Error::Refused { pid: thread.pid()?, what });
    }
    let filter = task.ptr("seccomp.filter")?.map_or(0, |filter| filter.addr());
    Ok(Restricted { mode, filter, no_new_privs: task.uint("no_new_privs")? })
}

/// The note about the filters that the threads have.
pub(super) fn note(threads: &[&Process<'_>]) -> Result<Note> {
    let mut note: Writer<Filter> = Writer::default();
    let mut seen = HashSet::new();
    for thread in threads {
        let mut way: Vec<Object<'_>> = vec![];
        let mut next = optional(thread.task().ptr("seccomp.filter"))?.flatten();
        while let Some(filter) = next.filter(|filter| seen.insert(filter.addr())) {
            if filter.uint("listening")? != 0 {
                let what = "somebody listens to a filter of its system calls (seccomp_unotify), \
                            which no core carries yet";
                return Err(Error::Refused { pid: thread.pid()?, what: what.to_owned() });
            }
            next = filter.ptr("prev")?;
            way.push(filter);
            if way.len() > MAX_FILTERS {
                let what = "its filters of system calls have no end".to_owned();
                return Err(Error::Refused { pid: thread.pid()?, what });
            }
        }
        for filter in way.into_iter().rev() {
            let program: Vec<u8> =
                filter.numbers("program.insns")?.into_iter().flat_map(u64::to_le_bytes).collect();
            let program_bytes = put(&mut note, &program)?;
            note.push(Filter {
                id: filter.addr(),
                prev: filter.ptr("prev")?.map_or(0, |prev| prev.addr()),
                log: filter.uint("log")?,
                wait_killable: filter.uint("wait_killable")?,
                program_bytes,
            });
        }
    }
    Ok(table(Kind::Filters, &note))
}

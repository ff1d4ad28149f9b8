//! What the notes say of filters of system calls.

use alloc::vec::Vec;

use belljar_abi::corenote::{Filter, Kind, Table};

use super::super::core::{Bad, Result, room};
use super::{ThreadPlan, need, records};
use crate::bpf::{Insn, MAX_INSNS};
use crate::task::SeccompMode;

/// Most filters of a process.
const MAX_FILTERS: usize = 65536;

/// A filter.
pub struct FilterPlan<'a> {
    /// What its note says.
    pub record: Filter,
    /// Where the one before it stands in the plan.
    pub prev: Option<usize>,
    /// Its instructions, as bytes.
    program: &'a [u8],
}

impl FilterPlan<'_> {
    /// Its instructions.
    pub fn insns(&self) -> impl Iterator<Item = Insn> + '_ {
        let words = self.program.chunks_exact(8).filter_map(|bytes| bytes.first_chunk());
        words.map(|bytes| Insn(u64::from_le_bytes(*bytes)))
    }
}

/// Where the filter with this id stands.
pub fn find(filters: &[FilterPlan<'_>], id: u64) -> Option<usize> {
    filters.iter().position(|filter| filter.record.id == id)
}

pub(super) fn read<'a>(table: &Table<'a>) -> Result<Vec<FilterPlan<'a>>> {
    let mut filters: Vec<FilterPlan<'a>> = room(table.len().min(MAX_FILTERS))?;
    for record in records::<Filter>(table, "Filters", MAX_FILTERS, |_| Ok(()))? {
        let is_new = record.id != 0 && find(&filters, record.id).is_none();
        need(is_new, "Filters", "id", record.id)?;
        let prev = find(&filters, record.prev);
        need(record.prev == 0 || prev.is_some(), "Filters", "prev", record.prev)?;
        let program = table.bytes(record.program_bytes);
        let program = program.map_err(|error| Bad::Note(Kind::Filters as u32, error))?;
        let whole = program.len().is_multiple_of(8) && program.len() / 8 <= MAX_INSNS;
        need(whole, "Filters", "the bytes of a program", program.len() as u64)?;
        filters.push(FilterPlan { record, prev, program });
    }
    Ok(filters)
}

/// A thread that has filters has one that is there, and one that has none names none.
pub(super) fn check_threads(threads: &[ThreadPlan<'_>], filters: &[FilterPlan<'_>]) -> Result<()> {
    for thread in threads {
        let (mode, filter) = (thread.record.seccomp_mode, thread.record.seccomp_filter);
        need(mode <= SeccompMode::Filter as u64, "Threads", "seccomp_mode", mode)?;
        let fits = match find(filters, filter) {
            Some(_) => mode == SeccompMode::Filter as u64,
            None => mode != SeccompMode::Filter as u64 && filter == 0,
        };
        need(fits, "Threads", "seccomp_filter", filter)?;
    }
    Ok(())
}

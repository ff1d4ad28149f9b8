//! What the notes say of files without a name.

use alloc::vec::Vec;

use belljar_abi::corenote::{Kind, Nameless, Table};

use super::super::core::{Bad, Result, room};
use super::{MAX_FD, is_id, need, path, records};
use crate::fs::tmpfs::memfd::ALL_SEALS;

/// A file without a name.
pub struct NamelessPlan<'a> {
    /// What its note says.
    pub record: Nameless,
    /// What it shows as.
    pub name: &'a [u8],
}

/// The files by their ids.
pub(super) fn read<'a>(table: &Table<'a>) -> Result<Vec<NamelessPlan<'a>>> {
    let mut all: Vec<NamelessPlan<'a>> = room(table.len().min(MAX_FD as usize))?;
    for record in records::<Nameless>(table, "Nameless", MAX_FD as usize, |_| Ok(()))? {
        need(record.id != 0, "Nameless", "id", record.id)?;
        need(record.size <= i64::MAX as u64, "Nameless", "size", record.size)?;
        need(record.held <= record.size, "Nameless", "held", record.held)?;
        need(record.seals & !u64::from(ALL_SEALS) == 0, "Nameless", "seals", record.seals)?;
        need(record.mode <= 0o7777, "Nameless", "mode", record.mode)?;
        for (word, id) in [("uid", record.uid), ("gid", record.gid)] {
            need(is_id(id), "Nameless", word, id)?;
        }
        all.push(NamelessPlan { name: path(table, Kind::Nameless, record.name_bytes)?, record });
    }
    all.sort_unstable_by_key(|file| file.record.id);
    match all.windows(2).find(|pair| pair[0].record.id == pair[1].record.id) {
        Some(pair) => Err(Bad::Value { note: "Nameless", word: "id", value: pair[0].record.id }),
        None => Ok(all),
    }
}

//! Files without a name, memfds and removed ones, that processes have open or mapped: nobody finds them by a path,
//! so the cores hold them.

use std::collections::HashSet;

use belljar_abi::corenote::{self, FilePiece, Kind, Writer};

use super::content::{Contents, Run};
use super::memory::{MAX_BYTES, Piece};
use super::state::{put, table};
use super::{Error, Result};
use crate::elfcore::Note;
use crate::introspect::{Object, optional};
use crate::target::PAGE_SIZE;

/// How a path ends that leads nowhere any more.
const DELETED: &[u8] = b" (deleted)";
/// How System V shared memory shows.
const SYSV: &[u8] = b"/SYSV";

/// The files of a process.
#[derive(Default)]
pub(super) struct Nameless {
    records: Writer<corenote::Nameless>,
    known: HashSet<u64>,
    /// Their pages.
    files: Vec<Held>,
}

/// What a file holds.
#[derive(Debug)]
struct Held {
    id: u64,
    runs: Vec<Run>,
}

/// What shows as `path` without what says that it leads nowhere.
fn name_of(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(DELETED).unwrap_or(path);
    path.strip_prefix(b"/").unwrap_or(path)
}

/// Whether what was mapped under that name had none of its own. Shared anonymous memory has no file, and System V
/// segments are found by other means.
pub(super) fn is_nameless(path: &[u8]) -> bool {
    path.starts_with(b"/")
        && path.ends_with(DELETED)
        && path != corenote::SHARED_NAME
        && !path.starts_with(SYSV)
}

impl Nameless {
    /// The note about them.
    pub(super) fn note(&self) -> Note {
        table(Kind::Nameless, &self.records)
    }

    /// Whether a file is among them.
    pub(super) fn has(&self, id: u64) -> bool {
        self.known.contains(&id)
    }

    /// Adds what an open file shows as `path`, whose inode is `holder`, or, if it is not `open`, a mapped file. Returns its
    /// id, or `None` if it is not made of pages or the kernel does not tell its seals.
    pub(super) fn add<'k>(
        &mut self,
        path: &[u8],
        holder: &Object<'k>,
        open: bool,
        contents: &Contents<'k>,
    ) -> Result<Option<u64>> {
        let Some(mapping) = holder.ptr("pages")? else { return Ok(None) };
        let Some(seals) = optional(mapping.uint("seals"))? else { return Ok(None) };
        let id = mapping.addr();
        if !self.known.insert(id) {
            return Ok(Some(id));
        }
        let runs = contents.runs(&mapping)?;
        let mut record = corenote::Nameless {
            id,
            name_bytes: put(&mut self.records, name_of(path))?,
            size: mapping.uint("size")?,
            held: runs.iter().map(|run| run.len).sum(),
            seals,
            described: u64::from(open),
            ..corenote::Nameless::default()
        };
        if open {
            record.mode = holder.uint("mode")? & 0o7777;
            (record.uid, record.gid) = (holder.uint("uid")?, holder.uint("gid")?);
        }
        self.records.push(record);
        self.files.push(Held { id, runs });
        Ok(Some(id))
    }

    /// Adds to the core of the process `pid` what of the files no other core has, behind the `size` bytes that it has.
    pub(super) fn carry(
        &self,
        pid: u32,
        carried: &mut HashSet<u64>,
        to: &mut Vec<FilePiece>,
        pieces: &mut Vec<Piece>,
        size: &mut u64,
    ) -> Result<()> {
        for file in self.files.iter().filter(|file| carried.insert(file.id)) {
            for Run { start, phys, len } in file.runs.iter().copied() {
                to.push(FilePiece { file: file.id, start, len, offset: *size });
                pieces.push(Piece { offset: *size, phys, len });
                *size = size.saturating_add(len.next_multiple_of(PAGE_SIZE));
                if *size > MAX_BYTES {
                    return Err(Error::TooLarge { pid });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        assert_eq!(name_of(b"/memfd:seen (deleted)"), b"memfd:seen");
        assert_eq!(name_of(b"/tmp/f"), b"tmp/f");
        assert!(is_nameless(b"/memfd:seen (deleted)") && is_nameless(b"/tmp/f (deleted)"));
        assert!(!is_nameless(b"/tmp/f") && !is_nameless(b"/dev/zero (deleted)"));
        assert!(!is_nameless(b"[vdso]") && !is_nameless(b"/SYSV00000000 (deleted)"));
    }

    #[test]
    fn each_file_is_carried_once_up_to_what_a_core_may_have() {
        let run = |len| Run { start: 0, phys: 0x4000, len };
        let files = vec![Held { id: 7, runs: vec![run(5000)] }];
        let own = Nameless { files, ..Nameless::default() };
        let (mut carried, mut to, mut pieces, mut size) = (HashSet::new(), vec![], vec![], 4096);
        for _ in 0..2 {
            own.carry(1, &mut carried, &mut to, &mut pieces, &mut size).unwrap();
        }
        assert_eq!(to, [FilePiece { file: 7, start: 0, len: 5000, offset: 4096 }]);
        assert_eq!(pieces, [Piece { offset: 4096, phys: 0x4000, len: 5000 }]);
        assert_eq!(size, 4096 + 8192);
        let files = vec![Held { id: 8, runs: vec![run(MAX_BYTES)] }];
        let own = Nameless { files, ..Nameless::default() };
        let large = own.carry(1, &mut carried, &mut to, &mut pieces, &mut size);
        assert!(matches!(large, Err(Error::TooLarge { pid: 1 })));
    }
}

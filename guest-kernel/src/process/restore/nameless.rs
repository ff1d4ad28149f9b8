//! Files without a name: made with what they held before anything is opened or mapped, and sealed when all is.

use super::objects::Map;
use super::plan::{NamelessPlan, Plan};
use super::{Failure, Source, zeroed};
use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::fs::tmpfs::memfd;
use crate::fs::{File, OpenFlags, UserBuf, pagecache};
use crate::kref::Ref;
use crate::mm::MappedFile;

/// How much is copied at a time.
const CHUNK: usize = 16 * PAGE_SIZE;

/// The files of a checkpoint, by what they were called in it.
#[derive(Default)]
pub(super) struct Nameless(Map<Entry>);

struct Entry {
    file: Ref<File>,
    size: u64,
    /// Bytes of it that no piece had yet.
    missing: u64,
    seals: u32,
    /// As address spaces map it: for loads, and for stores.
    mapped: [Option<Ref<MappedFile>>; 2],
}

impl Nameless {
    /// Makes the files of all processes.
    #[inline(never)]
    pub(super) fn build(&mut self, sources: &[Source], plans: &[Plan<'_>]) -> Result<(), Failure> {
        let failed = |plan: &Plan<'_>, errno| {
            Failure::new(plan, errno, format_args!("its files without a name: {errno}"))
        };
        // Whoever has one open knows more of it than who has it mapped.
        for described in [true, false] {
            for plan in plans {
                let known = |file: &&NamelessPlan<'_>| (file.record.described != 0) == described;
                for file in plan.nameless.iter().filter(known) {
                    self.make(file).map_err(|errno| failed(plan, errno))?;
                }
            }
        }
        for (source, plan) in sources.iter().zip(plans) {
            self.fill(source, plan).map_err(|errno| failed(plan, errno))?;
        }
        // A core of a tree alone may lack what another one has.
        for plan in plans {
            let lacks = |file: &&NamelessPlan<'_>| {
                self.0.get(file.record.id).is_none_or(|entry| entry.missing != 0)
            };
            if let Some(file) = plan.nameless.iter().find(lacks) {
                let name = file.name.escape_ascii();
                let what = format_args!("what {name} held is in the core of another process");
                return Err(Failure::new(plan, Errno::ENODATA, what));
            }
        }
        Ok(())
    }

    fn make(&mut self, file: &NamelessPlan<'_>) -> Result<()> {
        let record = &file.record;
        if self.0.get(record.id).is_some() {
            return Ok(());
        }
        let (mode, uid, gid) = (record.mode as u32, record.uid as u32, record.gid as u32);
        let made = memfd::unnamed(file.name, mode, uid, gid)?;
        if record.size > made.inode.sb.max_bytes {
            return Err(Errno::EFBIG);
        }
        made.inode.ops().truncate(&made.inode, record.size)?;
        let (size, seals) = (record.size, record.seals as u32);
        let missing = record.held;
        self.0.insert(record.id, Entry { file: made, size, missing, seals, mapped: [None, None] })
    }

    /// Writes the pieces that a core has.
    fn fill(&mut self, source: &Source, plan: &Plan<'_>) -> Result<()> {
        if plan.pieces.is_empty() {
            return Ok(());
        }
        let mut chunk = zeroed(CHUNK)?;
        for piece in &plan.pieces {
            let entry = self.0.get_mut(piece.file).ok_or(Errno::EBADF)?;
            entry.missing = entry.missing.checked_sub(piece.len).ok_or(Errno::EINVAL)?;
            if piece.start + piece.len > entry.size {
                return Err(Errno::EINVAL);
            }
            let mut done = 0;
            while done < piece.len {
                let n = (piece.len - done).min(CHUNK as u64) as usize;
                source.read(piece.offset + done, &mut chunk[..n])?;
                let mut buf = UserBuf::from_kernel(&chunk[..n]);
                if entry.file.write_at(&mut buf, piece.start + done)? != n {
                    return Err(Errno::ENOSPC);
                }
                done += n as u64;
            }
        }
        Ok(())
    }

    /// Opens a file once more.
    pub(super) fn open(&self, id: u64, flags: OpenFlags, pos: u64) -> Result<Ref<File>> {
        let entry = self.0.get(id).ok_or(Errno::EBADF)?;
        let file = memfd::open(entry.file.path.clone(), flags)?;
        file.set_pos(pos);
        Ok(file)
    }

    /// A file as address spaces map it.
    pub(super) fn mapped(&mut self, id: u64, writable: bool) -> Result<Ref<MappedFile>> {
        let entry = self.0.get_mut(id).ok_or(Errno::EBADF)?;
        let mapped = &mut entry.mapped[usize::from(writable)];
        if let Some(mapped) = mapped {
            return Ok(mapped.clone());
        }
        let made = pagecache::mapped_file(&entry.file, writable)?;
        *mapped = Some(made.clone());
        Ok(made)
    }

    /// Seals the files, once everything that is mapped is.
    #[inline(never)]
    pub(super) fn seal(&self, root: &Plan<'_>) -> Result<(), Failure> {
        for (_, entry) in self.0.iter() {
            memfd::seal_again(&entry.file, entry.seals).map_err(|errno| {
                let what = format_args!("the seals of a file without a name: {errno}");
                Failure::new(root, errno, what)
            })?;
        }
        Ok(())
    }
}

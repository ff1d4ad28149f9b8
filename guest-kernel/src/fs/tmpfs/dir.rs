//! Directories of tmpfs: two ordered maps, from name to position and from position to entry.
//!
//! A position is given to an entry when it is made and never again, so that listing a directory while
//! it changes neither skips nor repeats what stays.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::borrow::Borrow;

use super::{InodeCharge, new_inode};
use crate::errno::{Errno, Result};
use crate::fs::file::{DirSink, File, FileOps, OpenFlags, Whence};
use crate::fs::inode::{InodeOps, NewNode, RenameOp};
use crate::fs::{Inode, Path};
use crate::kref::Ref;
use crate::mm::{try_box, try_to_vec};
use crate::ordmap::OrdMap;
use crate::sync::SpinLock;
use crate::uapi;

/// Positions 0 and 1 are `.` and `..`.
const FIRST: u64 = 2;

/// Size that a directory shows: so much for each entry, as Linux has it.
const ENTRY_SIZE: u64 = 20;

/// A name, which both maps hold.
#[derive(Clone)]
struct Name(Ref<Vec<u8>>);

impl Name {
    fn new(bytes: &[u8]) -> Result<Self> {
        Ref::try_new(try_to_vec(bytes)?).map(Self)
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        *self.0 == *other.0
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

struct Entry {
    name: Name,
    inode: Ref<Inode>,
}

#[derive(Default)]
struct Entries {
    by_name: OrdMap<Name, u64>,
    by_position: OrdMap<u64, Entry>,
    next: u64,
    /// While a tree is taken apart: the directory whose entries are next.
    above: Option<Ref<Inode>>,
}

impl Entries {
    fn get(&self, name: &[u8]) -> Option<&Ref<Inode>> {
        let position = self.by_name.get(name)?;
        self.by_position.get(position).map(|e| &e.inode)
    }

    fn insert(&mut self, name: &[u8], inode: Ref<Inode>) -> Result<()> {
        let name = Name::new(name)?;
        let position = self.next.max(FIRST);
        self.by_name.try_insert(name.clone(), position)?;
        if let Err(error) =
            self.by_position.try_insert(position, Entry { name: name.clone(), inode })
        {
            self.by_name.remove(&name);
            return Err(error);
        }
        self.next = position + 1;
        Ok(())
    }

    fn remove(&mut self, name: &[u8]) -> Option<Ref<Inode>> {
        let position = self.by_name.remove(name)?;
        self.by_position.remove(&position).map(|e| e.inode)
    }

    fn replace(&mut self, name: &[u8], inode: Ref<Inode>) -> Option<Ref<Inode>> {
        let position = self.by_name.get(name)?;
        let entry = self.by_position.get_mut(position)?;
        Some(core::mem::replace(&mut entry.inode, inode))
    }
}

/// A directory.
pub(super) struct TmpDir {
    entries: SpinLock<Entries>,
    _charge: InodeCharge,
}

impl TmpDir {
    pub(super) fn new(charge: InodeCharge) -> Self {
        Self { entries: SpinLock::new(Entries::default()), _charge: charge }
    }

    fn of(inode: &Inode) -> Result<&Self> {
        inode.ops_as().ok_or(Errno::ENOTDIR)
    }

    fn is_empty(&self) -> bool {
        self.entries.lock().by_name.is_empty()
    }

    /// Enters a name and updates the directory's own attributes.
    fn add(&self, dir: &Inode, name: &[u8], inode: &Ref<Inode>) -> Result<()> {
        self.entries.lock().insert(name, inode.clone())?;
        dir.set_size(dir.size() + ENTRY_SIZE);
        if inode.is_dir() {
            dir.inc_nlink();
        }
        dir.touch_modified();
        Ok(())
    }

    /// Gives a name that stands for `old` to `new`, likewise. It needs no memory.
    fn put(&self, dir: &Inode, name: &[u8], old: &Inode, new: &Ref<Inode>) {
        let gone = self.entries.lock().replace(name, new.clone());
        drop(gone);
        match (old.is_dir(), new.is_dir()) {
            (true, false) => dir.dec_nlink(),
            (false, true) => dir.inc_nlink(),
            _ => {}
        }
        dir.touch_modified();
    }

    /// Takes a name out, likewise.
    fn take(&self, dir: &Inode, name: &[u8], inode: &Inode) {
        let gone = self.entries.lock().remove(name);
        drop(gone);
        dir.set_size(dir.size().saturating_sub(ENTRY_SIZE));
        if inode.is_dir() {
            dir.dec_nlink();
        }
        dir.touch_modified();
    }
}

impl InodeOps for TmpDir {
    fn lookup(&self, _dir: &Ref<Inode>, name: &[u8]) -> Result<Option<Ref<Inode>>> {
        Ok(self.entries.lock().get(name).cloned())
    }

    fn create(&self, dir: &Ref<Inode>, name: &[u8], new: &NewNode<'_>) -> Result<Ref<Inode>> {
        let inode = new_inode(&dir.sb, new)?;
        self.add(dir, name, &inode)?;
        Ok(inode)
    }

    fn tmpfile(&self, dir: &Ref<Inode>, new: &NewNode<'_>) -> Result<Ref<Inode>> {
        let inode = new_inode(&dir.sb, new)?;
        inode.set_nlink(0);
        Ok(inode)
    }

    fn link(&self, dir: &Ref<Inode>, name: &[u8], inode: &Ref<Inode>) -> Result<()> {
        self.add(dir, name, inode)?;
        inode.inc_nlink();
        inode.touch_changed();
        Ok(())
    }

    fn unlink(&self, dir: &Ref<Inode>, name: &[u8], inode: &Ref<Inode>) -> Result<()> {
        self.take(dir, name, inode);
        inode.dec_nlink();
        inode.touch_changed();
        Ok(())
    }

    fn rmdir(&self, dir: &Ref<Inode>, name: &[u8], inode: &Ref<Inode>) -> Result<()> {
        if !Self::of(inode)?.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.take(dir, name, inode);
        inode.set_nlink(0);
        inode.touch_changed();
        Ok(())
    }

    fn rename(&self, op: &RenameOp<'_>) -> Result<()> {
        let (old, new) = (Self::of(op.old_dir)?, Self::of(op.new_dir)?);
        if let (true, Some(target)) = (op.exchange, op.target) {
            old.put(op.old_dir, op.old_name, op.inode, target);
            new.put(op.new_dir, op.new_name, target, op.inode);
            target.touch_changed();
        } else {
            let whiteout = op.whiteout.map(|new| new_inode(&op.old_dir.sb, new)).transpose()?;
            if let Some(target) = op.target {
                if target.is_dir() && !Self::of(target)?.is_empty() {
                    return Err(Errno::ENOTEMPTY);
                }
                new.put(op.new_dir, op.new_name, target, op.inode);
                if target.is_dir() {
                    target.set_nlink(0)
                } else {
                    target.dec_nlink()
                }
                target.touch_changed();
            } else {
                // In before out: the inode is never without a name.
                new.add(op.new_dir, op.new_name, op.inode)?;
            }
            match whiteout {
                Some(whiteout) => old.put(op.old_dir, op.old_name, op.inode, &whiteout),
                None => old.take(op.old_dir, op.old_name, op.inode),
            }
        }
        op.inode.touch_changed();
        Ok(())
    }

    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Ok(try_box(OpenDir)?)
    }
}

impl Drop for TmpDir {
    fn drop(&mut self) {
        // A deep tree that goes as a whole (unmount) is taken apart in a loop: nested drops could outgrow
        // the kernel stack. What is left to do of a directory is kept in the one being gone into, since
        // there may be no memory for a list of it.
        let mut level = core::mem::take(&mut self.entries.get_mut().by_position);
        let mut above: Option<Ref<Inode>> = None;
        loop {
            let Some((_, entry)) = level.pop_first() else {
                let Some(done) = above.take() else { return };
                if let Some(dir) = done.ops_as::<TmpDir>() {
                    let mut entries = dir.entries.lock();
                    level = core::mem::take(&mut entries.by_position);
                    above = entries.above.take();
                }
                continue;
            };
            // One that somebody still uses goes when he is done.
            let ours = Ref::ref_count(&entry.inode) == 1;
            let Some(dir) = entry.inode.ops_as::<TmpDir>().filter(|_| ours) else { continue };
            {
                let mut entries = dir.entries.lock();
                if entries.by_position.is_empty() {
                    continue;
                }
                core::mem::swap(&mut entries.by_position, &mut level);
                entries.above = above.take();
            }
            above = Some(entry.inode);
        }
    }
}

/// An open directory.
struct OpenDir;

impl FileOps for OpenDir {
    fn readdir(&self, file: &File, pos: &mut u64, sink: &mut dyn DirSink) -> Result<()> {
        let dir = TmpDir::of(&file.inode)?;
        file.inode.touch_read();
        if *pos == 0 {
            if !sink.emit(b".", file.inode.ino, uapi::S_IFDIR, 1) {
                return Ok(());
            }
            *pos = 1;
        }
        if *pos == 1 {
            let parent = file.path.dentry.parent();
            let ino = parent.and_then(|p| p.inode().map(|i| i.ino)).unwrap_or(file.inode.ino);
            if !sink.emit(b"..", ino, uapi::S_IFDIR, FIRST) {
                return Ok(());
            }
            *pos = FIRST;
        }
        loop {
            // The sink may sleep: not under the lock.
            let next = {
                let entries = dir.entries.lock();
                let found = entries.by_position.range_from(&*pos).next();
                found.map(|(at, e)| (*at, e.name.clone(), e.inode.ino, e.inode.mode()))
            };
            let Some((at, name, ino, mode)) = next else { return Ok(()) };
            if !sink.emit(&name.0, ino, mode, at + 1) {
                return Ok(());
            }
            *pos = at + 1;
        }
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        let base = match whence {
            Whence::Set => 0,
            Whence::Cur => file.pos(),
            _ => return Err(Errno::EINVAL),
        };
        base.checked_add_signed(offset).filter(|&pos| pos <= i64::MAX as u64).ok_or(Errno::EINVAL)
    }

    fn read(&self, _: &File, _: &mut crate::fs::UserBuf<'_>, _: &mut u64) -> Result<usize> {
        Err(Errno::EISDIR)
    }

    fn fsync(&self, _file: &File, _data_only: bool) -> Result<()> {
        Ok(())
    }
}

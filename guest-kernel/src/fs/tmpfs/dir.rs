//! Directories of tmpfs: two ordered maps, from name to position and from position to entry.
//!
//! A position is given to an entry when it is made and never again, so that listing a directory while
//! it changes neither skips nor repeats what stays.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{InodeCharge, new_inode};
use crate::errno::{Errno, Result};
use crate::fs::file::{DirSink, File, FileOps, OpenFlags, Whence};
use crate::fs::inode::{InodeOps, NewNode, RenameOp};
use crate::fs::{Inode, Path};
use crate::kref::Ref;
use crate::sync::SpinLock;
use crate::uapi;

/// Positions 0 and 1 are `.` and `..`.
const FIRST: u64 = 2;

/// Size that a directory shows: so much for each entry, as Linux has it.
const ENTRY_SIZE: u64 = 20;

struct Entry {
    name: Arc<[u8]>,
    inode: Ref<Inode>,
}

#[derive(Default)]
struct Entries {
    by_name: BTreeMap<Arc<[u8]>, u64>,
    by_position: BTreeMap<u64, Entry>,
    next: u64,
}

impl Entries {
    fn get(&self, name: &[u8]) -> Option<&Ref<Inode>> {
        let position = self.by_name.get(name)?;
        self.by_position.get(position).map(|e| &e.inode)
    }

    fn insert(&mut self, name: &[u8], inode: Ref<Inode>) {
        let name: Arc<[u8]> = name.into();
        let position = self.next.max(FIRST);
        self.next = position + 1;
        self.by_name.insert(name.clone(), position);
        self.by_position.insert(position, Entry { name, inode });
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
    fn add(&self, dir: &Inode, name: &[u8], inode: &Ref<Inode>) {
        self.entries.lock().insert(name, inode.clone());
        dir.set_size(dir.size() + ENTRY_SIZE);
        if inode.is_dir() {
            dir.inc_nlink();
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
        self.add(dir, name, &inode);
        Ok(inode)
    }

    fn tmpfile(&self, dir: &Ref<Inode>, new: &NewNode<'_>) -> Result<Ref<Inode>> {
        let inode = new_inode(&dir.sb, new)?;
        inode.set_nlink(0);
        Ok(inode)
    }

    fn link(&self, dir: &Ref<Inode>, name: &[u8], inode: &Ref<Inode>) -> Result<()> {
        inode.inc_nlink();
        inode.touch_changed();
        self.add(dir, name, inode);
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
            old.entries.lock().replace(op.old_name, target.clone());
            new.entries.lock().replace(op.new_name, op.inode.clone());
            if op.inode.is_dir() != target.is_dir() {
                let (gains, loses) = if op.inode.is_dir() {
                    (op.new_dir, op.old_dir)
                } else {
                    (op.old_dir, op.new_dir)
                };
                gains.inc_nlink();
                loses.dec_nlink();
            }
            target.touch_changed();
            op.old_dir.touch_modified();
            op.new_dir.touch_modified();
        } else {
            let whiteout = op.whiteout.map(|new| new_inode(&op.old_dir.sb, new)).transpose()?;
            if let Some(target) = op.target {
                if target.is_dir() && !Self::of(target)?.is_empty() {
                    return Err(Errno::ENOTEMPTY);
                }
                new.take(op.new_dir, op.new_name, target);
                if target.is_dir() {
                    target.set_nlink(0)
                } else {
                    target.dec_nlink()
                }
                target.touch_changed();
            }
            // In before out: the inode is never without a name.
            new.add(op.new_dir, op.new_name, op.inode);
            old.take(op.old_dir, op.old_name, op.inode);
            if let Some(whiteout) = whiteout {
                old.add(op.old_dir, op.old_name, &whiteout);
            }
        }
        op.inode.touch_changed();
        Ok(())
    }

    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Ok(Box::new(OpenDir))
    }
}

impl Drop for TmpDir {
    fn drop(&mut self) {
        // A deep tree that goes as a whole (unmount) is taken apart level by level: nested drops could
        // outgrow the kernel stack.
        let mut pending: Vec<BTreeMap<u64, Entry>> = Vec::new();
        let mut level = core::mem::take(&mut self.entries.get_mut().by_position);
        loop {
            while let Some((_, entry)) = level.pop_first() {
                let Some(mut inode) = Ref::into_inner(entry.inode) else { continue };
                if let Some(dir) = inode.ops_as_mut::<TmpDir>() {
                    let below = core::mem::take(&mut dir.entries.get_mut().by_position);
                    if !below.is_empty() {
                        pending.push(below);
                    }
                }
            }
            match pending.pop() {
                Some(next) => level = next,
                None => return,
            }
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
                let found = entries.by_position.range(*pos..).next();
                found.map(|(at, e)| (*at, e.name.clone(), e.inode.ino, e.inode.mode()))
            };
            let Some((at, name, ino, mode)) = next else { return Ok(()) };
            if !sink.emit(&name, ino, mode, at + 1) {
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

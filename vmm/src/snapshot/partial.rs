//! A folder under construction: written beside the one that it shall be, moved there when it is whole.
//!
//! It is `.NAME.partial` in the same parent folder, locked (flock(2)) by the process that writes it. One
//! that nobody locks is left of a process that died: the next save of that name removes it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, renameat_with};

use super::{Error, Result};

/// The folder; removed when it is dropped before [`Partial::commit`].
pub(crate) struct Partial {
    /// Where it shall be.
    target: PathBuf,
    path: PathBuf,
    /// Keeps the lock.
    lock: Option<File>,
}

impl Partial {
    /// Makes the folder that shall become `target`, which may be there if it has a file `marker`.
    pub(crate) fn create(target: &Path, marker: &str) -> Result<Self> {
        let name = target.file_name().ok_or_else(|| Error::BadName { path: target.to_owned() })?;
        refuse_foreign(target, marker)?;
        let mut partial = std::ffi::OsString::from(".");
        partial.push(name);
        partial.push(".partial");
        let path = target.with_file_name(partial);
        let lock = match Self::make(&path) {
            Err(Error::Io { cause, .. }) if cause.kind() == io::ErrorKind::AlreadyExists => {
                let stale = open_dir(&path).map_err(Error::io("open", &path))?;
                flock(&stale, FlockOperation::NonBlockingLockExclusive)
                    .map_err(|_| Error::Busy { dir: target.to_owned() })?;
                fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
                Self::make(&path)?
            }
            made => made?,
        };
        Ok(Self { target: target.to_owned(), path, lock: Some(lock) })
    }

    fn make(path: &Path) -> Result<File> {
        fs::DirBuilder::new().mode(0o700).create(path).map_err(Error::io("create", path))?;
        let lock = open_dir(path).map_err(Error::io("open", path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| Error::io("lock", path)(e.into()))?;
        Ok(lock)
    }

    /// Where it shall be.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// The path of a file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A new file in it.
    pub(crate) fn create_file(&self, name: &str) -> Result<File> {
        let path = self.file(name);
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(0o600);
        options.open(&path).map_err(Error::io("create", &path))
    }

    /// A new file with that content, on disk when this returns.
    pub(crate) fn write_file(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.file(name);
        let mut file = self.create_file(name)?;
        file.write_all(content).map_err(Error::io("write", &path))?;
        file.sync_all().map_err(Error::io("sync", &path))
    }

    /// Moves it into its place, in one step, and makes that last.
    pub(crate) fn commit(mut self) -> Result<()> {
        let lock = self.lock.take().expect("a folder is committed once");
        lock.sync_all().map_err(Error::io("sync", &self.path))?;
        let moved = match fs::rename(&self.path, &self.target) {
            // A folder with something in it is not replaced by rename(2).
            Err(e) if is_occupied(&e) => self.replace(),
            other => other,
        };
        if let Err(cause) = moved {
            self.lock = Some(lock);
            return Err(Error::io("move the snapshot to", &self.target)(cause));
        }
        let parent = parent_of(&self.target);
        let synced = open_dir(parent).and_then(|parent| parent.sync_all());
        synced.map_err(Error::io("sync", parent))
    }

    /// Takes the place of the snapshot that is there, and removes that one.
    fn replace(&self) -> io::Result<()> {
        let exchanged = renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::EXCHANGE);
        match exchanged {
            Ok(()) => fs::remove_dir_all(&self.path),
            // A file system that cannot: for a moment neither has the name, but both are there.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                let old = self.path.with_extension("old");
                fs::rename(&self.target, &old)?;
                fs::rename(&self.path, &self.target)?;
                fs::remove_dir_all(old)
            }
            Err(e) => Err(e.into()),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // Whatever is left is removed by the next save of that name.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Refuses to replace what is neither a snapshot nor an empty folder.
fn refuse_foreign(target: &Path, marker: &str) -> Result<()> {
    let in_the_way = || Error::InTheWay { path: target.to_owned() };
    let meta = match fs::symlink_metadata(target) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::io("look at", target))?,
    };
    if !meta.is_dir() {
        return Err(in_the_way());
    }
    let mut entries = fs::read_dir(target).map_err(Error::io("read", target))?;
    match entries.next().is_none() || target.join(marker).is_file() {
        true => Ok(()),
        false => Err(in_the_way()),
    }
}

fn is_occupied(error: &io::Error) -> bool {
    // rename(2): ENOTEMPTY or EEXIST, as the file system likes.
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn open_dir(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

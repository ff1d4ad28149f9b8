//! The folder of running VMs: one subfolder a VM, which exists as long as its process lives.
//!
//! It is `$XDG_RUNTIME_DIR/belljar` if that folder is ours, else `/run/user/UID/belljar`, else `/tmp/belljar-UID`; ours, and
//! open to nobody else. A VM's process holds an exclusive lock (flock(2)) on its subfolder, so a subfolder
//! that nobody holds so belongs to a process that died, and whoever meets it removes it; who waits for a VM's end wants
//! a shared lock. Names are claimed and removed under a lock on the folder itself. There are no lock files: the folders
//! themselves are locked.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::Error;

/// The socket in a VM's subfolder.
pub const SOCKET: &str = "api.sock";
/// What a VM is, for people and scripts, in its subfolder.
pub const INFO: &str = "vm.json";

/// A claimed name: its subfolder exists and is locked until this is dropped, which removes it.
#[derive(Debug)]
pub struct Folder {
    name: String,
    path: PathBuf,
    /// Holds the lock.
    lock: File,
}

impl Folder {
    /// Claims `name`, or the first free one of `base`, `base-2`, `base-3`, … if none is asked for.
    pub fn claim(name: Option<&str>, base: &str) -> Result<Self, Error> {
        name.map_or(Ok(()), check_name)?;
        let (root, _held) = locked_root()?;
        if let Some(name) = name {
            return Self::try_claim(&root, name)?
                .ok_or_else(|| Error::NameTaken { name: name.to_owned() });
        }
        let base = usable(base);
        for n in 1..=9999 {
            let name = if n == 1 { base.clone() } else { format!("{base}-{n}") };
            if let Some(folder) = Self::try_claim(&root, &name)? {
                return Ok(folder);
            }
        }
        Err(Error::NameTaken { name: base })
    }

    fn try_claim(root: &Path, name: &str) -> Result<Option<Self>, Error> {
        let path = root.join(name);
        let failed = |cause| Error::Folder { path: path.clone(), cause };
        match new_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if !remove_if_stale(&path) {
                    return Ok(None);
                }
                new_dir(&path).map_err(failed)?;
            }
            other => other.map_err(failed)?,
        }
        let lock = open_dir(&path).map_err(failed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| failed(e.into()))?;
        Ok(Some(Self { name: name.to_owned(), path, lock }))
    }

    /// The VM's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The subfolder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The subfolder as a path that is short however deep it lies: socket addresses have no more
    /// than 107 bytes.
    pub fn short_path(&self) -> PathBuf {
        short_path(&self.lock)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes the subfolder of a VM that has ended, and the folder above if it was the last.
fn remove(path: &Path) {
    let held = locked_root();
    // What cannot be removed now is removed as stale by the next command.
    let _ = fs::remove_dir_all(path);
    if let Ok((root, _held)) = held {
        let _ = fs::remove_dir(root);
    }
}

/// The names of the VMs that run, sorted; what dead ones left is removed.
pub fn running() -> Result<Vec<String>, Error> {
    let root = root_path();
    if !root.exists() {
        return Ok(Vec::new());
    }
    let (root, _held) = locked_root()?;
    let failed = |cause| Error::Folder { path: root.clone(), cause };
    let mut names = Vec::new();
    for entry in fs::read_dir(&root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string()
            && !remove_if_stale(&entry.path())
        {
            names.push(name);
        }
    }
    names.sort();
    if names.is_empty() {
        let _ = fs::remove_dir(&root);
    }
    Ok(names)
}

/// A running VM's subfolder, held open, and a short path to it.
pub fn open(name: &str) -> Result<(File, PathBuf), Error> {
    check_name(name)?;
    let names = running()?;
    if !names.iter().any(|running| running == name) {
        let known = match names.is_empty() {
            true => "none is running".to_owned(),
            false => format!("running are {}", names.join(", ")),
        };
        return Err(Error::NoVm { name: name.to_owned(), known });
    }
    let path = root_path().join(name);
    let dir = open_dir(&path).map_err(|cause| Error::Folder { path, cause })?;
    let short = short_path(&dir);
    Ok((dir, short))
}

/// What the VM whose API is at `socket` has written down of itself.
pub fn info(socket: &Path) -> Option<super::Info> {
    let text = fs::read(socket.with_file_name(INFO)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Waits until the VM whose subfolder is `dir` has ended.
pub fn wait_gone(dir: &File) -> io::Result<()> {
    flock(dir, FlockOperation::LockShared)?;
    Ok(())
}

/// Where the subfolders stand.
pub fn root_path() -> PathBuf {
    let uid = rustix::process::getuid().as_raw();
    // After sudo(8) or su(1) the variable may still name another user's folder.
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let login = PathBuf::from(format!("/run/user/{uid}"));
    named
        .into_iter()
        .chain([login])
        .filter(|path| path.is_absolute())
        .find(|path| fs::metadata(path).is_ok_and(|it| it.is_dir() && it.uid() == uid))
        .map_or_else(|| format!("/tmp/belljar-{uid}").into(), |path| path.join("belljar"))
}

/// Makes the folder if need be, checks that it is ours alone, and locks it.
fn locked_root() -> Result<(PathBuf, File), Error> {
    let path = root_path();
    let failed = |cause| Error::Folder { path: path.clone(), cause };
    loop {
        match new_dir(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
            _ => {}
        }
        let dir = match open_dir(&path) {
            // The last VM has just gone and took the folder along.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(failed)?,
        };
        let metadata = dir.metadata().map_err(failed)?;
        if metadata.uid() != rustix::process::getuid().as_raw() || metadata.mode() & 0o077 != 0 {
            return Err(Error::NotOurs(path));
        }
        flock(&dir, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        let same = fs::metadata(&path)
            .is_ok_and(|now| (now.dev(), now.ino()) == (metadata.dev(), metadata.ino()));
        if same {
            return Ok((path, dir));
        }
    }
}

/// Removes a subfolder of which no process is the owner. Whether it is gone.
fn remove_if_stale(path: &Path) -> bool {
    let Ok(dir) = open_dir(path) else { return false };
    // Shared: somebody may have waited for the owner's end and not noticed it yet.
    match flock(&dir, FlockOperation::NonBlockingLockShared) {
        Ok(()) => fs::remove_dir_all(path).is_ok(),
        Err(_) => false,
    }
}

fn new_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

/// Opens a folder, not through a symbolic link that somebody else may have planted.
fn open_dir(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

fn short_path(dir: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

/// A name is a file name without surprises.
fn check_name(name: &str) -> Result<(), Error> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let fine = name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(good);
    if fine { Ok(()) } else { Err(Error::BadName(name.to_owned())) }
}

/// `base` with everything replaced that a name may not contain.
fn usable(base: &str) -> String {
    let clean: String = base
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .take(50)
        .collect();
    let clean = clean.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if clean.is_empty() { "vm".to_owned() } else { clean.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_made_usable() {
        for good in ["t", "shell-2", "a.b_c"] {
            check_name(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "-x", "a b", "ä"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
            check_name(&usable(bad)).unwrap();
        }
    }
}

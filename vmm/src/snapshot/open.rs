//! Opens a snapshot: nothing of it is decoded before it was found to be whole.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::manifest::{self, MANIFEST, MEMORY, Manifest, Refusal};
use super::{Error, Result, verify};
use crate::target::RawRam;

/// How much of a snapshot is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Everything: the stored frames are read once.
    Verify,
    /// The manifest and the size of the memory file, but not what stands in it.
    Trust,
}

/// A snapshot that was found to be whole.
#[derive(Debug)]
pub struct Snapshot {
    dir: PathBuf,
    manifest: Manifest,
    memory: File,
}

impl Snapshot {
    /// Opens the snapshot in `dir`. The files stay the ones that were checked as long as this lives,
    /// also if another snapshot takes the folder's place; nothing protects against a program of the
    /// same user that writes into them.
    pub fn open(dir: &Path, trust: Trust) -> Result<Self> {
        let manifest = read_manifest(dir)?;
        let path = dir.join(MEMORY);
        let memory = open_file(&path)?;
        let found = memory.metadata().map_err(Error::io("look at", &path))?.len();
        let wanted = manifest.board.ram_size;
        if found != wanted {
            return Err(Error::Size { path, found, wanted });
        }
        let snapshot = Self { dir: dir.to_owned(), manifest, memory };
        if trust == Trust::Verify {
            snapshot.verify()?;
        }
        Ok(snapshot)
    }

    /// Checks the memory file, for who opened it with [`Trust::Trust`] to do that later.
    pub fn verify(&self) -> Result<()> {
        verify::verify(&self.memory, &self.dir.join(MEMORY), &self.manifest)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the snapshot says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The memory file: as long as RAM, opened for reading only, to be mapped privately.
    pub fn memory(&self) -> &File {
        &self.memory
    }

    /// The RAM, to be read.
    pub fn ram(&self) -> io::Result<RawRam> {
        RawRam::new(self.memory.try_clone()?, self.manifest.board.ram_base)
    }
}

fn read_manifest(dir: &Path) -> Result<Manifest> {
    let path = dir.join(MANIFEST);
    let file = match open_file(&path) {
        Err(Error::Io { cause, .. })
            if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Err(match dir.exists() {
                true => Error::NotASnapshot { dir: dir.to_owned() },
                false => Error::io("open", dir)(io::ErrorKind::NotFound.into()),
            });
        }
        other => other?,
    };
    let mut text = vec![];
    let limit = manifest::MAX_BYTES;
    file.take(limit + 1).read_to_end(&mut text).map_err(Error::io("read", &path))?;
    if text.len() as u64 > limit {
        let what = format!("it has more than {limit} bytes");
        return Err(Error::BadManifest { path, what });
    }
    Manifest::from_text(&text).map_err(|refusal| match refusal {
        Refusal::Foreign => Error::Foreign { path },
        Refusal::Version(found) => Error::Version { path, found },
        Refusal::Damaged(what) => Error::BadManifest { path, what },
    })
}

/// Opens a regular file for reading: no link, and nothing that would make the open wait.
fn open_file(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        // open(2): ELOOP for a link, ENXIO for a socket.
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => {
            return Err(Error::NotAFile { path: path.to_owned() });
        }
        Err(e) => return Err(Error::io("open", path)(e.into())),
    };
    match file.metadata().map_err(Error::io("look at", path))?.is_file() {
        true => Ok(file),
        false => Err(Error::NotAFile { path: path.to_owned() }),
    }
}

//! Opens a snapshot: nothing of it is decoded before it was found to be whole.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::manifest::{self, MANIFEST, MEMORY, Manifest, Refusal};
use super::verify::Verification;
use super::{Error, KernelImage, Result};
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
pub struct Snapshot(Arc<Files>);

/// What a snapshot consists of.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) dir: PathBuf,
    pub(super) manifest: Manifest,
    pub(super) memory: File,
}

impl Files {
    /// The memory file's path.
    pub(super) fn memory_path(&self) -> PathBuf {
        self.dir.join(MEMORY)
    }
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
        let snapshot = Self(Arc::new(Files { dir: dir.to_owned(), manifest, memory }));
        if trust == Trust::Verify {
            snapshot.verification(None).finish()?;
        }
        Ok(snapshot)
    }

    /// Begins to check the memory file, for who opened it with [`Trust::Trust`] and has other things to do
    /// meanwhile. `known` makes it quicker if the guest's kernel stands there.
    pub fn verification(&self, known: Option<KernelImage>) -> Verification {
        Verification::begin(Arc::clone(&self.0), known)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// What the snapshot says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// The memory file: as long as RAM, opened for reading only, to be mapped privately.
    pub fn memory(&self) -> &File {
        &self.0.memory
    }

    /// The RAM, to be read.
    pub fn ram(&self) -> io::Result<RawRam> {
        RawRam::new(self.0.memory.try_clone()?, self.0.manifest.board.ram_base)
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

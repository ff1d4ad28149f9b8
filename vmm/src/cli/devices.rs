//! `--disk`: what is given to the guest beside its board.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::PathBuf;
use std::str::FromStr;

use crate::backend::Disk;

/// Bytes of the smallest disk.
const SECTOR: u64 = 512;

/// Why a file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It cannot be opened.
    #[error("cannot open the disk {path}: {cause}{hint}")]
    Open {
        /// The file.
        path: String,
        /// What the host said.
        cause: io::Error,
        /// What helps, if that is known.
        hint: &'static str,
    },
    /// It is a folder or a terminal.
    #[error("the disk {0} is neither a file nor a block device: make one with truncate -s 1G FILE")]
    Kind(String),
    /// Less than a sector.
    #[error(
        "the disk {0} has {1} bytes, less than one sector of 512: make it larger (truncate -s 1G)"
    )]
    Small(String, u64),
}

/// `FILE`, or `FILE,ro` for one that the guest must not write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiskArg {
    path: PathBuf,
    read_only: bool,
}

impl FromStr for DiskArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, read_only) = match text.strip_suffix(",ro") {
            Some(path) => (path, true),
            None => (text, false),
        };
        match path.is_empty() {
            true => Err("no file is named: write FILE or FILE,ro".to_owned()),
            false => Ok(Self { path: path.into(), read_only }),
        }
    }
}

impl DiskArg {
    /// What is replaced by the number of a copy.
    pub(super) const NUMBER: &str = "{n}";

    /// The disk of the copy `number`.
    pub(super) fn of_copy(&self, number: u64) -> Self {
        let path = self.path.to_string_lossy();
        match path.contains(Self::NUMBER) {
            true => Self { path: path.replace(Self::NUMBER, &number.to_string()).into(), ..*self },
            false => self.clone(),
        }
    }

    /// Opens the file.
    pub(super) fn open(&self) -> Result<Disk, Error> {
        use std::os::unix::fs::FileTypeExt;
        let shown = || self.path.display().to_string();
        let failed = |cause: io::Error| {
            let hint = match cause.kind() {
                io::ErrorKind::NotFound => ": make one with truncate -s 1G FILE",
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                    if !self.read_only =>
                {
                    ": give it as FILE,ro if the guest need not write to it"
                }
                _ => "",
            };
            Error::Open { path: shown(), cause, hint }
        };
        let path = self.path.canonicalize().map_err(failed)?;
        let kind = std::fs::metadata(&path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::Kind(shown()));
        }
        let mut file: File =
            OpenOptions::new().read(true).write(!self.read_only).open(&path).map_err(failed)?;
        // Of a block device the metadata does not tell.
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if size < SECTOR {
            return Err(Error::Small(shown(), size));
        }
        Ok(Disk { file, path, size, read_only: self.read_only })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_file_and_perhaps_read_only() {
        let arg = |text: &str| text.parse::<DiskArg>();
        assert_eq!(arg("a,b"), Ok(DiskArg { path: "a,b".into(), read_only: false }));
        assert_eq!(arg("a.img,ro"), Ok(DiskArg { path: "a.img".into(), read_only: true }));
        assert!(arg("").is_err() && arg(",ro").is_err());
    }

    #[test]
    fn what_cannot_be_a_disk_is_refused_by_name() {
        let open = |text: &str| text.parse::<DiskArg>().unwrap().open().unwrap_err().to_string();
        assert!(open("/nonexistent/x").starts_with("cannot open the disk /nonexistent/x: "));
        assert!(open("/proc").contains("neither a file nor a block device"));
        let small = tempfile::NamedTempFile::new().unwrap();
        assert!(open(small.path().to_str().unwrap()).contains("has 0 bytes"));
    }
}

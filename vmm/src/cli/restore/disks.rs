//! The disks of a machine that goes on: a snapshot holds none, so each is given again.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::backend::Disk;
use crate::cli::devices::{self, DiskArg};
use crate::snapshot;

/// Why the disks that were given are not those that the guest had.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// One cannot be opened.
    #[error(transparent)]
    Open(#[from] devices::Error),
    /// One is missing.
    #[error(
        "the guest had {had} as disk {number}: give it again with --disk, or a copy of it{left_out}"
    )]
    Missing {
        /// What it was.
        had: String,
        /// Counted from 1.
        number: usize,
        /// That it is not alone.
        left_out: String,
    },
    /// More than there were.
    #[error(
        "the guest had {had} disks, and --disk gives {given}: leave out those that it does not know"
    )]
    TooMany { had: usize, given: usize },
    /// One that is smaller than it was.
    #[error("{} has {found} bytes, and the guest knows it with {wanted}: give the disk that it had, or a copy", .path.display())]
    Small { path: PathBuf, found: u64, wanted: u64 },
    /// One that the guest may write to, it thinks.
    #[error("the guest writes to {}, which is given as read-only: leave out ,ro", .path.display())]
    ReadOnly { path: PathBuf },
    /// One that several machines would write to.
    #[error(
        "{} would be written by several machines, which destroys what is on it: name a copy of it for each, such as --disk disk-{}.img",
        .path.display(), DiskArg::NUMBER
    )]
    Shared { path: PathBuf },
}

/// Opens `given` for a guest that had `had`, in the same order.
pub(super) fn open(had: &[snapshot::Disk], given: &[DiskArg]) -> Result<Vec<Disk>, Error> {
    if let Some(missing) = had.get(given.len()) {
        let more = had.len() - given.len() - 1;
        return Err(Error::Missing {
            had: describe(missing),
            number: given.len() + 1,
            left_out: if more > 0 { format!(" (and {more} more)") } else { String::new() },
        });
    }
    if given.len() > had.len() {
        return Err(Error::TooMany { had: had.len(), given: given.len() });
    }
    had.iter().zip(given).map(|(had, given)| fitting(had, given.open()?)).collect()
}

fn fitting(had: &snapshot::Disk, disk: Disk) -> Result<Disk, Error> {
    let Disk { path, size, read_only, .. } = &disk;
    if *size < had.size {
        return Err(Error::Small { path: path.clone(), found: *size, wanted: had.size });
    }
    if *read_only && !had.read_only {
        return Err(Error::ReadOnly { path: path.clone() });
    }
    // Whatever it is now: the guest never writes to it.
    Ok(Disk { read_only: had.read_only, ..disk })
}

/// Refuses what one of `copies`, the disks of one machine each, would write and any other machine has, among
/// them the one whose disks are `original`, if that goes on.
pub(super) fn check_copies(copies: &[Vec<Disk>], original: &[snapshot::Disk]) -> Result<(), Error> {
    let mut taken: HashSet<&Path> = original.iter().map(|disk| &*disk.path).collect();
    let all = || copies.iter().flatten();
    let mut read: HashSet<&Path> = HashSet::new();
    read.extend(all().filter(|disk| disk.read_only).map(|disk| &*disk.path));
    for disk in all().filter(|disk| !disk.read_only) {
        if !taken.insert(&disk.path) || read.contains(&*disk.path) {
            return Err(Error::Shared { path: disk.path.clone() });
        }
    }
    Ok(())
}

fn describe(disk: &snapshot::Disk) -> String {
    let kind = if disk.read_only { "read-only, " } else { "" };
    format!("{} ({kind}{} bytes)", disk.path.display(), disk.size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::NamedTempFile;

    fn file(size: u64) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        file
    }

    fn had(file: &NamedTempFile, size: u64, read_only: bool) -> snapshot::Disk {
        snapshot::Disk { path: file.path().canonicalize().unwrap(), size, read_only }
    }

    fn arg(file: &NamedTempFile, suffix: &str) -> DiskArg {
        format!("{}{suffix}", file.path().display()).parse().unwrap()
    }

    #[test]
    fn every_disk_is_wanted_again_as_large_and_as_writable_as_it_was() {
        let (a, b) = (file(4096), file(8192));
        let disks = [had(&a, 4096, false), had(&b, 8192, true)];
        let error = |given: &[DiskArg]| open(&disks, given).unwrap_err().to_string();
        assert!(
            error(&[]).contains(&a.path().display().to_string()) && error(&[]).contains("1 more")
        );
        assert!(error(&[arg(&a, "")]).contains("read-only, 8192 bytes"));
        assert!(error(&[arg(&a, ""), arg(&b, ",ro"), arg(&b, ",ro")]).contains("gives 3"));
        assert!(error(&[arg(&a, ""), arg(&a, "")]).contains("knows it with 8192"));
        assert!(error(&[arg(&a, ",ro"), arg(&b, "")]).contains("leave out ,ro"));
        let opened = open(&disks, &[arg(&b, ""), arg(&b, "")]).unwrap();
        assert_eq!([opened[0].read_only, opened[1].read_only], [false, true]);
        assert!(open(&[], &[]).unwrap().is_empty());
    }

    #[test]
    fn what_one_machine_writes_no_other_has() {
        let (a, b) = (file(4096), file(4096));
        let (writes, reads) = ([had(&a, 4096, false)], [had(&a, 4096, true)]);
        let copy = |had: &[snapshot::Disk], file| open(had, &[arg(file, "")]).unwrap();
        let shared = |copies: &[Vec<Disk>], original: &[snapshot::Disk]| {
            matches!(check_copies(copies, original), Err(Error::Shared { .. }))
        };
        assert!(shared(&[copy(&writes, &a), copy(&writes, &a)], &[]));
        assert!(shared(&[copy(&writes, &a), copy(&reads, &a)], &[]));
        assert!(shared(&[copy(&writes, &a)], &writes));
        assert!(!shared(&[copy(&writes, &a), copy(&writes, &b)], &[]));
        assert!(!shared(&[copy(&writes, &b)], &writes));
        assert!(!shared(&[copy(&reads, &a), copy(&reads, &a)], &reads));
        let numbered: DiskArg = "d-{n}.img,ro".parse().unwrap();
        assert_eq!(numbered.of_copy(12), "d-12.img,ro".parse().unwrap());
    }
}

//! The initramfs: the archive that the boot loader left in memory, unpacked into the root file system.
//!
//! It is a chain of cpio archives ("newc"), each maybe compressed with gzip, with zeros between them.
//! Data is copied once, from the archive into the pages of the new files. A broken archive is an error
//! that is logged with its place; what was unpacked until then stays.

mod cpio;
mod gzip;
#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use cpio::{Broken, Header, Reader, Reason, Source};
use gzip::Gzip;

use super::file::OpenFlags;
use super::namei::LookupFlags;
use super::{Caller, Dev, Inode, Path, Timestamp, UserBuf, namei, open, verbs};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::uapi;
use crate::{kerr, kinfo, kwarn};

/// What unpacking came to.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Files, directories, links and nodes made.
    pub entries: usize,
    /// Entries that could not be made.
    pub failed: usize,
    /// Where and why it ended early.
    pub broken: Option<Broken>,
}

/// Unpacks `image` under the caller's root.
pub fn unpack(caller: Caller<'_>, image: &[u8]) -> Summary {
    let mut unpacker = Unpacker {
        caller,
        links: BTreeMap::new(),
        dirs: Vec::new(),
        name: Vec::new(),
        summary: Summary::default(),
    };
    if let Err(broken) = unpacker.chain(image) {
        unpacker.summary.broken = Some(broken);
        kerr!("initramfs: broken: {broken}");
    }
    // Making names in a directory changed its times: they are set last.
    for (inode, mtime) in &unpacker.dirs {
        set_mtime(inode, *mtime);
    }
    let summary = unpacker.summary;
    kinfo!("initramfs: {} entries unpacked, {} failed", summary.entries, summary.failed);
    summary
}

fn set_mtime(inode: &Inode, mtime: u32) {
    let time = Timestamp { sec: i64::from(mtime), nsec: 0 };
    inode.update_times(|t| {
        t.atime = time;
        t.mtime = time;
    });
}

/// A file with several names, by inode number and device.
type LinkKey = (u32, u32, u32);

struct Unpacker<'a> {
    caller: Caller<'a>,
    links: BTreeMap<LinkKey, Path>,
    dirs: Vec<(Ref<Inode>, u32)>,
    name: Vec<u8>,
    summary: Summary,
}

impl Unpacker<'_> {
    /// The archives one after the other.
    fn chain(&mut self, image: &[u8]) -> Result<(), Broken> {
        let mut rest = image;
        loop {
            let zeros = rest.iter().take_while(|&&b| b == 0).count();
            rest = &rest[zeros..];
            let offset = (image.len() - rest.len()) as u64;
            let within = |broken: Broken| Broken { offset: offset + broken.offset, ..broken };
            if rest.is_empty() {
                return Ok(());
            } else if rest.starts_with(&gzip::MAGIC) {
                let gzip = Gzip::new(rest).map_err(|reason| Broken { offset, reason })?;
                // Offsets within compressed data are those of the uncompressed archive.
                rest = self.archive(gzip)?.finish()?;
            } else if rest[0] == b'0' {
                rest = self.archive(rest).map_err(within)?;
            } else {
                let reason =
                    if is_compressed(rest) { Reason::OtherCompression } else { Reason::NoHeader };
                return Err(Broken { offset, reason });
            }
        }
    }

    /// All entries of a source, up to its end or to something that is no cpio entry.
    fn archive<S: Source>(&mut self, source: S) -> Result<S, Broken> {
        let mut reader = Reader::new(source);
        let mut name = core::mem::take(&mut self.name);
        while let Some(header) = reader.next(&mut name)? {
            let path = name.strip_prefix(b"/").unwrap_or(&name);
            match self.entry(path, &header, &mut reader)? {
                Ok(()) => self.summary.entries += 1,
                Err(error) => {
                    self.summary.failed += 1;
                    kwarn!("initramfs: {}: {error}", path.escape_ascii());
                }
            }
        }
        self.name = name;
        Ok(reader.into_source())
    }

    /// Makes one entry. The outer error is the archive's, the inner one the entry's.
    fn entry<S: Source>(
        &mut self,
        path: &[u8],
        header: &Header,
        reader: &mut Reader<S>,
    ) -> Result<Result<()>, Broken> {
        if header.mode & uapi::S_IFMT == uapi::S_IFLNK {
            let mut target = Vec::new();
            loop {
                let mut data = reader.data()?;
                let bytes = data.bytes();
                if bytes.is_empty() {
                    break;
                }
                target.extend_from_slice(bytes);
                if target.len() > super::PATH_MAX {
                    return Ok(Err(Errno::ENAMETOOLONG));
                }
            }
            let made =
                self.with_parents(path, |caller| verbs::symlink(caller, &target, None, path));
            return Ok(made.and_then(|made| finish(made.inode()?, header)));
        }
        let place = match self.node(path, header) {
            Ok(place) => place,
            Err(error) => return Ok(Err(error)),
        };
        // Only regular files take data (the reader skips that of others): to open a FIFO here would
        // wait for ever.
        if header.filesize > 0 && header.mode & uapi::S_IFMT == uapi::S_IFREG {
            let file = match open::open_kernel(place.clone(), OpenFlags::WRONLY) {
                Ok(file) => file,
                Err(error) => return Ok(Err(error)),
            };
            loop {
                let mut data = reader.data()?;
                let bytes = data.bytes();
                if bytes.is_empty() {
                    break;
                }
                let mut from = UserBuf::from_kernel(bytes);
                if let Err(error) = file.write(&mut from) {
                    return Ok(Err(error));
                }
                if !from.is_empty() {
                    return Ok(Err(Errno::ENOSPC));
                }
            }
        }
        Ok(place.inode().and_then(|inode| {
            if inode.is_dir() {
                self.dirs.push((inode.clone(), header.mtime));
            }
            finish(inode, header)
        }))
    }

    /// Makes or finds what is no symbolic link.
    fn node(&mut self, path: &[u8], header: &Header) -> Result<Path> {
        let mode = header.mode & (uapi::S_IFMT | 0o7777);
        let there = namei::lookup(self.caller, None, path, LookupFlags::empty());
        if mode & uapi::S_IFMT == uapi::S_IFDIR {
            return match there {
                Ok(there) if there.inode()?.is_dir() => Ok(there),
                _ => self.with_parents(path, |caller| verbs::mkdir(caller, None, path, mode)),
            };
        }
        // A later entry of the same name replaces an earlier one.
        if let Ok(there) = there {
            if there.inode()?.is_dir() {
                return Err(Errno::EISDIR);
            }
            verbs::unlink(self.caller, None, path)?;
        }
        let key = (header.ino, header.devmajor, header.devminor);
        if header.nlink > 1
            && let Some(first) = self.links.get(&key).cloned()
        {
            self.with_parents(path, |caller| verbs::link(caller, &first, None, path))?;
            return Ok(first);
        }
        let dev = Dev::new(header.rdevmajor, header.rdevminor);
        let made = self.with_parents(path, |caller| verbs::mknod(caller, None, path, mode, dev))?;
        if header.nlink > 1 {
            self.links.insert(key, made.clone());
        }
        Ok(made)
    }

    /// Runs `make`; if a folder on the way is missing, makes it and tries again.
    fn with_parents<T>(&self, path: &[u8], make: impl Fn(Caller<'_>) -> Result<T>) -> Result<T> {
        let first = make(self.caller);
        if first.as_ref().err() != Some(&Errno::ENOENT) {
            return first;
        }
        for (at, _) in path.iter().enumerate().filter(|&(at, &b)| b == b'/' && at > 0) {
            match verbs::mkdir(self.caller, None, &path[..at], 0o755) {
                Ok(_) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error),
            }
        }
        make(self.caller)
    }
}

/// Sets what making and filling the entry left to do.
fn finish(inode: &Inode, header: &Header) -> Result<()> {
    inode.set_owner(header.uid, header.gid);
    if !inode.is_symlink() {
        inode.set_permissions(header.mode);
    }
    set_mtime(inode, header.mtime);
    Ok(())
}

/// True for the formats that Linux would unpack and this kernel does not.
fn is_compressed(data: &[u8]) -> bool {
    const MAGICS: [&[u8]; 6] = [
        b"\xfd7zXZ",
        b"\x28\xb5\x2f\xfd",
        b"BZh",
        b"\x89LZO",
        b"\x02\x21\x4c\x18",
        b"\x5d\x00\x00",
    ];
    MAGICS.iter().any(|magic| data.starts_with(magic))
}

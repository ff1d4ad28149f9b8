//! Reading and writing cpio archives (`newc`), the only form in which files reach the guest.
//!
//! [`scan`] checks that an archive is whole and indexes it; [`Writer`] makes one in memory and
//! indexes it on the way.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use cpio::newc::{Builder, ModeFileType, Reader};

use super::tree::{Node, Tree};

/// The type bits of `st_mode`.
const S_IFMT: u32 = 0o170000;
const S_IFREG: u32 = 0o100000;
const S_IFDIR: u32 = 0o040000;
const S_IFLNK: u32 = 0o120000;

/// The longest symbolic link target that Linux knows (PATH_MAX).
const MAX_TARGET: u32 = 4096;

/// Reads every header of the archive at the start of `file`, up to its trailer; only headers and
/// link targets are read. Says in words what is wrong with it.
pub(super) fn scan(file: &File) -> Result<Tree, String> {
    let len = file.metadata().map_err(|e| e.to_string())?.len();
    let mut reader = Headers::new(file);
    let mut tree = Tree::default();
    // A hard link beyond the first has no bytes of its own.
    let mut linked = HashMap::new();
    loop {
        let cut = |at: u64| format!("it is cut short after {at} bytes");
        let at = reader.stream_position().map_err(|e| e.to_string())?;
        if at > len {
            return Err(cut(len));
        }
        let mut entry = Reader::new(reader).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => cut(len),
            _ => format!("no cpio entry at byte {at} ({e})"),
        })?;
        if entry.entry().is_trailer() {
            return Ok(tree);
        }
        let offset = entry.offset().map_err(|e| e.to_string())?;
        let head = entry.entry().clone();
        let node = match head.mode() & S_IFMT {
            S_IFREG => {
                let mut place = (offset, u64::from(head.file_size()));
                if head.nlink() > 1 {
                    let key = (head.dev_major(), head.dev_minor(), head.ino());
                    match head.file_size() {
                        0 => place = linked.get(&key).copied().unwrap_or(place),
                        _ => _ = linked.insert(key, place),
                    }
                }
                Node::File { mode: head.mode() & 0o7777, offset: place.0, len: place.1 }
            }
            S_IFDIR => Node::Dir,
            S_IFLNK if head.file_size() <= MAX_TARGET => {
                let mut target = Vec::new();
                entry.read_to_end(&mut target).map_err(|_| cut(len))?;
                Node::Symlink(String::from_utf8_lossy(&target).into_owned())
            }
            _ => Node::Other,
        };
        tree.insert(head.name(), node);
        reader = entry.skip().map_err(|e| e.to_string())?;
    }
}

/// Reads a file from its start, for who skips most of it: a skip is a sum, not a call, and what was read ahead
/// stays.
struct Headers<'f> {
    file: &'f File,
    at: u64,
    /// Bytes of the file, and where they begin there.
    ahead: Vec<u8>,
    from: u64,
}

impl<'f> Headers<'f> {
    fn new(file: &'f File) -> Self {
        Self { file, at: 0, ahead: vec![], from: 0 }
    }
}

impl Read for Headers<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        /// Many headers, little else.
        const AHEAD: usize = 4096;
        let inside = self.from..self.from + self.ahead.len() as u64;
        if !inside.contains(&self.at) {
            self.ahead.resize(AHEAD, 0);
            let count = self.file.read_at(&mut self.ahead, self.at)?;
            self.ahead.truncate(count);
            self.from = self.at;
        }
        let rest = &self.ahead[(self.at - self.from) as usize..];
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Headers<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(to) => Some(to),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(_) => None,
        };
        self.at = to.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// What an entry is apart from its name and its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Modification time in seconds since 1970.
    pub mtime: u32,
    /// Owner and group in the guest.
    pub owner: (u32, u32),
    /// Number of names; more than one if [`Writer::link`] may follow.
    pub nlink: u32,
}

impl Attributes {
    /// Root's, with the given permission bits.
    pub(super) fn root(mode: u32) -> Self {
        Self { mode, mtime: 0, owner: (0, 0), nlink: 1 }
    }
}

/// A special file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Special {
    /// A character device with its major and minor number.
    Char(u32, u32),
    /// A block device with its major and minor number.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// Makes an archive at the end of a file.
pub(super) struct Writer {
    out: BufWriter<File>,
    at: u64,
    ino: u32,
    /// The inode numbers of files that may get more names.
    inos: HashMap<String, u32>,
    tree: Tree,
}

impl Writer {
    /// A writer that appends to `file` on the next four-byte boundary, as an archive that follows
    /// another one must stand.
    pub(super) fn append(mut file: File) -> io::Result<Self> {
        let end = file.seek(SeekFrom::End(0))?;
        let padding = end.next_multiple_of(4) - end;
        file.write_all(&[0; 3][..padding as usize])?;
        let out = BufWriter::with_capacity(128 << 10, file);
        Ok(Self { out, at: end + padding, ino: 0, inos: HashMap::new(), tree: Tree::default() })
    }

    /// Adds a regular file of exactly `len` bytes from `content`.
    pub(super) fn file(
        &mut self,
        name: &str,
        attributes: Attributes,
        len: u64,
        content: impl Read,
    ) -> io::Result<()> {
        let size = u32::try_from(len)
            .map_err(|_| io::Error::other(format!("{name} is larger than cpio allows (4 GiB)")))?;
        let offset = self.entry(name, attributes, ModeFileType::Regular, (0, 0), size, content)?;
        self.tree.insert(name, Node::File { mode: attributes.mode, offset, len });
        Ok(())
    }

    /// Adds a folder.
    pub(super) fn dir(&mut self, name: &str, attributes: Attributes) -> io::Result<()> {
        self.entry(name, attributes, ModeFileType::Directory, (0, 0), 0, io::empty())?;
        self.tree.insert(name, Node::Dir);
        Ok(())
    }

    /// Adds a symbolic link.
    pub(super) fn symlink(
        &mut self,
        name: &str,
        attributes: Attributes,
        target: &str,
    ) -> io::Result<()> {
        let len = target.len() as u32;
        let kind = ModeFileType::Symlink;
        self.entry(name, attributes, kind, (0, 0), len, target.as_bytes())?;
        self.tree.insert(name, Node::Symlink(target.to_owned()));
        Ok(())
    }

    /// Adds a device or a pipe.
    pub(super) fn special(
        &mut self,
        name: &str,
        attributes: Attributes,
        special: Special,
    ) -> io::Result<()> {
        let (kind, device) = match special {
            Special::Char(major, minor) => (ModeFileType::Char, (major, minor)),
            Special::Block(major, minor) => (ModeFileType::Block, (major, minor)),
            Special::Fifo => (ModeFileType::Fifo, (0, 0)),
        };
        self.entry(name, attributes, kind, device, 0, io::empty())?;
        self.tree.insert(name, Node::Other);
        Ok(())
    }

    /// Adds another name for the file that was written as `target`, whose [`Attributes::nlink`] must
    /// have been more than one: readers only remember such files.
    pub(super) fn link(
        &mut self,
        name: &str,
        attributes: Attributes,
        target: &str,
    ) -> io::Result<()> {
        let found = self.tree.lookup(target).cloned().zip(self.inos.get(target.trim_matches('/')));
        let Some((node @ Node::File { mode, .. }, ino)) = found else {
            return Err(io::Error::other(format!("{name} links to {target}, which is not there")));
        };
        let attributes = Attributes { mode, ..attributes };
        self.entry_as(*ino, name, attributes, ModeFileType::Regular, (0, 0), 0, io::empty())?;
        self.tree.insert(name, node);
        Ok(())
    }

    /// Writes the trailer.
    pub(super) fn finish(mut self) -> io::Result<(File, Tree)> {
        cpio::newc::trailer(&mut self.out)?;
        Ok((self.out.into_inner().map_err(io::IntoInnerError::into_error)?, self.tree))
    }

    /// Writes an entry with a fresh inode number and returns where its bytes start.
    fn entry(
        &mut self,
        name: &str,
        attributes: Attributes,
        kind: ModeFileType,
        device: (u32, u32),
        size: u32,
        content: impl Read,
    ) -> io::Result<u64> {
        self.ino += 1;
        self.entry_as(self.ino, name, attributes, kind, device, size, content)
    }

    #[allow(clippy::too_many_arguments)]
    fn entry_as(
        &mut self,
        ino: u32,
        name: &str,
        attributes: Attributes,
        kind: ModeFileType,
        device: (u32, u32),
        size: u32,
        content: impl Read,
    ) -> io::Result<u64> {
        /// An entry's header; its name follows with a NUL, padded to four bytes like the content.
        const HEADER: u64 = 110;
        let name = name.trim_matches('/');
        let start = self.at + (HEADER + name.len() as u64 + 1).next_multiple_of(4);
        let mut entry = Builder::new(name)
            .ino(ino)
            .mode(attributes.mode & 0o7777)
            .set_mode_file_type(kind)
            .uid(attributes.owner.0)
            .gid(attributes.owner.1)
            .nlink(attributes.nlink)
            .mtime(attributes.mtime)
            .rdev_major(device.0)
            .rdev_minor(device.1)
            .write(&mut self.out, size);
        let copied = io::copy(&mut content.take(u64::from(size)), &mut entry)?;
        if copied < u64::from(size) {
            return Err(io::Error::other(format!("{name} shrank while it was read")));
        }
        entry.finish()?;
        if attributes.nlink > 1 {
            self.inos.insert(name.to_owned(), ino);
        }
        self.at = start + u64::from(size).next_multiple_of(4);
        Ok(start)
    }
}

/// Whether `reader` starts with a gzip header; nothing is consumed.
pub(super) fn is_gzip(reader: &mut impl BufRead) -> io::Result<bool> {
    Ok(reader.fill_buf()?.starts_with(&[0x1f, 0x8b]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> File {
        rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into()
    }

    fn archive() -> (File, Tree) {
        let mut writer = Writer::append(memory()).unwrap();
        writer.dir("bin", Attributes::root(0o755)).unwrap();
        let twice = Attributes { nlink: 2, ..Attributes::root(0o755) };
        writer.file("bin/a", twice, 5, &b"hello"[..]).unwrap();
        writer.symlink("bin/b", Attributes::root(0o777), "a").unwrap();
        writer.special("null", Attributes::root(0o666), Special::Char(1, 3)).unwrap();
        writer.link("c", twice, "bin/a").unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn scan_finds_what_was_written_where_it_was_written() {
        let (file, written) = archive();
        let scanned = scan(&file).unwrap();
        for name in ["bin", "bin/a", "bin/b", "null", "c"] {
            assert!(scanned.lookup(name).is_some(), "{name}");
            assert_eq!(scanned.lookup(name), written.lookup(name), "{name}");
        }
        let Some(Node::File { offset, len, mode: 0o755 }) = scanned.lookup("c") else { panic!() };
        let mut text = vec![0; *len as usize];
        file.read_exact_at(&mut text, *offset).unwrap();
        assert_eq!(text, b"hello");
    }

    #[test]
    fn scan_of_any_cut_archive_says_so() {
        let (file, _) = archive();
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        // The trailer's padding may be missing: nothing is lost with it.
        for len in (0..bytes.len() - 4).step_by(3) {
            let cut = memory();
            cut.write_all_at(&bytes[..len], 0).unwrap();
            let error = scan(&cut).unwrap_err();
            assert!(error.contains("cut short"), "{len}: {error}");
        }
    }

    #[test]
    fn append_starts_on_a_four_byte_boundary() {
        let file = memory();
        file.write_all_at(b"x", 0).unwrap();
        let mut writer = Writer::append(file).unwrap();
        writer.file("f", Attributes::root(0o644), 1, &b"y"[..]).unwrap();
        let (file, tree) = writer.finish().unwrap();
        let Some(Node::File { offset, .. }) = tree.lookup("f") else { panic!() };
        let mut byte = [0];
        file.read_exact_at(&mut byte, *offset).unwrap();
        assert_eq!((&byte, offset % 4), (b"y", 0));
    }
}

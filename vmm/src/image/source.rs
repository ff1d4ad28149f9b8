//! Every form of image on disk as one thing: an uncompressed cpio archive with an index.
//!
//! A `.cpio` stays where it is; folders, tar and gzip files and single programs are turned into an
//! archive in a memory file.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use flate2::bufread::GzDecoder;

use super::cpio::{self, Attributes, Special, Writer};
use super::tree::Tree;
use super::{Error, elf};

/// The files of an image.
pub(super) struct Rootfs {
    /// A cpio archive, on disk or in memory.
    pub archive: File,
    /// Whether `archive` is ours to append to.
    pub in_memory: bool,
    /// Its index.
    pub tree: Tree,
}

impl Rootfs {
    /// The archive at `path`, used in place.
    pub(super) fn cpio(path: &Path) -> Result<Self, Error> {
        let archive = open(path)?;
        let tree = cpio::scan(&archive).map_err(damaged(path, "cpio archive"))?;
        Ok(Self { archive, in_memory: false, tree })
    }

    /// The archive that is in `archive`, a memory file; `path` says where it came from.
    pub(super) fn memory(archive: File, path: &Path) -> Result<Self, Error> {
        let tree = cpio::scan(&archive).map_err(damaged(path, "cpio archive"))?;
        Ok(Self { archive, in_memory: true, tree })
    }

    /// A `.cpio.gz`.
    pub(super) fn cpio_gz(path: &Path) -> Result<Self, Error> {
        let mut archive = memory_file()?;
        io::copy(&mut GzDecoder::new(BufReader::new(open(path)?)), &mut archive)
            .map_err(|e| damaged(path, "gzip file")(e.to_string()))?;
        Self::memory(archive, path)
    }

    /// A `.tar` or `.tar.gz`.
    pub(super) fn tar(path: &Path) -> Result<Self, Error> {
        let mut reader = BufReader::with_capacity(128 << 10, open(path)?);
        let gzip = cpio::is_gzip(&mut reader).map_err(read_error(path))?;
        let mut writer = Writer::append(memory_file()?).map_err(Error::Memory)?;
        let done = match gzip {
            true => convert_tar(&mut writer, GzDecoder::new(reader)),
            false => convert_tar(&mut writer, reader),
        };
        done.map_err(|e| damaged(path, "tar archive")(e.to_string()))?;
        Self::finish(writer)
    }

    /// A folder: its files belong to root in the guest, whoever owns them here.
    pub(super) fn folder(path: &Path) -> Result<Self, Error> {
        let mut writer = Writer::append(memory_file()?).map_err(Error::Memory)?;
        let mut linked = HashMap::new();
        convert_folder(&mut writer, path, "", &mut linked)?;
        Self::finish(writer)
    }

    /// One program, as `/bin/NAME`.
    pub(super) fn program(path: &Path, name: &str) -> Result<Self, Error> {
        let file = open(path)?;
        let metadata = file.metadata().map_err(read_error(path))?;
        let mut writer = Writer::append(memory_file()?).map_err(Error::Memory)?;
        writer.dir("bin", Attributes::root(0o755)).map_err(Error::Memory)?;
        let attributes = Attributes { mtime: mtime(&metadata), ..Attributes::root(0o755) };
        writer
            .file(&format!("bin/{name}"), attributes, metadata.len(), file)
            .map_err(read_error(path))?;
        Self::finish(writer)
    }

    fn finish(writer: Writer) -> Result<Self, Error> {
        let (archive, tree) = writer.finish().map_err(Error::Memory)?;
        Ok(Self { archive, in_memory: true, tree })
    }

    /// Checks that the file at `offset` of the archive can run: an AArch64 program, or a script.
    pub(super) fn check_program(&self, offset: u64, len: u64) -> Result<(), String> {
        let mut head = vec![0; elf::HEAD.min(usize::try_from(len).unwrap_or(usize::MAX))];
        self.archive.read_exact_at(&mut head, offset).map_err(|e| e.to_string())?;
        match (elf::is_elf(&head), head.starts_with(b"#!")) {
            (true, _) => elf::check(&head, len),
            (_, true) => Ok(()),
            _ if head.is_empty() => Err("it is empty".to_owned()),
            _ => Err("it is neither an ELF file nor a script".to_owned()),
        }
    }

    /// The archive, and behind it one with the files of `/.belljar`: in the same file if that is ours.
    pub(super) fn into_initrd(
        self,
        extra: &[(&str, Vec<u8>)],
        cores: &[Arc<File>],
    ) -> Result<Vec<File>, Error> {
        /// Where an archive may begin behind another one.
        const STEP: u64 = 4;
        let aligned =
            self.archive.metadata().is_ok_and(|metadata| metadata.len().is_multiple_of(STEP));
        if !self.in_memory && aligned {
            let own = append(memory_file()?, extra, cores).map_err(Error::Memory)?;
            return Ok(vec![self.archive, own]);
        }
        let archive = match self.in_memory {
            true => self.archive,
            false => copy_to_memory(self.archive).map_err(Error::Memory)?,
        };
        Ok(vec![append(archive, extra, cores).map_err(Error::Memory)?])
    }
}

/// An archive with only the files of `/.belljar`, behind whatever `archive` holds.
fn append(archive: File, extra: &[(&str, Vec<u8>)], cores: &[Arc<File>]) -> io::Result<File> {
    let mut writer = Writer::append(archive)?;
    writer.dir(".belljar", Attributes::root(0o700))?;
    for (name, content) in extra {
        let len = content.len() as u64;
        writer.file(&format!(".belljar/{name}"), Attributes::root(0o600), len, &content[..])?;
    }
    if !cores.is_empty() {
        writer.dir(".belljar/resume", Attributes::root(0o700))?;
    }
    for (number, core) in cores.iter().enumerate() {
        let (mut content, len) = (&**core, core.metadata()?.len());
        content.seek(SeekFrom::Start(0))?;
        // By name, they are in this order.
        let name = format!(".belljar/resume/{number:06}");
        writer.file(&name, Attributes::root(0o600), len, content)?;
    }
    let (mut file, _) = writer.finish()?;
    file.flush()?;
    Ok(file)
}

fn copy_to_memory(mut file: File) -> io::Result<File> {
    let mut memory: File = rustix_memfd()?;
    file.seek(SeekFrom::Start(0))?;
    // File to file: the kernel copies, nothing passes through this process.
    io::copy(&mut file, &mut memory)?;
    Ok(memory)
}

fn rustix_memfd() -> io::Result<File> {
    Ok(rustix::fs::memfd_create("belljar-initrd", rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

/// An empty file in memory.
pub(super) fn memory_file() -> Result<File, Error> {
    rustix_memfd().map_err(Error::Memory)
}

/// Opens `path` for reading.
pub(super) fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(read_error(path))
}

/// The first bytes of `path`, enough to tell what it is.
pub(super) fn head(path: &Path) -> Result<Vec<u8>, Error> {
    let mut head = Vec::with_capacity(elf::HEAD);
    open(path)?.take(elf::HEAD as u64).read_to_end(&mut head).map_err(read_error(path))?;
    Ok(head)
}

fn read_error(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    move |cause| Error::Read { path: path.to_owned(), cause }
}

fn damaged<'a>(path: &'a Path, what: &'static str) -> impl Fn(String) -> Error + 'a {
    move |cause| Error::Damaged { path: path.to_owned(), what, cause }
}

fn convert_tar(writer: &mut Writer, reader: impl Read) -> io::Result<()> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let entry = entry?;
        let header = entry.header();
        let attributes = Attributes {
            mode: header.mode()?,
            mtime: header.mtime()?.try_into().unwrap_or(u32::MAX),
            owner: (id(header.uid()?), id(header.gid()?)),
            // Whether links follow is not known yet.
            nlink: 2,
        };
        let name = text(&entry.path_bytes())?;
        let name = name.trim_start_matches("./").trim_matches('/').to_owned();
        if name.is_empty() || name == "." {
            continue;
        }
        if name.split('/').any(|part| part == "..") {
            return Err(io::Error::other(format!("{name} leads out of the archive")));
        }
        let target = entry.link_name_bytes().map(|bytes| text(&bytes)).transpose()?;
        let device = || -> io::Result<(u32, u32)> {
            Ok((header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)))
        };
        match (header.entry_type(), target) {
            (tar::EntryType::Directory, _) => writer.dir(&name, attributes)?,
            (tar::EntryType::Symlink, Some(target)) => {
                writer.symlink(&name, attributes, &target)?;
            }
            (tar::EntryType::Link, Some(target)) => {
                writer.link(&name, attributes, target.trim_start_matches("./"))?;
            }
            (tar::EntryType::Char, _) => {
                let (major, minor) = device()?;
                writer.special(&name, attributes, Special::Char(major, minor))?;
            }
            (tar::EntryType::Block, _) => {
                let (major, minor) = device()?;
                writer.special(&name, attributes, Special::Block(major, minor))?;
            }
            (tar::EntryType::Fifo, _) => writer.special(&name, attributes, Special::Fifo)?,
            (kind, _) if kind.is_file() || kind.is_contiguous() => {
                let len = entry.size();
                writer.file(&name, attributes, len, entry)?;
            }
            // Extended headers were applied by the reader; anything else has no meaning here.
            _ => {}
        }
    }
    Ok(())
}

fn convert_folder(
    writer: &mut Writer,
    folder: &Path,
    prefix: &str,
    linked: &mut HashMap<(u64, u64), String>,
) -> Result<(), Error> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(read_error(folder))?;
    // The same folder gives the same archive.
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let failed = read_error(&path);
        let name = format!("{prefix}{}", text(entry.file_name().as_bytes()).map_err(&failed)?);
        let metadata = entry.metadata().map_err(&failed)?;
        let attributes = Attributes {
            mode: metadata.mode() & 0o7777,
            mtime: mtime(&metadata),
            owner: (0, 0),
            nlink: if metadata.is_dir() { 2 } else { id(metadata.nlink()) },
        };
        let kind = metadata.file_type();
        let device = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        let key = (metadata.dev(), metadata.ino());
        if kind.is_dir() {
            writer.dir(&name, attributes).map_err(&failed)?;
            convert_folder(writer, &path, &format!("{name}/"), linked)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(&failed)?;
            let target = text(target.as_os_str().as_bytes()).map_err(&failed)?;
            writer.symlink(&name, attributes, &target).map_err(&failed)?;
        } else if kind.is_file() {
            if let Some(first) = linked.get(&key) {
                writer.link(&name, attributes, first).map_err(&failed)?;
                continue;
            }
            writer.file(&name, attributes, metadata.len(), open(&path)?).map_err(&failed)?;
            if attributes.nlink > 1 {
                linked.insert(key, name);
            }
        } else if kind.is_char_device() {
            let special = Special::Char(device.0, device.1);
            writer.special(&name, attributes, special).map_err(&failed)?;
        } else if kind.is_block_device() {
            let special = Special::Block(device.0, device.1);
            writer.special(&name, attributes, special).map_err(&failed)?;
        } else if kind.is_fifo() {
            writer.special(&name, attributes, Special::Fifo).map_err(&failed)?;
        }
        // A socket has no meaning without the process that listens on it.
    }
    Ok(())
}

fn mtime(metadata: &Metadata) -> u32 {
    metadata.mtime().clamp(0, i64::from(u32::MAX)) as u32
}

fn id(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// File names in an archive must be UTF-8, because the archive crate takes them so.
fn text(bytes: &[u8]) -> io::Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| {
        let name = OsStr::from_bytes(bytes).to_string_lossy().into_owned();
        io::Error::other(format!("the file name {name:?} is not UTF-8"))
    })
}

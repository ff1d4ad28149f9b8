//! Directories and files that are described by tables of [`Entry`].

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::text::{Source, Text, TextFile};
use crate::arch;
use crate::errno::{Errno, Result};
use crate::fs::block::{disk_at, disks};
use crate::fs::{DirSink, File, FileOps, Inode, InodeFlags, InodeOps, OpenFlags, Path, SuperBlock};
use crate::kref::Ref;
use crate::mm::{try_arc_slice, try_box};
use crate::ns::Cred;
use crate::sched::WaitQueue;
use crate::uapi::{S_IFDIR, S_IFLNK, S_IFREG};

/// Writes a file's content.
pub type Show = fn(&SuperBlock, &mut Text) -> Result<()>;
/// Takes what was written to a file.
pub type Store = fn(&[u8]) -> Result<()>;

/// Writes the content of a CPU's file.
pub type CpuShow = fn(usize, &mut Text) -> Result<()>;
/// Takes what was written to a CPU's file.
pub type CpuStore = fn(usize, &[u8]) -> Result<()>;

/// What an entry is.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A file to read.
    Text(Show),
    /// A file that root alone reads.
    RootText(Show),
    /// A file to read whose changes can be waited for: their number, and who waits.
    Watched(Show, fn() -> u64, &'static WaitQueue),
    /// A file to read, below a CPU's directory: it is told which.
    CpuText(CpuShow),
    /// A file to read and write, below a CPU's directory.
    CpuSetting(CpuShow, CpuStore),
    /// A file to read and write.
    Setting(Show, Store),
    /// A directory.
    Dir(&'static [Entry]),
    /// A directory whose names come and go: what makes its operations.
    Own(fn() -> Result<Box<dyn InodeOps>>),
    /// Directories `NAME0`, `NAME1`, ..., one a CPU.
    PerCpu(&'static [Entry]),
    /// A directory for each disk, by its name. Files below are of the kind [`Kind::CpuText`], and are told
    /// the disk's number.
    PerDisk(&'static [Entry]),
    /// A symbolic link to what is written.
    Link(Show),
    /// A symbolic link to a name.
    FixedLink(&'static str),
}

/// A name in a directory.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
}

/// A file to read.
pub const fn text(name: &'static str, show: Show) -> Entry {
    Entry { name, kind: Kind::Text(show) }
}

/// A file to read and write.
pub const fn setting(name: &'static str, show: Show, store: Store) -> Entry {
    Entry { name, kind: Kind::Setting(show, store) }
}

/// A directory.
pub const fn dir(name: &'static str, entries: &'static [Entry]) -> Entry {
    Entry { name, kind: Kind::Dir(entries) }
}

/// A symbolic link.
pub const fn link(name: &'static str, show: Show) -> Entry {
    Entry { name, kind: Kind::Link(show) }
}

impl Kind {
    /// File type and permission bits.
    pub const fn mode(self) -> u32 {
        match self {
            Self::Text(_) | Self::Watched(..) | Self::CpuText(_) => S_IFREG | 0o444,
            Self::RootText(_) => S_IFREG | 0o400,
            Self::Setting(..) | Self::CpuSetting(..) => S_IFREG | 0o644,
            Self::Dir(_) | Self::Own(_) | Self::PerCpu(_) | Self::PerDisk(_) => S_IFDIR | 0o555,
            Self::Link(_) | Self::FixedLink(_) => S_IFLNK | 0o777,
        }
    }
}

/// The inode number of something that is known by an address and a number: the same each time, and
/// unlikely to be another's. Below 2^31, because some programs still think in 32 bits.
pub fn ino_of(address: usize, n: usize) -> u64 {
    let key = (address as u64).rotate_left(32) ^ n as u64;
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) | 0x1000
}

fn entry_ino(entry: &'static Entry, cpu: usize) -> u64 {
    ino_of(core::ptr::from_ref(entry) as usize, cpu)
}

/// The inode of an entry.
pub fn inode(sb: &Ref<SuperBlock>, entry: &'static Entry, cpu: usize) -> Result<Ref<Inode>> {
    let ops: Box<dyn InodeOps> = match entry.kind {
        Kind::Own(make) => make()?,
        kind => try_box(Node { kind, cpu })?,
    };
    let inode = Inode::new(sb, entry_ino(entry, cpu), entry.kind.mode(), ops)?;
    if matches!(entry.kind, Kind::Own(_)) {
        inode.set_nlink(2);
        inode.set_flags(InodeFlags::NO_NEGATIVE);
    }
    if let Kind::Dir(entries) | Kind::PerCpu(entries) | Kind::PerDisk(entries) = entry.kind {
        let dirs = entries.iter().filter(|e| matches!(e.kind, Kind::Dir(_))).count();
        inode.set_nlink(2 + dirs as u32);
    }
    if let Kind::FixedLink(to) = entry.kind {
        inode.set_size(to.len() as u64);
    }
    Ok(inode)
}

/// Finds a name in a table, below the directory of a CPU perhaps; the inode of what it stands for.
pub fn lookup(
    sb: &Ref<SuperBlock>,
    entries: &'static [Entry],
    name: &[u8],
    cpu: usize,
) -> Result<Option<Ref<Inode>>> {
    for entry in entries {
        if let Kind::PerCpu(_) = entry.kind {
            let index = name.strip_prefix(entry.name.as_bytes()).and_then(parse_index);
            if let Some(cpu) = index.filter(|&cpu| cpu < arch::cpu_count()) {
                return inode(sb, entry, cpu).map(Some);
            }
        } else if let Kind::PerDisk(_) = entry.kind {
            if let Some(i) = disks().position(|disk| disk.name().as_bytes() == name) {
                return inode(sb, entry, i).map(Some);
            }
        } else if entry.name.as_bytes() == name {
            return inode(sb, entry, cpu).map(Some);
        }
    }
    Ok(None)
}

/// A number as names spell it: without sign and leading zeros.
pub fn parse_index(name: &[u8]) -> Option<usize> {
    let plain = matches!(name, [b'0'] | [b'1'..=b'9', ..]);
    core::str::from_utf8(name).ok().filter(|_| plain)?.parse().ok()
}

/// Lists `.`, `..` and a table. True if all of it was taken; `pos` is then [`end_of`] the table or
/// beyond.
pub fn list(ino: u64, entries: &'static [Entry], pos: &mut u64, sink: &mut dyn DirSink) -> bool {
    let dots = [".", ".."].map(|name| (name, ino, S_IFDIR));
    for (at, (name, ino, mode)) in (0..).zip(dots) {
        if *pos == at {
            if !sink.emit(name.as_bytes(), ino, mode, at + 1) {
                return false;
            }
            *pos = at + 1;
        }
    }
    let mut at = 2;
    for entry in entries {
        let copies = match entry.kind {
            Kind::PerCpu(_) => Some(arch::cpu_count()),
            Kind::PerDisk(_) => Some(disks().count()),
            _ => None,
        };
        for cpu in 0..copies.unwrap_or(1) {
            if *pos == at {
                let mut name = Text::new();
                let put = match (entry.kind, copies) {
                    (Kind::PerDisk(_), _) => {
                        name.bytes(disk_at(cpu).map_or("", |disk| disk.name()).as_bytes())
                    }
                    (_, Some(_)) => crate::put!(name, "{}{cpu}", entry.name),
                    (_, None) => name.bytes(entry.name.as_bytes()),
                };
                let taken = put.is_ok()
                    && sink.emit(name.as_bytes(), entry_ino(entry, cpu), entry.kind.mode(), at + 1);
                if !taken {
                    return false;
                }
                *pos = at + 1;
            }
            at += 1;
        }
    }
    true
}

/// The position behind `.`, `..` and a table without per-CPU entries.
pub const fn end_of(entries: &[Entry]) -> u64 {
    2 + entries.len() as u64
}

/// The inode of an entry.
struct Node {
    kind: Kind,
    cpu: usize,
}

struct NodeSource {
    show: Show,
    store: Option<Store>,
    sb: Ref<SuperBlock>,
}

impl Source for NodeSource {
    fn show(&self, out: &mut Text) -> Result<()> {
        (self.show)(&self.sb, out)
    }

    fn store(&self, data: &[u8]) -> Result<()> {
        (self.store.ok_or(Errno::EIO)?)(data)
    }
}

struct WatchedSource {
    show: Show,
    sb: Ref<SuperBlock>,
    number: fn() -> u64,
    waiting: &'static WaitQueue,
}

impl Source for WatchedSource {
    fn show(&self, out: &mut Text) -> Result<()> {
        (self.show)(&self.sb, out)
    }

    fn changes(&self) -> Option<(u64, &WaitQueue)> {
        Some(((self.number)(), self.waiting))
    }
}

struct CpuSource {
    show: CpuShow,
    store: Option<CpuStore>,
    cpu: usize,
}

impl Source for CpuSource {
    fn show(&self, out: &mut Text) -> Result<()> {
        (self.show)(self.cpu, out)
    }

    fn store(&self, data: &[u8]) -> Result<()> {
        (self.store.ok_or(Errno::EIO)?)(self.cpu, data)
    }
}

impl InodeOps for Node {
    fn lookup(&self, dir: &Ref<Inode>, name: &[u8]) -> Result<Option<Ref<Inode>>> {
        match self.kind {
            Kind::Dir(entries) | Kind::PerCpu(entries) | Kind::PerDisk(entries) => {
                lookup(&dir.sb, entries, name, self.cpu)
            }
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn readlink(&self, inode: &Ref<Inode>, _cred: &Cred) -> Result<Arc<[u8]>> {
        let mut text = Text::new();
        match self.kind {
            Kind::Link(show) => show(&inode.sb, &mut text)?,
            Kind::FixedLink(to) => text.bytes(to.as_bytes())?,
            _ => return Err(Errno::EINVAL),
        }
        try_arc_slice(text.as_bytes())
    }

    fn open(&self, inode: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        let sb = inode.sb.clone();
        let (show, store) = match self.kind {
            Kind::Text(show) | Kind::RootText(show) => (show, None),
            Kind::Watched(show, number, waiting) => {
                return Ok(try_box(TextFile::new(WatchedSource { show, sb, number, waiting }))?);
            }
            Kind::CpuText(show) => {
                let source = CpuSource { show, store: None, cpu: self.cpu };
                return Ok(try_box(TextFile::new(source))?);
            }
            Kind::CpuSetting(show, store) => {
                let source = CpuSource { show, store: Some(store), cpu: self.cpu };
                return Ok(try_box(TextFile::new(source))?);
            }
            Kind::Setting(show, store) => (show, Some(store)),
            Kind::Dir(entries) | Kind::PerCpu(entries) | Kind::PerDisk(entries) => {
                return Ok(try_box(TableDir { entries })?);
            }
            // It has operations of its own.
            Kind::Own(_) => return Err(Errno::ENXIO),
            Kind::Link(_) | Kind::FixedLink(_) => return Err(Errno::ELOOP),
        };
        Ok(try_box(TextFile::new(NodeSource { show, store, sb }))?)
    }

    fn truncate(&self, _inode: &Inode, _size: u64) -> Result<()> {
        // Shells open settings with O_TRUNC.
        Ok(())
    }
}

/// An open directory.
struct TableDir {
    entries: &'static [Entry],
}

impl FileOps for TableDir {
    fn readdir(&self, file: &File, pos: &mut u64, sink: &mut dyn DirSink) -> Result<()> {
        list(file.inode.ino, self.entries, pos, sink);
        Ok(())
    }
}

/// The root inode of a file system that is a table.
pub fn root_inode(
    sb: &Ref<SuperBlock>,
    entries: &'static [Entry],
    ops: Option<Box<dyn InodeOps>>,
) -> Result<Ref<Inode>> {
    const ROOT_INO: u64 = 1;
    let ops = match ops {
        Some(ops) => ops,
        None => try_box(Node { kind: Kind::Dir(entries), cpu: 0 })?,
    };
    let root = Inode::new(sb, ROOT_INO, S_IFDIR | 0o555, ops)?;
    root.set_nlink(2);
    root.set_flags(InodeFlags::NO_NEGATIVE);
    Ok(root)
}

//! Files without a place in a tree: pipes, sockets, eventfds and their like.
//!
//! They live in file systems of the kernel's own that are mounted nowhere. A pipe or socket has an
//! inode of its own, `pipe:[7]`; all others share one, and show as `anon_inode:[eventfd]`.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::file::{FMode, FileOps, OpenFlags};
use super::inode::InodeOps;
use super::superblock::PlainSuper;
use super::{Dentry, File, Inode, Mount, Path, SuperBlock};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::try_box;
use crate::sync::Once;
use crate::uapi;

const PIPEFS_MAGIC: u64 = 0x5049_5045;
const SOCKFS_MAGIC: u64 = 0x534f_434b;
const ANON_INODE_MAGIC: u64 = 0x0904_1934;

/// Which file system of the kernel's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pseudo {
    /// Pipes.
    Pipe,
    /// Sockets.
    Socket,
}

static PIPES: Once<Ref<Mount>> = Once::new();
static SOCKETS: Once<Ref<Mount>> = Once::new();
static ANON: Once<Ref<Mount>> = Once::new();

/// An inode with nothing behind it but a name in brackets.
struct Labelled(&'static str);

impl InodeOps for Labelled {
    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Err(Errno::ENXIO)
    }

    fn pseudo_name(&self, inode: &Inode, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        write!(out, "{}:[{}]", self.0, inode.ino)
    }
}

/// The inode behind one kind of anonymous file.
struct AnonInode(&'static str);

impl InodeOps for AnonInode {
    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Err(Errno::ENXIO)
    }

    fn pseudo_name(&self, _inode: &Inode, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        write!(out, "anon_inode:{}", self.0)
    }
}

fn pseudo_mount(fs_type: &'static str, magic: u64) -> Result<Ref<Mount>> {
    let sb = SuperBlock::new(fs_type, magic, try_box(PlainSuper)?)?;
    let ino = sb.new_ino();
    let root = Inode::new(&sb, ino, uapi::S_IFDIR | 0o700, try_box(Labelled("root"))?)?;
    Mount::new_pseudo(Dentry::new_root(root)?)
}

/// Makes the mounts; boot order calls it once.
pub fn init() -> Result<()> {
    PIPES.set(pseudo_mount("pipefs", PIPEFS_MAGIC)?);
    SOCKETS.set(pseudo_mount("sockfs", SOCKFS_MAGIC)?);
    ANON.set(pseudo_mount("anon_inodefs", ANON_INODE_MAGIC)?);
    Ok(())
}

/// A place with a fresh inode of its own: for the ends of a pipe, or a socket. What stands behind it
/// goes into [`Inode::special`] if another open of the inode is to find it.
pub fn new_place(kind: Pseudo, uid: u32, gid: u32) -> Result<Path> {
    let (mount, mode, label) = match kind {
        Pseudo::Pipe => (&PIPES, uapi::S_IFIFO | 0o600, "pipe"),
        Pseudo::Socket => (&SOCKETS, uapi::S_IFSOCK | 0o777, "socket"),
    };
    let mnt = mount.try_get().ok_or(Errno::ENOSYS)?.clone();
    let inode = Inode::new(&mnt.sb, mnt.sb.new_ino(), mode, try_box(Labelled(label))?)?;
    inode.set_owner(uid, gid);
    Ok(Path { dentry: Dentry::new_pseudo(inode)?, mnt })
}

/// An open file that is nothing but `ops`; /proc shows it as `anon_inode:NAME`, where `name` is
/// `[eventfd]` or the like. `flags` say whether it is readable and writable.
pub fn new_file(name: &'static str, ops: Box<dyn FileOps>, flags: OpenFlags) -> Result<Ref<File>> {
    let mnt = ANON.try_get().ok_or(Errno::ENOSYS)?.clone();
    // Linux has one inode for all of them: the same number shows everywhere.
    const INO: u64 = 2;
    let inode = Inode::new(&mnt.sb, INO, 0o600, try_box(AnonInode(name))?)?;
    let mut fmode = FMode::empty();
    fmode.set(FMode::READ, flags.reads());
    fmode.set(FMode::WRITE, flags.writes());
    File::new(Path { dentry: Dentry::new_pseudo(inode)?, mnt }, flags, fmode, ops)
}

/// `prefix` and `name` as one text.
pub(super) fn prefixed(prefix: &[u8], name: &[u8]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    text.try_reserve_exact(prefix.len() + name.len()).map_err(|_| Errno::ENOMEM)?;
    text.extend_from_slice(prefix);
    text.extend_from_slice(name);
    Ok(text)
}

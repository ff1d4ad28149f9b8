//! nsfs: namespaces as files (namespaces(7)), which is where the links of /proc/PID/ns lead.
//!
//! An inode holds its namespace, so that an open file or a bind mount keeps one alive that no task uses
//! any more. The inode's number is the namespace's identity.

use alloc::boxed::Box;

use crate::errno::{Errno, Result};
use crate::fs::inode::InodeOps;
use crate::fs::superblock::PlainSuper;
use crate::fs::{
    Dentry, FMode, File, FileKind, FileOps, Inode, Mount, OpenFlags, Path, SuperBlock,
};
use crate::kref::Ref;
use crate::mm::{UserPtr, try_box};
use crate::ns::{Namespace, UserNs};
use crate::sync::Once;
use crate::task;
use crate::task::rlimit::Resource;
use crate::uapi::{S_IFDIR, S_IFREG};

const NSFS_MAGIC: u64 = 0x6e73_6673;
/// ioctl_ns(2): a descriptor of the user namespace that owns it.
const NS_GET_USERNS: u32 = 0xb701;
/// ioctl_ns(2): a descriptor of the namespace around it.
const NS_GET_PARENT: u32 = 0xb702;
/// ioctl_ns(2): its type, as a `CLONE_NEW*` flag.
const NS_GET_NSTYPE: u32 = 0xb703;
/// ioctl_ns(2): the creator's user id, of a user namespace.
const NS_GET_OWNER_UID: u32 = 0xb704;

/// The user namespace `ns` as the caller may see it: one that lies in its own, else `EPERM`.
fn seen_user_ns(ns: Option<&Ref<UserNs>>) -> Result<Namespace> {
    let ns = ns.ok_or(Errno::EPERM)?;
    let visible = ns.is_within(&task::current().cred().user_ns);
    if visible { Ok(Namespace::User(ns.clone())) } else { Err(Errno::EPERM) }
}

/// The namespace around `ns`, if the caller may see it.
fn seen_parent(ns: &Namespace) -> Result<Namespace> {
    match ns.parent()?.ok_or(Errno::EPERM)? {
        Namespace::User(parent) => seen_user_ns(Some(&parent)),
        Namespace::Pid(parent) if !parent.is_within(task::current().thread_pid.own().ns()) => {
            Err(Errno::EPERM)
        }
        parent => Ok(parent),
    }
}

/// Gives the caller a descriptor of a namespace.
fn open(ns: Namespace) -> Result<usize> {
    let place = place(ns.clone())?;
    let file = File::new(place, OpenFlags::empty(), FMode::READ, try_box(NsFile(ns))?)?;
    let task = task::current();
    let limit = task.signal.rlimits.soft(Resource::Nofile) as usize;
    Ok(task.files().install(file, 0, limit, true)? as usize)
}

struct NsNode(Namespace);

impl InodeOps for NsNode {
    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Ok(try_box(NsFile(self.0.clone()))?)
    }

    fn pseudo_name(&self, inode: &Inode, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        write!(out, "{}:[{}]", self.0.common().kind().name(), inode.ino)
    }
}

/// An open namespace, for setns(2).
struct NsFile(Namespace);

impl FileOps for NsFile {
    fn ioctl(&self, _file: &File, cmd: u32, arg: u64) -> Result<usize> {
        match cmd {
            NS_GET_USERNS => seen_user_ns(self.0.common().owner()).and_then(open),
            NS_GET_PARENT => seen_parent(&self.0).and_then(open),
            NS_GET_NSTYPE => Ok(self.0.common().kind().flag() as usize),
            NS_GET_OWNER_UID => {
                let Namespace::User(ns) = &self.0 else { return Err(Errno::EINVAL) };
                let uids = task::current().cred().user_ns.uids();
                UserPtr::<u32>::new(arg).write(uids.from_kernel_munged(ns.owner_uid))?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn abilities(&self) -> FMode {
        FMode::empty()
    }

    fn kind(&self) -> Option<FileKind> {
        Some(FileKind::Namespace)
    }
}

/// The namespace behind an open file.
pub fn namespace_of(file: &File) -> Option<&Namespace> {
    file.ops_as::<NsFile>().map(|file| &file.0)
}

/// The namespace that an inode stands for: what is bind mounted, if it is one.
pub fn namespace_at(inode: &Inode) -> Option<Namespace> {
    inode.ops_as::<NsNode>().map(|node| node.0.clone())
}

fn mount() -> Result<&'static Ref<Mount>> {
    static MOUNT: Once<Ref<Mount>> = Once::new();
    if let Some(mount) = MOUNT.try_get() {
        return Ok(mount);
    }
    let sb = SuperBlock::new("nsfs", NSFS_MAGIC, try_box(PlainSuper)?)?;
    let root = Inode::new(&sb, sb.new_ino(), S_IFDIR | 0o555, try_box(Nothing)?)?;
    Ok(MOUNT.set(Mount::new_pseudo(Dentry::new_root(root)?)?))
}

/// The root, which nobody reaches.
struct Nothing;

impl InodeOps for Nothing {
    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Err(Errno::ENXIO)
    }
}

/// The place of a namespace.
pub fn place(ns: Namespace) -> Result<Path> {
    let mnt = mount()?.clone();
    let ino = u64::from(ns.inum());
    let inode = Inode::new(&mnt.sb, ino, S_IFREG | 0o444, try_box(NsNode(ns))?)?;
    Ok(Path { dentry: Dentry::new_pseudo(inode)?, mnt })
}

//! nsfs: namespaces as files (namespaces(7)), which is where the links of /proc/PID/ns lead.
//!
//! An inode holds its namespace, so that an open file or a bind mount keeps one alive that no task uses
//! any more. The inode's number is the namespace's identity.

use alloc::boxed::Box;

use crate::errno::{Errno, Result};
use crate::fs::inode::InodeOps;
use crate::fs::superblock::PlainSuper;
use crate::fs::{
    Dentry, FMode, File, FileKind, FileOps, Inode, MntNs, Mount, OpenFlags, Path, SuperBlock,
};
use crate::kref::Ref;
use crate::mm::try_box;
use crate::net::NetNs;
use crate::ns::uts::UtsNs;
use crate::ns::{PidNs, PlainNs, UserNs};
use crate::sync::Once;
use crate::task;
use crate::task::rlimit::Resource;
use crate::uapi::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWTIME,
    CLONE_NEWUSER, CLONE_NEWUTS, S_IFDIR, S_IFREG,
};

const NSFS_MAGIC: u64 = 0x6e73_6673;
/// ioctl_ns(2): a descriptor of the user namespace that owns it.
const NS_GET_USERNS: u32 = 0xb701;
/// ioctl_ns(2): a descriptor of the namespace around it.
const NS_GET_PARENT: u32 = 0xb702;
/// ioctl_ns(2): its type, as a `CLONE_NEW*` flag.
const NS_GET_NSTYPE: u32 = 0xb703;

/// A namespace of whichever type.
#[derive(Clone)]
#[allow(missing_docs, reason = "the names are namespaces(7)'s")]
pub enum Namespace {
    Cgroup(Ref<PlainNs>),
    Ipc(Ref<PlainNs>),
    Mnt(Ref<MntNs>),
    Net(Ref<NetNs>),
    Pid(Ref<PidNs>),
    Time(Ref<PlainNs>),
    User(Ref<UserNs>),
    Uts(Ref<UtsNs>),
}

impl Namespace {
    /// Its identity: the inode number of its file.
    pub fn inum(&self) -> u32 {
        match self {
            Self::Cgroup(ns) | Self::Ipc(ns) | Self::Time(ns) => ns.inum,
            Self::Net(ns) => ns.inum,
            Self::Mnt(ns) => ns.inum,
            Self::Pid(ns) => ns.inum,
            Self::User(ns) => ns.inum,
            Self::Uts(ns) => ns.inum,
        }
    }

    /// The type's name and its flag of clone(2).
    pub fn kind(&self) -> (&'static str, u32) {
        match self {
            Self::Cgroup(_) => ("cgroup", CLONE_NEWCGROUP),
            Self::Ipc(_) => ("ipc", CLONE_NEWIPC),
            Self::Mnt(_) => ("mnt", CLONE_NEWNS),
            Self::Net(_) => ("net", CLONE_NEWNET),
            Self::Pid(_) => ("pid", CLONE_NEWPID),
            Self::Time(_) => ("time", CLONE_NEWTIME),
            Self::User(_) => ("user", CLONE_NEWUSER),
            Self::Uts(_) => ("uts", CLONE_NEWUTS),
        }
    }
}

impl Namespace {
    /// The user namespace that owns it; that of a user namespace is the one around it.
    fn owner(&self) -> Option<Self> {
        let owner = match self {
            Self::Cgroup(ns) | Self::Ipc(ns) | Self::Time(ns) => &ns.user_ns,
            Self::Net(ns) => &ns.user_ns,
            Self::Mnt(ns) => &ns.user_ns,
            Self::Pid(ns) => &ns.user_ns,
            Self::User(ns) => ns.parent.as_ref()?,
            Self::Uts(ns) => &ns.user_ns,
        };
        Some(Self::User(owner.clone()))
    }

    /// The namespace around it; `EINVAL` for types that do not nest.
    fn parent(&self) -> Result<Option<Self>> {
        match self {
            Self::Pid(ns) => Ok(ns.parent.clone().map(Self::Pid)),
            Self::User(ns) => Ok(ns.parent.clone().map(Self::User)),
            _ => Err(Errno::EINVAL),
        }
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
        write!(out, "{}:[{}]", self.0.kind().0, inode.ino)
    }
}

/// An open namespace, for setns(2).
struct NsFile(Namespace);

impl FileOps for NsFile {
    fn ioctl(&self, _file: &File, cmd: u32, _arg: u64) -> Result<usize> {
        match cmd {
            NS_GET_USERNS => self.0.owner().ok_or(Errno::EPERM).and_then(open),
            NS_GET_PARENT => self.0.parent()?.ok_or(Errno::EPERM).and_then(open),
            NS_GET_NSTYPE => Ok(self.0.kind().1 as usize),
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

fn mount() -> Result<&'static Ref<Mount>> {
    static MOUNT: Once<Ref<Mount>> = Once::new();
    if let Some(mount) = MOUNT.try_get() {
        return Ok(mount);
    }
    let sb = SuperBlock::new("nsfs", NSFS_MAGIC, Box::new(PlainSuper))?;
    let root = Inode::new(&sb, sb.new_ino(), S_IFDIR | 0o555, Box::new(Nothing))?;
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

//! The file system of a namespace's queues: one flat directory, which mount(2) shows as type `mqueue`.
//!
//! A namespace makes its file system when it is first needed. Mounts keep that one: once the namespace
//! is gone, queues that are open in it work on, and no new ones are made.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use super::Size;
use super::file::{QueueFile, QueueInode};
use super::queue::Queue;
use crate::errno::{Errno, Result};
use crate::fs::inode::{Inode, InodeFlags, InodeOps, NewNode, NodeKind};
use crate::fs::open::open_path;
use crate::fs::perm::may_create;
use crate::fs::superblock::{PlainSuper, SuperBlock};
use crate::fs::{
    Caller, Dentry, DirSink, File, FileOps, FileSystem, Mount, MountRequest, OpenFlags, Path,
    namei, verbs,
};
use crate::ipc::hooks;
use crate::kref::Ref;
use crate::mm::try_box;
use crate::ns::{Cap, Cred, Namespace, NsCommon};
use crate::sync::{Mutex, SpinLock};
use crate::uapi;

/// statfs(2) magic.
const MQUEUE_MAGIC: u64 = 0x1980_0202;
/// Size that the directory shows for each name.
const DIRENT_SIZE: u64 = 20;
/// Size that a queue's file shows.
const FILENT_SIZE: u64 = 80;

/// Limits of a namespace (/proc/sys/fs/mqueue), and what counts against them.
pub struct State {
    /// `queues_max`: queues, for the unprivileged.
    pub queues_max: AtomicI32,
    /// `msg_max`: messages of a queue.
    pub msg_max: AtomicI32,
    /// `msgsize_max`: bytes of a message.
    pub msgsize_max: AtomicI32,
    /// `msg_default`: messages, if who makes a queue does not say.
    pub msg_default: AtomicI32,
    /// `msgsize_default`: likewise bytes.
    pub msgsize_default: AtomicI32,
    /// Queues that there are.
    pub(super) queues: AtomicU32,
    closed: AtomicBool,
}

impl State {
    fn max(&self) -> Size {
        let get = |n: &AtomicI32| i64::from(n.load(Ordering::Relaxed));
        Size { maxmsg: get(&self.msg_max), msgsize: get(&self.msgsize_max) }
    }

    fn default_size(&self) -> Size {
        let max = self.max();
        let get = |n: &AtomicI32| i64::from(n.load(Ordering::Relaxed));
        Size {
            maxmsg: max.maxmsg.min(get(&self.msg_default)),
            msgsize: max.msgsize.min(get(&self.msgsize_default)),
        }
    }
}

/// The message queues of a namespace.
pub struct Mqueues {
    /// Limits.
    pub state: Ref<State>,
    mount: Mutex<Option<Ref<Mount>>>,
}

impl Mqueues {
    /// None yet.
    pub fn new() -> Result<Self> {
        let state = Ref::try_new(State {
            queues_max: AtomicI32::new(256),
            msg_max: AtomicI32::new(10),
            msgsize_max: AtomicI32::new(8192),
            msg_default: AtomicI32::new(10),
            msgsize_default: AtomicI32::new(8192),
            queues: AtomicU32::new(0),
            closed: AtomicBool::new(false),
        })?;
        Ok(Self { state, mount: Mutex::new(None) })
    }

    /// The root of the file system, which belongs to the owner of the namespace.
    fn root(&self, common: &NsCommon) -> Result<Path> {
        let mut mount = self.mount.lock();
        let mnt = match &*mount {
            Some(mnt) => mnt.clone(),
            None => {
                let owner = common.user_ns().clone();
                let sb = SuperBlock::new_in(owner, "mqueue", MQUEUE_MAGIC, try_box(PlainSuper)?)?;
                let ops = try_box(Root { state: self.state.clone(), names: Default::default() })?;
                let mode = uapi::S_IFDIR | uapi::S_ISVTX | 0o777;
                let root = Inode::new(&sb, sb.new_ino(), mode, ops)?;
                root.set_nlink(2);
                root.set_flags(InodeFlags::NO_NEGATIVE);
                mount.insert(Mount::new_pseudo(Dentry::new_root(root)?)?).clone()
            }
        };
        Ok(Path { dentry: mnt.root.clone(), mnt })
    }
}

impl Drop for Mqueues {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::Relaxed);
    }
}

/// Bytes of queues that each user has made, by kernel user id.
static USED: SpinLock<Vec<(u32, u64)>> = SpinLock::new(Vec::new());

/// A queue's share of its maker's `RLIMIT_MSGQUEUE`.
pub struct Charge {
    uid: u32,
    bytes: u64,
}

impl Charge {
    /// `EMFILE` if the user has too much.
    pub fn new(uid: u32, size: Size, limit: u64) -> Result<Self> {
        let bytes = size.charged();
        let mut used = USED.lock();
        let at = match used.iter().position(|(user, _)| *user == uid) {
            Some(at) => at,
            None => {
                used.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                used.push((uid, 0));
                used.len() - 1
            }
        };
        let total = used[at].1.saturating_add(bytes);
        if total > limit {
            used.retain(|(_, bytes)| *bytes > 0);
            return Err(Errno::EMFILE);
        }
        used[at].1 = total;
        Ok(Self { uid, bytes })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut used = USED.lock();
        if let Some((_, bytes)) = used.iter_mut().find(|(uid, _)| *uid == self.uid) {
            *bytes -= self.bytes;
        }
        used.retain(|(_, bytes)| *bytes > 0);
    }
}

/// A name, its queue, and its position in listings.
struct Name {
    name: Vec<u8>,
    inode: Ref<Inode>,
    position: u64,
}

/// The directory.
struct Root {
    state: Ref<State>,
    /// In the order of their positions.
    names: SpinLock<Vec<Name>>,
}

impl Root {
    /// Makes a queue under a name that is not there; the directory is locked.
    fn make(
        &self,
        dir: &Ref<Inode>,
        name: &[u8],
        new: &NewNode<'_>,
        size: Option<Size>,
        cred: &Cred,
    ) -> Result<Ref<Inode>> {
        let state = &self.state;
        if state.closed.load(Ordering::Relaxed) {
            return Err(Errno::EACCES);
        }
        let max = state.queues_max.load(Ordering::Relaxed);
        if i64::from(state.queues.load(Ordering::Relaxed)) >= i64::from(max)
            && !cred.capable(Cap::SysResource)
        {
            return Err(Errno::ENOSPC);
        }
        if let Some(size) = size {
            size.check(state.max(), cred)?;
        }
        let size = size.unwrap_or(state.default_size());
        let ops = try_box(QueueInode::new(state, size, new.uid)?)?;
        let inode = Inode::new(&dir.sb, dir.sb.new_ino(), new.mode, ops)?;
        inode.set_owner(new.uid, new.gid);
        inode.set_size(FILENT_SIZE);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(name.len()).map_err(|_| Errno::ENOMEM)?;
        bytes.extend_from_slice(name);
        {
            let mut names = self.names.lock();
            names.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            let position = names.last().map_or(2, |last| last.position + 1);
            names.push(Name { name: bytes, inode: inode.clone(), position });
        }
        dir.set_size(dir.size() + DIRENT_SIZE);
        dir.touch_modified();
        Ok(inode)
    }
}

impl InodeOps for Root {
    fn lookup(&self, _dir: &Ref<Inode>, name: &[u8]) -> Result<Option<Ref<Inode>>> {
        let names = self.names.lock();
        Ok(names.iter().find(|there| there.name == name).map(|there| there.inode.clone()))
    }

    fn create(&self, dir: &Ref<Inode>, name: &[u8], new: &NewNode<'_>) -> Result<Ref<Inode>> {
        if new.mode & uapi::S_IFMT != uapi::S_IFREG {
            return Err(Errno::EPERM);
        }
        self.make(dir, name, new, None, &*hooks::cred()?)
    }

    fn unlink(&self, dir: &Ref<Inode>, name: &[u8], inode: &Ref<Inode>) -> Result<()> {
        let mut names = self.names.lock();
        let at = names.iter().position(|there| there.name == name).ok_or(Errno::ENOENT)?;
        let gone = names.remove(at);
        drop(names);
        drop(gone);
        inode.dec_nlink();
        dir.set_size(dir.size().saturating_sub(DIRENT_SIZE));
        dir.touch_modified();
        Ok(())
    }

    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Ok(try_box(RootFile)?)
    }
}

/// The open directory.
struct RootFile;

impl FileOps for RootFile {
    fn readdir(&self, file: &File, pos: &mut u64, sink: &mut dyn DirSink) -> Result<()> {
        let root = file.inode.ops_as::<Root>().ok_or(Errno::ENOTDIR)?;
        let ino = file.inode.ino;
        for (at, name) in (0..).zip([&b"."[..], b".."]) {
            if *pos == at {
                if !sink.emit(name, ino, uapi::S_IFDIR, at + 1) {
                    return Ok(());
                }
                *pos = at + 1;
            }
        }
        loop {
            let next = {
                let names = root.names.lock();
                let at = names.partition_point(|name| name.position < *pos);
                match names.get(at) {
                    Some(found) => {
                        let name = crate::mm::try_to_vec(&found.name)?;
                        (name, found.inode.ino, found.position)
                    }
                    None => return Ok(()),
                }
            };
            let (name, ino, position) = next;
            if !sink.emit(&name, ino, uapi::S_IFREG, position + 1) {
                return Ok(());
            }
            *pos = position + 1;
        }
    }
}

/// mq_open(2): `name` without its slash.
pub fn open(
    caller: Caller<'_>,
    (queues, common): (&Mqueues, &NsCommon),
    name: &[u8],
    flags: OpenFlags,
    mode: u32,
    size: Option<Size>,
) -> Result<Ref<File>> {
    check_name(name)?;
    let root = queues.root(common)?;
    let dir = root.inode()?.clone();
    let guard = dir.lock.lock();
    let dentry = namei::lookup_locked(&root.dentry, name)?;
    let created = dentry.inode().is_none();
    if created {
        if !flags.contains(OpenFlags::CREAT) {
            return Err(Errno::ENOENT);
        }
        may_create(&dir, caller.cred)?;
        let mode = uapi::S_IFREG | mode & 0o7777 & !caller.fs.umask();
        let new = verbs::new_node(caller, &dir, mode, NodeKind::Plain);
        let ops = dir.ops_as::<Root>().ok_or(Errno::EINVAL)?;
        dentry.instantiate(ops.make(&dir, name, &new, size, caller.cred)?);
    } else if flags.contains(OpenFlags::CREAT | OpenFlags::EXCL) {
        return Err(Errno::EEXIST);
    } else if flags.bits() & uapi::O_ACCMODE == uapi::O_ACCMODE {
        return Err(Errno::EINVAL);
    }
    drop(guard);
    let flags = flags - OpenFlags::TRUNC;
    open_path(caller, Path { mnt: root.mnt, dentry }, flags, created)
}

/// mq_unlink(2): `name` without its slash.
pub fn unlink(
    caller: Caller<'_>,
    (queues, common): (&Mqueues, &NsCommon),
    name: &[u8],
) -> Result<()> {
    check_name(name)?;
    let root = queues.root(common)?;
    verbs::unlink(caller, Some(&root), name)
}

/// A name of a queue has no slash but the first, which C libraries take off.
fn check_name(name: &[u8]) -> Result<()> {
    match name {
        b"" => Err(Errno::ENOENT),
        b"." | b".." => Err(Errno::EACCES),
        _ if name.contains(&b'/') => Err(Errno::EACCES),
        _ if name.len() > crate::fs::NAME_MAX => Err(Errno::ENAMETOOLONG),
        _ => Ok(()),
    }
}

/// The queue behind an open file; `EBADF` if it is none.
pub fn queue_of(file: &File) -> Result<&Ref<Queue>> {
    file.ops_as::<QueueFile>().map(|file| &file.queue).ok_or(Errno::EBADF)
}

/// The type, for mount(2).
pub struct MqueueFs;

impl FileSystem for MqueueFs {
    fn name(&self) -> &'static str {
        "mqueue"
    }

    fn allows_user_ns(&self) -> bool {
        true
    }

    fn shows(&self) -> Option<Namespace> {
        hooks::ipc_ns().ok().map(Namespace::Ipc)
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Ref<Dentry>> {
        let Some(Namespace::Ipc(ns)) = request.shows else { return Err(Errno::EINVAL) };
        Ok(ns.mq.root(&ns.common)?.dentry)
    }
}

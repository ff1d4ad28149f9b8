//! The devpts file system (pts(4)): a node for each pseudoterminal, and `ptmx`.
//!
//! There is one instance, whatever the number of mounts. A node is there while its master is open;
//! it belongs to whoever opened that.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use super::pty::{NR_PTYS, PTS_MAJOR};
use super::{Tty, job};
use crate::errno::{Errno, Result};
use crate::fs::mntns::init_mnt_ns;
use crate::fs::superblock::PlainSuper;
use crate::fs::{
    Dentry, Dev, DirSink, File, FileOps, FileSystem, Inode, InodeFlags, InodeOps, MountRequest,
    OpenFlags, Path, SuperBlock, namei,
};
use crate::kref::Ref;
use crate::sync::{Once, SpinLock};
use crate::uapi;

/// statfs(2) magic.
const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
/// Pairs at most; /proc/sys/kernel/pty/max.
pub const PTY_MAX: usize = 4096;
/// Inode numbers: the root, ptmx, then the nodes.
const ROOT_INO: u64 = 1;
const PTMX_INO: u64 = 2;
const FIRST_INO: u64 = 3;
/// Position in the directory of the first node: after `.`, `..` and ptmx.
const FIRST_POS: u64 = 3;

/// One pseudoterminal and its node.
struct Pts {
    tty: Arc<Tty>,
    node: Ref<Inode>,
}

static TABLE: SpinLock<Vec<Option<Pts>>> = SpinLock::new(Vec::new());
static INSTANCE: Once<Instance> = Once::new();
/// Mount options: permission bits of nodes and of ptmx, and the nodes' group.
static MODE: AtomicU32 = AtomicU32::new(0o600);
static PTMX_MODE: AtomicU32 = AtomicU32::new(0);
static GID: AtomicU32 = AtomicU32::new(u32::MAX);

struct Instance {
    sb: Ref<SuperBlock>,
    root: Ref<Dentry>,
    ptmx: Ref<Inode>,
}

fn instance() -> Result<&'static Instance> {
    if let Some(instance) = INSTANCE.try_get() {
        return Ok(instance);
    }
    let sb = SuperBlock::new("devpts", DEVPTS_SUPER_MAGIC, Box::new(PlainSuper))?;
    let root = Inode::new(&sb, ROOT_INO, uapi::S_IFDIR | 0o755, Box::new(Root))?;
    root.set_nlink(2);
    root.set_flags(InodeFlags::NO_NEGATIVE);
    let ptmx =
        Inode::with_rdev(&sb, PTMX_INO, uapi::S_IFCHR, super::console::PTMX, Box::new(Node))?;
    let root = Dentry::new_root(root)?;
    Ok(INSTANCE.set(Instance { sb, root, ptmx }))
}

/// Makes a pair: finds it a number, `make`s the terminal and gives it a node. `ENOSPC` if there are
/// too many.
pub(super) fn allocate(make: impl FnOnce(u32) -> Result<Arc<Tty>>) -> Result<Arc<Tty>> {
    let instance = instance()?;
    let index = reserve()?;
    let made = make(index as u32).and_then(|tty| {
        let mode = uapi::S_IFCHR | MODE.load(Ordering::Relaxed);
        let node = Inode::with_rdev(
            &instance.sb,
            FIRST_INO + index as u64,
            mode,
            Dev::new(PTS_MAJOR, index as u32),
            Box::new(Node),
        )?;
        node.set_flags(InodeFlags::REVALIDATE);
        let (uid, gid) = job::file_ids();
        let group = GID.load(Ordering::Relaxed);
        node.set_owner(uid, if group == u32::MAX { gid } else { group });
        Ok(Pts { tty, node })
    });
    match made {
        Ok(pts) => {
            let tty = pts.tty.clone();
            TABLE.lock()[index] = Some(pts);
            NR_PTYS.fetch_add(1, Ordering::Relaxed);
            RESERVED.lock().retain(|&i| i != index);
            Ok(tty)
        }
        Err(error) => {
            RESERVED.lock().retain(|&i| i != index);
            Err(error)
        }
    }
}

/// Numbers that are being given out.
static RESERVED: SpinLock<Vec<usize>> = SpinLock::new(Vec::new());

fn reserve() -> Result<usize> {
    let mut reserved = RESERVED.lock();
    let mut table = TABLE.lock();
    let free = |i: usize, table: &[Option<Pts>]| {
        table.get(i).is_none_or(Option::is_none) && !reserved.contains(&i)
    };
    let index = (0..PTY_MAX).find(|&i| free(i, &table)).ok_or(Errno::ENOSPC)?;
    if index >= table.len() {
        table.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        table.resize_with(index + 1, || None);
    }
    reserved.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    reserved.push(index);
    Ok(index)
}

/// The master of pair `index` was closed: its node goes.
pub(super) fn remove(index: u32) {
    let gone = TABLE.lock().get_mut(index as usize).and_then(Option::take);
    if let Some(pts) = gone {
        pts.node.set_nlink(0);
        NR_PTYS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place of /dev/pts/`index`, wherever devpts is mounted; `EIO` if it is nowhere.
pub(super) fn place(index: u32) -> Result<Path> {
    let root = &instance()?.root;
    let mounts = init_mnt_ns();
    let mnt = (0..)
        .map_while(|i| mounts.mount_at(i))
        .find(|mount| Ref::ptr_eq(&mount.root, root))
        .ok_or(Errno::EIO)?;
    let dentry = namei::lookup_child(root, alloc::format!("{index}").as_bytes())?;
    Ok(Path { mnt, dentry })
}

/// The terminal /dev/pts/`index`.
pub(super) fn find(index: u32) -> Option<Arc<Tty>> {
    TABLE.lock().get(index as usize)?.as_ref().map(|pts| pts.tty.clone())
}

/// A character device node of devpts.
struct Node;

impl InodeOps for Node {
    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        // Device nodes are opened through the registry of devices.
        Err(Errno::ENXIO)
    }

    fn revalidate(&self, inode: &Inode) -> bool {
        inode.nlink() != 0
    }
}

/// The directory.
struct Root;

fn parse_index(name: &[u8]) -> Option<usize> {
    let text = core::str::from_utf8(name).ok()?;
    let index: usize = text.parse().ok()?;
    // Only the usual spelling: no sign, no leading zeros.
    let plain = name[0] != b'+' && (name[0] != b'0' || name.len() == 1);
    (plain && index < PTY_MAX).then_some(index)
}

impl InodeOps for Root {
    fn lookup(&self, _dir: &Ref<Inode>, name: &[u8]) -> Result<Option<Ref<Inode>>> {
        if name == b"ptmx" {
            return Ok(Some(instance()?.ptmx.clone()));
        }
        let table = TABLE.lock();
        let pts = parse_index(name).and_then(|i| table.get(i)).and_then(Option::as_ref);
        Ok(pts.map(|pts| pts.node.clone()))
    }

    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Ok(Box::new(RootFile))
    }
}

/// The open directory.
struct RootFile;

impl FileOps for RootFile {
    fn readdir(&self, _file: &File, pos: &mut u64, sink: &mut dyn DirSink) -> Result<()> {
        let fixed = [(&b"."[..], ROOT_INO, uapi::S_IFDIR), (b"..", ROOT_INO, uapi::S_IFDIR)];
        let fixed = fixed.into_iter().chain([(&b"ptmx"[..], PTMX_INO, uapi::S_IFCHR)]);
        for (at, (name, ino, mode)) in fixed.enumerate().skip(*pos as usize) {
            if !sink.emit(name, ino, mode, at as u64 + 1) {
                return Ok(());
            }
            *pos = at as u64 + 1;
        }
        loop {
            let from = pos.saturating_sub(FIRST_POS) as usize;
            let next = {
                let table = TABLE.lock();
                (from..table.len()).find(|&i| table[i].is_some())
            };
            let Some(index) = next else { return Ok(()) };
            let after = FIRST_POS + index as u64 + 1;
            let name = alloc::format!("{index}");
            if !sink.emit(name.as_bytes(), FIRST_INO + index as u64, uapi::S_IFCHR, after) {
                return Ok(());
            }
            *pos = after;
        }
    }
}

/// The type, for mount(2).
pub struct DevPts;

impl FileSystem for DevPts {
    fn name(&self) -> &'static str {
        "devpts"
    }

    fn allows_user_ns(&self) -> bool {
        true
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Ref<Dentry>> {
        let instance = instance()?;
        // There is one instance, and its settings are the machine's.
        let ours = request.cred.user_ns.level == 0;
        for (name, value) in request.options().filter(|_| ours) {
            let value = core::str::from_utf8(value).map_err(|_| Errno::EINVAL)?;
            let octal = || u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL);
            match name {
                b"mode" => MODE.store(octal()? & 0o777, Ordering::Relaxed),
                b"ptmxmode" => PTMX_MODE.store(octal()? & 0o777, Ordering::Relaxed),
                b"gid" => {
                    let gid = value.parse().map_err(|_| Errno::EINVAL)?;
                    GID.store(gid, Ordering::Relaxed);
                }
                // Accepted: of no effect with one instance.
                b"newinstance" | b"max" | b"uid" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        instance.ptmx.set_permissions(PTMX_MODE.load(Ordering::Relaxed));
        Ok(instance.root.clone())
    }
}

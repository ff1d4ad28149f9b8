//! tmpfs: files in memory. The root file system, /tmp, /dev/shm, /dev and memfds are made of it.
//!
//! A directory holds its entries itself and a reference to each inode; a regular file is a
//! [`Mapping`](crate::mm::Mapping). Options: `size=`, `nr_blocks=`, `nr_inodes=`, `mode=`, `uid=`,
//! `gid=`; a full file system gives `ENOSPC`.

mod dir;
mod file;
pub mod memfd;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use super::file::{FileOps, OpenFlags};
use super::inode::{InodeOps, NewNode, NodeKind};
use super::superblock::{FileSystem, MountRequest, StatFs, SuperBlock, SuperOps};
use super::{Dentry, Dev, Inode, Path};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm;
use crate::ns::user::init_user_ns;
use crate::ns::{Cred, UserNs};
use crate::uapi;

use dir::TmpDir;
use file::TmpFile;

/// `TMPFS_MAGIC` of statfs(2).
const MAGIC: u64 = 0x0102_1994;

/// How much a file system may hold, and how much it does. Zero as a limit is "any amount".
pub struct Quota {
    max_pages: AtomicU64,
    pages: AtomicU64,
    max_inodes: AtomicU64,
    inodes: AtomicU64,
}

impl Quota {
    const fn unlimited() -> Self {
        Self {
            max_pages: AtomicU64::new(0),
            pages: AtomicU64::new(0),
            max_inodes: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
        }
    }

    fn charge(used: &AtomicU64, max: &AtomicU64) -> Result<()> {
        let max = max.load(Ordering::Relaxed);
        let room = |n: u64| (max == 0 || n < max).then_some(n + 1);
        let charged = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        charged.map(|_| ()).map_err(|_| Errno::ENOSPC)
    }

    fn charge_page(&self) -> Result<()> {
        Self::charge(&self.pages, &self.max_pages)
    }

    fn release_pages(&self, n: u64) {
        self.pages.fetch_sub(n, Ordering::Relaxed);
    }
}

/// One inode's share of the quota, given back when the inode goes.
struct InodeCharge(Arc<Quota>);

impl InodeCharge {
    fn new(quota: &Arc<Quota>) -> Result<Self> {
        Quota::charge(&quota.inodes, &quota.max_inodes)?;
        Ok(Self(quota.clone()))
    }
}

impl Drop for InodeCharge {
    fn drop(&mut self) {
        self.0.inodes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The file system as a whole.
struct TmpSuper {
    quota: Arc<Quota>,
    /// What mount(2) was told of the root directory.
    root: RootOptions,
}

/// Mode and owner of the root directory.
#[derive(Clone, Copy)]
struct RootOptions {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// The mode of a root directory that nothing was said of.
const ROOT_MODE: u32 = 0o1777;

/// Pages and inodes that a file system may have unless something else is said.
fn default_limit() -> u64 {
    mm::total_pages() as u64 / 2
}

/// Options of a mount.
#[derive(Default)]
struct Options {
    pages: Option<u64>,
    inodes: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

fn number(text: &[u8], radix: u32) -> Result<u64> {
    let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    u64::from_str_radix(text, radix).map_err(|_| Errno::EINVAL)
}

/// A size: a number with `k`, `m`, `g` or, of all memory, `%` behind it.
fn size(text: &[u8]) -> Result<u64> {
    let (digits, scale) = match text.split_last().ok_or(Errno::EINVAL)? {
        (b'k' | b'K', digits) => (digits, 1 << 10),
        (b'm' | b'M', digits) => (digits, 1 << 20),
        (b'g' | b'G', digits) => (digits, 1 << 30),
        (b'%', digits) => {
            let all = mm::total_pages() as u64 * PAGE_SIZE as u64;
            return number(digits, 10)?.checked_mul(all).map(|n| n / 100).ok_or(Errno::EINVAL);
        }
        _ => (text, 1),
    };
    number(digits, 10)?.checked_mul(scale).ok_or(Errno::EINVAL)
}

impl Options {
    fn parse(request: &MountRequest<'_>) -> Result<Self> {
        let mut options = Self::default();
        for (name, value) in request.options() {
            match name {
                b"size" => options.pages = Some(size(value)?.div_ceil(PAGE_SIZE as u64)),
                b"nr_blocks" => options.pages = Some(size(value)?),
                b"nr_inodes" => options.inodes = Some(size(value)?),
                b"mode" => options.mode = Some(number(value, 8)? as u32 & 0o7777),
                b"uid" => {
                    let ids = request.cred.user_ns.uids();
                    let uid = number(value, 10)? as u32;
                    options.uid = Some(ids.to_kernel(uid).ok_or(Errno::EINVAL)?);
                }
                b"gid" => {
                    let ids = request.cred.user_ns.gids();
                    let gid = number(value, 10)? as u32;
                    options.gid = Some(ids.to_kernel(gid).ok_or(Errno::EINVAL)?);
                }
                b"huge" | b"mpol" | b"inode32" | b"inode64" | b"noswap" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(options)
    }
}

impl SuperOps for TmpSuper {
    fn statfs(&self, _sb: &SuperBlock) -> Result<StatFs> {
        let quota = &self.quota;
        let used = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let blocks = used(&quota.max_pages);
        let free = blocks.saturating_sub(used(&quota.pages));
        let files = used(&quota.max_inodes);
        Ok(StatFs {
            bsize: PAGE_SIZE as u64,
            blocks,
            bfree: free,
            bavail: free,
            files,
            ffree: files.saturating_sub(used(&quota.inodes)),
        })
    }

    fn show_options(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        // What is as it would be anyway is not shown; nor that the kernel's own have no limits.
        let is_special = |limit: &u64| *limit != 0 && *limit != default_limit();
        let pages = self.quota.max_pages.load(Ordering::Relaxed);
        if is_special(&pages) {
            write!(out, ",size={}k", pages << (PAGE_SHIFT - 10))?;
        }
        let inodes = self.quota.max_inodes.load(Ordering::Relaxed);
        if is_special(&inodes) {
            write!(out, ",nr_inodes={inodes}")?;
        }
        let RootOptions { mode, uid, gid } = self.root;
        if mode != ROOT_MODE {
            write!(out, ",mode={mode:03o}")?;
        }
        if uid != 0 {
            write!(out, ",uid={uid}")?;
        }
        if gid != 0 {
            write!(out, ",gid={gid}")?;
        }
        out.write_str(",inode64")
    }

    fn remount(&self, _sb: &SuperBlock, data: &[u8]) -> Result<()> {
        let cred = Cred::root();
        let request =
            MountRequest { source: b"", data, flags: Default::default(), cred: &cred, shows: None };
        let options = Options::parse(&request)?;
        for (new, used, max) in [
            (options.pages, &self.quota.pages, &self.quota.max_pages),
            (options.inodes, &self.quota.inodes, &self.quota.max_inodes),
        ] {
            let Some(new) = new else { continue };
            if new != 0 && new < used.load(Ordering::Relaxed) {
                return Err(Errno::EINVAL);
            }
            max.store(new, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The type `tmpfs`, also under the name of what is mounted first, `rootfs`.
pub struct Tmpfs {
    name: &'static str,
}

/// What mount(2) calls `tmpfs`.
pub static TMPFS: Tmpfs = Tmpfs { name: "tmpfs" };
/// An old name for the same, which some scripts use.
pub static RAMFS: Tmpfs = Tmpfs { name: "ramfs" };

impl FileSystem for Tmpfs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn allows_user_ns(&self) -> bool {
        true
    }

    fn knows(&self, request: &MountRequest<'_>) -> bool {
        Options::parse(request).is_ok()
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Ref<Dentry>> {
        let options = Options::parse(request)?;
        let quota = Quota::unlimited();
        let limit = |given: Option<u64>| given.unwrap_or_else(default_limit);
        quota.max_pages.store(limit(options.pages), Ordering::Relaxed);
        quota.max_inodes.store(limit(options.inodes), Ordering::Relaxed);
        let root = RootOptions {
            mode: options.mode.unwrap_or(ROOT_MODE),
            uid: options.uid.unwrap_or(request.cred.fsuid),
            gid: options.gid.unwrap_or(request.cred.fsgid),
        };
        new_root(request.cred.user_ns.clone(), self.name, root, quota)
    }
}

/// A file system without limits, and its root: for the kernel's own.
pub fn new_unlimited(fs_type: &'static str, mode: u32) -> Result<Ref<Dentry>> {
    let root = RootOptions { mode, uid: 0, gid: 0 };
    new_root(init_user_ns().clone(), fs_type, root, Quota::unlimited())
}

/// Limits a file system that is in use already to what it holds and `pages` more.
pub fn limit_growth(sb: &SuperBlock, pages: u64) {
    if let Some(tmp) = sb.ops_as::<TmpSuper>() {
        let quota = &tmp.quota;
        quota.max_pages.store(quota.pages.load(Ordering::Relaxed) + pages, Ordering::Relaxed);
    }
}

fn new_root(
    user_ns: Ref<UserNs>,
    fs_type: &'static str,
    root: RootOptions,
    quota: Quota,
) -> Result<Ref<Dentry>> {
    let quota = mm::try_arc(quota)?;
    let sb = SuperBlock::new_in(user_ns, fs_type, MAGIC, mm::try_box(TmpSuper { quota, root })?)?;
    let RootOptions { mode, uid, gid } = root;
    let new = NewNode { mode: uapi::S_IFDIR | mode, uid, gid, kind: NodeKind::Plain };
    Dentry::new_root(new_inode(&sb, &new)?)
}

/// Makes an inode of a tmpfs.
fn new_inode(sb: &Ref<SuperBlock>, new: &NewNode<'_>) -> Result<Ref<Inode>> {
    let quota = &sb.ops_as::<TmpSuper>().ok_or(Errno::EINVAL)?.quota;
    let charge = InodeCharge::new(quota)?;
    let mut rdev = Dev::default();
    let mut size = 0;
    let ops: Box<dyn InodeOps> = match new.kind {
        NodeKind::Symlink(text) => {
            size = text.len() as u64;
            mm::try_box(TmpLink { text: mm::try_arc_slice(text)?, _charge: charge })?
        }
        NodeKind::Device(dev) => {
            rdev = dev;
            mm::try_box(TmpSpecial { _charge: charge })?
        }
        NodeKind::Plain => match new.mode & uapi::S_IFMT {
            uapi::S_IFREG => mm::try_box(TmpFile::new(charge))?,
            uapi::S_IFDIR => mm::try_box(TmpDir::new(charge))?,
            _ => mm::try_box(TmpSpecial { _charge: charge })?,
        },
    };
    let inode = Inode::with_rdev(sb, sb.new_ino(), new.mode, rdev, ops)?;
    inode.set_owner(new.uid, new.gid);
    inode.set_size(size);
    if inode.is_dir() {
        inode.set_nlink(2);
    }
    Ok(inode)
}

/// A symbolic link.
struct TmpLink {
    text: Arc<[u8]>,
    _charge: InodeCharge,
}

impl InodeOps for TmpLink {
    fn readlink(&self, _inode: &Ref<Inode>, _cred: &Cred) -> Result<Arc<[u8]>> {
        Ok(self.text.clone())
    }

    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Err(Errno::ELOOP)
    }
}

/// A device, FIFO or socket: only a name for something that is elsewhere.
struct TmpSpecial {
    _charge: InodeCharge,
}

impl InodeOps for TmpSpecial {
    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Err(Errno::ENXIO)
    }
}

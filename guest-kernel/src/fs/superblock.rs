//! [`SuperBlock`]: one file system, mounted at any number of places; [`FileSystem`]: a type of file
//! system, found by the name that mount(2) gives.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::chrdev::Dev;
use super::mount::MountFlags;
use super::mountlist::MountList;
use super::notify::Watched;
use super::{Dentry, Mount, Mutex};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::user::init_user_ns;
use crate::ns::{Cred, Namespace, UserNs};
use crate::sync::{SpinLock, SpinLockGuard};

/// What statfs(2) tells of a file system; lengths in blocks.
#[derive(Clone, Copy, Default, Debug)]
#[allow(missing_docs, reason = "the names are statfs(2)'s")]
pub struct StatFs {
    pub bsize: u64,
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
}

/// What a file system does as a whole.
pub trait SuperOps: Any + Send + Sync {
    /// Sizes and free space.
    fn statfs(&self, _sb: &SuperBlock) -> Result<StatFs> {
        Ok(StatFs { bsize: 4096, ..StatFs::default() })
    }

    /// Writes options for /proc/mounts, each with a comma before it.
    fn show_options(&self, _out: &mut dyn fmt::Write) -> fmt::Result {
        Ok(())
    }

    /// True if the device nodes in it are made by the kernel alone, so that they may be opened though a
    /// user namespace owns the file system.
    fn makes_its_devices(&self) -> bool {
        false
    }

    /// Writes, for /proc/PID/mountinfo, what part of it a mount with this root shows, if that is not the
    /// path from the file system's own root.
    fn show_root(&self, _root: &super::Inode, _out: &mut dyn fmt::Write) -> Option<fmt::Result> {
        None
    }

    /// Takes new options (`MS_REMOUNT`).
    fn remount(&self, _sb: &SuperBlock, _data: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Options of nothing: for file systems without any.
pub struct PlainSuper;

impl SuperOps for PlainSuper {}

/// One file system.
#[repr(C)]
pub struct SuperBlock {
    /// Device number of its files (`st_dev`).
    pub dev: Dev,
    /// Name of its type.
    pub fs_type: &'static str,
    /// Magic number of statfs(2).
    pub magic: u64,
    /// Length of the longest file in bytes.
    pub max_bytes: u64,
    /// The user namespace of who mounted it: set-id bits and devices count where that is trusted.
    pub user_ns: Ref<UserNs>,
    /// Nobody may write, through whichever mount.
    read_only: AtomicBool,
    /// Held while files begin to be open for writing, and while it or a mount of it becomes read-only.
    writing: SpinLock<()>,
    /// Cross-directory renames go one at a time, so that the tree's shape stays put meanwhile.
    pub(super) rename_lock: Mutex<()>,
    next_ino: AtomicU64,
    pub(super) mounts: MountList,
    /// Inodes that have lost their last name and are still in use.
    pub(super) removed: AtomicUsize,
    /// What of it is watched (inotify(7)).
    pub watched: Watched,
    /// The file system's own part.
    pub ops: Box<dyn SuperOps>,
}

/// Minor numbers of file systems without a device.
static NEXT_ANON_DEV: AtomicU32 = AtomicU32::new(1);

impl SuperBlock {
    /// A file system of this type with an anonymous device number.
    /// It belongs to the machine.
    pub fn new(fs_type: &'static str, magic: u64, ops: Box<dyn SuperOps>) -> Result<Ref<Self>> {
        Self::new_in(init_user_ns().clone(), fs_type, magic, ops)
    }

    /// [`new`](Self::new), but it belongs to `user_ns`.
    pub fn new_in(
        user_ns: Ref<UserNs>,
        fs_type: &'static str,
        magic: u64,
        ops: Box<dyn SuperOps>,
    ) -> Result<Ref<Self>> {
        Ref::try_new(Self {
            user_ns,
            dev: Dev::new(0, NEXT_ANON_DEV.fetch_add(1, Ordering::Relaxed)),
            fs_type,
            magic,
            max_bytes: i64::MAX as u64,
            read_only: AtomicBool::new(false),
            writing: SpinLock::new(()),
            rename_lock: Mutex::new(()),
            next_ino: AtomicU64::new(1),
            mounts: MountList::default(),
            removed: AtomicUsize::new(0),
            watched: Watched::default(),
            ops,
        })
    }

    /// A fresh inode number.
    pub fn new_ino(&self) -> u64 {
        self.next_ino.fetch_add(1, Ordering::Relaxed)
    }

    /// The root of its tree, while it is mounted anywhere.
    pub fn root(&self) -> Option<Ref<Dentry>> {
        let mut found = None;
        self.mounts.any(|mount| {
            found = Some(mount.root.clone());
            true
        });
        // A mount may show a part of it.
        let mut at = found?;
        while let Some(parent) = at.parent() {
            at = parent;
        }
        Some(at)
    }

    /// True if nobody may write.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// Forbids or allows writing.
    pub fn set_read_only(&self, on: bool) {
        self.read_only.store(on, Ordering::Relaxed);
    }

    /// Nobody begins to write while this lives.
    pub(super) fn hold_writers(&self) -> SpinLockGuard<'_, ()> {
        self.writing.lock()
    }

    /// Forbids writing; `EBUSY` while files are open for writing through any mount, or the end of what was
    /// removed is yet to be written (`sb_prepare_remount_readonly`).
    pub(super) fn make_read_only(&self) -> Result<()> {
        let _held = self.hold_writers();
        if self.removed.load(Ordering::Relaxed) > 0 || self.mounts.any(Mount::has_writers) {
            return Err(Errno::EBUSY);
        }
        self.set_read_only(true);
        Ok(())
    }

    /// Takes new options, and whether nobody may write (`MS_REMOUNT`). `EBUSY` as in
    /// [`make_read_only`](Self::make_read_only).
    pub(super) fn reconfigure(&self, options: &[u8], read_only: bool) -> Result<()> {
        let ends_writing = read_only && !self.is_read_only();
        if ends_writing {
            self.make_read_only()?;
        }
        self.ops.remount(self, options).inspect_err(|_| {
            if ends_writing {
                self.set_read_only(false);
            }
        })?;
        self.set_read_only(read_only);
        Ok(())
    }

    /// The file system's own part as a `T`.
    pub fn ops_as<T: SuperOps>(&self) -> Option<&T> {
        (&*self.ops as &dyn Any).downcast_ref()
    }
}

/// What mount(2) asks of a file system type.
#[derive(Clone, Copy)]
pub struct MountRequest<'a> {
    /// The source's name; shown in /proc/mounts.
    pub source: &'a [u8],
    /// Options, comma separated, as text.
    pub data: &'a [u8],
    /// Flags of the mount.
    pub flags: MountFlags,
    /// Who asks.
    pub cred: &'a Cred,
    /// The namespace that it is to show; see [`FileSystem::shows`].
    pub shows: Option<&'a Namespace>,
}

impl<'a> MountRequest<'a> {
    /// Over which user namespace a mounter needs CAP_SYS_ADMIN, and to which the new one belongs.
    pub fn owner(&self) -> &'a Ref<UserNs> {
        self.shows.map_or(&self.cred.user_ns, |ns| ns.common().user_ns())
    }

    /// The options as (name, value) pairs; a value is empty if there is none.
    pub fn options(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.data.split(|&b| b == b',').filter(|o| !o.is_empty()).map(|o| {
            match o.iter().position(|&b| b == b'=') {
                Some(at) => (&o[..at], &o[at + 1..]),
                None => (o, &o[o.len()..]),
            }
        })
    }
}

/// A type of file system.
pub trait FileSystem: Send + Sync {
    /// Its name: `tmpfs`.
    fn name(&self) -> &'static str;

    /// True if it needs a block device: /proc/filesystems then has no `nodev`.
    fn needs_device(&self) -> bool {
        false
    }

    /// True if it can be mounted in a user namespace (`FS_USERNS_MOUNT`).
    fn allows_user_ns(&self) -> bool {
        false
    }

    /// Of a type that shows a namespace: the caller's, which a new one will show. fsopen(2) asks, and what is
    /// made afterwards shows it, whoever makes it.
    fn shows(&self) -> Option<Namespace> {
        None
    }

    /// True if it shows the machine itself: a user namespace may mount it only where it is seen whole
    /// already.
    fn shows_the_machine(&self) -> bool {
        false
    }

    /// True if it would take the options of the request, as far as can be said before it is mounted.
    fn knows(&self, _request: &MountRequest<'_>) -> bool {
        true
    }

    /// Makes a file system, or finds the one there is, and returns its root.
    fn mount(&self, request: &MountRequest<'_>) -> Result<Ref<Dentry>>;
}

static FILE_SYSTEMS: SpinLock<Vec<&'static dyn FileSystem>> = SpinLock::new(Vec::new());

/// Makes a type known to mount(2); called at boot.
pub fn register_filesystem(fs: &'static dyn FileSystem) {
    FILE_SYSTEMS.lock().push(fs);
}

/// The type of that name; `ENODEV` if there is none (mount(2)).
pub fn find_filesystem(name: &[u8]) -> Result<&'static dyn FileSystem> {
    let known = FILE_SYSTEMS.lock();
    known.iter().find(|fs| fs.name().as_bytes() == name).copied().ok_or(Errno::ENODEV)
}

/// Calls `show` with every type, for /proc/filesystems.
pub fn for_each_filesystem(mut show: impl FnMut(&'static dyn FileSystem)) {
    let mut i = 0;
    loop {
        let Some(fs) = FILE_SYSTEMS.lock().get(i).copied() else { return };
        show(fs);
        i += 1;
    }
}

//! /dev: a tmpfs that shows a node for every registered device (devtmpfs), and the memory
//! devices (mem(4), null(4), random(4)).

mod kmsg;
pub mod mem;

use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::Cred;
use crate::sync::Mutex;
use crate::uapi;

use super::block::disk_at;
use super::chrdev::chrdev_at;
use super::superblock::{FileSystem, MountRequest};
use super::{Caller, Dentry, FsStruct, Mount, Path, tmpfs, verbs};

/// The type `devtmpfs`: however often it is mounted, there is one.
pub struct DevTmpfs;

/// See [`DevTmpfs`].
pub static DEVTMPFS: DevTmpfs = DevTmpfs;

/// The kernel's own mount of it, and how many registered devices have a node.
struct Tree {
    fs: Ref<FsStruct>,
    characters: usize,
    disks: usize,
}

/// See [`Tree`].
static TREE: Mutex<Option<Tree>> = Mutex::new(None);

/// Registers the memory devices.
pub fn init() {
    mem::register();
    kmsg::register();
}

impl FileSystem for DevTmpfs {
    fn name(&self) -> &'static str {
        "devtmpfs"
    }

    fn mount(&self, _request: &MountRequest<'_>) -> Result<Ref<Dentry>> {
        let mut tree = TREE.lock();
        if tree.is_none() {
            *tree = Some(Tree { fs: new_tree()?, characters: 0, disks: 0 });
        }
        let Some(Tree { fs, characters, disks }) = &mut *tree else { return Err(Errno::ENOMEM) };
        let cred = Cred::root();
        let caller = Caller { fs, cred: &cred };
        let make =
            |name: &str, mode, dev| match verbs::mknod(caller, None, name.as_bytes(), mode, dev) {
                Ok(_) | Err(Errno::EEXIST) => Ok(()),
                Err(error) => Err(error),
            };
        while let Some(entry) = chrdev_at(*characters) {
            *characters += 1;
            if !entry.name.is_empty() {
                make(entry.name, uapi::S_IFCHR | entry.mode, entry.dev)?;
            }
        }
        while let Some(disk) = disk_at(*disks) {
            *disks += 1;
            make(disk.name(), uapi::S_IFBLK | 0o600, disk.dev)?;
        }
        Ok(fs.root().dentry)
    }
}

/// The tree without its devices.
fn new_tree() -> Result<Ref<FsStruct>> {
    let root = tmpfs::new_unlimited("devtmpfs", 0o755)?;
    let mnt = Mount::new(root.clone(), b"devtmpfs", Default::default())?;
    let fs = FsStruct::new(Path { mnt, dentry: root }, 0)?;
    let cred = Cred::root();
    let caller = Caller { fs: &fs, cred: &cred };
    for folder in [&b"pts"[..], b"shm"] {
        verbs::mkdir(caller, None, folder, 0o755)?;
    }
    let links: [(&[u8], &[u8]); 4] = [
        (b"/proc/self/fd", b"fd"),
        (b"/proc/self/fd/0", b"stdin"),
        (b"/proc/self/fd/1", b"stdout"),
        (b"/proc/self/fd/2", b"stderr"),
    ];
    for (target, name) in links {
        verbs::symlink(caller, target, None, name)?;
    }
    Ok(fs)
}

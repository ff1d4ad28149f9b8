//! Bringing the file systems up: the root, what the initramfs holds, the usual mounts.

use alloc::vec::Vec;

use super::file::{DirSink, OpenFlags};
use super::mntns::init_mnt_ns;
use super::namei::LookupFlags;
use super::superblock::{MountRequest, register_filesystem};
use super::{
    Caller, Dev, FsStruct, Mount, MountFlags, Path, anon, dentry, dev, initramfs, namei, open,
    tmpfs, verbs,
};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::Cred;
use crate::{kwarn, mm, uapi};

/// Makes the root file system, fills it from `initrd` and returns its root. Boot order calls it once,
/// when memory and the namespaces are there and the drivers have registered their devices.
pub fn init(initrd: &[u8]) -> Result<Path> {
    // A name takes some 200 bytes: a few per cent of memory at most.
    dentry::set_cache_limit(mm::total_pages() / 2);
    anon::init()?;
    tmpfs::memfd::init()?;
    dev::init();
    register_filesystem(&tmpfs::TMPFS);
    register_filesystem(&tmpfs::RAMFS);
    register_filesystem(&dev::DEVTMPFS);

    // The bottom can never be moved (pivot_root(2)): what programs see as the root lies on it, so that
    // they can change their root like on a machine that has a disk.
    let dentry = tmpfs::new_unlimited("rootfs", 0o755)?;
    let mnt = Mount::new(dentry.clone(), b"none", MountFlags::RDONLY)?;
    init_mnt_ns().set_bottom(mnt.clone())?;
    let bottom = Path { mnt, dentry };

    let dentry = tmpfs::new_unlimited("rootfs", 0o755)?;
    let mnt = Mount::new(dentry.clone(), b"rootfs", MountFlags::RELATIME)?;
    init_mnt_ns().attach(&mnt, &bottom)?;
    let root = Path { mnt, dentry };
    let fs = FsStruct::new(root.clone(), 0)?;
    let caller = Caller { fs: &fs, cred: &Cred::root() };
    make_first_entries(caller)?;
    if !initrd.is_empty() {
        initramfs::unpack(caller, initrd);
    }
    // Whatever size the image has, files may take half of what it left: the rest is for programs.
    tmpfs::limit_growth(&root.mnt.sb, mm::frame::available_frames() as u64 / 2);
    Ok(root)
}

/// What is there before any archive, as in Linux: init needs a console before it mounts anything.
fn make_first_entries(caller: Caller<'_>) -> Result<()> {
    verbs::mkdir(caller, None, b"/dev", 0o755)?;
    verbs::mknod(caller, None, b"/dev/console", uapi::S_IFCHR | 0o600, Dev::new(5, 1))?;
    verbs::mkdir(caller, None, b"/root", 0o700)?;
    Ok(())
}

/// The usual mounts: type, place, options, flags. A type that is not registered is left out.
const DEFAULTS: [(&str, &[u8], &[u8], MountFlags); 6] = {
    const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
    const QUIET: MountFlags = SAFE.union(MountFlags::NOEXEC);
    [
        ("devtmpfs", b"/dev", b"", MountFlags::NOSUID),
        ("proc", b"/proc", b"", QUIET),
        ("sysfs", b"/sys", b"", QUIET),
        ("devpts", b"/dev/pts", b"", MountFlags::NOSUID.union(MountFlags::NOEXEC)),
        ("tmpfs", b"/dev/shm", b"mode=1777", SAFE),
        ("tmpfs", b"/tmp", b"mode=1777", SAFE),
    ]
};

/// Mounts the usual file systems where a folder is there or can be made.
pub fn mount_defaults() {
    for (fs_type, place, data, flags) in DEFAULTS {
        match mount_default(fs_type, place, data, flags) {
            Ok(()) | Err(Errno::ENODEV) => {}
            Err(error) => kwarn!("{fs_type} on {}: {error}", place.escape_ascii()),
        }
    }
}

fn mount_default(fs_type: &str, place: &[u8], data: &[u8], flags: MountFlags) -> Result<()> {
    super::superblock::find_filesystem(fs_type.as_bytes())?;
    let ns = init_mnt_ns();
    let fs = FsStruct::new(ns.root().ok_or(Errno::ENOENT)?, 0)?;
    let caller = Caller { fs: &fs, cred: &Cred::root() };
    match verbs::mkdir(caller, None, place, 0o755) {
        Ok(_) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error),
    }
    let at = namei::lookup(caller, None, place, LookupFlags::FOLLOW | LookupFlags::DIRECTORY)?;
    let flags = flags | MountFlags::RELATIME;
    let request =
        MountRequest { source: fs_type.as_bytes(), data, flags, cred: caller.cred, shows: None };
    ns.mount(fs_type.as_bytes(), &request, &at)
}

/// Collects names and types of a directory.
struct Names(Vec<(Vec<u8>, u32)>);

impl DirSink for Names {
    fn emit(&mut self, name: &[u8], _ino: u64, mode: u32, _next: u64) -> bool {
        if name != b"." && name != b".." {
            self.0.push((name.to_vec(), mode));
        }
        true
    }
}

/// The names in a folder of what the image brought for the kernel, in order; none if there is no such folder.
pub fn names_in(fs: &Ref<FsStruct>, path: &[u8]) -> Vec<Vec<u8>> {
    let caller = Caller { fs, cred: &Cred::root() };
    let mut names = Names(Vec::new());
    if let Ok(place) = namei::lookup(caller, None, path, LookupFlags::empty())
        && let Ok(dir) = open::open_kernel(place, OpenFlags::DIRECTORY)
    {
        let _ = dir.readdir(&mut names);
    }
    let mut names: Vec<Vec<u8>> = names.0.into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names
}

/// Removes a file or a folder with all that is in it, as far as possible: what the image brought for
/// the kernel alone.
pub fn remove_tree(fs: &Ref<FsStruct>, path: &[u8]) {
    let caller = Caller { fs, cred: &Cred::root() };
    // Deepest last; then removed from the end.
    let mut pending = alloc::vec![path.to_vec()];
    let mut at = 0;
    while let Some(dir) = pending.get(at).cloned() {
        at += 1;
        let Ok(place) = namei::lookup(caller, None, &dir, LookupFlags::empty()) else { continue };
        let Ok(file) = open::open_kernel(place, OpenFlags::DIRECTORY) else { continue };
        let mut names = Names(Vec::new());
        let _ = file.readdir(&mut names);
        for (name, mode) in names.0 {
            let inner = [&dir, &b"/"[..], &name].concat();
            if mode & uapi::S_IFMT == uapi::S_IFDIR {
                pending.push(inner);
            } else {
                let _ = verbs::unlink(caller, None, &inner);
            }
        }
    }
    for dir in pending.iter().rev() {
        let _ = verbs::rmdir(caller, None, dir);
    }
}

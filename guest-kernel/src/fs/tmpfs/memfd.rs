//! memfds (memfd_create(2)): files in memory that never had a name, and seals (fcntl(2), "File
//! Sealing").

use super::file::TmpFile;
use super::{new_inode, new_unlimited};
use crate::errno::{Errno, Result};
use crate::fs::anon;
use crate::fs::file::{FMode, File, OpenFlags};
use crate::fs::inode::{NewNode, NodeKind};
use crate::fs::pagecache::PagedFile;
use crate::fs::{Dentry, Mount, Path};
use crate::kref::Ref;
use crate::mm::try_box;
use crate::ns::Cred;
use crate::sync::Once;
use crate::uapi;

/// The kernel's own tmpfs for memfds and shared anonymous memory.
static MOUNT: Once<Ref<Mount>> = Once::new();

/// All that there are.
pub const ALL_SEALS: u32 = uapi::F_SEAL_SEAL
    | uapi::F_SEAL_SHRINK
    | uapi::F_SEAL_GROW
    | uapi::F_SEAL_WRITE
    | uapi::F_SEAL_FUTURE_WRITE;

/// Makes the mount; boot order calls it once.
pub fn init() -> Result<()> {
    MOUNT.set(Mount::new(new_unlimited("tmpfs", 0o700)?, b"none", Default::default())?);
    Ok(())
}

/// A file that shows as `/memfd:NAME (deleted)`. Without `sealable` it takes no seals.
pub fn create(name: &[u8], sealable: bool, cred: &Cred) -> Result<Ref<File>> {
    let file = unnamed(&anon::prefixed(b"memfd:", name)?, 0o777, cred.fsuid, cred.fsgid)?;
    if sealable {
        tmp_file(&file)?.mapping().set_seals(0);
    }
    Ok(file)
}

/// An empty file without a name, which shows as `/SHOWN (deleted)`, open for reading and writing; it takes no
/// seals.
pub fn unnamed(shown: &[u8], mode: u32, uid: u32, gid: u32) -> Result<Ref<File>> {
    let mnt = MOUNT.try_get().ok_or(Errno::ENOSYS)?.clone();
    let new = NewNode { mode: uapi::S_IFREG | mode, uid, gid, kind: NodeKind::Plain };
    let inode = new_inode(&mnt.sb, &new)?;
    inode.set_nlink(0);
    let dentry = Dentry::new_unnamed(&mnt.root.clone(), shown, inode)?;
    open(Path { mnt, dentry }, OpenFlags::RDWR)
}

/// Opens such a file once more, at the place of an open one.
pub fn open(place: Path, flags: OpenFlags) -> Result<Ref<File>> {
    let mut fmode = FMode::empty();
    fmode.set(FMode::READ, flags.reads());
    fmode.set(FMode::WRITE, flags.writes());
    File::new(place, flags, fmode, try_box(PagedFile)?)
}

/// Seals a file as it was sealed in another machine, whatever seals it has; `EBUSY` if it is mapped for writing and
/// may not be.
pub fn seal_again(file: &File, seals: u32) -> Result<()> {
    let mapping = tmp_file(file)?.mapping();
    if seals & uapi::F_SEAL_WRITE != 0 {
        mapping.deny_writers()?;
    }
    mapping.set_seals(seals & ALL_SEALS);
    Ok(())
}

fn tmp_file(file: &File) -> Result<&TmpFile> {
    file.inode.ops_as().ok_or(Errno::EINVAL)
}

/// `F_GET_SEALS`.
pub fn seals(file: &File) -> Result<u32> {
    Ok(tmp_file(file)?.mapping().seals())
}

/// `F_ADD_SEALS`.
pub fn add_seals(file: &File, seals: u32) -> Result<()> {
    let tmp = tmp_file(file)?;
    if !file.fmode().contains(FMode::WRITE) {
        return Err(Errno::EPERM);
    }
    if seals & !ALL_SEALS != 0 {
        return Err(Errno::EINVAL);
    }
    let _guard = file.inode.lock.lock();
    let old = tmp.mapping().seals();
    if old & uapi::F_SEAL_SEAL != 0 {
        return Err(Errno::EPERM);
    }
    if seals & !old & uapi::F_SEAL_WRITE != 0 {
        tmp.mapping().deny_writers()?;
    }
    tmp.mapping().set_seals(old | seals);
    Ok(())
}

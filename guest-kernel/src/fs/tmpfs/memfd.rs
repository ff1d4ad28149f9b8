//! memfds (memfd_create(2)): files in memory that never had a name, and seals (fcntl(2), "File
//! Sealing").

use super::file::TmpFile;
use super::{new_inode, new_unlimited};
use crate::errno::{Errno, Result};
use crate::fs::anon;
use crate::fs::file::{FMode, File, OpenFlags};
use crate::fs::inode::InodeOps;
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

const ALL_SEALS: u32 = uapi::F_SEAL_SEAL
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
    let mnt = MOUNT.try_get().ok_or(Errno::ENOSYS)?.clone();
    let sb = &mnt.sb;
    let mode = uapi::S_IFREG | 0o777;
    let new = NewNode { mode, uid: cred.fsuid, gid: cred.fsgid, kind: NodeKind::Plain };
    let inode = new_inode(sb, &new)?;
    inode.set_nlink(0);
    if sealable && let Some(file) = inode.ops_as::<TmpFile>() {
        file.set_seals(0);
    }
    let text = anon::prefixed(b"memfd:", name)?;
    let dentry = Dentry::new_unnamed(&mnt.root.clone(), &text, inode)?;
    let fmode = FMode::READ | FMode::WRITE;
    File::new(Path { mnt, dentry }, OpenFlags::RDWR, fmode, try_box(PagedFile)?)
}

fn tmp_file(file: &File) -> Result<&TmpFile> {
    file.inode.ops_as().ok_or(Errno::EINVAL)
}

/// `F_GET_SEALS`.
pub fn seals(file: &File) -> Result<u32> {
    Ok(tmp_file(file)?.seals())
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
    let old = tmp.seals();
    if old & uapi::F_SEAL_SEAL != 0 {
        return Err(Errno::EPERM);
    }
    if seals & !old & uapi::F_SEAL_WRITE != 0 {
        tmp.mapping().deny_writers()?;
    }
    tmp.set_seals(old | seals);
    Ok(())
}

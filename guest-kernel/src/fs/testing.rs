//! A file system of its own for a test.

use super::open::{OpenHow, open};
use super::superblock::{FileSystem, MountRequest};
use super::verbs::{self, RenameFlags};
use super::{
    Caller, File, FsStruct, MntNs, Mount, MountFlags, OpenFlags, Path, UserBuf, namei, tmpfs,
};
use crate::errno::Result;
use crate::kref::Ref;
use crate::ns::{Cred, NsCommon, NsKind};

/// What a mount namespace of a test begins with.
pub fn common() -> NsCommon {
    NsCommon::initial(NsKind::Mnt, Some(Cred::root().user_ns))
}

/// A namespace with an empty tmpfs, and a caller in it.
pub struct World {
    pub ns: Ref<MntNs>,
    pub fs: Ref<FsStruct>,
    pub cred: Cred,
}

impl World {
    pub fn new() -> Self {
        Self::with_options(b"size=1m,nr_inodes=1000")
    }

    pub fn rename(&self, old: &str, new: &str, flags: RenameFlags) -> Result<()> {
        let old = namei::parent(self.caller(), None, old.as_bytes())?;
        let new = namei::parent(self.caller(), None, new.as_bytes())?;
        verbs::rename(self.caller(), &old, &new, flags)
    }

    pub fn with_options(data: &[u8]) -> Self {
        crate::mm::testing::setup();
        let cred = Cred::root();
        let request = MountRequest {
            source: b"none",
            data,
            flags: MountFlags::empty(),
            cred: &cred,
            shows: None,
        };
        let dentry = tmpfs::TMPFS.mount(&request).unwrap();
        let mnt = Mount::new(dentry.clone(), b"none", MountFlags::empty()).unwrap();
        let ns = MntNs::empty(common()).unwrap();
        ns.set_bottom(mnt.clone()).unwrap();
        let fs = FsStruct::new(Path { mnt, dentry }, 0o022).unwrap();
        Self { ns, fs, cred }
    }

    pub fn caller(&self) -> Caller<'_> {
        Caller { fs: &self.fs, cred: &self.cred }
    }

    pub fn open(&self, name: &str, flags: OpenFlags) -> Result<Ref<File>> {
        open(
            self.caller(),
            None,
            name.as_bytes(),
            OpenHow { flags, mode: 0o666, ..Default::default() },
        )
    }

    pub fn create(&self, name: &str, content: &str) -> Ref<File> {
        let file = self.open(name, OpenFlags::CREAT | OpenFlags::RDWR | OpenFlags::TRUNC).unwrap();
        assert_eq!(write(&file, content.as_bytes()), Ok(content.len()));
        file
    }

    pub fn read(&self, name: &str) -> Result<String> {
        let file = self.open(name, OpenFlags::empty())?;
        let mut buf = vec![0; file.inode.size() as usize];
        let n = file.read_kernel(&mut buf, 0)?;
        assert_eq!(n, buf.len());
        Ok(String::from_utf8(buf).unwrap())
    }

    /// A caller without privileges.
    pub fn user(uid: u32) -> Cred {
        let mut cred = Cred::root();
        cred.fsuid = uid;
        cred.fsgid = uid;
        cred.cap_effective = crate::ns::CapSet::EMPTY;
        cred
    }
}

pub fn write(file: &File, bytes: &[u8]) -> Result<usize> {
    file.write(&mut UserBuf::from_kernel(bytes))
}

pub fn read(file: &File, len: usize) -> Result<Vec<u8>> {
    let mut buf = vec![0; len];
    let n = file.read(&mut UserBuf::into_kernel(&mut buf))?;
    buf.truncate(n);
    Ok(buf)
}

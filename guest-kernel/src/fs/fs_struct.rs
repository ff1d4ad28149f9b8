//! [`FsStruct`]: where a task's names start (root, working directory) and its umask; [`Caller`]: who
//! asks the file system for something.

use core::sync::atomic::{AtomicU32, Ordering};

use belljar_abi::Described;

use super::Path;
use crate::errno::Result;
use crate::kref::Ref;
use crate::ns::Cred;
use crate::sync::SpinLock;

/// Root and working directory.
#[repr(C)]
#[derive(Clone, Described)]
pub struct FsPaths {
    #[described(as = "struct Path")]
    root: Path,
    #[described(as = "struct Path")]
    cwd: Path,
}

/// What `CLONE_FS` shares.
#[repr(C)]
#[derive(Described)]
pub struct FsStruct {
    paths: SpinLock<FsPaths>,
    umask: AtomicU32,
}

impl FsStruct {
    /// Starts at `root`.
    pub fn new(root: Path, umask: u32) -> Result<Ref<Self>> {
        let paths = FsPaths { cwd: root.clone(), root };
        Ref::try_new(Self { paths: SpinLock::new(paths), umask: AtomicU32::new(umask) })
    }

    /// A copy for a child.
    pub fn try_clone(&self) -> Result<Ref<Self>> {
        let paths = self.paths.lock().clone();
        Ref::try_new(Self { paths: SpinLock::new(paths), umask: AtomicU32::new(self.umask()) })
    }

    /// The root directory.
    pub fn root(&self) -> Path {
        self.paths.lock().root.clone()
    }

    /// The working directory.
    pub fn cwd(&self) -> Path {
        self.paths.lock().cwd.clone()
    }

    /// Sets the root directory (chroot(2)).
    pub fn set_root(&self, path: Path) {
        let old = core::mem::replace(&mut self.paths.lock().root, path);
        drop(old);
    }

    /// Sets the working directory (chdir(2)).
    pub fn set_cwd(&self, path: Path) {
        let old = core::mem::replace(&mut self.paths.lock().cwd, path);
        drop(old);
    }

    /// Replaces root and working directory where they are `from` (pivot_root(2)).
    pub fn replace(&self, from: &Path, to: &Path) {
        let mut old = (None, None);
        {
            let mut paths = self.paths.lock();
            if paths.root.same(from) {
                old.0 = Some(core::mem::replace(&mut paths.root, to.clone()));
            }
            if paths.cwd.same(from) {
                old.1 = Some(core::mem::replace(&mut paths.cwd, to.clone()));
            }
        }
        drop(old);
    }

    /// Bits that new files do not get.
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// Sets the umask and returns the old one (umask(2)).
    pub fn set_umask(&self, mask: u32) -> u32 {
        self.umask.swap(mask & 0o777, Ordering::Relaxed)
    }
}

/// Who asks, and where their names start.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// Root, working directory, umask.
    pub fs: &'a FsStruct,
    /// Whose permissions count.
    pub cred: &'a Cred,
}

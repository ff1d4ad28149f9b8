//! [`Path`]: a place in the tree (mount and dentry), and its text.

use belljar_abi::Described;

use super::dentry::{self, Dentry};
use super::mount::Mount;
use super::{Inode, PATH_MAX};
use crate::errno::{Errno, Result};
use crate::kref::Ref;

/// How the text of a removed name ends.
pub const DELETED: &[u8] = b" (deleted)";

/// A place: a dentry, and the mount through which it is seen.
#[repr(C)]
#[derive(Clone, Described)]
pub struct Path {
    /// The mount.
    pub mnt: Ref<Mount>,
    /// The name.
    pub dentry: Ref<Dentry>,
}

impl Path {
    /// True if both are the same place.
    pub fn same(&self, other: &Self) -> bool {
        Ref::ptr_eq(&self.mnt, &other.mnt) && Ref::ptr_eq(&self.dentry, &other.dentry)
    }

    /// What is there; `ENOENT` for an absent name.
    #[inline]
    pub fn inode(&self) -> Result<&Ref<Inode>> {
        self.dentry.require_inode()
    }

    /// The text of the path as seen from `root` (d_path of Linux). A removed name ends in
    /// ` (deleted)`. False in the second place if the place cannot be reached from `root`.
    ///
    /// The text is written backwards into `buf` and returned as its tail; `ENAMETOOLONG` if it does
    /// not fit.
    pub fn text_in<'b>(&self, root: &Path, buf: &'b mut [u8]) -> Result<(&'b [u8], bool)> {
        let mut out = Backwards { at: buf.len(), buf };
        if let Some(name) = PseudoName::of(self)? {
            out.prepend(name.as_bytes())?;
            return Ok((out.finish(), true));
        }
        if self.dentry.is_unlinked() {
            out.prepend(DELETED)?;
        }
        let full = out.at;
        let mut mnt = self.mnt.clone();
        let mut dentry = self.dentry.clone();
        let reachable = loop {
            let guard = dentry::hold_renames();
            // Up to the root of this mount, or to `root`.
            let mut at: &Ref<Dentry> = &dentry;
            let at_root = loop {
                if Ref::ptr_eq(&mnt, &root.mnt) && Ref::ptr_eq(at, &root.dentry) {
                    break true;
                }
                if Ref::ptr_eq(at, &mnt.root) {
                    break false;
                }
                let Some(parent) = at.parent_held(&guard) else { break false };
                out.prepend(at.name_held(&guard))?;
                out.prepend(b"/")?;
                at = parent;
            };
            drop(guard);
            if at_root {
                break true;
            }
            match mnt.place() {
                Some(place) => (mnt, dentry) = (place.mnt, place.dentry),
                None => break false,
            }
        };
        if out.at == full {
            out.prepend(b"/")?;
        }
        Ok((out.finish(), reachable))
    }

    /// The text of the path from the root of all mounts that lead to it, for callers that have no root
    /// of their own. `buf` is best [`PATH_MAX`] long.
    pub fn text<'b>(&self, buf: &'b mut [u8]) -> Result<&'b [u8]> {
        let mut mnt = self.mnt.clone();
        while let Some(place) = mnt.place() {
            mnt = place.mnt;
        }
        let root = Path { dentry: mnt.root.clone(), mnt };
        self.text_in(&root, buf).map(|(text, _)| text)
    }

    /// [`text_in`](Self::text_in) as a vector.
    pub fn to_vec_in(&self, root: &Path) -> Result<alloc::vec::Vec<u8>> {
        let mut buf = alloc::vec::Vec::new();
        buf.try_reserve_exact(PATH_MAX).map_err(|_| Errno::ENOMEM)?;
        buf.resize(PATH_MAX, 0);
        let len = self.text_in(root, &mut buf)?.0.len();
        buf.drain(..PATH_MAX - len);
        Ok(buf)
    }

    /// [`text`](Self::text) as a vector.
    pub fn to_vec(&self) -> Result<alloc::vec::Vec<u8>> {
        let mut buf = alloc::vec::Vec::new();
        buf.try_reserve_exact(PATH_MAX).map_err(|_| Errno::ENOMEM)?;
        buf.resize(PATH_MAX, 0);
        let len = self.text(&mut buf)?.len();
        buf.drain(..PATH_MAX - len);
        Ok(buf)
    }
}

/// The name of a file without a place in a tree.
struct PseudoName {
    bytes: [u8; 64],
    len: usize,
}

impl PseudoName {
    fn of(path: &Path) -> Result<Option<Self>> {
        if !path.mnt.is_pseudo() {
            return Ok(None);
        }
        let mut name = Self { bytes: [0; 64], len: 0 };
        let inode = path.inode()?;
        let _ = inode.ops().pseudo_name(inode, &mut name);
        Ok((name.len != 0).then_some(name))
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl core::fmt::Write for PseudoName {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let n = s.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

/// Text that grows at its front.
struct Backwards<'b> {
    buf: &'b mut [u8],
    at: usize,
}

impl<'b> Backwards<'b> {
    fn prepend(&mut self, bytes: &[u8]) -> Result<()> {
        let start = self.at.checked_sub(bytes.len()).ok_or(Errno::ENAMETOOLONG)?;
        self.buf[start..self.at].copy_from_slice(bytes);
        self.at = start;
        Ok(())
    }

    fn finish(self) -> &'b [u8] {
        &self.buf[self.at..]
    }
}

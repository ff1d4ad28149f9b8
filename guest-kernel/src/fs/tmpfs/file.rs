//! Regular files of tmpfs: pages, counted against the file system's quota, and seals.

use alloc::boxed::Box;

use super::InodeCharge;
use crate::errno::{Errno, Result};
use crate::fs::file::{FileOps, OpenFlags};
use crate::fs::inode::{Attr, InodeOps};
use crate::fs::pagecache::PagedFile;
use crate::fs::{Inode, Path};
use crate::kref::Ref;
use crate::mm::page::RESERVED;
use crate::mm::{AllocFlags, FrameRef, Mapping, PageKind, alloc_for_caller, try_box};
use crate::uapi;

/// A regular file.
pub(super) struct TmpFile {
    mapping: Mapping,
    charge: InodeCharge,
}

impl TmpFile {
    pub(super) fn new(charge: InodeCharge) -> Self {
        Self { mapping: Mapping::new(PageKind::Shmem), charge }
    }

    pub(super) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Puts a page of zeros at `index`, where none is; returns who is there, as another may be faster.
    fn make_page(&self, index: u64, flags: u16) -> Result<FrameRef> {
        let quota = &self.charge.0;
        quota.charge_page()?;
        let made = alloc_for_caller(PageKind::Shmem, AllocFlags::ZERO | AllocFlags::USER);
        let made = made.and_then(|page| {
            page.set_flags(flags);
            Ok((self.mapping.insert(index, page.clone())?, page))
        });
        match made {
            Ok((there, page)) => {
                if there.phys() != page.phys() {
                    // Somebody was faster.
                    quota.release_pages(1);
                }
                Ok(there)
            }
            Err(error) => {
                quota.release_pages(1);
                Err(error)
            }
        }
    }

    /// Runs a change that may drop pages, and gives their share of the quota back.
    fn releasing(&self, change: impl FnOnce(&Mapping)) {
        let before = self.mapping.resident_pages();
        change(&self.mapping);
        let after = self.mapping.resident_pages();
        self.charge.0.release_pages(before.saturating_sub(after));
    }
}

impl InodeOps for TmpFile {
    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Ok(try_box(PagedFile)?)
    }

    fn getattr(&self, _inode: &Inode, attr: &mut Attr) -> Result<()> {
        attr.blocks = self.mapping.resident_pages() * 8;
        Ok(())
    }

    fn truncate(&self, inode: &Inode, size: u64) -> Result<()> {
        let seals = self.mapping.seals();
        let old = inode.size();
        if (size < old && seals & uapi::F_SEAL_SHRINK != 0)
            || (size > old && seals & uapi::F_SEAL_GROW != 0)
        {
            return Err(Errno::EPERM);
        }
        // Readers go by the inode's size: it shrinks before pages go and grows after.
        if size < old {
            inode.set_size(size);
        }
        self.releasing(|m| m.truncate(size));
        inode.set_size(size);
        Ok(())
    }

    fn mapping(&self) -> Option<&Mapping> {
        Some(&self.mapping)
    }

    fn page(&self, _inode: &Inode, index: u64) -> Result<FrameRef> {
        let page = match self.mapping.get(index) {
            Some(page) => page,
            None => self.make_page(index, 0)?,
        };
        if page.is_reserved() {
            page.set_flags(0);
        }
        Ok(page)
    }

    fn reserve_page(&self, _inode: &Inode, index: u64) -> Result<()> {
        self.make_page(index, RESERVED).map(|_| ())
    }

    fn punch_hole(&self, _inode: &Inode, start: u64, end: u64) -> Result<()> {
        self.releasing(|m| m.punch_hole(start, end));
        Ok(())
    }

    fn seals(&self) -> u32 {
        self.mapping.seals()
    }
}

impl Drop for TmpFile {
    fn drop(&mut self) {
        self.charge.0.release_pages(self.mapping.resident_pages());
    }
}

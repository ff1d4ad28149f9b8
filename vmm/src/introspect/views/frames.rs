//! The frame table: how often a frame is held and what for.

use super::super::{Kernel, Result};

/// The records of all frames, with the offsets of the fields that views need looked up once.
pub struct Frames<'k> {
    kernel: &'k Kernel<'k>,
    table: u64,
    count: u64,
    base: u64,
    size: u64,
    refcount: u64,
    kind: Option<u64>,
}

/// What the record of a frame says.
pub struct Frame {
    /// How many hold it.
    pub refcount: u32,
    /// The name of its use, if the kernel tells.
    pub kind: Option<String>,
}

impl<'k> Frames<'k> {
    /// The table of that kernel.
    pub fn new(kernel: &'k Kernel<'k>) -> Result<Self> {
        let root = kernel.root();
        let page = kernel.note().get("Page")?;
        let offset = |name: &str| page.field(name).map(|f| f.offset);
        Ok(Self {
            kernel,
            table: root.frame_table(),
            count: root.frame_count(),
            base: root.frame_base_pfn(),
            size: page.size,
            refcount: offset("refcount").ok_or_else(|| super::super::Error::NoField {
                owner: "Page".into(),
                field: "refcount".into(),
            })?,
            kind: offset("kind"),
        })
    }

    /// The physical address of the frame whose record is at a kernel address; `None` if none is.
    pub fn phys_of(&self, record: u64) -> Option<u64> {
        let offset = record.wrapping_sub(self.table);
        let index =
            offset.checked_div(self.size).filter(|_| offset.is_multiple_of(self.size.max(1)))?;
        (index < self.count).then(|| self.base.wrapping_add(index) << 12)
    }

    /// The record of the frame at a physical address; `None` for what has no record.
    pub fn get(&self, phys: u64) -> Option<Frame> {
        let index = (phys >> 12).checked_sub(self.base).filter(|i| *i < self.count)?;
        let record = self.table.wrapping_add(index.wrapping_mul(self.size));
        let mut refcount = [0; 4];
        self.kernel.space().read(record.wrapping_add(self.refcount), &mut refcount).ok()?;
        let kind = self.kind.and_then(|offset| {
            let mut kind = [0];
            self.kernel.space().read(record.wrapping_add(offset), &mut kind).ok()?;
            let kinds = self.kernel.note().get("PageKind").ok()?;
            Some(kinds.value_name(kind[0].into())?.to_owned())
        });
        Some(Frame { refcount: u32::from_le_bytes(refcount), kind })
    }
}

//! A virtual address space of the guest, read through its page tables.

use std::cell::RefCell;
use std::collections::HashMap;

use super::walk::walk;
use super::{Error, PAGE_SIZE, Ram};

/// Virtual memory behind one set of stage-1 tables. Translations are remembered: a space is used
/// while the guest stands still, for one answer.
pub struct Space<'r> {
    ram: &'r dyn Ram,
    pgd: u64,
    /// Virtual minus physical of the part that is mapped linearly, with the RAM it may reach.
    linear: Option<(u64, Vec<std::ops::Range<u64>>)>,
    pages: RefCell<HashMap<u64, u64>>,
}

impl<'r> Space<'r> {
    /// The space of the tables at physical address `pgd`.
    pub fn new(ram: &'r dyn Ram, pgd: u64) -> Self {
        Self { ram, pgd, linear: None, pages: RefCell::default() }
    }

    /// The kernel's space: addresses of the linear map need no walk.
    pub fn with_linear_map(ram: &'r dyn Ram, pgd: u64, offset: u64) -> Self {
        Self { linear: Some((offset, ram.ranges())), ..Self::new(ram, pgd) }
    }

    /// The physical memory behind it.
    pub fn ram(&self) -> &'r dyn Ram {
        self.ram
    }

    /// The physical address of `virt`.
    pub fn translate(&self, virt: u64) -> Result<u64, Error> {
        if let Some((offset, ranges)) = &self.linear {
            let phys = virt.wrapping_sub(*offset);
            if ranges.iter().any(|r| r.contains(&phys)) {
                return Ok(phys);
            }
        }
        let page = virt & !(PAGE_SIZE - 1);
        if let Some(phys) = self.pages.borrow().get(&page) {
            return Ok(phys | (virt & (PAGE_SIZE - 1)));
        }
        let phys = walk(self.ram, self.pgd, virt)?.phys.ok_or(Error::Unmapped { virt })?;
        self.pages.borrow_mut().insert(page, phys & !(PAGE_SIZE - 1));
        Ok(phys)
    }

    /// Fills `buf` from `virt` on, page by page.
    pub fn read(&self, virt: u64, buf: &mut [u8]) -> Result<(), Error> {
        let mut at = virt;
        let mut rest = buf;
        while !rest.is_empty() {
            let in_page = (PAGE_SIZE - at % PAGE_SIZE) as usize;
            let (now, later) = rest.split_at_mut(in_page.min(rest.len()));
            self.ram.read(self.translate(at)?, now)?;
            at = at.wrapping_add(now.len() as u64);
            rest = later;
        }
        Ok(())
    }

    /// A little-endian word.
    pub fn read_u64(&self, virt: u64) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.read(virt, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

//! [`IdMap`]: what the user, group or project ids of a user namespace stand for (user_namespaces(7)).
//!
//! A map is written once and never changes. The kernel thinks in ids of the initial namespace; ids of
//! other namespaces exist only at its border.

use belljar_abi::Described;

use crate::array::Array;
use crate::errno::{Errno, Result};

/// Most lines of a map, as in Linux.
pub const MAX_EXTENTS: usize = 340;
/// Up to so many extents are kept as they were written and searched one by one.
const FEW_EXTENTS: usize = 5;

/// One line of an id map: `count` ids from `first` inside stand for those from `lower` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Described)]
pub struct Extent {
    /// First id inside.
    pub first: u32,
    /// First id it stands for: of the parent namespace as written, of the kernel once installed.
    pub lower: u32,
    /// How many.
    pub count: u32,
}

/// What a namespace's user, group or project ids stand for (user_namespaces(7)).
#[repr(C)]
#[derive(Described)]
pub struct IdMap {
    /// By the ids inside, if there are many; else as written.
    pub extents: Array<Extent>,
    /// By the kernel's ids, if there are many.
    #[described(skip)]
    reverse: Array<Extent>,
}

/// Shown for an id that a namespace has no id for (/proc/sys/kernel/overflowuid).
pub const OVERFLOW_ID: u32 = 65534;

impl IdMap {
    /// Nothing was written yet.
    pub const EMPTY: Self = Self { extents: Array::new(), reverse: Array::new() };

    /// Every id stands for itself.
    pub fn identity() -> Result<Self> {
        let mut map = Self::EMPTY;
        map.extents.try_push(Extent { first: 0, lower: 0, count: u32::MAX })?;
        Ok(map)
    }

    /// A map of these lines, which do not overlap.
    pub fn new(mut extents: Array<Extent>) -> Result<Self> {
        let mut reverse = Array::new();
        if extents.len() > FEW_EXTENTS {
            reverse = extents.try_clone()?;
            extents.sort_unstable_by_key(|e| e.first);
            reverse.sort_unstable_by_key(|e| e.lower);
        }
        Ok(Self { extents, reverse })
    }

    /// True if nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    fn find(extents: &[Extent], id: u32, key: fn(&Extent) -> u32) -> Option<&Extent> {
        let candidate = if extents.len() <= FEW_EXTENTS {
            extents.iter().find(|e| id.wrapping_sub(key(e)) < e.count)?
        } else {
            let after = extents.partition_point(|e| key(e) <= id);
            extents.get(after.checked_sub(1)?)?
        };
        (id.wrapping_sub(key(candidate)) < candidate.count).then_some(candidate)
    }

    /// The kernel's id for one inside.
    pub fn to_kernel(&self, id: u32) -> Option<u32> {
        let extent = Self::find(&self.extents, id, |e| e.first)?;
        Some(extent.lower + (id - extent.first))
    }

    /// The kernel's ids for `count` inside, if they follow each other.
    pub fn range_to_kernel(&self, id: u32, count: u32) -> Option<u32> {
        let extent = Self::find(&self.extents, id, |e| e.first)?;
        let offset = id - extent.first;
        (extent.count - offset >= count).then_some(extent.lower + offset)
    }

    /// The id inside for one of the kernel's, or the one that stands for all that have none.
    pub fn from_kernel_munged(&self, id: u32) -> u32 {
        self.from_kernel(id).unwrap_or(OVERFLOW_ID)
    }

    /// The id inside for one of the kernel's.
    pub fn from_kernel(&self, id: u32) -> Option<u32> {
        let by_lower =
            if self.extents.len() <= FEW_EXTENTS { &self.extents } else { &self.reverse };
        let extent = Self::find(by_lower, id, |e| e.lower)?;
        Some(extent.first + (id - extent.lower))
    }
}

/// Reads the lines of an id map; `EINVAL` for whatever user_namespaces(7) does not allow in one.
pub fn parse_extents(text: &[u8]) -> Result<Array<Extent>> {
    let mut extents: Array<Extent> = Array::new();
    let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    for line in text.split('\n') {
        let mut words = line.split_ascii_whitespace().map(|w| w.parse::<u32>());
        let mut word = || words.next().and_then(core::result::Result::ok).ok_or(Errno::EINVAL);
        let new = Extent { first: word()?, lower: word()?, count: word()? };
        let ends = [new.first, new.lower].map(|start| start.checked_add(new.count));
        let bad = new.first == u32::MAX
            || new.lower == u32::MAX
            || ends.iter().any(Option::is_none)
            || new.count == 0
            || words.next().is_some()
            || extents.len() == MAX_EXTENTS
            || extents.iter().any(|old| overlap(old, &new));
        if bad {
            return Err(Errno::EINVAL);
        }
        extents.try_push(new)?;
    }
    Ok(extents)
}

fn overlap(a: &Extent, b: &Extent) -> bool {
    let meet = |a: u32, b: u32, len_a: u32, len_b: u32| a < b + len_b && b < a + len_a;
    meet(a.first, b.first, a.count, b.count) || meet(a.lower, b.lower, a.count, b.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> IdMap {
        IdMap::new(parse_extents(text.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn ids_are_translated_both_ways() {
        let map = map("0 1000 1\n10 2000 5\n");
        assert_eq!(map.to_kernel(0), Some(1000));
        assert_eq!(map.to_kernel(14), Some(2004));
        assert_eq!(map.to_kernel(15), None);
        assert_eq!(map.to_kernel(1), None);
        assert_eq!(map.from_kernel(2004), Some(14));
        assert_eq!(map.from_kernel(999), None);
        assert_eq!(map.range_to_kernel(11, 4), Some(2001));
        assert_eq!(map.range_to_kernel(11, 5), None);
    }

    #[test]
    fn many_extents_are_found_like_few() {
        let text: String =
            (0..MAX_EXTENTS as u32).map(|i| format!("{} {} 2\n", (339 - i) * 3, i * 7)).collect();
        let map = map(&text);
        for i in 0..MAX_EXTENTS as u32 {
            for k in 0..2 {
                assert_eq!(map.to_kernel((339 - i) * 3 + k), Some(i * 7 + k));
                assert_eq!(map.from_kernel(i * 7 + k), Some((339 - i) * 3 + k));
            }
            assert_eq!(map.to_kernel((339 - i) * 3 + 2), None);
            assert_eq!(map.from_kernel(i * 7 + 2), None);
        }
    }

    #[test]
    fn what_the_manual_page_forbids_is_refused() {
        let bad = [
            "",
            "0 0",
            "0 0 0",
            "0 0 1 1",
            "x 0 1",
            "0 0 1\n0 5 1",
            "0 0 5\n5 4 1",
            "-1 0 1",
            "4294967295 0 1",
            "4294967290 0 6",
            "0 0 1\n\n",
        ];
        for text in bad {
            assert_eq!(parse_extents(text.as_bytes()).err(), Some(Errno::EINVAL), "{text:?}");
        }
        let many: String = (0..=MAX_EXTENTS).map(|i| format!("{i} {i} 1\n")).collect();
        assert!(parse_extents(many.as_bytes()).is_err());
        assert!(parse_extents(b"4294967290 0 5\n").is_ok());
    }
}

//! What programs read of the CPU by themselves, once, and then rely on: what DC ZVA zeroes (DCZID_EL0; a C library
//! clears memory with it), and how cache maintenance has to be done (CTR_EL0; whoever generates code does it).
//! Another CPU may do more than they were shown, but not less, and what DC ZVA zeroes must be the same.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use belljar_abi::root::RootPage;

use crate::arch;

/// CTR_EL0 and DCZID_EL0 (ARM ARM, "AArch64 System Register Descriptions").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    ctr: u64,
    dczid: u64,
}

/// CTR_EL0: log2 of the words in the smallest line of an instruction cache.
const IMIN_LINE: (u32, &str) = (0, "instruction");
/// CTR_EL0: the same of a data cache.
const DMIN_LINE: (u32, &str) = (16, "data");
/// CTR_EL0: data need not be cleaned for instruction fetches to see it.
const IDC: u64 = 1 << 28;
/// CTR_EL0: instruction caches need not be invalidated after their memory was written.
const DIC: u64 = 1 << 29;
/// DCZID_EL0: DC ZVA is not allowed.
const DZP: u64 = 1 << 4;

/// What a CPU lacks of what programs were shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// DC ZVA zeroes another number of bytes, or (0) is not allowed.
    Zva { had: u64, has: u64 },
    /// Lines of a cache are shorter: maintenance would leave some out.
    Line { cache: &'static str, had: u64, has: u64 },
    /// Caches need maintenance that programs leave out.
    Maintenance(&'static str),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zva { had, has: 0 } => {
                write!(f, "a DC ZVA of {had} bytes (DCZID_EL0), and here it is not allowed")
            }
            Self::Zva { had, has } => {
                write!(f, "a DC ZVA of {had} bytes (DCZID_EL0), and here it zeroes {has}")
            }
            Self::Line { cache, had, has } => {
                write!(f, "{cache} cache lines of {had} bytes (CTR_EL0), and here they have {has}")
            }
            Self::Maintenance(bit) => {
                write!(f, "caches that need less maintenance (CTR_EL0.{bit}) than those here")
            }
        }
    }
}

impl Shown {
    /// What this CPU shows.
    pub(super) fn here() -> Self {
        let (ctr, dczid) = arch::cache_registers();
        Self { ctr, dczid }
    }

    /// What programs were shown before the machine froze; `None` if they were shown nothing yet.
    pub(super) fn noted(root: &RootPage) -> Option<Self> {
        let shown = Self { ctr: root.ctr.load(Relaxed), dczid: root.dczid.load(Relaxed) };
        // Bit 31 of CTR_EL0 is always set.
        (shown.ctr != 0).then_some(shown)
    }

    /// Adds what this CPU shows to what was noted.
    pub(super) fn note(root: &RootPage) {
        let here = Self::here();
        let all = Self::noted(root).map_or(here, |before| before.and(here));
        root.ctr.store(all.ctr, Relaxed);
        root.dczid.store(all.dczid, Relaxed);
    }

    /// What programs rely on of which some were shown `self` and some, on a CPU that lacks nothing of that,
    /// `other`.
    fn and(self, other: Self) -> Self {
        let least = |(shift, _): (u32, _)| {
            let line = |ctr: u64| ctr >> shift & 0xf;
            line(self.ctr).min(line(other.ctr)) << shift
        };
        let lines = 0xf << IMIN_LINE.0 | 0xf << DMIN_LINE.0;
        let ctr = other.ctr & !lines | least(IMIN_LINE) | least(DMIN_LINE);
        let ctr = ctr | self.ctr & (IDC | DIC);
        let dczid = if self.zva() == 0 { other.dczid } else { self.dczid };
        Self { ctr, dczid }
    }

    /// Bytes that DC ZVA zeroes, 0 if it is not allowed.
    fn zva(self) -> u64 {
        if self.dczid & DZP == 0 { 4 << (self.dczid & 0xf) } else { 0 }
    }

    /// What `here` lacks for programs that were shown `self`.
    pub(super) fn lack_of(self, here: Self) -> Option<Lack> {
        if self.zva() != 0 && self.zva() != here.zva() {
            return Some(Lack::Zva { had: self.zva(), has: here.zva() });
        }
        for (shift, cache) in [IMIN_LINE, DMIN_LINE] {
            let bytes = |ctr: u64| 4 << (ctr >> shift & 0xf);
            let (had, has): (u64, u64) = (bytes(self.ctr), bytes(here.ctr));
            if has < had {
                return Some(Lack::Line { cache, had, has });
            }
        }
        let lost = self.ctr & !here.ctr;
        let bits = [(IDC, "IDC"), (DIC, "DIC")];
        let bit = bits.iter().find(|(bit, _)| lost & bit != 0);
        bit.map(|(_, name)| Lack::Maintenance(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A72: Shown = Shown { ctr: 0x8444_c004, dczid: 4 };

    fn ctr(change: impl Fn(u64) -> u64) -> Shown {
        Shown { ctr: change(A72.ctr), ..A72 }
    }

    #[test]
    fn lack_of_the_same_or_more_is_none() {
        let long_lines = ctr(|ctr| ctr & !0xf_000f | 5 << 16 | 5);
        for more in [A72, long_lines, ctr(|ctr| ctr | IDC | DIC)] {
            assert_eq!(A72.lack_of(more), None);
        }
        let forbidden = Shown { dczid: DZP, ..A72 };
        assert_eq!(forbidden.lack_of(A72), None);
    }

    #[test]
    fn lack_of_less_is_named() {
        let lack = |had: Shown, has| had.lack_of(has).map(|lack| alloc::format!("{lack}"));
        let named = |had, has, what: &str| assert!(lack(had, has).unwrap().contains(what));
        named(A72, Shown { dczid: 7, ..A72 }, "64 bytes (DCZID_EL0), and here it zeroes 512");
        named(A72, Shown { dczid: DZP | 4, ..A72 }, "not allowed");
        named(A72, ctr(|ctr| ctr - 1), "instruction cache lines of 64 bytes");
        named(A72, ctr(|ctr| ctr - (1 << 16)), "data cache lines of 64 bytes");
        named(ctr(|ctr| ctr | DIC), A72, "CTR_EL0.DIC");
    }

    #[test]
    fn noting_keeps_what_was_shown_before() {
        let root = RootPage::new();
        assert_eq!(Shown::noted(&root), None);
        Shown::note(&root);
        assert_eq!(Shown::noted(&root), Some(Shown::here()));
        let fewer = ctr(|ctr| (ctr - 1) | IDC);
        assert_eq!(fewer.and(A72), fewer);
        assert_eq!(Shown { dczid: DZP, ..A72 }.and(A72), A72);
    }
}

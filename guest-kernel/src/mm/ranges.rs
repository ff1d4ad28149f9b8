//! [`Ranges`]: what boot knows about RAM: a few ranges of it, and what may be used of them.

const MAX_RANGES: usize = 32;

/// A few ranges of frame numbers, sorted and apart.
pub(super) struct Ranges {
    items: [(usize, usize); MAX_RANGES],
    len: usize,
}

impl Ranges {
    pub const fn new() -> Self {
        Self { items: [(0, 0); MAX_RANGES], len: 0 }
    }

    fn as_slice(&self) -> &[(usize, usize)] {
        &self.items[..self.len]
    }

    /// Adds a range, merging it with those that it touches.
    pub fn add(&mut self, mut start: usize, mut end: usize) {
        let mut kept = 0;
        for i in 0..self.len {
            let (s, e) = self.items[i];
            if s <= end && start <= e {
                (start, end) = (start.min(s), end.max(e));
            } else {
                self.items[kept] = (s, e);
                kept += 1;
            }
        }
        assert!(kept < MAX_RANGES, "too many memory ranges");
        let at = self.items[..kept].iter().position(|r| r.0 > start).unwrap_or(kept);
        self.items.copy_within(at..kept, at + 1);
        self.items[at] = (start, end);
        self.len = kept + 1;
    }

    /// Calls `f` with the parts of `start..end` that are in `ram` and not in `self`.
    pub fn usable(&self, ram: &Ranges, start: usize, end: usize, mut f: impl FnMut(usize, usize)) {
        for &(s, e) in ram.as_slice() {
            let (mut at, end) = (s.max(start), e.min(end));
            for &(rs, re) in self.as_slice() {
                if at >= end {
                    break;
                }
                if re <= at || rs >= end {
                    continue;
                }
                if at < rs {
                    f(at, rs);
                }
                at = re;
            }
            if at < end {
                f(at, end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge_and_subtract() {
        let (mut ram, mut reserved) = (Ranges::new(), Ranges::new());
        ram.add(0, 100);
        reserved.add(10, 20);
        reserved.add(40, 50);
        reserved.add(15, 30);
        let mut parts = vec![];
        reserved.usable(&ram, 5, 95, |s, e| parts.push((s, e)));
        assert_eq!(parts, [(5, 10), (30, 40), (50, 95)]);
    }
}

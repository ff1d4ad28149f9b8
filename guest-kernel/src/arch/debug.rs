//! Hardware break- and watchpoints of a program's thread (ARM ARM, D2.8 to D2.11), as its tracer sets them. They
//! count at EL0 only, and are in the CPU while the thread is.

/// Most of either kind that the architecture has.
pub const MAX_SLOTS: usize = 16;

/// A break- or watchpoint: DBGBVR and DBGBCR, or DBGWVR and DBGWCR.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DebugPoint {
    /// The address, aligned to what the control counts from.
    pub value: u64,
    /// Enabled, for which exception level, loads or stores, which bytes.
    pub control: u32,
}

/// The kinds of points.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DebugKind {
    /// At an instruction.
    Break,
    /// At an access.
    Watch,
}

/// The points of a thread.
#[repr(C)]
#[derive(Clone, Default)]
pub struct DebugRegs {
    /// Breakpoints.
    pub breaks: [DebugPoint; MAX_SLOTS],
    /// Watchpoints.
    pub watches: [DebugPoint; MAX_SLOTS],
}

impl DebugRegs {
    /// The points of a kind.
    pub fn points(&self, kind: DebugKind) -> &[DebugPoint; MAX_SLOTS] {
        match kind {
            DebugKind::Break => &self.breaks,
            DebugKind::Watch => &self.watches,
        }
    }

    /// The points of a kind, to be changed.
    pub fn points_mut(&mut self, kind: DebugKind) -> &mut [DebugPoint; MAX_SLOTS] {
        match kind {
            DebugKind::Break => &mut self.breaks,
            DebugKind::Watch => &mut self.watches,
        }
    }

    /// True if one of them is enabled.
    pub fn any(&self) -> bool {
        self.breaks
            .iter()
            .chain(&self.watches)
            .any(|point| point.control & DebugPoint::ENABLED != 0)
    }
}

impl DebugPoint {
    /// The control's bit without which it does nothing.
    pub const ENABLED: u32 = 1;
    /// The control's field of exception levels: EL0.
    const EL0: u32 = 2 << 1;
    /// The bytes from `value` on that count, one bit each, in both kinds' controls.
    const BYTES_SHIFT: u32 = 5;

    /// What `struct user_hwdebug_state` says; `None` for what no program may have, or no CPU has.
    pub fn new(kind: DebugKind, address: u64, control: u32) -> Option<Self> {
        if control & Self::ENABLED == 0 {
            return Some(Self { value: address, control: control & !Self::ENABLED });
        }
        let access = control >> 3 & 3;
        let bytes = control >> Self::BYTES_SHIFT & 0xff;
        // Bytes in one piece.
        let first = bytes.trailing_zeros();
        let run = bytes.checked_shr(first)?;
        if run == 0 || run & (run + 1) != 0 {
            return None;
        }
        let address = address.checked_add(u64::from(first))?;
        if !crate::addr::VirtAddr(address).is_user() {
            return None;
        }
        match kind {
            DebugKind::Break if access == 0 => {
                // An instruction, whatever the bytes.
                let control = Self::ENABLED | Self::EL0 | 0xf << Self::BYTES_SHIFT;
                Some(Self { value: address & !3, control })
            }
            DebugKind::Watch if access != 0 => {
                let bytes = run << (address & 7);
                if bytes > 0xff {
                    return None;
                }
                let control = Self::ENABLED | Self::EL0 | access << 3 | bytes << Self::BYTES_SHIFT;
                Some(Self { value: address & !7, control })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchpoint_counts_its_bytes_from_an_aligned_address() {
        // Stores to four bytes at 0x1004.
        let point = DebugPoint::new(DebugKind::Watch, 0x1004, 0xf << 5 | 2 << 3 | 1).unwrap();
        assert_eq!(point, DebugPoint { value: 0x1000, control: 0xf0 << 5 | 2 << 3 | 2 << 1 | 1 });
        // They may be given as bits too.
        assert_eq!(DebugPoint::new(DebugKind::Watch, 0x1000, 0xf0 << 5 | 2 << 3 | 1), Some(point));
    }

    #[test]
    fn nothing_but_el0_is_watched() {
        for control in [1_u32, 0xf << 5 | 1, 0xf << 5 | 3 << 3 | 7, u32::MAX] {
            for kind in [DebugKind::Break, DebugKind::Watch] {
                if let Some(point) = DebugPoint::new(kind, 0x1000, control) {
                    assert_eq!(point.control >> 1 & 3, 2);
                    assert_eq!(point.control >> 13, 0, "no links, no higher levels");
                }
                assert_eq!(DebugPoint::new(kind, 0xffff_0000_0000_0000, control), None);
            }
        }
        assert_eq!(DebugPoint::new(DebugKind::Watch, 0x1000, 0x5 << 5 | 3 << 3 | 1), None);
        assert_eq!(DebugPoint::new(DebugKind::Watch, 0x1006, 0xf << 5 | 3 << 3 | 1), None);
    }
}

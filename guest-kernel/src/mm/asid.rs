//! Address space identifiers: they tag TLB entries, so that a switch needs no invalidation.
//!
//! There are fewer than address spaces may come and go, so they are handed out in generations. When a
//! generation is used up, the TLB is emptied once and every address space takes a new identifier when it
//! is activated next; those active at that moment keep theirs, for as long as a CPU has them under
//! its feet, however many generations pass: a CPU that goes back to the address space that it still has does
//! not ask again. Identifier 0 belongs to the empty TTBR0 and to address spaces that never ran.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::PhysAddr;
use crate::arch::{self, MAX_CPUS, tlb};
use crate::sync::IrqLock;

const BITS: u32 = 16;
const MASK: u64 = (1 << BITS) - 1;

static ASIDS: IrqLock<Asids> = IrqLock::new(Asids::new());

struct Asids {
    /// In the bits above an identifier.
    generation: u64,
    next: u64,
    /// What each CPU's tables carry: generation and identifier, 0 for none.
    active: [u64; MAX_CPUS],
    /// Identifiers carried over from the last generation, as they were given then.
    kept: [u64; MAX_CPUS],
}

/// An address space's identifier with the generation that it was given in; 0 for none.
#[repr(transparent)]
#[derive(Default)]
pub struct Asid(AtomicU64);

impl Asid {
    /// None yet.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The identifier that TLB entries of this address space carry, if there are any.
    #[inline]
    pub fn get(&self) -> u16 {
        (self.0.load(Ordering::Relaxed) & MASK) as u16
    }
}

impl Asids {
    const fn new() -> Self {
        Self { generation: 1 << BITS, next: 1, active: [0; MAX_CPUS], kept: [0; MAX_CPUS] }
    }

    /// What the CPUs that there are carry.
    fn active(&self) -> &[u64] {
        &self.active[..arch::cpu_count().min(MAX_CPUS)]
    }

    #[cold]
    fn assign(&mut self, old: u64) -> u64 {
        let cpus = arch::cpu_count().min(MAX_CPUS);
        if old != 0 && self.kept[..cpus].contains(&old) {
            let new = self.generation | old & MASK;
            // Where it is active it is known by its new name too, to be kept again.
            for value in self.kept[..cpus].iter_mut().chain(&mut self.active[..cpus]) {
                if *value == old {
                    *value = new;
                }
            }
            return new;
        }
        loop {
            if self.next >> tlb::asid_bits().min(BITS) != 0 {
                self.generation += 1 << BITS;
                self.next = 1;
                self.kept = self.active;
                tlb::flush_all();
            }
            let asid = self.next;
            self.next += 1;
            if !self.kept[..cpus].iter().any(|kept| kept & MASK == asid) {
                return self.generation | asid;
            }
        }
    }
}

/// Makes the tables under `root` this CPU's user space. Preemption is off.
///
/// # Safety
/// The root stays until another one is activated or [`release`] was called for its identifier.
pub unsafe fn activate(root: PhysAddr, asid: &Asid) {
    let mut asids = ASIDS.lock();
    let mut value = asid.0.load(Ordering::Relaxed);
    if value >> BITS != asids.generation >> BITS {
        value = asids.assign(value);
        asid.0.store(value, Ordering::Relaxed);
        // Before the tables are walked: who changes them now either sees the identifier, or the walks see
        // the change (`arch::tlb`).
        arch::sync_tables();
    }
    let cpu = arch::current_thread().info.cpu();
    asids.active[cpu % MAX_CPUS] = value;
    // SAFETY: the caller's promise; the identifier is this address space's alone.
    unsafe { arch::activate_user(root, (value & MASK) as u16) };
}

/// Leaves the address space on this CPU if it is active here. True if it is active on none then.
pub fn release(asid: &Asid) -> bool {
    let mut asids = ASIDS.lock();
    let value = asid.0.load(Ordering::Relaxed);
    if value == 0 {
        return true;
    }
    let cpu = arch::current_thread().info.cpu() % MAX_CPUS;
    // The generation may have changed since the address space became active here.
    if asids.active[cpu] & MASK == value & MASK {
        arch::deactivate_user();
        asids.active[cpu] = 0;
    }
    !asids.active().iter().any(|active| active & MASK == value & MASK)
}

/// Begins anew on a CPU whose TLB holds nothing of before, and whose identifiers may be fewer: thaw. No
/// other CPU runs.
pub fn restart() {
    let mut asids = ASIDS.lock();
    asids.generation += 1 << BITS;
    asids.next = 1;
    asids.active = [0; MAX_CPUS];
    asids.kept = [0; MAX_CPUS];
    arch::deactivate_user();
    tlb::flush_all();
}

/// The CPUs on which an address space is active, one bit each.
pub fn active_cpus(asid: &Asid) -> u64 {
    let asids = ASIDS.lock();
    let value = asid.0.load(Ordering::Relaxed) & MASK;
    let active = asids.active().iter().enumerate();
    active.filter(|(_, a)| value != 0 && *a & MASK == value).fold(0, |m, (cpu, _)| m | 1 << cpu)
}

/// Leaves whatever address space is active on this CPU, which keeps it until then.
pub fn leave() {
    let mut asids = ASIDS.lock();
    arch::deactivate_user();
    asids.active[arch::current_thread().info.cpu() % MAX_CPUS] = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_generation_keeps_what_is_active_and_repeats_nothing() {
        let mut asids = Asids::new();
        let first = asids.assign(0);
        asids.active[0] = first;
        let mut last = first;
        while last >> BITS == first >> BITS {
            last = asids.assign(0);
        }
        let kept = asids.assign(first);
        assert_eq!(kept & MASK, first & MASK);
        assert_eq!(kept >> BITS, last >> BITS);
        assert_ne!(last & MASK, first & MASK, "an active identifier is not given to another");
        let mut seen = std::collections::HashSet::from([kept, last]);
        // Two generations later, and it never asked meanwhile.
        asids.active[0] = kept;
        let end = (asids.generation >> BITS) + 2;
        while asids.generation >> BITS < end {
            let other = asids.assign(0);
            assert_ne!(other & MASK, kept & MASK);
        }
        let again = asids.assign(kept);
        assert_eq!((again & MASK, again >> BITS), (kept & MASK, end));
        assert_eq!(asids.active[0], again);
        seen.clear();
        for _ in 0..1000 {
            assert!(seen.insert(asids.assign(0)));
        }
    }
}

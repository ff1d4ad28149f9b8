//! Another machine goes on with our memory: everything that is not memory is built anew from the device
//! tree that is found there.
//!
//! The CPU is set up already (`arch::suspend`). What does not fit ends the machine with the reason in the
//! root page, before anything was changed.

use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use belljar_abi::hwcap;

use super::freeze::Role;
use super::shown::{Lack, Shown};
use crate::addr::PhysAddr;
use crate::arch;
use crate::drivers::fdt::{self, Machine, Span};
use crate::drivers::{pl011, pl031, random, virtio};
use crate::introspect::{self, ROOT};
use crate::mm::{asid, try_box};
use crate::sched;

/// Why this machine cannot go on with the memory.
enum Misfit {
    /// No device tree where it should be.
    NoTree(PhysAddr),
    /// One that cannot be read.
    BadTree(fdt::FdtError),
    /// No memory to keep what it says.
    NoMemory,
    /// RAM that we use is not there.
    Ram { had: Span, has: Option<Span> },
    /// The counter runs at another speed.
    Counter { had: u64, has: u64 },
    /// Programs were shown CPU features that are not there.
    Cpu { missing: u64 },
    /// The same of its caches.
    Caches(Lack),
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTree(at) => write!(f, "there is no device tree at {:#x}", at.0),
            Self::BadTree(error) => write!(f, "{error}"),
            Self::NoMemory => f.write_str("it has no memory left to read the device tree"),
            Self::Ram { had, has } => {
                write!(f, "it was frozen with RAM at {:#x} to {:#x}", had.start, had.end)?;
                match has {
                    Some(has) => {
                        write!(f, ", and here it is at {:#x} to {:#x}", has.start, has.end)
                    }
                    None => f.write_str(", and here is none"),
                }
            }
            Self::Counter { had, has } => {
                write!(f, "its counter ran at {had} Hz, and here it runs at {has} Hz")
            }
            Self::Cpu { missing } => {
                f.write_str("its programs were shown CPU features that are not here:")?;
                hwcap::names(*missing).try_for_each(|name| write!(f, " {name}"))
            }
            Self::Caches(lack) => write!(f, "its programs were shown {lack}"),
        }
    }
}

/// Makes the machine work again; `rtc` is what its clock showed when it froze. Interrupts are masked, and
/// ready to come.
pub(super) fn rebuild(tree: PhysAddr, rtc: Option<u64>) -> Role {
    ROOT.frozen.store(0, Relaxed);
    // Another VMM numbers its requests anew.
    ROOT.release.store(0, Relaxed);
    arch::detect_features();
    let machine = match read_machine(tree) {
        Ok(machine) => machine,
        Err(misfit) => refuse(&misfit),
    };
    arch::set_conduit(machine.psci_smc);
    if let Err(misfit) = check(&machine) {
        refuse(&misfit);
    }
    arch::set_cpus(machine.cpus.as_slice().iter().copied());
    arch::map_devices(machine.device_spans().map(Span::range));
    crate::drivers::irq::init(&machine.gic);
    asid::restart();
    sched::current().reactivate_mm();
    restart_clocks(&machine, rtc);
    pl011::reinit(&machine.uart);
    virtio::reinit(machine.virtio.as_slice());
    let (number, seed) = ROOT.copy.take();
    random::mix(&seed);
    random::seed(machine.rng_seed);
    ROOT.generation.fetch_add(1, Relaxed);
    Role::Copy(number)
}

/// The tree at `tree`, or at the start of RAM if that is 0. In a box and a call of its own: the drivers that
/// start below the caller need the stack.
#[inline(never)]
fn read_machine(tree: PhysAddr) -> Result<Box<Machine<'static>>, Misfit> {
    let ram = frozen_ram();
    let tree = if tree.0 == 0 { PhysAddr(ram.start) } else { tree };
    let blob = |len: usize| {
        let fits = tree.0 >= ram.start && tree.0.saturating_add(len as u64) <= ram.end;
        // SAFETY: all RAM is mapped, and nothing of ours is where the machine puts its tree.
        fits.then(|| unsafe {
            core::slice::from_raw_parts(arch::phys_to_virt(tree).cast_const(), len)
        })
    };
    let len = blob(fdt::HEADER_LEN).and_then(fdt::stated_len);
    let blob = len.and_then(blob).ok_or(Misfit::NoTree(tree))?;
    try_box(Machine::read(blob).map_err(Misfit::BadTree)?).map_err(|_| Misfit::NoMemory)
}

fn frozen_ram() -> Span {
    let start = ROOT.ram_phys.load(Relaxed);
    Span { start, end: start + ROOT.ram_size.load(Relaxed) }
}

fn check(machine: &Machine<'_>) -> Result<(), Misfit> {
    let had = frozen_ram();
    let memory = machine.memory.as_slice();
    if !memory.iter().any(|has| has.start == had.start && has.end >= had.end) {
        return Err(Misfit::Ram { had, has: memory.first().copied() });
    }
    let (had, has) = (ROOT.counter_frequency.load(Relaxed), arch::counter_frequency());
    if had != has {
        return Err(Misfit::Counter { had, has });
    }
    let missing = ROOT.hwcap.load(Relaxed) & !arch::hwcaps().0;
    if missing != 0 {
        return Err(Misfit::Cpu { missing });
    }
    let lack = Shown::noted(&ROOT).and_then(|shown| shown.lack_of(Shown::here()));
    lack.map_or(Ok(()), |lack| Err(Misfit::Caches(lack)))
}

/// Monotonic time goes on where it stopped, the wall clock by as much as the RTC did meanwhile.
fn restart_clocks(machine: &Machine<'_>, rtc_then: Option<u64>) {
    sched::clock::restart(ROOT.frozen_monotonic.load(Relaxed));
    pl031::init(machine.rtc.as_ref());
    let passed = match (rtc_then, pl031::read_seconds()) {
        (Some(then), Some(now)) => (now as i64).saturating_sub(then as i64),
        _ => 0,
    };
    let passed = passed.saturating_mul(sched::NSEC_PER_SEC as i64);
    sched::set_realtime(ROOT.frozen_realtime.load(Relaxed).saturating_add_signed(passed));
}

/// Ends the machine with the reason in the root page.
fn refuse(misfit: &Misfit) -> ! {
    crate::kerr!("cannot go on: {misfit}");
    introspect::set_not_resumed(format_args!("{misfit}"));
    arch::power_off()
}

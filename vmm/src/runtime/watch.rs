//! Looks after the guest's CPUs: one whose exceptions have no handler any more never does anything again.
//!
//! AArch64 has no triple fault. If the first instruction of a vector cannot be executed, because there is no
//! memory or no code, that is an exception, too, and its vector is the same one: the CPU takes it for ever.
//! Neither KVM nor QEMU tells. From outside it is a CPU that uses the host's time and has the same registers
//! whenever somebody looks: at the vector of a synchronous exception of its own level, everything masked.
//! A handler that faults itself, for lack of a stack as a rule, does so for ever, too: it never leaves its slot of
//! the vector table. Its stack pointer changes with every attempt, and next to nothing else does; code that works
//! changes more, or a loop its counters alone.
//!
//! Looking costs the guest a moment, so a CPU that is idle is left alone, and one that works is looked at
//! less and less often.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::heap;
use super::supervise::Message;
use super::vm::Vm;
use crate::backend::{CpuRegisters, Event};
use crate::elfcore::regs::General;

/// When the first look is due, and the next one after something odd was seen.
const SHORTEST: Duration = Duration::from_millis(500);
/// What passes between two looks at most.
const LONGEST: Duration = Duration::from_secs(16);
/// So many looks at the same registers are no chance.
const LOOKS: u32 = 4;
/// So many looks at a handler's first instructions are none either. Each by itself may be: a kernel that has all
/// its faults handled there is now and then seen on its way in.
const LOOKS_MOVING: u32 = 8;
/// So many of x0 to x30 a handler that faults changes at most: what it needs to look at its stack pointer.
const SCRATCH: usize = 2;
/// A CPU that takes exceptions for ever has at least one part in so many of the host's time. One that is off
/// has next to none, however its registers look.
const BUSY: u32 = 8;

/// Starts the thread that looks, as long as `vm` lives.
pub(super) fn start(vm: &Arc<Vm>) -> io::Result<()> {
    let vm = Arc::downgrade(vm);
    crate::thread::named("watch").spawn(move || watch(&vm)).map(drop)
}

fn watch(vm: &Weak<Vm>) {
    let (mut cpus, mut interval, mut last) = (vec![], SHORTEST, Instant::now());
    loop {
        thread::sleep(interval);
        let Some(vm) = vm.upgrade() else { return };
        let passed = last.elapsed();
        last = Instant::now();
        // What the start needed.
        heap::trim();
        if let Some(cause) = look(&vm, &mut cpus, passed) {
            return vm.order(Message::Machine(Event::Died(cause)));
        }
        let is_odd = cpus.iter().any(|cpu| cpu.stood.is_some());
        interval = if is_odd { SHORTEST } else { (interval * 2).min(LONGEST) };
    }
}

/// Looks at the CPUs that have worked in the time that has `passed`. Says what is wrong with one that will
/// never do anything again.
fn look(vm: &Vm, cpus: &mut Vec<Cpu>, passed: Duration) -> Option<String> {
    let times = vm.cpu_times();
    cpus.resize(times.len(), Cpu::default());
    let mut busy = vec![];
    for (cpu, time) in cpus.iter_mut().zip(times) {
        busy.push(time.saturating_sub(cpu.time) >= passed / BUSY);
        cpu.time = time;
    }
    let all = match busy.contains(&true) {
        true => vm.glance().unwrap_or_default(),
        false => vec![],
    };
    let mut stuck = None;
    for (index, cpu) in cpus.iter_mut().enumerate() {
        match all.get(index).filter(|_| busy[index]) {
            Some(now) => stuck = cpu.look(now).map(|why| (index, why, now.general.pc)).or(stuck),
            None => cpu.stood = None,
        }
    }
    let (cpu, why, pc) = stuck?;
    let why = match why {
        Stuck::NoHandler => "there is no handler at its vector",
        Stuck::HandlerFaults => "the handler at its vector faults itself",
    };
    Some(format!("CPU {cpu} takes exceptions without end: {why} (pc {pc:#x})"))
}

/// Why a CPU takes exceptions without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stuck {
    NoHandler,
    HandlerFaults,
}

/// What is known of a CPU.
#[derive(Clone, Debug, Default)]
struct Cpu {
    /// What it had had of the host's time.
    time: Duration,
    /// How it stood at the last look, if that was odd.
    stood: Option<Stood>,
}

/// A CPU in a slot of its vector table.
#[derive(Clone, Debug)]
struct Stood {
    slot: u64,
    registers: General,
    /// How many looks in a row have shown these.
    looks: u32,
    /// How many times before these, without any other change, its stack pointer was seen to have moved.
    moved: u32,
}

impl Cpu {
    /// Takes what a look has shown. Why it will never do anything again, if it has stood there for too long.
    fn look(&mut self, now: &CpuRegisters) -> Option<Stuck> {
        let before = self.stood.take();
        let slot = in_sync_slot(now)?;
        let now = now.general;
        let (looks, moved) = match before.filter(|before| before.slot == slot) {
            Some(before) if before.registers == now => (before.looks + 1, before.moved),
            Some(before) if only_stack_moved(&before.registers, &now) => (1, before.moved + 1),
            _ => (1, 0),
        };
        self.stood = Some(Stood { slot, registers: now, looks, moved });
        match slot {
            start if start == now.pc && looks >= LOOKS => Some(Stuck::NoHandler),
            _ if moved + 1 >= LOOKS_MOVING => Some(Stuck::HandlerFaults),
            _ => None,
        }
    }
}

/// Whether a CPU has done between two looks what a handler does that faults: it has its stack pointer elsewhere, and
/// hardly anything else.
fn only_stack_moved(before: &General, now: &General) -> bool {
    let changed = before.x.iter().zip(&now.x).filter(|(before, now)| before != now).count();
    before.sp != now.sp && changed <= SCRATCH
}

/// Where a slot of a vector table begins in which a CPU is with everything masked, as if it had taken a synchronous
/// exception of EL1 and got no further. Whether it is its own table is known only where VBAR_EL1 is.
fn in_sync_slot(registers: &CpuRegisters) -> Option<u64> {
    /// Offsets of the vectors of synchronous exceptions, with SP_EL0 and with SP_EL1, in the table, which is
    /// aligned to its size, and the size of each (Arm ARM, D1.3.1.5 and VBAR_EL1).
    const SYNCHRONOUS: [u64; 2] = [0x000, 0x200];
    const TABLE: u64 = 0x800;
    const SLOT: u64 = 0x80;
    /// PSTATE.{D,A,I,F}, which taking an exception sets.
    const MASKED: u64 = 0b1111 << 6;
    let General { pc, pstate, .. } = registers.general;
    let (table, slot) = (pc & !(TABLE - 1), pc & !(SLOT - 1));
    let is_vector = !registers.general.is_user()
        && pstate & MASKED == MASKED
        && SYNCHRONOUS.contains(&(slot % TABLE))
        && registers.vbar_el1.is_none_or(|vbar| vbar & !(TABLE - 1) == table);
    is_vector.then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EL1 with its own stack pointer, everything masked.
    const MASKED: u64 = 0x3c5;

    /// What each of so many looks at a CPU says.
    fn looks(count: u32, registers: &dyn Fn(u64) -> General) -> Vec<Option<Stuck>> {
        looks_with(None, count, registers)
    }

    /// The same, where its vector table is known.
    fn looks_with(
        vbar_el1: Option<u64>,
        count: u32,
        registers: &dyn Fn(u64) -> General,
    ) -> Vec<Option<Stuck>> {
        let mut cpu = Cpu::default();
        let all = |n| CpuRegisters { general: registers(n), vbar_el1, ..CpuRegisters::default() };
        (0..u64::from(count)).map(|n| cpu.look(&all(n))).collect()
    }

    const STUCK: General = General { pc: 0x4008_0200, pstate: MASKED, ..ZERO };
    const ZERO: General = General { x: [0; 31], sp: 0, pc: 0, pstate: 0 };

    #[test]
    fn a_cpu_that_stays_at_a_vector_has_no_handler() {
        let seen = looks(LOOKS, &|_| STUCK);
        assert_eq!(seen, [None, None, None, Some(Stuck::NoHandler)]);
        // It was seen on its way into a handler before that.
        let seen = looks(LOOKS + 1, &|n| General { sp: n.min(1), ..STUCK });
        assert_eq!(seen.last(), Some(&Some(Stuck::NoHandler)));
    }

    #[test]
    fn a_handler_that_never_gets_beyond_its_slot_faults() {
        // It makes room on a stack that is not there, and a look meets it at one of its instructions.
        let pushes = |n| General { sp: u64::MAX - 16 * n, pc: STUCK.pc + 4 * (n % 2), ..STUCK };
        let seen = looks(LOOKS_MOVING, &pushes);
        assert_eq!(seen[..LOOKS_MOVING as usize - 1], [None; LOOKS_MOVING as usize - 1]);
        assert_eq!(seen.last(), Some(&Some(Stuck::HandlerFaults)));
    }

    #[test]
    fn a_cpu_that_works_inside_a_slot_is_not_stuck() {
        let work = |n: u64| General { pc: STUCK.pc + 4 * (n % 8), ..STUCK };
        // It calls functions, or it counts in a loop, or it does both in turn.
        let calls = |n| General { x: [n; 31], sp: 16 * n, ..work(n) };
        let counts = |n| General { x: std::array::from_fn(|i| n * u64::from(i == 0)), ..work(n) };
        let both = |n| if n % 7 == 6 { calls(n) } else { General { sp: 16 * n, ..work(n) } };
        for busy in [&calls as &dyn Fn(u64) -> General, &counts, &both] {
            assert!(looks(6 * LOOKS_MOVING, busy).iter().all(Option::is_none));
        }
    }

    #[test]
    fn code_elsewhere_than_in_the_vector_table_is_no_handler() {
        let pushes = |n: u64| General { sp: u64::MAX - 16 * n, ..STUCK };
        for (registers, why) in [
            (&pushes as &dyn Fn(u64) -> General, Stuck::HandlerFaults),
            (&|_| STUCK, Stuck::NoHandler),
        ] {
            let last = |vbar| *looks_with(Some(vbar), LOOKS_MOVING, registers).last().unwrap();
            assert_eq!(last(STUCK.pc - 0x200), Some(why));
            assert_eq!(last(STUCK.pc - 0x200 + 0x800), None);
        }
    }

    #[test]
    fn a_cpu_that_works_is_not_stuck() {
        // It can be interrupted, it is elsewhere, now and then at least, it waits in its slot, or it is the program
        // that loops.
        for busy in [
            &(|n| General { pstate: MASKED & !0x80, sp: n, ..STUCK }) as &dyn Fn(u64) -> General,
            &|n| General { pc: STUCK.pc + 0x80, sp: n, ..STUCK },
            &|n| General { pc: STUCK.pc + 0x80 * u64::from(n % 7 == 6), sp: n, ..STUCK },
            &|_| General { pc: STUCK.pc + 4, ..STUCK },
            &|n| General { pstate: MASKED & !0xf, sp: n, ..STUCK },
        ] {
            assert!(looks(3 * LOOKS_MOVING, busy).iter().all(Option::is_none));
        }
    }
}

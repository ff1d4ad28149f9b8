//! Looks after the guest's CPUs: one whose exceptions have no handler any more never does anything again.
//!
//! AArch64 has no triple fault. If the first instruction of a vector cannot be executed, because there is no
//! memory or no code, that is an exception, too, and its vector is the same one: the CPU takes it for ever.
//! Neither KVM nor QEMU tells. From outside it is a CPU that uses the host's time and has the same registers
//! whenever somebody looks: at the vector of a synchronous exception of its own level, everything masked.
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
use crate::backend::Event;
use crate::elfcore::regs::General;

/// When the first look is due, and the next one after something odd was seen.
const SHORTEST: Duration = Duration::from_millis(500);
/// What passes between two looks at most.
const LONGEST: Duration = Duration::from_secs(16);
/// So many looks at the same registers are no chance.
const LOOKS: u32 = 4;
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
        // What the start needed, and since then what the API's answers did.
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
        let now = all.get(index).filter(|_| busy[index]).map(|all| all.general);
        match now {
            Some(now) if cpu.look(&now) => stuck = Some((index, now.pc)),
            Some(_) => {}
            None => cpu.stood = None,
        }
    }
    let (cpu, pc) = stuck?;
    Some(format!(
        "CPU {cpu} takes exceptions without end: there is no handler at its vector (pc {pc:#x})"
    ))
}

/// What is known of a CPU.
#[derive(Clone, Debug, Default)]
struct Cpu {
    /// What it had had of the host's time.
    time: Duration,
    /// How it stood at the last look, if that was odd, and how often.
    stood: Option<(General, u32)>,
}

impl Cpu {
    /// Takes what a look has shown. Whether it has stood there for too long.
    fn look(&mut self, now: &General) -> bool {
        let looks = match &self.stood {
            Some((before, looks)) if before == now => looks + 1,
            _ => 1,
        };
        self.stood = at_own_vector(now).then_some((*now, looks));
        self.stood.is_some() && looks >= LOOKS
    }
}

/// Whether a CPU is where a synchronous exception of EL1 leads, and has not done anything there.
fn at_own_vector(registers: &General) -> bool {
    /// Offsets of the vectors of synchronous exceptions, with SP_EL0 and with SP_EL1, in the table, which is
    /// aligned to its size (Arm ARM, D1.3.1.5 and VBAR_EL1).
    const SYNCHRONOUS: [u64; 2] = [0x000, 0x200];
    const TABLE: u64 = 0x800;
    /// PSTATE.{D,A,I,F}, which taking an exception sets.
    const MASKED: u64 = 0b1111 << 6;
    !registers.is_user()
        && registers.pstate & MASKED == MASKED
        && SYNCHRONOUS.contains(&(registers.pc % TABLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EL1 with its own stack pointer, everything masked.
    const MASKED: u64 = 0x3c5;

    #[test]
    fn only_a_cpu_that_stays_at_a_vector_is_stuck() {
        let stuck = General { pc: 0x4008_0200, pstate: MASKED, ..General::default() };
        let looks = |registers: &dyn Fn(u64) -> General| {
            let mut cpu = Cpu::default();
            (0..u64::from(LOOKS)).map(|n| cpu.look(&registers(n))).collect::<Vec<_>>()
        };
        assert_eq!(looks(&|_| stuck), [false, false, false, true]);
        // It works: something changes, it can be interrupted, it is elsewhere, or it is the program that loops.
        for busy in [
            &(|n| General { sp: n, ..stuck }) as &dyn Fn(u64) -> General,
            &|_| General { pstate: MASKED & !0x80, ..stuck },
            &|_| General { pc: stuck.pc + 4, ..stuck },
            &|_| General { pstate: MASKED & !0xf, ..stuck },
        ] {
            assert_eq!(looks(busy), [false; 4]);
        }
    }
}

//! The notes of a core: the threads' registers, the process, its signal, its mapped files. In Linux's order.

use alloc::vec::Vec;

use belljar_abi::coreregs::{
    CORE, FpSimd, General, LINUX, NT_ARM_TLS, NT_AUXV, NT_FILE, NT_FPREGSET, NT_PRPSINFO,
    NT_PRSTATUS, NT_SIGINFO, PSARGS_SIZE, PsInfo, Status,
};

use super::Dump;
use super::mappings::Segment;
use crate::addr::PAGE_SIZE;
use crate::arch::{self, PtRegs};
use crate::errno::{Errno, Result};
use crate::ns::{PidNs, PidType};
use crate::process::clocks::{children_cpu_time, process_cpu_time};
use crate::sched::TaskState;
use crate::signal::{SIGKILL, SigSet};
use crate::task::{Task, list};

/// Notes one after the other, as a file has them.
#[derive(Default)]
pub(super) struct Notes(pub(super) Vec<u8>);

impl Notes {
    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.try_reserve(bytes.len()).map_err(|_| Errno::ENOMEM)?;
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn pad(&mut self) -> Result<()> {
        let padding = self.0.len().next_multiple_of(4) - self.0.len();
        self.bytes(&[0; 4][..padding])
    }

    fn head(&mut self, name: &str, kind: u32, len: usize) -> Result<()> {
        for word in [name.len() as u32 + 1, len as u32, kind] {
            self.bytes(&word.to_le_bytes())?;
        }
        self.bytes(name.as_bytes())?;
        self.bytes(&[0])?;
        self.pad()
    }

    fn note(&mut self, name: &str, kind: u32, desc: &[u8]) -> Result<()> {
        self.head(name, kind, desc.len())?;
        self.bytes(desc)?;
        self.pad()
    }

    fn words(&mut self, words: &[u64]) -> Result<()> {
        words.iter().try_for_each(|word| self.bytes(&word.to_le_bytes()))
    }
}

/// All notes.
pub(super) fn notes(dump: &Dump<'_>, segments: &[Segment]) -> Result<Notes> {
    // The writer's own FP/SIMD registers are still in the CPU.
    arch::save_user_state(&dump.task.se.thread);
    let mut notes = Notes::default();
    for (i, thread) in dump.threads.iter().enumerate() {
        prstatus(dump, thread, &mut notes)?;
        if i == 0 {
            prpsinfo(dump, &mut notes)?;
            notes.note(CORE, NT_SIGINFO, &dump.info.to_user())?;
            let auxv = dump.mm.auxv()?;
            notes.head(CORE, NT_AUXV, auxv.len() * 8)?;
            notes.words(&auxv)?;
            files(segments, &mut notes)?;
        }
        registers(thread, &mut notes)?;
    }
    Ok(notes)
}

/// The general registers of a thread that stands still, or of the caller. A system call that the signal interrupted
/// shows as about to start over.
fn general(thread: &Task) -> General {
    // SAFETY: a program's thread that stands still, or the current one; nobody changes them meanwhile.
    let regs: &PtRegs = unsafe { &*thread.se.thread.user_regs() };
    let mut general = General { x: regs.x, sp: regs.sp, pc: regs.pc, pstate: regs.pstate };
    let result = (regs.x[0] as i64).checked_neg().and_then(|n| u16::try_from(n).ok());
    let restarts = result.map(Errno::from_number).is_some_and(|errno| errno.is_restart());
    if regs.syscallno != PtRegs::NO_SYSCALL && restarts {
        general.x[0] = regs.orig_x0;
        general.pc = general.pc.wrapping_sub(4);
    }
    general
}

#[inline(never)]
fn prstatus(dump: &Dump<'_>, thread: &Task, notes: &mut Notes) -> Result<()> {
    let ns = dump.task.active_pid_ns();
    let time = match thread.is_leader() {
        true => process_cpu_time(thread),
        false => thread.se.cpu_time(),
    };
    let children = children_cpu_time(thread);
    let (pending, blocked) = {
        let signals = thread.sig.lock();
        // What stopped the others for this core is no news.
        (signals.pending.set().without(SigSet::of(&[SIGKILL])), signals.blocked)
    };
    let status = Status {
        signal: dump.info.signo as u16,
        pending: pending.0,
        blocked: blocked.0,
        ids: ids(thread, &ns, PidType::Pid),
        times: [time.user, time.system, children.user, children.system],
    };
    notes.note(CORE, NT_PRSTATUS, &status.write(&general(thread)))
}

/// The thread or process, its parent, its process group and session, as the writer's namespace sees them.
fn ids(task: &Task, ns: &PidNs, own: PidType) -> [u32; 4] {
    let parent = {
        let _list = list::lock();
        let parent = task.real_parent.load(core::sync::atomic::Ordering::Relaxed);
        // SAFETY: null, or alive under the list's lock.
        unsafe { parent.as_ref() }.map_or(0, |parent| parent.nr_of(PidType::Tgid, ns))
    };
    [task.nr_of(own, ns), parent, task.nr_of(PidType::Pgid, ns), task.nr_of(PidType::Sid, ns)]
}

#[inline(never)]
fn prpsinfo(dump: &Dump<'_>, notes: &mut Notes) -> Result<()> {
    let leader = dump.task.leader();
    let mm = dump.mm;
    let at =
        |place: &core::sync::atomic::AtomicU64| place.load(core::sync::atomic::Ordering::Relaxed);
    let (start, end) = (at(&mm.layout.arg_start), at(&mm.layout.arg_end));
    let mut args = [0; PSARGS_SIZE];
    let len = (end.saturating_sub(start) as usize).min(PSARGS_SIZE - 1);
    let read = mm.read_remote(start, &mut args[..len]);
    args[..read].iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
    let cred = dump.task.cred();
    let (uids, gids) = (cred.user_ns.uids(), cred.user_ns.gids());
    let running = leader.se.is_current();
    let state = if running { TaskState::RUNNING } else { leader.se.state() };
    let info = PsInfo {
        // The number of the lowest bit of the state, from 1.
        state: if running { 0 } else { state.bits().trailing_zeros() as u8 + 1 },
        letter: state.letter() as u8,
        nice: leader.se.nice() as i8,
        flags: u64::from(leader.flags().bits()),
        owner: [uids.from_kernel_munged(cred.uid), gids.from_kernel_munged(cred.gid)],
        ids: ids(leader, &dump.task.active_pid_ns(), PidType::Tgid),
        comm: leader.comm().0,
        args,
    };
    notes.note(CORE, NT_PRPSINFO, &info.write())
}

fn files(segments: &[Segment], notes: &mut Notes) -> Result<()> {
    let named = || {
        segments.iter().filter_map(|segment| {
            let file = segment.file.as_ref().filter(|file| file.path.first() == Some(&b'/'))?;
            Some((segment, &file.path))
        })
    };
    let count = named().count();
    let names: usize = named().map(|(_, path)| path.len() + 1).sum();
    notes.head(CORE, NT_FILE, (2 + 3 * count) * 8 + names)?;
    notes.words(&[count as u64, PAGE_SIZE as u64])?;
    for (segment, _) in named() {
        notes.words(&[segment.start, segment.end, segment.pgoff])?;
    }
    for (_, path) in named() {
        notes.bytes(path)?;
        notes.bytes(&[0])?;
    }
    notes.pad()
}

/// The other registers of a thread.
#[inline(never)]
fn registers(thread: &Task, notes: &mut Notes) -> Result<()> {
    // SAFETY: the thread stands still, or is the current one, whose registers were saved.
    let (fp, tls) = unsafe { (&*thread.se.thread.fp.get(), *thread.se.thread.tpidr_el0.get()) };
    let fp = FpSimd { v: fp.v, fpsr: fp.fpsr, fpcr: fp.fpcr };
    notes.note(CORE, NT_FPREGSET, &fp.write())?;
    notes.note(LINUX, NT_ARM_TLS, &tls.to_le_bytes())
}

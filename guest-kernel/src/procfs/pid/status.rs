//! /proc/PID/status.

use core::sync::atomic::Ordering;

use super::Subject;
use super::stat::{dispositions, parent_number, state_letter, text_pages};
use crate::addr::PAGE_SIZE;
use crate::arch;
use crate::errno::Result;
use crate::mm::Mm;
use crate::ns::{Pid, PidNs, PidType};
use crate::process::ptrace::tracer_of;
use crate::procfs::sysfs::range_list;
use crate::procfs::text::Text;
use crate::put;
use crate::sched::cpu::possible_mask;
use crate::task::rlimit::Resource;

const fn state_name(letter: char) -> &'static str {
    match letter {
        'R' => "running",
        'S' => "sleeping",
        'D' => "disk sleep",
        'T' => "stopped",
        't' => "tracing stop",
        'X' => "dead",
        'Z' => "zombie",
        'P' => "parked",
        _ => "idle",
    }
}

/// /proc/PID/status.
pub(super) fn status(subject: &Subject, out: &mut Text) -> Result<()> {
    let (task, ns) = (&*subject.task, &*subject.ns);
    let relaxed = Ordering::Relaxed;
    out.bytes(b"Name:\t")?;
    out.escaped(task.comm().as_bytes(), b"\n\\")?;
    if let Some(fs) = task.fs.share() {
        put!(out, "\nUmask:\t{:04o}", fs.umask())?;
    }
    let letter = state_letter(task);
    put!(out, "\nState:\t{letter} ({})\n", state_name(letter))?;
    put!(out, "Tgid:\t{}\nNgid:\t0\n", task.nr_of(PidType::Tgid, ns))?;
    put!(out, "Pid:\t{}\nPPid:\t{}\n", task.pid_nr(ns), parent_number(subject))?;
    put!(out, "TracerPid:\t{}\n", tracer(subject))?;
    let cred = task.cred.share();
    let viewer = &subject.opener.user_ns;
    let uids = [cred.uid, cred.euid, cred.suid, cred.fsuid];
    let [real, effective, saved, fs] = uids.map(|id| viewer.uids().from_kernel_munged(id));
    put!(out, "Uid:\t{real}\t{effective}\t{saved}\t{fs}\n")?;
    let gids = [cred.gid, cred.egid, cred.sgid, cred.fsgid];
    let [real, effective, saved, fs] = gids.map(|id| viewer.gids().from_kernel_munged(id));
    put!(out, "Gid:\t{real}\t{effective}\t{saved}\t{fs}\n")?;
    let fd_size = task.files.share().map_or(0, |files| files.capacity().next_multiple_of(64));
    put!(out, "FDSize:\t{fd_size}\nGroups:\t")?;
    for group in cred.groups.iter() {
        put!(out, "{} ", viewer.gids().from_kernel_munged(*group))?;
    }
    if cred.groups.is_empty() {
        out.bytes(b" ")?;
    }
    for (title, kind) in [
        ("NStgid", PidType::Tgid),
        ("NSpid", PidType::Pid),
        ("NSpgid", PidType::Pgid),
        ("NSsid", PidType::Sid),
    ] {
        put!(out, "\n{title}:")?;
        let pid = match kind {
            PidType::Pid => Some(task.thread_pid.share()),
            kind => task.signal.pid(kind),
        };
        numbers(out, pid.as_deref(), ns)?;
    }
    out.bytes(b"\n")?;
    if let Some(shown) = subject.with_mm(|mm| memory(mm, out)) {
        shown?;
        let dumping = u8::from(task.signal.core_dump.is_under_way());
        put!(out, "CoreDumping:\t{dumping}\nTHP_enabled:\t0\n")?;
    }
    put!(out, "Threads:\t{}\n", task.signal.nr_threads.load(relaxed))?;
    signals(subject, out)?;
    for (title, set) in [
        ("CapInh", cred.cap_inheritable),
        ("CapPrm", cred.cap_permitted),
        ("CapEff", cred.cap_effective),
        ("CapBnd", cred.cap_bounding),
        ("CapAmb", cred.cap_ambient),
    ] {
        put!(out, "{title}:\t{:016x}\n", set.0)?;
    }
    put!(out, "NoNewPrivs:\t{}\n", u32::from(task.has_no_new_privs()))?;
    let (mode, filters) = (task.seccomp.mode() as u32, task.seccomp.filter_count());
    put!(out, "Seccomp:\t{mode}\nSeccomp_filters:\t{filters}\n")?;
    out.bytes(b"Speculation_Store_Bypass:\tvulnerable\n")?;
    out.bytes(b"SpeculationIndirectBranch:\tunknown\n")?;
    cpus(subject, out)?;
    let (voluntary, involuntary) = task.se.context_switches();
    put!(out, "voluntary_ctxt_switches:\t{voluntary}\n")?;
    put!(out, "nonvoluntary_ctxt_switches:\t{involuntary}\n")
}

/// The number of the tracer, 0 without one.
fn tracer(subject: &Subject) -> u32 {
    let list = crate::task::list::lock();
    let tracer = tracer_of(&list, &subject.task);
    let number = tracer.map_or(0, |t| t.pid_nr(&subject.ns));
    drop(list);
    number
}

/// The numbers of a pid from the viewer's namespace inwards.
fn numbers(out: &mut Text, pid: Option<&Pid>, ns: &PidNs) -> Result<()> {
    let Some(pid) = pid.filter(|pid| pid.nr_in(ns) != 0) else { return Ok(()) };
    for upid in pid.numbers.iter().skip(ns.level as usize) {
        put!(out, "\t{}", upid.nr)?;
    }
    Ok(())
}

fn memory(mm: &Mm, out: &mut Text) -> Result<()> {
    let kb = |pages: u64| pages * (PAGE_SIZE as u64 / 1024);
    let rss = mm.rss();
    let page = |pages: i64| kb(pages.max(0) as u64);
    let (total, data, exec, stack, locked) = {
        let s = mm.space.read();
        (s.total_vm, s.data_vm, s.exec_vm, s.stack_vm, s.locked_vm)
    };
    let text = text_pages(mm).min(exec);
    for (title, value) in [
        ("VmPeak", kb(total)),
        ("VmSize", kb(total)),
        ("VmLck", kb(locked)),
        ("VmPin", 0),
        ("VmHWM", kb(mm.max_rss() as u64)),
        ("VmRSS", kb(rss.total())),
        ("RssAnon", page(rss.anon)),
        ("RssFile", page(rss.file)),
        ("RssShmem", page(rss.shmem)),
        ("VmData", kb(data)),
        ("VmStk", kb(stack)),
        ("VmExe", kb(text)),
        ("VmLib", kb(exec - text)),
        ("VmPTE", 0),
        ("VmSwap", 0),
        ("HugetlbPages", 0),
    ] {
        put!(out, "{title}:\t{value:8} kB\n")?;
    }
    Ok(())
}

fn signals(subject: &Subject, out: &mut Text) -> Result<()> {
    let task = &*subject.task;
    let (own, blocked) = {
        let sig = task.sig.lock();
        (sig.pending.set(), sig.blocked)
    };
    let (shared, queued) = {
        let shared = task.signal.shared.lock();
        (shared.pending.set(), shared.pending.queued())
    };
    let limit = task.signal.rlimits.soft(Resource::Sigpending);
    let (ignored, caught) = dispositions(task);
    put!(out, "SigQ:\t{queued}/{limit}\n")?;
    put!(out, "SigPnd:\t{:016x}\nShdPnd:\t{:016x}\n", own.0, shared.0)?;
    put!(out, "SigBlk:\t{:016x}\nSigIgn:\t{ignored:016x}\n", blocked.0)?;
    put!(out, "SigCgt:\t{caught:016x}\n")
}

fn cpus(subject: &Subject, out: &mut Text) -> Result<()> {
    let count = arch::cpu_count().min(64);
    let mask: u64 = subject.task.se.cpus_allowed() & possible_mask();
    let digits = count.div_ceil(4);
    if count > 32 {
        put!(out, "Cpus_allowed:\t{:0w$x},{:08x}\n", mask >> 32, mask as u32, w = digits - 8)?;
    } else {
        put!(out, "Cpus_allowed:\t{mask:0digits$x}\n")?;
    }
    out.bytes(b"Cpus_allowed_list:\t")?;
    range_list(out, mask)?;
    out.bytes(b"\nMems_allowed:\t1\nMems_allowed_list:\t0\n")
}

//! The files of the controllers: `cpu.*`, `memory.*`, `pids.*`.

use super::{Opener, Options, options};
use crate::addr::PAGE_SIZE;
use crate::arch;
use crate::cgroup::{self, Cgroup, Controllers, Watch, control::NO_PIDS_LIMIT};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::memcg::{MemEvent, MemKinds, UNLIMITED};
use crate::mm::{MemGroup, PageKind, frame};
use crate::process::oom;
use crate::procfs::text::{Text, parse_number};
use crate::put;
use crate::sched::policy::{MAX_NICE, MIN_NICE};
use crate::sched::{CpuTime, bandwidth, cpu_times};

// ---- cpu ----

/// The weight of each nice value from -20 on, when 1024 is that of 0 (sched(7)): each step is a quarter.
static NICE_WEIGHTS: [u32; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904,
    3906, 3121, 2501, 1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87,
    70, 56, 45, 36, 29, 23, 18, 15,
];
const NICE_0_WEIGHT: u32 = 1024;
const MAX_WEIGHT: i64 = 10_000;

pub(super) fn cpu_stat(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    let time = if group.is_root() {
        let cpus = (0..arch::cpu_count()).map(cpu_times);
        cpus.fold(CpuTime::default(), |sum, cpu| {
            sum + CpuTime { user: cpu.user, system: cpu.system }
        })
    } else {
        group.cpu_time(&cgroup::lock_tree())
    };
    let (user, system) = (time.user / 1000, time.system / 1000);
    put!(out, "usage_usec {}\nuser_usec {user}\nsystem_usec {system}\n", user + system)?;
    if group.parent.as_ref().is_some_and(|parent| !parent.enabled().contains(Controllers::CPU)) {
        return Ok(());
    }
    let stat = group.cpu.bandwidth.stat();
    put!(out, "nr_periods {}\nnr_throttled {}\n", stat.periods, stat.throttled)?;
    put!(out, "throttled_usec {}\n", stat.throttled_ns / 1000)?;
    put!(out, "nr_bursts {}\nburst_usec {}\n", stat.bursts, stat.burst_ns / 1000)
}

/// `MAX PERIOD`, in microseconds.
pub(super) fn cpu_max(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    let limit = group.cpu.bandwidth.limit();
    match limit.quota {
        bandwidth::UNLIMITED => out.bytes(b"max")?,
        quota => put!(out, "{}", quota / 1000)?,
    }
    put!(out, " {}\n", limit.period / 1000)
}

fn parse_usec(word: &[u8]) -> Result<u64> {
    let text = core::str::from_utf8(word).map_err(|_| Errno::EINVAL)?;
    let usec: u64 = text.parse().map_err(|_| Errno::EINVAL)?;
    usec.checked_mul(1000).filter(|ns| *ns != bandwidth::UNLIMITED).ok_or(Errno::EINVAL)
}

pub(super) fn set_cpu_max(group: &Ref<Cgroup>, _: &Opener, data: &[u8]) -> Result<()> {
    let mut words = data.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let mut limit = group.cpu.bandwidth.limit();
    limit.quota = match words.next().ok_or(Errno::EINVAL)? {
        b"max" => bandwidth::UNLIMITED,
        quota => parse_usec(quota)?,
    };
    if let Some(period) = words.next() {
        limit.period = parse_usec(period)?;
    }
    group.cpu.bandwidth.set_limit(limit)
}

pub(super) fn cpu_max_burst(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", group.cpu.bandwidth.limit().burst / 1000)
}

pub(super) fn set_cpu_max_burst(group: &Ref<Cgroup>, _: &Opener, data: &[u8]) -> Result<()> {
    let burst = parse_usec(data)?;
    let limit = group.cpu.bandwidth.limit();
    group.cpu.bandwidth.set_limit(bandwidth::Limit { burst, ..limit })
}

pub(super) fn cpu_weight(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", group.cpu.weight())
}

pub(super) fn set_cpu_weight(group: &Ref<Cgroup>, _: &Opener, data: &[u8]) -> Result<()> {
    let weight = parse_number(data)?;
    if weight < 0 {
        return Err(Errno::EINVAL);
    }
    if !(1..=MAX_WEIGHT).contains(&weight) {
        return Err(Errno::ERANGE);
    }
    group.cpu.set_weight(weight as u32);
    Ok(())
}

/// The nice value whose weight is closest.
pub(super) fn cpu_nice(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    let weight = (group.cpu.weight() * NICE_0_WEIGHT).div_ceil(100);
    let nearest = (MIN_NICE..).zip(NICE_WEIGHTS).min_by_key(|(_, of)| of.abs_diff(weight));
    put!(out, "{}\n", nearest.map_or(0, |(nice, _)| nice))
}

pub(super) fn set_cpu_nice(group: &Ref<Cgroup>, _: &Opener, data: &[u8]) -> Result<()> {
    let nice = parse_number(data)?;
    if !(i64::from(MIN_NICE)..=i64::from(MAX_NICE)).contains(&nice) {
        return Err(Errno::ERANGE);
    }
    let weight = NICE_WEIGHTS[(nice as i32 - MIN_NICE) as usize];
    group.cpu.set_weight(((weight * 100 + NICE_0_WEIGHT / 2) / NICE_0_WEIGHT).max(1));
    Ok(())
}

// ---- memory ----

const PAGE: u64 = PAGE_SIZE as u64;

fn memory(group: &Cgroup) -> Result<&Ref<MemGroup>> {
    group.memory.as_ref().ok_or(Errno::ENODEV)
}

fn show_pages(pages: u64, out: &mut Text) -> Result<()> {
    match pages {
        UNLIMITED => out.bytes(b"max\n"),
        pages => put!(out, "{}\n", pages * PAGE),
    }
}

/// A number of bytes, rounded down to pages, with a unit perhaps (`K`, `M`, `G`, `T`), or `max`.
fn parse_bytes(data: &[u8]) -> Result<u64> {
    if data == b"max" {
        return Ok(UNLIMITED);
    }
    let (digits, shift) = match data.split_last() {
        Some((b'k' | b'K', digits)) => (digits, 10),
        Some((b'm' | b'M', digits)) => (digits, 20),
        Some((b'g' | b'G', digits)) => (digits, 30),
        Some((b't' | b'T', digits)) => (digits, 40),
        _ => (data, 0),
    };
    let text = core::str::from_utf8(digits).map_err(|_| Errno::EINVAL)?;
    let number: u64 = text.parse().map_err(|_| Errno::EINVAL)?;
    Ok(number.saturating_mul(1 << shift) / PAGE)
}

pub(super) fn memory_current(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", memory(group)?.usage() * PAGE)
}

pub(super) fn memory_peak(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", memory(group)?.peak() * PAGE)
}

pub(super) fn memory_max(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    show_pages(memory(group)?.max(), out)
}

pub(super) fn set_memory_max(group: &Ref<Cgroup>, _: &Opener, data: &[u8]) -> Result<()> {
    let memory = memory(group)?;
    memory.set_max(parse_bytes(data)?);
    oom::enforce_max(memory);
    Ok(())
}

pub(super) fn memory_high(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    show_pages(memory(group)?.high(), out)
}

pub(super) fn set_memory_high(group: &Ref<Cgroup>, _: &Opener, data: &[u8]) -> Result<()> {
    let memory = memory(group)?;
    memory.set_high(parse_bytes(data)?);
    if memory.usage() > memory.high() {
        crate::mm::oom::reclaim();
    }
    Ok(())
}

pub(super) fn memory_min(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    show_pages(memory(group)?.min(), out)
}

pub(super) fn set_memory_min(group: &Ref<Cgroup>, _: &Opener, data: &[u8]) -> Result<()> {
    memory(group)?.set_min(parse_bytes(data)?);
    Ok(())
}

pub(super) fn memory_low(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    show_pages(memory(group)?.low(), out)
}

pub(super) fn set_memory_low(group: &Ref<Cgroup>, _: &Opener, data: &[u8]) -> Result<()> {
    memory(group)?.set_low(parse_bytes(data)?);
    Ok(())
}

pub(super) fn memory_watch(_: &Cgroup) -> &Watch {
    oom::memory_events()
}

fn show_events(group: &MemGroup, local: bool, out: &mut Text) -> Result<()> {
    for (event, name) in [
        (MemEvent::Low, "low"),
        (MemEvent::High, "high"),
        (MemEvent::Max, "max"),
        (MemEvent::Oom, "oom"),
        (MemEvent::OomKill, "oom_kill"),
        (MemEvent::OomGroupKill, "oom_group_kill"),
    ] {
        put!(out, "{name} {}\n", group.events(event, local))?;
    }
    Ok(())
}

pub(super) fn memory_events(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    show_events(memory(group)?, options().contains(Options::LOCAL_EVENTS), out)
}

pub(super) fn memory_events_local(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    show_events(memory(group)?, true, out)
}

/// Those rows of Linux's that are about what is counted here.
pub(super) fn memory_stat(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    let MemKinds { anon, file, shmem, kernel } = match &group.memory {
        Some(memory) => memory.kinds(),
        None => {
            let of = |kind| frame::frames_of(kind) as u64;
            let shmem = of(PageKind::Shmem);
            let kernel = [PageKind::Kernel, PageKind::Slab, PageKind::Stack, PageKind::Table];
            MemKinds {
                anon: of(PageKind::Anon),
                file: of(PageKind::Cache) + shmem,
                shmem,
                kernel: kernel.map(of).iter().sum(),
            }
        }
    };
    for (name, pages) in [("anon", anon), ("file", file), ("kernel", kernel), ("shmem", shmem)] {
        put!(out, "{name} {}\n", pages * PAGE)?;
    }
    Ok(())
}

pub(super) fn oom_group(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", u8::from(memory(group)?.kills_group()))
}

pub(super) fn set_oom_group(group: &Ref<Cgroup>, _: &Opener, data: &[u8]) -> Result<()> {
    let on = match parse_number(data)? {
        0 => false,
        1 => true,
        _ => return Err(Errno::EINVAL),
    };
    memory(group)?.set_kills_group(on);
    Ok(())
}

// ---- pids ----

/// More than there can be pids (`PID_MAX_LIMIT`).
const MAX_PIDS: i64 = 4 << 20;

pub(super) fn pids_current(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", group.pids.current())
}

pub(super) fn pids_peak(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", group.pids.peak())
}

pub(super) fn pids_max(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    match group.pids.max() {
        NO_PIDS_LIMIT => out.bytes(b"max\n"),
        max => put!(out, "{max}\n"),
    }
}

pub(super) fn set_pids_max(group: &Ref<Cgroup>, _: &Opener, data: &[u8]) -> Result<()> {
    let max = if data == b"max" {
        NO_PIDS_LIMIT
    } else {
        let max = parse_number(data)?;
        if !(0..=MAX_PIDS).contains(&max) {
            return Err(Errno::EINVAL);
        }
        max as u64
    };
    group.pids.set_max(max);
    Ok(())
}

pub(super) fn pids_events(group: &Ref<Cgroup>, out: &mut Text) -> Result<()> {
    let failures = group.pids.failures.load(core::sync::atomic::Ordering::Relaxed);
    put!(out, "max {failures}\n")
}

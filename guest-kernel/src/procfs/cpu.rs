//! Files of /proc about CPUs and what they did: cpuinfo, stat, uptime, loadavg.

use core::sync::atomic::Ordering;

use belljar_abi::hwcap;

use super::root::namespace;
use super::text::Text;
use crate::arch;
use crate::errno::Result;
use crate::fs::SuperBlock;
use crate::ns::time::WallClock;
use crate::process::clocks::time_ns;
use crate::put;
use crate::sched::{self, cpu};
use crate::task::list;

/// Nanoseconds in a tick of `USER_HZ`, the unit of times in /proc.
pub const TICK: u64 = 10_000_000;

/// /proc/cpuinfo.
pub fn cpuinfo(_: &SuperBlock, out: &mut Text) -> Result<()> {
    let midr = arch::midr();
    let hwcaps = arch::hwcaps().0;
    // Linux derives it from the timer: loops per jiffy are timer ticks.
    let mips = arch::counter_frequency() / 5000;
    for cpu in cpu::each(cpu::online_mask()) {
        put!(out, "processor\t: {cpu}\n")?;
        put!(out, "BogoMIPS\t: {}.{:02}\n", mips / 100, mips % 100)?;
        out.bytes(b"Features\t:")?;
        for name in hwcap::names(hwcaps) {
            put!(out, " {name}")?;
        }
        put!(out, "\nCPU implementer\t: {:#04x}\n", midr >> 24 & 0xff)?;
        put!(out, "CPU architecture: 8\nCPU variant\t: {:#x}\n", midr >> 20 & 0xf)?;
        put!(out, "CPU part\t: {:#05x}\nCPU revision\t: {}\n\n", midr >> 4 & 0xfff, midr & 0xf)?;
    }
    Ok(())
}

/// /proc/stat.
pub fn stat(_: &SuperBlock, out: &mut Text) -> Result<()> {
    let online = cpu::online_mask();
    let line = |out: &mut Text, times: sched::CpuTimes| {
        let (user, system, idle) = (times.user / TICK, times.system / TICK, times.idle / TICK);
        put!(out, " {user} 0 {system} {idle} 0 0 0 0 0 0\n")
    };
    let mut all = sched::CpuTimes::default();
    // What a CPU did that is out now still counts.
    for cpu in 0..arch::cpu_count() {
        all += sched::cpu_times(cpu);
    }
    out.bytes(b"cpu ")?;
    line(out, all)?;
    for cpu in cpu::each(online) {
        put!(out, "cpu{cpu}")?;
        line(out, sched::cpu_times(cpu))?;
    }
    let boot = (sched::realtime_ns().saturating_sub(sched::boottime_ns())) / sched::NSEC_PER_SEC;
    put!(out, "intr 0\nctxt {}\nbtime {boot}\n", sched::nr_context_switches())?;
    put!(out, "processes {}\n", list::TOTAL_FORKS.load(Ordering::Relaxed))?;
    put!(out, "procs_running {}\n", sched::nr_running())?;
    put!(out, "procs_blocked {}\n", sched::nr_uninterruptible())?;
    out.bytes(b"softirq 0 0 0 0 0 0 0 0 0 0 0\n")
}

/// Seconds with two digits behind the point.
fn seconds(out: &mut Text, ns: u64) -> Result<()> {
    let hundredths = ns / TICK;
    put!(out, "{}.{:02}", hundredths / 100, hundredths % 100)
}

/// /proc/uptime.
pub fn uptime(_: &SuperBlock, out: &mut Text) -> Result<()> {
    seconds(out, time_ns().shown(WallClock::BOOTTIME, sched::boottime_ns()))?;
    out.bytes(b" ")?;
    let idle = (0..arch::cpu_count()).map(|cpu| sched::cpu_times(cpu).idle).sum();
    seconds(out, idle)?;
    out.bytes(b"\n")
}

/// /proc/loadavg.
pub fn loadavg(sb: &SuperBlock, out: &mut Text) -> Result<()> {
    for load in sched::loadavg() {
        // Rounded to hundredths, from 11 bits behind the point.
        let load = load + (1 << 11) / 200;
        put!(out, "{}.{:02} ", load >> 11, ((load & 0x7ff) * 100) >> 11)?;
    }
    let threads = list::NR_THREADS.load(Ordering::Relaxed);
    put!(out, "{}/{threads} {}\n", sched::nr_running(), namespace(sb).last_pid())
}

//! Calls about the system as a whole: uname(2), sysinfo(2), names, reboot(2), getcpu(2).

use core::sync::atomic::Ordering;

use super::{Args, SysResult};
use crate::arch;
use crate::errno::{Errno, Result};
use crate::mm::frame;
use crate::mm::{UserPtr, copy_in, copy_out};
use crate::ns::time::WallClock;
use crate::ns::uts::{UTS_LEN, UtsName, uts_name};
use crate::ns::{Cap, PidNs};
use crate::process::clocks::time_ns;
use crate::sched;
use crate::signal::{SIGHUP, SIGINT, SIGKILL, SigInfo};
use crate::task::{self, list};

/// What `uname -r` says: the Linux release whose interface this kernel follows.
pub const RELEASE: &str = concat!("6.1.0-belljar-", env!("CARGO_PKG_VERSION"));
/// What `uname -v` says.
pub const VERSION: &str = "#1 SMP PREEMPT Bell Jar";

/// uname(2).
pub fn sys_uname(a: &mut Args) -> SysResult {
    let names = *task::current().nsproxy().uts.names.lock();
    let fields: [UtsName; 6] = [
        uts_name(b"Linux")?,
        names.nodename,
        uts_name(RELEASE.as_bytes())?,
        uts_name(VERSION.as_bytes())?,
        uts_name(b"aarch64")?,
        names.domainname,
    ];
    a.ptr::<[UtsName; 6]>(0).write_ref(&fields)?;
    Ok(0)
}

fn read_name(addr: u64, len: i32) -> Result<UtsName> {
    let task = task::current();
    if !task.cred().ns_capable(task.nsproxy().uts.common.user_ns(), Cap::SysAdmin) {
        return Err(Errno::EPERM);
    }
    let len = usize::try_from(len).ok().filter(|&l| l <= UTS_LEN).ok_or(Errno::EINVAL)?;
    let mut bytes = [0; UTS_LEN];
    copy_in(addr, &mut bytes[..len])?;
    uts_name(&bytes[..len])
}

/// sethostname(2).
pub fn sys_sethostname(a: &mut Args) -> SysResult {
    let name = read_name(a.u64(0), a.i32(1))?;
    task::current().nsproxy().uts.names.lock().nodename = name;
    Ok(0)
}

/// setdomainname(2).
pub fn sys_setdomainname(a: &mut Args) -> SysResult {
    let name = read_name(a.u64(0), a.i32(1))?;
    task::current().nsproxy().uts.names.lock().domainname = name;
    Ok(0)
}

/// sysinfo(2).
pub fn sys_sysinfo(a: &mut Args) -> SysResult {
    let loads = sched::loadavg();
    let mut bytes = [0_u8; 112];
    let mut put = |at: usize, v: u64| bytes[at..at + 8].copy_from_slice(&v.to_le_bytes());
    let uptime = time_ns().shown(WallClock::BOOTTIME, sched::boottime_ns());
    put(0, uptime / sched::NSEC_PER_SEC);
    for (i, load) in loads.iter().enumerate() {
        // Fixed point with 16 bits here, 11 bits in the scheduler.
        put(8 + i * 8, *load << 5);
    }
    let page = crate::addr::PAGE_SIZE as u64;
    put(32, frame::total_frames() as u64 * page);
    put(40, frame::free_frames() as u64 * page);
    put(48, frame::frames_of(frame::PageKind::Shmem) as u64 * page);
    put(56, 0);
    let procs = list::NR_THREADS.load(Ordering::Relaxed).min(u32::from(u16::MAX)) as u16;
    bytes[80..82].copy_from_slice(&procs.to_le_bytes());
    bytes[104..108].copy_from_slice(&1_u32.to_le_bytes());
    copy_out(a.u64(0), &bytes)?;
    Ok(0)
}

/// getcpu(2).
pub fn sys_getcpu(a: &mut Args) -> SysResult {
    let cpu = arch::current_thread().info.cpu() as u32;
    for (ptr, value) in [(a.u64(0), cpu), (a.u64(1), 0)] {
        if ptr != 0 {
            UserPtr::<u32>::new(ptr).write(value)?;
        }
    }
    Ok(0)
}
/// reboot(2): restart, halt and power off; Ctrl-Alt-Del has no key here.
pub fn sys_reboot(a: &mut Args) -> SysResult {
    const MAGIC1: u32 = 0xfee1_dead;
    const MAGIC2: [u32; 4] = [672_274_793, 85_072_278, 369_367_448, 537_993_216];
    let task = task::current();
    let pids = task.thread_pid.own().ns();
    if !task.cred().ns_capable(pids.common.user_ns(), Cap::SysBoot) {
        return Err(Errno::EPERM);
    }
    if a.u32(0) != MAGIC1 || !MAGIC2.contains(&a.u32(1)) {
        return Err(Errno::EINVAL);
    }
    if pids.level > 0 {
        return reboot_namespace(pids, a.u32(2));
    }
    match a.u32(2) {
        0x0123_4567 => crate::process::init::shutdown(0, true),
        0xcdef_0123 | 0x4321_fedc => crate::process::init::shutdown(0, false),
        0 | 0x89ab_cdef => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// In a namespace of its own, rebooting ends its reaper, and with it the namespace; the parent learns
/// how from the signal (pid_namespaces(7), "Miscellaneous").
fn reboot_namespace(ns: &PidNs, command: u32) -> SysResult {
    let signal = match command {
        0x0123_4567 | 0xa1b2_c3d4 => SIGHUP,
        0xcdef_0123 | 0x4321_fedc => SIGINT,
        _ => return Err(Errno::EINVAL),
    };
    let list = list::lock();
    let reaper = ns.child_reaper.load(Ordering::Acquire).cast::<task::Task>();
    // SAFETY: null, or alive under the list's lock.
    let Some(reaper) = (unsafe { reaper.as_ref() }) else { return Ok(0) };
    ns.reboot.store(signal, Ordering::Relaxed);
    crate::process::signal::send_locked(&list, SigInfo::kernel(SIGKILL), reaper, true)?;
    drop(list);
    crate::process::exit::do_exit(0)
}

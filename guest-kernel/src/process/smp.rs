//! Bringing CPUs up and taking them down: the threads that every CPU has, its idle task, and the order
//! in which they come and go.
//!
//! A CPU that comes: its threads are made (once; they sleep while it is out), its idle task `swapper/N` is
//! made (once), [`hotplug::start`] starts it, its threads go on. A CPU that goes: its threads park,
//! [`hotplug::take_down`] sends away what runs there and turns it off, what it had put off is done here.
//! CPU 0, which takes the devices' interrupts, always stays.

use core::sync::atomic::Ordering;

use super::kthread::CpuThreads;
use super::{fork, timers};
use crate::errno::{Errno, Result};
use crate::introspect;
use crate::kref::Ref;
use crate::mm::KernelStack;
use crate::ns::init_nsproxy;
use crate::process::init::init_task;
use crate::sched::{cpu, hotplug, softirq, workqueue};
use crate::signal::Sighand;
use crate::sync::{MAX_CPUS, MutexGuard, Once, PerCpu};
use crate::task::{SignalStruct, Task, TaskFlags};
use crate::{arch, kerr, kinfo};

static THREADS: PerCpu<Once<CpuThreads>> = PerCpu::new([const { Once::new() }; MAX_CPUS]);
static IDLE: PerCpu<Once<Ref<Task>>> = PerCpu::new([const { Once::new() }; MAX_CPUS]);

/// Starts every CPU that the machine has. One that does not start is reported and left out.
pub fn start_all() {
    let boot_cpu = 0;
    if let Err(e) = softirq::prepare(boot_cpu) {
        kerr!("CPU {boot_cpu}: its softirqs get no stack of their own: {e}");
    }
    match CpuThreads::new(boot_cpu) {
        Ok(threads) => THREADS.of(boot_cpu).set(threads).unpark(),
        Err(e) => kerr!("CPU {boot_cpu}: its threads cannot be made: {e}"),
    }
    for cpu in (0..arch::cpu_count()).filter(|&cpu| cpu != boot_cpu) {
        if let Err(e) = cpu_up(cpu) {
            kerr!("CPU {cpu} is left out: {e}");
        }
    }
    kinfo!("{} CPUs online", cpu::online_count());
}

/// Brings a CPU up; it is online, with its threads, when this returns. `EINVAL` if the machine has no such
/// CPU, `EIO` if it does not start.
pub fn cpu_up(cpu: usize) -> Result<()> {
    up(cpu, &hotplug::LOCK.lock())
}

/// [`cpu_up`] for who holds the lock; `EINVAL` for a CPU that this machine does not have.
fn up(cpu: usize, _hotplug: &MutexGuard<'static, ()>) -> Result<()> {
    if cpu >= arch::cpu_count() {
        return Err(Errno::EINVAL);
    }
    if cpu::is_online(cpu) {
        return Ok(());
    }
    let idle = match IDLE.of(cpu).try_get() {
        Some(idle) => idle,
        None => IDLE.of(cpu).set(idle_task(cpu)?),
    };
    let threads = match THREADS.of(cpu).try_get() {
        Some(threads) => threads,
        None => THREADS.of(cpu).set(CpuThreads::new(cpu)?),
    };
    softirq::prepare(cpu)?;
    // SAFETY: it has a stack of its own, and its CPU is off.
    unsafe { hotplug::start(cpu, &idle.se)? };
    introspect::publish_run_queues(
        usize::BITS as usize - cpu::online_mask().leading_zeros() as usize,
    );
    threads.unpark();
    Ok(())
}

/// Takes a CPU down; it is off when this returns, and everything that ran there runs elsewhere. `EBUSY`
/// for CPU 0 and for the last one.
pub fn cpu_down(cpu: usize) -> Result<()> {
    if cpu >= arch::cpu_count() {
        return Err(Errno::EINVAL);
    }
    if cpu == 0 {
        return Err(Errno::EBUSY);
    }
    down(cpu, &hotplug::LOCK.lock())
}

/// [`cpu_down`] for who holds the lock.
fn down(cpu: usize, _hotplug: &MutexGuard<'static, ()>) -> Result<()> {
    let Some(threads) = THREADS.of(cpu).try_get().filter(|_| cpu::is_online(cpu)) else {
        return Ok(());
    };
    threads.park();
    if let Err(e) = hotplug::take_down(cpu) {
        threads.unpark();
        return Err(e);
    }
    workqueue::adopt(cpu);
    timers::adopt(cpu);
    Ok(())
}

/// The secondary CPUs while the machine is frozen. Nobody else brings one up or takes one down meanwhile.
pub struct Parked {
    /// Those that were online, a bit each.
    pub mask: u64,
    hotplug: MutexGuard<'static, ()>,
}

/// Takes all CPUs down but CPU 0: before the machine is frozen.
pub fn park_secondary_cpus() -> Result<Parked> {
    let parked = Parked { hotplug: hotplug::LOCK.lock(), mask: cpu::online_mask() & !1 };
    for cpu in cpu::each(parked.mask) {
        if let Err(e) = down(cpu, &parked.hotplug) {
            let mask = parked.mask;
            parked.start(mask);
            return Err(e);
        }
    }
    Ok(parked)
}

impl Parked {
    /// Brings those CPUs up that `mask` names: after the machine went on. One that does not come, or that
    /// this machine does not have, is reported and left out.
    pub fn start(self, mask: u64) {
        for cpu in cpu::each(mask) {
            if let Err(e) = up(cpu, &self.hotplug) {
                kerr!("CPU {cpu} does not come back: {e}");
            }
        }
    }
}

/// `swapper/N`: pid 0, nobody's child, on no list.
fn idle_task(cpu: usize) -> Result<Ref<Task>> {
    let boot = init_task();
    let stack = KernelStack::alloc()?;
    let range = stack.range();
    let task = fork::new_task(
        boot.thread_pid.share(),
        boot.cred.share(),
        boot.files.share().ok_or(Errno::EINVAL)?,
        boot.fs.share().ok_or(Errno::EINVAL)?,
        init_nsproxy().clone(),
        SignalStruct::new(boot.signal.rlimits.copy())?,
        Sighand::new()?,
        Some(stack),
    )?;
    // SAFETY: the task does not run yet.
    unsafe { *task.se.thread.stack.get() = range };
    task.set_comm(alloc::format!("swapper/{cpu}").as_bytes());
    task.set_flags(TaskFlags::KTHREAD | TaskFlags::IDLE);
    let (own, parent) = (Ref::as_ptr(&task).cast_mut(), core::ptr::from_ref(boot).cast_mut());
    task.group_leader.store(own, Ordering::Relaxed);
    task.parent.store(parent, Ordering::Relaxed);
    task.real_parent.store(parent, Ordering::Relaxed);
    Ok(task)
}

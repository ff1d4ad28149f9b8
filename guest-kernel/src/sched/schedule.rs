//! The verbs: `schedule`, `switch_to` and what follows it, waking up, preemption, the tick.
//!
//! # Locks
//! A run queue's lock is held from before the choice of the next entity until the switch is over: the
//! entity switched *to* lets go of it (`finish_task_switch`). So whoever holds the lock of the queue
//! of an entity's CPU and finds it not queued knows that it is off the CPU altogether, and may queue it
//! anywhere, unless [`Entity::migrate`] says that somebody is about to. Lock order: wait queue, futex
//! bucket → run queue → timer base. Two run queues are locked in the order of their CPUs, or the second
//! is only tried.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering, Ordering::Relaxed, fence};

use super::clock::{Deadline, monotonic_ns};
use super::cpu;
use super::entity::{Entity, WaitChannel, current};
use super::prio;
use super::runqueue::{RunQueue, effective_prio};
use super::state::TaskState;
use super::timer;
use crate::arch::{self, Thread, ThreadFlags};
use crate::kref::Ref;
use crate::mm::Mm;
use crate::sync::{IrqGuard, IrqLock, IrqLockGuard, MAX_CPUS, PerCpu, PreemptGuard, this_cpu};

/// All run queues.
pub static RUNQUEUES: PerCpu<IrqLock<RunQueue>> =
    PerCpu::new([const { IrqLock::new(RunQueue::new()) }; MAX_CPUS]);

/// A locked run queue; its sequence count is odd meanwhile.
pub(super) struct RqGuard(IrqLockGuard<'static, RunQueue>);

/// Locks the run queue of a CPU.
#[inline]
pub(super) fn lock_rq(cpu: usize) -> RqGuard {
    RqGuard::new(RUNQUEUES.of(cpu).lock())
}

impl RqGuard {
    #[inline]
    pub(super) fn new(rq: IrqLockGuard<'static, RunQueue>) -> Self {
        rq.seq.begin();
        Self(rq)
    }
}

impl core::ops::Deref for RqGuard {
    type Target = RunQueue;

    #[inline]
    fn deref(&self) -> &RunQueue {
        &self.0
    }
}

impl core::ops::DerefMut for RqGuard {
    #[inline]
    fn deref_mut(&mut self) -> &mut RunQueue {
        &mut self.0
    }
}

impl Drop for RqGuard {
    #[inline]
    fn drop(&mut self) {
        self.0.seq.end();
    }
}

/// Task 0 takes over what the boot code was running as: this thread of control, with its stack, is
/// `entity` from here on, and the CPU's idle entity if it schedules already.
///
/// # Safety
/// Called once, by the boot CPU; `entity` never ran, and lives for ever.
pub unsafe fn adopt_boot_thread(entity: &'static Entity) {
    let _irq = IrqGuard::new();
    let boot = arch::current_thread();
    entity.thread.info.set_cpu(boot.info.cpu());
    entity.thread.info.set_preempt_count(boot.info.preempt_count());
    entity.thread.info.set(boot.info.flags());
    // SAFETY: the boot thread runs here, and `entity` does not run yet.
    unsafe { *entity.thread.stack.get() = *boot.stack.get() };
    arch::set_current_thread(&entity.thread);
    become_idle(entity);
}

/// The current entity is what its CPU runs when there is nothing else.
fn become_idle(idle: &'static Entity) {
    let cpu = this_cpu();
    idle.policy.store(prio::Policy::Idle as u32, Relaxed);
    idle.prio.store(prio::MAX_PRIO as i32 - 1, Relaxed);
    idle.normal_prio.store(prio::MAX_PRIO as i32 - 1, Relaxed);
    idle.cpus_allowed.store(1 << cpu, Relaxed);
    idle.on_cpu.store(true, Relaxed);
    idle.set_running();
    // SAFETY: the callers' entities live for ever and are what runs here.
    unsafe { lock_rq(cpu).start(cpu, idle, monotonic_ns()) };
}

/// CPUs on which there is somebody to switch to: online ones, and those on their way out.
static SCHEDULING: AtomicU64 = AtomicU64::new(0);

/// This CPU starts to schedule; what runs now becomes its idle entity.
pub fn init_cpu() {
    let _irq = IrqGuard::new();
    become_idle(current());
    SCHEDULING.fetch_or(1 << this_cpu(), Ordering::AcqRel);
    cpu::set_online(this_cpu());
}

/// True once this CPU schedules.
#[inline]
pub(super) fn is_scheduling() -> bool {
    SCHEDULING.load(Relaxed) & (1 << this_cpu()) != 0
}

/// True once any CPU schedules.
#[inline]
pub(super) fn has_begun() -> bool {
    SCHEDULING.load(Relaxed) != 0
}

/// This CPU, which was taken out, schedules no more. Interrupts are off, and the idle entity runs.
pub(super) fn cease() {
    SCHEDULING.fetch_and(!(1 << this_cpu()), Ordering::AcqRel);
}

/// What a CPU does when nothing else is runnable.
pub fn idle_loop() -> ! {
    loop {
        arch::irq_disable();
        if !cpu::is_online(this_cpu()) {
            super::hotplug::die();
        }
        if !current().thread.info.need_resched() {
            // An interrupt ends the wait even while it is masked, so none can slip in between.
            arch::wait_for_interrupt();
        }
        arch::irq_enable();
        if current().thread.info.need_resched() {
            schedule();
        }
    }
}

/// The idle entity of a CPU; `None` if it never started.
pub(super) fn idle_of(cpu: usize) -> Option<&'static Entity> {
    // SAFETY: one word that is set once.
    unsafe { (*RUNQUEUES.of(cpu).data_ptr()).idle() }
}

/// Locks the run queue of the CPU that an entity is on.
pub(super) fn lock_rq_of(entity: &Entity) -> RqGuard {
    loop {
        let cpu = entity.cpu();
        let rq = lock_rq(cpu);
        if entity.cpu() == cpu {
            return rq;
        }
    }
}

/// Makes the CPU of a queue look for something better to run.
#[inline]
pub(super) fn resched_curr(rq: &RunQueue) {
    let info = &rq.curr().thread.info;
    if !info.need_resched() {
        info.set(ThreadFlags::NEED_RESCHED);
        if rq.cpu() != this_cpu() {
            arch::irq::send_ipi(rq.cpu(), cpu::IPI_RESCHEDULE);
        }
    }
}

// ---- Giving up the CPU ----

/// Gives up the CPU. If the current entity's state is a sleep, it sleeps until it is woken.
pub fn schedule() {
    let info = &arch::current_thread().info;
    debug_assert_eq!(info.preempt_count(), 0, "schedule() with preemption off");
    loop {
        info.preempt_disable();
        schedule_once(false);
        if !info.preempt_enable() || !info.need_resched() {
            break;
        }
    }
}

/// [`schedule`], showing `channel` as what is waited for.
#[inline]
pub fn schedule_in(channel: &'static WaitChannel) {
    let me = current();
    me.set_wchan(Some(channel));
    schedule();
    me.set_wchan(None);
}

/// A preemption point was reached with a reschedule wanted (the last guard was dropped).
#[unsafe(no_mangle)]
fn preempt_schedule() {
    if !is_scheduling() {
        return;
    }
    let info = &arch::current_thread().info;
    loop {
        info.preempt_disable();
        schedule_once(true);
        if !info.preempt_enable() || !info.need_resched() {
            break;
        }
    }
}

/// An interrupt that came at EL1 is about to return, preemption is allowed and a reschedule wanted.
/// Interrupts are off, and off again on return.
pub fn preempt_schedule_irq() {
    let info = &arch::current_thread().info;
    if !is_scheduling() || info.preempt_count() != 0 {
        return;
    }
    while info.need_resched() {
        info.preempt_disable();
        // What a switch leaves to be freed is freed with interrupts on.
        arch::irq_enable();
        schedule_once(true);
        arch::irq_disable();
        info.preempt_enable();
    }
}

/// Lets the others run first.
pub fn yield_now() {
    if is_scheduling() {
        {
            let _irq = IrqGuard::new();
            lock_rq(this_cpu()).yield_task();
        }
        schedule();
    }
}

/// [`schedule`], with a wake-up at a time of the monotonic clock; the state was set by
/// [`Entity::prepare_sleep`].
pub fn schedule_until(deadline: Option<u64>) {
    match deadline {
        Some(ns) => {
            timer::schedule_timeout(Deadline::monotonic(ns), crate::wait_channel!("sigtimedwait"));
        }
        None => schedule_in(crate::wait_channel!("sigsuspend")),
    }
}

/// Sleeps until `condition` is true, for who is woken by name ([`wake_up_process`]) when it may be.
pub fn wait_until(mut condition: impl FnMut() -> bool) {
    let me = current();
    loop {
        me.prepare_sleep(TaskState::UNINTERRUPTIBLE);
        if condition() {
            break me.cancel_sleep();
        }
        schedule_in(crate::wait_channel!("wait_until"));
    }
}

/// One choice and, if it falls on another entity, one switch. Preemption is off. A preempted entity stays
/// queued whatever its state: it may be on its way to a sleep, condition not yet checked.
fn schedule_once(preempted: bool) {
    if !is_scheduling() {
        return wait_without_scheduler();
    }
    let irq = arch::irq_save();
    let prev = current();
    let mut rq = lock_rq(this_cpu());
    let now = monotonic_ns();
    rq.update_curr(now);
    let state = prev.state();
    let mut voluntary = false;
    if !preempted && state != TaskState::RUNNING {
        if prev.signal_pending_state(state) {
            prev.end_sleep();
        } else {
            rq.deactivate_task(prev, now);
            voluntary = true;
        }
    }
    prev.thread.info.clear(ThreadFlags::NEED_RESCHED);
    if prev.is_queued() && !super::balance::may_stay(prev, rq.cpu()) {
        // It may not run here any more; `Leftover::dispose` sends it off.
        rq.dequeue_task(prev);
        prev.migrate.store(true, Relaxed);
    }
    if rq.nr_running() == 0 && cpu::online_count() > 1 && rq.is_online() {
        super::balance::pull_to_idle(&mut rq);
    }
    // SAFETY: what is queued, and the idle entity, live.
    let next = unsafe { &*rq.pick_next_task(now) };
    if ptr::eq(prev, next) {
        drop(rq);
        arch::irq_restore(irq);
        return;
    }
    let count = if voluntary { &prev.nvcsw } else { &prev.nivcsw };
    count.store(count.load(Relaxed) + 1, Relaxed);
    rq.set_curr(next, now);
    if let Some(at) = rq.next_event(now) {
        timer::want_sched_event(at);
    }
    let last = context_switch(rq, prev, next);
    let leftover = finish_task_switch(last);
    arch::irq_restore(irq);
    leftover.dispose();
}

/// Before the CPU schedules there is nobody to switch to: the sleep is a wait for interrupts.
#[cold]
fn wait_without_scheduler() {
    let me = current();
    me.thread.info.clear(ThreadFlags::NEED_RESCHED);
    while me.state() != TaskState::RUNNING {
        if me.signal_pending_state(me.state()) {
            me.cancel_sleep();
            break;
        }
        timer::poll();
        let irq = arch::irq_save();
        if me.state() != TaskState::RUNNING {
            arch::wait_for_interrupt();
        }
        arch::irq_restore(irq);
    }
}

/// Address space first, then stack and registers. Returns, once somebody switches back to `prev`, whom
/// that CPU ran before.
fn context_switch(mut rq: RqGuard, prev: &Entity, next: &Entity) -> &'static Thread {
    // SAFETY: both belong to the scheduler: `prev` is the current entity, `next` runs nowhere.
    let ((prev_mm, prev_active), (next_mm, next_active)) =
        unsafe { (prev.mm_cells(), next.mm_cells()) };
    // SAFETY: as above, and the cells of two entities are distinct.
    let (prev_active, next_active) = unsafe { (&mut *prev_active, &mut *next_active) };
    match next_mm {
        // A kernel thread goes on with whatever tables are in use, and keeps them alive.
        None => {
            *next_active = match prev_mm {
                Some(mm) => Some(mm.clone()),
                None => prev_active.take(),
            };
        }
        Some(mm) => {
            let in_use = prev_mm.as_ref().or(prev_active.as_ref());
            if !in_use.is_some_and(|used| Ref::ptr_eq(used, mm)) {
                mm.activate();
            }
            rq.prev_mm = prev_active.take();
        }
    }
    next.on_cpu.store(true, Relaxed);
    // The lock is carried across: whoever runs next lets go of it.
    core::mem::forget(rq);
    // SAFETY: `prev` is current and `next` is off every CPU; the run queue's lock is held and interrupts
    // are off, so nothing touches either meanwhile.
    unsafe { arch::switch_to(&prev.thread, &next.thread) }
}

/// What is left to be let go of after a switch, with interrupts on.
struct Leftover {
    mm: Option<Ref<Mm>>,
    dead: Option<&'static Entity>,
    homeless: Option<&'static Entity>,
}

/// Ends a switch, on the stack of the entity switched to: `last` is off this CPU from here on.
fn finish_task_switch(last: &'static Thread) -> Leftover {
    // SAFETY: every thread is the first field of an entity.
    let prev: &'static Entity = unsafe { &*ptr::from_ref(last).cast::<Entity>() };
    let queue = RUNQUEUES.this();
    // SAFETY: the lock was carried across the switch.
    let rq = unsafe { &mut *queue.data_ptr() };
    let mm = rq.prev_mm.take();
    let dead = (prev.state() == TaskState::DEAD).then_some(prev);
    let homeless = prev.migrate.load(Relaxed).then_some(prev);
    prev.on_cpu.store(false, Ordering::Release);
    rq.seq.end();
    // SAFETY: `context_switch` forgot the guard; the caller restores interrupts.
    unsafe { queue.force_unlock() };
    Leftover { mm, dead, homeless }
}

impl Leftover {
    #[inline]
    fn dispose(self) {
        drop(self.mm);
        if let Some(entity) = self.homeless {
            place(entity);
        }
        if let Some(entity) = self.dead {
            (entity.ops().put)(entity);
        }
    }
}

/// The first thing that a new thread does: ends the switch to it. `ret_from_fork` calls it with
/// interrupts off; they are on afterwards.
#[unsafe(no_mangle)]
extern "C" fn schedule_tail(prev: &'static Thread) {
    let leftover = finish_task_switch(prev);
    arch::irq_enable();
    leftover.dispose();
    let info = &arch::current_thread().info;
    if info.preempt_enable() && info.need_resched() {
        preempt_schedule();
    }
}

/// The current entity ends: it is never run again, and `EntityOps::put` is called once it is off its
/// stack.
pub fn exit_current() -> ! {
    let info = &arch::current_thread().info;
    info.preempt_disable();
    {
        // A waker that saw an earlier sleep holds this lock until it has made it RUNNING.
        let _irq = IrqGuard::new();
        let _rq = lock_rq(this_cpu());
        current().die();
    }
    schedule_once(false);
    unreachable!("a dead entity was scheduled")
}

// ---- Waking up ----

/// Makes `entity` runnable if its state is one of `states`; true if it was. O(1), from any context.
pub fn wake_up(entity: &Entity, states: TaskState) -> bool {
    // The caller's change (the condition) before the look at the state; `prepare_sleep` has the other half.
    fence(Ordering::SeqCst);
    if !entity.state().intersects(states) {
        return false;
    }
    if !has_begun() {
        return entity.end_sleep_if(states);
    }
    let mut rq = lock_rq_of(entity);
    let state = entity.state();
    if !state.intersects(states) {
        return false;
    }
    if entity.is_queued() || entity.migrate.load(Relaxed) {
        // It has not got as far as `schedule`, or was preempted on its way there.
        entity.end_sleep();
        return true;
    }
    if cpu::online_count() > 1 || !rq.is_online() {
        let _irq = IrqGuard::new();
        let mut target = super::balance::select_cpu(entity, rq.cpu());
        if target != rq.cpu() {
            rq.forget_sleeper(state);
            // Nobody else wakes it while it is WAKING; its parameters may change.
            entity.begin_waking();
            loop {
                entity.thread.info.set_cpu(target);
                drop(rq);
                rq = lock_rq(target);
                if super::balance::accepts(&rq, entity) {
                    break;
                }
                target = super::balance::select_cpu(entity, target);
            }
        }
    }
    let now = monotonic_ns();
    super::loadavg::catch_up(now);
    rq.activate_task(entity, now);
    entity.end_sleep();
    arrived(&rq, entity);
    true
}

/// Wakes an entity out of any ordinary sleep.
pub fn wake_up_process(entity: &Entity) -> bool {
    wake_up(entity, TaskState::NORMAL)
}

/// `entity` was queued: it may preempt; if not, the running one now has a slice that ends.
#[inline]
pub(super) fn arrived(rq: &RunQueue, entity: &Entity) {
    if rq.preempts_curr(entity) {
        resched_curr(rq);
    } else if rq.nr_running() == 2 && rq.cpu() == this_cpu() {
        let now = monotonic_ns();
        if let Some(at) = rq.next_event(now) {
            timer::want_sched_event(at);
        }
    }
}

/// Queues an entity that [`Entity::migrate`] keeps out of every queue: it is off the CPU that it may not
/// run on.
fn place(entity: &Entity) {
    let _irq = IrqGuard::new();
    let from = entity.cpu();
    loop {
        let cpu = super::balance::select_cpu(entity, from);
        // Both, so that whoever holds the lock of the entity's CPU sees either all of it or nothing.
        let first = lock_rq(cpu.min(from));
        let second = (cpu != from).then(|| lock_rq(cpu.max(from)));
        let (mut rq, _from) = match second {
            Some(second) if cpu > from => (second, Some(first)),
            second => (first, second),
        };
        if super::balance::accepts(&rq, entity) {
            entity.thread.info.set_cpu(cpu);
            entity.migrate.store(false, Relaxed);
            rq.sum_load(monotonic_ns());
            rq.enqueue_task(entity);
            return arrived(&rq, entity);
        }
    }
}

/// Makes a running entity enter the kernel soon, so that it sees its flags: what a signal does to a
/// target that runs on another CPU.
pub fn kick(entity: &Entity) {
    let _preempt = PreemptGuard::new();
    // The flag before the look; a switch to the entity has a barrier between the two as well.
    fence(Ordering::SeqCst);
    if entity.is_on_cpu() && entity.cpu() != this_cpu() {
        arch::irq::send_ipi(entity.cpu(), cpu::IPI_RESCHEDULE);
    }
}

// ---- The tick ----

/// The scheduler's event of this CPU came: account, look at the slice, ask for the next one. Interrupts
/// are off.
pub(super) fn scheduler_tick(user: bool) {
    if !is_scheduling() {
        return;
    }
    let curr = current();
    {
        let mut rq = lock_rq(this_cpu());
        let now = monotonic_ns();
        super::loadavg::catch_up(now);
        rq.update_curr(now);
        super::cputime::sample(curr, user);
        if rq.task_tick(now) {
            resched_curr(&rq);
        }
        if cpu::online_count() > 1 && rq.is_online() {
            super::balance::tick(&mut rq, now);
        }
        if let Some(at) = rq.next_event(now) {
            timer::set_sched_event(at);
        }
    }
    (curr.ops().tick)(curr);
}

/// Charges the current entity up to now and says how long it ran in all.
pub(super) fn current_runtime() -> u64 {
    let me = current();
    if is_scheduling() {
        let _irq = IrqGuard::new();
        lock_rq(this_cpu()).update_curr(monotonic_ns());
    }
    me.sum_exec_runtime.load(Relaxed)
}

/// How long an entity ran in all, up to now.
pub(super) fn runtime_of(entity: &Entity) -> u64 {
    if has_begun() {
        let mut rq = lock_rq_of(entity);
        if ptr::eq(rq.curr(), entity) {
            rq.update_curr(monotonic_ns());
        }
    }
    entity.sum_exec_runtime.load(Relaxed)
}

/// Changes scheduling parameters under the run queue's lock and puts the entity where it now belongs.
pub(super) fn change_params(entity: &Entity, change: impl FnOnce()) {
    if !has_begun() {
        change();
        entity.prio.store(effective_prio(entity), Relaxed);
        return;
    }
    let _irq = IrqGuard::new();
    let mut rq = lock_rq_of(entity);
    let before = entity.prio();
    change();
    let after = effective_prio(entity);
    if after != before {
        rq.set_prio(entity, after);
    }
    if ptr::eq(rq.curr(), entity) {
        // Somebody better may wait by now, or the CPU is not allowed any more.
        if after > before || !super::balance::may_stay(entity, rq.cpu()) {
            resched_curr(&rq);
        }
    } else if entity.is_queued() {
        if !super::balance::may_stay(entity, rq.cpu()) {
            rq.dequeue_task(entity);
            entity.migrate.store(true, Relaxed);
            drop(rq);
            return place(entity);
        }
        arrived(&rq, entity);
    }
}

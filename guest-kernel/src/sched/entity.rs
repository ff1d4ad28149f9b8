//! [`Entity`]: what the scheduler schedules. It is the first field of a task, and its own first field
//! is the machine's thread, so `current` finds all three through one register.
//!
//! Fields are atomics only so that they may be read without the lock; who writes which:
//! - `state` goes to a sleep by the entity itself, and back by a waker that holds the run-queue lock;
//! - `on_rq`, `array`, `run_list`, priorities, slice and run time: under the lock of the run queue of
//!   the CPU that `thread.info` names;
//! - `group`: under that lock too, but never while the entity is between two queues;
//! - `mm`: by the entity itself (exec, exit) under `mm_lock`, so that others may read it under the lock.

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering, Ordering::Relaxed, fence,
};

use belljar_abi::Described;

use super::group::SchedGroup;
use super::prio::{self, Policy};
use super::prio_array::PrioArray;
use super::state::TaskState;
use crate::arch::{self, Thread, ThreadFlags};
use crate::kref::Ref;
use crate::list::Link;
use crate::list_link;
use crate::mm::Mm;
use crate::sync::IrqLock;

/// What the scheduler asks of whoever the entity is part of (a task).
pub struct EntityOps {
    /// Drops the reference that a running entity holds on itself: it is dead and switched away.
    pub put: fn(&Entity),
    /// True if a fatal signal is pending: it ends a killable sleep.
    pub fatal_signal_pending: fn(&Entity) -> bool,
    /// Forgets what the current entity takes for a signal, if it is only that its process is or was held; true if so.
    pub put_hold_aside: fn(&Entity) -> bool,
    /// The accounting tick of the running entity (interrupts off): CPU-time limits and timers.
    pub tick: fn(&Entity),
}

/// Operations of an entity that is part of nothing: boot and tests.
pub static BARE_OPS: EntityOps = EntityOps {
    put: |_| {},
    fatal_signal_pending: |_| false,
    put_hold_aside: |_| false,
    tick: |_| {},
};

/// Where an entity sleeps, for `ps`: a name that lives in the image.
#[repr(C)]
#[derive(Described)]
pub struct WaitChannel {
    name: &'static str,
}

impl WaitChannel {
    /// A channel with a name; of a path (`module_path!`) the last part.
    pub const fn new(path: &'static str) -> Self {
        let bytes = path.as_bytes();
        let mut start = bytes.len();
        while start > 0 && bytes[start - 1] != b':' {
            start -= 1;
        }
        Self { name: path.split_at(start).1 }
    }

    /// The name.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// What the scheduler schedules.
#[repr(C)]
#[derive(Described)]
pub struct Entity {
    /// The machine's part. First: `current` casts.
    pub thread: Thread,
    #[described(as = "flags TaskState")]
    state: AtomicU32,
    /// Runs on a CPU, or is being switched away from one.
    pub(super) on_cpu: AtomicBool,
    /// Is in a priority array (a running entity is too).
    pub(super) on_rq: AtomicBool,
    /// Must leave the CPU for one that `cpus_allowed` names, as soon as it is switched away.
    pub(super) migrate: AtomicBool,
    /// `SCHED_RESET_ON_FORK`: children start as normal ones.
    pub(super) reset_on_fork: AtomicBool,
    /// Its slice is still the one cut from its parent's.
    pub(super) first_slice: AtomicBool,
    #[described(as = "enum Policy")]
    pub(super) policy: AtomicU32,
    /// The level in the priority array now.
    pub(super) prio: AtomicI32,
    /// The level of the nice value.
    pub(super) static_prio: AtomicI32,
    /// The level without bonus or inheritance.
    pub(super) normal_prio: AtomicI32,
    /// The level inherited from waiters on PI futexes; `MAX_PRIO` if none.
    pub(super) pi_prio: AtomicI32,
    pub(super) rt_priority: AtomicU32,
    /// One bit for each CPU that it may run on.
    pub(super) cpus_allowed: AtomicU64,
    pub(super) run_list: Link,
    #[described(as = "ptr PrioArray")]
    pub(super) array: AtomicPtr<PrioArray>,
    /// What is left of the slice, in ns.
    pub(super) time_slice: AtomicU64,
    /// How much it slept lately, 0..=[`prio::MAX_SLEEP_AVG`].
    pub(super) sleep_avg: AtomicU64,
    /// When it last went to sleep, or was queued, in ns.
    pub(super) timestamp: AtomicU64,
    /// Up to when its run time is accounted, in ns.
    pub(super) exec_start: AtomicU64,
    /// Time on a CPU, exact at switches, in ns.
    pub(super) sum_exec_runtime: AtomicU64,
    /// Run time that accounting ticks found in user mode, in ns.
    pub(super) utime_sampled: AtomicU64,
    /// Run time that accounting ticks found in the kernel, in ns.
    pub(super) stime_sampled: AtomicU64,
    /// `sum_exec_runtime` at the last sample.
    pub(super) sampled_at: AtomicU64,
    /// User time as last shown: it never goes back.
    pub(super) utime: AtomicU64,
    /// System time as last shown.
    pub(super) stime: AtomicU64,
    /// Times that it gave up the CPU.
    pub(super) nvcsw: AtomicU64,
    /// Times that it was preempted.
    pub(super) nivcsw: AtomicU64,
    #[described(as = "ptr WaitChannel")]
    wchan: AtomicPtr<WaitChannel>,
    mm: UnsafeCell<Option<Ref<Mm>>>,
    /// The address space that a kernel thread runs on, borrowed from whoever ran before it.
    active_mm: UnsafeCell<Option<Ref<Mm>>>,
    /// Its control group; none in the root. See [`super::group`].
    #[described(skip)]
    group: UnsafeCell<Option<Ref<SchedGroup>>>,
    #[described(skip)]
    mm_lock: IrqLock<()>,
    #[described(skip)]
    ops: &'static EntityOps,
}

// SAFETY: the module documentation says who may touch `run_list`, `mm` and `active_mm` when.
unsafe impl Sync for Entity {}
// SAFETY: as above; nothing in it is bound to a host thread or CPU.
unsafe impl Send for Entity {}

list_link! {
    /// Links the entities of one level of a priority array.
    Entity, run_list: RunLink
}

/// The entity that runs on this CPU.
#[inline]
pub fn current() -> &'static Entity {
    // SAFETY: every thread that can be current is the first field of an entity (`boot_thread`,
    // `Entity::new` and the arch's boot see to it), and it lives while it runs.
    unsafe { &*ptr::from_ref(arch::current_thread()).cast::<Entity>() }
}

/// What the first CPU runs as, from its first Rust instruction until task 0 takes its place. The machine's
/// entry code names it.
#[unsafe(no_mangle)]
static BOOT_ENTITY: Entity = Entity::new(&BARE_OPS);

/// Makes the entity that a CPU (or a host test's thread) runs as before there is a scheduler.
#[unsafe(no_mangle)]
fn boot_thread() -> &'static Thread {
    let entity: &'static Entity =
        alloc::boxed::Box::leak(alloc::boxed::Box::new(Entity::new(&BARE_OPS)));
    entity.state.store(0, Relaxed);
    entity.on_cpu.store(true, Relaxed);
    &entity.thread
}

impl Entity {
    /// An entity that was not started yet: nice 0, all CPUs allowed.
    pub const fn new(ops: &'static EntityOps) -> Self {
        Self {
            thread: Thread::new(),
            state: AtomicU32::new(TaskState::NEW.bits()),
            on_cpu: AtomicBool::new(false),
            on_rq: AtomicBool::new(false),
            migrate: AtomicBool::new(false),
            reset_on_fork: AtomicBool::new(false),
            first_slice: AtomicBool::new(false),
            policy: AtomicU32::new(Policy::Normal as u32),
            prio: AtomicI32::new(prio::DEFAULT_PRIO),
            static_prio: AtomicI32::new(prio::DEFAULT_PRIO),
            normal_prio: AtomicI32::new(prio::DEFAULT_PRIO),
            pi_prio: AtomicI32::new(prio::MAX_PRIO as i32),
            rt_priority: AtomicU32::new(0),
            cpus_allowed: AtomicU64::new(!0),
            run_list: Link::new(),
            array: AtomicPtr::new(ptr::null_mut()),
            time_slice: AtomicU64::new(prio::static_slice(prio::DEFAULT_PRIO)),
            sleep_avg: AtomicU64::new(prio::MAX_SLEEP_AVG / 2),
            timestamp: AtomicU64::new(0),
            exec_start: AtomicU64::new(0),
            sum_exec_runtime: AtomicU64::new(0),
            utime_sampled: AtomicU64::new(0),
            stime_sampled: AtomicU64::new(0),
            sampled_at: AtomicU64::new(0),
            utime: AtomicU64::new(0),
            stime: AtomicU64::new(0),
            nvcsw: AtomicU64::new(0),
            nivcsw: AtomicU64::new(0),
            wchan: AtomicPtr::new(ptr::null_mut()),
            mm: UnsafeCell::new(None),
            active_mm: UnsafeCell::new(None),
            group: UnsafeCell::new(None),
            mm_lock: IrqLock::new(()),
            ops,
        }
    }

    /// Its control group.
    ///
    /// # Safety
    /// The lock of its run queue is held, or nobody else knows the entity yet.
    #[inline]
    pub(super) unsafe fn group(&self) -> Option<&Ref<SchedGroup>> {
        // SAFETY: the caller's promise keeps it from being replaced.
        unsafe { (*self.group.get()).as_ref() }
    }

    /// Replaces its control group.
    ///
    /// # Safety
    /// As for [`group`](Self::group), and nobody moves the entity to another queue meanwhile. While it is
    /// queued its share must not count it.
    pub(super) unsafe fn swap_group(
        &self,
        group: Option<Ref<SchedGroup>>,
    ) -> Option<Ref<SchedGroup>> {
        // SAFETY: the caller's promise.
        unsafe { ptr::replace(self.group.get(), group) }
    }

    /// What `ops` the entity was made with.
    pub fn ops(&self) -> &'static EntityOps {
        self.ops
    }

    /// True if it is the one that runs here.
    pub fn is_current(&self) -> bool {
        ptr::eq(self, current())
    }

    // ---- State ----

    /// The state now.
    #[inline]
    pub fn state(&self) -> TaskState {
        TaskState::from_bits_retain(self.state.load(Relaxed))
    }

    /// RUNNING → a sleep or a stop, of the current entity: takes effect at the next
    /// [`schedule`](super::schedule). The condition slept for must be checked *after* this: a waker that
    /// makes it true afterwards sees the new state, and so no wake-up is lost.
    #[inline]
    pub fn prepare_sleep(&self, state: TaskState) {
        debug_assert!(self.is_current());
        self.state.store(state.bits(), Relaxed);
        fence(Ordering::SeqCst);
    }

    /// A sleep that has not begun → RUNNING, of the current entity.
    #[inline]
    pub fn cancel_sleep(&self) {
        debug_assert!(self.is_current());
        self.state.store(0, Relaxed);
    }

    /// A sleep → RUNNING, by a waker that holds the run-queue lock.
    #[inline]
    pub(super) fn end_sleep(&self) {
        self.state.store(0, Relaxed);
    }

    /// A sleep → WAKING, by a waker that is about to move the entity to another CPU.
    #[inline]
    pub(super) fn begin_waking(&self) {
        self.state.store(TaskState::WAKING.bits(), Relaxed);
    }

    /// The boot entity of a CPU runs.
    pub(super) fn set_running(&self) {
        self.state.store(0, Relaxed);
    }

    /// NEW → RUNNING.
    pub(super) fn start(&self) {
        debug_assert_eq!(self.state(), TaskState::NEW);
        self.state.store(0, Relaxed);
    }

    /// RUNNING → DEAD, of the current entity.
    pub(super) fn die(&self) {
        self.state.store(TaskState::DEAD.bits(), Relaxed);
    }

    /// RUNNING at once if the state is still one of `states`: how a wake-up works before there is a
    /// run queue.
    pub(super) fn end_sleep_if(&self, states: TaskState) -> bool {
        let change = |s| (s & states.bits() != 0).then_some(0);
        self.state.fetch_update(Ordering::SeqCst, Relaxed, change).is_ok()
    }

    /// Any state, for tests of what depends on it.
    #[cfg(test)]
    pub(super) fn force_state(&self, state: TaskState) {
        self.state.store(state.bits(), Relaxed);
    }

    /// True while it runs on a CPU.
    pub fn is_on_cpu(&self) -> bool {
        self.on_cpu.load(Ordering::Acquire)
    }

    /// True while it is runnable in a run queue, running included.
    pub fn is_queued(&self) -> bool {
        self.on_rq.load(Relaxed)
    }

    /// The CPU that it runs on, ran on last or is queued on.
    #[inline]
    pub fn cpu(&self) -> usize {
        self.thread.info.cpu()
    }

    /// True if a signal waits for it (the flag on the way to EL0).
    #[inline]
    pub fn signal_pending(&self) -> bool {
        self.thread.info.flags().contains(ThreadFlags::SIGPENDING)
    }

    /// True if a signal ends, or forbids, a sleep in `state`.
    #[inline]
    pub fn signal_pending_state(&self, state: TaskState) -> bool {
        if !state.intersects(TaskState::INTERRUPTIBLE.union(TaskState::WAKEKILL)) {
            return false;
        }
        self.signal_pending()
            && (state.contains(TaskState::INTERRUPTIBLE) || (self.ops.fatal_signal_pending)(self))
    }

    /// The same of the current entity, which is about to sleep: that its process is held does not end a freezable sleep.
    #[inline]
    pub fn sleep_ends(&self, state: TaskState) -> bool {
        self.signal_pending_state(state)
            && !(state.contains(TaskState::FREEZABLE) && (self.ops.put_hold_aside)(self))
    }

    /// True if the current entity's call, which a signal seemed to interrupt, may start over, as it was only a hold.
    pub fn starts_over(&self) -> bool {
        let over = (self.ops.put_hold_aside)(self);
        if over {
            // Where signals are looked at is where calls start over.
            self.thread.info.set(ThreadFlags::SIGPENDING);
        }
        over
    }

    /// Where it sleeps.
    pub fn wchan(&self) -> Option<&'static WaitChannel> {
        // SAFETY: only `set_wchan` stores here.
        unsafe { self.wchan.load(Relaxed).as_ref() }
    }

    /// Says where the current entity is about to sleep.
    #[inline]
    pub fn set_wchan(&self, channel: Option<&'static WaitChannel>) {
        self.wchan.store(channel.map_or(ptr::null_mut(), |c| ptr::from_ref(c).cast_mut()), Relaxed);
    }

    // ---- Priorities ----

    /// The scheduling policy.
    #[inline]
    pub fn policy(&self) -> Policy {
        Policy::from_number(self.policy.load(Relaxed)).unwrap_or(Policy::Normal)
    }

    /// The level now: 0..=139, lower runs first.
    #[inline]
    pub fn prio(&self) -> i32 {
        self.prio.load(Relaxed)
    }

    /// The level of the nice value: 100..=139.
    #[inline]
    pub fn static_prio(&self) -> i32 {
        self.static_prio.load(Relaxed)
    }

    /// The level that policy and priority alone give.
    pub fn normal_prio(&self) -> i32 {
        self.normal_prio.load(Relaxed)
    }

    /// Nice value, -20..=19.
    pub fn nice(&self) -> i32 {
        prio::prio_to_nice(self.static_prio())
    }

    /// Real-time priority 1..=99, 0 for other policies.
    pub fn rt_priority(&self) -> u32 {
        self.rt_priority.load(Relaxed)
    }

    /// True at a real-time level, inherited or its own.
    #[inline]
    pub fn is_rt(&self) -> bool {
        self.prio() < prio::MAX_RT_PRIO
    }

    /// The CPUs that it may run on, one bit each.
    pub fn cpus_allowed(&self) -> u64 {
        self.cpus_allowed.load(Relaxed)
    }

    /// `SCHED_RESET_ON_FORK`.
    pub fn reset_on_fork(&self) -> bool {
        self.reset_on_fork.load(Relaxed)
    }

    // ---- Counts ----

    /// Voluntary and involuntary context switches.
    pub fn context_switches(&self) -> (u64, u64) {
        (self.nvcsw.load(Relaxed), self.nivcsw.load(Relaxed))
    }

    // ---- Address space ----

    /// The current entity's own address space; `None` for a kernel thread.
    #[inline]
    pub fn mm(&self) -> Option<&Ref<Mm>> {
        debug_assert!(self.is_current() || self.state() == TaskState::NEW);
        // SAFETY: only the entity itself replaces it, and it is the one who asks (or the one who makes it).
        unsafe { (*self.mm.get()).as_ref() }
    }

    /// Another entity's address space.
    pub fn get_mm(&self) -> Option<Ref<Mm>> {
        let _guard = self.mm_lock.lock();
        // SAFETY: it is replaced under the lock only.
        unsafe { (*self.mm.get()).clone() }
    }

    /// Sets the address space of an entity that was not started yet.
    ///
    /// # Safety
    /// Nobody else knows the entity.
    pub unsafe fn set_mm(&self, mm: Option<Ref<Mm>>) {
        // SAFETY: the caller's promise.
        unsafe { *self.mm.get() = mm };
    }

    /// Gives the current entity a new address space (exec) or none (exit: it goes on lazily on the old
    /// one's tables) and returns the old one.
    pub fn replace_mm(&self, new: Option<Ref<Mm>>) -> Option<Ref<Mm>> {
        debug_assert!(self.is_current());
        let guard = self.mm_lock.lock();
        // SAFETY: its own, under the lock; interrupts are off, so no switch looks at either meanwhile.
        let (mm, active) = unsafe { (&mut *self.mm.get(), &mut *self.active_mm.get()) };
        let old = mm.take();
        let borrowed = match new {
            Some(new) => {
                new.activate();
                *mm = Some(new);
                active.take()
            }
            None => {
                *active = old.clone();
                None
            }
        };
        drop(guard);
        drop(borrowed);
        old
    }

    /// Makes the address space that the current entity is in, or borrowed, this CPU's again: after its
    /// tables and identifiers were forgotten (thaw). Interrupts are off.
    pub fn reactivate_mm(&self) {
        debug_assert!(self.is_current());
        // SAFETY: its own, and no switch looks at them meanwhile.
        let (mm, active) = unsafe { (&*self.mm.get(), &*self.active_mm.get()) };
        if let Some(mm) = mm.as_ref().or(active.as_ref()) {
            mm.activate();
        }
    }

    /// Takes what a kernel entity borrowed from whoever ran before it.
    ///
    /// # Safety
    /// The entity runs nowhere, and its CPU uses no user tables.
    pub(super) unsafe fn take_active_mm(&self) -> Option<Ref<Mm>> {
        // SAFETY: the caller's promise.
        unsafe { (*self.active_mm.get()).take() }
    }

    /// The address space that the tables in use belong to.
    ///
    /// # Safety
    /// The caller is the scheduler, or the entity is the current one.
    pub(super) unsafe fn mm_cells(&self) -> (&Option<Ref<Mm>>, *mut Option<Ref<Mm>>) {
        // SAFETY: the caller's promise.
        (unsafe { &*self.mm.get() }, self.active_mm.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_comes_first() {
        assert_eq!(core::mem::offset_of!(Entity, thread), 0);
        assert!(ptr::eq(ptr::from_ref(current()).cast(), arch::current_thread()));
    }

    #[test]
    fn a_wait_channel_keeps_the_last_part_of_a_path() {
        static CHANNEL: WaitChannel = WaitChannel::new("belljar_kernel::fs::pipe");
        assert_eq!(CHANNEL.name(), "pipe");
        static PLAIN: WaitChannel = WaitChannel::new("futex_wait");
        assert_eq!(PLAIN.name(), "futex_wait");
    }
}

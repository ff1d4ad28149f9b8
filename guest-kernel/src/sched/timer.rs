//! Timers: each CPU has a heap of deadlines for each clock and programs its one-shot timer for the first.
//!
//! There is no tick. The interrupt comes for the first deadline or the scheduler's own event (slice
//! end, accounting tick of a busy CPU), whichever is earlier; an idle CPU without timers gets none. The
//! hardware is only ever programmed to ring *earlier*: cancelling a timer costs no device access, and
//! an interrupt that finds nothing due programs the next one.
//!
//! A callback runs in the interrupt, without the base's lock: it may start timers (its own too) and wake
//! entities. Lock order: run queue before timer base.

use core::ptr;
use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, Ordering::Relaxed,
};

use super::clock::{self, ClockBase, Deadline};
use super::entity::{Entity, WaitChannel, current};
use super::heap::{Heap, HeapNode};
use super::state::TaskState;
use crate::arch::{self, Thread};
use crate::errno::{Errno, Result};
use crate::sync::{IrqGuard, IrqLock, IrqLockGuard, MAX_CPUS, PerCpu, this_cpu};

/// A timer, part of whatever it rings for ([`container_of!`](crate::container_of) finds that).
#[repr(C)]
pub struct Timer {
    node: HeapNode,
    callback: fn(&Timer),
    clock: AtomicU32,
    cpu: AtomicU32,
    queued: AtomicBool,
    /// Was ever started, so that dropping it must look for it.
    started: AtomicBool,
}

// SAFETY: the node is only touched under the lock of the base that `cpu` names.
unsafe impl Send for Timer {}
// SAFETY: as above.
unsafe impl Sync for Timer {}

/// The structure of type `$type` whose field `$field` is at `$ptr`: an expression of type `*const $type`.
#[macro_export]
macro_rules! container_of {
    ($ptr:expr, $type:ty, $($field:tt).+) => {
        core::ptr::from_ref($ptr).wrapping_byte_sub(core::mem::offset_of!($type, $($field).+)).cast::<$type>()
    };
}

struct Heaps {
    by_clock: [Heap; 2],
    /// The timer whose callback runs.
    running: *const Timer,
}

// SAFETY: the heaps link timers, which the lock around this guards.
unsafe impl Send for Heaps {}

struct Base {
    heaps: IrqLock<Heaps>,
    /// Who runs a callback.
    runner: AtomicPtr<Thread>,
    /// When the scheduler wants its tick. Its own CPU only, interrupts off; so is the next.
    sched_event: AtomicU64,
    /// What the hardware is programmed for.
    programmed: AtomicU64,
}

static BASES: PerCpu<Base> = PerCpu::new([const { Base::new() }; MAX_CPUS]);

impl Heaps {
    fn next_event(&self) -> u64 {
        let wall = self.by_clock[ClockBase::Realtime as usize].first_key();
        let wall = if wall == u64::MAX { wall } else { wall.saturating_sub(clock::wall_offset()) };
        self.by_clock[ClockBase::Monotonic as usize].first_key().min(wall)
    }

    /// Takes out a timer that is due at `now` (monotonic).
    fn pop_due(&mut self, now: u64) -> Option<*const Timer> {
        for (heap, now) in self.by_clock.iter().zip([now, now.wrapping_add(clock::wall_offset())]) {
            if heap.first_key() <= now && !heap.first().is_null() {
                let timer = heap.first().cast::<Timer>();
                // SAFETY: the node is the timer's first field; it is in this heap, whose lock is held.
                unsafe {
                    heap.remove(&*heap.first());
                    (*timer).queued.store(false, Relaxed);
                }
                return Some(timer);
            }
        }
        None
    }
}

impl Base {
    const fn new() -> Self {
        Self {
            heaps: IrqLock::new(Heaps {
                by_clock: [const { Heap::new() }; 2],
                running: ptr::null(),
            }),
            runner: AtomicPtr::new(ptr::null_mut()),
            sched_event: AtomicU64::new(u64::MAX),
            programmed: AtomicU64::new(u64::MAX),
        }
    }

    /// Programs the hardware if `at` comes before what it is programmed for; on this base's CPU, with
    /// interrupts off.
    #[inline]
    fn program(&self, at: u64) {
        if at < self.programmed.load(Relaxed) {
            self.programmed.store(at, Relaxed);
            arch::set_timer(clock::counter_at(at));
        }
    }

    /// Rings what is due.
    fn run(&self) {
        let mut heaps = self.heaps.lock();
        while let Some(timer) = heaps.pop_due(clock::monotonic_ns()) {
            heaps.running = timer;
            self.runner.store(ptr::from_ref(arch::current_thread()).cast_mut(), Relaxed);
            drop(heaps);
            // SAFETY: whoever started it keeps it alive until the callback returned: `cancel` waits.
            unsafe { ((*timer).callback)(&*timer) };
            heaps = self.heaps.lock();
            heaps.running = ptr::null();
        }
    }
}

impl Timer {
    /// A timer that calls `callback`, in interrupt context, when it rings.
    pub const fn new(callback: fn(&Timer)) -> Self {
        Self {
            node: HeapNode::new(),
            callback,
            clock: AtomicU32::new(0),
            cpu: AtomicU32::new(0),
            queued: AtomicBool::new(false),
            started: AtomicBool::new(false),
        }
    }

    /// Locks the base that the timer is on.
    fn lock_base(&self) -> (&'static Base, IrqLockGuard<'static, Heaps>) {
        loop {
            let cpu = self.cpu.load(Relaxed);
            let base = BASES.of(cpu as usize);
            let heaps = base.heaps.lock();
            if self.cpu.load(Relaxed) == cpu {
                return (base, heaps);
            }
        }
    }

    /// # Safety
    /// The lock of the timer's base is held.
    unsafe fn dequeue(&self, heaps: &Heaps) -> bool {
        let queued = self.queued.replace_relaxed(false);
        if queued {
            // SAFETY: `queued` says that it is in the heap of its clock.
            unsafe { heaps.by_clock[self.clock.load(Relaxed) as usize & 1].remove(&self.node) };
        }
        queued
    }

    /// Starts it, or moves its deadline; [`Deadline::NEVER`] just stops it. Calls of `start` for one
    /// timer are kept apart by its owner.
    ///
    /// # Safety
    /// The timer stays alive and in place until it rang and the callback returned, or
    /// [`cancel`](Self::cancel) returned.
    pub unsafe fn start(&self, deadline: Deadline) {
        let _irq = IrqGuard::new();
        let (mut base, mut heaps) = self.lock_base();
        // SAFETY: the base is locked.
        unsafe { self.dequeue(&heaps) };
        if deadline.ns == u64::MAX {
            return;
        }
        let here = this_cpu();
        let home = BASES.of(here);
        // While its callback runs it stays on that base: `cancel` looks for it there.
        if !ptr::eq(base, home) && !ptr::eq(heaps.running, self) {
            drop(heaps);
            self.cpu.store(here as u32, Relaxed);
            base = home;
            heaps = base.heaps.lock();
        }
        self.clock.store(deadline.clock as u32, Relaxed);
        self.started.store(true, Relaxed);
        self.queued.store(true, Relaxed);
        // SAFETY: the base is locked, the timer is in no heap, and the caller keeps it in place.
        unsafe { heaps.by_clock[deadline.clock as usize].insert(&self.node, deadline.ns) };
        if ptr::eq(base, home) {
            base.program(heaps.next_event());
        }
    }

    /// Stops it. When this returns the callback does not run and will not, unless it is the callback
    /// itself that asks. True if the timer had not rung yet.
    pub fn cancel(&self) -> bool {
        loop {
            let (base, heaps) = self.lock_base();
            // SAFETY: the base is locked.
            if unsafe { self.dequeue(&heaps) } {
                return true;
            }
            let me = ptr::from_ref(arch::current_thread());
            if !ptr::eq(heaps.running, self) || ptr::eq(base.runner.load(Relaxed), me) {
                return false;
            }
            drop(heaps);
            core::hint::spin_loop();
        }
    }

    /// True if it was started and has not rung.
    pub fn is_queued(&self) -> bool {
        self.queued.load(Relaxed)
    }

    /// When it rings, or rang last.
    pub fn deadline(&self) -> Deadline {
        let clock =
            if self.clock.load(Relaxed) == 0 { ClockBase::Monotonic } else { ClockBase::Realtime };
        Deadline { clock, ns: self.node.key() }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if *self.started.get_mut() {
            self.cancel();
        }
    }
}

/// `AtomicBool::swap` under a lock, where a load and a store do.
trait ReplaceRelaxed {
    fn replace_relaxed(&self, value: bool) -> bool;
}

impl ReplaceRelaxed for AtomicBool {
    #[inline]
    fn replace_relaxed(&self, value: bool) -> bool {
        let old = self.load(Relaxed);
        self.store(value, Relaxed);
        old
    }
}

/// The CPU's timer interrupt; `user` says whether it interrupted a program. Interrupts are off.
pub fn timer_interrupt(user: bool) {
    let base = BASES.this();
    base.programmed.store(u64::MAX, Relaxed);
    base.run();
    if base.sched_event.load(Relaxed) <= clock::monotonic_ns() {
        base.sched_event.store(u64::MAX, Relaxed);
        super::schedule::scheduler_tick(user);
    }
    let next = base.heaps.lock().next_event().min(base.sched_event.load(Relaxed));
    if next == u64::MAX {
        arch::stop_timer();
    } else {
        base.program(next);
    }
}

/// Takes over the timers of a CPU that is off.
pub(super) fn adopt(from: usize) {
    let _irq = IrqGuard::new();
    let (here, base) = (this_cpu(), BASES.this());
    let theirs = BASES.of(from).heaps.lock();
    // Only this function locks two bases, and only of CPUs that are off.
    let ours = base.heaps.lock();
    for (from, to) in theirs.by_clock.iter().zip(&ours.by_clock) {
        while !from.first().is_null() {
            // SAFETY: both bases are locked; a timer's node is its first field.
            unsafe {
                let node = &*from.first();
                from.remove(node);
                (*core::ptr::from_ref(node).cast::<Timer>()).cpu.store(here as u32, Relaxed);
                to.insert(node, node.key());
            }
        }
    }
    BASES.of(from).sched_event.store(u64::MAX, Relaxed);
    BASES.of(from).programmed.store(u64::MAX, Relaxed);
    base.program(ours.next_event());
}

/// Rings what is due on this CPU without an interrupt: before interrupts work.
pub(super) fn poll() {
    BASES.this().run();
}

/// Asks for a call of `scheduler_tick` on this CPU at `at` (monotonic ns). Interrupts are off.
#[inline]
pub(super) fn set_sched_event(at: u64) {
    let base = BASES.this();
    base.sched_event.store(at, Relaxed);
    base.program(at);
}

/// As [`set_sched_event`], unless an earlier one is coming anyway: so that switching to and fro does not
/// program the hardware each time.
#[inline]
pub(super) fn want_sched_event(at: u64) {
    if at < BASES.this().sched_event.load(Relaxed) {
        set_sched_event(at);
    }
}

/// The wall clock was set: every CPU looks at its deadlines anew.
pub(super) fn clock_was_set() {
    let _irq = IrqGuard::new();
    reprogram();
    super::cpu::send_to_others(super::cpu::IPI_TIMER);
}

/// Programs this CPU's timer from scratch: the clock was set, or the machine thawed. Interrupts are off.
pub fn reprogram() {
    let base = BASES.this();
    base.programmed.store(u64::MAX, Relaxed);
    let next = base.heaps.lock().next_event().min(base.sched_event.load(Relaxed));
    if next != u64::MAX {
        base.program(next);
    }
}

/// Ends a sleep of the current entity at a deadline; lives on its stack.
#[repr(C)]
pub struct SleepTimer {
    timer: Timer,
    entity: *const Entity,
    deadline: Deadline,
}

impl SleepTimer {
    /// Not running until [`arm`](Self::arm).
    pub fn new(deadline: Deadline) -> Self {
        Self { timer: Timer::new(Self::ring), entity: current(), deadline }
    }

    fn ring(timer: &Timer) {
        let this = crate::container_of!(timer, SleepTimer, timer);
        // SAFETY: the timer is part of a `SleepTimer`, whose drop waits for this callback; the entity is
        // the one whose stack that lies on.
        unsafe { super::schedule::wake_up(&*(*this).entity, TaskState::NORMAL) };
    }

    /// Starts it, once. The timer must not move afterwards.
    ///
    /// # Safety
    /// `self` stays where it is until it is dropped.
    #[inline]
    pub unsafe fn arm(&self) {
        if self.deadline.ns != u64::MAX && !self.timer.started.load(Relaxed) {
            // SAFETY: the caller's promise; dropping the timer cancels it.
            unsafe { self.timer.start(self.deadline) };
        }
    }

    /// True if the deadline has come.
    #[inline]
    pub fn expired(&self) -> bool {
        self.deadline.has_passed()
    }
}

/// Sleeps until `deadline`, a wake-up or, in a state that allows it, a signal. The state was set by
/// [`Entity::prepare_sleep`]. True if the deadline has come.
pub fn schedule_timeout(deadline: Deadline, channel: &'static WaitChannel) -> bool {
    {
        // It ends with the block, in place: `drop(timer)` would move it, and a queued timer is known by
        // its address.
        let timer = SleepTimer::new(deadline);
        // SAFETY: the timer stays in this frame.
        unsafe { timer.arm() };
        super::schedule::schedule_in(channel);
    }
    core::sync::atomic::fence(Ordering::Acquire);
    deadline.has_passed()
}

/// Sleeps until `deadline`; `ERESTARTSYS` if a signal comes first.
pub fn sleep_until(deadline: Deadline) -> Result<()> {
    let me = current();
    let timer = SleepTimer::new(deadline);
    let result = loop {
        me.prepare_sleep(TaskState::INTERRUPTIBLE);
        if timer.expired() {
            break Ok(());
        }
        if me.signal_pending() {
            break Err(Errno::ERESTARTSYS);
        }
        // SAFETY: the timer stays in this frame.
        unsafe { timer.arm() };
        super::schedule::schedule_in(crate::wait_channel!("hrtimer_nanosleep"));
    };
    me.cancel_sleep();
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[repr(C)]
    struct Bell {
        rung: AtomicUsize,
        timer: Timer,
    }

    fn ring(timer: &Timer) {
        // SAFETY: every timer with this callback is part of a `Bell`.
        unsafe { (*crate::container_of!(timer, Bell, timer)).rung.fetch_add(1, Relaxed) };
    }

    fn bell() -> Box<Bell> {
        Box::new(Bell { rung: AtomicUsize::new(0), timer: Timer::new(ring) })
    }

    #[test]
    fn a_due_timer_rings_once_and_a_cancelled_one_never() {
        let (due, later, cancelled) = (bell(), bell(), bell());
        // SAFETY: boxed, and cancelled below.
        unsafe {
            due.timer.start(Deadline::after(0));
            later.timer.start(Deadline::after(u64::MAX / 4));
            cancelled.timer.start(Deadline::after(0));
        }
        let was_queued = cancelled.timer.cancel();
        while due.rung.load(Relaxed) == 0 {
            poll();
        }
        poll();
        assert_eq!(due.rung.load(Relaxed), 1);
        assert_eq!(later.rung.load(Relaxed), 0);
        // Another test's thread may have rung it before it was cancelled; then `cancel` said so.
        assert_eq!(cancelled.rung.load(Relaxed), usize::from(!was_queued));
        assert!(later.timer.cancel());
        assert!(!later.timer.cancel());
    }

    #[test]
    fn schedule_timeout_ends_at_its_deadline() {
        static CHANNEL: WaitChannel = WaitChannel::new("test");
        let deadline = Deadline::after(2_000_000);
        loop {
            current().prepare_sleep(TaskState::UNINTERRUPTIBLE);
            if schedule_timeout(deadline, &CHANNEL) {
                break;
            }
        }
        assert!(deadline.has_passed());
        assert_eq!(current().state(), TaskState::RUNNING);
    }
}

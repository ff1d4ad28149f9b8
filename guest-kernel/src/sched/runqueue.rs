//! The run queue of one CPU: who is runnable here, and who goes next.
//!
//! Everything here happens under the queue's lock and takes the time as an argument, so that it can be
//! tried out without a machine. The running entity stays queued while it runs; the idle entity is never
//! queued. Normal entities that used up their slice wait in the expired array until the active one
//! is empty and the two change places: nobody is ever searched for. Real-time entities have an array of
//! their own, which goes first: one that never sleeps does not keep the other two from changing places,
//! and so what it leaves to normal ones is shared among all of them.
//!
//! Nobody starves either. Sleepers that wake and interactive entities with a new slice go on in the active
//! array, and could keep it from ever being empty, or those on its lower levels from ever running. So when
//! an array was the active one for [`STARVATION_LIMIT`] it is closed: what becomes runnable then
//! waits in the expired array with the others. What is in the closed one runs for what is left of its
//! slices at most, so the two change places at the latest that much later, and whoever is runnable runs
//! before they have done so twice. Two instructions at a wake-up and a look at each tick are all it costs.

use core::ptr;
use core::sync::atomic::Ordering::Relaxed;

use belljar_abi::Described;

use super::entity::Entity;
use super::group;
use super::prio::{self, MAX_PRIO, Policy};
use super::prio_array::PrioArray;
use super::state::TaskState;
use crate::arch::ThreadFlags;
use crate::kref::Ref;
use crate::mm::Mm;
use crate::sync::SeqCount;

/// How often a busy CPU samples what it is doing, and looks at slices: 100 Hz, none when idle.
pub const TICK_NS: u64 = 10_000_000;
/// Quotas of control groups are not looked at more often, in ns: what is used in between is owed.
const QUOTA_STEP: u64 = 100_000;
/// How long an array is open to what becomes runnable, for each runnable entity: twice what entities of
/// nice 0 need to use up their slices, so that it is closed only where others run that much in between.
pub(super) const STARVATION_LIMIT: u64 = 200_000_000;
/// As the start of the active array's turn: nobody waits.
const NOBODY_WAITS: u64 = u64::MAX;

/// One runnable entity in averages.
pub(super) const LOAD_SCALE: u64 = 1024;

/// Real-time entities may run for [`RT_RUNTIME`] of each of these, if others want to run.
const RT_PERIOD: u64 = 1_000_000_000;
const RT_RUNTIME: u64 = 950_000_000;

/// The run queue of one CPU.
#[repr(C)]
#[derive(Described)]
pub struct RunQueue {
    cpu: u32,
    /// The CPU takes what becomes runnable; false before it started and once it is taken out.
    online: bool,
    /// Odd while the queue changes.
    pub(super) seq: SeqCount,
    /// Runnable entities, the running one included, idle not.
    nr_running: u32,
    /// Entities that went to an uninterruptible sleep here minus those that were woken here: only the sum
    /// over all CPUs means something.
    nr_uninterruptible: i64,
    nr_switches: u64,
    /// Runs now.
    curr: *const Entity,
    /// The level of what runs; [`MAX_PRIO`] if idle. For a look from other CPUs.
    curr_prio: i32,
    /// Runs when nothing else does; null until the CPU schedules.
    idle: *const Entity,
    /// Runs before all others (stop class), when it is runnable.
    stop: *const Entity,
    /// The one of `arrays` with the real-time entities.
    rt: *mut PrioArray,
    /// The one whose entities run before those of `expired`.
    active: *mut PrioArray,
    /// The other one.
    expired: *mut PrioArray,
    /// Where normal entities go that become runnable: the active array, or the expired one once that is
    /// closed.
    entry: *mut PrioArray,
    /// When the arrays changed place last, or nobody waited; [`NOBODY_WAITS`] until the next tick.
    active_since: u64,
    /// How long runnable entities were here since [`load_since`](Self::load_since), in ns of each of them,
    load_sum: u64,
    /// up to when this was summed up.
    load_until: u64,
    load_since: u64,
    /// How many were runnable on average before that, in 1/[`LOAD_SCALE`]. For a look from other CPUs.
    load_avg: u64,
    /// The last accounting tick.
    last_tick: u64,
    /// When the CPU came online last.
    online_since: u64,
    /// How long it was online before that.
    online_before: u64,
    /// When the real-time period under way began.
    rt_period: u64,
    /// How long real-time entities ran in it.
    rt_time: u64,
    /// They used up their share of it.
    rt_throttled: bool,
    /// Runnable entities that are in a share ([`group`](super::group)).
    nr_shared: u32,
    /// The weight of the outermost shares with something runnable here.
    share_weight: u64,
    /// What the entity just switched away from had borrowed.
    #[described(skip)]
    pub(super) prev_mm: Option<Ref<Mm>>,
    #[described(skip)]
    arrays: [PrioArray; 3],
}

// SAFETY: the pointers are to entities that live while they are queued or run; the lock guards them.
unsafe impl Send for RunQueue {}

impl Default for RunQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl RunQueue {
    /// The queue of a CPU that does not schedule yet: all zero, so that those of CPUs that are not there take
    /// no room in the image.
    pub const fn new() -> Self {
        Self {
            cpu: 0,
            online: false,
            seq: SeqCount::new(),
            nr_running: 0,
            nr_uninterruptible: 0,
            nr_switches: 0,
            curr: ptr::null(),
            curr_prio: 0,
            idle: ptr::null(),
            stop: ptr::null(),
            rt: ptr::null_mut(),
            active: ptr::null_mut(),
            expired: ptr::null_mut(),
            entry: ptr::null_mut(),
            active_since: 0,
            load_sum: 0,
            load_until: 0,
            load_since: 0,
            load_avg: 0,
            last_tick: 0,
            online_since: 0,
            online_before: 0,
            rt_period: 0,
            rt_time: 0,
            rt_throttled: false,
            nr_shared: 0,
            share_weight: 0,
            prev_mm: None,
            arrays: [const { PrioArray::new() }; 3],
        }
    }

    /// Names the idle entity, which is what runs now. The queue does not move any more.
    ///
    /// # Safety
    /// `idle` lives for ever, and is what runs on the CPU.
    pub unsafe fn start(&mut self, cpu: usize, idle: &'static Entity, now: u64) {
        self.cpu = cpu as u32;
        let [rt, active, expired] = self.arrays.each_mut();
        if self.active.is_null() {
            (self.rt, self.active, self.expired) = (rt, active, expired);
            self.open(NOBODY_WAITS);
        }
        self.online = true;
        self.online_since = now;
        (self.load_sum, self.load_avg) = (0, 0);
        (self.load_since, self.load_until) = (now, now);
        self.idle = idle;
        self.curr = idle;
        self.curr_prio = MAX_PRIO as i32;
        self.last_tick = now;
        idle.exec_start.store(now, Relaxed);
    }

    /// The CPU is taken out: nothing is queued here any more.
    pub fn stop(&mut self, now: u64) {
        self.online = false;
        self.online_before += now.saturating_sub(self.online_since);
    }

    /// How long the CPU was online in all.
    pub fn online_ns(&self, now: u64) -> u64 {
        let current = if self.online { now.saturating_sub(self.online_since) } else { 0 };
        self.online_before + current
    }

    /// True while the CPU takes what becomes runnable.
    #[inline]
    pub fn is_online(&self) -> bool {
        self.online
    }

    /// Names the entity of the stop class. It is scheduled like a FIFO one, but before all others.
    pub fn set_stop(&mut self, stop: &'static Entity) {
        self.stop = stop;
    }

    /// The CPU's number.
    pub fn cpu(&self) -> usize {
        self.cpu as usize
    }

    /// Runnable entities.
    pub fn nr_running(&self) -> u32 {
        self.nr_running
    }

    /// This queue's share of the uninterruptible sleepers.
    pub fn nr_uninterruptible(&self) -> i64 {
        self.nr_uninterruptible
    }

    /// Context switches so far.
    pub fn nr_switches(&self) -> u64 {
        self.nr_switches
    }

    /// What runs now.
    #[inline]
    pub fn curr(&self) -> &Entity {
        // SAFETY: set by `start`, and a running entity lives.
        unsafe { &*self.curr }
    }

    /// The level of what runs.
    pub fn curr_prio(&self) -> i32 {
        self.curr_prio
    }

    /// True while nothing but the idle entity runs.
    #[inline]
    pub fn is_idle(&self) -> bool {
        ptr::eq(self.curr, self.idle)
    }

    /// The CPU's idle entity; `None` until the CPU schedules.
    pub fn idle(&self) -> Option<&'static Entity> {
        // SAFETY: set by `start` to an entity that lives for ever.
        unsafe { self.idle.as_ref() }
    }

    /// True if `entity` is the CPU's idle entity.
    pub fn is_idle_entity(&self, entity: &Entity) -> bool {
        ptr::eq(self.idle, entity)
    }

    /// What the CPU switches to; counts the switch.
    pub(super) fn set_curr(&mut self, next: &Entity, now: u64) {
        self.curr = next;
        self.curr_prio = next.prio();
        self.nr_switches += 1;
        next.exec_start.store(now, Relaxed);
        // SAFETY: `&mut self` is the lock of its run queue.
        if let Some(share) = unsafe { next.group() }.and_then(|group| group.share.as_ref())
            && share.bandwidth_left(now) == Some(0)
            && !next.is_rt()
        {
            next.thread.info.set(ThreadFlags::NOTIFY_RESUME);
        }
    }

    fn array(&mut self, entity: &Entity) -> &mut PrioArray {
        // SAFETY: set when the entity was queued, to one of `self.arrays`; the lock is held (`&mut`).
        unsafe { &mut *entity.array.load(Relaxed) }
    }

    fn insert(&mut self, entity: &Entity, array: *mut PrioArray, head: bool) {
        debug_assert!(!entity.on_rq.load(Relaxed));
        let prio = entity.prio() as usize;
        // SAFETY: it is one of `self.arrays`; `&mut self` is the lock; a queued entity lives until it
        // is dequeued.
        unsafe {
            if head { (*array).enqueue_head(entity, prio) } else { (*array).enqueue(entity, prio) }
        }
        entity.array.store(array, Relaxed);
        entity.on_rq.store(true, Relaxed);
    }

    fn extract(&mut self, entity: &Entity) {
        debug_assert!(entity.on_rq.load(Relaxed));
        let prio = entity.prio() as usize;
        // SAFETY: `&mut self` is the lock; it is queued in that array on its level.
        unsafe { self.array(entity).dequeue(entity, prio) };
        entity.array.store(ptr::null_mut(), Relaxed);
        entity.on_rq.store(false, Relaxed);
    }

    /// Where an entity goes that becomes runnable.
    #[inline]
    fn entry_of(&self, entity: &Entity) -> *mut PrioArray {
        if entity.is_rt() { self.rt } else { self.entry }
    }

    /// Queues a runnable entity behind its equals.
    pub fn enqueue_task(&mut self, entity: &Entity) {
        self.insert(entity, self.entry_of(entity), false);
        self.nr_running += 1;
        self.enter_share(entity);
    }

    /// A runnable entity counts in its share, if it is in one.
    #[inline]
    pub(super) fn enter_share(&mut self, entity: &Entity) {
        // SAFETY: `&mut self` is the lock of its run queue.
        if let Some(share) = unsafe { entity.group() }.and_then(|group| group.share.as_ref()) {
            self.nr_shared += 1;
            self.share_weight += share.enter(self.cpu());
        }
    }

    /// It does not any more.
    #[inline]
    pub(super) fn leave_share(&mut self, entity: &Entity) {
        // SAFETY: `&mut self` is the lock of its run queue.
        if let Some(share) = unsafe { entity.group() }.and_then(|group| group.share.as_ref()) {
            self.nr_shared -= 1;
            self.share_weight -= share.leave(self.cpu());
        }
    }

    /// The slice of a normal entity: its nice value's, if nothing runnable is in a share.
    fn shared_slice(&mut self, entity: &Entity, slice: u64) -> u64 {
        if self.nr_shared == 0 {
            return slice;
        }
        let cpu = self.cpu();
        let mut slice = slice;
        // SAFETY: `&mut self` is the lock of its run queue.
        if let Some(share) = unsafe { entity.group() }.and_then(|group| group.share.as_ref()) {
            let (new, old) = share.recount(cpu);
            self.share_weight = self.share_weight + new - old;
            slice = share.scale(cpu, slice);
        }
        let free = u64::from(self.nr_running - self.nr_shared) * u64::from(group::DEFAULT_WEIGHT);
        let weight = self.share_weight + free;
        if weight > group::ROUND_WEIGHT {
            slice = slice.saturating_mul(group::ROUND_WEIGHT) / weight;
        }
        slice.clamp(group::MIN_SLICE, group::MAX_SLICE)
    }

    /// Queues a child of the running entity so that it goes next, on its parent's level and before it, unless
    /// somebody better is runnable. False, and nothing done, if it may not go first: its own level is
    /// worse, or the active array is closed.
    pub fn enqueue_before_curr(&mut self, child: &Entity) -> bool {
        let parent = self.curr().prio();
        if child.prio() > parent || child.is_rt() || self.is_closed() {
            return false;
        }
        child.prio.store(parent.max(prio::MAX_RT_PRIO), Relaxed);
        self.insert(child, self.active, true);
        self.nr_running += 1;
        self.enter_share(child);
        true
    }

    /// Takes an entity off: it sleeps, died, or moves to another CPU.
    pub fn dequeue_task(&mut self, entity: &Entity) {
        self.extract(entity);
        self.nr_running -= 1;
        self.leave_share(entity);
    }

    /// A sleeper becomes runnable: what it slept counts for it.
    pub fn activate_task(&mut self, entity: &Entity, now: u64) {
        self.sum_load(now);
        if counts_as_load(entity.state()) {
            self.nr_uninterruptible -= 1;
        }
        if entity.normal_prio() >= prio::MAX_RT_PRIO {
            let slept = now.saturating_sub(entity.timestamp.load(Relaxed));
            let sleep_avg = (entity.sleep_avg.load(Relaxed) + slept.min(prio::MAX_SLEEP_AVG))
                .min(prio::MAX_SLEEP_AVG);
            entity.sleep_avg.store(sleep_avg, Relaxed);
            entity.prio.store(effective_prio(entity), Relaxed);
        }
        entity.timestamp.store(now, Relaxed);
        self.enqueue_task(entity);
    }

    /// The running entity goes to sleep (or dies).
    pub fn deactivate_task(&mut self, entity: &Entity, now: u64) {
        if counts_as_load(entity.state()) {
            self.nr_uninterruptible += 1;
        }
        entity.timestamp.store(now, Relaxed);
        self.dequeue_task(entity);
    }

    /// An entity that slept here is woken elsewhere: the books stay right in sum.
    pub(super) fn forget_sleeper(&mut self, state: TaskState) {
        if counts_as_load(state) {
            self.nr_uninterruptible -= 1;
        }
    }

    /// Opens the active array: its turn starts at `now`.
    fn open(&mut self, now: u64) {
        self.entry = self.active;
        self.active_since = now;
    }

    /// True if nothing normal gets into the active array until it is empty.
    fn is_closed(&self) -> bool {
        self.entry != self.active
    }

    /// Closes the active array if its turn lasts too long already.
    fn close_if_starving(&mut self, now: u64) {
        if self.nr_running < 2 || self.active_since == NOBODY_WAITS {
            self.open(now);
        } else if now.saturating_sub(self.active_since)
            >= STARVATION_LIMIT * u64::from(self.nr_running)
        {
            self.entry = self.expired;
        }
    }

    /// The entity to run next: the first of the best level, in a few instructions however many there are.
    #[inline]
    pub fn pick_next_task(&mut self, now: u64) -> *const Entity {
        // SAFETY: the stop entity lives for ever.
        if let Some(stop) = unsafe { self.stop.as_ref() }
            && stop.on_rq.load(Relaxed)
        {
            return stop;
        }
        if self.nr_running == 0 {
            self.open(NOBODY_WAITS);
            return self.idle;
        }
        // SAFETY: all point into `self.arrays` (set by `start`); `&mut self` is the lock.
        let rt = unsafe { &*self.rt };
        if !self.rt_throttled
            && let Some(first) = rt.first()
        {
            return first;
        }
        // SAFETY: as above.
        if unsafe { (*self.active).is_empty() } {
            core::mem::swap(&mut self.active, &mut self.expired);
            self.open(now);
        }
        // SAFETY: as above.
        unsafe { (*self.active).first() }.or_else(|| rt.first()).map_or(self.idle, ptr::from_ref)
    }

    /// Charges the running entity up to `now`.
    #[inline]
    pub fn update_curr(&mut self, now: u64) {
        self.sum_load(now);
        let curr = self.curr();
        let delta = now.saturating_sub(curr.exec_start.load(Relaxed));
        curr.exec_start.store(now, Relaxed);
        curr.sum_exec_runtime.store(curr.sum_exec_runtime.load(Relaxed) + delta, Relaxed);
        curr.time_slice.store(curr.time_slice.load(Relaxed).saturating_sub(delta), Relaxed);
        curr.sleep_avg.store(curr.sleep_avg.load(Relaxed).saturating_sub(delta), Relaxed);
        // SAFETY: `&mut self` is the lock of its run queue.
        if let Some(group) = unsafe { curr.group() } {
            group.account.charge(self.cpu(), delta);
            if let Some(share) = &group.share
                && !curr.is_rt()
                && share.charge_bandwidth(delta, now)
            {
                curr.thread.info.set(ThreadFlags::NOTIFY_RESUME);
            }
        }
        if curr.is_rt() {
            self.rt_time += delta;
        }
    }

    /// Sums up how long entities were runnable here, before their number or the running one changes. A real-time one that
    /// runs counts as two: it gives nothing away.
    #[inline]
    pub(super) fn sum_load(&mut self, now: u64) {
        let entities = self.nr_running + u32::from(self.curr_prio < prio::MAX_RT_PRIO);
        self.load_sum += u64::from(entities) * now.saturating_sub(self.load_until);
        self.load_until = self.load_until.max(now);
    }

    /// Takes the average of how many are runnable anew, if `window` ns have passed since the last time; true if so.
    pub(super) fn average_load(&mut self, window: u64, now: u64) -> bool {
        self.sum_load(now);
        let passed = now.saturating_sub(self.load_since);
        if passed < window {
            return false;
        }
        self.load_avg = self.load_sum.saturating_mul(LOAD_SCALE) / passed.max(1);
        self.load_sum = 0;
        self.load_since = now;
        true
    }

    /// How many were runnable on average when [`average_load`](Self::average_load) was true last, in
    /// 1/[`LOAD_SCALE`].
    pub(super) fn load_avg(&self) -> u64 {
        self.load_avg
    }

    /// Keeps real-time entities to their share of each second (sched(7), "Limiting the CPU usage of
    /// real-time and deadline processes"), so that a runaway one can still be stopped. True if that
    /// changes who should run.
    fn throttle_rt(&mut self, now: u64) -> bool {
        let was = self.rt_throttled;
        if now.saturating_sub(self.rt_period) >= RT_PERIOD {
            self.rt_period = now;
            self.rt_time = 0;
        }
        self.rt_throttled = self.rt_time > RT_RUNTIME;
        was != self.rt_throttled && self.nr_running > 1
    }

    /// True if the newly queued `entity` should run at once instead of the current one: its turn is now,
    /// its level is better, and its policy lets it preempt.
    #[inline]
    pub fn preempts_curr(&self, entity: &Entity) -> bool {
        if self.is_idle() || ptr::eq(entity, self.stop) {
            return true;
        }
        if self.rt_throttled && entity.is_rt() && !self.curr().is_rt() {
            return false;
        }
        let array = entity.array.load(Relaxed);
        let may = ptr::eq(array, self.rt)
            || ptr::eq(array, self.active) && entity.policy.load(Relaxed) == Policy::Normal as u32;
        may && entity.prio() < self.curr().prio()
    }

    /// Looks at the running entity's slice, after [`update_curr`](Self::update_curr); true if another one
    /// should run.
    pub fn task_tick(&mut self, now: u64) -> bool {
        self.last_tick = now;
        if self.is_idle() {
            return false;
        }
        self.close_if_starving(now);
        let throttled = self.throttle_rt(now);
        self.slice_tick() || throttled
    }

    /// The part of [`task_tick`](Self::task_tick) about slices.
    fn slice_tick(&mut self) -> bool {
        // SAFETY: the running entity lives; detached from the borrow of `self`.
        let curr = unsafe { &*self.curr };
        if !curr.on_rq.load(Relaxed) || curr.time_slice.load(Relaxed) > 0 {
            return false;
        }
        let policy = curr.policy();
        let Some(slice) = prio::slice(policy, curr.static_prio()) else {
            return false;
        };
        curr.time_slice.store(slice, Relaxed);
        if curr.is_rt() {
            let prio = curr.prio() as usize;
            // SAFETY: it is queued in its array on its level; `&mut self` is the lock.
            unsafe { self.array(curr).requeue(curr, prio) };
            return policy == Policy::RoundRobin && self.nr_running > 1;
        }
        curr.time_slice.store(self.shared_slice(curr, slice), Relaxed);
        self.extract(curr);
        curr.prio.store(effective_prio(curr), Relaxed);
        curr.first_slice.store(false, Relaxed);
        // SAFETY: `&mut self` is the lock of its run queue.
        let shares = unsafe { curr.group() }.is_some_and(|group| group.share.is_some());
        let stays = !shares && prio::is_interactive(curr.prio(), curr.static_prio());
        self.insert(curr, if stays { self.entry } else { self.expired }, false);
        self.nr_running > 1
    }

    /// The running entity lets the others go first: behind its equals at a real-time level, else behind
    /// everybody (the expired array), with its slice as it is.
    pub fn yield_task(&mut self) {
        // SAFETY: the running entity lives; detached from the borrow of `self`.
        let curr = unsafe { &*self.curr };
        if self.is_idle() || !curr.on_rq.load(Relaxed) {
            return;
        }
        self.extract(curr);
        let array = if curr.is_rt() { self.rt } else { self.expired };
        self.insert(curr, array, false);
    }

    /// When the scheduler next has to look at the running entity; `None` if idle.
    #[inline]
    pub fn next_event(&self, now: u64) -> Option<u64> {
        if self.is_idle() {
            return None;
        }
        let tick = self.last_tick.max(now.saturating_sub(TICK_NS)) + TICK_NS;
        let curr = self.curr();
        // SAFETY: `&self` is the lock of its run queue.
        let share = unsafe { curr.group() }.and_then(|group| group.share.as_ref());
        // One whose quota is used up already was told so, and is on its way.
        let quota = share.and_then(|share| share.bandwidth_left(now)).filter(|left| *left > 0);
        let tick = quota.map_or(tick, |left| tick.min(now + left.max(QUOTA_STEP)));
        if self.nr_running > 1 && curr.policy.load(Relaxed) != Policy::Fifo as u32 {
            // A slice of 0 is one that the tick has not looked at yet.
            return Some(tick.min(now + curr.time_slice.load(Relaxed)).max(now + 1000));
        }
        Some(tick)
    }

    /// Puts an entity on another level, queued or not.
    pub fn set_prio(&mut self, entity: &Entity, prio: i32) {
        debug_assert!((0..MAX_PRIO as i32).contains(&prio));
        if ptr::eq(entity, self.curr) {
            self.curr_prio = prio;
        }
        if !entity.on_rq.load(Relaxed) {
            entity.prio.store(prio, Relaxed);
            return;
        }
        let raised = prio < entity.prio();
        let array = entity.array.load(Relaxed);
        self.extract(entity);
        entity.prio.store(prio, Relaxed);
        let array = match array {
            _ if prio < prio::MAX_RT_PRIO => self.rt,
            array if array == self.rt => self.entry,
            array => array,
        };
        // sched(7): one that is raised goes behind its new equals, one that is lowered before them.
        self.insert(entity, array, !raised);
    }

    /// Something queued that is not of the stop class.
    pub(super) fn any_but_stop(&self) -> Option<&Entity> {
        self.iter().find(|e| !ptr::eq(*e, self.stop))
    }

    /// An entity that another CPU may take: not the running one, and allowed there.
    pub(super) fn find_movable(&self, to_cpu: usize) -> Option<&Entity> {
        // What is expired is least likely to have anything of it in this CPU's caches.
        [self.rt, self.expired, self.active].into_iter().find_map(|array| {
            // SAFETY: it points into `self.arrays`, and `&self` is the lock.
            unsafe { &*array }.iter().take(32).find(|e| {
                !ptr::eq(*e, self.curr)
                    && !e.is_on_cpu()
                    && !ptr::eq(*e, self.stop)
                    && e.cpus_allowed() & (1 << to_cpu) != 0
            })
        })
    }

    /// Everything queued, in the order in which it will run.
    pub fn iter(&self) -> impl Iterator<Item = &Entity> {
        // SAFETY: all point into `self.arrays`, and `&self` is the lock.
        [self.rt, self.active, self.expired].into_iter().flat_map(|array| unsafe { &*array }.iter())
    }
}

/// The level that policy, nice value, bonus and inheritance give.
pub(super) fn effective_prio(entity: &Entity) -> i32 {
    let normal = entity.normal_prio();
    let own = if normal < prio::MAX_RT_PRIO {
        normal
    } else {
        prio::effective_prio(entity.policy(), entity.static_prio(), entity.sleep_avg.load(Relaxed))
    };
    own.min(entity.pi_prio.load(Relaxed))
}

#[inline]
fn counts_as_load(state: TaskState) -> bool {
    state.contains(TaskState::UNINTERRUPTIBLE) && !state.contains(TaskState::NOLOAD)
}

#[cfg(test)]
mod tests;

//! Work queues: work that needs a thread to sleep in, but none of its own.
//!
//! Each CPU has a pool of work that runs on that CPU, and there is one whose work runs anywhere; their
//! threads (`kworker`) are made by the process floor and run [`worker`]. A [`Work`] is queued once at a
//! time: queueing what is queued changes nothing; what is queued while it runs runs once more.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering, Ordering::Relaxed};

use super::clock::Deadline;
use super::state::TaskState;
use super::timer::Timer;
use super::wait::{Wait, WaitQueue};
use crate::errno::Result;
use crate::list::{Link, List};
use crate::list_link;
use crate::sync::{IrqLock, MAX_CPUS, PerCpu, PreemptGuard, this_cpu};

/// Something to do.
#[repr(C)]
pub struct Work {
    link: Link,
    run: fn(&Work),
    pending: AtomicBool,
    /// Where it was queued last.
    pool: AtomicPtr<Shared>,
}

// SAFETY: the link is touched under the pool's lock only.
unsafe impl Send for Work {}
// SAFETY: as above.
unsafe impl Sync for Work {}

list_link! {
    /// Links the work of a pool.
    Work, link: WorkLink
}

/// Which threads do the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Those of a CPU.
    Cpu(usize),
    /// Those that run anywhere.
    Unbound,
}

struct Queue {
    work: List<Work, WorkLink>,
    /// What a worker runs now.
    running: *const Work,
}

// SAFETY: it points at work that is not freed while it runs (`flush`).
unsafe impl Send for Queue {}

struct Shared {
    queue: IrqLock<Queue>,
    /// Where workers wait for work.
    idle: WaitQueue,
    /// Where others wait for work to be done.
    done: WaitQueue,
}

impl Shared {
    const fn new() -> Self {
        let queue = Queue { work: List::new(), running: core::ptr::null() };
        Self { queue: IrqLock::new(queue), idle: WaitQueue::new(), done: WaitQueue::new() }
    }
}

static CPU_POOLS: PerCpu<Shared> = PerCpu::new([const { Shared::new() }; MAX_CPUS]);
static UNBOUND: Shared = Shared::new();

impl Pool {
    fn shared(self) -> &'static Shared {
        match self {
            Self::Cpu(cpu) => CPU_POOLS.of(cpu),
            Self::Unbound => &UNBOUND,
        }
    }
}

impl Work {
    /// Work that calls `run`, in a thread, with itself ([`container_of!`](crate::container_of) finds what
    /// it is part of).
    pub const fn new(run: fn(&Work)) -> Self {
        Self {
            link: Link::new(),
            run,
            pending: AtomicBool::new(false),
            pool: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// Queues it; false if it is queued already.
    ///
    /// # Safety
    /// It stays alive and in place until it ran, or [`flush`](Self::flush) or [`cancel`](Self::cancel)
    /// returned.
    pub unsafe fn queue(&self, pool: Pool) -> bool {
        if self.pending.swap(true, Ordering::AcqRel) {
            return false;
        }
        let shared = pool.shared();
        {
            let queue = shared.queue.lock();
            self.pool.store(core::ptr::from_ref(shared).cast_mut(), Relaxed);
            // SAFETY: the lock is held, and the caller keeps it in place.
            unsafe { queue.work.push_back(self) };
        }
        shared.idle.wake_one();
        true
    }

    /// True while it is queued and does not run yet.
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// Sleeps until it is neither queued nor running.
    pub fn flush(&self) {
        // SAFETY: pools are statics.
        let Some(shared) = (unsafe { self.pool.load(Relaxed).as_ref() }) else { return };
        let idle = || {
            let queue = shared.queue.lock();
            !self.is_pending() && !core::ptr::eq(queue.running, self)
        };
        let how = Wait::new(TaskState::UNINTERRUPTIBLE, crate::wait_channel!("flush_work"));
        let _ = shared.done.wait_until(how, idle);
    }

    /// Takes it off its queue, and waits if it runs. True if it was queued.
    pub fn cancel(&self) -> bool {
        // SAFETY: pools are statics.
        let Some(shared) = (unsafe { self.pool.load(Relaxed).as_ref() }) else { return false };
        let cancelled = {
            let queue = shared.queue.lock();
            let queued = self.link.is_linked();
            if queued {
                // SAFETY: the lock is held, and it is on that list.
                unsafe { queue.work.remove(self) };
                self.pending.store(false, Ordering::Release);
            }
            queued
        };
        self.flush();
        cancelled
    }
}

/// Queues work on this CPU's pool; false if it is queued already.
pub fn schedule_work(work: &'static Work) -> bool {
    let cpu = {
        let _preempt = PreemptGuard::new();
        this_cpu()
    };
    // SAFETY: it lives for ever.
    unsafe { work.queue(Pool::Cpu(cpu)) }
}

/// A function to be called once.
#[repr(C)]
struct Boxed<F: FnOnce() + Send + 'static> {
    work: Work,
    f: Option<F>,
}

/// Calls `f` in a thread of the unbound pool, soon.
pub fn spawn<F: FnOnce() + Send + 'static>(f: F) -> Result<()> {
    fn run<F: FnOnce() + Send + 'static>(work: &Work) {
        let boxed = core::ptr::from_ref(work).cast_mut().cast::<Boxed<F>>();
        // SAFETY: the work is the first field of the box that `spawn` leaked; it runs once.
        let mut boxed = unsafe { Box::from_raw(boxed) };
        if let Some(f) = boxed.f.take() {
            f();
        }
    }
    let boxed = crate::mm::try_box(Boxed { work: Work::new(run::<F>), f: Some(f) })?;
    // SAFETY: leaked until `run` takes it back.
    unsafe { (*Box::into_raw(boxed)).work.queue(Pool::Unbound) };
    Ok(())
}

/// Work that is queued some time later.
#[repr(C)]
pub struct DelayedWork {
    /// What is queued.
    pub work: Work,
    timer: Timer,
}

impl DelayedWork {
    /// Work that calls `run`, later.
    pub const fn new(run: fn(&Work)) -> Self {
        Self { work: Work::new(run), timer: Timer::new(Self::ring) }
    }

    fn ring(timer: &Timer) {
        let this = crate::container_of!(timer, DelayedWork, timer);
        // SAFETY: the timer is part of a `DelayedWork` that lives until it is cancelled.
        unsafe { (*this).work.queue(Pool::Unbound) };
    }

    /// Queues the work in so many nanoseconds, or moves the time.
    pub fn schedule(&'static self, after_ns: u64) {
        // SAFETY: it lives for ever.
        unsafe { self.timer.start(Deadline::after(after_ns)) };
    }

    /// Stops it, before the time or after; waits if the work runs.
    pub fn cancel(&self) -> bool {
        self.timer.cancel() | self.work.cancel()
    }
}

/// The body of a `kworker`, until `stop` says so.
pub fn worker(pool: Pool, stop: impl Fn() -> bool) {
    let shared = pool.shared();
    let how = Wait::new(TaskState::IDLE, crate::wait_channel!("worker_thread")).exclusive();
    while !stop() {
        let _ = shared.idle.wait_until(how, || stop() || !shared.queue.lock().work.is_empty());
        while run_one(shared) {}
    }
}

/// Gives the work of a CPU that was taken out to the threads that run anywhere. Its own sleep already.
pub fn adopt(cpu: usize) {
    let from = CPU_POOLS.of(cpu);
    loop {
        let moved = {
            let theirs = from.queue.lock();
            // Only this function locks two pools.
            let ours = UNBOUND.queue.lock();
            // SAFETY: both locks are held, and whoever queued the work keeps it in place.
            unsafe {
                match theirs.work.pop_front() {
                    Some(work) => {
                        work.pool.store(core::ptr::from_ref(&UNBOUND).cast_mut(), Relaxed);
                        ours.work.push_back(work);
                        true
                    }
                    None => false,
                }
            }
        };
        if !moved {
            return;
        }
        UNBOUND.idle.wake_one();
    }
}

fn run_one(shared: &Shared) -> bool {
    let work: *const Work = {
        let mut queue = shared.queue.lock();
        // SAFETY: the lock is held.
        let Some(work) = (unsafe { queue.work.pop_front() }) else { return false };
        queue.running = work;
        work.pending.store(false, Ordering::Release);
        work
    };
    // SAFETY: whoever queued it keeps it until it ran.
    unsafe { ((*work).run)(&*work) };
    // It may be gone by now.
    shared.queue.lock().running = core::ptr::null();
    shared.done.wake_all();
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn work_runs_once_for_each_time_that_it_was_queued() {
        static RAN: AtomicU32 = AtomicU32::new(0);
        static WORK: Work = Work::new(|_| {
            RAN.fetch_add(1, Relaxed);
        });
        static LATER: DelayedWork = DelayedWork::new(|_| {
            RAN.fetch_add(100, Relaxed);
        });
        let stop = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = [Pool::Cpu(0), Pool::Unbound]
            .map(|pool| {
                let stop = stop.clone();
                std::thread::spawn(move || worker(pool, || stop.load(Relaxed)))
            })
            .into();
        for _ in 0..20 {
            schedule_work(&WORK);
            WORK.flush();
        }
        assert_eq!(RAN.load(Relaxed), 20);

        let (send, receive) = std::sync::mpsc::channel();
        spawn(move || send.send(7).unwrap()).unwrap();
        assert_eq!(receive.recv(), Ok(7));

        LATER.schedule(u64::MAX / 4);
        assert!(LATER.cancel());
        assert_eq!(RAN.load(Relaxed), 20);

        stop.store(true, Relaxed);
        [Pool::Cpu(0), Pool::Unbound].iter().for_each(|p| p.shared().idle.wake_all());
        workers.into_iter().for_each(|w| w.join().unwrap());
    }
}

//! Kernel threads: tasks without memory of their own that run a function of the kernel.
//!
//! All of them are made by `kthreadd`, task 2, and are its children: whoever asks for one sends it a
//! request and waits. So a thread inherits nothing from who asked (memory, signals, files, priority).
//!
//! A thread made by [`kthread_create`] does not run before [`Kthread::wake`]; [`kthread_run`] does both.
//! The function gets its own [`Kthread`], returns when `should_stop` says so, and what it returns is what
//! [`Kthread::stop`] returns.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use super::{exit, fork};
use crate::errno::{Errno, Result};
use crate::fs::block;
use crate::kref::Ref;
use crate::mm::{try_arc, try_box};
use crate::sched::{self, Completion, TaskState, Wait, WaitQueue, softirq, workqueue};
use crate::signal::{NSIG, SigAction};
use crate::sync::{Mutex, Once, SpinLock};
use crate::task::{self, Task};
use crate::wait_event_interruptible;

type Body = Box<dyn FnOnce(&Kthread) -> i32 + Send>;

/// A kernel thread.
pub struct Kthread {
    task: Once<Ref<Task>>,
    body: Mutex<Option<Body>>,
    started: AtomicBool,
    stop: AtomicBool,
    park: AtomicBool,
    parked: Completion,
    result: AtomicI32,
    exited: Completion,
}

impl Kthread {
    /// Its task.
    pub fn task(&self) -> &Task {
        self.task.get()
    }

    /// Lets it run, the first time; later, ends its sleep (`wake_up_process`).
    pub fn wake(&self) {
        if self.started.swap(true, Ordering::AcqRel) {
            sched::wake_up_process(&self.task().se);
        } else {
            fork::start(self.task.get());
        }
    }

    /// True once it is to return: what its function asks. Check it between setting a sleep's state and
    /// sleeping, like any condition.
    pub fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// True once it is to [`park_here`](Self::park_here): checked like [`should_stop`](Self::should_stop).
    pub fn should_park(&self) -> bool {
        self.park.load(Ordering::Acquire)
    }

    /// Tells a thread that was woken once to park, and waits until it sleeps. Only for threads whose function
    /// looks at [`should_park`](Self::should_park).
    pub fn park(&self) {
        self.park.store(true, Ordering::Release);
        self.wake();
        self.parked.wait();
    }

    /// Lets a parked thread go on.
    pub fn unpark(&self) {
        self.park.store(false, Ordering::Release);
        sched::wake_up(&self.task().se, TaskState::PARKED);
    }

    /// The thread itself sleeps until [`unpark`](Self::unpark).
    fn park_here(&self) {
        let me = &task::current().se;
        let mut told = false;
        loop {
            me.prepare_sleep(TaskState::PARKED);
            if !self.should_park() {
                break me.cancel_sleep();
            }
            if !told {
                told = true;
                self.parked.complete();
            }
            sched::schedule_in(crate::wait_channel!("kthread_parkme"));
        }
    }

    /// Tells it to return, waits until it did, and returns its result; one that never ran is not
    /// run: `EINTR`.
    pub fn stop(&self) -> Result<i32> {
        self.stop.store(true, Ordering::Release);
        if !self.started.load(Ordering::Acquire) {
            // It has to run to end; it will not call its function.
            drop(self.body.lock().take());
        }
        self.wake();
        self.exited.wait();
        match self.result.load(Ordering::Acquire) {
            NEVER_RAN => Err(Errno::EINTR),
            result => Ok(result),
        }
    }

    /// Sleeps until `condition` is true or the thread is to stop; true if it is to stop. For threads that
    /// wait for requests on `queue`.
    pub fn wait_for(&self, queue: &WaitQueue, mut condition: impl FnMut() -> bool) -> bool {
        // Signals are blocked in kernel threads, so nothing else ends the sleep.
        let _ = wait_event_interruptible!(queue, self.should_stop() || condition());
        self.should_stop()
    }
}

const NEVER_RAN: i32 = i32::MIN;

struct Request {
    name: String,
    cpu: Option<usize>,
    thread: Arc<Kthread>,
    outcome: SpinLock<Option<Result<()>>>,
    done: Completion,
}

struct Kthreadd {
    requests: SpinLock<VecDeque<Arc<Request>>>,
    queue: WaitQueue,
}

static KTHREADD: Kthreadd =
    Kthreadd { requests: SpinLock::new(VecDeque::new()), queue: WaitQueue::new() };

fn create(
    name: &str,
    cpu: Option<usize>,
    body: impl FnOnce(&Kthread) -> i32 + Send + 'static,
) -> Result<Arc<Kthread>> {
    let body: Body = try_box(body)?;
    let thread = try_arc(Kthread {
        task: Once::new(),
        body: Mutex::new(Some(body)),
        started: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        park: AtomicBool::new(false),
        parked: Completion::new(),
        result: AtomicI32::new(NEVER_RAN),
        exited: Completion::new(),
    })?;
    let mut own_name = String::new();
    own_name.try_reserve(name.len()).map_err(|_| Errno::ENOMEM)?;
    own_name.push_str(name);
    let request = try_arc(Request {
        name: own_name,
        cpu,
        thread: thread.clone(),
        outcome: SpinLock::new(None),
        done: Completion::new(),
    })?;
    {
        let mut requests = KTHREADD.requests.lock();
        requests.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        requests.push_back(request.clone());
    }
    KTHREADD.queue.wake_one();
    request.done.wait();
    let outcome = request.outcome.lock().take();
    outcome.unwrap_or(Err(Errno::EINTR))?;
    Ok(thread)
}

/// Makes a thread called `name` (15 bytes are kept) that will run `body`, once it is woken. May sleep.
pub fn kthread_create(
    name: &str,
    body: impl FnOnce(&Kthread) -> i32 + Send + 'static,
) -> Result<Arc<Kthread>> {
    create(name, None, body)
}

/// As [`kthread_create`], bound to a CPU.
pub fn kthread_create_on_cpu(
    name: &str,
    cpu: usize,
    body: impl FnOnce(&Kthread) -> i32 + Send + 'static,
) -> Result<Arc<Kthread>> {
    create(name, Some(cpu), body)
}

/// Makes a thread and lets it run.
pub fn kthread_run(
    name: &str,
    body: impl FnOnce(&Kthread) -> i32 + Send + 'static,
) -> Result<Arc<Kthread>> {
    let thread = create(name, None, body)?;
    thread.wake();
    Ok(thread)
}

/// The first code of every thread made here.
extern "C" fn kthread(arg: usize) {
    // SAFETY: `serve` gave this reference away to this thread alone.
    let thread = unsafe { Arc::from_raw(arg as *const Kthread) };
    let body = thread.body.lock().take();
    if let Some(body) = body {
        let result = body(&thread);
        thread.result.store(result, Ordering::Release);
    }
    thread.exited.complete_all();
    drop(thread);
    // Its function may have made a program of it, which begins when this returns.
    if task::current().is_kthread() {
        exit::do_exit(0)
    }
}

fn serve(request: &Request) -> Result<()> {
    let arg = Arc::into_raw(request.thread.clone());
    let made = fork::kernel_thread(kthread, arg as usize, request.name.as_bytes(), task::current());
    let task = match made {
        Ok(task) => task,
        Err(e) => {
            // SAFETY: no thread was made that could have taken it.
            drop(unsafe { Arc::from_raw(arg) });
            return Err(e);
        }
    };
    if let Some(cpu) = request.cpu {
        task.se.set_cpus_allowed(1 << cpu)?;
    }
    request.thread.task.set(task);
    Ok(())
}

/// Task 2.
extern "C" fn kthreadd(_: usize) {
    // Children that end leave no zombies.
    for action in task::current().sighand.own().actions.lock().iter_mut().take(NSIG) {
        action.handler = SigAction::SIG_IGN;
    }
    loop {
        let how = Wait::new(TaskState::IDLE, crate::wait_channel!("kthreadd"));
        let _ = KTHREADD.queue.wait_until(how, || !KTHREADD.requests.lock().is_empty());
        loop {
            let request = KTHREADD.requests.lock().pop_front();
            let Some(request) = request else { break };
            let outcome = serve(&request);
            *request.outcome.lock() = Some(outcome);
            request.done.complete();
        }
    }
}

/// Makes task 2, at boot, and lets it run. The caller is task 0, its parent.
pub fn start_kthreadd() -> Result<()> {
    let task = fork::kernel_thread(kthreadd, 0, b"kthreadd", task::current())?;
    fork::start(&task);
    Ok(())
}

/// A thread of a CPU: runs `body`, which returns when its argument says so, again and again, and sleeps
/// while its CPU is out.
fn create_for_cpu(
    name: &str,
    cpu: usize,
    body: fn(usize, &dyn Fn() -> bool),
) -> Result<Arc<Kthread>> {
    create(name, Some(cpu), move |me| {
        while !me.should_stop() {
            body(cpu, &|| me.should_stop() || me.should_park());
            if me.should_park() {
                me.park_here();
            }
        }
        0
    })
}

/// The threads of one CPU.
pub struct CpuThreads {
    /// `migration/N`, which sleeps anyway while the CPU is out.
    migration: Arc<Kthread>,
    /// Those that are parked then: `ksoftirqd/N` and `kworker/N:0`.
    parking: [Arc<Kthread>; 2],
}

impl CpuThreads {
    /// Makes the threads of a CPU that may not be online yet. They begin once it is.
    pub fn new(cpu: usize) -> Result<Self> {
        let migration = create_for_cpu(&alloc::format!("migration/{cpu}"), cpu, |cpu, stop| {
            sched::stop::stopper(cpu, stop);
        })?;
        let thread: &'static Task = {
            // SAFETY: the reference that is given away here keeps the task for ever.
            unsafe { &*Ref::into_raw(migration.task().to_ref()) }
        };
        thread.se.set_scheduler(sched::Policy::Fifo, 0, sched::policy::MAX_RT_PRIORITY)?;
        sched::stop::set_stopper(cpu, &thread.se);
        let softirq = create_for_cpu(&alloc::format!("ksoftirqd/{cpu}"), cpu, |cpu, stop| {
            softirq::daemon(cpu, stop);
        })?;
        let worker = create_for_cpu(&alloc::format!("kworker/{cpu}:0"), cpu, |cpu, stop| {
            workqueue::worker(workqueue::Pool::Cpu(cpu), stop);
        })?;
        Ok(Self { migration, parking: [softirq, worker] })
    }

    /// The CPU is online: its threads go on, or begin.
    pub fn unpark(&self) {
        if !self.migration.started.load(Ordering::Acquire) {
            self.migration.wake();
        }
        for thread in &self.parking {
            if thread.started.load(Ordering::Acquire) { thread.unpark() } else { thread.wake() }
        }
    }

    /// The CPU is about to be taken out: returns once its threads sleep.
    pub fn park(&self) {
        self.parking.iter().for_each(|thread| thread.park());
    }
}

/// Starts the threads that belong to no CPU.
pub fn start_system_threads() {
    super::timers::init();
    let thread = kthread_run("kworker/u:0", |me| {
        workqueue::worker(workqueue::Pool::Unbound, || me.should_stop());
        0
    });
    if let Err(e) = thread {
        crate::kerr!("kworker/u:0: cannot be started: {e}");
    }
    if block::disk_at(0).is_some() {
        let thread = kthread_run("writeback", |me| {
            block::cache::write_back_thread(|| me.should_stop());
            0
        });
        if let Err(e) = thread {
            crate::kerr!("writeback: cannot be started: {e}");
        }
    }
}

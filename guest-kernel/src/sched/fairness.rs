//! Tests the promise of the run queue that nobody starves: a queue with programs that compute, fork, talk
//! through pipes and sleep, in made-up time. Whoever is runnable must run within a bound, whatever the
//! others do.

use core::ptr;
use core::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;

use super::entity::{BARE_OPS, Entity};
use super::fork;
use super::prio::{self, Policy};
use super::runqueue::{RunQueue, STARVATION_LIMIT, effective_prio};
use super::state::TaskState;

const MS: u64 = 1_000_000;

/// What a program does, over and over.
#[derive(Clone, Copy, Debug)]
enum Program {
    /// Computes.
    Hog,
    /// Computes for `work`, then runs a child that computes for `child`, and waits for its end.
    Shell { work: u64, child: u64 },
    /// Computes for `work`, wakes its partner (the next program) and sleeps until that wakes it.
    Pipe { work: u64, partner: usize },
    /// Computes for `work` and sleeps for `pause`.
    Sleeper { work: u64, pause: u64 },
    /// The child of shell `parent`: computes and ends.
    Child { work: u64, parent: usize },
}

struct Task {
    entity: Box<Entity>,
    program: Program,
    /// What it computes until it does something.
    left: u64,
    /// When its sleep ends by itself.
    rings: u64,
    /// Since when it has been runnable without running.
    waits_since: Option<u64>,
}

struct Machine {
    rq: Box<RunQueue>,
    tasks: Vec<Option<Task>>,
    now: u64,
    next_tick: u64,
    longest_wait: u64,
    most_running: u64,
}

impl Program {
    fn work(self) -> u64 {
        match self {
            Self::Hog => u64::MAX,
            Self::Shell { work, .. }
            | Self::Pipe { work, .. }
            | Self::Sleeper { work, .. }
            | Self::Child { work, .. } => work,
        }
    }
}

fn entity(policy: Policy, nice: i32) -> Box<Entity> {
    let entity = Box::new(Entity::new(&BARE_OPS));
    let static_prio = prio::nice_to_prio(nice);
    entity.policy.store(policy as u32, Relaxed);
    entity.static_prio.store(static_prio, Relaxed);
    entity.normal_prio.store(prio::normal_prio(policy, static_prio, 0), Relaxed);
    entity.time_slice.store(prio::slice(policy, static_prio).unwrap(), Relaxed);
    entity.prio.store(effective_prio(&entity), Relaxed);
    entity.set_running();
    entity
}

impl Machine {
    fn new(programs: &[(Policy, i32, Program)]) -> Self {
        let mut rq = Box::new(RunQueue::new());
        let idle = Box::leak(entity(Policy::Idle, 0));
        // SAFETY: leaked, and the queue is boxed.
        unsafe { rq.start(0, idle, 0) };
        let mut machine = Self {
            rq,
            tasks: Vec::new(),
            now: 0,
            next_tick: u64::MAX,
            longest_wait: 0,
            most_running: 0,
        };
        for &(policy, nice, program) in programs {
            let task = Task {
                entity: entity(policy, nice),
                program,
                left: program.work(),
                rings: u64::MAX,
                waits_since: Some(0),
            };
            machine.rq.enqueue_task(&task.entity);
            machine.tasks.push(Some(task));
        }
        machine.schedule();
        machine
    }

    fn task(&mut self, i: usize) -> &mut Task {
        self.tasks[i].as_mut().unwrap()
    }

    fn current(&self) -> Option<usize> {
        let curr = self.rq.curr();
        self.tasks.iter().position(|t| t.as_ref().is_some_and(|t| ptr::eq(&*t.entity, curr)))
    }

    fn schedule(&mut self) {
        let now = self.now;
        let prev = self.current();
        self.rq.update_curr(now);
        let next = self.rq.pick_next_task(now);
        self.most_running = self.most_running.max(self.rq.nr_running().into());
        if ptr::eq(next, self.rq.curr()) {
            return;
        }
        // SAFETY: what is queued is in `tasks`.
        self.rq.set_curr(unsafe { &*next }, now);
        if let Some(prev) = prev.map(|i| self.task(i))
            && prev.entity.is_queued()
        {
            prev.waits_since = Some(now);
        }
        if let Some(i) = self.current() {
            let since = self.task(i).waits_since.take().unwrap();
            self.longest_wait = self.longest_wait.max(now - since);
        }
        if let Some(at) = self.rq.next_event(now) {
            self.next_tick = self.next_tick.min(at);
        }
    }

    /// True if the woken one preempts.
    fn wake(&mut self, i: usize) -> bool {
        let now = self.now;
        let task = self.tasks[i].as_mut().unwrap();
        if task.entity.is_queued() {
            return false;
        }
        task.rings = u64::MAX;
        task.left = task.program.work();
        task.waits_since = Some(now);
        self.rq.activate_task(&task.entity, now);
        task.entity.force_state(TaskState::RUNNING);
        self.rq.preempts_curr(&task.entity)
    }

    fn sleep(&mut self, i: usize) {
        let task = self.tasks[i].as_ref().unwrap();
        task.entity.force_state(TaskState::INTERRUPTIBLE);
        self.rq.update_curr(self.now);
        self.rq.deactivate_task(&task.entity, self.now);
    }

    /// The current program did its computing: what it does then.
    fn act(&mut self, i: usize) {
        match self.task(i).program {
            Program::Hog => unreachable!("it never ends"),
            Program::Shell { child: work, .. } => {
                let child = entity(Policy::Normal, 0);
                self.rq.update_curr(self.now);
                fork::inherit(&self.task(i).entity, &child);
                if !self.rq.enqueue_before_curr(&child) {
                    self.rq.enqueue_task(&child);
                }
                self.sleep(i);
                let program = Program::Child { work, parent: i };
                let waits_since = Some(self.now);
                let child =
                    Task { entity: child, program, left: work, rings: u64::MAX, waits_since };
                match self.tasks.iter().position(Option::is_none) {
                    Some(free) => self.tasks[free] = Some(child),
                    None => self.tasks.push(Some(child)),
                }
            }
            Program::Pipe { partner, .. } => {
                self.wake(partner);
                self.sleep(i);
            }
            Program::Sleeper { pause, .. } => {
                self.sleep(i);
                self.task(i).rings = self.now + pause;
            }
            Program::Child { parent, .. } => {
                self.rq.update_curr(self.now);
                let entity = |i: usize| &*self.tasks[i].as_ref().unwrap().entity;
                fork::give_back(entity(i), entity(parent));
                self.sleep(i);
                self.wake(parent);
            }
        }
        self.schedule();
        if let Some(Program::Child { .. }) = self.tasks[i].as_ref().map(|t| t.program)
            && !self.task(i).entity.is_queued()
        {
            self.tasks[i] = None;
        }
    }

    fn run(&mut self, until: u64) {
        while self.now < until {
            let curr = self.current();
            let rings = self.tasks.iter().flatten().map(|t| t.rings).min().unwrap_or(u64::MAX);
            let done = curr.map_or(u64::MAX, |i| self.now.saturating_add(self.task(i).left));
            let at = done.min(rings).min(self.next_tick).max(self.now);
            if at == u64::MAX {
                break;
            }
            if let Some(i) = curr {
                let ran = at - self.now;
                self.task(i).left -= ran;
            }
            self.now = at;
            if at == self.next_tick {
                self.rq.update_curr(at);
                let resched = self.rq.task_tick(at);
                self.next_tick = self.rq.next_event(at).unwrap_or(u64::MAX);
                if resched {
                    self.schedule();
                }
            } else if at == rings {
                let due: Vec<_> = (0..self.tasks.len())
                    .filter(|i| self.tasks[*i].as_ref().is_some_and(|t| t.rings <= at))
                    .collect();
                let mut preempted = false;
                for i in due {
                    preempted |= self.wake(i);
                }
                if preempted {
                    self.schedule();
                }
            } else {
                self.act(curr.unwrap());
            }
        }
        for task in self.tasks.iter().flatten() {
            if let Some(since) = task.waits_since {
                self.longest_wait = self.longest_wait.max(self.now - since);
            }
        }
    }

    /// How long anybody may wait: until the array that is in use now is closed and empty, and then
    /// the same for the other one.
    fn bound(&self, slice: u64) -> u64 {
        2 * self.most_running * (STARVATION_LIMIT + slice)
    }

    fn ran(&self, i: usize) -> u64 {
        self.tasks[i].as_ref().unwrap().entity.sum_exec_runtime.load(Relaxed)
    }
}

fn normal(program: Program) -> (Policy, i32, Program) {
    (Policy::Normal, 0, program)
}

#[test]
fn shells_that_wait_for_children_do_not_starve_what_computes() {
    let shell = |work, child| normal(Program::Shell { work: work * MS, child: child * MS });
    let mut machine = Machine::new(&[
        shell(1, 3),
        shell(2, 5),
        shell(1, 9),
        normal(Program::Hog),
        normal(Program::Hog),
    ]);
    machine.run(20_000 * MS);
    assert!(machine.longest_wait <= machine.bound(100 * MS), "{} ms", machine.longest_wait / MS);
    // They compute as much as the hogs do, most of it in children.
    assert!(machine.ran(3) > 2_000 * MS, "{} ms", machine.ran(3) / MS);
}

#[test]
fn talkers_do_not_starve_what_computes() {
    let pipe = |partner| normal(Program::Pipe { work: MS, partner });
    let mut machine = Machine::new(&[pipe(1), pipe(0), pipe(3), pipe(2), normal(Program::Hog)]);
    machine.run(20_000 * MS);
    assert!(machine.longest_wait <= machine.bound(100 * MS), "{} ms", machine.longest_wait / MS);
}

#[test]
fn what_mostly_sleeps_is_not_kept_waiting_by_what_computes() {
    let sleeper = Program::Sleeper { work: MS, pause: 50 * MS };
    let mut machine = Machine::new(&[
        normal(sleeper),
        normal(Program::Hog),
        normal(Program::Hog),
        normal(Program::Hog),
    ]);
    machine.run(3_000 * MS);
    machine.longest_wait = 0;
    let ran = machine.ran(0);
    machine.run(13_000 * MS);
    // One in 51 ms, and never late.
    assert!(machine.ran(0) - ran >= 195 * MS, "{} ms", (machine.ran(0) - ran) / MS);
}

fn programs() -> impl Strategy<Value = Vec<(Policy, i32, Program)>> {
    let time = || 300_000..20 * MS;
    let program = prop_oneof![
        Just(Program::Hog),
        (time(), time()).prop_map(|(work, child)| Program::Shell { work, child }),
        (time(), 0..6_usize).prop_map(|(work, partner)| Program::Pipe { work, partner }),
        (time(), time()).prop_map(|(work, pause)| Program::Sleeper { work, pause }),
    ];
    let policy =
        prop_oneof![4 => Just(Policy::Normal), 1 => Just(Policy::Batch), 1 => Just(Policy::Idle)];
    let nice = prop_oneof![3 => Just(0), 1 => -20..20];
    prop::collection::vec((policy, nice, program), 6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever runs, nobody who is runnable waits for longer than the bound.
    #[test]
    fn whoever_is_runnable_runs_in_time(programs in programs()) {
        let mut machine = Machine::new(&programs);
        machine.run(60_000 * MS);
        let bound = machine.bound(prio::static_slice(100));
        prop_assert!(machine.longest_wait <= bound, "{} ms", machine.longest_wait / MS);
    }
}

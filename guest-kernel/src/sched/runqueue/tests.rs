//! Tests of the run queue that need to look inside; what it promises as a whole is in `fairness`.

use super::super::entity::BARE_OPS;
use super::*;
use proptest::prelude::*;

const MS: u64 = 1_000_000;

fn queue() -> Box<RunQueue> {
    let mut rq = Box::new(RunQueue::new());
    let idle = Box::leak(Box::new(Entity::new(&BARE_OPS)));
    idle.set_running();
    // SAFETY: leaked, and the queue is boxed.
    unsafe { rq.start(0, idle, 0) };
    rq
}

fn entity(policy: Policy, nice: i32, rt_priority: u32) -> Box<Entity> {
    let entity = Box::new(Entity::new(&BARE_OPS));
    let static_prio = prio::nice_to_prio(nice);
    entity.policy.store(policy as u32, Relaxed);
    entity.static_prio.store(static_prio, Relaxed);
    entity.rt_priority.store(rt_priority, Relaxed);
    entity.normal_prio.store(prio::normal_prio(policy, static_prio, rt_priority), Relaxed);
    entity.time_slice.store(prio::slice(policy, static_prio).unwrap_or(0), Relaxed);
    entity.prio.store(effective_prio(&entity), Relaxed);
    entity.set_running();
    entity
}

fn normal(nice: i32) -> Box<Entity> {
    entity(Policy::Normal, nice, 0)
}

/// What `schedule` does with the queue: picks and makes it current.
fn switch(rq: &mut RunQueue, now: u64) -> *const Entity {
    rq.update_curr(now);
    let next = rq.pick_next_task(now);
    // SAFETY: the tests' entities outlive the queue's use of them.
    rq.set_curr(unsafe { &*next }, now);
    next
}

/// Lets the queue run from `from` to `to` with a tick every 10 ms; who ran how long is in the
/// entities.
fn run(rq: &mut RunQueue, from: u64, to: u64) {
    switch(rq, from);
    let mut now = from;
    while now < to {
        now += TICK_NS;
        rq.update_curr(now);
        if rq.task_tick(now) {
            switch(rq, now);
        }
    }
}

fn ran(entity: &Entity) -> u64 {
    entity.sum_exec_runtime.load(Relaxed)
}

#[test]
fn idle_runs_when_nothing_else_does() {
    let mut rq = queue();
    let a = normal(0);
    assert!(rq.is_idle());
    rq.enqueue_task(&a);
    assert!(rq.preempts_curr(&a));
    assert!(ptr::eq(switch(&mut rq, 0), &*a));
    rq.deactivate_task(&a, MS);
    assert!(ptr::eq(switch(&mut rq, MS), rq.idle));
    assert_eq!((ran(&a), rq.nr_running(), rq.next_event(MS)), (MS, 0, None));
}

#[test]
fn what_sleeps_most_of_the_time_is_little_load() {
    let mut rq = queue();
    let (hog, sleeper) = (normal(0), normal(0));
    rq.enqueue_task(&hog);
    switch(&mut rq, 0);
    // Runnable at each tick, and hardly in between.
    for now in (TICK_NS..=50 * TICK_NS).step_by(TICK_NS as usize) {
        rq.activate_task(&sleeper, now);
        assert!(!rq.average_load(51 * TICK_NS, now));
        rq.update_curr(now + TICK_NS / 10);
        rq.deactivate_task(&sleeper, now + TICK_NS / 10);
    }
    assert!(rq.average_load(51 * TICK_NS, 51 * TICK_NS));
    let tenths = rq.load_avg() * 10 / LOAD_SCALE;
    assert_eq!(tenths, 10, "{} of {LOAD_SCALE}", rq.load_avg());
    assert!(rq.average_load(TICK_NS, 52 * TICK_NS));
    assert_eq!(rq.load_avg(), LOAD_SCALE, "the hog alone");
}

#[test]
fn fifo_runs_on_and_round_robin_takes_turns() {
    let mut rq = queue();
    let fifo = entity(Policy::Fifo, 0, 50);
    let (a, b) = (entity(Policy::RoundRobin, 0, 10), entity(Policy::RoundRobin, 0, 10));
    let hog = normal(-20);
    for e in [&hog, &a, &b, &fifo] {
        rq.enqueue_task(e);
    }
    run(&mut rq, 0, 900 * MS);
    assert_eq!((ran(&fifo), ran(&a)), (900 * MS, 0));
    rq.dequeue_task(&fifo);
    rq.dequeue_task(&hog);
    run(&mut rq, 900 * MS, 1900 * MS);
    assert_eq!((ran(&a), ran(&b)), (500 * MS, 500 * MS));
}

#[test]
fn real_time_entities_leave_others_a_twentieth() {
    let mut rq = queue();
    let (fifo, normal) = (entity(Policy::Fifo, 0, 50), normal(0));
    rq.enqueue_task(&fifo);
    rq.enqueue_task(&normal);
    run(&mut rq, 0, 10_000 * MS);
    let share = ran(&normal) / MS;
    assert!((300..=600).contains(&share), "{share} ms of 10 s");
    // With nobody else to run they have all of it.
    rq.dequeue_task(&normal);
    let before = ran(&fifo);
    run(&mut rq, 10_000 * MS, 12_000 * MS);
    assert_eq!(ran(&fifo) - before, 2000 * MS);
}

#[test]
fn what_a_real_time_hog_leaves_is_for_all_normal_entities() {
    let mut rq = queue();
    let fifo = entity(Policy::Fifo, 0, 50);
    let normals = [normal(-20), normal(0), normal(19)];
    rq.enqueue_task(&fifo);
    for e in &normals {
        rq.enqueue_task(e);
    }
    run(&mut rq, 0, 60_000 * MS);
    let times: Vec<_> = normals.iter().map(|e| ran(e)).collect();
    assert!(times.iter().all(|t| *t > 0), "{times:?}");
    assert!(times[0] > times[1] && times[1] > times[2], "{times:?}");
}

#[test]
fn a_level_that_changes_class_moves_to_the_array_of_its_class() {
    let mut rq = queue();
    let (a, b) = (normal(0), normal(0));
    rq.enqueue_task(&a);
    rq.enqueue_task(&b);
    switch(&mut rq, 0);
    // Inherited from somebody urgent, and back.
    rq.set_prio(&b, 10);
    assert!(ptr::eq(b.array.load(Relaxed), rq.rt) && rq.preempts_curr(&b));
    assert!(ptr::eq(switch(&mut rq, MS), &*b));
    rq.set_prio(&b, 120);
    assert!(ptr::eq(b.array.load(Relaxed), rq.entry) && !rq.preempts_curr(&b));
    assert_eq!(rq.iter().count(), 2);
    rq.set_prio(&a, 20);
    assert!(ptr::eq(switch(&mut rq, 2 * MS), &*a));
    assert_eq!(rq.curr_prio(), 20);
    rq.set_prio(&a, 121);
    assert_eq!(rq.curr_prio(), 121);
}

#[test]
fn nobody_starves_and_nice_counts() {
    let mut rq = queue();
    let entities = [normal(-20), normal(0), normal(10), normal(19), entity(Policy::Idle, 0, 0)];
    for e in &entities {
        rq.enqueue_task(e);
    }
    run(&mut rq, 0, 20_000 * MS);
    let times: Vec<_> = entities.iter().map(|e| ran(e)).collect();
    assert!(times.iter().all(|t| *t > 0), "{times:?}");
    assert!(times.windows(2).all(|w| w[0] >= w[1]), "{times:?}");
    assert!(times[0] > 5 * times[1], "{times:?}");
    assert_eq!(times.iter().sum::<u64>(), 20_000 * MS);
}

#[test]
fn what_mostly_sleeps_preempts_what_mostly_computes() {
    let mut rq = queue();
    let (hog, sleeper) = (normal(0), normal(0));
    rq.enqueue_task(&hog);
    run(&mut rq, 0, 2000 * MS);
    sleeper.timestamp.store(500 * MS, Relaxed);
    rq.activate_task(&sleeper, 2000 * MS);
    assert!(rq.preempts_curr(&sleeper));
    assert!(ptr::eq(switch(&mut rq, 2000 * MS), &*sleeper));
    // A batch entity never does, however long it slept.
    rq.deactivate_task(&sleeper, 2001 * MS);
    switch(&mut rq, 2001 * MS);
    let batch = entity(Policy::Batch, 0, 0);
    rq.activate_task(&batch, 4000 * MS);
    assert!(!rq.preempts_curr(&batch));
}

#[test]
fn yield_lets_all_others_go_first() {
    let mut rq = queue();
    let (a, b, c) = (normal(0), normal(0), normal(10));
    for e in [&a, &b, &c] {
        rq.enqueue_task(e);
    }
    let mut order = vec![switch(&mut rq, 0)];
    for _ in 0..3 {
        rq.yield_task();
        order.push(switch(&mut rq, 0));
    }
    let want: [*const Entity; 4] = [&*a, &*b, &*c, &*a];
    assert_eq!(order, want);
}

#[test]
fn uninterruptible_sleepers_are_counted_once() {
    let mut rq = queue();
    let a = normal(0);
    rq.enqueue_task(&a);
    switch(&mut rq, 0);
    a.force_state(TaskState::UNINTERRUPTIBLE);
    rq.deactivate_task(&a, 1);
    assert_eq!(rq.nr_uninterruptible(), 1);
    rq.activate_task(&a, 2);
    a.end_sleep();
    assert_eq!(rq.nr_uninterruptible(), 0);
    a.force_state(TaskState::IDLE);
    rq.deactivate_task(&a, 3);
    assert_eq!(rq.nr_uninterruptible(), 0);
}

#[derive(Clone, Debug)]
enum Op {
    Wake(usize),
    Sleep,
    Switch,
    Tick(u64),
    Yield,
    SetPrio(usize, i32),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0..8_usize).prop_map(Op::Wake),
        2 => Just(Op::Sleep),
        3 => Just(Op::Switch),
        4 => (1..300 * MS).prop_map(Op::Tick),
        1 => Just(Op::Yield),
        1 => (0..8_usize, 0..140_i32).prop_map(|(e, p)| Op::SetPrio(e, p)),
    ];
    prop::collection::vec(op, 0..300)
}

proptest! {
    /// Whatever happens, everybody runnable is queued once, the running entity included, and the one
    /// picked is on the best level of the real-time array, or else of the active one.
    #[test]
    fn the_books_are_right(ops in ops()) {
        let mut rq = queue();
        let entities: Vec<_> = (0..8)
            .map(|i| match i {
                0 => entity(Policy::Fifo, 0, 5),
                1 => entity(Policy::RoundRobin, 0, 5),
                2 => entity(Policy::Batch, 3, 0),
                3 => entity(Policy::Idle, 0, 0),
                n => normal(n * 5 - 22),
            })
            .collect();
        let mut now = 0;
        for op in ops {
            now += MS;
            match op {
                Op::Wake(i) if !entities[i].is_queued() => rq.activate_task(&entities[i], now),
                Op::Sleep if !rq.is_idle() => {
                    // SAFETY: the entities outlive the loop.
                    let curr = unsafe { &*rq.curr };
                    rq.update_curr(now);
                    rq.deactivate_task(curr, now);
                    switch(&mut rq, now);
                }
                Op::Switch => {
                    let next = switch(&mut rq, now);
                    if !rq.is_idle() && !rq.rt_throttled {
                        // SAFETY: as above.
                        let best = unsafe {
                            (*rq.rt).first_level().or((*rq.active).first_level())
                        };
                        // SAFETY: as above.
                        prop_assert_eq!(best, Some(unsafe { (*next).prio() } as usize));
                    }
                }
                Op::Tick(ns) => {
                    now += ns;
                    rq.update_curr(now);
                    rq.task_tick(now);
                }
                Op::Yield => rq.yield_task(),
                Op::SetPrio(i, prio) => rq.set_prio(&entities[i], prio),
                _ => {}
            }
            let queued: Vec<_> = rq.iter().map(ptr::from_ref).collect();
            prop_assert_eq!(queued.len() as u32, rq.nr_running());
            for e in &entities {
                let times = queued.iter().filter(|q| ptr::eq(**q, &**e)).count();
                prop_assert_eq!(times, usize::from(e.is_queued()));
            }
            prop_assert!(rq.is_idle() || rq.curr().is_queued());
        }
    }
}

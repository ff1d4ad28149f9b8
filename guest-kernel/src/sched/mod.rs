//! The scheduler: decides which [`Entity`] runs on which CPU, and when.
//!
//! It knows entities, not tasks: a task (a later floor) begins with one.
//!
//! # The states of an entity
//!
//! ```text
//!          wake_up_new                 schedule()
//!   NEW ───────────────▶ RUNNING ◀──────────────────▶ RUNNING      preempted: stays queued
//!                        (queued)      (picked)       (on a CPU)
//!                            ▲                            │ prepare_sleep(INTERRUPTIBLE │ UNINTERRUPTIBLE │
//!                            │                            │               STOPPED │ TRACED │ PARKED),
//!                    WAKING ─┤                            │ condition checked, schedule()
//!              (moved to     │ wake_up(states)            ▼
//!              another CPU)  └──────────────────────── sleeping      (off the CPU, not queued)
//!
//!   RUNNING (on a CPU) ── exit_current() ──▶ DEAD ── switched away ──▶ EntityOps::put
//! ```
//!
//! # What is where
//!
//! | file | what |
//! | --- | --- |
//! | [`entity`], [`state`] | the entity and its transitions |
//! | [`prio`], [`prio_array`], [`runqueue`] | priorities and slices; 140 levels and a bitmap; one CPU's queue |
//! | [`schedule`](mod@schedule) | schedule, the switch, waking, the tick |
//! | [`fork`] | what a child starts with, and gives back |
//! | [`balance`], [`cpu`] | several CPUs: which, who runs where |
//! | [`call`], [`stop`], [`hotplug`] | calling others, halting others, taking a CPU out and in |
//! | [`wait`], [`completion`], `parking` | wait queues, completions, where sleeping locks sleep |
//! | [`clock`], [`timer`], [`heap`] | time, deadlines |
//! | [`cputime`], [`loadavg`] | accounting |
//! | [`group`], [`bandwidth`] | control groups: run time, shares of the CPU, quotas |
//! | [`policy`] | setting policy, nice value, affinity |
//! | [`softirq`], [`workqueue`] | work put off by interrupt handlers; work put off to threads |
//! | [`restart`] | what an interrupted sleep goes on with |

pub mod balance;
pub mod bandwidth;
pub mod call;
pub mod clock;
pub mod completion;
pub mod cpu;
pub mod cputime;
pub mod entity;
#[cfg(test)]
mod fairness;
pub mod fork;
pub mod group;
pub mod heap;
pub mod hotplug;
pub mod loadavg;
mod parking;
pub mod policy;
pub mod prio;
pub mod prio_array;
pub mod restart;
pub mod runqueue;
pub mod schedule;
pub mod softirq;
pub mod state;
pub mod stop;
pub mod timer;
pub mod wait;
pub mod workqueue;

pub use bandwidth::Bandwidth;
pub use clock::{
    ClockBase, Deadline, NSEC_PER_SEC, boottime_ns, monotonic_ns, realtime_ns, set_realtime,
};
pub use completion::Completion;
pub use cpu::handle_ipi;
pub use cputime::{CpuRecord, CpuTime, CpuTimes, cpu_times};
pub use entity::{BARE_OPS, Entity, EntityOps, WaitChannel, current};
pub use fork::{sched_exit, sched_fork, wake_up_new};
pub use group::{CpuAccount, SchedGroup, Share, set_group};
pub use loadavg::{loadavg, nr_context_switches, nr_running, nr_uninterruptible};
pub use prio::Policy;
pub use restart::{RestartBlock, RestartKind};
pub use schedule::{
    adopt_boot_thread, exit_current, idle_loop, init_cpu, kick, preempt_schedule_irq, schedule,
    schedule_in, schedule_until, wait_until, wake_up, wake_up_process, yield_now,
};
pub use softirq::irq_exit;
pub use state::TaskState;
pub use timer::{SleepTimer, Timer, schedule_timeout, sleep_until, timer_interrupt};
pub use wait::{Wait, WaitEntry, WaitQueue};

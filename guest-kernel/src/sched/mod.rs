//! The scheduler. To be written.

/// A preemption point was reached with a reschedule wanted.
#[unsafe(no_mangle)]
fn preempt_schedule() {}

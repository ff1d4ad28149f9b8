//! Clocks on a host.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Instant;

thread_local! {
    static DEADLINE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The timer's private interrupt.
pub const TIMER_IRQ: u32 = 27;

/// The counter: nanoseconds since the first call.
pub fn counter() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Ticks of [`counter`] in a second.
pub fn counter_frequency() -> u64 {
    1_000_000_000
}

/// Notes when this CPU's timer would fire; tests run expired timers themselves.
pub fn set_timer(deadline: u64) {
    DEADLINE.set(Some(deadline));
}

/// Forgets the deadline.
pub fn stop_timer() {
    DEADLINE.set(None);
}

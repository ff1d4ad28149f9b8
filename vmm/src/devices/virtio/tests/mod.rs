//! Each device through its registers and rings, with drivers that keep the rules and drivers that lie.

mod block;
mod console;
mod fuzz;
mod net;
mod queue;
mod rng;
mod transport;

use super::Rng;
use super::synthetic::Guest;

/// The simplest device: one queue, answers whatever is asked.
fn simple() -> Guest {
    Guest::new(|report| Box::new(Rng::new(report)))
}

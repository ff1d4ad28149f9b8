//! Lines for the user, so few that a guest cannot flood a terminal or a log with them.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

/// How many lines one device may say in one [`PERIOD`].
const LINES: u32 = 8;
const PERIOD: Duration = Duration::from_secs(60);

/// Where a device says what its user should know, a line at a time. One for each device.
#[derive(Clone)]
pub struct Report(Arc<Inner>);

struct Inner {
    say: Box<dyn Fn(&str) + Send + Sync>,
    said: Mutex<(Instant, u32)>,
}

impl Report {
    /// Lines go to `say`.
    pub fn new(say: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { say: Box::new(say), said: Mutex::new((Instant::now(), 0)) }))
    }

    /// Says a line about the device called `name`; drops it if there were too many.
    pub fn line(&self, name: &str, what: impl Display) {
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.0.elapsed() >= PERIOD {
            *said = (Instant::now(), 0);
        }
        said.1 = said.1.saturating_add(1);
        let count = said.1;
        drop(said);
        if count <= LINES {
            warn!(device = name, "{what}");
        }
        match count {
            ..LINES => (self.0.say)(&format!("{name}: {what}")),
            LINES => (self.0.say)(&format!("{name}: {what} (more such lines are left out)")),
            _ => {}
        }
    }
}

//! The user's terminal in raw mode, and back on every way out.
//!
//! The settings to go back to stand in one place of the process, so that a panic can restore them
//! as well as an orderly end; `guard` does it after SIGKILL.

use std::io;
use std::sync::Mutex;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The settings before raw mode, while it is on.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode; its end restores the terminal.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Makes stdin's terminal raw: every key goes to the guest, Ctrl-C too.
    pub fn enter() -> io::Result<Self> {
        let settings = tcgetattr(io::stdin())?;
        install_panic_hook();
        BEFORE.lock().unwrap().get_or_insert_with(|| settings.clone());
        let mut raw = settings;
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// The settings of stdin, if it is a terminal.
pub fn settings() -> Option<Termios> {
    tcgetattr(io::stdin()).ok()
}

/// Rows and columns of stdout's terminal.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Leaves raw mode if it is on.
pub fn restore() {
    // A panic while the lock was held poisons it; the settings in it are still right.
    let mut before = BEFORE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(settings) = before.take() {
        // Nothing more can be done if the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &settings);
    }
}

fn install_panic_hook() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            next(info);
        }));
    });
}

//! Programs that are taken out of their machine in the middle and go on in another one.

use std::time::Duration;

/// What the other machine lacks.
const MARK: &str = "/mark-of-the-first-machine";

/// With the argument `wait`, says that the program is ready and waits until it goes on in another machine, whose
/// files are those that the first one started with. Without it, returns at once: so the program also runs where
/// nobody moves it.
pub fn wait_to_be_moved() {
    if std::env::args().nth(1).as_deref() != Some("wait") {
        return;
    }
    if let Err(error) = std::fs::write(MARK, "") {
        crate::fail(&format!("{MARK}: {error}"));
    }
    println!("ready");
    while std::path::Path::new(MARK).exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

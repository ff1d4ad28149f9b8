//! A guest that is taken out of its machine again and again while it works, and goes on elsewhere.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::guest::Guest;

/// What a guest left that was interrupted.
#[derive(Debug)]
pub struct Travelled {
    /// The exit status of the machine that it ended in.
    pub code: i32,
    /// Everything that it printed, in all machines.
    pub stdout: String,
    /// How many times it went on in another machine.
    pub moves: usize,
}

/// How the guest travels.
pub struct Itinerary<'a> {
    /// Options of `run`, image and command included, without `--name`.
    pub run: &'a [&'a str],
    /// For each move, the options of the `restore` that follows.
    pub restores: &'a [&'a [&'a str]],
    /// Where the times between two moves come from: the same times for the same number.
    pub seed: u64,
    /// The shortest and the longest time between two moves, in milliseconds.
    pub between: (u64, u64),
}

/// Numbers that look random and are the same each time (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        least + (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % (most - least + 1)
    }
}

/// The name of the VM.
const NAME: &str = "traveller";

/// A guest on its way: the machine that it is in, and what it has printed in those before.
pub struct Journey<'a> {
    guest: &'a Guest,
    machine: Option<Machine>,
    printed: String,
    moves: usize,
}

impl<'a> Journey<'a> {
    /// Starts a guest with these options of `run`.
    pub fn start(guest: &'a Guest, run: &[&str]) -> Self {
        let machine = Machine::start(guest, &[&["run", "--name", NAME], run].concat());
        Self { guest, machine: Some(machine), printed: String::new(), moves: 0 }
    }

    /// Goes on with the snapshot `dir` of a guest that had `printed` so much.
    pub fn go_on(guest: &'a Guest, dir: &Path, options: &[&str], printed: String) -> Self {
        let mut journey = Self { guest, machine: None, printed, moves: 0 };
        journey.restore(dir, options);
        journey
    }

    /// What it has printed, up to the last time it was saved.
    pub fn printed(&self) -> &str {
        &self.printed
    }

    /// Saves it after so many milliseconds, and its machine ends; where. `None` if it was faster than we are
    /// and has ended.
    ///
    /// # Panics
    /// If it can be neither saved nor has ended.
    pub fn save(&mut self, after: u64) -> Option<PathBuf> {
        let mut machine = self.machine.take().unwrap();
        self.guest.wait_for(NAME, &mut machine.child);
        std::thread::sleep(Duration::from_millis(after));
        let dir = self.guest.path(&format!("stop-{}", self.moves));
        let saved = self.guest.run(&["snapshot", NAME, dir.to_str().unwrap(), "--stop"], "");
        if saved.code != 0 {
            if !machine.ends_soon() {
                panic!("{saved:?}\nIt goes on:\n{}", self.guest.shown(NAME));
            }
            let (code, text) = machine.end();
            self.printed += &text;
            assert!(!self.printed.is_empty() && code != 125, "{saved:?}, and it ended: {text}");
            self.machine = Some(machine);
            return None;
        }
        let (code, text) = machine.end();
        assert_eq!(code, 0, "a VM that was saved and stopped: {text}");
        self.printed += &text;
        self.moves += 1;
        Some(dir)
    }

    /// Lets it go on in another machine.
    pub fn restore(&mut self, dir: &Path, options: &[&str]) {
        let restore = ["restore", dir.to_str().unwrap(), "--name", NAME];
        self.machine = Some(Machine::start(self.guest, &[&restore, options].concat()));
    }

    /// Waits for its end: its exit status, and all that it printed.
    pub fn end(mut self) -> (i32, String) {
        let (code, text) = self.machine.take().unwrap().end();
        (code, self.printed + &text)
    }
}

/// Runs the guest and moves it: saved with `--stop`, the machine gone, restored in a new one.
///
/// # Panics
/// If it can be neither saved nor has ended.
pub fn travel(guest: &Guest, itinerary: &Itinerary<'_>) -> Travelled {
    let mut numbers = Numbers(itinerary.seed | 1);
    let mut journey = Journey::start(guest, itinerary.run);
    for options in itinerary.restores {
        match journey.save(numbers.between(itinerary.between)) {
            Some(dir) => journey.restore(&dir, options),
            None => break,
        }
    }
    let moves = journey.moves;
    let (code, stdout) = journey.end();
    Travelled { code, stdout, moves }
}

/// A machine that runs, or that ended before it could be saved.
struct Machine {
    child: Child,
    ended: Option<i32>,
}

impl Machine {
    fn start(guest: &Guest, args: &[&str]) -> Self {
        let mut command = guest.command(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        Self { child: command.spawn().unwrap(), ended: None }
    }

    /// Whether it ends within a time that is long for what can still be on its way.
    fn ends_soon(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            if self.ended.is_some() || self.child.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Its exit status, and what it printed that was not yet asked for.
    fn end(&mut self) -> (i32, String) {
        let mut text = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_string(&mut text).unwrap();
        }
        let wait = || self.child.wait().unwrap().code().unwrap_or(-1);
        let code = self.ended.unwrap_or_else(wait);
        self.ended = Some(code);
        (code, text)
    }
}

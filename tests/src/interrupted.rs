//! A guest that is taken out of its machine again and again while it works, and goes on elsewhere.

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Duration;

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

/// Runs the guest and moves it: saved with `--stop`, the machine gone, restored in a new one.
///
/// # Panics
/// If it can be neither saved nor has ended.
pub fn travel(guest: &Guest, itinerary: &Itinerary<'_>) -> Travelled {
    const NAME: &str = "traveller";
    let mut numbers = Numbers(itinerary.seed | 1);
    let mut stdout = String::new();
    let mut moves = 0;
    let start = [&["run", "--name", NAME], itinerary.run].concat();
    let mut machine = Machine::start(guest, &start);
    for options in itinerary.restores {
        guest.wait_for(NAME, &mut machine.child);
        std::thread::sleep(Duration::from_millis(numbers.between(itinerary.between)));
        let dir = guest.path(&format!("stop-{moves}"));
        let dir = dir.to_str().unwrap();
        let saved = guest.run(&["snapshot", NAME, dir, "--stop"], "");
        if saved.code != 0 {
            // It was faster than we are.
            let (code, text) = machine.end();
            assert!(
                stdout.len() + text.len() > 0 && code != 125,
                "{saved:?}, and it ended: {text}"
            );
            return Travelled { code, stdout: stdout + &text, moves };
        }
        let (code, text) = machine.end();
        assert_eq!(code, 0, "a VM that was saved and stopped: {text}");
        stdout += &text;
        moves += 1;
        let restore = [&["restore", dir, "--name", NAME], *options].concat();
        machine = Machine::start(guest, &restore);
    }
    let (code, text) = machine.end();
    Travelled { code, stdout: stdout + &text, moves }
}

struct Machine {
    child: Child,
}

impl Machine {
    fn start(guest: &Guest, args: &[&str]) -> Self {
        let mut command = guest.command(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        Self { child: command.spawn().unwrap() }
    }

    fn end(mut self) -> (i32, String) {
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().code().unwrap_or(-1), text)
    }
}

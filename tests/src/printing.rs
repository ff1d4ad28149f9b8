//! A VM whose output a test reads line by line.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};

use crate::guest::Guest;

/// A VM named `t`, and what it prints.
pub struct Printing {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Printing {
    /// Runs a guest with these options of `run`.
    pub fn run(guest: &Guest, run: &[&str]) -> Self {
        Self::start(guest, &[&["run", "--name", "t"], run].concat())
    }

    /// Lets a guest go on with these options of `restore`.
    pub fn restore(guest: &Guest, restore: &[&str]) -> Self {
        Self::start(guest, &[&["restore", "--name", "t"], restore].concat())
    }

    fn start(guest: &Guest, args: &[&str]) -> Self {
        let mut command = guest.command(args);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next lines that it prints.
    ///
    /// # Panics
    /// If it ends before.
    pub fn read_lines(&mut self, number: usize) -> String {
        let mut text = String::new();
        for _ in 0..number {
            text += &self.line().unwrap_or_else(|| panic!("it ended after {text}"));
        }
        text
    }

    /// What it prints, up to the line `until`.
    ///
    /// # Panics
    /// If it ends before.
    pub fn read_until(&mut self, until: &str) -> String {
        let until = format!("{until}\n");
        let mut text = String::new();
        while !text.ends_with(&until) {
            text += &self.line().unwrap_or_else(|| panic!("no line {until} in {text}"));
        }
        text
    }

    /// Waits for its end: what it still prints, and the exit status.
    pub fn end(mut self) -> (String, i32) {
        let text = std::iter::from_fn(|| self.line()).collect();
        (text, self.child.wait().unwrap().code().unwrap_or(-1))
    }

    /// Ends it.
    pub fn kill(mut self, guest: &Guest) {
        guest.run(&["kill", "t"], "");
        let _ = self.child.wait();
    }

    fn line(&mut self) -> Option<String> {
        self.lines.next().map(|line| line.unwrap() + "\n")
    }
}

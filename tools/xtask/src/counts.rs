//! What a test run counts: what passed, what failed and said what, and what passed only when it ran again.

use anyhow::Result;

/// Lines of a failed test that are shown once more at the end.
const LAST_LINES: usize = 15;

/// With at most so many failures, tests run again; more are no bad luck.
const RUN_AGAIN: usize = 8;

/// What happened so far.
#[derive(Default)]
pub struct Counts {
    passed: usize,
    failures: Vec<Failure>,
    /// Passed, but only when they ran again.
    flaky: Vec<Failure>,
}

/// A test that failed.
struct Failure {
    name: String,
    /// What it said.
    output: String,
}

impl Counts {
    /// Counts the test `name`.
    pub fn add(&mut self, name: &str, passed: bool) {
        self.add_with(name, passed, String::new);
    }

    /// Counts the test `name`; `output` is what it has said, should it have failed.
    pub fn add_with(&mut self, name: &str, passed: bool, output: impl FnOnce() -> String) {
        if passed {
            self.passed += 1;
        } else {
            self.failures.push(Failure { name: name.into(), output: output() });
        }
    }

    /// Counts `number` tests that passed.
    pub fn add_passed(&mut self, number: usize) {
        self.passed += number;
    }

    /// Adds to what the latest failure of this name said.
    pub fn tell(&mut self, name: &str, line: &str) {
        if let Some(failure) = self.failures.iter_mut().rfind(|failure| failure.name == name) {
            failure.output += line;
            failure.output.push('\n');
        }
    }

    /// Adds what another thread counted.
    pub fn join(&mut self, other: Self) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
        self.flaky.extend(other.flaky);
    }

    /// Tests that ran.
    pub fn total(&self) -> usize {
        self.passed + self.failures.len()
    }

    /// Tests that passed, flaky ones included.
    pub fn passed(&self) -> usize {
        self.passed
    }

    /// Tests that failed.
    pub fn failed(&self) -> usize {
        self.failures.len()
    }

    /// Name and words of each failure.
    #[cfg(test)]
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.failures.iter().map(|failure| (&*failure.name, &*failure.output))
    }

    /// The failures with their last words: in a long log the place where they happened is far away.
    pub fn print(&self) {
        println!();
        let flaky = self.flaky.iter().map(|failure| ("passed only when it ran again", failure));
        let failed = self.failures.iter().map(|failure| ("FAILED", failure));
        for (how, Failure { name, output }) in flaky.chain(failed) {
            println!("{how}: {name}");
            let lines: Vec<_> = output.lines().collect();
            for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
                println!("  | {}", line.trim_end());
            }
        }
        if !self.flaky.is_empty() {
            println!("{} passed only when they ran again", self.flaky.len());
        }
    }

    /// Takes the failures from number `from` on for flaky if they passed `again`. That says nothing if not all
    /// of them ran, or something else failed: the machine that they ran in, say.
    fn settle(&mut self, from: usize, again: &Self) {
        let asked = &self.failures[from..];
        let known = |failure: &Failure| asked.iter().any(|asked| asked.name == failure.name);
        if again.total() != asked.len() || !again.failures.iter().all(known) {
            return;
        }
        for failure in self.failures.split_off(from) {
            if again.failures.iter().any(|again| again.name == failure.name) {
                self.failures.push(failure);
            } else {
                self.passed += 1;
                self.flaky.push(failure);
            }
        }
    }
}

/// Runs the tests of a `layer`, and a few that failed once more, with fewer beside them. What passes then did not
/// fail for what it tests, mostly: a machine that emulates a machine is slow at times. Such a test is to
/// be mended; it is named at the end of the run. `run` gets the names of the tests, or
/// none for all, and counts them as `LAYER: NAME` or `LAYER/NAME`.
pub fn twice(
    layer: &str,
    counts: &mut Counts,
    mut run: impl FnMut(&[String], &mut Counts) -> Result<()>,
) -> Result<()> {
    let from = counts.failed();
    run(&[], counts)?;
    let failures = &counts.failures[from..];
    if !(1..=RUN_AGAIN).contains(&failures.len()) {
        return Ok(());
    }
    let plain = |failure: &Failure| {
        let name = failure.name.strip_prefix(layer)?;
        name.strip_prefix(": ").or(name.strip_prefix('/')).map(str::to_owned)
    };
    // What is not a test, a suite that died, cannot be asked for.
    let Some(names) = failures.iter().map(plain).collect::<Option<Vec<_>>>() else { return Ok(()) };
    println!("== again: {}", names.join(", "));
    let mut again = Counts::default();
    run(&names, &mut again)?;
    counts.settle(from, &again);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three tests, of which `failing` fail, in this run and the next.
    fn run(failing: [&[&str]; 2]) -> Counts {
        let mut counts = Counts::default();
        counts.add("before", false);
        let mut runs = failing.iter();
        let all = ["a", "b", "c"].map(String::from);
        twice("x", &mut counts, |names, counts| {
            let failing = runs.next().unwrap();
            for name in if names.is_empty() { &all } else { names } {
                counts.add(&format!("x: {name}"), !failing.contains(&name.as_str()));
            }
            Ok(())
        })
        .unwrap();
        counts
    }

    #[test]
    fn what_fails_runs_once_more() {
        let counts = run([&[], &[]]);
        assert_eq!((counts.passed, counts.failed(), counts.flaky.len()), (3, 1, 0));
        let counts = run([&["a", "b"], &["b"]]);
        assert_eq!((counts.passed, counts.failed(), counts.flaky.len()), (2, 2, 1));
        assert_eq!((&*counts.failures[1].name, &*counts.flaky[0].name), ("x: b", "x: a"));
    }

    #[test]
    fn what_does_not_run_again_stays_a_failure() {
        let mut counts = Counts::default();
        let mut asked = Vec::new();
        twice("x", &mut counts, |names, counts| {
            asked.push(names.to_vec());
            if names.is_empty() {
                counts.add("x: a", false);
            }
            Ok(())
        })
        .unwrap();
        assert_eq!((asked.len(), counts.passed, counts.failed()), (2, 0, 1));
        // Nor if the machine dies over it.
        twice("x", &mut counts, |names, counts| {
            counts.add(if names.is_empty() { "x: b" } else { "the machine died" }, false);
            Ok(())
        })
        .unwrap();
        assert_eq!((counts.passed, counts.failed()), (0, 2));
        // Nor does what is no test of the layer.
        twice("x", &mut counts, |names, counts| {
            assert!(names.is_empty());
            counts.add("the machine died", false);
            Ok(())
        })
        .unwrap();
        assert_eq!(counts.failed(), 3);
    }
}

//! Reading what Rust's test binaries print.

use crate::counts::Counts;
use std::io::Write;
use std::time::Duration;

/// What stands behind the name of a test that should panic, but not where its output is told.
const SHOULD_PANIC: &str = " - should panic";

/// What stands behind the name of a test that takes long.
const SLOW: &str = " has been running for over ";

/// What Rust's test binaries print, in full or terse: shown as it comes, and added up.
pub struct Libtest<'a> {
    layer: &'a str,
    counts: &'a mut Counts,
    /// The line that is still to end.
    line: Vec<u8>,
    failed: usize,
    /// A binary said how many tests it has, and not yet how they went.
    running: bool,
    /// Failures of it that have been named.
    named: usize,
    /// What it said of its tests that take long.
    slow: Vec<String>,
    /// Whose output is being read.
    telling: Option<String>,
}

impl<'a> Libtest<'a> {
    /// Adds tests to `counts`, with `layer` before their names.
    pub fn new(layer: &'a str, counts: &'a mut Counts) -> Self {
        Self {
            layer,
            counts,
            line: Vec::new(),
            failed: 0,
            running: false,
            named: 0,
            slow: Vec::new(),
            telling: None,
        }
    }

    /// Tests that failed.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Nothing was heard for `silence`: whether a test binary is to blame, which is noted.
    pub fn hangs(&mut self, silence: Duration) -> bool {
        if self.running {
            self.slow.push(format!("killed: no word for {} s", silence.as_secs()));
        }
        self.running
    }

    /// The last binary has ended, in the middle perhaps.
    pub fn finish(&mut self) {
        if std::mem::take(&mut self.running) {
            // No test of this name can be asked for again.
            let slow = std::mem::take(&mut self.slow).join("\n");
            self.counts.add_with(&format!("a test binary of {} died", self.layer), false, || slow);
            self.failed += 1;
        }
        (self.named, self.telling) = (0, None);
        self.slow.clear();
    }

    fn fail(&mut self, test: &str) {
        let test = test.trim_end_matches(SHOULD_PANIC);
        self.counts.add(&format!("{}: {test}", self.layer), false);
        self.failed += 1;
        self.named += 1;
    }

    fn take(&mut self, line: &str) {
        // A binary of which no test is wanted is not worth its lines.
        let nothing = ["running 0 tests", "test result: ok. 0 passed; 0 failed;"];
        if !line.is_empty() && !nothing.iter().any(|nothing| line.starts_with(nothing)) {
            println!("{line}");
        }
        // running 3 tests
        if line.starts_with("running ")
            && (line.ends_with(" test") || line.ends_with(" tests"))
            && self.telling.is_none()
        {
            self.finish();
            self.running = true;
        }
        // test NAME ... FAILED, and terse: NAME --- FAILED
        let full = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"));
        if let Some(name) = full.or(line.strip_suffix(" --- FAILED"))
            && self.telling.is_none()
        {
            self.fail(name);
        }
        // test NAME has been running for over 60 seconds, in the terse form behind dots
        if line.contains(SLOW) {
            let at = line.rfind("test ").unwrap_or(0);
            self.slow.push(line[at..].to_owned());
        }
        // ---- NAME stdout ----
        // What it printed, up to the next one or the list of names.
        let heading = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
        if let Some(name) = heading {
            self.telling = Some(format!("{}: {name}", self.layer));
        } else if line == "failures:" {
            self.telling = None;
        } else if let Some(name) = &self.telling {
            self.counts.tell(name, line);
        }
        // test result: ok. 3 passed; 0 failed; ...
        if let Some(rest) = line.strip_prefix("test result: ") {
            let number = |what: &str| -> usize {
                let before = rest.split(what).next().unwrap_or_default();
                before.split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or(0)
            };
            self.counts.add_passed(number(" passed;"));
            for _ in self.named..number(" failed;") {
                self.fail("a test without a name");
            }
            self.running = false;
            self.finish();
        }
    }
}

impl Write for Libtest<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for byte in bytes {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    self.take(String::from_utf8_lossy(&line).trim_end());
                }
                byte => self.line.push(*byte),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        let mut counts = Counts::default();
        let mut report = Libtest::new("x", &mut counts);
        report.write_all(text.as_bytes()).unwrap();
        report.finish();
        assert_eq!(counts.passed(), 1);
        let told = counts.failures().map(|(name, output)| (name.into(), output.trim().into()));
        told.collect()
    }

    #[test]
    fn what_a_failed_test_said_is_kept_with_its_name() {
        let said = "failures:\n\n---- a stdout ----\none\ntwo\n\n---- b stdout ----\nthree\n\n\
                    failures:\n    a\n    b\n\n\
                    test result: FAILED. 1 passed; 2 failed; 0 ignored\n";
        let full = "running 3 tests\ntest a ... FAILED\ntest b ... FAILED\ntest c ... ok\n\n";
        let terse = "running 3 tests\n. 1/3\na --- FAILED\n 2/3\nb --- FAILED\n\n";
        for list in [full, terse] {
            let told = read(&format!("{list}{said}"));
            let told: Vec<_> = told.iter().map(|(name, said)| (&**name, &**said)).collect();
            assert_eq!(told, [("x: a", "one\ntwo"), ("x: b", "three")]);
        }
        // A failure counts even where its name was not understood.
        assert_eq!(read(said).len(), 2);
    }

    #[test]
    fn a_binary_that_dies_is_a_failure() {
        let whole = "running 1 test\n.\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
        let dies = "running 2 tests\n.";
        for (text, failures) in [
            (whole.to_owned(), 0),
            (format!("{dies}\n{whole}"), 1),
            (format!("{whole}{dies}"), 1),
            (format!("{dies}\n{whole}{dies}"), 2),
        ] {
            let told = read(&text);
            assert_eq!(told.len(), failures, "{text}");
            assert!(told.iter().all(|(name, _)| name == "a test binary of x died"));
        }
    }

    #[test]
    fn a_binary_that_hangs_says_in_which_test() {
        let mut counts = Counts::default();
        let mut report = Libtest::new("x", &mut counts);
        assert!(!report.hangs(Duration::from_secs(9)), "it is being compiled");
        let slow = "running 2 tests\n.test a::b has been running for over 60 seconds\n";
        report.write_all(slow.as_bytes()).unwrap();
        assert!(report.hangs(Duration::from_secs(9)));
        report.finish();
        assert!(!report.hangs(Duration::from_secs(9)), "it is gone");
        let said = "test a::b has been running for over 60 seconds\nkilled: no word for 9 s";
        assert_eq!(counts.failures().collect::<Vec<_>>(), [("a test binary of x died", said)]);
    }
}

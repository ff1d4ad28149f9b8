//! The kernel log: a ring of text that can be read from outside, and the console's copy of it.
//!
//! Each record is one line, `[    0.012345] text`. In the ring a level in Linux's form (`<6>`) stands in
//! front of it. What is at least as urgent as the console's level is written to the console too;
//! errors always are. `kinfo!`, `kwarn!` and `kerr!` are the way in, from any context.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, Ordering};

use belljar_abi::root::LogRing;

use crate::sync::IrqLock;

/// Bytes that the ring keeps.
pub const RING_SIZE: usize = 64 << 10;
/// Bytes of a line, timestamp included; the rest is cut off.
const LINE: usize = 256;

/// How urgent a record is, with Linux's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Something failed.
    Error = 3,
    /// Something is odd.
    Warning = 4,
    /// Good to know.
    Info = 6,
}

/// The ring. Its address stands in the root page.
pub static RING: LogRing<RING_SIZE> = LogRing::new();

/// Records whose level is below this go to the console (`loglevel=`; `quiet` is 4).
static CONSOLE_LEVEL: AtomicU8 = AtomicU8::new(DEFAULT_LEVEL);
const DEFAULT_LEVEL: u8 = 7;

/// Keeps lines of different CPUs apart on the console.
static WRITER: IrqLock<()> = IrqLock::new(());

/// A line under construction. Full means that the rest is dropped.
struct Line {
    text: [u8; LINE],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        // One byte is kept for the line's end.
        let room = LINE - 1 - self.len;
        let n = s.len().min(room);
        self.text[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

/// Logs a record. Called by the macros.
pub fn log(level: Level, message: fmt::Arguments<'_>) {
    let mut line = Line { text: [0; LINE], len: 0 };
    let ns = crate::sched::monotonic_ns();
    let (secs, micros) = (ns / 1_000_000_000, ns / 1_000 % 1_000_000);
    let _ = write!(line, "<{}>[{secs:5}.{micros:06}] ", level as u8);
    let _ = line.write_fmt(message);
    line.text[line.len] = b'\n';
    let text = &line.text[..line.len + 1];
    let _writer = WRITER.lock();
    RING.append(text);
    if (level as u8) < CONSOLE_LEVEL.load(Ordering::Relaxed) || level == Level::Error {
        super::console::put(&text[3..]);
    }
}

/// Takes the console's level from the command line: `loglevel=N`, `quiet`, `debug`.
pub fn set_level_from(cmdline: &str) {
    CONSOLE_LEVEL.store(console_level(cmdline), Ordering::Relaxed);
}

fn console_level(cmdline: &str) -> u8 {
    cmdline.split_ascii_whitespace().fold(DEFAULT_LEVEL, |level, word| match word {
        "quiet" => 4,
        "debug" => 8,
        _ => word.strip_prefix("loglevel=").and_then(|n| n.parse().ok()).unwrap_or(level),
    })
}

/// Logs something good to know.
#[macro_export]
macro_rules! kinfo {
    ($($arg:tt)*) => {
        $crate::drivers::klog::log($crate::drivers::klog::Level::Info, format_args!($($arg)*))
    };
}

/// Logs something odd.
#[macro_export]
macro_rules! kwarn {
    ($($arg:tt)*) => {
        $crate::drivers::klog::log($crate::drivers::klog::Level::Warning, format_args!($($arg)*))
    };
}

/// Logs a failure; it always reaches the console.
#[macro_export]
macro_rules! kerr {
    ($($arg:tt)*) => {
        $crate::drivers::klog::log($crate::drivers::klog::Level::Error, format_args!($($arg)*))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring_text() -> String {
        let head = RING.head.load(Ordering::Relaxed) as usize;
        let bytes: Vec<u8> =
            RING.bytes[..head.min(RING_SIZE)].iter().map(|b| b.load(Ordering::Relaxed)).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_record_is_one_line_with_level_and_time() {
        kinfo!("klog test {}", 42);
        let text = ring_text();
        let line = text.lines().find(|l| l.ends_with("klog test 42")).unwrap();
        assert!(line.starts_with("<6>[") && line.as_bytes()[3 + 6] == b'.', "{line}");
    }

    #[test]
    fn a_long_record_is_cut_to_one_line() {
        kwarn!("klog long {}", "x".repeat(4 * LINE));
        let text = ring_text();
        let line = text.lines().find(|l| l.contains("klog long")).unwrap();
        assert_eq!(line.len(), LINE - 1);
    }

    #[test]
    fn level_is_read_from_the_command_line() {
        assert_eq!(console_level(""), DEFAULT_LEVEL);
        assert_eq!(console_level("root=/ quiet"), 4);
        assert_eq!(console_level("quiet loglevel=8 x"), 8);
        assert_eq!(console_level("loglevel=x"), DEFAULT_LEVEL);
    }
}

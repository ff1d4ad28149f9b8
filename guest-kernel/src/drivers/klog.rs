//! The kernel log: a ring of text that can be read from outside, and the console's copy of it.
//!
//! Each record is one line, `[    0.012345] text`. In the ring its priority in Linux's form (`<6>`) stands in
//! front of it: a level, and eight times who spoke ([`Facility`]). What is more urgent than the console's level is
//! written to the console too; the kernel's errors always are. `kinfo!`, `kwarn!` and `kerr!` are the kernel's way in,
//! from any context: who waits for the log is therefore woken a little later, by a softirq.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};

use belljar_abi::root::LogRing;

use crate::sched::WaitQueue;
use crate::sched::softirq::{self, Softirq};
use crate::sync::IrqLock;

/// Bytes that the ring keeps.
pub const RING_SIZE: usize = 64 << 10;
/// Bytes of a line, with all that stands in front of it; the rest is cut off.
pub const LINE: usize = 1024;

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

/// Who spoke, with syslog(3)'s numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility(pub u8);

impl Facility {
    /// The kernel.
    pub const KERNEL: Self = Self(0);
    /// A program that does not say.
    pub const USER: Self = Self(1);
}

/// The ring. Its address stands in the root page.
pub static RING: LogRing<RING_SIZE> = LogRing::new();

/// Records whose level is below this go to the console (`loglevel=`; `quiet` is 4).
static CONSOLE_LEVEL: AtomicU8 = AtomicU8::new(DEFAULT_LEVEL);
const DEFAULT_LEVEL: u8 = 7;
const SILENT_LEVEL: u8 = 1;

/// What the console's level was before it was silenced; 0 if it is not.
static SAVED_LEVEL: AtomicU8 = AtomicU8::new(0);

/// How many records there ever were. Its lock keeps lines of different CPUs apart, in the ring and on the console.
static WRITER: IrqLock<u64> = IrqLock::new(0);

/// The place behind what was cleared (syslog(2), SYSLOG_ACTION_CLEAR).
pub static CLEARED: AtomicU64 = AtomicU64::new(0);

/// Where those wait who read the log.
pub static READERS: WaitQueue = WaitQueue::new();

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

/// Logs a record of the kernel's. Called by the macros.
pub fn log(level: Level, message: fmt::Arguments<'_>) {
    log_for(Facility::KERNEL, level as u8, message);
}

/// Logs a record of whom `facility` names, with one of Linux's levels, which are 0 to 7.
pub fn log_for(facility: Facility, level: u8, message: fmt::Arguments<'_>) {
    let mut line = Line { text: [0; LINE], len: 0 };
    let ns = crate::sched::monotonic_ns();
    let (secs, micros) = (ns / 1_000_000_000, ns / 1_000 % 1_000_000);
    let _ = write!(line, "<{}>", u32::from(facility.0) << 3 | u32::from(level));
    let priority = line.len;
    let _ = write!(line, "[{secs:5}.{micros:06}] ");
    let _ = line.write_fmt(message);
    line.text[line.len] = b'\n';
    let text = &line.text[..line.len + 1];
    {
        let mut count = WRITER.lock();
        RING.append(text);
        *count += 1;
        let is_error = facility == Facility::KERNEL && level <= Level::Error as u8;
        if is_error || level < CONSOLE_LEVEL.load(Ordering::Relaxed) {
            super::console::put(&text[priority..]);
        }
    }
    if READERS.has_waiters() {
        softirq::raise_anywhere(Softirq::Log);
    }
}

/// The number of the record that begins at a place, or the next one's at the log's end; the first ever was 0.
/// `None` if the place has been overwritten.
pub fn number_at(place: u64) -> Option<u64> {
    let (count, end) = {
        let count = WRITER.lock();
        (*count, head())
    };
    let later = (place..end).filter(|&at| byte(at) == b'\n').count() as u64;
    // If nothing has come over these bytes by now, they were what was counted.
    fence(Ordering::Acquire);
    (span(place).start == place).then(|| count - later)
}

/// The softirq: wakes who waits for the log.
pub fn wake_readers() {
    READERS.wake_all();
}

/// The place behind all that was ever logged.
pub fn head() -> u64 {
    RING.head.load(Ordering::Acquire)
}

/// A part of the log, by places counted over all that was ever logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first byte.
    pub start: u64,
    /// Behind its last one.
    pub end: u64,
}

/// What there is of the log from `from` on, beginning with a whole line.
pub fn span(from: u64) -> Span {
    let end = head();
    let oldest = end.saturating_sub(RING_SIZE as u64);
    if from >= oldest {
        return Span { start: from.min(end), end };
    }
    let cut = (oldest..end).find(|&at| byte(at) == b'\n').map_or(end, |at| at + 1);
    Span { start: cut, end }
}

/// The byte of the log at a place that [`span`] named.
pub fn byte(at: u64) -> u8 {
    RING.bytes[(at % RING_SIZE as u64) as usize].load(Ordering::Relaxed)
}

impl Span {
    /// Its bytes.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// True if nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Its last whole lines that fit in `room` bytes.
    pub fn last_lines(&self, room: usize) -> Self {
        let first = self.end - self.len().min(room) as u64;
        let is_start = |&at: &u64| at == self.start || byte(at - 1) == b'\n';
        Self { start: (first..self.end).find(is_start).unwrap_or(self.end), end: self.end }
    }

    /// Its first whole lines that fit in `room` bytes, or what fits of the first one.
    pub fn first_lines(&self, room: usize) -> Self {
        let end = self.start + self.len().min(room) as u64;
        let last = (self.start..end).rev().find(|&at| byte(at) == b'\n');
        Self { start: self.start, end: last.map_or(end, |at| at + 1) }
    }
}

/// Records whose level is below `level` go to the console from now on.
pub fn set_console_level(level: u8) {
    CONSOLE_LEVEL.store(level, Ordering::Relaxed);
    SAVED_LEVEL.store(0, Ordering::Relaxed);
}

/// Keeps all but errors off the console, until [`restore_console`].
pub fn silence_console() {
    let level = CONSOLE_LEVEL.swap(SILENT_LEVEL, Ordering::Relaxed);
    let _ = SAVED_LEVEL.compare_exchange(0, level, Ordering::Relaxed, Ordering::Relaxed);
}

/// Has the console show what it did before it was silenced.
pub fn restore_console() {
    match SAVED_LEVEL.swap(0, Ordering::Relaxed) {
        0 => {}
        level => CONSOLE_LEVEL.store(level, Ordering::Relaxed),
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
    use crate::sched::{TaskState, Wait};
    use crate::wait_channel;

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
    fn who_waits_for_the_log_is_woken_on_the_way_out_of_the_next_interrupt() {
        softirq::register(Softirq::Log, wake_readers);
        let seen = head();
        let reader = std::thread::spawn(move || {
            let how = Wait::new(TaskState::INTERRUPTIBLE, wait_channel!("test"));
            READERS.wait_until(how, || head() != seen)
        });
        while !READERS.has_waiters() {
            std::thread::yield_now();
        }
        let irq = crate::arch::irq_save();
        kinfo!("for who waits");
        softirq::irq_exit();
        crate::arch::irq_restore(irq);
        assert_eq!(reader.join().unwrap(), Ok(()));
    }

    #[test]
    fn spans_are_cut_at_lines() {
        kinfo!("span one");
        kinfo!("span two");
        let all = span(0);
        let text = |span: Span| -> Vec<u8> { (span.start..span.end).map(byte).collect() };
        assert!(text(all).ends_with(b"span two\n") && text(all).starts_with(b"<"));
        let last = text(all.last_lines(40));
        assert!(last.starts_with(b"<6>[") && last.len() <= 40 && last.ends_with(b"\n"));
        assert!(text(all.first_lines(2)) == text(all)[..2], "a part of a line that does not fit");
        let first = text(all.first_lines(all.len() - 1));
        assert!(first.ends_with(b"\n") && !first.ends_with(b"span two\n"));
        assert!(span(all.end).last_lines(100).is_empty());
    }

    #[test]
    fn level_is_read_from_the_command_line() {
        assert_eq!(console_level(""), DEFAULT_LEVEL);
        assert_eq!(console_level("root=/ quiet"), 4);
        assert_eq!(console_level("quiet loglevel=8 x"), 8);
        assert_eq!(console_level("loglevel=x"), DEFAULT_LEVEL);
    }
}

//! When a guest's CPU ran first, as the host's kernel saw it: its trace event `kvm_entry` (Linux's
//! Documentation/trace/ftrace.rst), by the clock that programs read as CLOCK_MONOTONIC.

use std::ffi::CString;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

const TRACEFS: &str = "/tmp/tracing";
const EVENT: &str = "events/kvm/kvm_entry/enable";
/// A guest that is not entered for so long will not be.
const PATIENCE: Duration = Duration::from_secs(60);

/// While this lives, the kernel notes whenever a guest is entered.
pub struct Trace(());

/// Lets the kernel note it.
pub fn start() -> Trace {
    fs::create_dir_all(TRACEFS).expect("a folder");
    let [kind, place] = ["tracefs", TRACEFS].map(|text| CString::new(text).expect("no zeros"));
    // SAFETY: reads three strings.
    let mounted =
        unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    assert_eq!(mounted, 0, "tracefs: {}", std::io::Error::last_os_error());
    for (file, value) in [("trace_clock", "mono"), (EVENT, "1")] {
        fs::write(format!("{TRACEFS}/{file}"), value).expect(file);
    }
    Trace(())
}

impl Trace {
    /// Forgets what was noted.
    pub fn clear(&self) {
        fs::write(format!("{TRACEFS}/trace"), "").expect("a trace to clear");
    }

    /// When a guest was entered first since [`clear`](Self::clear), in ms of [`now`]; waits for that.
    pub fn first_entry(&self) -> f64 {
        let start = Instant::now();
        loop {
            let trace = fs::read_to_string(format!("{TRACEFS}/trace")).expect("the trace");
            // "vcpu-0-71  [001] d..1.  12.345678: kvm_entry: PC: 0x40200000"
            let entry = trace.lines().find_map(|line| line.split_once(": kvm_entry: "));
            if let Some((before, _)) = entry {
                let seconds = before.rsplit(' ').next().and_then(|word| word.parse::<f64>().ok());
                return seconds.expect("a time") * 1e3;
            }
            assert!(start.elapsed() < PATIENCE, "no guest was entered");
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Trace {
    /// What is measured next is not slowed by it.
    fn drop(&mut self) {
        fs::write(format!("{TRACEFS}/{EVENT}"), "0").expect(EVENT);
        let place = CString::new(TRACEFS).expect("no zeros");
        // SAFETY: reads a string.
        assert_eq!(unsafe { libc::umount(place.as_ptr()) }, 0, "tracefs stays");
    }
}

/// The time, in ms.
pub fn now() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

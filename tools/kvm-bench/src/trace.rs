//! When a guest's CPU ran first, as the host's kernel saw it: its trace event `kvm_entry` (Linux's
//! Documentation/trace/ftrace.rst), by the clock that programs read as CLOCK_MONOTONIC.

use std::ffi::CString;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

const TRACEFS: &str = "/tmp/tracing";

/// Lets the kernel note whenever a guest is entered.
pub fn start() {
    fs::create_dir_all(TRACEFS).expect("a folder");
    let [kind, place] = ["tracefs", TRACEFS].map(|text| CString::new(text).expect("no zeros"));
    // SAFETY: reads three strings.
    let mounted =
        unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    assert_eq!(mounted, 0, "tracefs: {}", std::io::Error::last_os_error());
    for (file, value) in [("trace_clock", "mono"), ("events/kvm/kvm_entry/enable", "1")] {
        fs::write(format!("{TRACEFS}/{file}"), value).expect(file);
    }
}

/// Forgets what was noted.
pub fn clear() {
    fs::write(format!("{TRACEFS}/trace"), "").expect("a trace to clear");
}

/// When a guest was entered first since [`clear`], in ms of [`now`]; waits for that.
pub fn first_entry() -> f64 {
    loop {
        let trace = fs::read_to_string(format!("{TRACEFS}/trace")).expect("the trace");
        // "vcpu-0-71  [001] d..1.  12.345678: kvm_entry: PC: 0x40200000"
        let entry = trace.lines().find_map(|line| line.split_once(": kvm_entry: "));
        if let Some((before, _)) = entry {
            let seconds = before.rsplit(' ').next().and_then(|word| word.parse::<f64>().ok());
            return seconds.expect("a time") * 1e3;
        }
        sleep(Duration::from_millis(10));
    }
}

/// The time, in ms.
pub fn now() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

//! syslog(2): the log is read whole, piece by piece and never twice, and who may not read it cannot.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;

use belljar_guest_tests::{check, check_eq, child, err, ok, wait_ok};

const READ: i32 = 2;
const READ_ALL: i32 = 3;
const READ_CLEAR: i32 = 4;
const CLEAR: i32 = 5;
const CONSOLE_OFF: i32 = 6;
const CONSOLE_ON: i32 = 7;
const CONSOLE_LEVEL: i32 = 8;
const SIZE_UNREAD: i32 = 9;
const SIZE_BUFFER: i32 = 10;

fn syslog(action: i32, room: &mut [u8]) -> i64 {
    // SAFETY: memory of that length.
    unsafe { libc::syscall(libc::SYS_syslog, action, room.as_mut_ptr(), room.len() as i32) }
}

/// What an action gives.
fn text(action: i32, len: usize) -> String {
    let mut room = vec![0; len];
    let n = ok(syslog(action, &mut room)) as usize;
    String::from_utf8_lossy(&room[..n]).into_owned()
}

fn log(line: &str) {
    fs::write("/dev/kmsg", format!("{line}\n")).unwrap();
}

/// Who waits for the log is woken by what comes, be it that they read it or wait with others for it.
fn who_waits_is_woken() {
    let mut kmsg = fs::File::open("/dev/kmsg").unwrap();
    check_eq!(kmsg.seek(SeekFrom::End(0)).unwrap(), 0);
    let by_poll = child(|| {
        let mut poll = libc::pollfd { fd: kmsg.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry.
        check_eq!(ok(unsafe { libc::poll(&raw mut poll, 1, -1) }), 1);
        check_eq!(poll.revents, libc::POLLIN);
        0
    });
    let by_read = child(|| {
        while ok(syslog(SIZE_UNREAD, &mut [])) > 0 {
            text(READ, 1000);
        }
        check!(text(READ, 1000).contains("for who waits\n"));
        0
    });
    for pid in [by_poll, by_read] {
        let sleeps = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") S ");
        while !sleeps() {
            std::thread::yield_now();
        }
    }
    log("for who waits");
    wait_ok(by_poll);
    wait_ok(by_read);
    let mut record = [0; 1000];
    let n = kmsg.read(&mut record).unwrap();
    let record = String::from_utf8_lossy(&record[..n]);
    check!(record.ends_with(";for who waits\n"), "{record}");
}

/// Each record has its priority, a number that follows the last one's, its time, and its text with what is no text
/// escaped.
fn records() {
    let mut kmsg = fs::File::open("/dev/kmsg").unwrap();
    check_eq!(kmsg.seek(SeekFrom::End(0)).unwrap(), 0);
    let mut last: Option<(u64, u64)> = None;
    // The kernel may speak in between.
    let mut next = || loop {
        let mut record = [0; 8192];
        let n = kmsg.read(&mut record).unwrap();
        let record = String::from_utf8(record[..n].to_vec()).unwrap();
        let (head, text) = record.split_once(';').unwrap();
        let fields: Vec<_> = head.split(',').collect();
        check_eq!(fields[3], "-");
        let [priority, number, micros] = [0, 1, 2].map(|i| fields[i].parse::<u64>().unwrap());
        if let Some((before, earlier)) = last.replace((number, micros)) {
            check_eq!(number, before + 1);
            check!(micros >= earlier);
        }
        if priority >= 8 {
            break (priority, text.strip_suffix('\n').unwrap().to_owned());
        }
    };
    // A program is a user's, unless it says otherwise, and never the kernel; 4 is a warning.
    let written: [(&str, u64, &str); 8] = [
        ("plain", 1 << 3 | 4, "plain"),
        ("<6>known", 1 << 3 | 6, "known"),
        ("<30>systemd[1]: it's \"up\"", 3 << 3 | 6, "systemd[1]: it's \"up\""),
        ("<191> space", 23 << 3 | 7, " space"),
        ("<x>no number", 1 << 3 | 4, "<x>no number"),
        ("<6", 1 << 3 | 4, "<6"),
        ("tab\t, back\\slash", 1 << 3 | 4, "tab\\x09, back\\x5cslash"),
        ("\u{e4}", 1 << 3 | 4, "\\xc3\\xa4"),
    ];
    for (text, priority, shown) in written {
        log(text);
        check_eq!(next(), (priority, shown.to_owned()));
    }
    log(&"x".repeat(900));
    check_eq!(next().1, "x".repeat(900));
    check_eq!(code(fs::write("/dev/kmsg", "x".repeat(2000))), libc::EINVAL);
    // By syslog(2) it has its priority, too.
    ok(syslog(CLEAR, &mut []));
    check_eq!(kmsg.seek(SeekFrom::Start(0)).unwrap(), 0);
    log("<30>behind what was cleared");
    let all = text(READ_ALL, 4096);
    let is_it =
        |line: &str| line.starts_with("<30>[") && line.ends_with("] behind what was cleared");
    check!(all.lines().any(is_it), "{all}");
    // SAFETY: a plain call.
    check_eq!(ok(unsafe { libc::lseek(kmsg.as_raw_fd(), 0, libc::SEEK_DATA) }), 0);
    let mut records = [0; 200];
    while !String::from_utf8_lossy(&records).contains(";behind what was cleared\n") {
        let n = kmsg.read(&mut records).unwrap();
        check!(!records[..n].ends_with(b";first of three\n"));
    }
}

/// The error number of what must fail.
fn code<T>(result: std::io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

fn main() {
    let size = ok(syslog(SIZE_BUFFER, &mut [])) as usize;
    check!(size >= 4096);
    log("first of three");
    log("second of three");
    let all = text(READ_ALL, size);
    check!(all.contains("first of three\n") && all.ends_with("second of three\n"), "{all}");
    check!(all.starts_with('<'), "{all}");
    // The last lines that fit, whole.
    let last = text(READ_ALL, 50);
    check!(last.starts_with('<') && last.ends_with("second of three\n"), "{last}");

    // Cleared is not gone for who reads piece by piece.
    ok(syslog(CLEAR, &mut []));
    check_eq!(text(READ_ALL, size), "");
    log("third of three");
    check!(text(READ_CLEAR, size).ends_with("third of three\n"));
    check_eq!(text(READ_ALL, size), "");
    let mut read = String::new();
    while ok(syslog(SIZE_UNREAD, &mut [])) > 0 {
        read += &text(READ, 100);
    }
    for line in ["first", "second", "third"] {
        check_eq!(read.matches(&format!("{line} of three\n")).count(), 1, "{read}");
    }

    who_waits_is_woken();
    records();

    ok(syslog(CONSOLE_OFF, &mut []));
    ok(syslog(CONSOLE_ON, &mut []));
    check_eq!(err(syslog(CONSOLE_LEVEL, &mut [0; 9])), libc::EINVAL);
    check_eq!(err(syslog(CONSOLE_LEVEL, &mut [])), libc::EINVAL);
    check_eq!(err(syslog(11, &mut [0; 9])), libc::EINVAL);
    // SAFETY: the kernel checks the address.
    check_eq!(err(unsafe { libc::syscall(libc::SYS_syslog, READ_ALL, 0, 10) }), libc::EINVAL);

    wait_ok(child(|| {
        // SAFETY: a plain call.
        ok(unsafe { libc::setuid(1000) });
        check_eq!(err(syslog(READ_ALL, &mut [0; 100])), libc::EPERM);
        check_eq!(err(syslog(SIZE_BUFFER, &mut [])), libc::EPERM);
        check_eq!(code(fs::File::open("/dev/kmsg")), libc::EPERM);
        0
    }));
}

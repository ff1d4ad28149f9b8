//! proc(5): what programs parse, what happens to the files of a process that is gone, memory through
//! /proc/PID/mem.
use std::ffi::CString;
use std::fs;
use std::io::ErrorKind;

use belljar_guest_tests::{check, check_eq, child, err, ok, wait};

fn read(path: &str) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => belljar_guest_tests::fail(&format!("{path}: {error}")),
    }
}

fn own_files() {
    let pid = std::process::id();
    let stat = read("/proc/self/stat");
    let (name, rest) = stat.split_once(") ").unwrap();
    check_eq!(name, format!("{pid} (proc_files"));
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    check_eq!(fields.len(), 50);
    check_eq!(fields[0], "R");
    // SAFETY: plain calls.
    let (parent, group) = unsafe { (libc::getppid(), libc::getpgrp()) };
    check_eq!((fields[1], fields[2]), (&*parent.to_string(), &*group.to_string()));
    let status = read("/proc/self/status");
    for line in ["Name:\tproc_files\n", "State:\tR (running)\n", "Threads:\t1\n"] {
        check!(status.contains(line), "{line:?} is not in {status}");
    }
    check!(status.contains(&format!("\nPid:\t{pid}\nPPid:\t{parent}\n")));
    check_eq!(read("/proc/self/comm"), "proc_files\n");
    let link = fs::read_link("/proc/self").unwrap();
    check_eq!(link.to_str().unwrap(), pid.to_string());
    let exe = fs::read_link("/proc/self/exe").unwrap();
    check!(exe.ends_with("proc_files"), "{exe:?}");
    let maps = read("/proc/self/maps");
    let stack = maps.lines().find(|l| l.ends_with("[stack]")).unwrap();
    check_eq!(stack.find("[stack]"), Some(73));
    let cmdline = fs::read("/proc/self/cmdline").unwrap();
    check!(cmdline.ends_with(b"\0"));
    check_eq!(fs::read_dir("/proc/self/task").unwrap().count(), 1);
    let statm = read("/proc/self/statm");
    check_eq!(statm.split_ascii_whitespace().count(), 7);
    check!(read("/proc/self/limits").contains("Max open files            "));
}

fn system_files() {
    let meminfo = read("/proc/meminfo");
    let total = meminfo.lines().next().unwrap();
    check!(total.starts_with("MemTotal:       ") && total.ends_with(" kB"), "{total}");
    check_eq!(total.len(), "MemTotal:        1994280 kB".len());
    let uptime: Vec<f64> =
        read("/proc/uptime").split_ascii_whitespace().map(|n| n.parse().unwrap()).collect();
    check!(uptime.len() == 2 && uptime[0] > 0.0);
    check_eq!(read("/proc/loadavg").split_ascii_whitespace().count(), 5);
    let stat = read("/proc/stat");
    check!(stat.starts_with("cpu  ") && stat.contains("\ncpu0 ") && stat.contains("\nbtime "));
    check!(read("/proc/cpuinfo").starts_with("processor\t: 0\nBogoMIPS\t: "));
    check!(read("/proc/filesystems").contains("nodev\tproc\n"));
    check!(read("/proc/mounts").lines().any(|l| l.contains(" /proc proc rw")));
    check_eq!(read("/proc/sys/kernel/ostype"), "Linux\n");
    check_eq!(read("/proc/sys/kernel/random/uuid").len(), 37);
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().into_string().ok());
    check!(pids.filter_map(|name| name.parse::<u32>().ok()).any(|pid| pid == 1));
    check_eq!(fs::File::open("/proc/99999").unwrap_err().kind(), ErrorKind::NotFound);
    check_eq!(fs::create_dir("/proc/new").unwrap_err().kind(), ErrorKind::NotFound);
}

fn gone_process() {
    // SAFETY: plain calls with valid arguments.
    unsafe {
        let pid = child(|| {
            libc::pause();
            0
        });
        let dir = CString::new(format!("/proc/{pid}")).unwrap();
        let dir_fd = ok(libc::open(dir.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY));
        let stat = CString::new(format!("/proc/{pid}/stat")).unwrap();
        let stat_fd = ok(libc::open(stat.as_ptr(), libc::O_RDONLY));
        ok(libc::kill(pid, libc::SIGKILL));
        check_eq!(wait(pid), libc::SIGKILL);
        let mut buf = [0_u8; 16];
        let got = libc::read(stat_fd, buf.as_mut_ptr().cast(), 16);
        check_eq!(err(got as i64), libc::ESRCH);
        check_eq!(err(libc::openat(dir_fd, c"stat".as_ptr(), libc::O_RDONLY)), libc::ESRCH);
        check_eq!(err(libc::access(dir.as_ptr(), libc::F_OK)), libc::ENOENT);
    }
    // One that was not waited for yet is a zombie without memory.
    let pid = child(|| 0);
    let stat = loop {
        let stat = read(&format!("/proc/{pid}/stat"));
        if stat.contains(") Z ") {
            break stat;
        }
        std::thread::yield_now();
    };
    check!(stat.starts_with(&format!("{pid} (proc_files) Z ")), "{stat}");
    check_eq!(read(&format!("/proc/{pid}/cmdline")), "");
    check_eq!(fs::read_link(format!("/proc/{pid}/exe")).unwrap_err().kind(), ErrorKind::NotFound);
    check_eq!(wait(pid), 0);
}

fn memory() {
    let mut secret = *b"secret";
    let mut buf = [0_u8; 6];
    // SAFETY: the buffers are valid for the lengths given.
    unsafe {
        let fd = ok(libc::open(c"/proc/self/mem".as_ptr(), libc::O_RDWR));
        let at = (&raw mut secret) as i64;
        check_eq!(libc::pread(fd, buf.as_mut_ptr().cast(), 6, at), 6);
        check_eq!(&buf, b"secret");
        check_eq!(libc::pwrite(fd, c"SECRET".as_ptr().cast(), 6, at), 6);
        check_eq!(&(&raw const secret).read_volatile(), b"SECRET");
        check_eq!(err(libc::pread(fd, buf.as_mut_ptr().cast(), 6, 8) as i64), libc::EIO);
    }
}

fn main() {
    own_files();
    system_files();
    gone_process();
    memory();
}

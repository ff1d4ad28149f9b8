//! execve(2): arguments, environment, close-on-exec, scripts, errors, resets.
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use belljar_guest_tests::{check, check_eq, child, err, ok, wait, wait_ok};

fn exec(path: &str, argv: &[&str], envp: &[&str]) -> i32 {
    let c = |s: &&str| CString::new(*s).unwrap();
    let (argv, envp): (Vec<_>, Vec<_>) =
        (argv.iter().map(c).collect(), envp.iter().map(c).collect());
    let ptrs =
        |v: &[CString]| v.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let path = CString::new(path).unwrap();
    // SAFETY: NULL-terminated arrays of strings that outlive the call.
    err(unsafe { libc::execve(path.as_ptr(), ptrs(&argv).as_ptr(), ptrs(&envp).as_ptr()) })
}

/// What the program does when it is run by itself.
fn inner(args: &[String]) -> i32 {
    match args[1].as_str() {
        "args" => {
            check_eq!(&args[2..], ["a b", "", "ü"]);
            check_eq!(std::env::var("KEY").unwrap_or_default(), "value");
            check_eq!(std::env::vars().count(), 1);
            // SAFETY: plain calls.
            unsafe {
                check_eq!(libc::fcntl(100, libc::F_GETFD), -1);
                check!(libc::fcntl(101, libc::F_GETFD) >= 0);
                check_eq!(libc::getauxval(libc::AT_PAGESZ), 4096);
                check!(libc::getauxval(libc::AT_RANDOM) != 0);
                let mut action: libc::sigaction = std::mem::zeroed();
                ok(libc::sigaction(libc::SIGUSR1, std::ptr::null(), &raw mut action));
                check_eq!(action.sa_sigaction, libc::SIG_DFL);
                ok(libc::sigaction(libc::SIGUSR2, std::ptr::null(), &raw mut action));
                check_eq!(action.sa_sigaction, libc::SIG_IGN);
            }
            let comm = fs::read_to_string("/proc/self/comm").unwrap();
            check_eq!(comm.trim_end(), "program-with-a-");
            0
        }
        "script" => {
            check_eq!(&args[2..], ["/tmp/exec-test/script", "x", "y"]);
            23
        }
        other => belljar_guest_tests::fail(other),
    }
}

extern "C" fn handler(_: i32) {}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.len() > 1 {
        std::process::exit(inner(&args));
    }
    let dir = "/tmp/exec-test";
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).unwrap();
    let program = format!("{dir}/program-with-a-long-name");
    fs::copy("/proc/self/exe", &program).unwrap();
    let write = |name: &str, text: &[u8], mode: u32| {
        let path = format!("{dir}/{name}");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };

    let pid = child(|| {
        // SAFETY: plain calls.
        unsafe {
            ok(libc::dup2(0, 100));
            ok(libc::fcntl(100, libc::F_SETFD, libc::FD_CLOEXEC));
            ok(libc::dup2(0, 101));
            libc::signal(libc::SIGUSR1, handler as extern "C" fn(i32) as usize);
            libc::signal(libc::SIGUSR2, libc::SIG_IGN);
        }
        exec(&program, &["p", "args", "a b", "", "ü"], &["KEY=value"])
    });
    wait_ok(pid);

    let script = write("script", format!("#!{program} script\n").as_bytes(), 0o755);
    check_eq!(wait(child(|| exec(&script, &["s", "x", "y"], &[]))), 23 << 8);

    let none = exec("/tmp/exec-test/none", &["x"], &[]);
    check_eq!(none, libc::ENOENT);
    check_eq!(exec(&write("plain", b"just text\n", 0o755), &["x"], &[]), libc::ENOEXEC);
    check_eq!(exec(&write("noexec", b"#!/bin/sh\n", 0o644), &["x"], &[]), libc::EACCES);
    check_eq!(exec(dir, &["x"], &[]), libc::EACCES);
    check_eq!(exec(&write("lost", b"#!/none/at/all\n", 0o755), &["x"], &[]), libc::ENOENT);
    check_eq!(exec(&format!("{program}/x"), &["x"], &[]), libc::ENOTDIR);
    let long = "x".repeat(140 << 10);
    check_eq!(exec(&program, &["p", &long], &[]), libc::E2BIG);
    let mut truncated = fs::read(&program).unwrap();
    truncated.truncate(100);
    check_eq!(exec(&write("cut", &truncated, 0o755), &["x"], &[]), libc::ENOEXEC);
    fs::remove_dir_all(dir).unwrap();
}

//! Each case runs in a process of its own: this test program, told what to do. A confined thread cannot be
//! let out again.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use super::*;

const CASE: &str = "BELLJAR_SANDBOX_CASE";

/// Runs [`child`] with `case` in another process.
fn run(case: &str) -> Output {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", "sandbox::tests::child", "--nocapture", "--test-threads=1"]);
    command.env(CASE, case).output().unwrap()
}

/// What the other process does; nothing in the ordinary run of the tests.
#[test]
fn child() {
    let Ok(case) = std::env::var(CASE) else { return };
    let (role, act) = case.split_once(' ').unwrap();
    if role != "none" {
        enable().unwrap();
    }
    let role = match role {
        "vcpu" => Role::Vcpu,
        "devices" => Role::Devices,
        "pump" => Role::Pump,
        "monitor" => Role::Monitor,
        "supervisor" => Role::Supervisor,
        _ => Role::Api,
    };
    if act == "allocate" {
        return allocate_in_many_threads(role);
    }
    let act = act.to_owned();
    // A file that is there on every machine, and not below /proc.
    let own = std::env::current_exe().unwrap();
    let thread = std::thread::Builder::new().name("confined".into());
    let done = thread.spawn(move || {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        enter(role);
        // Whatever a thread does all the time.
        let bytes = vec![7u8; 1 << 20];
        a.write_all(&bytes[..100]).unwrap();
        b.read_exact(&mut [0; 100]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1));
        match act.as_str() {
            "nothing" => {}
            "socket" => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
            "exec" => drop(Command::new("/bin/true").status()),
            "code" => {
                // SAFETY: maps fresh memory, or does not.
                unsafe {
                    let prot = libc::PROT_READ | libc::PROT_EXEC;
                    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                    libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0);
                }
            }
            "open" => assert!(File::open("/proc/self/status").is_ok()),
            "open-below" => {
                only_files(&["/proc".as_ref()], &[]);
                assert!(File::open("/proc/self/status").is_ok());
                let error = File::open(own).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
                let error = File::create("/proc/self/comm").unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            }
            "thread" => {
                std::thread::spawn(|| vec![1u8; 100_000].len()).join().unwrap();
            }
            "thread-socket" => {
                let socket = || drop(std::net::UdpSocket::bind("127.0.0.1:0"));
                std::thread::spawn(socket).join().unwrap();
            }
            "privileges" => {
                let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
                assert!(status.contains("NoNewPrivs:\t1"), "{status}");
                assert!(status.contains("Seccomp:\t2"), "{status}");
            }
            other => panic!("no such act: {other}"),
        }
    });
    done.unwrap().join().unwrap();
}

/// More threads than the C library's allocator has pools for before it counts the CPUs.
fn allocate_in_many_threads(role: Role) {
    const THREADS: usize = 24;
    let barrier = &std::sync::Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(move || {
                enter(role);
                barrier.wait();
                let kept = vec![1u8; 100_000];
                barrier.wait();
                kept.len()
            });
        }
    });
}

fn passes(case: &str) {
    let output = run(case);
    assert!(output.status.success(), "{case}: {output:?}");
}

/// The process ends with 125 and one line that names `call`.
fn caught(case: &str, call: &str) {
    let output = run(case);
    assert_eq!(output.status.code(), Some(125), "{case}: {output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    let lines = said.lines().filter(|line| line.starts_with("belljar: ")).collect::<Vec<_>>();
    assert_eq!(lines.len(), 1, "{case}: {said}");
    assert!(lines[0].contains("thread confined"), "{said}");
    assert!(lines[0].contains(&format!("system call {call} (")), "{said}");
}

/// The process ends, if need be without a line: the C library blocks signals while it forks.
fn ended(case: &str) {
    let status = run(case).status;
    let stopped = status.code() == Some(125) || status.signal() == Some(libc::SIGSYS);
    assert!(stopped, "{case}: {status:?}");
}

const ROLES: [&str; 6] = ["vcpu", "devices", "pump", "monitor", "api", "supervisor"];

#[test]
fn every_role_lives_and_ends() {
    for role in ROLES {
        passes(&format!("{role} nothing"));
    }
}

#[test]
fn forbidden_calls_are_caught_by_name_in_every_role() {
    for role in ROLES {
        caught(&format!("{role} socket"), "socket");
        caught(&format!("{role} code"), "mmap");
    }
}

#[test]
fn memory_is_there_for_any_number_of_threads() {
    passes("pump allocate");
    passes("vcpu allocate");
}

#[test]
fn only_those_who_start_threads_can() {
    passes("api thread");
    passes("supervisor thread");
    ended("vcpu thread");
}

#[test]
fn threads_of_a_confined_thread_are_confined() {
    let output = run("api thread-socket");
    assert_eq!(output.status.code(), Some(125), "{output:?}");
}

#[test]
fn nobody_starts_a_program() {
    for role in ROLES {
        ended(&format!("{role} exec"));
    }
}

#[test]
fn privileges_cannot_be_gained() {
    passes("api privileges");
}

#[test]
fn files_are_out_of_reach() {
    if landlock_version() <= 0 {
        return;
    }
    passes("api open");
    passes("api open-below");
}

/// landlock_create_ruleset(2) with LANDLOCK_CREATE_RULESET_VERSION: the interface, or an error.
fn landlock_version() -> i32 {
    // SAFETY: asks for a number.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) as i32 }
}

#[test]
fn without_the_sandbox_nothing_is_confined() {
    passes("none open");
    passes("none socket");
}

//! What the pipes of a user may take (pipe(7), "/proc files"): above pipe-user-pages-soft new ones are small and none
//! grows, above pipe-user-pages-hard there are none, and none grows above pipe-max-size; the superuser may do all that. A
//! FIFO counts while somebody has it open. What is in pipes counts for the control group of whoever wrote it.

use std::fs;

use belljar_guest_tests::cgroups::Group;
use belljar_guest_tests::*;
use libc::{EACCES, EINVAL, ENFILE, ENOMEM, EPERM};

const PAGE: i32 = 4096;
const DEFAULT: i32 = 16 * PAGE;
const SMALL: i32 = 2 * PAGE;
/// A user that owns nothing else.
const USER: u32 = 4711;

const MAX_SIZE: &str = "pipe-max-size";
const SOFT: &str = "pipe-user-pages-soft";
const HARD: &str = "pipe-user-pages-hard";

fn setting(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/fs/{name}")).unwrap().trim().to_owned()
}

fn set(name: &str, value: &str) -> std::io::Result<()> {
    fs::write(format!("/proc/sys/fs/{name}"), value)
}

fn try_pipe() -> Result<[i32; 2], i32> {
    let mut ends = [0; 2];
    // SAFETY: a valid place for two descriptors.
    match unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK) } {
        0 => Ok(ends),
        _ => Err(errno()),
    }
}

fn pipe() -> [i32; 2] {
    try_pipe().unwrap_or_else(|errno| fail(&format!("pipe: error {errno}")))
}

fn size(pipe: [i32; 2]) -> i32 {
    // SAFETY: plain calls, here and below.
    ok(unsafe { libc::fcntl(pipe[0], libc::F_GETPIPE_SZ) })
}

fn resize(pipe: [i32; 2], bytes: i32) -> i32 {
    // SAFETY: see above.
    unsafe { libc::fcntl(pipe[1], libc::F_SETPIPE_SZ, bytes) }
}

fn close(pipe: [i32; 2]) {
    // SAFETY: see above.
    for end in pipe {
        // SAFETY: see above.
        ok(unsafe { libc::close(end) });
    }
}

/// In a child without capabilities.
fn as_user(f: impl FnOnce()) {
    wait_ok(child(|| {
        // SAFETY: see above.
        unsafe {
            ok(libc::setgid(USER));
            ok(libc::setuid(USER));
        }
        f();
        0
    }));
}

fn a_user_has_so_many_slots() {
    set(SOFT, "64").unwrap();
    as_user(|| {
        let pipes: Vec<_> = (0..4).map(|_| pipe()).collect();
        check!(pipes.iter().all(|pipe| size(*pipe) == DEFAULT));
        let small = pipe();
        check_eq!(size(small), SMALL);
        // None grows, and one may shrink and not grow back.
        check_eq!(err(resize(small, DEFAULT)), EPERM);
        check_eq!(ok(resize(small, PAGE)), PAGE);
        check_eq!(err(resize(small, SMALL)), EPERM);
        check_eq!(ok(resize(pipes[0], SMALL)), SMALL);
        check_eq!(ok(resize(small, SMALL)), SMALL);
        // A pipe that is gone does not count.
        close(pipes[1]);
        check_eq!(size(pipe()), DEFAULT);
    });
    // Nor do those of a process that is gone.
    as_user(|| check_eq!(size(pipe()), DEFAULT));
    set(HARD, "65").unwrap();
    as_user(|| {
        let pipes: Vec<_> = (0..4).map(|_| pipe()).collect();
        check_eq!(try_pipe().err(), Some(ENFILE));
        close(pipes[0]);
        check_eq!(size(pipe()), DEFAULT);
    });
    // The superuser may have more.
    let pipes: Vec<_> = (0..8).map(|_| pipe()).collect();
    check!(pipes.iter().all(|pipe| size(*pipe) == DEFAULT));
    pipes.into_iter().for_each(close);
}

fn a_fifo_counts_while_it_is_open() {
    const FIFO: &std::ffi::CStr = c"/tmp/pipe-limits";
    set(SOFT, "64").unwrap();
    set(HARD, "65").unwrap();
    // SAFETY: see above.
    unsafe {
        ok(libc::mkfifo(FIFO.as_ptr(), 0o666));
        ok(libc::chmod(FIFO.as_ptr(), 0o666));
    }
    as_user(|| {
        // SAFETY: see above.
        let open = || unsafe { libc::open(FIFO.as_ptr(), libc::O_RDWR) };
        let fifo = ok(open());
        let pipes: Vec<_> = (0..3).map(|_| pipe()).collect();
        check_eq!(try_pipe().err(), Some(ENFILE));
        check_eq!(ok(resize([fifo; 2], PAGE)), PAGE);
        // SAFETY: see above.
        ok(unsafe { libc::close(fifo) });
        let another = pipe();
        check_eq!(size(another), DEFAULT);
        check_eq!(err(open()), ENOMEM);
        close(another);
        // Its size is that of a new pipe.
        check_eq!(size([ok(open()); 2]), DEFAULT);
        pipes.into_iter().for_each(close);
    });
    // SAFETY: see above.
    ok(unsafe { libc::unlink(FIFO.as_ptr()) });
}

fn a_pipe_grows_so_far() {
    // Rounded up, as the size of a pipe is.
    set(MAX_SIZE, "70000").unwrap();
    check_eq!(setting(MAX_SIZE), "131072");
    as_user(|| {
        let large = pipe();
        check_eq!(ok(resize(large, 131_072)), 131_072);
        check_eq!(err(resize(large, 131_073)), EPERM);
        check_eq!(set(MAX_SIZE, "1000000").unwrap_err().raw_os_error(), Some(EACCES));
    });
    let large = pipe();
    check_eq!(ok(resize(large, 262_144)), 262_144);
    // One that is larger than it could be made may stay so, and shrink.
    wait_ok(child(|| {
        // SAFETY: see above.
        ok(unsafe { libc::setuid(USER) });
        check_eq!(ok(resize(large, 262_144)), 262_144);
        check_eq!(err(resize(large, 524_288)), EPERM);
        0
    }));
    set(MAX_SIZE, "4096").unwrap();
    as_user(|| check_eq!(size(pipe()), PAGE));
    for wrong in ["-1", "4294967296", "2147483649"] {
        let error = set(MAX_SIZE, wrong).unwrap_err();
        check_eq!(error.raw_os_error(), Some(EINVAL), "{wrong}");
    }
    close(large);
}

fn what_is_in_pipes_counts_for_a_group() {
    const PIPES: usize = 64;
    let group = Group::new("pipes", "memory");
    let used = || group.get("memory.current").parse::<usize>().unwrap();
    let bytes = PIPES * DEFAULT as usize;
    wait_ok(child(|| {
        group.set("cgroup.procs", "0");
        let before = used();
        let pipes: Vec<_> = (0..PIPES).map(|_| pipe()).collect();
        for pipe in &pipes {
            let page = [1_u8; PAGE as usize];
            for _ in 0..DEFAULT / PAGE {
                // SAFETY: the buffer is valid.
                ok(unsafe { libc::write(pipe[1], page.as_ptr().cast(), page.len()) } as i64);
            }
        }
        let full = used();
        check!(full >= before + bytes, "{before}, {full}");
        pipes.into_iter().for_each(close);
        let after = used();
        check!(after + bytes / 2 <= full, "{full}, {after}");
        0
    }));
}

/// Who fills pipes in a full group is killed for it, though a reader waits.
fn a_full_group_kills_who_fills_pipes() {
    let group = Group::new("full-pipes", "memory");
    group.set("memory.max", "4M");
    let status = wait(child(|| {
        group.set("cgroup.procs", "0");
        let both = pipe();
        // SAFETY: see above.
        unsafe {
            ok(libc::fcntl(both[0], libc::F_SETFL, 0));
            if ok(libc::fork()) == 0 {
                let mut bytes = [0_u8; 100];
                while libc::read(both[0], bytes.as_mut_ptr().cast(), bytes.len()) > 0 {}
                libc::_exit(0);
            }
        }
        let bytes = vec![1_u8; 1 << 16];
        // SAFETY: the buffer is valid.
        let write = |fd| unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        loop {
            write(both[1]);
            if let Ok(more) = try_pipe() {
                write(more[1]);
            }
        }
    }));
    check!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL, "{status:#x}");
    check!(group.value("memory.events", "oom_kill") > 0);
}

fn main() {
    let settings = [MAX_SIZE, SOFT, HARD].map(|name| (name, setting(name)));
    check_eq!(settings.each_ref().map(|(_, value)| value.as_str()), ["1048576", "16384", "0"]);
    let restore = || settings.iter().for_each(|(name, value)| set(name, value).unwrap());
    for part in [
        a_user_has_so_many_slots,
        a_fifo_counts_while_it_is_open,
        a_pipe_grows_so_far,
        what_is_in_pipes_counts_for_a_group,
        a_full_group_kills_who_fills_pipes,
    ] {
        part();
        restore();
    }
}

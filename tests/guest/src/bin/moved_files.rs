//! Files of a process that goes on in another machine: FIFOs with what is in them, descriptors of processes, locks.
//! `moved_files [wait]`.

use std::ffi::CString;
use std::mem::zeroed;

use belljar_guest_tests::moved::wait_to_be_moved;
use belljar_guest_tests::{check, check_eq, child, err, errno, ok, wait, wait_ok};
use libc::{
    EAGAIN, F_GETLK, F_OFD_GETLK, F_OFD_SETLK, F_RDLCK, F_SETLK, F_UNLCK, F_WRLCK, LOCK_EX,
    LOCK_NB, LOCK_SH, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY,
};

fn open(path: &str, flags: i32) -> i32 {
    let path = CString::new(path).unwrap();
    // SAFETY: a valid path.
    ok(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) })
}

fn read(fd: i32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    // SAFETY: a valid place.
    let n = ok(unsafe { libc::read(fd, bytes.as_mut_ptr().cast(), len) } as i32);
    bytes.truncate(n as usize);
    bytes
}

fn write(fd: i32, bytes: &[u8]) {
    // SAFETY: a valid place.
    check_eq!(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) }, bytes.len() as isize);
}

fn lock(kind: i32, start: i64, len: i64) -> libc::flock {
    // SAFETY: an all-zero lock is valid.
    let mut lock: libc::flock = unsafe { zeroed() };
    (lock.l_type, lock.l_start, lock.l_len) = (kind as i16, start, len);
    lock
}

/// Who holds what is in the way of a lock that excludes others: type, start, length, process.
fn holder(fd: i32, command: i32, start: i64, len: i64) -> (i32, i64, i64, i32) {
    let mut lock = lock(F_WRLCK, start, len);
    // SAFETY: a valid lock.
    ok(unsafe { libc::fcntl(fd, command, &mut lock) });
    (i32::from(lock.l_type), lock.l_start, lock.l_len, lock.l_pid)
}

/// What a pidfd is ready for.
fn events(fd: i32) -> i16 {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: a valid place.
    ok(unsafe { libc::poll(&mut poll, 1, 0) });
    poll.revents
}

fn pidfd_of(pid: i32) -> i32 {
    // SAFETY: plain calls.
    ok(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32)
}

fn main() {
    let own = std::process::id() as i32;
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap().to_owned();
    let fifo = format!("/fifo-{own}");
    let path = CString::new(&*fifo).unwrap();
    // SAFETY: a valid path.
    unsafe {
        libc::umask(0);
        ok(libc::mkfifo(path.as_ptr(), 0o640));
        ok(libc::chown(path.as_ptr(), 7, 8));
    }
    let both = open(&fifo, O_RDWR);
    let (reader, writer) = (open(&fifo, O_RDONLY | O_NONBLOCK), open(&fifo, O_WRONLY));
    write(writer, b"in the FIFO");

    // One child lives, one has ended; both have descriptors.
    let mut ends = [0; 2];
    // SAFETY: a valid place.
    ok(unsafe { libc::pipe(ends.as_mut_ptr()) });
    let lives = child(|| {
        // SAFETY: our own descriptor.
        unsafe { libc::close(ends[1]) };
        i32::from(!read(ends[0], 1).is_empty())
    });
    let ended = child(|| 3);
    let (lives_fd, ended_fd) = (pidfd_of(lives), pidfd_of(ended));
    while events(ended_fd) == 0 {
        std::thread::yield_now();
    }
    check_eq!(events(lives_fd), 0);

    // Locks of every kind; the program itself is the one file that each machine has.
    let (exe, again, shared) =
        (open(&program, O_RDONLY), open(&program, O_RDONLY), open("/", O_RDONLY));
    // SAFETY: valid locks.
    unsafe {
        ok(libc::fcntl(both, F_SETLK, &lock(F_WRLCK, 10, 20)));
        ok(libc::fcntl(exe, F_SETLK, &lock(F_RDLCK, 100, 0)));
        ok(libc::fcntl(again, F_OFD_SETLK, &lock(F_RDLCK, 5, 6)));
        ok(libc::flock(exe, LOCK_EX));
        ok(libc::flock(shared, LOCK_SH));
    }

    wait_to_be_moved();

    check_eq!(read(reader, 2), b"in");
    write(both, b"; more");
    check_eq!(read(reader, 100), b" the FIFO; more");
    // SAFETY: valid places.
    unsafe {
        let byte = [0_u8; 1];
        check_eq!(err(libc::read(reader, byte.as_ptr().cast_mut().cast(), 1) as i32), EAGAIN);
        let mut stat: libc::stat = zeroed();
        ok(libc::fstat(writer, &mut stat));
        check_eq!((stat.st_mode, stat.st_uid, stat.st_gid), (libc::S_IFIFO | 0o640, 7, 8));
        let mut named: libc::stat = zeroed();
        ok(libc::stat(path.as_ptr(), &mut named));
        check_eq!((named.st_ino, named.st_dev), (stat.st_ino, stat.st_dev));
        check_eq!(libc::fcntl(reader, libc::F_GETFL) & (O_NONBLOCK | libc::O_ACCMODE), O_NONBLOCK);
        check_eq!(libc::fcntl(writer, libc::F_GETFL) & (O_NONBLOCK | libc::O_ACCMODE), O_WRONLY);
    }

    check_eq!((events(lives_fd), events(ended_fd)), (0, libc::POLLIN));
    // SAFETY: a valid place, and our own descriptor.
    unsafe {
        let mut info: libc::siginfo_t = zeroed();
        ok(libc::waitid(libc::P_PIDFD, ended_fd as u32, &mut info, libc::WEXITED));
        check_eq!((info.si_pid(), info.si_status()), (ended, 3));
        ok(libc::syscall(libc::SYS_pidfd_send_signal, lives_fd, 0, 0, 0) as i32);
        libc::close(ends[1]);
    }
    check_eq!(wait(lives), 0);
    check_eq!(events(lives_fd), libc::POLLIN);

    // Others see the locks, with whose they are.
    wait_ok(child(|| {
        let fifo = open(&fifo, O_RDWR);
        check_eq!(holder(fifo, F_GETLK, 0, 0), (F_WRLCK, 10, 20, own));
        check_eq!(holder(fifo, F_GETLK, 30, 0).0, F_UNLCK);
        let file = open(&program, O_RDWR | libc::O_PATH);
        check!(file > 0);
        let file = open(&program, O_RDONLY);
        check_eq!(holder(file, F_GETLK, 100, 0), (F_RDLCK, 100, 0, own));
        check_eq!(holder(file, F_OFD_GETLK, 0, 50), (F_RDLCK, 5, 6, -1));
        // SAFETY: plain calls.
        unsafe {
            check_eq!(err(libc::flock(file, LOCK_SH | LOCK_NB)), EAGAIN);
            let root = open("/", O_RDONLY);
            ok(libc::flock(root, LOCK_SH | LOCK_NB));
            check_eq!((libc::flock(root, LOCK_EX | LOCK_NB), errno()), (-1, EAGAIN));
        }
        0
    }));
    // SAFETY: our own descriptors and path.
    unsafe {
        libc::close(again);
        ok(libc::flock(exe, libc::LOCK_UN));
        ok(libc::unlink(path.as_ptr()));
    }
    wait_ok(child(|| {
        let file = open(&program, O_RDONLY);
        // Closing any descriptor let go of the record locks, and closing that one of its own.
        check_eq!(holder(file, F_GETLK, 0, 0).0, F_UNLCK);
        // SAFETY: a plain call.
        ok(unsafe { libc::flock(file, LOCK_EX | LOCK_NB) });
        0
    }));
    println!("files are as they were");
}

//! fifo(7): who waits for whom at open, end of file, hangup; pipes opened again through /proc.
use std::ffi::CString;

use belljar_guest_tests::{check_eq, child, err, ok, wait_ok};

fn events(fd: i32) -> i16 {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry.
    ok(unsafe { libc::poll(&raw mut poll, 1, 0) });
    poll.revents
}

fn main() {
    let path = CString::new(format!("/tmp/fifo-{}", std::process::id())).unwrap();
    let mut buf = [0_u8; 16];
    let ptr = buf.as_mut_ptr();
    // SAFETY: every buffer is valid for the length given.
    unsafe {
        libc::mkdir(c"/tmp".as_ptr(), 0o1777);
        ok(libc::mkfifo(path.as_ptr(), 0o600));
        let nonblock = libc::O_NONBLOCK;
        check_eq!(err(libc::open(path.as_ptr(), libc::O_WRONLY | nonblock)), libc::ENXIO);
        let r = ok(libc::open(path.as_ptr(), libc::O_RDONLY | nonblock));
        check_eq!(events(r), 0);
        check_eq!(libc::read(r, ptr.cast(), 1), 0);
        let w = ok(libc::open(path.as_ptr(), libc::O_WRONLY | nonblock));
        check_eq!(err(libc::read(r, ptr.cast(), 1) as i64), libc::EAGAIN);
        check_eq!(libc::write(w, c"zz".as_ptr().cast(), 2), 2);
        check_eq!(events(r), libc::POLLIN);
        libc::close(w);
        check_eq!(events(r), libc::POLLIN | libc::POLLHUP);
        check_eq!(libc::read(r, ptr.cast(), 9), 2);
        check_eq!(events(r), libc::POLLHUP);
        libc::close(r);

        let writer = child(|| {
            let w = ok(libc::open(path.as_ptr(), libc::O_WRONLY));
            check_eq!(libc::write(w, c"block".as_ptr().cast(), 5), 5);
            0
        });
        let r = ok(libc::open(path.as_ptr(), libc::O_RDONLY));
        check_eq!(libc::read(r, ptr.cast(), 16), 5);
        check_eq!(libc::read(r, ptr.cast(), 16), 0);
        wait_ok(writer);
        ok(libc::unlink(path.as_ptr()));

        // Packets of O_DIRECT mode keep their borders.
        let mut ends = [0; 2];
        ok(libc::pipe2(ends.as_mut_ptr(), libc::O_DIRECT | nonblock));
        libc::write(ends[1], c"one".as_ptr().cast(), 3);
        libc::write(ends[1], c"two!".as_ptr().cast(), 4);
        check_eq!(libc::read(ends[0], ptr.cast(), 16), 3);
        check_eq!(libc::read(ends[0], ptr.cast(), 2), 2);
        check_eq!(err(libc::read(ends[0], ptr.cast(), 2) as i64), libc::EAGAIN);

        ok(libc::pipe(ends.as_mut_ptr()));
        let link = CString::new(format!("/proc/self/fd/{}", ends[1])).unwrap();
        let again = ok(libc::open(link.as_ptr(), libc::O_WRONLY));
        libc::write(again, c"re".as_ptr().cast(), 2);
        check_eq!(libc::read(ends[0], ptr.cast(), 16), 2);
        let mut name = [0_u8; 64];
        let len = libc::readlink(link.as_ptr(), name.as_mut_ptr().cast(), 64);
        check_eq!(&name[..6], b"pipe:[");
        check_eq!(name[ok(len as i64) as usize - 1], b']');
        check_eq!(err(libc::lseek(ends[0], 0, libc::SEEK_CUR)), libc::ESPIPE);
    }
}

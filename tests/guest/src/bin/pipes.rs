//! pipe(2), poll(2): order, end of file, EPIPE, O_NONBLOCK, capacity, atomic writes.
use belljar_guest_tests::{check, check_eq, child, err, ok, wait_ok};

fn pipe(flags: i32) -> (i32, i32) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    ok(unsafe { libc::pipe2(fds.as_mut_ptr(), flags) });
    (fds[0], fds[1])
}

fn main() {
    // SAFETY: every buffer is valid for the length given.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        let mut buf = vec![0_u8; 1 << 17];
        let ptr = buf.as_mut_ptr();

        let (r, w) = pipe(libc::O_NONBLOCK);
        check_eq!(err(libc::read(r, ptr.cast(), 1) as i64), libc::EAGAIN);
        let mut filled = 0;
        loop {
            let n = libc::write(w, ptr.cast(), 4096);
            if n < 0 {
                break;
            }
            filled += n;
        }
        check_eq!(filled, 65536);
        check_eq!(libc::fcntl(w, libc::F_GETPIPE_SZ), 65536);
        let mut poll = [
            libc::pollfd { fd: r, events: libc::POLLIN, revents: 0 },
            libc::pollfd { fd: w, events: libc::POLLOUT, revents: 0 },
        ];
        check_eq!(libc::poll(poll.as_mut_ptr(), 2, 0), 1);
        check_eq!((poll[0].revents, poll[1].revents), (libc::POLLIN, 0));
        check_eq!(libc::read(r, ptr.cast(), 1 << 17), 65536);
        check_eq!(libc::fcntl(w, libc::F_SETPIPE_SZ, 1 << 17), 1 << 17);
        let mut waiting = 0;
        libc::write(w, ptr.cast(), 10);
        ok(libc::ioctl(r, libc::FIONREAD, &raw mut waiting));
        check_eq!(waiting, 10);
        libc::close(w);
        check_eq!(libc::read(r, ptr.cast(), 100), 10);
        check_eq!(libc::read(r, ptr.cast(), 100), 0);
        check_eq!(libc::poll(poll.as_mut_ptr(), 1, -1), 1);
        check!(poll[0].revents & libc::POLLHUP != 0);
        libc::close(r);

        let (r, w) = pipe(0);
        libc::close(r);
        check_eq!(err(libc::write(w, ptr.cast(), 1) as i64), libc::EPIPE);
        libc::close(w);

        // Writes of up to PIPE_BUF bytes never mix.
        let (r, w) = pipe(libc::O_CLOEXEC);
        check_eq!(libc::fcntl(r, libc::F_GETFD), libc::FD_CLOEXEC);
        let writers: Vec<i32> = (0..4_u8)
            .map(|n| {
                child(|| {
                    let block = [n; 1024];
                    for _ in 0..64 {
                        check_eq!(libc::write(w, block.as_ptr().cast(), 1024), 1024);
                    }
                    0
                })
            })
            .collect();
        libc::close(w);
        let mut all = Vec::new();
        loop {
            let n = libc::read(r, ptr.cast(), 1 << 17);
            check!(n >= 0);
            if n == 0 {
                break;
            }
            all.extend_from_slice(&buf[..n as usize]);
        }
        check_eq!(all.len(), 4 * 64 * 1024);
        for block in all.chunks(1024) {
            check!(block.iter().all(|b| *b == block[0]));
        }
        writers.into_iter().for_each(wait_ok);
    }
}

//! Orphans go to the nearest subreaper (prctl(2), PR_SET_CHILD_SUBREAPER); PR_SET_PDEATHSIG arrives.
use belljar_guest_tests::{check_eq, child, ok, wait, wait_ok};

fn main() {
    // SAFETY: plain calls.
    unsafe {
        ok(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
        let me = libc::getpid();
        let mut pipe = [0; 2];
        ok(libc::pipe(pipe.as_mut_ptr()));
        let middle = child(|| {
            let parent = libc::getpid();
            let _ = child(|| {
                while libc::getppid() == parent {
                    libc::sched_yield();
                }
                check_eq!(libc::getppid(), me);
                let pid = libc::getpid();
                check_eq!(libc::write(pipe[1], (&raw const pid).cast(), 4), 4);
                17
            });
            0
        });
        wait_ok(middle);
        let mut orphan = 0_i32;
        check_eq!(libc::read(pipe[0], (&raw mut orphan).cast(), 4), 4);
        check_eq!(wait(orphan), 17 << 8);

        let middle = child(|| {
            let _ = child(|| {
                ok(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0));
                let pid = libc::getpid();
                libc::write(pipe[1], (&raw const pid).cast(), 4);
                loop {
                    libc::pause();
                }
            });
            let mut pid = 0_i32;
            libc::read(pipe[0], (&raw mut pid).cast(), 4);
            libc::write(pipe[1], (&raw const pid).cast(), 4);
            0
        });
        wait_ok(middle);
        check_eq!(libc::read(pipe[0], (&raw mut orphan).cast(), 4), 4);
        check_eq!(wait(orphan), libc::SIGKILL);
    }
}

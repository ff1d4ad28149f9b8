//! A session leader at a pseudoterminal whose both sides it has open itself. Its core may be executed by whoever leads
//! no session: then the terminal is nobody's, and the one of the caller's session stays that. `moved_leader [wait]`.

use std::ffi::CStr;

use belljar_guest_tests::moved::wait_to_be_moved;
use belljar_guest_tests::{check_eq, child, err, ok, wait_ok};

/// The session that a terminal controls, as its master sees it.
fn session(master: i32) -> i32 {
    let mut sid = 0;
    // SAFETY: room for the number.
    match unsafe { libc::ioctl(master, libc::TIOCGSID as _, &raw mut sid) } {
        0 => sid,
        failed => -err(failed),
    }
}

fn main() {
    let leader = child(|| {
        // SAFETY: plain calls; `ptsname` is used by one thread.
        unsafe {
            let pid = ok(libc::setsid());
            let master = ok(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY));
            ok(libc::unlockpt(master));
            let name = CStr::from_ptr(libc::ptsname(master)).to_owned();
            let terminal = ok(libc::open(name.as_ptr(), libc::O_RDWR));
            check_eq!((session(master), libc::tcgetsid(terminal)), (pid, pid));
            println!("leader {pid}");

            wait_to_be_moved();

            if libc::getsid(0) == libc::getpid() {
                check_eq!(session(master), libc::getpid());
                println!("it leads the session of its terminal");
            } else {
                check_eq!(
                    (session(master), err(libc::tcgetsid(terminal))),
                    (-libc::ENOTTY, libc::ENOTTY)
                );
                println!("it has no terminal of its own");
            }
        }
        0
    });
    wait_ok(leader);
}

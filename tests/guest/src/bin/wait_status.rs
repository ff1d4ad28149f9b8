//! wait4(2), waitid(2): exit codes, signals, stops, WNOHANG, WNOWAIT, ECHILD, resource usage.
use belljar_guest_tests::{check, check_eq, child, err, ok, wait};

fn main() {
    // SAFETY: every pointer handed to the calls is valid.
    unsafe {
        let mut status = 0;
        check_eq!(err(libc::waitpid(-1, &raw mut status, 0)), libc::ECHILD);
        check_eq!(wait(child(|| 42)), 42 << 8);

        let pid = child(|| {
            libc::kill(libc::getpid(), libc::SIGTERM);
            0
        });
        let status = wait(pid);
        check!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGTERM);

        let pid = child(|| {
            libc::raise(libc::SIGSTOP);
            5
        });
        let mut status = 0;
        check_eq!(ok(libc::waitpid(pid, &raw mut status, libc::WUNTRACED)), pid);
        check!(libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGSTOP, "{status:#x}");
        check_eq!(ok(libc::waitpid(pid, &raw mut status, libc::WNOHANG)), 0);
        ok(libc::kill(pid, libc::SIGCONT));
        check_eq!(ok(libc::waitpid(pid, &raw mut status, libc::WCONTINUED)), pid);
        check!(libc::WIFCONTINUED(status) || libc::WIFEXITED(status), "{status:#x}");
        if libc::WIFCONTINUED(status) {
            status = wait(pid);
        }
        check_eq!(status, 5 << 8);

        let pid = child(|| 3);
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let id = pid as u32;
        ok(libc::waitid(libc::P_PID, id, &raw mut info, libc::WEXITED | libc::WNOWAIT));
        check_eq!((info.si_pid(), info.si_status(), info.si_code), (pid, 3, libc::CLD_EXITED));
        ok(libc::waitid(libc::P_PID, id, &raw mut info, libc::WEXITED));
        check_eq!(err(libc::waitid(libc::P_PID, id, &raw mut info, libc::WEXITED)), libc::ECHILD);
        check_eq!(err(libc::waitid(libc::P_ALL, 0, &raw mut info, 0)), libc::EINVAL);

        // SIG_IGN for SIGCHLD: no zombie, and wait fails once all children are gone.
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        let _ = child(|| 1);
        check_eq!(err(libc::waitpid(-1, &raw mut status, 0)), libc::ECHILD);
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);

        let mut usage: libc::rusage = std::mem::zeroed();
        let pid = child(|| {
            let mut x = 0_u64;
            for i in 0..3_000_000_u64 {
                x = std::hint::black_box(x.wrapping_add(i));
            }
            0
        });
        check_eq!(libc::wait4(pid, &raw mut status, 0, &raw mut usage), pid);
        check!(
            usage.ru_utime.tv_sec * 1_000_000
                + usage.ru_utime.tv_usec
                + usage.ru_stime.tv_sec * 1_000_000
                + usage.ru_stime.tv_usec
                > 0
        );
    }
}

//! The table: number, name, handler. Sorted by number.

use super::{Handler, cred, futex, mm, pipe, poll, process, sched, signal, system, time, tty};

/// Numbers below this have a slot.
pub const SIZE: usize = 512;

/// A row: number, name, handler.
pub type Row = (usize, &'static str, Handler);

/// Every system call that the kernel has.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    (19, "eventfd2", poll::sys_eventfd2),
    (20, "epoll_create1", poll::sys_epoll_create1),
    (21, "epoll_ctl", poll::sys_epoll_ctl),
    (22, "epoll_pwait", poll::sys_epoll_pwait),
    (58, "vhangup", tty::sys_vhangup),
    (59, "pipe2", pipe::sys_pipe2),
    (72, "pselect6", poll::sys_pselect6),
    (73, "ppoll", poll::sys_ppoll),
    (90, "capget", cred::sys_capget),
    (91, "capset", cred::sys_capset),
    (92, "personality", process::sys_personality),
    (93, "exit", process::sys_exit),
    (94, "exit_group", process::sys_exit_group),
    (95, "waitid", process::sys_waitid),
    (96, "set_tid_address", process::sys_set_tid_address),
    (98, "futex", futex::sys_futex),
    (99, "set_robust_list", futex::sys_set_robust_list),
    (100, "get_robust_list", futex::sys_get_robust_list),
    (101, "nanosleep", time::sys_nanosleep),
    (112, "clock_settime", time::sys_clock_settime),
    (113, "clock_gettime", time::sys_clock_gettime),
    (114, "clock_getres", time::sys_clock_getres),
    (115, "clock_nanosleep", time::sys_clock_nanosleep),
    (118, "sched_setparam", sched::sys_sched_setparam),
    (119, "sched_setscheduler", sched::sys_sched_setscheduler),
    (120, "sched_getscheduler", sched::sys_sched_getscheduler),
    (121, "sched_getparam", sched::sys_sched_getparam),
    (122, "sched_setaffinity", sched::sys_sched_setaffinity),
    (123, "sched_getaffinity", sched::sys_sched_getaffinity),
    (124, "sched_yield", sched::sys_sched_yield),
    (125, "sched_get_priority_max", sched::sys_sched_get_priority_max),
    (126, "sched_get_priority_min", sched::sys_sched_get_priority_min),
    (127, "sched_rr_get_interval", sched::sys_sched_rr_get_interval),
    (128, "restart_syscall", time::sys_restart_syscall),
    (129, "kill", signal::sys_kill),
    (130, "tkill", signal::sys_tkill),
    (131, "tgkill", signal::sys_tgkill),
    (132, "sigaltstack", signal::sys_sigaltstack),
    (133, "rt_sigsuspend", signal::sys_rt_sigsuspend),
    (134, "rt_sigaction", signal::sys_rt_sigaction),
    (135, "rt_sigprocmask", signal::sys_rt_sigprocmask),
    (136, "rt_sigpending", signal::sys_rt_sigpending),
    (137, "rt_sigtimedwait", signal::sys_rt_sigtimedwait),
    (138, "rt_sigqueueinfo", signal::sys_rt_sigqueueinfo),
    (139, "rt_sigreturn", signal::sys_rt_sigreturn),
    (140, "setpriority", sched::sys_setpriority),
    (141, "getpriority", sched::sys_getpriority),
    (143, "setregid", cred::sys_setregid),
    (144, "setgid", cred::sys_setgid),
    (145, "setreuid", cred::sys_setreuid),
    (146, "setuid", cred::sys_setuid),
    (147, "setresuid", cred::sys_setresuid),
    (148, "getresuid", cred::sys_getresuid),
    (149, "setresgid", cred::sys_setresgid),
    (150, "getresgid", cred::sys_getresgid),
    (151, "setfsuid", cred::sys_setfsuid),
    (152, "setfsgid", cred::sys_setfsgid),
    (153, "times", time::sys_times),
    (154, "setpgid", process::sys_setpgid),
    (155, "getpgid", process::sys_getpgid),
    (156, "getsid", process::sys_getsid),
    (157, "setsid", process::sys_setsid),
    (158, "getgroups", cred::sys_getgroups),
    (159, "setgroups", cred::sys_setgroups),
    (160, "uname", system::sys_uname),
    (161, "sethostname", system::sys_sethostname),
    (162, "setdomainname", system::sys_setdomainname),
    (163, "getrlimit", process::sys_getrlimit),
    (164, "setrlimit", process::sys_setrlimit),
    (165, "getrusage", process::sys_getrusage),
    (167, "prctl", process::sys_prctl),
    (168, "getcpu", system::sys_getcpu),
    (169, "gettimeofday", time::sys_gettimeofday),
    (170, "settimeofday", time::sys_settimeofday),
    (171, "adjtimex", time::sys_adjtimex),
    (172, "getpid", process::sys_getpid),
    (173, "getppid", process::sys_getppid),
    (174, "getuid", cred::sys_getuid),
    (175, "geteuid", cred::sys_geteuid),
    (176, "getgid", cred::sys_getgid),
    (177, "getegid", cred::sys_getegid),
    (178, "gettid", process::sys_gettid),
    (179, "sysinfo", system::sys_sysinfo),
    (214, "brk", mm::sys_brk),
    (215, "munmap", mm::sys_munmap),
    (216, "mremap", mm::sys_mremap),
    (220, "clone", process::sys_clone),
    (222, "mmap", mm::sys_mmap),
    (226, "mprotect", mm::sys_mprotect),
    (227, "msync", mm::sys_msync),
    (228, "mlock", mm::sys_mlock),
    (229, "munlock", mm::sys_munlock),
    (230, "mlockall", mm::sys_mlockall),
    (231, "munlockall", mm::sys_munlockall),
    (232, "mincore", mm::sys_mincore),
    (233, "madvise", mm::sys_madvise),
    (240, "rt_tgsigqueueinfo", signal::sys_rt_tgsigqueueinfo),
    (260, "wait4", process::sys_wait4),
    (261, "prlimit64", process::sys_prlimit64),
    (266, "clock_adjtime", time::sys_clock_adjtime),
    (274, "sched_setattr", sched::sys_sched_setattr),
    (275, "sched_getattr", sched::sys_sched_getattr),
    (283, "membarrier", mm::sys_membarrier),
    (284, "mlock2", mm::sys_mlock2),
    (435, "clone3", process::sys_clone3),
    (441, "epoll_pwait2", poll::sys_epoll_pwait2),
];

/// The handlers by number.
pub static HANDLERS: [Option<Handler>; SIZE] = {
    let mut handlers = [None; SIZE];
    let mut i = 0;
    while i < ROWS.len() {
        assert!(i == 0 || ROWS[i - 1].0 < ROWS[i].0, "rows are sorted by number, each once");
        handlers[ROWS[i].0] = Some(ROWS[i].2);
        i += 1;
    }
    handlers
};

/// The name of a call, for logs and tracing.
pub fn name(nr: usize) -> Option<&'static str> {
    let i = ROWS.binary_search_by_key(&nr, |row| row.0).ok()?;
    Some(ROWS[i].1)
}

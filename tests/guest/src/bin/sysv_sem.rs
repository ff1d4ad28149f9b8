//! System V semaphores: semget(2), semop(2), semctl(2), undoing at exit.

use belljar_guest_tests::sysv::*;
use belljar_guest_tests::*;

const GETPID: i32 = 11;
const GETVAL: i32 = 12;
const GETALL: i32 = 13;
const GETNCNT: i32 = 14;
const GETZCNT: i32 = 15;
const SETVAL: i32 = 16;
const SETALL: i32 = 17;
const UNDO: i32 = 0x1000;
/// The largest value of a semaphore.
const MAX: usize = 32767;

fn value(id: i64, num: i32) -> i64 {
    ok(semctl(id, num, GETVAL, 0))
}

fn set(id: i64, num: i32, value: usize) {
    ok(semctl(id, num, SETVAL, value));
}

fn remove(id: i64) {
    ok(semctl(id, 0, RMID, 0));
}

fn stat(id: i64) -> Sem {
    let mut stat = Sem::default();
    ok(semctl(id, 0, STAT, &raw mut stat as usize));
    stat
}

fn me() -> i64 {
    i64::from(std::process::id())
}

fn get_finds_by_key_and_refuses_what_does_not_fit() {
    const KEY: i32 = 0x77;
    check_eq!(err(semget(KEY, 1, 0)), libc::ENOENT);
    check_eq!(err(semget(KEY, 0, CREAT)), libc::EINVAL);
    check_eq!(err(semget(KEY, -1, CREAT)), libc::EINVAL);
    check_eq!(err(semget(KEY, 32001, CREAT)), libc::EINVAL);
    let id = ok(semget(KEY, 3, CREAT | 0o640));
    check_eq!(semget(KEY, 0, 0), id);
    check_eq!(semget(KEY, 3, CREAT), id);
    check_eq!(err(semget(KEY, 4, 0)), libc::EINVAL);
    check_eq!(err(semget(KEY, 3, CREAT | EXCL)), libc::EEXIST);
    let stat = stat(id);
    check_eq!((stat.perm.key, stat.perm.mode, stat.nsems, stat.otime), (KEY, 0o640, 3, 0));
    check!(stat.ctime > 0);
    remove(id);
    check_eq!(err(semctl(id, 0, STAT, 0)), libc::EINVAL);
    check_eq!(err(semop(id, &[op(0, 1, 0)])), libc::EINVAL);
}

fn values_are_set_one_by_one_and_all_at_once() {
    let id = ok(semget(PRIVATE, 3, 0o600));
    check_eq!(ok(semctl(id, 0, GETPID, 0)), 0);
    set(id, 1, 5);
    check_eq!((value(id, 0), value(id, 1)), (0, 5));
    check_eq!(ok(semctl(id, 1, GETPID, 0)), me());
    check_eq!(err(semctl(id, 1, SETVAL, MAX + 1)), libc::ERANGE);
    check_eq!(err(semctl(id, 1, SETVAL, usize::MAX)), libc::ERANGE);
    for num in [-1, 3] {
        check_eq!(err(semctl(id, num, SETVAL, 0)), libc::EINVAL);
        check_eq!(err(semctl(id, num, GETVAL, 0)), libc::EINVAL);
    }
    let mut all = [7_u16, 8, 9];
    ok(semctl(id, 0, SETALL, all.as_ptr() as usize));
    all = [0; 3];
    ok(semctl(id, 0, GETALL, all.as_mut_ptr() as usize));
    check_eq!(all, [7, 8, 9]);
    let bad = [1_u16, 40000, 1];
    check_eq!(err(semctl(id, 0, SETALL, bad.as_ptr() as usize)), libc::ERANGE);
    check_eq!(err(semctl(id, 0, GETALL, 8)), libc::EFAULT);
    check_eq!(value(id, 0), 7);
    check_eq!(err(semctl(id, 0, 99, 0)), libc::EINVAL);
    remove(id);
}

fn operations_happen_all_or_none() {
    let id = ok(semget(PRIVATE, 2, 0o600));
    ok(semop(id, &[op(0, 3, 0), op(1, 1, 0), op(0, -1, 0)]));
    check_eq!((value(id, 0), value(id, 1)), (2, 1));
    check!(stat(id).otime > 0);
    // The second cannot be: nor may the first.
    check_eq!(err(semop(id, &[op(0, -1, 0), op(1, -2, NOWAIT)])), libc::EAGAIN);
    check_eq!((value(id, 0), value(id, 1)), (2, 1));
    check_eq!(err(semop(id, &[op(0, 1, 0), op(1, 0, NOWAIT)])), libc::EAGAIN);
    check_eq!(value(id, 0), 2);
    check_eq!(err(semop(id, &[op(0, 1, 0), op(0, MAX as i16, 0)])), libc::ERANGE);
    check_eq!(value(id, 0), 2);
    check_eq!(err(semop(id, &[op(2, 1, 0)])), libc::EFBIG);
    check_eq!(err(semop(id, &[])), libc::EINVAL);
    check_eq!(err(semop(id, &[op(0, 1, 0); 501])), libc::E2BIG);
    check_eq!(err(semop(-1, &[op(0, 1, 0)])), libc::EINVAL);
    // Within one call, later operations see the earlier.
    ok(semop(id, &[op(0, -2, 0), op(0, 0, 0), op(0, 1, 0)]));
    check_eq!(value(id, 0), 1);
    remove(id);
}

fn sleepers_are_served_when_it_becomes_possible() {
    let id = ok(semget(PRIVATE, 2, 0o600));
    let waiting = |num, cmd| ok(semctl(id, num, cmd, 0));
    let taker = child(|| {
        ok(semop(id, &[op(0, -2, 0), op(1, 1, 0)]));
        0
    });
    until(|| waiting(0, GETNCNT) == 1);
    check_eq!((waiting(1, GETNCNT), waiting(0, GETZCNT)), (0, 0));
    ok(semop(id, &[op(0, 1, 0)]));
    check_eq!(value(id, 0), 1);
    ok(semop(id, &[op(0, 1, 0)]));
    // Done by the time that the call returns, on the sleeper's behalf.
    check_eq!((value(id, 0), value(id, 1), waiting(0, GETNCNT)), (0, 1, 0));
    check_eq!(ok(semctl(id, 1, GETPID, 0)), i64::from(taker));
    wait_ok(taker);

    let zero = child(|| {
        ok(semop(id, &[op(1, 0, 0)]));
        0
    });
    until(|| waiting(1, GETZCNT) == 1);
    check_eq!(waiting(1, GETNCNT), 0);
    set(id, 1, 0);
    wait_ok(zero);

    // First come, first served, but those who can go do not wait for those who cannot.
    let big = child(|| {
        ok(semop(id, &[op(0, -5, 0)]));
        0
    });
    until(|| waiting(0, GETNCNT) == 1);
    let small = child(|| {
        ok(semop(id, &[op(0, -1, 0)]));
        0
    });
    until(|| waiting(0, GETNCNT) == 2);
    ok(semop(id, &[op(0, 1, 0)]));
    wait_ok(small);
    check_eq!(waiting(0, GETNCNT), 1);
    set(id, 0, 5);
    wait_ok(big);
    check_eq!(value(id, 0), 0);
    remove(id);
}

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t) {}

fn sleeping_ends_with_time_signal_and_removal() {
    let id = ok(semget(PRIVATE, 1, 0o600));
    check_eq!(err(semtimedop(id, &[op(0, -1, 0)], 0.02)), libc::EAGAIN);
    check_eq!(err(semtimedop(id, &[op(0, -1, 0)], -1.0)), libc::EINVAL);
    check_eq!(ok(semctl(id, 0, GETNCNT, 0)), 0);
    let interrupted = child(|| {
        // Not even with SA_RESTART does it start again.
        handle(libc::SIGUSR1, libc::SA_RESTART, nothing);
        check_eq!(err(semop(id, &[op(0, -1, 0)])), libc::EINTR);
        0
    });
    until(|| ok(semctl(id, 0, GETNCNT, 0)) == 1);
    // SAFETY: signals a child.
    ok(unsafe { libc::kill(interrupted, libc::SIGUSR1) });
    wait_ok(interrupted);
    check_eq!(ok(semctl(id, 0, GETNCNT, 0)), 0);
    let told = child(|| {
        check_eq!(err(semop(id, &[op(0, -1, 0)])), libc::EIDRM);
        0
    });
    until(|| ok(semctl(id, 0, GETNCNT, 0)) == 1);
    remove(id);
    wait_ok(told);
}

fn undoing_happens_at_exit_and_as_far_as_possible() {
    let id = ok(semget(PRIVATE, 3, 0o600));
    set(id, 0, 10);
    let ends = child(|| {
        ok(semop(id, &[op(0, -3, UNDO), op(1, 4, UNDO), op(2, 1, 0)]));
        check_eq!((value(id, 0), value(id, 1), value(id, 2)), (7, 4, 1));
        0
    });
    wait_ok(ends);
    check_eq!((value(id, 0), value(id, 1), value(id, 2)), (10, 0, 1));
    check_eq!(ok(semctl(id, 0, GETPID, 0)), i64::from(ends));
    // What others took is not taken once more.
    wait_ok(child(|| {
        ok(semop(id, &[op(1, 4, UNDO)]));
        wait_ok(child(|| {
            ok(semop(id, &[op(1, -3, 0)]));
            0
        }));
        0
    }));
    check_eq!(value(id, 1), 0);
    // Setting a value forgets what was to be undone, and fork does not inherit it.
    wait_ok(child(|| {
        ok(semop(id, &[op(0, 5, UNDO)]));
        wait_ok(child(|| 0));
        check_eq!(value(id, 0), 15);
        set(id, 0, 3);
        0
    }));
    check_eq!(value(id, 0), 3);
    // An end of a killed process wakes sleepers too.
    let holder = child(|| {
        ok(semop(id, &[op(0, -3, UNDO)]));
        loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        }
    });
    until(|| value(id, 0) == 0);
    let next = child(|| {
        ok(semop(id, &[op(0, -3, 0)]));
        0
    });
    until(|| ok(semctl(id, 0, GETNCNT, 0)) == 1);
    // SAFETY: kills a child.
    ok(unsafe { libc::kill(holder, libc::SIGKILL) });
    check_eq!(wait(holder) & 0x7f, libc::SIGKILL);
    wait_ok(next);
    // More than can be undone is refused.
    check_eq!(
        err(semop(id, &[op(0, MAX as i16, UNDO), op(0, -(MAX as i16), 0), op(0, 2, UNDO)])),
        libc::ERANGE
    );
    remove(id);
}

fn threads_undo_together() {
    let id = ok(semget(PRIVATE, 1, 0o600));
    wait_ok(child(|| {
        std::thread::spawn(move || ok(semop(id, &[op(0, 2, UNDO)]))).join().unwrap();
        // The thread has ended, once it is listed no more; its process has not.
        until(|| std::fs::read_dir("/proc/self/task").unwrap().count() == 1);
        check_eq!(value(id, 0), 2);
        // SAFETY: plain call.
        ok(unsafe { libc::unshare(libc::CLONE_SYSVSEM) });
        // The process's own list is what threads share: it was the last.
        check_eq!(value(id, 0), 0);
        ok(semop(id, &[op(0, 1, UNDO)]));
        0
    }));
    check_eq!(value(id, 0), 0);
    remove(id);
}

fn permissions_are_to_read_and_to_alter() {
    let id = ok(semget(PRIVATE, 1, 0o604));
    wait_ok(child(|| {
        become_user(1000);
        check_eq!(value(id, 0), 0);
        check_eq!(ok(semop(id, &[op(0, 0, 0)])), 0);
        check_eq!(err(semop(id, &[op(0, 1, 0)])), libc::EACCES);
        check_eq!(err(semctl(id, 0, SETVAL, 1)), libc::EACCES);
        check_eq!(err(semctl(id, 0, SETALL, 0)), libc::EACCES);
        check_eq!(err(semctl(id, 0, RMID, 0)), libc::EPERM);
        0
    }));
    let mut new = stat(id);
    (new.perm.uid, new.perm.gid, new.perm.mode) = (5, 1000, 0o620);
    ok(semctl(id, 0, SET, &raw mut new as usize));
    wait_ok(child(|| {
        become_user(1000);
        // By the group: alter only.
        ok(semop(id, &[op(0, 1, 0)]));
        check_eq!(err(semctl(id, 0, GETVAL, 0)), libc::EACCES);
        0
    }));
    remove(id);
}

fn information_tells_limits_and_use() {
    let mut info = [0_i32; 10];
    ok(semctl(0, 0, INFO, info.as_mut_ptr() as usize));
    let [_, semmni, semmns, _, semmsl, semopm, _, semusz, semvmx, semaem] = info;
    check_eq!((semmni, semmns, semmsl, semopm), (32000, 1_024_000_000, 32000, 500));
    check_eq!((semusz, semvmx, semaem), (20, 32767, 32767));
    let limits = std::fs::read_to_string("/proc/sys/kernel/sem").unwrap();
    check_eq!(limits, "32000\t1024000000\t500\t32000\n");
    let used = || {
        let mut info = [0_i32; 10];
        let highest = ok(semctl(0, 0, 19, info.as_mut_ptr() as usize));
        (info[7], info[9], highest)
    };
    let before = used();
    let id = ok(semget(PRIVATE, 7, 0o600));
    let after = used();
    check_eq!((after.0, after.1), (before.0 + 1, before.1 + 7));
    let mut found = Sem::default();
    check!((0..=after.2).any(|i| semctl(i, 0, 18, &raw mut found as usize) == id));
    check!((0..=after.2).any(|i| semctl(i, 0, 20, &raw mut found as usize) == id));
    check_eq!(found.nsems, 7);
    let table = std::fs::read_to_string("/proc/sysvipc/sem").unwrap();
    let line = table.lines().find(|l| l.split_whitespace().nth(1) == Some(&id.to_string()));
    let words: Vec<&str> = line.unwrap().split_whitespace().collect();
    check_eq!((words[2], words[3], words.len()), ("600", "7", 10));
    remove(id);
    check_eq!(used().1, before.1);
    std::fs::write("/proc/sys/kernel/sem", "4 1024000000 3 32000").unwrap();
    check_eq!(err(semget(PRIVATE, 5, 0)), libc::EINVAL);
    let id = ok(semget(PRIVATE, 4, 0o600));
    check_eq!(err(semop(id, &[op(0, 1, 0); 4])), libc::E2BIG);
    std::fs::write("/proc/sys/kernel/sem", "32000 1024000000 500 32000").unwrap();
    remove(id);
}

fn main() {
    get_finds_by_key_and_refuses_what_does_not_fit();
    values_are_set_one_by_one_and_all_at_once();
    operations_happen_all_or_none();
    sleepers_are_served_when_it_becomes_possible();
    sleeping_ends_with_time_signal_and_removal();
    undoing_happens_at_exit_and_as_far_as_possible();
    threads_undo_together();
    permissions_are_to_read_and_to_alter();
    information_tells_limits_and_use();
}

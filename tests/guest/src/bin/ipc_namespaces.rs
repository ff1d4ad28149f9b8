//! IPC namespaces (ipc_namespaces(7)): what is made in one is not found in another, and goes with it.
//!
//! PROCESS_MODEL.md, Namespaces: ipc (System V shm, sem, msg).

use belljar_guest_tests::sysv::*;
use belljar_guest_tests::*;

const KEY: i32 = 0xbe11;
const GETVAL: i32 = 12;
const UNDO: i32 = 0x1000;

fn inode() -> String {
    std::fs::read_link("/proc/self/ns/ipc").unwrap().to_string_lossy().into_owned()
}

fn unshare(flags: i32) {
    // SAFETY: plain call.
    ok(unsafe { libc::unshare(flags) });
}

fn lines(kind: &str) -> usize {
    std::fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap().lines().count() - 1
}

fn limit(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap().trim().to_owned()
}

fn objects_are_found_in_their_own_namespace_alone() {
    let shm = ok(shmget(KEY, 4096, CREAT | 0o666));
    let sem = ok(semget(KEY, 1, CREAT | 0o666));
    let msg = ok(msgget(KEY, CREAT | 0o666));
    let addr = ok(shmat(shm, 0, 0));
    std::fs::write("/proc/sys/kernel/msgmax", "1000").unwrap();
    let outside = inode();
    wait_ok(child(|| {
        unshare(libc::CLONE_NEWIPC);
        check!(inode() != outside);
        check_eq!(err(shmget(KEY, 1, 0)), libc::ENOENT);
        check_eq!(err(semget(KEY, 1, 0)), libc::ENOENT);
        check_eq!(err(msgget(KEY, 0)), libc::ENOENT);
        check_eq!(err(shmat(shm, 0, 0)), libc::EINVAL);
        for kind in ["shm", "sem", "msg"] {
            check_eq!(lines(kind), 0);
        }
        check_eq!(limit("msgmax"), "8192");
        std::fs::write("/proc/sys/kernel/msgmax", "2000").unwrap();
        // Numbers begin anew.
        ok(shmget(KEY, 8192, CREAT | 0o600));
        ok(semget(KEY, 2, CREAT | 0o600));
        check_eq!((lines("shm"), lines("sem")), (1, 1));
        // What is attached stays attached.
        // SAFETY: the segment is attached.
        unsafe { (addr as *mut u8).write_volatile(42) };
        ok(shmdt(addr));
        0
    }));
    check_eq!(limit("msgmax"), "1000");
    std::fs::write("/proc/sys/kernel/msgmax", "8192").unwrap();
    // SAFETY: the segment is attached.
    check_eq!(unsafe { (addr as *const u8).read_volatile() }, 42);
    check_eq!(shmstat(shm).nattch, 1);
    ok(shmdt(addr));
    ok(shmctl(shm, RMID, std::ptr::null_mut::<u8>()));
    ok(semctl(sem, 0, RMID, 0));
    ok(msgctl(msg, RMID, std::ptr::null_mut::<u8>()));
}

fn memory_outlives_its_namespace_while_it_is_attached() {
    wait_ok(child(|| {
        unshare(libc::CLONE_NEWIPC);
        let id = ok(shmget(PRIVATE, 4096, 0o600));
        let addr = ok(shmat(id, 0, 0));
        ok(semget(PRIVATE, 100, 0o600));
        ok(msgsnd(ok(msgget(PRIVATE, 0o600)), 1, b"lost", 0));
        // Leaving drops the last reference of the namespace.
        unshare(libc::CLONE_NEWIPC);
        check_eq!(err(shmctl(id, STAT, &mut Shm::default())), libc::EINVAL);
        // SAFETY: the segment is attached.
        unsafe {
            (addr as *mut u8).write_volatile(9);
            check_eq!((addr as *const u8).read_volatile(), 9);
        }
        wait_ok(child(|| {
            ok(shmdt(addr));
            0
        }));
        ok(shmdt(addr));
        0
    }));
}

fn leaving_undoes_semaphores_and_entering_finds_them() {
    use std::os::fd::AsRawFd;
    let sem = ok(semget(PRIVATE, 1, 0o600));
    let here = std::fs::File::open("/proc/self/ns/ipc").unwrap();
    wait_ok(child(|| {
        ok(semop(sem, &[op(0, 3, UNDO)]));
        unshare(libc::CLONE_NEWIPC);
        check_eq!(err(semctl(sem, 0, GETVAL, 0)), libc::EINVAL);
        let inner = ok(semget(KEY, 1, CREAT | 0o600));
        ok(semop(inner, &[op(0, 1, UNDO)]));
        let there = std::fs::File::open("/proc/self/ns/ipc").unwrap();
        // SAFETY: enters namespaces by their files.
        unsafe {
            ok(libc::setns(here.as_raw_fd(), libc::CLONE_NEWIPC));
            check_eq!(ok(semctl(sem, 0, GETVAL, 0)), 0);
            check_eq!(err(semget(KEY, 1, 0)), libc::ENOENT);
            // The file keeps the namespace.
            check_eq!(err(libc::setns(there.as_raw_fd(), libc::CLONE_NEWUTS)), libc::EINVAL);
            ok(libc::setns(there.as_raw_fd(), 0));
        }
        check_eq!(semget(KEY, 1, 0), inner);
        check_eq!(ok(semctl(inner, 0, GETVAL, 0)), 0);
        0
    }));
    ok(semctl(sem, 0, RMID, 0));
}

fn clone_flags(flags: i32) -> i64 {
    // SAFETY: as fork, with the child's end right below.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
    if pid == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(if lines("sem") == 0 { 0 } else { 1 }) }
    }
    pid
}

fn a_child_may_be_made_in_a_new_one() {
    let sem = ok(semget(PRIVATE, 1, 0o600));
    wait_ok(ok(clone_flags(libc::CLONE_NEWIPC)) as i32);
    check_eq!(err(clone_flags(libc::CLONE_NEWIPC | libc::CLONE_SYSVSEM)), libc::EINVAL);
    ok(semctl(sem, 0, RMID, 0));
}

fn capabilities_count_in_the_owners_namespace() {
    let outside = ok(msgget(PRIVATE, 0o600));
    wait_ok(child(|| {
        become_user(1000);
        // SAFETY: plain calls.
        unsafe {
            check_eq!(err(libc::unshare(libc::CLONE_NEWIPC)), libc::EPERM);
            ok(libc::unshare(libc::CLONE_NEWUSER));
        }
        // All capabilities in the new user namespace are none over the IPC namespace outside.
        check_eq!(err(msgsnd(outside, 1, b"x", 0)), libc::EACCES);
        check_eq!(err(msgctl(outside, RMID, std::ptr::null_mut::<u8>())), libc::EPERM);
        unshare(libc::CLONE_NEWIPC);
        let inside = ok(msgget(PRIVATE, 0));
        ok(msgsnd(inside, 1, b"x", 0));
        ok(msgctl(inside, RMID, std::ptr::null_mut::<u8>()));
        0
    }));
    ok(msgctl(outside, RMID, std::ptr::null_mut::<u8>()));
}

fn main() {
    objects_are_found_in_their_own_namespace_alone();
    memory_outlives_its_namespace_while_it_is_attached();
    leaving_undoes_semaphores_and_entering_finds_them();
    a_child_may_be_made_in_a_new_one();
    capabilities_count_in_the_owners_namespace();
}

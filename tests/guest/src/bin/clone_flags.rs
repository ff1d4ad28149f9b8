//! What clone shares and what it copies: CLONE_FILES, CLONE_FS, CLONE_VM with CLONE_VFORK,
//! CLONE_PARENT, CLONE_CHILD_CLEARTID, CLONE_PARENT_SETTID, and the combinations that are refused.

use belljar_guest_tests::*;
use std::sync::atomic::{AtomicI32, Ordering};

/// clone without a new stack (copied memory, or a parent that waits as with vfork).
fn clone(flags: i32, ptid: *mut i32, ctid: *mut i32) -> i64 {
    // SAFETY: the child goes on with a copy of the stack.
    unsafe { libc::syscall(libc::SYS_clone, flags, 0, ptid, 0, ctid) }
}

/// A child made with `flags` that runs `f`.
fn cloned(flags: i32, f: impl FnOnce() -> i32) -> i32 {
    let null = std::ptr::null_mut();
    let pid = ok(clone(flags | libc::SIGCHLD, null, null));
    if pid == 0 {
        let code = f();
        // SAFETY: ends the child.
        unsafe { libc::_exit(code) };
    }
    pid as i32
}

fn files() {
    // SAFETY: calls on descriptors.
    unsafe {
        let fd = ok(libc::dup(0));
        wait_ok(cloned(0, || libc::close(fd)));
        ok(libc::fcntl(fd, libc::F_GETFD));
        wait_ok(cloned(libc::CLONE_FILES, || libc::close(fd)));
        check_eq!(err(libc::fcntl(fd, libc::F_GETFD)), libc::EBADF);
        wait_ok(cloned(libc::CLONE_FILES, || if libc::dup2(0, 77) == 77 { 0 } else { 1 }));
        ok(libc::fcntl(77, libc::F_GETFD));
        ok(libc::close(77));
    }
}

fn file_system() {
    let here = || std::env::current_dir().unwrap().into_os_string().into_string().unwrap();
    // SAFETY: calls with valid strings.
    unsafe {
        ok(libc::chdir(c"/".as_ptr()));
        libc::umask(0o22);
        wait_ok(cloned(0, || libc::chdir(c"/tmp".as_ptr())));
        check_eq!(here(), "/");
        wait_ok(cloned(libc::CLONE_FS, || {
            libc::umask(0o77);
            libc::chdir(c"/tmp".as_ptr())
        }));
        check_eq!(here(), "/tmp");
        check_eq!(libc::umask(0o22), 0o77);
    }
}

static SHARED: AtomicI32 = AtomicI32::new(0);

fn memory() {
    let pid = cloned(0, || {
        SHARED.store(1, Ordering::SeqCst);
        0
    });
    wait_ok(pid);
    check_eq!(SHARED.load(Ordering::SeqCst), 0);
    extern "C" fn body(_: *mut libc::c_void) -> i32 {
        SHARED.store(2, Ordering::SeqCst);
        5
    }
    let stack = map(64 << 10, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    // SAFETY: the stack is the child's alone, and the parent is stopped until it ends.
    let pid = ok(unsafe {
        libc::clone(
            body,
            stack.add(64 << 10).cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            std::ptr::null_mut(),
        )
    });
    // CLONE_VFORK: the child has ended before the parent goes on.
    check_eq!(SHARED.load(Ordering::SeqCst), 2);
    check_eq!(wait(pid), 5 << 8);
}

/// With CLONE_PARENT the new process is its creator's sibling.
fn parent() {
    // SAFETY: plain calls with valid places.
    unsafe {
        let me = libc::getpid();
        let mut ends = [0; 2];
        ok(libc::pipe(ends.as_mut_ptr()));
        wait_ok(child(|| {
            let pid = ok(clone(
                libc::CLONE_PARENT | libc::SIGCHLD,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )) as i32;
            if pid == 0 {
                libc::_exit(if libc::getppid() == me { 9 } else { 1 });
            }
            check_eq!(err(libc::waitpid(pid, std::ptr::null_mut(), 0)), libc::ECHILD);
            libc::write(ends[1], (&raw const pid).cast(), 4);
            0
        }));
        let mut pid = 0;
        check_eq!(libc::read(ends[0], (&raw mut pid).cast(), 4), 4);
        check_eq!(wait(pid), 9 << 8);
    }
}

/// The thread id is written in the parent and in the child, and cleared with a futex wake at the end
/// where the address space is shared.
fn thread_ids() {
    let word = map(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED).cast::<i32>();
    let mut parent_id = 0;
    let flags = libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_SETTID
        | libc::CLONE_CHILD_CLEARTID
        | libc::SIGCHLD;
    // SAFETY: `word` is shared memory, only read through the kernel or as a volatile.
    unsafe {
        let pid = ok(clone(flags, &raw mut parent_id, word)) as i32;
        if pid == 0 {
            let seen = word.read_volatile() == libc::getpid();
            libc::_exit(if seen { 0 } else { 1 });
        }
        check_eq!(parent_id, pid);
        wait_ok(pid);
        // Nobody else was in the child's address space, so there was nobody to tell.
        check_eq!(word.read_volatile(), pid);
    }
    // With CLONE_VM the waiter on the futex is woken.
    static ID: AtomicI32 = AtomicI32::new(-1);
    extern "C" fn body(_: *mut libc::c_void) -> i32 {
        0
    }
    let stack = map(64 << 10, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    // SAFETY: the child has its own stack and touches nothing else.
    unsafe {
        let flags = libc::CLONE_VM | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
        let null = std::ptr::null_mut::<libc::c_void>();
        let ctid = ID.as_ptr();
        let pid = ok(libc::clone(body, stack.add(64 << 10).cast(), flags, null, null, null, ctid));
        while ID.load(Ordering::SeqCst) != 0 {
            let none = std::ptr::null::<libc::timespec>();
            libc::syscall(libc::SYS_futex, ctid, libc::FUTEX_WAIT, -1, none);
        }
        wait_ok(pid);
    }
}

fn refused() {
    let null = std::ptr::null_mut();
    let wrong = [
        libc::CLONE_THREAD,
        libc::CLONE_THREAD | libc::CLONE_SIGHAND,
        libc::CLONE_THREAD | libc::CLONE_VM,
        libc::CLONE_SIGHAND,
        libc::CLONE_FS | libc::CLONE_NEWNS,
    ];
    for flags in wrong {
        check_eq!(err(clone(flags | libc::SIGCHLD, null, null)), libc::EINVAL);
    }
    // The descriptor and the tid have one place in clone(2), and may have none in clone3(2) either.
    let mut place = 0_i32;
    let both = libc::CLONE_PIDFD | libc::CLONE_PARENT_SETTID;
    check_eq!(err(clone(both | libc::SIGCHLD, &raw mut place, null)), libc::EINVAL);
    let mut args = [0_u64; 8];
    args[0] = both as u64;
    (args[1], args[3]) = ((&raw mut place) as u64, (&raw mut place) as u64);
    args[4] = libc::SIGCHLD as u64;
    // SAFETY: the arguments are as long as they say.
    let result = unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) };
    check_eq!(err(result), libc::EINVAL);
    // Flags are looked at before the control group, of which there is none.
    let mut args = [0_u64; 11];
    args[0] = 0x2_0000_0000 | (libc::CLONE_NEWNS | libc::CLONE_FS) as u64;
    args[4] = libc::SIGCHLD as u64;
    args[10] = 999;
    // SAFETY: as above.
    let result = unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) };
    check_eq!(err(result), libc::EINVAL);
    // No signal: only __WCLONE or __WALL waits for it.
    let pid = ok(clone(0, null, null)) as i32;
    // SAFETY: plain calls.
    unsafe {
        if pid == 0 {
            libc::_exit(3);
        }
        let mut status = 0;
        check_eq!(err(libc::waitpid(pid, &mut status, 0)), libc::ECHILD);
        check_eq!(libc::waitpid(pid, &mut status, libc::__WCLONE), pid);
        check_eq!(status, 3 << 8);
    }
}

fn main() {
    files();
    file_system();
    memory();
    parent();
    thread_ids();
    refused();
}

//! A file system that is made step by step shows the namespace that its opener had at fsopen(2), whoever makes it
//! later, and wherever; and who makes it needs the right then.
//!
//! PROCESS_MODEL.md, Namespaces: pid (/proc mounted per namespace), net, ipc, cgroup.

use std::ffi::CString;
use std::fs;

use belljar_guest_tests::net::set_loopback;
use belljar_guest_tests::{check, check_eq, child, err, ok, wait_ok};

const CMD_CREATE: u32 = 6;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const HERE: &str = "/tmp/mount-fd-namespaces";

fn text(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn fsopen(name: &str) -> i32 {
    // SAFETY: a valid string.
    ok(unsafe { libc::syscall(libc::SYS_fsopen, text(name).as_ptr(), 0) as i32 })
}

fn create(context: i32) -> i32 {
    let none = std::ptr::null::<u8>();
    // SAFETY: no pointers are passed.
    unsafe { libc::syscall(libc::SYS_fsconfig, context, CMD_CREATE, none, none, 0) as i32 }
}

/// Makes what `context` describes and mounts it at a new directory.
fn mount(context: i32, name: &str) -> String {
    let at = format!("{HERE}/{name}");
    fs::create_dir_all(&at).unwrap();
    ok(create(context));
    let (empty, to) = (c"".as_ptr(), text(&at));
    // SAFETY: valid strings.
    unsafe {
        let tree = ok(libc::syscall(libc::SYS_fsmount, context, 0, 0) as i32);
        let (cwd, flags) = (libc::AT_FDCWD, MOVE_MOUNT_F_EMPTY_PATH);
        ok(libc::syscall(libc::SYS_move_mount, tree, empty, cwd, to.as_ptr(), flags) as i32);
        libc::close(tree);
    }
    at
}

/// Makes a message queue, by which this ipc namespace is told from a fresh one.
fn make_queue() {
    // SAFETY: a valid name and attributes.
    unsafe {
        let size = [0_i64, 1, 16, 0, 0, 0, 0, 0];
        let flags = libc::O_CREAT | libc::O_RDWR;
        let name = c"outer".as_ptr();
        let queue = ok(libc::syscall(libc::SYS_mq_open, name, flags, 0o600, &size) as i32);
        libc::close(queue);
    }
}

/// The caller's number in a mount of proc.
fn number(proc: &str) -> String {
    fs::read_link(format!("{proc}/self")).unwrap().to_str().unwrap().to_owned()
}

fn main() {
    let _ = fs::create_dir("/tmp");
    let none = std::ptr::null();
    // SAFETY: valid strings.
    unsafe {
        ok(libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWNS));
        let private = libc::MS_REC | libc::MS_PRIVATE;
        ok(libc::mount(none, c"/".as_ptr(), none, private, none.cast()));
    }
    // By which this network namespace is told from a fresh one.
    set_loopback(true);
    make_queue();
    let opener = std::process::id();
    let [proc, sys, queues] = ["proc", "sysfs", "mqueue"].map(fsopen);
    let refused = fsopen("proc");

    wait_ok(child(|| {
        let fresh = libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWPID;
        // SAFETY: no pointers.
        unsafe { ok(libc::unshare(fresh)) };
        wait_ok(child(|| {
            check_eq!(std::process::id(), 1);
            // What was opened before shows what was there before.
            let proc = mount(proc, "proc");
            check!(number(&proc) != "1");
            check!(fs::metadata(format!("{proc}/{opener}")).is_ok());
            let sys = mount(sys, "sys");
            let state =
                |sys: &str| fs::read_to_string(format!("{sys}/class/net/lo/operstate")).unwrap();
            check_eq!(state(&sys), "unknown\n");
            let queues = mount(queues, "queues");
            check!(fs::metadata(format!("{queues}/outer")).is_ok());

            // What is opened now shows what is here.
            let proc = mount(fsopen("proc"), "own-proc");
            check!(number(&proc) == "1");
            let sys = mount(fsopen("sysfs"), "own-sys");
            check_eq!(state(&sys), "down\n");
            let queues = mount(fsopen("mqueue"), "own-queues");
            check_eq!(fs::read_dir(queues).unwrap().count(), 0);
            0
        }));
        0
    }));

    // It was opened by somebody with the right to, and is made by somebody without.
    wait_ok(child(|| {
        // SAFETY: plain calls.
        unsafe { ok(libc::setresuid(1000, 1000, 1000)) };
        check_eq!(err(create(refused)), libc::EPERM);
        0
    }));
    ok(create(refused));
}

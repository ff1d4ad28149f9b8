//! System V message queues: msgget(2), msgsnd(2), msgrcv(2), msgctl(2).

use belljar_guest_tests::sysv::*;
use belljar_guest_tests::*;

const NOERROR: i32 = 0o10000;
const EXCEPT: i32 = 0o20000;
const COPY: i32 = 0o40000;

fn stat(id: i64) -> Msq {
    let mut stat = Msq::default();
    ok(msgctl(id, STAT, &mut stat));
    stat
}

fn remove(id: i64) {
    ok(msgctl(id, RMID, std::ptr::null_mut::<u8>()));
}

fn text(result: Result<(i64, Vec<u8>), i32>) -> String {
    match result {
        Ok((kind, text)) => format!("{kind} {}", String::from_utf8(text).unwrap()),
        Err(errno) => format!("error {errno}"),
    }
}

fn get_finds_by_key() {
    const KEY: i32 = -5;
    check_eq!(err(msgget(KEY, 0)), libc::ENOENT);
    let id = ok(msgget(KEY, CREAT | 0o620));
    check_eq!(msgget(KEY, 0), id);
    check_eq!(err(msgget(KEY, CREAT | EXCL)), libc::EEXIST);
    let stat = stat(id);
    check_eq!((stat.perm.key, stat.perm.mode, stat.qbytes), (KEY, 0o620, 16384));
    check_eq!((stat.qnum, stat.cbytes, stat.lspid, stat.lrpid), (0, 0, 0, 0));
    check_eq!((stat.stime, stat.rtime), (0, 0));
    remove(id);
    check_eq!(err(msgctl(id, STAT, &mut Msq::default())), libc::EINVAL);
    check_eq!(err(msgsnd(id, 1, b"", 0)), libc::EINVAL);
    check_eq!(err(msgctl(id, 99, &mut Msq::default())), libc::EINVAL);
}

fn messages_are_chosen_by_type() {
    let id = ok(msgget(PRIVATE, 0o600));
    for (kind, text) in [(3, "three"), (1, "one"), (2, "two"), (1, "uno"), (9, "nine")] {
        ok(msgsnd(id, kind, text.as_bytes(), 0));
    }
    let s = stat(id);
    check_eq!((s.qnum, s.cbytes, s.lspid), (5, 18, std::process::id() as i32));
    check!(s.stime > 0);
    let take = |kind, flags| text(msgrcv(id, 100, kind, flags | NOWAIT));
    // Copies stay.
    check_eq!(take(4, COPY), "9 nine");
    check_eq!(take(0, COPY), "3 three");
    check_eq!(take(5, COPY), format!("error {}", libc::ENOMSG));
    check_eq!(text(msgrcv(id, 100, 0, COPY)), format!("error {}", libc::EINVAL));
    check_eq!(take(0, COPY | EXCEPT), format!("error {}", libc::EINVAL));
    check_eq!(stat(id).qnum, 5);
    check_eq!(take(2, 0), "2 two");
    check_eq!(take(3, EXCEPT), "1 one");
    // The lowest type up to the one given.
    check_eq!(take(-5, 0), "1 uno");
    check_eq!(take(-2, 0), format!("error {}", libc::ENOMSG));
    check_eq!(take(i64::MIN, 0), "3 three");
    check_eq!(take(7, 0), format!("error {}", libc::ENOMSG));
    check_eq!(take(0, 0), "9 nine");
    let s = stat(id);
    check_eq!((s.qnum, s.cbytes, s.lrpid), (0, 0, std::process::id() as i32));
    check!(s.rtime > 0);
    check_eq!(err(msgsnd(id, 0, b"x", 0)), libc::EINVAL);
    check_eq!(err(msgsnd(id, -1, b"x", 0)), libc::EINVAL);
    check_eq!(err(msgsnd(id, 1, &[0; 8193], 0)), libc::EINVAL);
    check_eq!(err(msgsnd(-1, 1, b"x", 0)), libc::EINVAL);
    remove(id);
}

fn long_messages_are_refused_or_cut() {
    let id = ok(msgget(PRIVATE, 0o600));
    ok(msgsnd(id, 1, b"abcdef", 0));
    check_eq!(msgrcv(id, 3, 0, NOWAIT), Err(libc::E2BIG));
    check_eq!(stat(id).qnum, 1);
    check_eq!(msgrcv(id, 3, 0, NOWAIT | COPY), Err(libc::E2BIG));
    check_eq!(text(msgrcv(id, 3, 0, NOWAIT | NOERROR)), "1 abc");
    check_eq!(stat(id).qnum, 0);
    ok(msgsnd(id, 4, b"", 0));
    check_eq!(text(msgrcv(id, 0, 0, 0)), "4 ");
    // SAFETY: bad addresses on purpose.
    unsafe {
        check_eq!(err(libc::syscall(libc::SYS_msgsnd, id, 8, 1, 0)), libc::EFAULT);
        check_eq!(err(libc::syscall(libc::SYS_msgrcv, id, 0, -1_i64, 0, 0)), libc::EINVAL);
    }
    remove(id);
}

fn a_full_queue_holds_senders_up() {
    let id = ok(msgget(PRIVATE, 0o600));
    let mut new = stat(id);
    new.qbytes = 10;
    ok(msgctl(id, SET, &mut new));
    ok(msgsnd(id, 1, &[0; 6], NOWAIT));
    check_eq!(err(msgsnd(id, 1, &[0; 5], NOWAIT)), libc::EAGAIN);
    ok(msgsnd(id, 1, &[0; 4], NOWAIT));
    let sender = child(|| {
        ok(msgsnd(id, 2, b"late", 0));
        0
    });
    std::thread::sleep(std::time::Duration::from_millis(30));
    check_eq!(stat(id).qnum, 2);
    check_eq!(msgrcv(id, 10, 1, 0).unwrap().1.len(), 6);
    wait_ok(sender);
    check_eq!(text(msgrcv(id, 10, 2, 0)), "2 late");
    // Raising the limit makes room too.
    ok(msgsnd(id, 1, &[0; 6], NOWAIT));
    let sender = child(|| {
        ok(msgsnd(id, 3, b"seven77", 0));
        0
    });
    std::thread::sleep(std::time::Duration::from_millis(30));
    new.qbytes = 1000;
    ok(msgctl(id, SET, &mut new));
    wait_ok(sender);
    // Messages without text have their limit as well.
    new.qbytes = 2;
    ok(msgctl(id, SET, &mut new));
    while msgrcv(id, 100, 0, NOWAIT).is_ok() {}
    ok(msgsnd(id, 1, b"", NOWAIT));
    ok(msgsnd(id, 1, b"", NOWAIT));
    check_eq!(err(msgsnd(id, 1, b"", NOWAIT)), libc::EAGAIN);
    remove(id);
}

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t) {}

fn receivers_sleep_until_their_message_comes() {
    let id = ok(msgget(PRIVATE, 0o600));
    let receiver = |kind: i64, flags: i32, want: &'static str| {
        child(move || {
            check_eq!(text(msgrcv(id, 4, kind, flags)), want);
            0
        })
    };
    let two = receiver(2, 0, "2 two");
    let not_three = receiver(3, EXCEPT, "5 five");
    std::thread::sleep(std::time::Duration::from_millis(50));
    ok(msgsnd(id, 3, b"tre", 0));
    check_eq!(stat(id).qnum, 1);
    ok(msgsnd(id, 5, b"five", 0));
    wait_ok(not_three);
    ok(msgsnd(id, 2, b"two", 0));
    wait_ok(two);
    check_eq!(stat(id).qnum, 1);
    check_eq!(text(msgrcv(id, 9, 0, 0)), "3 tre");
    // Too long for one who waits.
    let short = child(|| {
        check_eq!(msgrcv(id, 1, 0, 0), Err(libc::E2BIG));
        0
    });
    std::thread::sleep(std::time::Duration::from_millis(30));
    ok(msgsnd(id, 1, b"long", 0));
    wait_ok(short);
    check_eq!(text(msgrcv(id, 9, 0, NOWAIT)), "1 long");

    let interrupted = child(|| {
        handle(libc::SIGUSR1, libc::SA_RESTART, nothing);
        check_eq!(msgrcv(id, 4, 0, 0), Err(libc::EINTR));
        0
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    // SAFETY: signals a child.
    ok(unsafe { libc::kill(interrupted, libc::SIGUSR1) });
    wait_ok(interrupted);
    let told = child(|| {
        check_eq!(msgrcv(id, 4, 0, 0), Err(libc::EIDRM));
        0
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    remove(id);
    wait_ok(told);
}

fn permissions_are_to_send_and_to_receive() {
    let id = ok(msgget(PRIVATE, 0o602));
    ok(msgsnd(id, 1, b"secret", 0));
    wait_ok(child(|| {
        become_user(1000);
        ok(msgsnd(id, 1, b"hello", 0));
        check_eq!(msgrcv(id, 10, 0, NOWAIT), Err(libc::EACCES));
        check_eq!(err(msgctl(id, STAT, &mut Msq::default())), libc::EACCES);
        check_eq!(err(msgctl(id, RMID, &mut Msq::default())), libc::EPERM);
        0
    }));
    let mut new = stat(id);
    (new.perm.uid, new.perm.mode) = (1000, 0o600);
    ok(msgctl(id, SET, &mut new));
    wait_ok(child(|| {
        become_user(1000);
        let mut new = stat(id);
        new.qbytes = 16385;
        check_eq!(err(msgctl(id, SET, &mut new)), libc::EPERM);
        new.qbytes = 16384;
        ok(msgctl(id, SET, &mut new));
        remove(id);
        0
    }));
}

fn information_tells_limits_and_use() {
    let info = |cmd| {
        let mut info = [0_i32; 8];
        let highest = ok(msgctl(0, cmd, &mut info));
        (info, highest)
    };
    let ([pool, map, max, mnb, mni, ssz, tql, seg], _) = info(INFO);
    check_eq!((pool, map, max, mnb, mni), (512_000, 16384, 8192, 16384, 32000));
    check_eq!((ssz, tql, seg & 0xffff), (16, 16384, 0xffff));
    let (before, _) = info(12);
    let id = ok(msgget(PRIVATE, 0o644));
    ok(msgsnd(id, 1, b"12345", 0));
    let (after, highest) = info(12);
    check_eq!((after[0], after[1], after[6]), (before[0] + 1, before[1] + 1, before[6] + 5));
    check!((0..=highest).any(|i| msgctl(i, 11, &mut Msq::default()) == id));
    check!((0..=highest).any(|i| msgctl(i, 13, &mut Msq::default()) == id));
    let table = std::fs::read_to_string("/proc/sysvipc/msg").unwrap();
    let line = table.lines().find(|l| l.split_whitespace().nth(1) == Some(&id.to_string()));
    let words: Vec<&str> = line.unwrap().split_whitespace().collect();
    check_eq!((words[2], words[3], words[4], words.len()), ("644", "5", "1", 14));
    remove(id);
    let set = |name: &str, value: &str| {
        std::fs::write(format!("/proc/sys/kernel/{name}"), value).unwrap();
    };
    set("msgmax", "4");
    set("msgmnb", "5");
    let id = ok(msgget(PRIVATE, 0o644));
    check_eq!(stat(id).qbytes, 5);
    check_eq!(err(msgsnd(id, 1, b"12345", 0)), libc::EINVAL);
    remove(id);
    set("msgmax", "8192");
    set("msgmnb", "16384");
}

fn main() {
    get_finds_by_key();
    messages_are_chosen_by_type();
    long_messages_are_refused_or_cut();
    a_full_queue_holds_senders_up();
    receivers_sleep_until_their_message_comes();
    permissions_are_to_send_and_to_receive();
    information_tells_limits_and_use();
}

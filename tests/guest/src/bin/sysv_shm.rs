//! System V shared memory: shmget(2), shmat(2), shmdt(2), shmctl(2), and what /proc shows of it.

use belljar_guest_tests::sysv::*;
use belljar_guest_tests::*;

const RDONLY: i32 = 0o10000;
const RND: i32 = 0o20000;
const REMAP: i32 = 0o40000;
const EXEC: i32 = 0o100000;
const DEST: u32 = 0o1000;
const LOCKED: u32 = 0o2000;

fn at(addr: i64, i: usize) -> *mut u8 {
    (addr as usize + i) as *mut u8
}

fn peek(addr: i64, i: usize) -> u8 {
    // SAFETY: tests look at attached segments only.
    unsafe { at(addr, i).read_volatile() }
}

fn poke(addr: i64, i: usize, byte: u8) {
    // SAFETY: as above.
    unsafe { at(addr, i).write_volatile(byte) }
}

fn none() -> *mut u8 {
    std::ptr::null_mut()
}

fn remove(id: i64) {
    ok(shmctl(id, RMID, none()));
}

fn get_finds_by_key_and_refuses_what_does_not_fit() {
    const KEY: i32 = 0x1234;
    check_eq!(err(shmget(KEY, 100, 0o600)), libc::ENOENT);
    check_eq!(err(shmget(KEY, 0, CREAT | 0o600)), libc::EINVAL);
    let id = ok(shmget(KEY, 5000, CREAT | 0o640));
    check_eq!(shmget(KEY, 5000, 0), id);
    check_eq!(shmget(KEY, 0, CREAT), id);
    check_eq!(err(shmget(KEY, 5001, 0)), libc::EINVAL);
    check_eq!(err(shmget(KEY, 1, CREAT | EXCL)), libc::EEXIST);
    let stat = shmstat(id);
    check_eq!((stat.perm.key, stat.perm.mode, stat.segsz), (KEY, 0o640, 5000));
    check_eq!((stat.nattch, stat.lpid, stat.atime, stat.dtime), (0, 0, 0, 0));
    check_eq!(stat.cpid, std::process::id() as i32);
    check!(stat.ctime > 0);
    remove(id);
    check_eq!(err(shmctl(id, STAT, &mut Shm::default())), libc::EINVAL);
    check_eq!(err(shmget(KEY, 0, 0)), libc::ENOENT);
    let (one, two) = (ok(shmget(PRIVATE, 1, 0)), ok(shmget(PRIVATE, 1, 0)));
    check!(one != two);
    remove(one);
    remove(two);
    check_eq!(err(shmctl(-1, STAT, none())), libc::EINVAL);
    check_eq!(err(shmctl(one, 99, none())), libc::EINVAL);
}

fn attachments_share_the_memory_with_children_and_each_other() {
    let id = ok(shmget(PRIVATE, 3 * 4096, 0o600));
    let one = ok(shmat(id, 0, 0));
    let two = ok(shmat(id, 0, 0));
    check!(one != two);
    check_eq!(peek(one, 8192), 0);
    poke(one, 8192, 7);
    check_eq!(peek(two, 8192), 7);
    check_eq!(shmstat(id).nattch, 2);
    wait_ok(child(|| {
        check_eq!(shmstat(id).nattch, 4);
        poke(two, 0, 9);
        ok(shmdt(two));
        let stat = shmstat(id);
        check_eq!((stat.nattch, stat.lpid), (3, std::process::id() as i32));
        check!(stat.dtime > 0);
        0
    }));
    check_eq!(peek(one, 0), 9);
    let stat = shmstat(id);
    check_eq!(stat.nattch, 2);
    check!(stat.lpid != std::process::id() as i32 && stat.atime > 0);
    check_eq!(err(shmdt(two + 4096)), libc::EINVAL);
    check_eq!(err(shmdt(two + 1)), libc::EINVAL);
    ok(shmdt(two));
    check_eq!(err(shmdt(two)), libc::EINVAL);
    // A part that was unmapped counts no more, what is left is still found by where it began.
    // SAFETY: unmaps a page of the segment.
    unsafe { ok(libc::munmap(at(one, 4096).cast(), 4096)) };
    check_eq!(shmstat(id).nattch, 2);
    ok(shmdt(one));
    check_eq!(shmstat(id).nattch, 0);
    // The memory stays while the segment does.
    let again = ok(shmat(id, 0, RDONLY));
    check_eq!(peek(again, 0), 9);
    remove(id);
    ok(shmdt(again));
}

fn a_removed_segment_stays_until_the_last_detaches() {
    let id = ok(shmget(77, 4096, CREAT | 0o600));
    let addr = ok(shmat(id, 0, 0));
    remove(id);
    let stat = shmstat(id);
    check_eq!((stat.perm.key, stat.perm.mode & DEST, stat.nattch), (PRIVATE, DEST, 1));
    check_eq!(err(shmget(77, 0, 0)), libc::ENOENT);
    let more = ok(shmat(id, 0, 0));
    poke(addr, 1, 5);
    check_eq!(peek(more, 1), 5);
    ok(shmdt(more));
    check_eq!(shmstat(id).nattch, 1);
    // The end of a process detaches as well.
    wait_ok(child(|| {
        check_eq!(shmstat(id).nattch, 2);
        0
    }));
    ok(shmdt(addr));
    check_eq!(err(shmctl(id, STAT, &mut Shm::default())), libc::EINVAL);
    check_eq!(err(shmat(id, 0, 0)), libc::EINVAL);
}

fn attaching_obeys_address_and_rights() {
    let id = ok(shmget(PRIVATE, 2 * 4096, 0o700));
    let room = map(16 * 4096, libc::PROT_NONE, libc::MAP_PRIVATE) as usize;
    // SAFETY: frees most of the room just made.
    unsafe { ok(libc::munmap((room + 4096) as *mut _, 14 * 4096)) };
    check_eq!(err(shmat(id, room + 4096 + 1, 0)), libc::EINVAL);
    check_eq!(ok(shmat(id, room + 4096 + 1, RND)), (room + 4096) as i64);
    check_eq!(err(shmat(id, room + 2 * 4096, 0)), libc::EINVAL);
    check_eq!(err(shmat(id, 0, REMAP)), libc::EINVAL);
    check_eq!(ok(shmat(id, room + 2 * 4096, REMAP)), (room + 2 * 4096) as i64);
    check_eq!(shmstat(id).nattch, 2);
    poke((room + 2 * 4096) as i64, 0, 3);
    check_eq!(peek((room + 4096) as i64, 0), 3);
    ok(shmdt((room + 2 * 4096) as i64));
    ok(shmdt((room + 4096) as i64));

    let read_only = ok(shmat(id, 0, RDONLY));
    let status = in_child(|| {
        poke(read_only, 0, 1);
        0
    });
    check_eq!(status & 0x7f, libc::SIGSEGV);
    // SAFETY: changes rights of the segment's mapping.
    let more = unsafe {
        libc::mprotect(at(read_only, 0).cast(), 4096, libc::PROT_READ | libc::PROT_WRITE)
    };
    check_eq!(err(more), libc::EACCES);
    ok(shmdt(read_only));
    let exec = ok(shmat(id, 0, EXEC));
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|l| l.starts_with(&format!("{exec:x}-"))).unwrap();
    check!(line.contains(" rwxs "), "{line}");
    check!(line.ends_with("/SYSV00000000 (deleted)"), "{line}");
    check!(line.contains(&format!(" {id} ")), "{line}");
    ok(shmdt(exec));
    check_eq!(err(shmat(-1, 0, 0)), libc::EINVAL);
    remove(id);
}

fn permissions_are_those_of_owner_group_and_others() {
    let id = ok(shmget(99, 4096, CREAT | 0o604));
    wait_ok(child(|| {
        become_user(1000);
        check_eq!(err(shmget(99, 0, 0o600)), libc::EACCES);
        check_eq!(shmget(99, 0, 0o400), id);
        check_eq!(err(shmat(id, 0, 0)), libc::EACCES);
        let addr = ok(shmat(id, 0, RDONLY));
        ok(shmdt(addr));
        check_eq!(err(shmctl(id, RMID, none())), libc::EPERM);
        check_eq!(err(shmctl(id, SET, &mut shmstat(id))), libc::EPERM);
        check_eq!(err(shmctl(id, 11, none())), libc::EPERM);
        0
    }));
    let mut stat = shmstat(id);
    (stat.perm.uid, stat.perm.mode) = (1000, 0o200);
    ok(shmctl(id, SET, &mut stat));
    wait_ok(child(|| {
        become_user(1000);
        check_eq!(err(shmctl(id, STAT, &mut Shm::default())), libc::EACCES);
        check_eq!(err(shmat(id, 0, RDONLY)), libc::EACCES);
        stat.perm.mode = 0o666;
        ok(shmctl(id, SET, &mut stat));
        let stat = shmstat(id);
        check_eq!((stat.perm.uid, stat.perm.cuid, stat.perm.mode), (1000, 0, 0o666));
        // The owner may remove it.
        remove(id);
        0
    }));
    check_eq!(err(shmctl(id, SET, std::ptr::null_mut::<Shm>())), libc::EFAULT);
}

fn locking_shows_in_the_mode() {
    let id = ok(shmget(PRIVATE, 4096, 0o600));
    ok(shmctl(id, 11, none()));
    check_eq!(shmstat(id).perm.mode, LOCKED | 0o600);
    ok(shmctl(id, 12, none()));
    check_eq!(shmstat(id).perm.mode, 0o600);
    remove(id);
}

fn information_counts_segments_and_pages() {
    let mut info = [0_u64; 9];
    ok(shmctl(0, INFO, &mut info));
    let [shmmax, shmmin, shmmni, _, shmall, ..] = info;
    check_eq!((shmmin, shmmni), (1, 4096));
    check_eq!((shmmax, shmall), (u64::MAX - (1 << 24), u64::MAX - (1 << 24)));
    let used = |index: usize| {
        let mut info = [0_u64; 6];
        ok(shmctl(0, 14, &mut info));
        info[index]
    };
    let before = (used(0), used(1), used(2));
    let id = ok(shmget(PRIVATE, 10 * 4096, 0o600));
    let addr = ok(shmat(id, 0, 0));
    poke(addr, 0, 1);
    poke(addr, 4096, 1);
    check_eq!((used(0), used(1), used(2)), (before.0 + 1, before.1 + 10, before.2 + 2));
    // By their place in the table.
    let highest = ok(shmctl(0, 14, &mut [0_u64; 6]));
    let found = (0..=highest).any(|i| shmctl(i, 13, &mut Shm::default()) == id);
    check!(found);
    check!((0..=highest).any(|i| shmctl(i, 15, &mut Shm::default()) == id));
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let line = table.lines().find(|l| l.split_whitespace().nth(1) == Some(&id.to_string()));
    let words: Vec<&str> = line.unwrap().split_whitespace().collect();
    check_eq!((words[2], words[3], words[6]), ("600", "40960", "1"));
    check_eq!(words[14], "8192");
    check_eq!(words.len(), 16);
    ok(shmdt(addr));
    remove(id);
    check_eq!(used(1), before.1);
}

fn limits_hold() {
    let set = |name: &str, value: &str| {
        std::fs::write(format!("/proc/sys/kernel/{name}"), value).unwrap();
    };
    let get = |name: &str| {
        std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap().trim().to_owned()
    };
    let (max, all, mni) = (get("shmmax"), get("shmall"), get("shmmni"));
    set("shmmax", "8192");
    check_eq!(err(shmget(PRIVATE, 8193, 0)), libc::EINVAL);
    remove(ok(shmget(PRIVATE, 8192, 0)));
    set("shmmax", &max);
    set("shmall", "3");
    check_eq!(err(shmget(PRIVATE, 4 * 4096, 0)), libc::ENOSPC);
    remove(ok(shmget(PRIVATE, 3 * 4096, 0)));
    set("shmall", &all);
    set("shmmni", "1");
    let id = ok(shmget(PRIVATE, 1, 0));
    check_eq!(err(shmget(PRIVATE, 1, 0)), libc::ENOSPC);
    remove(id);
    set("shmmni", &mni);
}

fn with_rmid_forced_unused_segments_go_with_their_maker() {
    let set = |value: &str| std::fs::write("/proc/sys/kernel/shm_rmid_forced", value).unwrap();
    let old = ok(shmget(PRIVATE, 1, 0o600));
    let kept = std::cell::Cell::new(0);
    set("1");
    let (r, w) = std::io::pipe().unwrap();
    wait_ok(child(|| {
        use std::io::Write;
        let id = ok(shmget(PRIVATE, 4096, 0o666));
        (&w).write_all(&id.to_ne_bytes()).unwrap();
        0
    }));
    let mut bytes = [0; 8];
    std::io::Read::read_exact(&mut &r, &mut bytes).unwrap();
    kept.set(i64::from_ne_bytes(bytes));
    check_eq!(err(shmctl(kept.get(), STAT, &mut Shm::default())), libc::EINVAL);
    // Its maker lives: it goes with the last attachment all the same.
    let addr = ok(shmat(old, 0, 0));
    ok(shmdt(addr));
    check_eq!(err(shmctl(old, STAT, &mut Shm::default())), libc::EINVAL);
    set("0");
}

fn main() {
    // Whatever other programs have left behind is not counted here.
    // SAFETY: a plain call.
    ok(unsafe { libc::unshare(libc::CLONE_NEWIPC) });
    get_finds_by_key_and_refuses_what_does_not_fit();
    attachments_share_the_memory_with_children_and_each_other();
    a_removed_segment_stays_until_the_last_detaches();
    attaching_obeys_address_and_rights();
    permissions_are_those_of_owner_group_and_others();
    locking_shows_in_the_mode();
    information_counts_segments_and_pages();
    limits_hold();
    with_rmid_forced_unused_segments_go_with_their_maker();
}

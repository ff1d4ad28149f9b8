//! The memory controller (cgroup-v2.rst, "Memory"): what is charged and where, limits, a kill inside
//! the group when it is full, and of the whole group where that is wished; `memory.high` slows down.
//!
//! PROCESS_MODEL.md, Namespaces: cgroup (v2: memory).

use belljar_guest_tests::cgroups::*;
use belljar_guest_tests::*;

const MIB: usize = 1 << 20;
const SIZE: usize = 8 * MIB;
/// What Linux charges besides: page tables, stacks, caches that it fills in advance.
const SLACK: u64 = 4 << 20;

fn touch(len: usize) -> *mut u8 {
    let memory = map(len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    for at in (0..len).step_by(4096) {
        // SAFETY: inside of the mapping.
        unsafe { memory.add(at).write_volatile(1) };
    }
    memory
}

fn number(group: &Group, file: &str) -> u64 {
    group.get(file).parse().unwrap()
}

fn pages_count_while_they_are_there() {
    let outer = Group::new("memory", "memory");
    let inner = outer.child("inner");
    outer.set("cgroup.subtree_control", "+memory");
    wait_ok(child(|| {
        inner.set("cgroup.procs", "0");
        let memory = touch(SIZE);
        for group in [&outer, &inner] {
            let current = number(group, "memory.current");
            check!((SIZE as u64..SIZE as u64 + SLACK).contains(&current), "{current}");
            check!(group.value("memory.stat", "anon") >= SIZE as u64);
        }
        // A child shares the pages: they are charged once.
        wait_ok(child(|| {
            check!(number(&inner, "memory.current") < SIZE as u64 + SLACK);
            // Its copies are its own.
            for at in (0..SIZE).step_by(4096) {
                // SAFETY: inside of the mapping.
                unsafe { memory.add(at).write_volatile(2) };
            }
            check!(number(&inner, "memory.current") >= 2 * SIZE as u64);
            0
        }));
        // SAFETY: the mapping made above.
        ok(unsafe { libc::munmap(memory.cast(), SIZE) });
        check!(number(&inner, "memory.current") < SLACK);
        check!(inner.value("memory.stat", "anon") < SLACK);
        0
    }));
    check!(number(&outer, "memory.current") < SLACK);
    if outer.file("memory.peak").exists() {
        check!(number(&outer, "memory.peak") >= 2 * SIZE as u64);
    }
}

fn files_in_memory_count_for_who_made_them() {
    let (one, two) = (Group::new("one", "memory"), Group::new("two", "memory"));
    // SAFETY: a name without a path.
    let fd = ok(unsafe { libc::memfd_create(c"test".as_ptr(), 0) });
    let write = |group: &Group| {
        wait_ok(child(|| {
            group.set("cgroup.procs", "0");
            let bytes = vec![1_u8; 65536];
            for at in (0..SIZE).step_by(bytes.len()) {
                // SAFETY: the buffer is valid.
                let n = unsafe {
                    libc::pwrite(fd, bytes.as_ptr().cast(), bytes.len(), at as libc::off_t)
                };
                check_eq!(n, bytes.len() as isize);
            }
            0
        }));
    };
    write(&one);
    check!(one.value("memory.stat", "shmem") >= SIZE as u64);
    write(&two);
    check!(two.value("memory.stat", "shmem") < SLACK);
    // They stay after their maker, and their group; they go with the file.
    check!(number(&one, "memory.current") >= SIZE as u64);
    // SAFETY: opened above.
    ok(unsafe { libc::close(fd) });
    check!(number(&one, "memory.current") < SLACK);
    // SAFETY: as above.
    let fd = ok(unsafe { libc::memfd_create(c"test".as_ptr(), 0) });
    wait_ok(child(|| {
        one.set("cgroup.procs", "0");
        // SAFETY: a file of zeros that is mapped and touched.
        unsafe {
            ok(libc::ftruncate(fd, SIZE as libc::off_t));
            let p = libc::mmap(
                std::ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd,
                0,
            );
            check!(p != libc::MAP_FAILED);
            for at in (0..SIZE).step_by(4096) {
                p.cast::<u8>().add(at).write_volatile(1);
            }
        }
        check!(one.value("memory.stat", "file") >= SIZE as u64);
        0
    }));
    drop(one);
    // SAFETY: opened above.
    ok(unsafe { libc::close(fd) });
}

fn settings() {
    let group = Group::new("settings", "memory");
    check_eq!(group.get("memory.max"), "max");
    check_eq!(group.get("memory.high"), "max");
    check_eq!(group.get("memory.oom.group"), "0");
    group.set("memory.max", "16M");
    check_eq!(number(&group, "memory.max"), 16 << 20);
    group.set("memory.max", "10000");
    check_eq!(number(&group, "memory.max"), 8192);
    group.set("memory.max", "max");
    // What is kept for it.
    for file in ["memory.min", "memory.low"] {
        check_eq!(group.get(file), "0", "{file}");
        group.set(file, "1M");
        check_eq!(number(&group, file), MIB as u64);
        group.set(file, "max");
        check_eq!(group.get(file), "max");
    }
    for file in ["memory.max", "memory.low"] {
        for bad in ["x", "-1", "1X"] {
            check_eq!(group.put(file, bad), libc::EINVAL, "{file} {bad}");
        }
    }
    check_eq!(group.put("memory.oom.group", "2"), libc::EINVAL);
    check_eq!(group.put("memory.current", "0"), libc::EINVAL);
    for event in ["low", "high", "max", "oom", "oom_kill"] {
        check_eq!(group.value("memory.events", event), 0);
    }
    check!(!root().join("memory.current").exists());
}

fn a_full_group_kills_inside() {
    let outer = Group::new("full", "memory");
    let inner = outer.child("inner");
    outer.set("cgroup.subtree_control", "+memory");
    let bystander = Idle::new(|| 0);
    outer.set("memory.max", "8M");
    let mut eater = Idle::new(|| {
        touch(64 * MIB);
        0
    });
    inner.take(eater.pid);
    eater.go();
    check_eq!(wait(eater.pid) & 0x7f, libc::SIGKILL);
    check!(outer.value("memory.events", "max") > 0);
    check!(outer.value("memory.events", "oom") > 0);
    check_eq!(inner.value("memory.events", "oom_kill"), 1);
    check_eq!(outer.value("memory.events", "oom_kill"), 1);
    check_eq!(outer.value("memory.events.local", "oom_kill"), 0);
    // A limit below what is in use kills as well.
    outer.set("memory.max", "max");
    let mut holder = Idle::new(|| {
        touch(SIZE);
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    });
    inner.take(holder.pid);
    holder.go();
    while number(&inner, "memory.current") < SIZE as u64 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    outer.set("memory.max", "1M");
    check_eq!(wait(holder.pid) & 0x7f, libc::SIGKILL);
    // Who is outside lives on.
    check_eq!(bystander.finish(), 0);
}

fn a_group_goes_as_a_whole() {
    let group = Group::new("whole", "memory");
    group.set("memory.oom.group", "1");
    group.set("memory.max", "8M");
    let other = Idle::new(|| 0);
    let mut eater = Idle::new(|| {
        touch(64 * MIB);
        0
    });
    group.take(other.pid);
    group.take(eater.pid);
    eater.go();
    check_eq!(wait(eater.pid) & 0x7f, libc::SIGKILL);
    check_eq!(wait(other.pid) & 0x7f, libc::SIGKILL);
    // Linux counts who was chosen first once more.
    check!(group.value("memory.events", "oom_kill") >= 2);
}

fn a_full_group_makes_calls_kill_too() {
    let group = Group::new("calls", "memory");
    group.set("memory.max", "4M");
    let mut eater = Idle::new(|| {
        // SAFETY: a file in memory; the buffer is valid.
        unsafe {
            let fd = ok(libc::memfd_create(c"test".as_ptr(), 0));
            let bytes = vec![1_u8; 65536];
            for _ in 0..64 * MIB / bytes.len() {
                libc::write(fd, bytes.as_ptr().cast(), bytes.len());
            }
        }
        0
    });
    group.take(eater.pid);
    eater.go();
    check_eq!(wait(eater.pid) & 0x7f, libc::SIGKILL);
    check_eq!(group.value("memory.events", "oom_kill"), 1);
}

fn above_high_is_slow_but_lives() {
    let group = Group::new("high", "memory");
    group.set("memory.high", "8M");
    let mut eater = Idle::new(|| {
        touch(9 * MIB);
        0
    });
    group.take(eater.pid);
    eater.go();
    check_eq!(wait(eater.pid), 0);
    check!(group.value("memory.events", "high") > 0);
    check_eq!(group.value("memory.events", "oom_kill"), 0);
}

fn main() {
    settings();
    pages_count_while_they_are_there();
    files_in_memory_count_for_who_made_them();
    a_full_group_kills_inside();
    a_group_goes_as_a_whole();
    a_full_group_makes_calls_kill_too();
    above_high_is_slow_but_lives();
}

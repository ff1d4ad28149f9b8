//! fork(2): private memory is copied on write in both directions, shared memory is not; nested forks
//! and many children keep their own values.
use belljar_guest_tests::{check_eq, child, map, wait_ok};

const PAGES: usize = 64;

fn main() {
    let private = map(PAGES * 4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    let shared = map(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED).cast::<u64>();
    let page = |i: usize| private.wrapping_add(i * 4096).cast::<u64>();
    // SAFETY: all pointers lie in the mappings above.
    unsafe {
        for i in 0..PAGES {
            page(i).write_volatile(i as u64);
        }
        let pid = child(|| {
            for i in 0..PAGES {
                check_eq!(page(i).read_volatile(), i as u64);
                page(i).write_volatile(1000 + i as u64);
            }
            shared.write_volatile(7);
            let grandchild = child(|| {
                check_eq!(page(3).read_volatile(), 1003);
                page(3).write_volatile(9);
                0
            });
            wait_ok(grandchild);
            check_eq!(page(3).read_volatile(), 1003);
            0
        });
        for i in (0..PAGES).step_by(2) {
            page(i).write_volatile(2000 + i as u64);
        }
        wait_ok(pid);
        for i in 0..PAGES {
            check_eq!(page(i).read_volatile(), if i % 2 == 0 { 2000 + i as u64 } else { i as u64 });
        }
        check_eq!(shared.read_volatile(), 7);

        let pids: Vec<i32> = (0..64_u64)
            .map(|n| {
                page(0).write_volatile(n);
                child(|| {
                    check_eq!(page(0).read_volatile(), n);
                    page(1).write_volatile(n);
                    check_eq!(page(1).read_volatile(), n);
                    0
                })
            })
            .collect();
        pids.into_iter().for_each(wait_ok);
        check_eq!(page(1).read_volatile(), 1);
    }
}

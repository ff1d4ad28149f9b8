//! remap_file_pages(2): pages of an object in another order, in a part of its shared mapping.

use std::fs;
use std::ptr::null_mut;

use belljar_guest_tests::{check, check_eq, err, map, ok};
use libc::{EINVAL, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE};

const PAGE: usize = 4096;
const PAGES: usize = 8;

fn remap(start: *mut u8, len: usize, prot: i32, pgoff: usize) -> i64 {
    // SAFETY: what it replaces is the caller's.
    unsafe { libc::syscall(libc::SYS_remap_file_pages, start, len, prot, pgoff, 0) }
}

/// The first byte of each page.
fn first_bytes(memory: *mut u8) -> [u8; PAGES] {
    // SAFETY: inside of the mapping.
    std::array::from_fn(|page| unsafe { memory.add(page * PAGE).read_volatile() })
}

/// Numbers the pages from 1 on.
fn number(memory: *mut u8) {
    for page in 0..PAGES {
        // SAFETY: inside of the mapping.
        unsafe { memory.add(page * PAGE).write_volatile(page as u8 + 1) };
    }
}

fn at(memory: *mut u8, page: usize) -> *mut u8 {
    memory.wrapping_add(page * PAGE)
}

fn pages_change_places(memory: *mut u8) {
    number(memory);
    check_eq!(first_bytes(memory), [1, 2, 3, 4, 5, 6, 7, 8]);
    // Sizes and places are rounded down.
    check_eq!(ok(remap(at(memory, 2).wrapping_add(7), 2 * PAGE + 5, 0, 6)), 0);
    check_eq!(first_bytes(memory), [1, 2, 7, 8, 5, 6, 7, 8]);
    check_eq!(ok(remap(at(memory, 7), PAGE, 0, 0)), 0);
    check_eq!(first_bytes(memory), [1, 2, 7, 8, 5, 6, 7, 1]);
    // One page in two places is one page.
    // SAFETY: inside of the mapping.
    unsafe { at(memory, 2).write_volatile(77) };
    check_eq!(first_bytes(memory), [1, 2, 77, 8, 5, 6, 77, 1]);
    // Over ranges that were made so, and back to where all began.
    check_eq!(ok(remap(at(memory, 1), 7 * PAGE, 0, 1)), 0);
    check_eq!(first_bytes(memory), [1, 2, 3, 4, 5, 6, 77, 8]);
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let whole = format!("{:x}-{:x} ", memory as usize, memory as usize + PAGES * PAGE);
    check!(maps.lines().any(|line| line.starts_with(&whole)), "{whole} in {maps}");
}

fn wrong_requests_change_nothing(memory: *mut u8) {
    number(memory);
    for (start, len, prot, pgoff) in [
        (memory, PAGE, PROT_READ, 1),
        (memory, 0, 0, 1),
        (memory, PAGE - 1, 0, 1),
        (memory, usize::MAX & !(PAGE - 1), 0, 1),
        (memory, PAGE, 0, usize::MAX),
        // Beyond its end.
        (at(memory, 1), PAGES * PAGE, 0, 0),
        // Nothing is there.
        (null_mut(), PAGE, 0, 0),
    ] {
        check_eq!(err(remap(start, len, prot, pgoff)), EINVAL, "{start:?} {len} {prot} {pgoff}");
    }
    check_eq!(first_bytes(memory), [1, 2, 3, 4, 5, 6, 7, 8]);
    let private = map(PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    check_eq!(err(remap(private, PAGE, 0, 1)), EINVAL);
}

fn main() {
    let access = PROT_READ | PROT_WRITE;
    let anonymous = map(PAGES * PAGE, access, MAP_SHARED);
    pages_change_places(anonymous);
    wrong_requests_change_nothing(map(PAGES * PAGE, access, MAP_SHARED));
    // SAFETY: a name without a path, and a new mapping of what it is.
    let file = unsafe {
        let fd = ok(libc::memfd_create(c"pages".as_ptr(), 0));
        ok(libc::ftruncate(fd, (PAGES * PAGE) as i64));
        libc::mmap(null_mut(), PAGES * PAGE, access, MAP_SHARED, fd, 0).cast()
    };
    pages_change_places(file);
    // Rights stay as they are.
    // SAFETY: the mapping made above.
    ok(unsafe { libc::mprotect(file.cast(), PAGES * PAGE, PROT_READ) });
    check_eq!(ok(remap(file, PAGE, 0, 3)), 0);
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let part = format!("{:x}-{:x} r--s 00003000 ", file as usize, file as usize + PAGE);
    check!(maps.lines().any(|line| line.starts_with(&part)), "{part} in {maps}");
}

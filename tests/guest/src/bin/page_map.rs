//! /proc/PID/pagemap: what is present, which frame it has, and whether another address space has it, too: copy-on-write
//! as a program sees it.
//!
//! PROCESS_MODEL.md, Creating, running, ending: COW.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use belljar_guest_tests::{check, check_eq, child, map, ok, wait_ok};
use libc::{EACCES, EINVAL, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE};

const PAGE: usize = 4096;
const EXCLUSIVE: u64 = 1 << 56;
const FILE: u64 = 1 << 61;
const PRESENT: u64 = 1 << 63;
/// What this test does not look at: whether a page changed since somebody asked for that, and how it was made so.
const LOOKED_AT: u64 = !(1 << 55 | 1 << 57);

struct Words(File);

impl Words {
    fn of(pid: i32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/pagemap")).map(Self)
    }

    /// The words of `N` pages from `address` on.
    fn read<const N: usize>(&self, address: *mut u8) -> [u64; N] {
        let mut bytes = vec![0; N * 8];
        let place = (address as usize / PAGE * 8) as u64;
        check_eq!(self.0.read_at(&mut bytes, place).unwrap(), N * 8);
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap()) & LOOKED_AT;
        let words: Vec<u64> = bytes.chunks(8).map(word).collect();
        words.try_into().unwrap()
    }
}

fn own() -> Words {
    // SAFETY: plain calls, here and below.
    Words::of(unsafe { libc::getpid() }).unwrap()
}

fn frame(word: u64) -> u64 {
    word & ((1 << 55) - 1)
}

/// What a word says beside the frame.
fn kind(word: u64) -> u64 {
    word & !((1 << 55) - 1)
}

fn touch(page: *mut u8) {
    // SAFETY: the page is the caller's.
    unsafe { page.write_volatile(1) };
}

fn look_at(page: *mut u8) {
    // SAFETY: see above.
    unsafe { page.read_volatile() };
}

fn pages_come_when_they_are_touched() {
    let memory = map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    let page = |n: usize| memory.wrapping_add(n * PAGE);
    check_eq!(own().read::<4>(memory), [0; 4]);
    touch(page(1));
    look_at(page(2));
    let [untouched, written, read, last] = own().read::<4>(memory);
    check_eq!((untouched, last), (0, 0));
    check_eq!(kind(written), PRESENT | EXCLUSIVE);
    check!(frame(written) != 0);
    // The page of zeros is nobody's.
    check_eq!(kind(read), PRESENT);
    let other = map(PAGE, PROT_READ, MAP_PRIVATE);
    look_at(other);
    check_eq!(own().read::<1>(other), [read]);
    // SAFETY: the mapping made above.
    ok(unsafe { libc::madvise(page(1).cast(), PAGE, libc::MADV_DONTNEED) });
    check_eq!(own().read::<4>(memory), [0, 0, read, 0]);
}

fn a_page_has_one_frame_until_somebody_writes() {
    let memory = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    touch(memory);
    touch(memory.wrapping_add(PAGE));
    let before = own().read::<2>(memory);
    wait_ok(child(|| {
        let inherited = own().read::<2>(memory);
        check_eq!(inherited.map(frame), before.map(frame));
        check_eq!(inherited.map(kind), [PRESENT; 2]);
        // SAFETY: see above.
        let parent = Words::of(unsafe { libc::getppid() }).unwrap();
        check_eq!(parent.read::<2>(memory), inherited);
        touch(memory);
        let [copied, shared] = own().read::<2>(memory);
        check_eq!(kind(copied), PRESENT | EXCLUSIVE);
        check!(frame(copied) != frame(before[0]));
        check_eq!(shared, inherited[1]);
        // The parent has the first page for itself again.
        check_eq!(parent.read::<2>(memory), [before[0], inherited[1]]);
        0
    }));
    check_eq!(own().read::<2>(memory), before);
}

fn shared_memory_is_a_file_s() {
    let memory = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    touch(memory);
    let [before] = own().read::<1>(memory);
    check_eq!(kind(before), PRESENT | EXCLUSIVE | FILE);
    wait_ok(child(|| {
        touch(memory);
        check_eq!(own().read::<1>(memory), [before & !EXCLUSIVE]);
        0
    }));
    check_eq!(own().read::<1>(memory), [before]);
}

fn requests_are_for_whole_words() {
    let Words(file) = own();
    let code = |result: io::Result<usize>| result.unwrap_err().raw_os_error();
    check_eq!(code(file.read_at(&mut [0; 8], 4)), Some(EINVAL));
    check_eq!(code(file.read_at(&mut [0; 7], 0)), Some(EINVAL));
    check_eq!(file.read_at(&mut [], 0).unwrap(), 0);
    // Where no address is.
    check_eq!(file.read_at(&mut [0; 8], 1 << 60).unwrap(), 0);
    let mut all = vec![1; 1 << 17];
    check_eq!(file.read_at(&mut all, 0).unwrap(), all.len());
}

fn frames_are_for_the_privileged() {
    let memory = map(PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    touch(memory);
    let before = own();
    let [word] = before.read::<1>(memory);
    wait_ok(child(|| {
        // SAFETY: see above.
        unsafe {
            let parent = libc::getppid();
            ok(libc::setuid(1000));
            check_eq!(Words::of(parent).err().unwrap().raw_os_error(), Some(EACCES));
            ok(libc::prctl(libc::PR_SET_DUMPABLE, 1));
        }
        touch(memory);
        check_eq!(own().read::<1>(memory), [PRESENT | EXCLUSIVE]);
        // Who opened it counts.
        check_eq!(frame(before.read::<1>(memory)[0]), frame(word));
        0
    }));
}

fn main() {
    pages_come_when_they_are_touched();
    a_page_has_one_frame_until_somebody_writes();
    shared_memory_is_a_file_s();
    requests_are_for_whole_words();
    frames_are_for_the_privileged();
}

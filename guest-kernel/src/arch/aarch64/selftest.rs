//! What no host test can run: the assembly of user access, `memcpy` and its family, and whole pages,
//! against the same done bytewise. Built with the feature `selftest`; boot runs it and turns the machine off.
//!
//! User memory is two pages, the first writable and the second not, with nothing behind them.

use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::paging::{LEVELS, Prot, Pte, index, table_at};
use crate::arch::{UserFault, phys_to_virt, uaccess};

const WRITABLE: u64 = 0x10_0000;
const READ_ONLY: u64 = WRITABLE + PAGE_SIZE as u64;
const UNMAPPED: u64 = READ_ONLY + PAGE_SIZE as u64;
const ASID: u16 = 1;
const LENGTHS: [usize; 18] =
    [0, 1, 3, 7, 8, 9, 15, 16, 31, 63, 64, 65, 127, 200, 256, 383, 1000, 2000];

/// Runs all checks; a failure panics. `new_page` gives zeroed pages.
pub fn run(mut new_page: impl FnMut() -> PhysAddr) {
    let buffer = phys_to_virt(new_page());
    // SAFETY: a fresh page that nobody else knows.
    let buffer = unsafe { &mut *buffer.cast::<[u8; PAGE_SIZE]>() };
    mem_functions(buffer);
    let root = map_user(&mut new_page);
    // SAFETY: the tables were made for this and stay.
    unsafe { super::activate_user(root, ASID) };
    super::sync_tables();
    copies(buffer);
    // Once more as a thread of a program, whose long copies go through the vector registers.
    let is_user = super::current_thread().is_user.get();
    // SAFETY: the running thread's own cell; its vector registers hold nothing.
    unsafe { *is_user = true };
    copies(buffer);
    // SAFETY: as above.
    unsafe { *is_user = false };
    strings(buffer);
    words();
    super::deactivate_user();
    super::tlb::flush_asid(|| ASID);
    pages(phys_to_virt(new_page()), phys_to_virt(new_page()));
}

fn map_user(new_page: &mut impl FnMut() -> PhysAddr) -> PhysAddr {
    let root = new_page();
    let mut table = root;
    for level in 0..LEVELS - 1 {
        let next = new_page();
        // SAFETY: tables just made.
        let entries = unsafe { table_at(table) };
        entries[index(VirtAddr(WRITABLE), level)].store(Pte::table(next));
        table = next;
    }
    // SAFETY: as above.
    let entries = unsafe { table_at(table) };
    let slot = |va| &entries[index(VirtAddr(va), LEVELS - 1)];
    slot(WRITABLE).store(Pte::user_page(new_page(), Prot::WRITE));
    slot(READ_ONLY).store(Pte::user_page(new_page(), Prot::empty()));
    root
}

/// Small numbers that look random, always the same.
struct Numbers(u32);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as usize % limit
    }
}

/// Keeps the compiler from turning a loop over bytes into a call of what is tested.
fn byte(b: u8) -> u8 {
    core::hint::black_box(b)
}

fn mem_functions(buffer: &mut [u8; PAGE_SIZE]) {
    const SIZE: usize = 700;
    let (tested, rest) = buffer.split_at_mut(SIZE);
    let (model, rest) = rest.split_at_mut(SIZE);
    let moved = &mut rest[..SIZE];
    let mut numbers = Numbers(1);
    for i in 0..SIZE {
        tested[i] = numbers.below(4) as u8;
        model[i] = byte(tested[i]);
    }
    for round in 0..20_000 {
        let (to, from, len) = (numbers.below(300), numbers.below(300), numbers.below(400));
        for i in 0..len {
            moved[i] = byte(model[from + i]);
        }
        for i in 0..len {
            model[to + i] = byte(moved[i]);
        }
        tested.copy_within(from..from + len, to);
        let (at, len, value) = (numbers.below(500), numbers.below(200), numbers.below(256) as u8);
        for slot in &mut model[at..at + len] {
            *slot = byte(value);
        }
        tested[at..at + len].fill(value);
        for _ in 0..4 {
            let at = numbers.below(SIZE);
            model[at] = numbers.below(4) as u8;
            tested[at] = byte(model[at]);
        }
        assert!((0..SIZE).all(|i| byte(tested[i]) == byte(model[i])), "memmove or memset, {round}");
        let (a, b, len) = (numbers.below(300), numbers.below(300), numbers.below(40));
        let pairs = (0..len).map(|i| (byte(model[a + i]), byte(model[b + i])));
        let order = pairs.map(|(a, b)| a.cmp(&b)).find(|o| o.is_ne());
        let order = order.unwrap_or(core::cmp::Ordering::Equal);
        assert_eq!(tested[a..a + len].cmp(&tested[b..b + len]), order, "memcmp, {round}");
    }
}

fn copies(buffer: &mut [u8; PAGE_SIZE]) {
    let (data, back) = buffer.split_at_mut(PAGE_SIZE / 2);
    for (i, slot) in data.iter_mut().enumerate() {
        *slot = i as u8 | 1;
    }
    for len in LENGTHS.into_iter() {
        for offset in 0..17 {
            // The last bytes of the writable page, and those before the unmapped one.
            let start = READ_ONLY - offset - (len / 2) as u64;
            let fits = ((READ_ONLY - start) as usize).min(len);
            back.fill(0);
            // SAFETY: `data` and `back` have room for all lengths used.
            unsafe {
                let left = uaccess::copy_to_user(start, data.as_ptr(), len);
                assert_eq!(len - left, fits, "copy_to_user, {len} bytes at {start:#x}");
                assert_eq!(uaccess::copy_from_user(back.as_mut_ptr(), start, len), 0);
                assert_eq!(back[..fits], data[..fits], "{len} bytes at {start:#x}");
                assert!(back[len..].iter().all(|&b| b == 0), "copied more than {len}");
                let start = UNMAPPED - offset;
                let left = uaccess::copy_from_user(back.as_mut_ptr(), start, len);
                assert_eq!(len - left, len.min(offset as usize), "copy_from_user, {len}");
                let left = uaccess::clear_user(READ_ONLY - offset, len);
                assert_eq!(len - left, len.min(offset as usize), "clear_user, {len}");
            }
        }
    }
    // SAFETY: as above.
    unsafe {
        let tagged = 0x5a << 56 | WRITABLE;
        assert_eq!(uaccess::copy_to_user(tagged, data.as_ptr(), 5), 0, "a tag is no part of it");
        let kernel = data.as_ptr() as u64;
        assert_eq!(uaccess::copy_to_user(kernel, back.as_ptr(), 5), 5, "kernel memory");
        assert_eq!(uaccess::copy_from_user(back.as_mut_ptr(), kernel, 5), 5, "kernel memory");
        assert_eq!(uaccess::copy_from_user(back.as_mut_ptr(), u64::MAX - 2, 5), 5, "wraps");
        assert_eq!(uaccess::copy_from_user(back.as_mut_ptr(), (1 << 48) - 2, 5), 5, "ends outside");
    }
}

fn strings(buffer: &mut [u8; PAGE_SIZE]) {
    let (text, rest) = buffer.split_at_mut(64);
    let out = &mut rest[..64];
    for start in (0..9).map(|offset| WRITABLE + offset) {
        for len in [0, 1, 5, 7, 8, 9, 16, 17, 40] {
            text.fill(b'x');
            text[len] = 0;
            for room in [0, 1, 4, 8, 10, 20, 50] {
                out.fill(7);
                // SAFETY: `out` has 64 bytes.
                let copied = unsafe {
                    uaccess::copy_to_user(start, text.as_ptr(), text.len());
                    uaccess::strncpy_from_user(out.as_mut_ptr(), start, room)
                };
                assert_eq!(copied, Ok(len.min(room)), "string of {len} at {start:#x}");
                assert!(out[..len.min(room)].iter().all(|&b| b == b'x'));
                assert!(out[room..].iter().all(|&b| b == 7), "wrote behind its room");
            }
        }
    }
    // The second page is all zeros, so a string that has no end in the first ends there.
    text.fill(b'x');
    // SAFETY: as above.
    unsafe {
        uaccess::copy_to_user(READ_ONLY - 20, text.as_ptr(), 20);
        assert_eq!(uaccess::strncpy_from_user(out.as_mut_ptr(), READ_ONLY - 20, 64), Ok(20));
        assert_eq!(uaccess::strncpy_from_user(out.as_mut_ptr(), UNMAPPED, 1), Err(UserFault));
        assert_eq!(uaccess::strncpy_from_user(out.as_mut_ptr(), u64::MAX, 1), Err(UserFault));
    }
}

fn words() {
    use uaccess::{cmpxchg_user_u32 as cmpxchg, load_user_u32 as load};
    let last = READ_ONLY - 4;
    assert_eq!(uaccess::clear_user(last, 4), 0);
    assert_eq!((cmpxchg(last, 1, 2), load(last)), (Ok(0), Ok(0)));
    assert_eq!((cmpxchg(last, 0, u32::MAX), load(last)), (Ok(0), Ok(u32::MAX)));
    assert_eq!(cmpxchg(0x7f << 56 | last, u32::MAX, 3), Ok(u32::MAX));
    assert_eq!(cmpxchg(READ_ONLY, 0, 1), Err(UserFault), "it is read-only");
    assert_eq!((load(UNMAPPED), cmpxchg(UNMAPPED, 0, 1)), (Err(UserFault), Err(UserFault)));
    assert_eq!(load(last + 1), Err(UserFault), "not aligned");
}

fn pages(a: *mut u8, b: *mut u8) {
    // SAFETY: two fresh pages that nobody else knows.
    unsafe {
        for i in 0..PAGE_SIZE {
            a.add(i).write(i as u8 ^ (i >> 8) as u8);
        }
        super::copy_page(b, a);
        assert!((0..PAGE_SIZE).all(|i| byte(*a.add(i)) == byte(*b.add(i))), "copy_page");
        super::clear_page(b);
        assert!((0..PAGE_SIZE).all(|i| byte(*b.add(i)) == 0), "clear_page");
    }
}

//! Address spaces against a model of bytes: whatever is mapped, forked, written, moved and unmapped,
//! each program sees its own stores and those to shared memory, and all frames come back.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use proptest::prelude::*;

use super::mmap::MmapRequest;
use super::*;
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::arch::{self, uaccess};
use crate::kref::Ref;
use crate::uapi;

const PAGE: u64 = PAGE_SIZE as u64;
const ANON: u32 = uapi::MAP_ANONYMOUS | uapi::MAP_FIXED;
const RW: u32 = uapi::PROT_READ | uapi::PROT_WRITE;

thread_local! {
    static CURRENT: RefCell<Option<Ref<Mm>>> = const { RefCell::new(None) };
}

/// Makes `mm` the one that the test machine's user accesses go to.
fn enter(mm: &Ref<Mm>) {
    CURRENT.set(Some(mm.clone()));
    mm.activate();
    uaccess::set_fault_handler(|va, write| {
        let mm = CURRENT.with_borrow(|mm| mm.clone().unwrap());
        mm.handle_fault(va, Access { write, exec: false, user: true }).is_ok()
    });
}

fn leave() {
    CURRENT.set(None);
    asid::leave();
}

fn request(addr: u64, pages: u64, prot: u32, flags: u32) -> MmapRequest {
    let len = pages * PAGE;
    MmapRequest { addr, len, prot, flags, file: None, pgoff: 0, may: VmFlags::MAY }
}

fn store(mm: &Ref<Mm>, addr: u64, value: u8) -> Result<()> {
    enter(mm);
    UserPtr::<u8>::new(addr).write(value)
}

fn load(mm: &Ref<Mm>, addr: u64) -> Result<u8> {
    enter(mm);
    UserPtr::<u8>::new(addr).read()
}

/// Ends an address space as exit does.
fn exit(mm: Ref<Mm>) {
    leave();
    mm.put_user();
}

/// A machine with memory, and the frames this thread holds.
fn start() -> isize {
    testing::setup();
    frame::NET.get()
}

#[test]
fn anonymous_memory_reads_zero_and_keeps_stores() {
    let net = start();
    let mm = Mm::new().unwrap();
    let addr = mm.mmap(request(0, 4, RW, uapi::MAP_ANONYMOUS | uapi::MAP_PRIVATE)).unwrap();
    assert_eq!(load(&mm, addr), Ok(0));
    assert_eq!(mm.rss().total(), 0, "the page of zeros is nobody's");
    store(&mm, addr, 7).unwrap();
    assert_eq!(load(&mm, addr), Ok(7));
    assert_eq!(mm.rss().anon, 1);
    assert_eq!(load(&mm, addr + 4 * PAGE), Err(Errno::EFAULT));
    assert_eq!(mm.mmap(request(0, 1, RW, uapi::MAP_ANONYMOUS)), Err(Errno::EINVAL));
    exit(mm);
    assert_eq!(frame::NET.get(), net);
}

#[test]
fn fork_costs_no_frame_per_resident_page() {
    let net = start();
    let mm = Mm::new().unwrap();
    mm.mmap(request(1 << 30, 2048, RW, ANON | uapi::MAP_PRIVATE)).unwrap();
    for page in 0..2048 {
        store(&mm, (1 << 30) + page * PAGE, page as u8).unwrap();
    }
    let before = frame::NET.get();
    let child = mm.fork().unwrap();
    assert_eq!(frame::NET.get(), before + 1, "fork takes a root table and no more");
    assert_eq!(child.rss(), mm.rss());
    // One store: the tables on its way (levels 1, 2, 3) and one page.
    store(&child, 1 << 30, 9).unwrap();
    assert_eq!(frame::NET.get(), before + 1 + 4);
    // The other owner of that page is alone now: it writes without a copy.
    exit(child);
    let alone = frame::NET.get();
    assert_eq!(alone, before);
    store(&mm, 1 << 30, 5).unwrap();
    assert_eq!(frame::NET.get(), alone);
    exit(mm);
    assert_eq!(frame::NET.get(), net);
}

#[test]
fn stack_grows_to_its_limit_and_keeps_its_gap() {
    let net = start();
    let mm = Mm::new().unwrap();
    let top = 1_u64 << 40;
    mm.map_stack(top, 2 * PAGE, false).unwrap();
    mm.set_limits(MmLimits { stack: 64 * PAGE, ..MmLimits::default() });
    store(&mm, top - 60 * PAGE, 1).unwrap();
    assert_eq!(store(&mm, top - 65 * PAGE, 1), Err(Errno::EFAULT));
    mm.set_limits(MmLimits::default());
    mm.mmap(request(top - 400 * PAGE, 1, RW, ANON | uapi::MAP_PRIVATE)).unwrap();
    store(&mm, top - 143 * PAGE, 1).unwrap();
    assert_eq!(store(&mm, top - 144 * PAGE, 1), Err(Errno::EFAULT));
    exit(mm);
    assert_eq!(frame::NET.get(), net);
}

#[test]
fn brk_grows_shrinks_and_refuses() {
    let net = start();
    let mm = Mm::new().unwrap();
    let base = 0x50_0000_u64;
    mm.set_start_brk(base);
    assert_eq!(mm.set_brk(0), base);
    assert_eq!(mm.set_brk(base + 3 * PAGE + 5), base + 3 * PAGE + 5);
    store(&mm, base + 3 * PAGE, 1).unwrap();
    assert_eq!(mm.set_brk(base + PAGE), base + PAGE);
    assert_eq!(load(&mm, base + PAGE), Err(Errno::EFAULT));
    mm.mmap(request(base + 8 * PAGE, 1, RW, ANON | uapi::MAP_PRIVATE)).unwrap();
    assert_eq!(mm.set_brk(base + 9 * PAGE), base + PAGE);
    exit(mm);
    assert_eq!(frame::NET.get(), net);
}

/// A file of `pages` pages, the first byte of each being its index plus one.
fn file(pages: u64) -> (Arc<Mapping>, Ref<MappedFile>) {
    let mapping = Arc::new(Mapping::new(PageKind::Cache));
    for i in 0..pages {
        let page = [i as u8 + 1; PAGE_SIZE];
        mapping.write(i * PAGE, &page).unwrap();
    }
    let mapped = MappedFile::new(mapping.clone(), 1, 2, b"/file").unwrap();
    (mapping, mapped)
}

#[test]
fn files_are_mapped_around_and_cut_off_by_truncation() {
    let net = start();
    let (mapping, mapped) = file(40);
    let mm = Mm::new().unwrap();
    let addr = 1_u64 << 32;
    let private = MmapRequest {
        file: Some(mapped.clone()),
        ..request(addr, 48, RW, uapi::MAP_FIXED | uapi::MAP_PRIVATE)
    };
    mm.mmap(private.clone()).unwrap();
    let child = mm.fork().unwrap();
    assert_eq!(load(&mm, addr), Ok(1));
    assert_eq!(mm.rss().file, 16, "neighbours in memory come along");
    store(&mm, addr + PAGE, 99).unwrap();
    assert_eq!((mm.rss().file, mm.rss().anon), (15, 1));
    let mut byte = [0];
    mapping.read(PAGE, &mut byte);
    assert_eq!(byte, [2], "a private store is not the file's");
    assert_eq!(load(&child, addr + PAGE), Ok(2));
    // The page of the file after its end.
    let fault = mm.handle_fault(VirtAddr(addr + 40 * PAGE), Access::default());
    assert_eq!(fault, Err(Fault::BusErr));

    let shared =
        MmapRequest { addr: addr * 2, flags: uapi::MAP_FIXED | uapi::MAP_SHARED, ..private };
    child.mmap(shared).unwrap();
    store(&child, addr * 2 + 3 * PAGE, 77).unwrap();
    mapping.read(3 * PAGE, &mut byte);
    assert_eq!(byte, [77]);
    assert_eq!(load(&mm, addr + 3 * PAGE), Ok(77), "not copied yet, so seen");

    mapping.truncate(PAGE + 1);
    assert_eq!(load(&mm, addr + 3 * PAGE), Err(Errno::EFAULT));
    assert_eq!(load(&child, addr * 2 + 3 * PAGE), Err(Errno::EFAULT));
    assert_eq!(load(&child, addr + PAGE), Ok(2));
    assert_eq!(load(&child, addr + PAGE + 1), Ok(0), "the rest of the last page is zero");
    exit(child);
    exit(mm);
    drop((mapping, mapped));
    assert_eq!(frame::NET.get(), net);
}

#[test]
fn a_sparse_file_finds_its_pages_and_frees_them() {
    let net = start();
    let mapping = Mapping::new(PageKind::Shmem);
    let places = [0_u64, 1, 63, 64, 4095, 4096, 1 << 30, (1 << 50) - 1];
    mapping.truncate(1 << 62);
    for place in places {
        mapping.write(place * PAGE, &[place as u8 ^ 0x5a]).unwrap();
    }
    assert_eq!(mapping.resident_pages(), places.len() as u64);
    for place in places {
        let mut byte = [0];
        mapping.read(place * PAGE, &mut byte);
        assert_eq!(byte[0], place as u8 ^ 0x5a);
    }
    assert!(mapping.get(65).is_none());
    mapping.punch_hole(63 * PAGE, 4096 * PAGE);
    assert_eq!(mapping.resident_pages(), places.len() as u64 - 3);
    mapping.truncate(PAGE);
    assert_eq!(mapping.resident_pages(), 1);
    drop(mapping);
    assert_eq!(frame::NET.get(), net);
}

#[test]
fn a_debugger_writes_text_without_touching_the_file() {
    let net = start();
    let (mapping, mapped) = file(2);
    let mm = Mm::new().unwrap();
    let addr = 1_u64 << 32;
    let prot = uapi::PROT_READ | uapi::PROT_EXEC;
    let text = request(addr, 2, prot, uapi::MAP_FIXED | uapi::MAP_PRIVATE);
    mm.mmap(MmapRequest { file: Some(mapped.clone()), ..text }).unwrap();
    assert_eq!(load(&mm, addr), Ok(1));
    let child = mm.fork().unwrap();
    assert_eq!(mm.write_remote(addr + PAGE - 2, &[5; 4]), 4);
    assert_eq!(
        (load(&mm, addr), load(&mm, addr + PAGE - 1), load(&mm, addr + PAGE)),
        (Ok(1), Ok(5), Ok(5))
    );
    assert_eq!(store(&mm, addr, 9), Err(Errno::EFAULT), "still not writable");
    let mut bytes = [0; 4];
    assert_eq!(child.read_remote(addr + PAGE - 2, &mut bytes), 4);
    assert_eq!(bytes, [1, 1, 2, 2]);
    assert_eq!(
        child.read_remote(addr + 2 * PAGE - 2, &mut bytes),
        2,
        "ends where the mapping does"
    );
    exit(child);
    exit(mm);
    drop((mapping, mapped));
    assert_eq!(frame::NET.get(), net);
}

#[test]
fn what_madvise_keeps_from_children() {
    let net = start();
    let mm = Mm::new().unwrap();
    let addr = 1_u64 << 32;
    mm.mmap(request(addr, 3, RW, ANON | uapi::MAP_PRIVATE)).unwrap();
    for page in 0..3 {
        store(&mm, addr + page * PAGE, 1).unwrap();
    }
    mm.madvise(addr, PAGE, uapi::MADV_DONTFORK).unwrap();
    mm.madvise(addr + PAGE, PAGE, uapi::MADV_WIPEONFORK).unwrap();
    let child = mm.fork().unwrap();
    assert_eq!(load(&child, addr), Err(Errno::EFAULT));
    assert_eq!(load(&child, addr + PAGE), Ok(0));
    assert_eq!(load(&child, addr + 2 * PAGE), Ok(1));
    assert_eq!(load(&mm, addr), Ok(1));
    mm.madvise(addr, 3 * PAGE, uapi::MADV_DONTNEED).unwrap();
    assert_eq!(load(&mm, addr + PAGE), Ok(0));
    assert_eq!(mm.madvise(addr, PAGE, 7), Err(Errno::EINVAL));
    assert_eq!(mm.madvise(addr, 4 * PAGE, uapi::MADV_NORMAL), Err(Errno::ENOMEM));
    exit(child);
    exit(mm);
    assert_eq!(frame::NET.get(), net);
}

#[test]
fn locks_obey_their_limit() {
    start();
    let mm = Mm::new().unwrap();
    let addr = 1_u64 << 32;
    mm.mmap(request(addr, 4, RW, ANON | uapi::MAP_PRIVATE)).unwrap();
    mm.set_limits(MmLimits { memlock: 2 * PAGE, ..MmLimits::default() });
    assert_eq!(mm.mlock(addr, 3 * PAGE, false), Err(Errno::ENOMEM));
    mm.mlock(addr + 1, PAGE, false).unwrap();
    assert_eq!(mm.space.read().locked_vm, 2);
    assert!(mm.is_resident(VirtAddr(addr + PAGE)), "locked pages are brought in");
    assert_eq!(mm.mincore(addr, 4 * PAGE).unwrap(), [1, 1, 0, 0]);
    mm.munlock(addr, 4 * PAGE).unwrap();
    assert_eq!(mm.space.read().locked_vm, 0);
    exit(mm);
}

/// Pages that the model knows, in places that share tables at different levels.
const PLACES: [u64; 5] =
    [0x20_0000 - 4 * PAGE, (1 << 30) - 4 * PAGE, 1 << 31, (1 << 39) - 4 * PAGE, 1 << 46];
const SPAN: u64 = 8;

#[derive(Clone)]
enum Content {
    Private(u8),
    Shared(Rc<Cell<u8>>),
}

struct Program {
    mm: Ref<Mm>,
    pages: BTreeMap<u64, (Content, u32)>,
}

impl Program {
    fn fork(&self) -> Self {
        Self { mm: self.mm.fork().unwrap(), pages: self.pages.clone() }
    }

    fn check(&self) {
        for (addr, (cell, prot)) in &self.pages {
            let expected = match cell {
                Content::Private(value) => *value,
                Content::Shared(value) => value.get(),
            };
            if *prot == 0 {
                assert_eq!(load(&self.mm, *addr), Err(Errno::EFAULT));
            } else {
                assert_eq!(load(&self.mm, *addr), Ok(expected), "at {addr:#x}");
            }
        }
        self.mm.tables.lock().check();
    }
}

#[derive(Clone, Debug)]
enum Op {
    Map { at: u64, len: u64, shared: bool },
    Unmap { at: u64, len: u64 },
    Protect { at: u64, len: u64, prot: u32 },
    Store { at: u64, value: u8 },
    Discard { at: u64, len: u64 },
    Move { from: u64, to: u64 },
    Poke { at: u64, value: u8 },
    Fork,
    Exit,
}

fn ops() -> impl Strategy<Value = Vec<(u8, Op)>> {
    let place = (0..PLACES.len(), 0..SPAN).prop_map(|(p, i)| PLACES[p] + i * PAGE);
    let span = || {
        (0..PLACES.len(), 0..SPAN, 1..SPAN)
            .prop_map(|(p, i, n)| (PLACES[p] + i * PAGE, n.min(SPAN - i)))
    };
    let op = prop_oneof![
        3 => (span(), any::<bool>()).prop_map(|((at, len), shared)| Op::Map { at, len, shared }),
        1 => span().prop_map(|(at, len)| Op::Unmap { at, len }),
        1 => (span(), 0..4_u32).prop_map(|((at, len), prot)| Op::Protect { at, len, prot }),
        8 => (place.clone(), any::<u8>()).prop_map(|(at, value)| Op::Store { at, value }),
        1 => span().prop_map(|(at, len)| Op::Discard { at, len }),
        1 => (place.clone(), place.clone()).prop_map(|(from, to)| Op::Move { from, to }),
        1 => (place, any::<u8>()).prop_map(|(at, value)| Op::Poke { at, value }),
        3 => Just(Op::Fork),
        1 => Just(Op::Exit),
    ];
    prop::collection::vec((any::<u8>(), op), 1..80)
}

fn run(programs: &mut Vec<Program>, who: usize, op: Op) {
    let program = &mut programs[who];
    let mm = program.mm.clone();
    let range = |at: u64, len: u64| (0..len).map(move |i| at + i * PAGE);
    match op {
        Op::Map { at, len, shared } => {
            let kind = if shared { uapi::MAP_SHARED } else { uapi::MAP_PRIVATE };
            mm.mmap(request(at, len, RW, ANON | kind)).unwrap();
            for page in range(at, len) {
                let cell = if shared {
                    Content::Shared(Rc::new(Cell::new(0)))
                } else {
                    Content::Private(0)
                };
                program.pages.insert(page, (cell, RW));
            }
        }
        Op::Unmap { at, len } => {
            mm.munmap(at, len * PAGE).unwrap();
            for page in range(at, len) {
                program.pages.remove(&page);
            }
        }
        Op::Protect { at, len, prot } => {
            let known = range(at, len).take_while(|p| program.pages.contains_key(p)).count() as u64;
            let result = mm.mprotect(at, len * PAGE, prot);
            assert_eq!(result.is_ok(), known == len);
            for page in range(at, known) {
                program.pages.get_mut(&page).unwrap().1 = prot;
            }
        }
        Op::Store { at, value } => {
            let result = store(&mm, at, value);
            match program.pages.get_mut(&at) {
                Some((cell, prot)) if *prot & uapi::PROT_WRITE != 0 => {
                    result.unwrap();
                    match cell {
                        Content::Private(old) => *old = value,
                        Content::Shared(old) => old.set(value),
                    }
                }
                _ => assert_eq!(result, Err(Errno::EFAULT)),
            }
        }
        Op::Discard { at, len } => {
            let _ = mm.madvise(at, len * PAGE, uapi::MADV_DONTNEED);
            for page in range(at, len) {
                if let Some((Content::Private(value), _)) = program.pages.get_mut(&page) {
                    *value = 0;
                }
            }
        }
        Op::Move { from, to } => {
            let flags = uapi::MREMAP_MAYMOVE | uapi::MREMAP_FIXED;
            let result = mm.mremap(from, PAGE, PAGE, flags, to);
            if !program.pages.contains_key(&from) {
                assert_eq!(result, Err(Errno::EFAULT));
            } else if from == to {
                assert_eq!(result, Err(Errno::EINVAL));
            } else if let Some(page) = program.pages.remove(&from) {
                assert_eq!(result, Ok(to));
                program.pages.insert(to, page);
            }
        }
        Op::Poke { at, value } => {
            let done = mm.write_remote(at, &[value]);
            match program.pages.get_mut(&at) {
                Some((Content::Private(old), _)) => {
                    assert_eq!(done, 1);
                    *old = value;
                }
                Some((Content::Shared(old), prot)) if *prot & uapi::PROT_WRITE != 0 => {
                    assert_eq!(done, 1);
                    old.set(value);
                }
                _ => assert_eq!(done, 0),
            }
        }
        Op::Fork => {
            if programs.len() < 6 {
                let child = programs[who].fork();
                programs.push(child);
            }
        }
        Op::Exit => {
            if programs.len() > 1 {
                exit(programs.swap_remove(who).mm);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn programs_see_their_own_stores_only(ops in ops()) {
        let net = start();
        let mut programs = vec![Program { mm: Mm::new().unwrap(), pages: BTreeMap::new() }];
        for (n, (who, op)) in ops.into_iter().enumerate() {
            let who = usize::from(who) % programs.len();
            run(&mut programs, who, op);
            if n % 7 == 0 {
                programs.iter().for_each(Program::check);
            }
        }
        programs.iter().for_each(Program::check);
        for program in programs {
            exit(program.mm);
        }
        prop_assert_eq!(frame::NET.get(), net, "all frames came back");
    }

    #[test]
    fn placement_never_overlaps(ops in prop::collection::vec((1..40_u64, any::<u16>(), any::<bool>()), 1..100)) {
        start();
        let mm = Mm::new().unwrap();
        let mut held: Vec<(u64, u64)> = vec![];
        for (pages, pick, map) in ops {
            if map || held.is_empty() {
                let prot = u32::from(pick % 4);
                let addr = mm.mmap(request(0, pages, prot, uapi::MAP_ANONYMOUS | uapi::MAP_PRIVATE)).unwrap();
                for (other, len) in &held {
                    prop_assert!(addr + pages * PAGE <= *other || other + len <= addr);
                }
                held.push((addr, pages * PAGE));
            } else {
                let (addr, len) = held.swap_remove(usize::from(pick) % held.len());
                mm.munmap(addr, len).unwrap();
            }
        }
        prop_assert_eq!(mm.space.read().total_vm * PAGE, held.iter().map(|h| h.1).sum::<u64>());
        exit(mm);
    }
}

#[test]
fn sharers_on_other_cpus_do_not_disturb_each_other() {
    testing::setup();
    let parent = Mm::new().unwrap();
    let base = 1_u64 << 30;
    parent.mmap(request(base, 512, RW, ANON | uapi::MAP_PRIVATE)).unwrap();
    for page in 0..512 {
        parent.write_remote(base + page * PAGE, &[1]);
    }
    for _ in 0..20 {
        let children: Vec<_> = (0..4_u8).map(|i| (i, parent.fork().unwrap())).collect();
        std::thread::scope(|scope| {
            for (i, child) in children {
                scope.spawn(move || {
                    for page in 0..512 {
                        let addr = base + page * PAGE;
                        if page % 2 == 0 {
                            assert_eq!(child.write_remote(addr, &[i + 10]), 1);
                        }
                        let mut byte = [0];
                        child.read_remote(addr, &mut byte);
                        assert_eq!(byte[0], if page % 2 == 0 { i + 10 } else { 1 });
                    }
                    child.put_user();
                });
            }
        });
        let mut byte = [0];
        parent.read_remote(base, &mut byte);
        assert_eq!(byte, [1]);
    }
    exit(parent);
    let _ = arch::active_user();
}

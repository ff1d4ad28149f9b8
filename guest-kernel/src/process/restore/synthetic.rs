//! Cores made up: what the tests and the fuzz target of the loader's front start from, and what that front makes
//! of any bytes.

use alloc::vec;
use alloc::vec::Vec;

use belljar_abi::carried::Carried;
use belljar_abi::corenote::{self, Kind, OWNER, Record, Writer};
use belljar_abi::coreregs::{
    CORE, FPSIMD_SIZE, LINUX, NT_ARM_TLS, NT_AUXV, NT_FPREGSET, NT_PRSTATUS, PRSTATUS_SIZE,
};

use super::core::{Bad, Core, Result, head_len};
use super::filters;
use super::plan::{FilePlan, Plan};
use crate::addr::PAGE_SIZE;
use crate::drivers::tty::ldisc::LineDiscipline;
use crate::drivers::tty::resume::INPUT_SIZE;
use crate::process::elf::{EHDR_SIZE, PHDR_SIZE};
use crate::task::SeccompMode;

/// A note.
fn note(owner: &str, kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut bytes = vec![];
    for word in [owner.len() as u32 + 1, desc.len() as u32, kind] {
        bytes.extend(word.to_le_bytes());
    }
    for part in [[owner.as_bytes(), b"\0"].concat().as_slice(), desc] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn table<T: Record>(kind: Kind, records: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut writer = Writer::default();
    records.into_iter().for_each(|record| writer.push(record));
    note(OWNER, kind as u32, &writer.finish())
}

/// A table whose records refer to bytes.
fn table_with<T: Record>(kind: Kind, make: impl FnOnce(&mut Writer<T>)) -> Vec<u8> {
    let mut writer = Writer::default();
    make(&mut writer);
    note(OWNER, kind as u32, &writer.finish())
}

/// The notes of a process with two threads that could go on.
pub fn notes() -> Vec<Vec<u8>> {
    let thread = |tid| corenote::Thread { tid, syscall: u64::MAX, ..Default::default() };
    let mut notes = vec![];
    for _ in 0..2 {
        notes.push(note(CORE, NT_PRSTATUS, &[0; PRSTATUS_SIZE]));
        notes.push(note(CORE, NT_FPREGSET, &[0; FPSIMD_SIZE]));
        notes.push(note(LINUX, NT_ARM_TLS, &[7; 8]));
    }
    notes.extend([
        note(CORE, NT_AUXV, &[6, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0]),
        table_with(Kind::Process, |to| {
            let cwd_bytes = to.bytes(b"/").unwrap_or(0);
            let process = corenote::Process {
                pid: 40,
                pgid: 40,
                sid: 1,
                cwd_bytes,
                root_bytes: cwd_bytes,
                exe_bytes: to.bytes(b"/bin/busybox").unwrap_or(0),
                brk: 0x60_0000,
                ..Default::default()
            };
            to.push(process);
        }),
        table::<corenote::Group>(Kind::Groups, []),
        table(
            Kind::Threads,
            [
                thread(40),
                corenote::Thread {
                    seccomp_mode: SeccompMode::Filter as u64,
                    seccomp_filter: 10,
                    no_new_privs: 1,
                    ..thread(41)
                },
            ],
        ),
        table_with(Kind::Filters, |to| {
            // One that lets everything pass, and one behind it.
            let allow = 0x7fff_0000_0000_0006_u64.to_le_bytes();
            for (id, prev) in [(9, 0), (10, 9)] {
                let program_bytes = to.bytes(&allow).unwrap_or(0);
                to.push(corenote::Filter { id, prev, program_bytes, ..Default::default() });
            }
        }),
        table(Kind::Pending, [corenote::Pending { tid: 41, signo: 10, ..Default::default() }]),
        table_with(Kind::Files, |to| {
            let path_bytes = to.bytes(b"/dev/console").unwrap_or(0);
            let kind = Carried::CharDevice as u64;
            to.push(corenote::File { id: 96, kind, path_bytes, ..Default::default() });
            let content_bytes = to.bytes(b"in the pipe").unwrap_or(0);
            let kind = Carried::Pipe as u64;
            to.push(corenote::File { id: 64, kind, content_bytes, ..Default::default() });
            for (id, kind, object) in [
                (128, Carried::Epoll, 0),
                (160, Carried::TimerFd, 0),
                (192, Carried::PtyMaster, 5),
                (224, Carried::Tty, 5),
            ] {
                to.push(corenote::File { id, kind: kind as u64, object, ..Default::default() });
            }
        }),
        table(
            Kind::Timers,
            [(corenote::TIMER_POSIX, 3), (corenote::TIMER_POSIX, 1), (corenote::TIMER_FILE, 160)]
                .map(|(what, id)| corenote::Timer {
                    what,
                    id,
                    clock: 1,
                    signo: 10,
                    ..Default::default()
                }),
        ),
        table_with(Kind::Ptys, |to| {
            let pty = corenote::Pty {
                id: 5,
                index: 3,
                session: 40,
                cc_bytes: to.bytes(&[3; 19]).unwrap_or(0),
                input_bytes: to.bytes(b"line\nhalf").unwrap_or(0),
                ends_bytes: to.bytes(&[0, 0, 0, 0, 1, 0, 0, 0, 0]).unwrap_or(0),
                complete: 5,
                output_bytes: to.bytes(b"output").unwrap_or(0),
                ..Default::default()
            };
            to.push(pty);
        }),
        table_with(Kind::Nameless, |to| {
            let name_bytes = to.bytes(b"memfd:seen").unwrap_or(0);
            let file = corenote::Nameless {
                id: 6,
                name_bytes,
                size: 5000,
                held: 904,
                ..Default::default()
            };
            to.push(file);
        }),
        table_with(Kind::Sockets, |to| {
            let name_bytes = to.bytes(b"\x01\0/run/s").unwrap_or(0);
            let listener = corenote::Socket {
                id: 7,
                kind: 1,
                state: 10,
                bound: 1,
                name_bytes,
                ..Default::default()
            };
            to.push(listener);
            to.push(corenote::Socket { id: 8, kind: 2, state: 1, peer: 7, ..Default::default() });
        }),
        table_with(Kind::Messages, |to| {
            let data_bytes = to.bytes(b"a message").unwrap_or(0);
            to.push(corenote::Message { socket: 8, sender: 7, data_bytes, ..Default::default() });
        }),
        table(
            Kind::Locks,
            [corenote::Lock { file: 96, exclusive: 1, end: 9, ..Default::default() }],
        ),
        table(Kind::Watches, [corenote::Watch { set: 128, file: 96, ..Default::default() }]),
        table(Kind::Fds, [0, 1].map(|fd| corenote::Fd { fd, file: 96 - 32 * fd, cloexec: 0 })),
        table(Kind::SigActions, [corenote::SigAction { signo: 10, ..Default::default() }]),
        table(Kind::Limits, [corenote::Limit { resource: 7, soft: 1024, hard: 4096 }]),
        table(
            Kind::Vmas,
            [corenote::Vma { start: 0x40_0000, end: 0x40_2000, flags: 0x73, ..Default::default() }],
        ),
        table(Kind::Frames, [corenote::Frames { start: 0x40_0000, frame: 9, pages: 1, cow: 1 }]),
        table(
            Kind::Zombies,
            [corenote::Zombie {
                pid: 42,
                pgid: 40,
                sid: 1,
                status: 0x300,
                exit_signal: 17,
                ..Default::default()
            }],
        ),
    ]);
    notes
}

/// A core with these notes, a page of memory and a piece of a file.
pub fn core(notes: &[Vec<u8>]) -> Vec<u8> {
    let notes = notes.concat();
    let at = EHDR_SIZE + 3 * PHDR_SIZE;
    let data = (at + notes.len()).next_multiple_of(PAGE_SIZE);
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\xb7\0\x01\0\0\0".to_vec();
    for word in [0, EHDR_SIZE as u64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0_u32.to_le_bytes());
    for half in [EHDR_SIZE as u16, PHDR_SIZE as u16, 3, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    let page = PAGE_SIZE as u64;
    let headers = [
        (4_u32, at as u64, 0, 0, notes.len() as u64, notes.len() as u64),
        (1, data as u64, 0x40_0000, 0, page, 2 * page),
        (corenote::PT_FILE_PIECE, data as u64, page, 6, 904, 904),
    ];
    for (kind, offset, vaddr, paddr, filesz, memsz) in headers {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(6_u32.to_le_bytes());
        for word in [offset, vaddr, paddr, filesz, memsz, page] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes.extend(notes);
    bytes.resize(data + PAGE_SIZE, 0xcc);
    bytes
}

/// Reads bytes as the loader reads a core, and hands what it understood to `look`.
pub fn read(bytes: &[u8], look: impl FnOnce(&Plan<'_>)) -> Result<()> {
    let len = bytes.len() as u64;
    let fill = |at: u64, to: &mut [u8]| {
        let from = usize::try_from(at).ok().and_then(|at| bytes.get(at..at.checked_add(to.len())?));
        from.map(|from| to.copy_from_slice(from)).is_some()
    };
    let needed = head_len(len, fill)? as usize;
    let head = bytes.get(..needed).ok_or(Bad::NotACore)?;
    look(&Plan::read(Core::read(head, len)?)?);
    Ok(())
}

/// What holds of every plan, whatever the core was: what the loader relies on without looking again.
pub fn check(plan: &Plan<'_>) {
    assert!(!plan.threads.is_empty());
    assert!(plan.threads.iter().all(|thread| thread.regs.from_user()));
    assert!(plan.locks.iter().all(|lock| plan.file(lock.file).is_some()));
    assert!(plan.sockets.iter().all(|socket| socket.name.len() <= 128));
    for pty in &plan.ptys {
        let held = &pty.former.held;
        assert!(held.input.len() == held.ends.len() && held.complete <= held.input.len());
        let mut ldisc = LineDiscipline::try_new().expect("a host has memory");
        ldisc.resume(held);
        let mut line = [0; INPUT_SIZE];
        let _ = ldisc.read(&pty.former.termios, &mut line);
        let _ = ldisc.receive(&pty.former.termios, line[0]);
    }
    let master = |file: &&FilePlan<'_>| file.record.kind == Carried::PtyMaster as u64;
    let mut masters = plan.files.iter().filter(master);
    assert!(plan.ptys.is_empty() || masters.all(|file| plan.pty(file.record.object).is_some()));
    assert!(plan.watches.iter().all(|watch| plan.file(watch.set).is_some()));
    assert!(plan.timers.iter().all(|timer| timer.record.deadline <= i64::MAX as u64));
    assert!(plan.fds.iter().all(|fd| plan.file(fd.file).is_some()));
    assert!(plan.vmas.windows(2).all(|pair| pair[0].record.end <= pair[1].record.start));
    assert!(plan.segments.windows(2).all(|p| p[0].start + p[0].len <= p[1].start));
    for segment in &plan.segments {
        let _ = plan.shared_frame(segment.start);
    }
    // Programs are checked when the filters are made; a refused one is no fault.
    let _ = filters::build(plan);
    let _ = plan.places();
}

/// Runs the loader's front on a core that `data` changed: pairs of places and bytes.
pub fn fuzz_one(data: &[u8]) {
    let mut bytes = core(&notes());
    // The last page is memory, which is not looked at.
    let room = bytes.len() - PAGE_SIZE;
    for change in data.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % room;
        bytes[at] = change[2];
    }
    let _ = read(&bytes, check);
    let _ = read(data, check);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::tty::termios::Termios;

    fn refused(change: impl FnOnce(&mut Vec<u8>)) -> Bad {
        let mut bytes = core(&notes());
        change(&mut bytes);
        read(&bytes, check).unwrap_err()
    }

    #[test]
    fn a_whole_core_is_understood() {
        let mut seen = false;
        read(&core(&notes()), |plan| {
            check(plan);
            assert_eq!((plan.pid(), plan.threads.len(), plan.exe), (40, 2, &b"/bin/busybox"[..]));
            assert_eq!(plan.threads[1].tls, 0x0707_0707_0707_0707);
            assert_eq!(plan.file(64).unwrap().content, b"in the pipe");
            assert_eq!(plan.segments[0].len, PAGE_SIZE as u64);
            assert_eq!(plan.shared_frame(0x40_0000), Some(9));
            assert_eq!(plan.shared_frame(0x40_1000), None);
            assert_eq!(plan.auxv, [6, 4096]);
            assert_eq!(plan.zombies[0].record.status, 0x300);
            assert_eq!(plan.timers.iter().map(|t| t.record.id).collect::<Vec<_>>(), [1, 3, 160]);
            assert_eq!(plan.file_timer(160).map(|t| t.record.clock), Some(1));
            assert_eq!(
                (plan.sockets[0].name, plan.messages[0].data),
                (&b"\x01\0/run/s"[..], &b"a message"[..])
            );
            assert_eq!((plan.nameless[0].name, plan.pieces.len()), (&b"memfd:seen"[..], 1));
            let former = &plan.pty(5).unwrap().former;
            assert_eq!(
                (former.index, former.termios.c_cc[18], former.output),
                (3, 3, &b"output"[..])
            );
            let mut ldisc = LineDiscipline::try_new().unwrap();
            ldisc.resume(&former.held);
            assert_eq!(ldisc.readable(&Termios::STANDARD), 5);
            assert_eq!((plan.watches[0].file, plan.locks[0].end), (96, 9));
            let filters = filters::build(plan).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!((filters.len(), plan.filters[1].prev), (2, Some(0)));
            seen = true;
        })
        .unwrap();
        assert!(seen);
    }

    #[test]
    fn headers_that_cannot_be_are_refused() {
        assert_eq!(read(b"", check), Err(Bad::NotACore));
        assert_eq!(refused(|bytes| bytes[16] = 2), Bad::NotACore);
        assert_eq!(refused(|bytes| bytes[18] = 62), Bad::NotACore);
        assert!(matches!(refused(|bytes| bytes.truncate(400)), Bad::Header(_)));
        assert!(matches!(refused(|bytes| bytes[54] = 57), Bad::Header(_)));
        // PN_XNUM, and no section header.
        assert!(matches!(refused(|bytes| bytes[56..58].fill(0xff)), Bad::Header(_)));
        // The page ends beyond the file, begins inside of a page, wraps.
        let at = EHDR_SIZE + PHDR_SIZE;
        assert!(matches!(refused(|bytes| bytes[at + 33] += 0x10), Bad::Header(_)));
        assert!(matches!(refused(|bytes| bytes[at + 16] = 1), Bad::Header(_)));
        assert!(matches!(refused(|bytes| bytes[at + 16..at + 24].fill(0xff)), Bad::Header(_)));
        // Two pieces of the same bytes.
        let piece = corenote::PT_FILE_PIECE.to_le_bytes();
        assert!(matches!(
            refused(|bytes| bytes[at..at + 4].copy_from_slice(&piece)),
            Bad::Header(_)
        ));
        let at = at + PHDR_SIZE;
        assert!(matches!(refused(|bytes| bytes[at + 33] += 0x10), Bad::Header(_)));
        assert!(matches!(refused(|bytes| bytes[at + 16..at + 24].fill(0xff)), Bad::Header(_)));
    }

    #[test]
    fn notes_that_lack_say_twice_or_say_what_cannot_be_are_refused() {
        let all = notes();
        let missing = all.iter().position(|note| note[8..12] == (Kind::Vmas as u32).to_le_bytes());
        let missing = missing.unwrap();
        let without = [&all[..missing], &all[missing + 1..]].concat();
        assert_eq!(read(&core(&without), check), Err(Bad::Lacks("Vmas")));
        let twice = [&all[..], &all[missing..=missing]].concat();
        assert!(matches!(read(&core(&twice), check), Err(Bad::Header(_))));
        // Registers of one thread are missing.
        assert!(matches!(read(&core(&all[3..]), check), Err(Bad::Header(_))));
        let replaced = |kind: Kind, note: Vec<u8>| {
            let mut all = notes();
            let old = all.iter_mut().find(|old| old[8..12] == (kind as u32).to_le_bytes());
            *old.unwrap() = note;
            read(&core(&all), check).unwrap_err()
        };
        let fd = |fd, file| table(Kind::Fds, [corenote::Fd { fd, file, cloexec: 0 }]);
        let value = |note, word, value| Bad::Value { note, word, value };
        assert_eq!(replaced(Kind::Fds, fd(0, 1)), value("Fds", "file", 1));
        assert_eq!(replaced(Kind::Fds, fd(1 << 40, 64)), value("Fds", "fd", 1 << 40));
        let vma = corenote::Vma { start: 0x1000, end: 0x1000, ..Default::default() };
        assert_eq!(replaced(Kind::Vmas, table(Kind::Vmas, [vma])), value("Vmas", "start", 0x1000));
        let thread = corenote::Thread { tid: 41, ..Default::default() };
        let threads = table(Kind::Threads, [thread, thread]);
        assert_eq!(replaced(Kind::Threads, threads), value("Threads", "the first tid", 41));
        let limit = corenote::Limit { resource: 7, soft: 2, hard: 1 };
        assert_eq!(
            replaced(Kind::Limits, table(Kind::Limits, [limit])),
            value("Limits", "soft", 2)
        );
        let pty = |change: fn(&mut corenote::Pty)| {
            table_with(Kind::Ptys, |to| {
                let cc_bytes = to.bytes(&[0; 19]).unwrap();
                let mut pty = corenote::Pty { id: 5, cc_bytes, ..Default::default() };
                change(&mut pty);
                to.push(pty);
            })
        };
        let ptys = |change| replaced(Kind::Ptys, pty(change));
        assert_eq!(ptys(|pty| pty.id = 6), value("Files", "the object of a master", 5));
        assert_eq!(ptys(|pty| pty.index = 4096), value("Ptys", "index", 4096));
        assert_eq!(ptys(|pty| pty.complete = 1), value("Ptys", "complete", 1));
        assert_eq!(ptys(|pty| pty.ends_bytes = 3), value("Ptys", "the number of ends", 3));
        assert_eq!(ptys(|pty| pty.rows = 1 << 16), value("Ptys", "rows", 1 << 16));
        assert!(matches!(ptys(|pty| pty.cc_bytes = 0), Bad::Header(_)));
        let nameless = |change: fn(&mut corenote::Nameless)| {
            let mut file = corenote::Nameless { id: 6, ..Default::default() };
            change(&mut file);
            replaced(Kind::Nameless, table(Kind::Nameless, [file]))
        };
        assert_eq!(nameless(|file| file.id = 0), value("Nameless", "id", 0));
        assert_eq!(nameless(|file| file.size = 1 << 63), value("Nameless", "size", 1 << 63));
        assert_eq!(nameless(|file| file.held = 1), value("Nameless", "held", 1));
        assert_eq!(nameless(|file| file.seals = 1 << 9), value("Nameless", "seals", 1 << 9));
        let bad = note(OWNER, Kind::Frames as u32, &[9; 20]);
        assert!(matches!(replaced(Kind::Frames, bad), Bad::Note(_, _)));
    }

    /// Whatever the bytes are, reading ends without a panic. Fixed seed.
    #[test]
    fn noise_is_understood_or_refused() {
        let mut state = 11_u32;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        for _ in 0..5_000 {
            let changes: Vec<u8> = (0..3 * (1 + usize::from(next() % 6))).map(|_| next()).collect();
            fuzz_one(&changes);
        }
    }
}

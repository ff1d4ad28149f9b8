//! A disk's pages over a driver made by hand, which answers at once.

use std::boxed::Box;
use std::sync::Mutex;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::cache::shrink_all;
use super::*;
use crate::fs::UserBuf;
use crate::mm::testing::setup;

/// A disk in the host's memory.
struct Ram {
    bytes: Mutex<Vec<u8>>,
    /// Requests of this kind fail.
    failing: Mutex<Option<Op>>,
    requests: Mutex<Vec<(Op, u64, u64)>>,
}

impl Driver for Ram {
    fn submit(&self, bio: Box<Bio>) {
        self.requests.lock().unwrap().push((bio.op, bio.sector, bio.bytes));
        if *self.failing.lock().unwrap() == Some(bio.op) {
            return bio.end(Err(Errno::EIO));
        }
        let mut bytes = self.bytes.lock().unwrap();
        let mut at = (bio.sector * SECTOR) as usize;
        assert!(at + bio.bytes as usize <= bytes.len() || bio.op == Op::Flush);
        for (start, len) in bio.pieces() {
            // SAFETY: a piece of a page that the request owns.
            let page = unsafe { core::slice::from_raw_parts_mut(start, len) };
            match bio.op {
                Op::Read => page.copy_from_slice(&bytes[at..at + len]),
                Op::Write => bytes[at..at + len].copy_from_slice(page),
                Op::Flush | Op::Discard => unreachable!("has no pages"),
            }
            at += len;
        }
        if bio.op == Op::Discard {
            bytes[at..at + bio.bytes as usize].fill(0xdd);
        }
        drop(bytes);
        bio.end(Ok(()));
    }
}

fn disk(size: usize) -> (&'static Ram, &'static Disk) {
    setup();
    let ram = Ram {
        bytes: Mutex::new((0..size).map(|i| (i % 241) as u8).collect()),
        failing: Mutex::new(None),
        requests: Mutex::new(vec![]),
    };
    let ram: &'static Ram = Box::leak(Box::new(ram));
    let has = Properties {
        size: size as u64,
        block_size: 512,
        read_only: false,
        can_discard: true,
        can_flush: true,
    };
    (ram, Box::leak(Box::new(Disk::new(*b"vdx", Dev::new(MAJOR, 0), ram, has))))
}

fn read(disk: &'static Disk, at: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut pos = at;
    let n = disk.read(&mut UserBuf::into_kernel(&mut bytes), &mut pos)?;
    bytes.truncate(n);
    Ok(bytes)
}

fn write(disk: &'static Disk, at: u64, bytes: &[u8]) -> Result<usize> {
    let mut pos = at;
    disk.write(&mut UserBuf::from_kernel(bytes), &mut pos)
}

#[test]
fn reading_goes_ahead_and_each_page_is_asked_for_once() {
    let (ram, disk) = disk(1 << 20);
    for page in 0..256 {
        let bytes = read(disk, page * 4096, 4096).unwrap();
        assert_eq!(bytes[5], ((page * 4096 + 5) % 241) as u8);
    }
    let requests = ram.requests.lock().unwrap();
    let asked: u64 = requests.iter().map(|(_, _, bytes)| bytes).sum();
    assert!(asked == 1 << 20 && requests.len() < 16, "{requests:?}");
}

#[test]
fn neighbours_are_stored_together_and_a_flush_follows() {
    let (ram, disk) = disk(1 << 20);
    write(disk, 8192, &[7; 40960]).unwrap();
    assert!(ram.requests.lock().unwrap().is_empty(), "whole pages are not read first");
    disk.sync().unwrap();
    assert_eq!(*ram.requests.lock().unwrap(), [(Op::Write, 16, 40960), (Op::Flush, 0, 0)]);
    assert!(ram.bytes.lock().unwrap()[8192..49152].iter().all(|byte| *byte == 7));
    disk.sync().unwrap();
    assert_eq!(ram.requests.lock().unwrap().len(), 3, "only a flush");
}

#[test]
fn an_error_of_reading_is_that_readers_and_the_next_one_tries_again() {
    let (ram, disk) = disk(65536);
    *ram.failing.lock().unwrap() = Some(Op::Read);
    assert_eq!(read(disk, 100, 10), Err(Errno::EIO));
    assert_eq!(write(disk, 100, b"x"), Err(Errno::EIO), "a part of a page needs the rest");
    *ram.failing.lock().unwrap() = None;
    assert_eq!(read(disk, 100, 2), Ok(vec![100, 101]));
}

#[test]
fn an_error_of_storing_is_told_once() {
    let (ram, disk) = disk(65536);
    write(disk, 0, &[1; 4096]).unwrap();
    *ram.failing.lock().unwrap() = Some(Op::Write);
    assert_eq!(disk.sync(), Err(Errno::EIO));
    *ram.failing.lock().unwrap() = None;
    assert_eq!(disk.sync(), Ok(()));
    *ram.failing.lock().unwrap() = Some(Op::Flush);
    assert_eq!(disk.sync(), Err(Errno::EIO));
}

#[test]
fn what_is_discarded_is_asked_for_again() {
    let (_, disk) = disk(65536);
    write(disk, 4096, &[1; 8192]).unwrap();
    disk.discard(4096, 4096).unwrap();
    assert_eq!(read(disk, 4096, 4097).unwrap(), [&[0xdd; 4096][..], &[1]].concat());
}

#[test]
fn the_end_of_the_disk_ends_reading_and_writing() {
    let (ram, disk) = disk(4096 + 512);
    assert_eq!(read(disk, 4600, 100).unwrap().len(), 8);
    assert_eq!(read(disk, 4608, 100), Ok(vec![]));
    assert_eq!(write(disk, 4096, &[9; 4096]), Ok(512));
    disk.sync().unwrap();
    assert_eq!(ram.bytes.lock().unwrap()[4096..], [9; 512]);
}

#[derive(Clone, Debug)]
enum Step {
    Read(usize, usize),
    Write(usize, Vec<u8>),
    Sync,
    Shrink,
    Forget,
}

const SIZE: usize = 100_000 / 512 * 512;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..SIZE, 0..20_000usize).prop_map(|(at, len)| Step::Read(at, len)),
        (0..SIZE, proptest::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(at, bytes)| Step::Write(at, bytes)),
        (0..SIZE / 4096, any::<u8>(), 1..12_000usize)
            .prop_map(|(page, byte, len)| Step::Write(page * 4096, vec![byte; len])),
        Just(Step::Sync),
        Just(Step::Shrink),
        Just(Step::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_holds_what_was_written_last(steps in proptest::collection::vec(step(), 1..60)) {
        let (ram, disk) = disk(SIZE);
        let mut model = ram.bytes.lock().unwrap().clone();
        for step in steps {
            match step {
                Step::Read(at, len) => {
                    let end = (at + len).min(SIZE);
                    prop_assert_eq!(read(disk, at as u64, len).unwrap(), &model[at..end]);
                }
                Step::Write(at, bytes) => {
                    let n = bytes.len().min(SIZE - at);
                    prop_assert_eq!(write(disk, at as u64, &bytes), Ok(n));
                    model[at..at + n].copy_from_slice(&bytes[..n]);
                }
                Step::Sync => {
                    disk.sync().unwrap();
                    prop_assert!(*ram.bytes.lock().unwrap() == model);
                }
                Step::Shrink => {
                    disk.cache.shrink(5, crate::mm::memcg::Protection::Min);
                }
                Step::Forget => disk.forget(0, SIZE as u64),
            }
        }
        disk.sync().unwrap();
        prop_assert!(*ram.bytes.lock().unwrap() == model);
        // The list of all disks does not know this one.
        prop_assert_eq!(shrink_all(), 0);
        disk.forget(0, SIZE as u64);
    }
}

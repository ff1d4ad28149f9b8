//! What goes into a pipe comes out of it.

use proptest::prelude::*;
use std::collections::VecDeque;

use super::*;
use crate::mm::testing;
use crate::ns::CapSet;

fn pipe() -> (PipeFile, PipeFile) {
    testing::setup();
    ends(&Cred::root()).unwrap()
}

fn write(end: &PipeFile, data: &[u8]) -> Result<usize> {
    end.pipe.write(true, false, &mut UserBuf::from_kernel(data))
}

fn read(end: &PipeFile, n: usize) -> Result<Vec<u8>> {
    let mut buf = vec![0; n];
    let got = end.pipe.read(true, &mut UserBuf::into_kernel(&mut buf))?;
    buf.truncate(got);
    Ok(buf)
}

#[test]
fn a_full_pipe_refuses_and_an_empty_one_has_nothing() {
    let (r, w) = pipe();
    assert_eq!(read(&r, 10), Err(Errno::EAGAIN));
    let big = vec![7; 100_000];
    assert_eq!(write(&w, &big), Ok(65536));
    assert_eq!(write(&w, b"x"), Err(Errno::EAGAIN));
    assert_eq!(w.pipe.len(), 65536);
    assert_eq!(read(&r, 5000).unwrap(), vec![7; 5000]);
    // One page is free: a write of up to PIPE_BUF bytes fits whole, a larger one in part.
    assert_eq!(write(&w, &big[..5000]), Ok(4096));
}

#[test]
fn what_a_socket_gave_has_its_room_in_the_pipe() {
    let (r, w) = pipe();
    let page = vec![7; PAGE_SIZE];
    write(&w, &page.repeat(14)).unwrap();
    let data: Vec<u8> = (0..PAGE_SIZE + 9).map(|n| n as u8).collect();
    // Another writer comes while the source is waited for.
    let mut source = |room: &mut UserBuf<'_>| {
        assert_eq!(write(&w, &page), Err(Errno::EAGAIN), "the room is taken");
        assert_eq!(read(&r, 2 * PAGE_SIZE).unwrap().len(), 2 * PAGE_SIZE);
        assert_eq!(write(&w, &page.repeat(4)), Ok(2 * PAGE_SIZE));
        room.put(&data)
    };
    assert_eq!(w.pipe.fill_from(1 << 20, true, false, &mut source), Ok(data.len()));
    assert_eq!(read(&r, 14 * PAGE_SIZE).unwrap(), page.repeat(14));
    assert_eq!(read(&r, 1 << 20).unwrap(), data);
    // What was not used is free again, also after an error.
    assert_eq!(
        w.pipe.fill_from(1 << 20, true, false, &mut |_| Err(Errno::EAGAIN)),
        Err(Errno::EAGAIN)
    );
    assert_eq!(write(&w, &page.repeat(20)), Ok(65536));
}

#[test]
fn small_writes_share_a_page_and_are_never_split() {
    let (r, w) = pipe();
    for _ in 0..16 * 2 {
        assert_eq!(write(&w, &[1; 2048]), Ok(2048));
    }
    assert_eq!(write(&w, &[1; 100]), Err(Errno::EAGAIN));
    read(&r, 2048).unwrap();
    assert_eq!(write(&w, &[1; 100]), Err(Errno::EAGAIN), "the page is still in use");
    read(&r, 2048).unwrap();
    assert_eq!(write(&w, &[1; 100]), Ok(100));
}

#[test]
fn closing_one_end_is_seen_at_the_other() {
    let (r, w) = pipe();
    write(&w, b"last").unwrap();
    drop(w);
    assert_eq!(read(&r, 10).unwrap(), b"last");
    assert_eq!(read(&r, 10).unwrap(), b"");
    let (r, w) = pipe();
    drop(r);
    assert_eq!(write(&w, b"x"), Err(Errno::EPIPE));
}

#[test]
fn packets_keep_their_borders() {
    let (r, w) = pipe();
    for packet in [&b"one"[..], b"three"] {
        w.pipe.write(true, true, &mut UserBuf::from_kernel(packet)).unwrap();
    }
    assert_eq!(read(&r, 100).unwrap(), b"one");
    assert_eq!(read(&r, 2).unwrap(), b"th");
    assert_eq!(read(&r, 100), Err(Errno::EAGAIN), "the rest of a packet is dropped");
}

#[test]
fn a_blocking_reader_and_writer_meet() {
    let (r, w) = pipe();
    let data: Vec<u8> = (0..300_000_u32).map(|i| (i * 7) as u8).collect();
    let sent = data.clone();
    let writer = std::thread::spawn(move || {
        let n = w.pipe.write(false, false, &mut UserBuf::from_kernel(&sent));
        assert_eq!(n, Ok(sent.len()));
    });
    let mut got = Vec::new();
    loop {
        let mut buf = [0; 7000];
        let n = r.pipe.read(false, &mut UserBuf::into_kernel(&mut buf)).unwrap();
        if n == 0 {
            break;
        }
        got.extend_from_slice(&buf[..n]);
    }
    writer.join().unwrap();
    assert!(got == data);
}

#[test]
fn the_size_changes_only_if_the_content_fits() {
    let (r, w) = pipe();
    let user = user(1);
    write(&w, &[1; 3 * 4096]).unwrap();
    assert_eq!(w.pipe.set_capacity(8192, &user), Err(Errno::EBUSY));
    assert_eq!(w.pipe.set_capacity(10_000, &user), Ok(16384));
    assert_eq!(w.pipe.capacity(), 16384);
    assert_eq!(write(&w, &[2; 9000]), Ok(4096));
    assert_eq!(read(&r, 1 << 16).unwrap().len(), 16384);
    assert_eq!(w.pipe.set_capacity(2 << 20, &user), Err(Errno::EPERM));
    assert_eq!(w.pipe.set_capacity(2 << 20, &Cred::root()), Ok(2 << 20));
}

/// Somebody without capabilities.
fn user(uid: u32) -> Cred {
    let none = CapSet::EMPTY;
    Cred { uid, cap_permitted: none, cap_effective: none, ..Cred::root() }
}

#[test]
fn pipes_of_a_user_above_the_limit_are_small_and_do_not_grow() {
    testing::setup();
    let (user, other) = (user(1000), user(1001));
    // As large as one may be: 256 slots, and 64 such pipes are the limit.
    let large: Vec<_> = (0..64).map(|_| ends(&user).unwrap()).collect();
    for (_, writer) in &large {
        assert_eq!(writer.pipe.set_capacity(1 << 20, &user), Ok(1 << 20));
    }
    let (_, small) = ends(&user).unwrap();
    assert_eq!(small.pipe.capacity(), 2 * PAGE_SIZE);
    assert_eq!(small.pipe.set_capacity(1 << 16, &user), Err(Errno::EPERM));
    assert_eq!(small.pipe.set_capacity(1 << 16, &Cred::root()), Ok(1 << 16));
    assert_eq!(small.pipe.set_capacity(1 << 12, &user), Ok(1 << 12));
    assert_eq!(ends(&other).unwrap().1.pipe.capacity(), 1 << 16);
    // A pipe that is gone does not count.
    drop(large);
    assert_eq!(ends(&user).unwrap().1.pipe.capacity(), 1 << 16);
    assert_eq!(small.pipe.set_capacity(1 << 16, &user), Ok(1 << 16));
}

#[test]
fn a_pipe_that_nobody_has_open_forgets_its_bytes_and_its_size() {
    testing::setup();
    let (pipe, user) = (Pipe::try_new().unwrap(), user(1002));
    assert_eq!(pipe.capacity(), 0);
    let both = || PipeFile::open(&pipe, (true, true), false, &user).unwrap();
    let first = both();
    assert_eq!(first.pipe.set_capacity(1 << 13, &user), Ok(1 << 13));
    write(&first, b"lost").unwrap();
    let second = both();
    drop(first);
    assert_eq!((pipe.len(), pipe.capacity()), (4, 1 << 13));
    drop(second);
    let third = both();
    assert_eq!((pipe.len(), pipe.capacity()), (0, 1 << 16));
    drop(third);
}

proptest! {
    #[test]
    fn bytes_come_out_in_order(
        steps in prop::collection::vec((any::<bool>(), 1..9000_usize), 1..60),
    ) {
        let (r, w) = pipe();
        let mut model = VecDeque::new();
        let mut next = 0_u8;
        for (is_write, n) in steps {
            if is_write {
                let data: Vec<u8> = (0..n).map(|i| next.wrapping_add(i as u8)).collect();
                match write(&w, &data) {
                    Ok(done) => {
                        prop_assert!(n > 4096 || done == n, "PIPE_BUF bytes go whole or not at all");
                        model.extend(&data[..done]);
                        next = next.wrapping_add(done as u8);
                    }
                    Err(error) => prop_assert_eq!(error, Errno::EAGAIN),
                }
            } else {
                match read(&r, n) {
                    Ok(got) => {
                        let expected: Vec<u8> = model.drain(..got.len()).collect();
                        prop_assert_eq!(got, expected);
                    }
                    Err(_) => prop_assert!(model.is_empty()),
                }
            }
            prop_assert_eq!(r.pipe.len(), model.len());
        }
    }
}

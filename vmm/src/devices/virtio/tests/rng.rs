//! The entropy device.

use super::simple;
use crate::devices::virtio::synthetic::{Buffer, DATA};

#[test]
fn request_is_filled_with_random_bytes() {
    let mut guest = simple();
    let mut rings = guest.start(0, 8);
    let head = rings[0].add(&[Buffer::Write(DATA, 40), Buffer::Write(DATA + 64, 24)]);
    guest.kick(&rings[0]);
    assert_eq!(rings[0].used(), Some((head, 64)));
    // Sixty-four zeros in a row do not happen.
    assert_ne!(guest.get(DATA, 40), [0; 40]);
    assert_ne!(guest.get(DATA + 64, 24), [0; 24]);
    assert_eq!(guest.get(DATA + 40, 24), [0; 24], "between the buffers");
}

#[test]
fn large_request_gets_a_bounded_answer() {
    let mut guest = simple();
    let mut rings = guest.start(0, 8);
    rings[0].add(&[Buffer::Write(DATA, 1 << 20)]);
    guest.kick(&rings[0]);
    assert_eq!(rings[0].used(), Some((0, 4096)));
    assert_eq!(guest.get(DATA + 4096, 4096), [0; 4096]);
}

#[test]
fn request_without_room_breaks_the_queue() {
    for buffers in [&[Buffer::Read(DATA, 64)][..], &[Buffer::Write(DATA, 0)]] {
        let mut guest = simple();
        let mut rings = guest.start(0, 8);
        rings[0].add(buffers);
        guest.kick(&rings[0]);
        assert!(guest.needs_reset());
    }
}

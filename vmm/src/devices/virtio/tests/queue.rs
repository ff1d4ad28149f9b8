//! Rings and chains, kept and broken.

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INTERRUPT_STATUS};
use virtio_bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use virtio_queue::desc::split::Descriptor;

use super::simple;
use crate::devices::virtio::synthetic::{BASE, Buffer, DATA, Guest, Ring, SIZE};

const NEXT: u16 = VRING_DESC_F_NEXT as u16;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;
const END: u64 = BASE + SIZE as u64;

#[test]
fn requests_are_served_in_order_past_the_end_of_the_ring() {
    for without in [0, 1 << VIRTIO_RING_F_EVENT_IDX] {
        let mut guest = simple();
        let mut rings = guest.start(without, 4);
        for round in 0..100 {
            let heads = [8, 16, 24].map(|length| rings[0].add(&[Buffer::Write(DATA, length)]));
            assert!(rings[0].wants_kick() || without == 0, "round {round}");
            guest.kick(&rings[0]);
            let used = [0; 3].map(|_| rings[0].used().unwrap());
            assert_eq!(used, [(heads[0], 8), (heads[1], 16), (heads[2], 24)], "round {round}");
        }
        assert_eq!(rings[0].used(), None);
        assert!(!guest.needs_reset());
    }
}

#[test]
fn indirect_table_is_one_request() {
    let mut guest = simple();
    let mut rings = guest.start(0, 4);
    let buffers = [Buffer::Write(DATA, 5), Buffer::Write(DATA + 100, 6), Buffer::Write(DATA, 7)];
    let head = rings[0].add_indirect(DATA + 0x1000, &buffers);
    guest.kick(&rings[0]);
    assert_eq!(rings[0].used(), Some((head, 18)));
}

#[test]
fn event_index_says_when_to_interrupt() {
    let mut guest = simple();
    let mut rings = guest.start(0, 8);
    rings[0].set_used_event(2);
    for (served, edges) in [(1, 0), (2, 0), (3, 1), (4, 0)] {
        rings[0].add(&[Buffer::Write(DATA, 8)]);
        guest.kick(&rings[0]);
        assert_eq!(guest.edges(), edges, "after {served}");
    }
}

#[test]
fn many_requests_cost_one_interrupt() {
    let mut guest = simple();
    let mut rings = guest.start(1 << VIRTIO_RING_F_EVENT_IDX, 8);
    for _ in 0..8 {
        rings[0].add(&[Buffer::Write(DATA, 8)]);
    }
    guest.kick(&rings[0]);
    assert_eq!(guest.edges(), 1);
}

#[test]
fn zero_length_buffers_are_passed_over() {
    let mut guest = simple();
    let mut rings = guest.start(0, 8);
    let none = Buffer::Write(DATA, 0);
    rings[0].add(&[none, Buffer::Write(DATA, 8), none, none, Buffer::Write(DATA + 8, 8), none]);
    guest.kick(&rings[0]);
    assert_eq!(rings[0].used(), Some((0, 16)));
}

/// Offers descriptor 0 after `lie` has written what it wants, and expects the device to stop.
fn lie(what: &str, lie: impl FnOnce(&Guest, &mut Ring)) {
    let mut guest = simple();
    let mut rings = guest.start(0, 8);
    let ring = &mut rings[0];
    lie(&guest, ring);
    guest.kick(ring);
    assert!(guest.needs_reset(), "{what}");
    assert_eq!(ring.used(), None, "{what}");
    assert_eq!(guest.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG, "{what}");
    assert_eq!(guest.edges(), 1, "{what}");
    let said = guest.said();
    assert_eq!(said.len(), 1, "{what}: {said:?}");
    assert!(said[0].starts_with("rng: the guest's driver broke a queue: "), "{said:?}");
    // It stays quiet, whatever comes, until it is reset; then it works.
    guest.kick(ring);
    assert_eq!((guest.edges(), guest.said().len()), (0, 0), "{what}");
    let mut rings = guest.start(0, 8);
    rings[0].add(&[Buffer::Write(DATA, 8)]);
    guest.kick(&rings[0]);
    assert_eq!(rings[0].used(), Some((0, 8)), "{what}");
}

/// The same with a chain of these descriptors.
fn lie_in_chain(what: &str, descriptors: &[Descriptor]) {
    lie(what, |_, ring| {
        for (at, &descriptor) in descriptors.iter().enumerate() {
            ring.describe(at as u16, descriptor);
        }
        ring.offer(0);
    });
}

#[test]
fn chain_that_loops_stops_the_device() {
    lie_in_chain("to itself", &[Descriptor::new(DATA, 8, WRITE | NEXT, 0)]);
    let back = Descriptor::new(DATA, 8, WRITE | NEXT, 0);
    lie_in_chain("to an earlier one", &[Descriptor::new(DATA, 8, WRITE | NEXT, 1), back]);
}

#[test]
fn chain_to_a_descriptor_that_does_not_exist_stops_the_device() {
    lie_in_chain("next", &[Descriptor::new(DATA, 8, WRITE | NEXT, 8)]);
    lie("head", |_, ring| ring.offer(8));
    lie("head", |_, ring| ring.offer(u16::MAX));
}

#[test]
fn buffer_outside_ram_stops_the_device() {
    for (address, length) in [
        (0, 8),
        (BASE - 4, 8),
        (END - 4, 8),
        (END, 1),
        (u64::MAX, 8),
        (u64::MAX - 7, 8),
        (DATA, u32::MAX),
    ] {
        lie_in_chain("outside", &[Descriptor::new(address, length, WRITE, 0)]);
    }
}

#[test]
fn buffer_to_read_after_one_to_write_stops_the_device() {
    let read = Descriptor::new(DATA, 8, 0, 0);
    lie_in_chain("order", &[Descriptor::new(DATA, 8, WRITE | NEXT, 1), read]);
}

#[test]
fn bad_indirect_tables_stop_the_device() {
    let table = |address, length| Descriptor::new(address, length, INDIRECT, 0);
    lie_in_chain("empty", &[table(DATA, 0)]);
    lie_in_chain("half a descriptor", &[table(DATA, 24)]);
    lie_in_chain("outside RAM", &[table(END, 16)]);
    lie_in_chain("more than there can be", &[table(DATA, 16 << 16)]);
    lie("nested", |guest, ring| {
        ring.describe(0, table(DATA, 16));
        let inner = Descriptor::new(DATA + 64, 16, INDIRECT, 0);
        guest.put(DATA, vm_memory::ByteValued::as_slice(&inner));
        ring.offer(0);
    });
    lie("longer than any request", |guest, ring| {
        let count = 2000;
        for at in 0..count {
            let next = Descriptor::new(DATA, 1, WRITE | NEXT, at + 1);
            guest.put(DATA + 0x1000 + 16 * u64::from(at), vm_memory::ByteValued::as_slice(&next));
        }
        ring.describe(0, table(DATA + 0x1000, 16 * u32::from(count)));
        ring.offer(0);
    });
}

#[test]
fn available_index_that_jumps_stops_the_device() {
    lie("nine of eight", |_, ring| ring.set_available_index(9));
    lie("backwards", |_, ring| ring.set_available_index(u16::MAX));
}

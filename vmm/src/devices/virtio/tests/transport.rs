//! The register window: negotiation, the status machine, reset.

use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::simple;
use crate::devices::MmioDevice;
use crate::devices::virtio::synthetic::{BASE, Buffer, DATA, Ring};

#[test]
fn identity_registers_name_a_modern_entropy_device() {
    let mut guest = simple();
    assert_eq!(guest.read(VIRTIO_MMIO_MAGIC_VALUE).to_le_bytes(), *b"virt");
    assert_eq!(guest.read(VIRTIO_MMIO_VERSION), 2);
    assert_eq!(guest.read(VIRTIO_MMIO_DEVICE_ID), 4);
    assert_eq!(guest.read(VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
    guest.write(VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_eq!(guest.read(VIRTIO_MMIO_QUEUE_NUM_MAX), 0, "there is no second queue");
    assert_eq!(guest.read(VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
}

#[test]
fn features_not_offered_are_not_agreed_to() {
    let mut guest = simple();
    let offered = guest.offered();
    assert!(guest.negotiate(offered));
    assert!(guest.negotiate(1 << VIRTIO_F_VERSION_1));
    assert!(!guest.negotiate(offered & !(1 << VIRTIO_F_VERSION_1)), "a legacy driver");
    assert!(!guest.negotiate(offered | 1 << 5));
    assert!(!guest.negotiate(offered | 1 << VIRTIO_F_RING_PACKED));
    assert!(guest.negotiate(offered), "a refusal is not for ever");
}

#[test]
fn status_advances_only_in_order_and_never_back() {
    let mut guest = simple();
    for early in [
        VIRTIO_CONFIG_S_DRIVER,
        VIRTIO_CONFIG_S_FEATURES_OK,
        VIRTIO_CONFIG_S_DRIVER_OK,
        VIRTIO_CONFIG_S_NEEDS_RESET,
    ] {
        assert_eq!(guest.advance(early), 0, "{early:#x}");
    }
    assert_eq!(guest.advance(VIRTIO_CONFIG_S_ACKNOWLEDGE), 1);
    assert_eq!(guest.advance(VIRTIO_CONFIG_S_DRIVER_OK), 1);
    assert_eq!(guest.advance(VIRTIO_CONFIG_S_DRIVER), 3);
    guest.write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_DRIVER);
    assert_eq!(guest.read(VIRTIO_MMIO_STATUS), 3, "a bit cannot be taken back");
    guest.write(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(guest.read(VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn features_are_frozen_once_agreed() {
    let mut guest = simple();
    let offered = guest.offered();
    assert!(guest.negotiate(offered & !(1 << VIRTIO_RING_F_EVENT_IDX)));
    guest.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    guest.write(VIRTIO_MMIO_DRIVER_FEATURES, offered as u32);
    let mut ring = Ring::new(0, 8, false, &guest.memory);
    guest.set_up(&ring);
    guest.advance(VIRTIO_CONFIG_S_DRIVER_OK);
    // Without the event index it is the flag that keeps interrupts away.
    ring.set_no_interrupt(true);
    ring.add(&[Buffer::Write(DATA, 8)]);
    guest.kick(&ring);
    assert!(ring.used().is_some());
    assert_eq!(guest.edges(), 0);
}

#[test]
fn queue_with_a_wrong_size_or_place_is_refused() {
    let right = |guest: &mut crate::devices::virtio::synthetic::Guest| {
        let ring = Ring::new(0, 8, true, &guest.memory);
        guest.write(VIRTIO_MMIO_QUEUE_NUM, 8);
        guest.write(VIRTIO_MMIO_QUEUE_DESC_LOW, ring.descriptors() as u32);
        guest.write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, ring.available() as u32);
        guest.write(VIRTIO_MMIO_QUEUE_USED_LOW, ring.used_ring() as u32);
    };
    for (register, value) in [
        (VIRTIO_MMIO_QUEUE_NUM, 0),
        (VIRTIO_MMIO_QUEUE_NUM, 12),
        (VIRTIO_MMIO_QUEUE_NUM, 128),
        (VIRTIO_MMIO_QUEUE_NUM, 0x1_0008),
        (VIRTIO_MMIO_QUEUE_DESC_LOW, BASE as u32 + 8),
        (VIRTIO_MMIO_QUEUE_DESC_LOW, 0),
        (VIRTIO_MMIO_QUEUE_DESC_HIGH, 0xffff_ffff),
        (VIRTIO_MMIO_QUEUE_AVAIL_LOW, BASE as u32 + 1),
        (VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 1),
        (VIRTIO_MMIO_QUEUE_USED_LOW, BASE as u32 + 2),
        (VIRTIO_MMIO_QUEUE_USED_LOW, 0xffff_fffc),
    ] {
        let mut guest = simple();
        let offered = guest.offered();
        assert!(guest.negotiate(offered));
        right(&mut guest);
        guest.write(register, value);
        guest.write(VIRTIO_MMIO_QUEUE_READY, 1);
        assert_eq!(guest.read(VIRTIO_MMIO_QUEUE_READY), 0, "{register:#x} {value:#x}");
        assert!(guest.needs_reset(), "{register:#x} {value:#x}");
        assert_eq!(guest.said().len(), 1, "{register:#x} {value:#x}");
    }
    let mut guest = simple();
    let offered = guest.offered();
    assert!(guest.negotiate(offered));
    right(&mut guest);
    guest.write(VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(guest.read(VIRTIO_MMIO_QUEUE_READY), 1);
    assert!(!guest.needs_reset());
}

#[test]
fn queue_registers_do_nothing_while_the_queue_is_in_use() {
    let mut guest = simple();
    let mut rings = guest.start(0, 8);
    guest.write(VIRTIO_MMIO_QUEUE_NUM, 3);
    guest.write(VIRTIO_MMIO_QUEUE_USED_LOW, 0);
    guest.write(VIRTIO_MMIO_QUEUE_READY, 1);
    rings[0].add(&[Buffer::Write(DATA, 8)]);
    guest.kick(&rings[0]);
    assert_eq!(rings[0].used(), Some((0, 8)));
    // A queue that was taken back is not served; a new one in its place is.
    guest.write(VIRTIO_MMIO_QUEUE_READY, 0);
    rings[0].add(&[Buffer::Write(DATA, 8)]);
    guest.kick(&rings[0]);
    assert_eq!(rings[0].used(), None);
    let mut ring = Ring::new(0, 8, true, &guest.memory);
    guest.set_up(&ring);
    ring.add(&[Buffer::Write(DATA, 8)]);
    guest.kick(&ring);
    assert_eq!(ring.used(), Some((0, 8)));
}

#[test]
fn interrupt_status_is_set_until_acknowledged() {
    let mut guest = simple();
    let mut rings = guest.start(0, 8);
    rings[0].add(&[Buffer::Write(DATA, 8)]);
    guest.kick(&rings[0]);
    assert_eq!(guest.edges(), 1);
    assert_eq!(guest.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
    guest.write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
    assert_eq!(guest.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn reset_with_requests_waiting_leaves_them_alone() {
    let mut guest = simple();
    let mut rings = guest.start(0, 8);
    rings[0].add(&[Buffer::Write(DATA, 8)]);
    guest.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    guest.write(VIRTIO_MMIO_STATUS, 0);
    guest.turn();
    assert_eq!(rings[0].used(), None);
    assert_eq!(guest.get(DATA, 8), [0; 8]);
    assert_eq!(guest.edges(), 0);
    assert_eq!(guest.read(VIRTIO_MMIO_QUEUE_READY), 0);
    let mut rings = guest.start(0, 8);
    rings[0].add(&[Buffer::Write(DATA, 8)]);
    guest.kick(&rings[0]);
    assert_eq!(rings[0].used(), Some((0, 8)));
}

#[test]
fn failed_driver_is_not_served() {
    let mut guest = simple();
    let mut rings = guest.start(0, 8);
    guest.advance(VIRTIO_CONFIG_S_FAILED);
    rings[0].add(&[Buffer::Write(DATA, 8)]);
    guest.kick(&rings[0]);
    assert_eq!(rings[0].used(), None);
}

#[test]
fn every_access_of_every_size_is_harmless() {
    let mut guest = simple();
    guest.start(0, 8);
    for size in 0..=16 {
        for offset in 0..0x220 {
            let mut data = vec![0xa5; size];
            guest.mmio.read(offset, &mut data);
            let control = offset < 0x100;
            if control && (size != 4 || offset % 4 != 0) {
                assert!(data.iter().all(|&byte| byte == 0), "{offset:#x} {size}");
            }
            guest.mmio.write(offset, &vec![0xff; size]);
        }
    }
    guest.mmio.read(u64::MAX, &mut [0; 8]);
    guest.mmio.write(u64::MAX, &[0; 8]);
    guest.turn();
    let mut rings = guest.start(0, 8);
    rings[0].add(&[Buffer::Write(DATA, 8)]);
    guest.kick(&rings[0]);
    assert_eq!(rings[0].used(), Some((0, 8)));
}

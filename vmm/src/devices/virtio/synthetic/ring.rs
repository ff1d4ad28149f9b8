//! The driver's side of one split virtqueue.

use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::super::Memory;
use super::BASE;

/// A buffer of a request.
#[derive(Clone, Copy, Debug)]
pub enum Buffer {
    /// The device reads it: address and length.
    Read(u64, u32),
    /// The device writes it.
    Write(u64, u32),
}

impl Buffer {
    fn descriptor(self, flags: u32, next: u16) -> Descriptor {
        match self {
            Self::Read(address, length) => Descriptor::new(address, length, flags as u16, next),
            Self::Write(address, length) => {
                Descriptor::new(address, length, (flags | VRING_DESC_F_WRITE) as u16, next)
            }
        }
    }
}

/// One queue, its rings at an address that its number gives.
pub struct Ring {
    /// Its number.
    pub queue: usize,
    /// Its entries.
    pub size: u16,
    event_idx: bool,
    memory: Memory,
    next_descriptor: u16,
    next_used: u16,
}

impl Ring {
    /// Empties the rings of queue `queue` in `memory`.
    pub fn new(queue: usize, size: u16, event_idx: bool, memory: &Memory) -> Self {
        let memory = memory.clone();
        let ring = Self { queue, size, event_idx, memory, next_descriptor: 0, next_used: 0 };
        let empty = [0; 0x4000];
        ring.memory.write_slice(&empty, GuestAddress(ring.descriptors())).expect("rings in RAM");
        ring
    }

    /// The address of the descriptor table.
    pub fn descriptors(&self) -> u64 {
        BASE + 0x1000 + self.queue as u64 * 0x4000
    }

    /// The address of the available ring.
    pub fn available(&self) -> u64 {
        self.descriptors() + 0x1000
    }

    /// The address of the used ring.
    pub fn used_ring(&self) -> u64 {
        self.descriptors() + 0x2000
    }

    fn put<T: ByteValued>(&self, address: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(address)).expect("rings in RAM");
    }

    fn get<T: ByteValued>(&self, address: u64) -> T {
        self.memory.read_obj(GuestAddress(address)).expect("rings in RAM")
    }

    /// Writes one descriptor.
    pub fn describe(&self, index: u16, descriptor: Descriptor) {
        self.put(self.descriptors() + 16 * u64::from(index), descriptor);
    }

    /// Makes a request of these buffers available; says at which descriptor it starts.
    pub fn add(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.next_descriptor % self.size;
        for (at, &buffer) in buffers.iter().enumerate() {
            let index = self.next_descriptor % self.size;
            self.next_descriptor = self.next_descriptor.wrapping_add(1);
            let flags = if at + 1 < buffers.len() { VRING_DESC_F_NEXT } else { 0 };
            self.describe(index, buffer.descriptor(flags, self.next_descriptor % self.size));
        }
        self.offer(head);
        head
    }

    /// The same through a table of descriptors at `table`.
    pub fn add_indirect(&mut self, table: u64, buffers: &[Buffer]) -> u16 {
        for (at, &buffer) in buffers.iter().enumerate() {
            let flags = if at + 1 < buffers.len() { VRING_DESC_F_NEXT } else { 0 };
            self.put(table + 16 * at as u64, buffer.descriptor(flags, at as u16 + 1));
        }
        let head = self.next_descriptor % self.size;
        self.next_descriptor = self.next_descriptor.wrapping_add(1);
        let length = 16 * buffers.len() as u32;
        self.describe(head, Descriptor::new(table, length, VRING_DESC_F_INDIRECT as u16, 0));
        self.offer(head);
        head
    }

    /// Puts `head` into the available ring, whatever it is.
    pub fn offer(&mut self, head: u16) {
        let index: u16 = self.get(self.available() + 2);
        self.put(self.available() + 4 + 2 * u64::from(index % self.size), head);
        fence(Ordering::SeqCst);
        self.put(self.available() + 2, index.wrapping_add(1));
    }

    /// Writes the available ring's index, whatever it is.
    pub fn set_available_index(&mut self, index: u16) {
        self.put(self.available() + 2, index);
    }

    /// "No interrupts, please": the flag that holds without the event index.
    pub fn set_no_interrupt(&mut self, on: bool) {
        self.put(self.available(), u16::from(on));
    }

    /// "Interrupt me once the used index passes this": holds with the event index.
    pub fn set_used_event(&mut self, index: u16) {
        self.put(self.available() + 4 + 2 * u64::from(self.size), index);
    }

    /// Whether the device wants to be notified of what was made available last.
    pub fn wants_kick(&self) -> bool {
        let index: u16 = self.get(self.available() + 2);
        match self.event_idx {
            true => {
                let event: u16 = self.get(self.used_ring() + 4 + 8 * u64::from(self.size));
                event == index.wrapping_sub(1)
            }
            false => self.get::<u16>(self.used_ring()) & 1 == 0,
        }
    }

    /// The next request that the device is done with: its first descriptor and the bytes written.
    pub fn used(&mut self) -> Option<(u16, u32)> {
        let index: u16 = self.get(self.used_ring() + 2);
        if index == self.next_used {
            return None;
        }
        let at = self.used_ring() + 4 + 8 * u64::from(self.next_used % self.size);
        self.next_used = self.next_used.wrapping_add(1);
        Some((self.get::<u32>(at) as u16, self.get(at + 4)))
    }
}

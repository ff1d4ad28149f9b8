//! What the crate `virtio-drivers` needs of this kernel: frames that devices may touch.
//!
//! Devices see guest physical addresses, and their accesses are coherent with the CPU's caches, as those
//! of every virtual machine's devices are; so sharing memory with one is only naming its address.

use core::ptr::NonNull;

use virtio_drivers::{BufferDirection, PhysAddr as DeviceAddr};

use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::arch;
use crate::mm::{AllocFlags, FrameRef, PageKind, alloc_pages};

/// This kernel.
pub enum Hal {}

// SAFETY: `dma_alloc` hands out fresh, zeroed frames of the linear map and forgets them, so nothing else
// reaches them until `dma_dealloc` takes them back.
unsafe impl virtio_drivers::Hal for Hal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (DeviceAddr, NonNull<u8>) {
        let order = pages.next_power_of_two().trailing_zeros() as usize;
        match alloc_pages(order, PageKind::Kernel, AllocFlags::ZERO) {
            Ok(frames) => {
                let start = frames.as_ptr();
                // The linear map holds no address 0.
                (frames.into_phys().0, NonNull::new(start).unwrap_or(NonNull::dangling()))
            }
            // The crate takes address 0 for "no memory".
            Err(_) => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(start: DeviceAddr, _: NonNull<u8>, _: usize) -> i32 {
        // SAFETY: `dma_alloc` gave the reference away, and the caller gives it back once.
        drop(unsafe { FrameRef::from_phys(PhysAddr(start)) });
        0
    }

    unsafe fn mmio_phys_to_virt(start: DeviceAddr, _: usize) -> NonNull<u8> {
        NonNull::new(arch::phys_to_virt(PhysAddr(start))).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> DeviceAddr {
        arch::virt_to_phys(buffer.as_ptr().cast_const().cast::<u8>()).0
    }

    unsafe fn unshare(_: DeviceAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

const _: () = assert!(PAGE_SIZE == virtio_drivers::PAGE_SIZE, "the crate's page is ours");

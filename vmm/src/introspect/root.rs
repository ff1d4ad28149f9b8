//! Finds the root page in raw RAM and reads it.
//!
//! The kernel runs from RAM base + 2 MiB, and its Image header says where the page is. If the header
//! is gone (nothing forbids a boot loader to put the image elsewhere), RAM is searched for a page that
//! begins with the magic and whose own words lead back to it.

use std::mem::offset_of;

use belljar_abi::image::{HEADER_LEN, Header};
use belljar_abi::root::{
    BootState, Console, ExitState, MAGIC, PANIC_MESSAGE_SIZE, RootPage, VERSION,
};

use super::error::{Error, Result};
use crate::target::{PAGE_SIZE, Ram};

/// Where the kernel image lies from the start of RAM.
const IMAGE_OFFSET: u64 = 2 << 20;

/// The root page, copied out of the guest at one moment.
#[derive(Clone)]
pub struct Root {
    bytes: Box<[u8; PAGE_SIZE as usize]>,
    phys: u64,
}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident: $read:ident -> $ty:ty;)*) => { $(
        $(#[$doc])*
        pub fn $name(&self) -> $ty {
            self.$read(offset_of!(RootPage, $name))
        }
    )* };
}

impl Root {
    /// Finds the page.
    pub fn find(ram: &dyn Ram) -> Result<Self> {
        for range in ram.ranges() {
            let image = range.start.saturating_add(IMAGE_OFFSET);
            if let Some(phys) = page_by_header(ram, image)
                && let Some(root) = Self::read_at(ram, phys)
            {
                return root.checked();
            }
        }
        for range in ram.ranges() {
            let mut page = range.start.next_multiple_of(PAGE_SIZE);
            while page < range.end {
                let mut magic = [0; MAGIC.len()];
                if ram.read(page, &mut magic).is_ok()
                    && magic == MAGIC
                    && let Some(root) = Self::read_at(ram, page)
                    && page_by_header(ram, root.image_phys()) == Some(page)
                {
                    return root.checked();
                }
                page += PAGE_SIZE;
            }
        }
        Err(Error::NoRoot)
    }

    /// Reads the page at a known place; `None` if there is none.
    pub fn read_at(ram: &dyn Ram, phys: u64) -> Option<Self> {
        let mut bytes = Box::new([0; PAGE_SIZE as usize]);
        ram.read(phys, &mut bytes[..]).ok()?;
        bytes.starts_with(&MAGIC).then_some(Self { bytes, phys })
    }

    fn checked(self) -> Result<Self> {
        match self.version() {
            VERSION => Ok(self),
            found => Err(Error::RootVersion { found }),
        }
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes of the page"))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("four bytes of the page"))
    }

    fn i32(&self, at: usize) -> i32 {
        self.u32(at) as i32
    }

    /// Where the page lies.
    pub fn phys(&self) -> u64 {
        self.phys
    }

    words! {
        /// Version of the page.
        version: u32 -> u32;
        /// Where the image is mapped.
        image_virt: u64 -> u64;
        /// Where the image lies.
        image_phys: u64 -> u64;
        /// Bytes of the image.
        image_size: u64 -> u64;
        /// Virtual minus physical in the linear map.
        linear_offset: u64 -> u64;
        /// Physical address of the kernel's level-0 table.
        kernel_pgd_phys: u64 -> u64;
        /// Address of the task list's head.
        task_list: u64 -> u64;
        /// Address of the head of the list of namespaces.
        namespaces: u64 -> u64;
        /// Address of the task list's sequence count.
        task_list_seq: u64 -> u64;
        /// Address of the boot CPU's idle task.
        init_task: u64 -> u64;
        /// Address of CPU 0's run queue.
        run_queues: u64 -> u64;
        /// Bytes between run queues.
        run_queue_stride: u64 -> u64;
        /// CPUs that are up.
        cpus: u64 -> u64;
        /// Address of the frame table.
        frame_table: u64 -> u64;
        /// Records in the frame table.
        frame_count: u64 -> u64;
        /// Frame number of the first record.
        frame_base_pfn: u64 -> u64;
        /// Address of the log ring.
        log_ring: u64 -> u64;
        /// Address of the layout note.
        layout: u64 -> u64;
        /// Bytes of the layout note's table.
        layout_size: u64 -> u64;
        /// Version of the layout note.
        layout_version: u32 -> u32;
        /// Physical address of the payload behind the image.
        payload_phys: u64 -> u64;
        /// Bytes of the payload.
        payload_size: u64 -> u64;
        /// 1 while the kernel is frozen.
        frozen: u32 -> u32;
        /// CLOCK_MONOTONIC when it froze, in nanoseconds.
        frozen_monotonic: u64 -> u64;
        /// Where frozen memory goes on.
        thaw_entry: u64 -> u64;
        /// Ticks of the counter in a second, noted when it froze.
        counter_frequency: u64 -> u64;
        /// AT_HWCAP as programs were shown it, noted when it froze.
        hwcap: u64 -> u64;
        /// How many times the memory was thawed.
        generation: u64 -> u64;
        /// Init's wait status once it ended.
        exit_status: i32 -> i32;
    }

    /// The build id.
    pub fn build_id(&self) -> &[u8] {
        let at = offset_of!(RootPage, build_id);
        let len = self.u32(offset_of!(RootPage, build_id_len)).min(32) as usize;
        &self.bytes[at..at + len]
    }

    /// Whether the kernel has come at least as far as `state`.
    pub fn has_reached(&self, state: BootState) -> bool {
        self.u32(offset_of!(RootPage, boot_state)) >= state as u32
    }

    /// Which device is the kernel's console, once it takes input. A kernel too old to say has the UART.
    pub fn console(&self) -> Console {
        let at = offset_of!(RootPage, console);
        if self.u32(offset_of!(RootPage, size)) as usize >= at + 4 {
            Console::from_u32(self.u32(at))
        } else if self.has_reached(BootState::Memory) {
            Console::Uart
        } else {
            Console::None
        }
    }

    /// Whether the kernel runs, has ended or has panicked; an unknown number counts as running.
    pub fn exit_state(&self) -> ExitState {
        let value = self.u32(offset_of!(RootPage, exit_state));
        ExitState::from_u32(value).unwrap_or(ExitState::Running)
    }

    /// What the kernel panicked of, made printable by the caller.
    pub fn panic_message(&self) -> String {
        let at = offset_of!(RootPage, panic_message);
        let bytes = &self.bytes[at..at + PANIC_MESSAGE_SIZE];
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }
}

/// Where the Image header at `image` says that its root page is.
fn page_by_header(ram: &dyn Ram, image: u64) -> Option<u64> {
    let mut bytes = [0; HEADER_LEN];
    ram.read(image, &mut bytes).ok()?;
    let header = Header::read(&bytes).ok()?;
    let page = image.checked_add(header.root_page)?;
    (header.root_page != 0 && page % PAGE_SIZE == 0).then_some(page)
}

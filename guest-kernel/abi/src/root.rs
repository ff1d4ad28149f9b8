//! The root page: where an observer of raw RAM begins.
//!
//! One page of the kernel image. Its offset from the image's start stands in the `res2` word of the
//! arm64 Image header, so the VMM finds it with no symbols. The kernel fills it while it boots; every
//! field is an atomic, because the VMM may look at any moment, and 0 means "not yet".
//!
//! Addresses are kernel virtual addresses unless the name says `phys`.

use core::mem::offset_of;
use core::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// First eight bytes of the page.
pub const MAGIC: [u8; 8] = *b"BELLJAR1";
/// Version of the page. A reader refuses another one by name.
pub const VERSION: u32 = 1;
/// Bytes and alignment of the page.
pub const SIZE: usize = 4096;
/// Bytes of the panic message buffer.
pub const PANIC_MESSAGE_SIZE: usize = 1024;

/// How far the kernel has come. Later values include the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum BootState {
    /// Nothing in the page but the constants is valid.
    Early = 0,
    /// Page tables, frame table and log can be read.
    Memory = 1,
    /// The task list and run queues exist.
    Tasks = 2,
    /// Init runs at EL0.
    Init = 3,
}

/// Whether the kernel still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ExitState {
    /// It runs (or has not started).
    Running = 0,
    /// It powered off in order; `exit_status` holds init's wait status.
    Exited = 1,
    /// It died; `panic_message` says of what.
    Panicked = 2,
    /// Memory that was frozen in another machine could not go on in this one; `panic_message` says why.
    NotResumed = 3,
}

impl ExitState {
    /// The state with that number.
    pub const fn from_u32(value: u32) -> Option<Self> {
        Some(match value {
            0 => Self::Running,
            1 => Self::Exited,
            2 => Self::Panicked,
            3 => Self::NotResumed,
            _ => return None,
        })
    }
}

/// Which device is the kernel's console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Console {
    /// Not known yet.
    None = 0,
    /// The UART.
    Uart = 1,
    /// Port 0 of the virtio console.
    Virtio = 2,
}

impl Console {
    /// The device with that number.
    pub const fn from_u32(value: u32) -> Self {
        match value {
            1 => Self::Uart,
            2 => Self::Virtio,
            _ => Self::None,
        }
    }
}

/// The page itself.
#[repr(C, align(4096))]
pub struct RootPage {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: u32,
    /// Bytes of this structure that mean something.
    pub size: u32,
    /// Build id of the kernel, zero-padded. The kernel ELF of the same build carries it as its GNU note.
    pub build_id: [AtomicU8; 32],
    /// Bytes of `build_id` in use.
    pub build_id_len: AtomicU32,
    /// [`BootState`].
    pub boot_state: AtomicU32,

    /// Where the image is mapped.
    pub image_virt: AtomicU64,
    /// Where the image lies.
    pub image_phys: AtomicU64,
    /// Bytes of the image in memory, .bss included.
    pub image_size: AtomicU64,
    /// Linear map: virtual = physical + this (wrapping).
    pub linear_offset: AtomicU64,
    /// First physical address of RAM.
    pub ram_phys: AtomicU64,
    /// Bytes of RAM.
    pub ram_size: AtomicU64,
    /// Physical address of the kernel's level-0 table (TTBR1_EL1).
    pub kernel_pgd_phys: AtomicU64,
    /// Virtual address bits of each half (64 - TxSZ).
    pub va_bits: AtomicU32,
    /// log2 of the page size.
    pub page_shift: AtomicU32,

    /// Address of the task list's head, a `Link`; its elements are `Task` through `tasks`.
    pub task_list: AtomicU64,
    /// Address of the sequence count of the task list.
    pub task_list_seq: AtomicU64,
    /// Address of init's namespace-less ancestor, the boot CPU's idle task.
    pub init_task: AtomicU64,
    /// Address of the PID hash: an array of list heads.
    pub pid_hash: AtomicU64,
    /// Heads in the PID hash.
    pub pid_hash_len: AtomicU64,

    /// Address of CPU 0's `RunQueue`.
    pub run_queues: AtomicU64,
    /// Bytes from one CPU's `RunQueue` to the next.
    pub run_queue_stride: AtomicU64,
    /// CPUs that are up.
    pub cpus: AtomicU64,

    /// Address of the frame table, an array of `Page`.
    pub frame_table: AtomicU64,
    /// Records in the frame table.
    pub frame_count: AtomicU64,
    /// Frame number of the first record.
    pub frame_base_pfn: AtomicU64,

    /// Address of the log ring, a [`LogRing`].
    pub log_ring: AtomicU64,
    /// Bytes of text that the ring holds.
    pub log_size: AtomicU64,

    /// Address of the head of the list of namespaces: `NsCommon`s linked through `all`.
    pub namespaces: AtomicU64,
    /// Reserved: address of the trace rings.
    pub trace_rings: AtomicU64,

    /// Address of the layout note: an array of pointers to `TypeDesc`.
    pub layout: AtomicU64,
    /// Bytes of that array.
    pub layout_size: AtomicU64,
    /// [`crate::layout::VERSION`].
    pub layout_version: AtomicU32,
    /// 1 while the machine is frozen into memory: every CPU's context is in RAM, nothing changes RAM but
    /// what waits for `release`. 0 otherwise.
    pub frozen: AtomicU32,

    /// Physical address of the payload that follows the image (symbols, initramfs), or 0.
    pub payload_phys: AtomicU64,
    /// Bytes of the payload.
    pub payload_size: AtomicU64,

    /// [`ExitState`].
    pub exit_state: AtomicU32,
    /// Init's wait status, as waitpid(2) encodes it.
    pub exit_status: AtomicI32,
    /// The panic message, ended by a NUL.
    pub panic_message: [AtomicU8; PANIC_MESSAGE_SIZE],

    /// Where a CPU goes on with frozen memory: physical, entered at EL2 or EL1 with the MMU off, x0 = the
    /// device tree's physical address, or 0 for one at the start of RAM.
    pub thaw_entry: AtomicU64,
    /// CLOCK_MONOTONIC when the machine froze, in ns.
    pub frozen_monotonic: AtomicU64,
    /// CLOCK_REALTIME when the machine froze, in ns since 1970.
    pub frozen_realtime: AtomicU64,
    /// Ticks of the counter in a second. A machine with another frequency cannot go on with this memory.
    pub counter_frequency: AtomicU64,
    /// AT_HWCAP as programs were shown it.
    pub hwcap: AtomicU64,
    /// AT_HWCAP2 as programs were shown it.
    pub hwcap2: AtomicU64,
    /// How many times this memory was thawed; copies count on from what their original had.
    pub generation: AtomicU64,
    /// The VMM stores the sequence number of a [`Freeze`](crate::control::Message::Freeze) to let this very
    /// machine go on that froze for it, or that will: one that comes to rest too late does not stand still.
    /// The kernel clears it where it thaws, for the next VMM counts anew.
    pub release: AtomicU32,
    /// How many times the machine was frozen.
    pub freezes: AtomicU32,
    /// What the VMM tells a copy before it starts.
    pub copy: CopyNote,
    /// [`Console`], from when it takes input.
    pub console: AtomicU32,
    /// CTR_EL0 as programs have read it: of CPUs that differ, what all of them do. 0 until the machine froze.
    pub ctr: AtomicU64,
    /// DCZID_EL0 as programs have read it.
    pub dczid: AtomicU64,
}

/// Bytes of [`CopyNote::seed`].
pub const COPY_SEED_SIZE: usize = 64;

/// What a copy learns from who started it: written into its memory, and into no other's, before its
/// first instruction.
#[repr(C)]
pub struct CopyNote {
    /// Which copy this is, counted from 1 by whoever makes several of one snapshot; 0 if nobody said.
    pub number: AtomicU64,
    /// Random bytes that no other copy gets. The kernel erases them when it has used them.
    pub seed: [AtomicU8; COPY_SEED_SIZE],
}

impl CopyNote {
    /// Bytes of the note in memory: the number, little endian, then the seed.
    pub const SIZE: usize = 8 + COPY_SEED_SIZE;

    const fn new() -> Self {
        Self { number: AtomicU64::new(0), seed: [const { AtomicU8::new(0) }; COPY_SEED_SIZE] }
    }

    /// The note's bytes.
    pub fn bytes(number: u64, seed: &[u8; COPY_SEED_SIZE]) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes[8..].copy_from_slice(seed);
        bytes
    }

    /// Takes the number and the seed out; neither can be read again.
    pub fn take(&self) -> (u64, [u8; COPY_SEED_SIZE]) {
        let mut seed = [0; COPY_SEED_SIZE];
        for (to, from) in seed.iter_mut().zip(&self.seed) {
            *to = from.swap(0, Ordering::Relaxed);
        }
        (self.number.swap(0, Ordering::Relaxed), seed)
    }
}

// Tripwires. The page is read by VMMs of other versions: raise `VERSION` if an offset below changes,
// and add new fields at the end only.
const _: () = {
    assert!(size_of::<RootPage>() == SIZE, "the root page is one page");
    assert!(offset_of!(RootPage, magic) == 0, "root page: magic");
    assert!(offset_of!(RootPage, version) == 8, "root page: version");
    assert!(offset_of!(RootPage, build_id) == 16, "root page: build_id");
    assert!(offset_of!(RootPage, boot_state) == 52, "root page: boot_state");
    assert!(offset_of!(RootPage, image_virt) == 56, "root page: image_virt");
    assert!(offset_of!(RootPage, kernel_pgd_phys) == 104, "root page: kernel_pgd_phys");
    assert!(offset_of!(RootPage, task_list) == 120, "root page: task_list");
    assert!(offset_of!(RootPage, run_queues) == 160, "root page: run_queues");
    assert!(offset_of!(RootPage, frame_table) == 184, "root page: frame_table");
    assert!(offset_of!(RootPage, log_ring) == 208, "root page: log_ring");
    assert!(offset_of!(RootPage, layout) == 240, "root page: layout");
    assert!(offset_of!(RootPage, payload_phys) == 264, "root page: payload_phys");
    assert!(offset_of!(RootPage, exit_state) == 280, "root page: exit_state");
    assert!(offset_of!(RootPage, panic_message) == 288, "root page: panic_message");
    assert!(offset_of!(RootPage, frozen) == 260, "root page: frozen");
    assert!(offset_of!(RootPage, thaw_entry) == 1312, "root page: thaw_entry");
    assert!(offset_of!(RootPage, frozen_monotonic) == 1320, "root page: frozen_monotonic");
    assert!(offset_of!(RootPage, frozen_realtime) == 1328, "root page: frozen_realtime");
    assert!(offset_of!(RootPage, counter_frequency) == 1336, "root page: counter_frequency");
    assert!(offset_of!(RootPage, hwcap) == 1344, "root page: hwcap");
    assert!(offset_of!(RootPage, generation) == 1360, "root page: generation");
    assert!(offset_of!(RootPage, release) == 1368, "root page: release");
    assert!(offset_of!(RootPage, copy) == 1376, "root page: copy");
    assert!(offset_of!(CopyNote, seed) == 8, "copy note: the number, then the seed");
    assert!(size_of::<CopyNote>() == CopyNote::SIZE, "copy note: nothing behind the seed");
    assert!(offset_of!(RootPage, console) == 1448, "root page: console");
    assert!(offset_of!(RootPage, ctr) == 1456, "root page: ctr");
    assert!(offset_of!(RootPage, dczid) == 1464, "root page: dczid");
};

impl RootPage {
    /// A page with the constants filled in and everything else 0.
    #[allow(clippy::new_without_default, reason = "made once, in a static")]
    pub const fn new() -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            size: (offset_of!(Self, dczid) + size_of::<AtomicU64>()) as u32,
            build_id: [const { AtomicU8::new(0) }; 32],
            build_id_len: AtomicU32::new(0),
            boot_state: AtomicU32::new(BootState::Early as u32),
            image_virt: AtomicU64::new(0),
            image_phys: AtomicU64::new(0),
            image_size: AtomicU64::new(0),
            linear_offset: AtomicU64::new(0),
            ram_phys: AtomicU64::new(0),
            ram_size: AtomicU64::new(0),
            kernel_pgd_phys: AtomicU64::new(0),
            va_bits: AtomicU32::new(0),
            page_shift: AtomicU32::new(0),
            task_list: AtomicU64::new(0),
            task_list_seq: AtomicU64::new(0),
            init_task: AtomicU64::new(0),
            pid_hash: AtomicU64::new(0),
            pid_hash_len: AtomicU64::new(0),
            run_queues: AtomicU64::new(0),
            run_queue_stride: AtomicU64::new(0),
            cpus: AtomicU64::new(0),
            frame_table: AtomicU64::new(0),
            frame_count: AtomicU64::new(0),
            frame_base_pfn: AtomicU64::new(0),
            log_ring: AtomicU64::new(0),
            log_size: AtomicU64::new(0),
            namespaces: AtomicU64::new(0),
            trace_rings: AtomicU64::new(0),
            layout: AtomicU64::new(0),
            layout_size: AtomicU64::new(0),
            layout_version: AtomicU32::new(crate::layout::VERSION),
            frozen: AtomicU32::new(0),
            payload_phys: AtomicU64::new(0),
            payload_size: AtomicU64::new(0),
            exit_state: AtomicU32::new(ExitState::Running as u32),
            exit_status: AtomicI32::new(0),
            panic_message: [const { AtomicU8::new(0) }; PANIC_MESSAGE_SIZE],
            thaw_entry: AtomicU64::new(0),
            frozen_monotonic: AtomicU64::new(0),
            frozen_realtime: AtomicU64::new(0),
            counter_frequency: AtomicU64::new(0),
            hwcap: AtomicU64::new(0),
            hwcap2: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            release: AtomicU32::new(0),
            freezes: AtomicU32::new(0),
            copy: CopyNote::new(),
            console: AtomicU32::new(Console::None as u32),
            ctr: AtomicU64::new(0),
            dczid: AtomicU64::new(0),
        }
    }

    /// Records that everything up to `state` can be read now.
    pub fn set_boot_state(&self, state: BootState) {
        self.boot_state.store(state as u32, Ordering::Release);
    }

    /// Records which device is the console, now that it takes input.
    pub fn set_console(&self, console: Console) {
        self.console.store(console as u32, Ordering::Release);
    }

    /// Records an orderly end with init's wait status.
    pub fn set_exited(&self, wait_status: i32) {
        self.exit_status.store(wait_status, Ordering::Relaxed);
        self.exit_state.store(ExitState::Exited as u32, Ordering::Release);
    }

    /// Leaves the words in which the user is told of a panic that is about to come; `set_panicked` keeps
    /// them. Cut to the buffer.
    pub fn set_panic_message(&self, message: &str) {
        let bytes = message.bytes().take(PANIC_MESSAGE_SIZE - 1).chain(core::iter::once(0));
        for (slot, byte) in self.panic_message.iter().zip(bytes) {
            slot.store(byte, Ordering::Relaxed);
        }
    }

    /// Records a panic. The first message stays.
    pub fn set_panicked(&self, message: &str) {
        if self.panic_message[0].load(Ordering::Relaxed) == 0 {
            self.set_panic_message(message);
        }
        self.exit_state.store(ExitState::Panicked as u32, Ordering::Release);
    }

    /// Records that this machine cannot go on with the memory; `set_panic_message` said why.
    pub fn set_not_resumed(&self) {
        self.exit_state.store(ExitState::NotResumed as u32, Ordering::Release);
    }

    /// Stores the build id, cut to the field.
    pub fn set_build_id(&self, id: &[u8]) {
        for (slot, byte) in self.build_id.iter().zip(id) {
            slot.store(*byte, Ordering::Relaxed);
        }
        self.build_id_len.store(id.len().min(self.build_id.len()) as u32, Ordering::Release);
    }
}

/// The kernel log: the last `N` bytes of everything logged.
#[repr(C)]
pub struct LogRing<const N: usize> {
    /// `N`.
    pub size: u64,
    /// Bytes ever written; the next one goes to `bytes[head % size]`.
    pub head: AtomicU64,
    /// The text.
    pub bytes: [AtomicU8; N],
}

const _: () =
    assert!(offset_of!(LogRing<4096>, bytes) == 16, "log ring: size, head, then the text");

impl<const N: usize> LogRing<N> {
    /// An empty ring.
    #[allow(clippy::new_without_default, reason = "made once, in a static")]
    pub const fn new() -> Self {
        Self { size: N as u64, head: AtomicU64::new(0), bytes: [const { AtomicU8::new(0) }; N] }
    }

    /// Appends text. Writers that may meet take turns by reserving their bytes first.
    pub fn append(&self, text: &[u8]) {
        let start = self.head.fetch_add(text.len() as u64, Ordering::AcqRel);
        for (i, byte) in text.iter().enumerate() {
            let at = (start + i as u64) % N as u64;
            self.bytes[at as usize].store(*byte, Ordering::Relaxed);
        }
    }
}

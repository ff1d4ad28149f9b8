//! A guest made up for tests and for the fuzzer: RAM with a root page, a layout note from real
//! `#[derive(Described)]` structures, three processes, page tables and a log.
//!
//! The structures have the kernel's names and the fields that the views read, in another order and with
//! other offsets than the kernel's: only names may matter.

use belljar_abi::image::{self, BELLJAR_MARK, MARK_AT};
use belljar_abi::layout::{self, Described as Layout, FieldDesc, Kind, TypeDesc, ValueDesc};
use belljar_abi::root::{self, BootState, RootPage};
use belljar_abi::{Described, describe_flags};
use std::mem::offset_of;

use super::{Kernel, Request, view};
use crate::target::SliceRam;

/// First physical address of the RAM.
pub const BASE: u64 = 0x4000_0000;
/// Virtual minus physical.
pub const LINEAR: u64 = 0xffff_0000_0000_0000;
/// Where the program's memory starts.
pub const USER: u64 = 0x40_0000;
/// Where the kernel's image lies in RAM.
const IMAGE: usize = 2 << 20;
/// Bytes of RAM.
const SIZE: usize = IMAGE + (1 << 20);

type Link = [u64; 2];

/// `{ptr, len, cap}`.
#[repr(C)]
struct Array<T>([u64; 3], std::marker::PhantomData<T>);

belljar_abi::bitflags::bitflags! {
    #[derive(Clone, Copy)]
    struct TaskFlags: u32 {
        const KTHREAD = 0x20_0000;
    }
    #[derive(Clone, Copy)]
    struct TaskState: u32 {
        const INTERRUPTIBLE = 1;
        const STOPPED = 4;
    }
    #[derive(Clone, Copy)]
    struct VmFlags: u32 {
        const READ = 1;
        const WRITE = 2;
        const EXEC = 4;
        const SHARED = 8;
    }
}
describe_flags!(TaskFlags);
describe_flags!(TaskState);
describe_flags!(VmFlags);

#[derive(Described)]
#[repr(u32)]
#[allow(dead_code, reason = "only described")]
enum Policy {
    Normal = 0,
    Fifo = 1,
}

#[derive(Described)]
#[repr(u8)]
#[allow(dead_code, reason = "only described")]
enum PageKind {
    Reserved = 0,
    Free = 1,
    Hot = 2,
    Table = 6,
    Anon = 7,
    Cache = 8,
    Zero = 10,
}

macro_rules! described {
    ($($name:ident { $($(#[$attr:meta])* $field:ident: $ty:ty,)+ })+) => { $(
        #[derive(Described)]
        #[repr(C)]
        #[allow(dead_code, reason = "only described")]
        struct $name { $($(#[$attr])* $field: $ty,)+ }
    )+ };
}

described! {
    CpuContext { fp: u64, sp: u64, pc: u64, }
    KernelStackRange { base: u64, size: u64, }
    ThreadInfo { cpu: u32, }
    Thread { stack: KernelStackRange, context: CpuContext, info: ThreadInfo, }
    WaitChannel { #[described(as = "text")] name: [u64; 2], }
    Entity {
        sum_exec_runtime: u64,
        thread: Thread,
        #[described(as = "flags TaskState")] state: u32,
        on_cpu: bool,
        prio: i32,
        static_prio: i32,
        #[described(as = "enum Policy")] policy: u32,
        #[described(as = "ptr WaitChannel")] wchan: u64,
        #[described(as = "ptr Mm")] mm: u64,
        #[described(as = "link")] run_list: Link,
    }
    Task {
        pid: u32,
        tgid: u32,
        comm: [u8; 16],
        #[described(as = "link")] tasks: Link,
        #[described(as = "link")] thread_node: Link,
        se: Entity,
        #[described(as = "flags TaskFlags")] flags: u32,
        exit_state: u32,
        #[described(as = "ptr Task")] real_parent: u64,
        #[described(as = "ptr SignalStruct")] signal: u64,
    }
    SignalStruct {
        #[described(as = "array ptr Pid")] pids: [u64; 4],
        #[described(list = "Task::thread_node")] threads: Link,
    }
    Upid { ns: u64, nr: u32, }
    Pid { level: u32, #[described(as = "vec struct Upid")] numbers: [u64; 3], }
    Rss { anon: i64, }
    Tables { rss: Rss, #[described(as = "phys")] root: u64, }
    Space { total_vm: u64, #[described(as = "vec struct Vma")] vmas: [u64; 3], }
    Mm { space: Space, #[described(as = "seqcount")] seq: u32, tables: Tables, }
    MappedFile { ino: u64, dev: u64, #[described(as = "vec uint")] path: Array<u8>, }
    Vma {
        start: u64,
        end: u64,
        #[described(as = "flags VmFlags")] flags: u32,
        pgoff: u64,
        #[described(as = "ptr MappedFile")] file: u64,
    }
    Page { flags: u16, #[described(as = "enum PageKind")] kind: u8, refcount: u32, order: u8, }
    PrioArray {
        nr_active: u32,
        #[described(as = "array list Entity::run_list")] queue: [Link; 140],
    }
    RunQueue {
        nr_running: u32,
        #[described(as = "ptr Entity")] curr: u64,
        #[described(as = "ptr PrioArray")] active: u64,
        #[described(as = "ptr PrioArray")] expired: u64,
    }
}

/// RAM under construction. Addresses are virtual unless they say otherwise.
pub struct Guest {
    /// The RAM from [`BASE`] on.
    pub ram: Vec<u8>,
    next: usize,
    frames: u64,
    /// The address of each task, in the order of their creation.
    pub tasks: Vec<u64>,
    /// The head of the task list.
    pub task_list: u64,
    /// The sequence count of the task list.
    pub task_list_seq: u64,
    /// The address space of the program.
    pub mm: u64,
    /// The run queue of CPU 0.
    pub run_queue: u64,
}

impl Guest {
    /// A booted kernel with task 0, init (pid 1, one thread more), kthreadd (pid 2) and a zombie (7).
    #[allow(clippy::new_without_default, reason = "a whole guest is no default")]
    pub fn new() -> Self {
        let mut guest = Self {
            ram: vec![0; SIZE],
            next: IMAGE + 2 * 4096,
            frames: 0,
            tasks: vec![],
            task_list: 0,
            task_list_seq: 0,
            mm: 0,
            run_queue: 0,
        };
        guest.boot();
        guest.tasks();
        guest.program();
        guest.run_queue();
        guest
    }

    /// The RAM as a target.
    pub fn target(&self) -> SliceRam<'_> {
        SliceRam { base: BASE, bytes: &self.ram }
    }

    fn at(addr: u64) -> usize {
        (addr - LINEAR - BASE) as usize
    }

    /// The word at an address.
    pub fn target_u64(&self, addr: u64) -> u64 {
        u64::from_le_bytes(self.ram[Self::at(addr)..][..8].try_into().expect("eight bytes"))
    }

    /// Writes bytes at an address.
    pub fn write(&mut self, addr: u64, bytes: &[u8]) {
        self.ram[Self::at(addr)..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Writes a word at an address.
    pub fn write_u64(&mut self, addr: u64, value: u64) {
        self.write(addr, &value.to_le_bytes());
    }

    fn alloc(&mut self, len: usize, align: usize) -> u64 {
        let at = self.next.next_multiple_of(align);
        self.next = at + len;
        assert!(self.next <= SIZE, "the made-up guest has too little RAM");
        LINEAR + BASE + at as u64
    }

    fn store(&mut self, bytes: &[u8]) -> u64 {
        let addr = self.alloc(bytes.len(), 8);
        self.write(addr, bytes);
        addr
    }

    /// Writes `{address, length}` of a text at `addr`.
    fn store_text(&mut self, addr: u64, text: &str) {
        let bytes = self.store(text.as_bytes());
        self.write_u64(addr, bytes);
        self.write_u64(addr + 8, text.len() as u64);
    }

    fn object<T: Layout>(&mut self) -> u64 {
        self.alloc(T::descriptor().size as usize, 16)
    }

    /// The address of a field by its dotted path, and its size.
    pub fn field(addr: u64, ty: &'static TypeDesc, path: &str) -> (u64, usize) {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        let field = ty.fields.as_slice().iter().find(|f| f.name.as_str() == first);
        let field = field.unwrap_or_else(|| panic!("no field {path}"));
        let addr = addr + field.offset;
        if rest.is_empty() {
            return (addr, field.kind.size as usize);
        }
        let inner = types().into_iter().find(|t| t.name.as_str() == field.kind.type_name.as_str());
        Self::field(addr, inner.expect("an embedded structure"), rest)
    }

    fn set<T: Layout>(&mut self, addr: u64, path: &str, value: i64) {
        let (at, size) = Self::field(addr, T::descriptor(), path);
        self.write(at, &value.to_le_bytes()[..size.min(8)]);
    }

    /// Sets a field of a task.
    pub fn set_task(&mut self, addr: u64, path: &str, value: i64) {
        self.set::<Task>(addr, path, value);
    }

    /// Links the link at `link` at the end of the list at `head`.
    fn push(&mut self, head: u64, link: u64) {
        let last = match self.target_u64(head + 8) {
            0 => head,
            last => last,
        };
        self.write_u64(last, link);
        self.write_u64(link, head);
        self.write_u64(link + 8, last);
        self.write_u64(head + 8, link);
    }

    fn boot(&mut self) {
        let header = &mut self.ram[IMAGE..];
        header[image::MAGIC_AT..][..4].copy_from_slice(&image::MAGIC);
        header[MARK_AT..][..4].copy_from_slice(&BELLJAR_MARK);
        header[image::ROOT_PAGE..][..8].copy_from_slice(&4096u64.to_le_bytes());
        self.root_bytes(offset_of!(RootPage, magic), &root::MAGIC);
        self.root_bytes(offset_of!(RootPage, version), &root::VERSION.to_le_bytes());
        let state = (BootState::Init as u32).to_le_bytes();
        self.root_bytes(offset_of!(RootPage, boot_state), &state);
        let version = layout::VERSION.to_le_bytes();
        self.root_bytes(offset_of!(RootPage, layout_version), &version);
        self.root(offset_of!(RootPage, linear_offset), LINEAR);
        self.root(offset_of!(RootPage, image_phys), BASE + IMAGE as u64);
        self.root(offset_of!(RootPage, image_virt), LINEAR + BASE + IMAGE as u64);

        let types: Vec<u64> = types().into_iter().map(|t| self.describe(t)).collect();
        let note: Vec<u8> = types.iter().flat_map(|t| t.to_le_bytes()).collect();
        let addr = self.store(&note);
        self.root(offset_of!(RootPage, layout), addr);
        self.root(offset_of!(RootPage, layout_size), note.len() as u64);

        let count = (SIZE / 4096) as u64;
        self.frames = self.alloc(count as usize * Page::descriptor().size as usize, 64);
        self.root(offset_of!(RootPage, frame_table), self.frames);
        self.root(offset_of!(RootPage, frame_count), count);
        self.root(offset_of!(RootPage, frame_base_pfn), BASE >> 12);

        let log = self.alloc(16 + 32, 8);
        self.write_u64(log, 32);
        self.write_u64(log + 8, 40);
        // 40 bytes were written into 32: the first eight are overwritten, and the oldest line is cut.
        self.write(log + 16, b"ne three.xxxx\n<3>first\nsecond li");
        self.root(offset_of!(RootPage, log_ring), log);
        self.task_list = self.alloc(16, 16);
        self.root(offset_of!(RootPage, task_list), self.task_list);
        self.task_list_seq = self.alloc(4, 4);
        self.root(offset_of!(RootPage, task_list_seq), self.task_list_seq);
    }

    fn root_bytes(&mut self, offset: usize, bytes: &[u8]) {
        self.ram[IMAGE + 4096 + offset..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Sets a word of the root page.
    pub fn root(&mut self, offset: usize, value: u64) {
        self.root_bytes(offset, &value.to_le_bytes());
    }

    /// Copies a descriptor into the guest, as the linker would have placed it.
    fn describe(&mut self, ty: &TypeDesc) -> u64 {
        let addr = self.alloc(size_of::<TypeDesc>(), 8);
        self.store_text(addr + offset_of!(TypeDesc, name) as u64, ty.name.as_str());
        self.write_u64(addr + offset_of!(TypeDesc, size) as u64, ty.size);
        self.write(addr + offset_of!(TypeDesc, class) as u64, &ty.class.to_le_bytes());
        let fields = ty.fields.as_slice();
        let table = self.alloc(size_of_val(fields), 8);
        for (i, field) in fields.iter().enumerate() {
            let at = table + (i * size_of::<FieldDesc>()) as u64;
            self.store_text(at + offset_of!(FieldDesc, name) as u64, field.name.as_str());
            self.write_u64(at + offset_of!(FieldDesc, offset) as u64, field.offset);
            self.describe_kind(at + offset_of!(FieldDesc, kind) as u64, &field.kind);
        }
        self.write_u64(addr + offset_of!(TypeDesc, fields) as u64, table);
        self.write_u64(addr + offset_of!(TypeDesc, fields) as u64 + 8, fields.len() as u64);
        let values = ty.values.as_slice();
        let table = self.alloc(size_of_val(values), 8);
        for (i, value) in values.iter().enumerate() {
            let at = table + (i * size_of::<ValueDesc>()) as u64;
            self.store_text(at + offset_of!(ValueDesc, name) as u64, value.name.as_str());
            self.write_u64(at + offset_of!(ValueDesc, value) as u64, value.value as u64);
        }
        self.write_u64(addr + offset_of!(TypeDesc, values) as u64, table);
        self.write_u64(addr + offset_of!(TypeDesc, values) as u64 + 8, values.len() as u64);
        addr
    }

    fn describe_kind(&mut self, at: u64, kind: &Kind) {
        self.write(at + offset_of!(Kind, tag) as u64, &kind.tag.to_le_bytes());
        self.write(at + offset_of!(Kind, size) as u64, &kind.size.to_le_bytes());
        self.write_u64(at + offset_of!(Kind, count) as u64, kind.count);
        self.write_u64(at + offset_of!(Kind, stride) as u64, kind.stride);
        self.store_text(at + offset_of!(Kind, type_name) as u64, kind.type_name.as_str());
        self.store_text(at + offset_of!(Kind, member) as u64, kind.member.as_str());
        if let Some(elem) = kind.elem {
            let addr = self.alloc(size_of::<Kind>(), 8);
            self.describe_kind(addr, elem);
            self.write_u64(at + offset_of!(Kind, elem) as u64, addr);
        }
    }

    fn tasks(&mut self) {
        let swapper = self.task(0, 0, "swapper/0", None);
        self.set_task(swapper, "flags", TaskFlags::KTHREAD.bits().into());
        let init = self.task(1, 1, "init", Some(swapper));
        let kthreadd = self.task(2, 2, "kthreadd", Some(swapper));
        self.set_task(kthreadd, "flags", TaskFlags::KTHREAD.bits().into());
        let thread = self.task(5, 1, "init", Some(swapper));
        let zombie = self.task(7, 7, "gone", Some(init));
        self.set_task(zombie, "exit_state", 32);
        // `task` made a process of the thread as well: its signal struct is init's.
        let signal = Self::field(init, Task::descriptor(), "signal").0;
        let signal = self.target_u64(signal);
        self.set_task(thread, "signal", signal as i64);
        let threads = Self::field(signal, SignalStruct::descriptor(), "threads").0;
        let node = Self::field(thread, Task::descriptor(), "thread_node").0;
        self.push(threads, node);
        for leader in [swapper, init, kthreadd, zombie] {
            let link = Self::field(leader, Task::descriptor(), "tasks").0;
            self.push(self.task_list, link);
        }
        self.set_task(init, "se.state", TaskState::INTERRUPTIBLE.bits().into());
        let channel = self.object::<WaitChannel>();
        self.store_text(channel, "do_wait");
        self.set_task(init, "se.wchan", channel as i64);
        self.set_task(thread, "se.sum_exec_runtime", 1_500_000_000);
        self.set_task(init, "se.sum_exec_runtime", 500_000_000);
        // Init's kernel stack: two frame records, the outer one ends the chain.
        let stack = self.alloc(4096, 4096);
        self.set_task(init, "se.thread.stack.base", stack as i64);
        self.set_task(init, "se.thread.stack.size", 4096);
        self.set_task(init, "se.thread.context.fp", stack as i64 + 256);
        self.set_task(init, "se.thread.context.pc", (LINEAR + BASE) as i64 + 0x1000);
        self.write_u64(stack + 256, stack + 512);
        self.write_u64(stack + 264, LINEAR + BASE + 0x2000);
        self.write_u64(stack + 512, 0);
        self.write_u64(stack + 520, 0);
    }

    fn task(&mut self, pid: u32, tgid: u32, comm: &str, parent: Option<u64>) -> u64 {
        let task = self.object::<Task>();
        self.tasks.push(task);
        self.set_task(task, "pid", pid.into());
        self.set_task(task, "tgid", tgid.into());
        self.set_task(task, "real_parent", parent.unwrap_or(task) as i64);
        self.set_task(task, "se.prio", 120);
        self.set_task(task, "se.static_prio", 120);
        let name = Self::field(task, Task::descriptor(), "comm").0;
        self.write(name, comm.as_bytes());
        let upid = self.object::<Upid>();
        self.set::<Upid>(upid, "nr", tgid.into());
        let number = self.object::<Pid>();
        let numbers = Self::field(number, Pid::descriptor(), "numbers").0;
        self.write_u64(numbers, upid);
        self.write_u64(numbers + 8, 1);
        let signal = self.object::<SignalStruct>();
        let pids = Self::field(signal, SignalStruct::descriptor(), "pids").0;
        for kind in 1..4 {
            self.write_u64(pids + kind * 8, number);
        }
        let threads = Self::field(signal, SignalStruct::descriptor(), "threads").0;
        if pid == tgid {
            let node = Self::field(task, Task::descriptor(), "thread_node").0;
            self.push(threads, node);
        }
        self.set_task(task, "signal", signal as i64);
        task
    }

    /// Init's memory: one VMA of four pages, of which three are there: one its own, one shared by its
    /// frame's count, one the page of zeros.
    fn program(&mut self) {
        let tables: Vec<u64> = (0..4).map(|_| self.alloc(4096, 4096) - LINEAR).collect();
        let pages: Vec<u64> = (0..3).map(|_| self.alloc(4096, 4096) - LINEAR).collect();
        let index = |level: u32| (USER >> (39 - 9 * level)) % 512 * 8;
        for level in 0..3 {
            let entry = tables[level as usize] + index(level);
            self.write_u64(entry + LINEAR, tables[level as usize + 1] | 3);
            self.frame(tables[level as usize + 1], 1, PageKind::Table as u8);
        }
        let kinds = [PageKind::Anon, PageKind::Anon, PageKind::Zero];
        for (i, (page, kind)) in pages.iter().zip(kinds).enumerate() {
            let entry = tables[3] + index(3) + i as u64 * 8;
            self.write_u64(entry + LINEAR, page | 3 | (1 << 6) | (1 << 10));
            self.frame(*page, 1 + i as u32, kind as u8);
        }
        let vma = self.object::<Vma>();
        self.set::<Vma>(vma, "start", USER as i64);
        self.set::<Vma>(vma, "end", USER as i64 + 4 * 4096);
        self.set::<Vma>(vma, "flags", (VmFlags::READ | VmFlags::WRITE).bits().into());
        let file = self.object::<MappedFile>();
        let path = Self::field(file, MappedFile::descriptor(), "path").0;
        self.store_text(path, "/bin/init");
        self.set::<Vma>(vma, "file", file as i64);
        let mm = self.object::<Mm>();
        self.set::<Mm>(mm, "tables.root", tables[0] as i64);
        self.set::<Mm>(mm, "space.total_vm", 4);
        self.set::<Mm>(mm, "tables.rss.anon", 2);
        let vmas = Self::field(mm, Mm::descriptor(), "space.vmas").0;
        self.write_u64(vmas, vma);
        self.write_u64(vmas + 8, 1);
        self.mm = mm;
        let init = self.tasks[1];
        self.set_task(init, "se.mm", mm as i64);
        self.root(offset_of!(RootPage, kernel_pgd_phys), tables[0]);
    }

    /// Writes the record of the frame at a physical address.
    pub fn frame(&mut self, phys: u64, refcount: u32, kind: u8) {
        let record = self.frames + ((phys - BASE) >> 12) * Page::descriptor().size;
        self.set::<Page>(record, "refcount", refcount.into());
        self.set::<Page>(record, "kind", kind.into());
    }

    /// Sets the order in the record of the frame at a physical address.
    pub fn frame_order(&mut self, phys: u64, order: u8) {
        let record = self.frames + ((phys - BASE) >> 12) * Page::descriptor().size;
        self.set::<Page>(record, "order", order.into());
    }

    /// The physical address of the program's last-level table.
    pub fn last_table(&self) -> u64 {
        let space = crate::target::walk::walk(&self.target(), self.pgd(), USER);
        space.expect("the made-up tables").steps[3].table
    }

    fn pgd(&self) -> u64 {
        let at = Self::field(self.mm, Mm::descriptor(), "tables.root").0;
        self.target_u64(at)
    }

    /// Kthreadd runs, init's thread waits on level 120.
    fn run_queue(&mut self) {
        let rq = self.object::<RunQueue>();
        self.run_queue = rq;
        let array = self.object::<PrioArray>();
        let queue = Self::field(array, PrioArray::descriptor(), "queue").0;
        let list = Self::field(self.tasks[3], Task::descriptor(), "se.run_list").0;
        self.push(queue + 120 * 16, list);
        let se = Self::field(self.tasks[2], Task::descriptor(), "se").0;
        self.set_task(self.tasks[2], "se.on_cpu", 1);
        self.set::<RunQueue>(rq, "nr_running", 2);
        self.set::<RunQueue>(rq, "curr", se as i64);
        self.set::<RunQueue>(rq, "active", array as i64);
        self.root(offset_of!(RootPage, run_queues), rq);
        self.root(offset_of!(RootPage, run_queue_stride), 4096);
        self.root(offset_of!(RootPage, cpus), 1);
    }
}

fn types() -> Vec<&'static TypeDesc> {
    vec![
        TaskFlags::descriptor(),
        TaskState::descriptor(),
        VmFlags::descriptor(),
        Policy::descriptor(),
        PageKind::descriptor(),
        CpuContext::descriptor(),
        KernelStackRange::descriptor(),
        ThreadInfo::descriptor(),
        Thread::descriptor(),
        WaitChannel::descriptor(),
        Entity::descriptor(),
        Task::descriptor(),
        SignalStruct::descriptor(),
        Upid::descriptor(),
        Pid::descriptor(),
        Rss::descriptor(),
        Tables::descriptor(),
        Space::descriptor(),
        Mm::descriptor(),
        MappedFile::descriptor(),
        Vma::descriptor(),
        Page::descriptor(),
        PrioArray::descriptor(),
        RunQueue::descriptor(),
    ]
}

/// Every view of a guest, whatever it is: for hostile input, where only coming back matters.
pub fn look_at_everything(ram: &[u8]) {
    let target = SliceRam { base: BASE, bytes: ram };
    let _ = super::views::log_text(&target);
    let Ok(kernel) = Kernel::open(&target, true) else { return };
    let requests = [
        Request::Ps,
        Request::Pstree,
        Request::Task { pid: 1 },
        Request::Maps { pid: 1 },
        Request::Fds { pid: 1 },
        Request::Vtop { pid: 1, addr: USER },
        Request::Vtop { pid: 1, addr: LINEAR + BASE },
        Request::Runq,
        Request::Bt { pid: 1 },
        Request::Log,
        Request::Ns,
        Request::NsTree,
        Request::PsNs { ns: 1 },
    ];
    for request in &requests {
        let _ = view(&kernel, request, None);
    }
}

/// Patches a made-up guest as `data` says and looks at it: the body of the fuzz target. Each patch is
/// a place (3 bytes, a word's index in what the guest uses) and a word (8 bytes) or, for a word that
/// begins with 0xff, an address inside the guest (so that pointers lead somewhere).
pub fn fuzz_one(data: &[u8]) {
    let mut guest = Guest::new();
    let used = (guest.next - IMAGE) / 8;
    for patch in data.chunks_exact(11) {
        let index = u32::from_le_bytes([patch[0], patch[1], patch[2], 0]) as usize % used;
        let word = match patch[3] {
            0xff => {
                let to = u32::from_le_bytes([patch[4], patch[5], patch[6], 0]) as usize % used;
                LINEAR + BASE + (IMAGE + to * 8) as u64
            }
            _ => u64::from_le_bytes(patch[3..].try_into().expect("eight bytes")),
        };
        guest.ram[IMAGE + index * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
    look_at_everything(&guest.ram);
}

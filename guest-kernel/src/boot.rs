//! From the first Rust instruction to init: a table of contents of the kernel.

use core::panic::PanicInfo;

use belljar_abi::payload::{self, Payload};
use belljar_abi::symbols::Symbols;
use belljar_kernel::addr::PhysAddr;
use belljar_kernel::drivers::fdt::{Gic, Machine};
use belljar_kernel::drivers::{irq, klog, pl011, pl031};
use belljar_kernel::{arch, introspect, kinfo, panic};

/// The first CPU comes here from `arch::aarch64::boot`, with its stack, the MMU on and interrupts masked.
#[unsafe(no_mangle)]
extern "C" fn kernel_start(fdt: PhysAddr) -> ! {
    arch::detect_features();
    introspect::publish_layout();
    // What the boot loader says: memory, devices, command line.
    // SAFETY: the boot protocol puts the tree there; the first tables map it.
    let machine = unsafe { read_device_tree(fdt) };
    klog::set_level_from(machine.bootargs);
    arch::set_conduit(machine.psci_smc);
    arch::set_cpus(machine.cpus.as_slice().iter().copied());
    // Final rights: text read-only, data never executable.
    arch::init_tables(
        machine.memory.as_slice().iter().map(|span| span.range()),
        machine.device_spans().map(|span| span.range()),
    );
    load_symbols();
    // Interrupts and the console.
    match machine.gic {
        Gic::V3 { distributor, redistributors } => {
            arch::irq::init(PhysAddr(distributor.start), redistributors.range());
        }
        Gic::V2 { .. } => unimplemented!("GICv2"),
    }
    pl011::init(&machine.uart);
    kinfo!("Bell Jar on {} CPUs, {:?}", arch::cpu_count(), machine.memory.as_slice());
    if let Some(rtc) = &machine.rtc {
        kinfo!("rtc: {}", pl031::read_seconds(rtc));
    }
    // Until there is a scheduler: a tick.
    irq::register(arch::TIMER_IRQ, |_| {
        arch::set_timer(arch::counter() + arch::counter_frequency() / 10);
        kinfo!("tick");
    });
    arch::irq::enable(arch::TIMER_IRQ);
    arch::set_timer(arch::counter() + arch::counter_frequency() / 10);
    arch::irq_enable();
    for _ in 0..3 {
        arch::wait_for_interrupt();
    }
    panic!("nothing to run");
}

/// # Safety
/// A device tree lies at `fdt`, mapped, and stays there.
unsafe fn read_device_tree(fdt: PhysAddr) -> Machine<'static> {
    let start = arch::phys_to_virt(fdt).cast_const();
    // SAFETY: the caller's promise; the length stands in the second big-endian word.
    let blob = unsafe {
        let len = u32::from_be(start.cast::<u32>().add(1).read());
        core::slice::from_raw_parts(start, (len as usize).clamp(8, 2 << 20))
    };
    Machine::read(blob).unwrap_or_else(|error| panic!("{error}"))
}

/// The payload that the tools put behind the image, if any.
fn payload() -> Option<Payload<'static>> {
    let image = arch::image_range();
    let start = arch::phys_to_virt(image.end).cast_const();
    // SAFETY: RAM behind the image, which QEMU's boards always have; nothing was allocated from it yet.
    unsafe {
        let header = core::slice::from_raw_parts(start, payload::HEADER_LEN);
        let len = payload::stated_len(header)?;
        Payload::read(core::slice::from_raw_parts(start, len as usize)).ok()
    }
}

/// Finds the symbols for backtraces.
fn load_symbols() {
    if let Some(symbols) = payload().and_then(|p| Symbols::read(p.get(payload::SYMBOLS)?)) {
        let base = arch::phys_to_virt(arch::image_range().start) as u64;
        panic::set_symbols(base, symbols);
    }
}

#[panic_handler]
fn panic_handler(info: &PanicInfo<'_>) -> ! {
    panic::end_with(info)
}

/// Until the heap is there.
struct NoHeap;

// SAFETY: never hands out memory.
unsafe impl core::alloc::GlobalAlloc for NoHeap {
    unsafe fn alloc(&self, _: core::alloc::Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: core::alloc::Layout) {}
}

#[global_allocator]
static HEAP: NoHeap = NoHeap;

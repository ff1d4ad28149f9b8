//! From the first Rust instruction to init: a table of contents of the kernel.

use core::ops::Range;
use core::panic::PanicInfo;

use belljar_abi::payload::{self, Payload};
use belljar_abi::symbols::Symbols;
use belljar_kernel::addr::PhysAddr;
use belljar_kernel::arch::TIMER_IRQ;
use belljar_kernel::drivers::fdt::{self, Few, Machine, Span};
use belljar_kernel::drivers::{self, irq, klog, pl011, pl031, tty};
use belljar_kernel::sched::cpu;
use belljar_kernel::sched::softirq::{self, Softirq};
use belljar_kernel::{
    arch, fs, introspect, ipc, kerr, kinfo, kwarn, mm, net, ns, panic, process, procfs, sched,
    suspend,
};

/// The first CPU comes here from `arch::aarch64::boot`, with its stack, the MMU on and interrupts masked.
#[unsafe(no_mangle)]
extern "C" fn kernel_start(fdt: PhysAddr) -> ! {
    arch::detect_features();
    // Clocks begin to run.
    sched::clock::init();
    // What the boot loader says: memory, devices, command line.
    // SAFETY: the boot protocol puts the tree there; the first tables map it.
    let (machine, tree) = unsafe { read_device_tree(fdt) };
    klog::set_level_from(machine.bootargs);
    arch::set_conduit(machine.psci_smc);
    arch::set_cpus(machine.cpus.as_slice().iter().copied());
    // Final rights: text read-only, data never executable.
    arch::init_tables(
        machine.memory.as_slice().iter().map(|span| span.range()),
        machine.device_spans().map(Span::range),
    );
    // Symbols for backtraces, an initrd and a command line that travel with the image.
    let payload = find_payload();
    // Frames and the heap.
    init_memory(&machine, tree, payload.as_ref());
    // Interrupts and the console.
    init_interrupts(&machine);
    pl011::init(&machine.uart);
    kinfo!("Bell Jar on {} CPUs", arch::cpu_count());
    let found = machine.cpus.as_slice().len();
    if found > arch::cpu_count() {
        kwarn!("the machine has {found} CPUs: those beyond {} are left alone", arch::cpu_count());
    }
    #[cfg(feature = "selftest")]
    selftest();
    // The wall clock.
    pl031::init(machine.rtc.as_ref());
    if let Some(seconds) = pl031::read_seconds() {
        sched::set_realtime(seconds * sched::NSEC_PER_SEC);
    }
    drivers::cmdline::set(&command_line(&machine, payload.as_ref()));
    drivers::random::seed(machine.rng_seed);
    // Namespaces, devices, the console's terminal, the root file system.
    boot_step("namespaces", ns::init());
    drivers::virtio::init(machine.virtio.as_slice());
    if let Some(text) = drivers::cmdline::value("ip") {
        net::inet::ipconfig::init(text, ns::init_nsproxy());
    }
    let console = boot_step("console", tty::console::init(drivers::cmdline::text()));
    introspect::publish_console(console);
    let root = boot_step("root file system", fs::init(initrd(&machine, payload.as_ref())));
    if let Some(span) = &machine.initrd {
        // SAFETY: every file was copied out of it, and the slice above is gone.
        unsafe { mm::free_reserved(PhysAddr(span.start)..PhysAddr(span.end)) };
    }
    ipc::init();
    procfs::init();
    boot_step("signal return page", process::sigpage::init());
    // Task 0 is what runs here.
    boot_step("task 0", process::init::init_idle_task(root));
    start_scheduling()
}

/// The rest of the boot, as task 0. Not inlined: the compiler takes `current` to be the same all through
/// a function, and the caller began as another.
#[inline(never)]
fn start_scheduling() -> ! {
    // This CPU schedules, with task 0 as its idle task.
    sched::init_cpu();
    introspect::publish_run_queues(1);
    introspect::publish_tasks(process::init::init_task());
    arch::irq_enable();
    // Tasks 1 and 2: init, and the parent of kernel threads.
    boot_step("first tasks", process::init::start_first_tasks(late_init));
    sched::idle_loop()
}

/// The part of the boot that may sleep: init does it before it runs a program.
fn late_init() {
    if let Err(e) = suspend::control::start() {
        kerr!("suspend: cannot be started: {e}");
    }
}

/// Without this step there is nothing to go on with.
fn boot_step<T>(what: &str, result: belljar_kernel::errno::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// The command line: the boot loader's, after what travels with the image.
fn command_line(machine: &Machine<'_>, payload: Option<&Payload<'_>>) -> alloc::string::String {
    let own = payload.and_then(|p| core::str::from_utf8(p.get(payload::CMDLINE)?).ok());
    let mut line = alloc::string::String::from(own.unwrap_or(""));
    if !line.is_empty() && !machine.bootargs.is_empty() {
        line.push(' ');
    }
    line.push_str(machine.bootargs);
    line
}

/// The archive of the root file system: the boot loader's, else the one behind the image.
fn initrd(machine: &Machine<'_>, payload: Option<&Payload<'static>>) -> &'static [u8] {
    match &machine.initrd {
        // SAFETY: the boot loader put it there, and it is reserved.
        Some(span) => unsafe {
            let start = arch::phys_to_virt(PhysAddr(span.start)).cast_const();
            core::slice::from_raw_parts(start, (span.end - span.start) as usize)
        },
        None => payload.and_then(|p| p.get(payload::INITRD)).unwrap_or(&[]),
    }
}

/// # Safety
/// A device tree lies at `fdt`, mapped, and stays there.
unsafe fn read_device_tree(fdt: PhysAddr) -> (Machine<'static>, Range<PhysAddr>) {
    let start = arch::phys_to_virt(fdt).cast_const();
    // SAFETY: the caller's promise.
    let blob = unsafe {
        let header = core::slice::from_raw_parts(start, fdt::HEADER_LEN);
        core::slice::from_raw_parts(start, fdt::stated_len(header).unwrap_or(0))
    };
    let machine = Machine::read(blob).unwrap_or_else(|error| panic!("{error}"));
    let used = fdt::used_len(blob) as u64;
    (machine, fdt..PhysAddr(fdt.0 + used))
}

/// The payload that the tools put behind the image, if any. Its symbols are used from here on.
fn find_payload() -> Option<Payload<'static>> {
    let image = arch::image_range();
    let start = arch::phys_to_virt(image.end).cast_const();
    // SAFETY: RAM behind the image, which QEMU's boards always have; nothing was allocated from it yet.
    let payload = unsafe {
        let header = core::slice::from_raw_parts(start, payload::HEADER_LEN);
        let len = payload::stated_len(header)?;
        Payload::read(core::slice::from_raw_parts(start, usize::try_from(len).ok()?)).ok()?
    };
    if let Some(symbols) = payload.get(payload::SYMBOLS).and_then(Symbols::read) {
        panic::set_symbols(arch::phys_to_virt(image.start) as u64, symbols);
    }
    Some(payload)
}

/// Hands RAM to the frame allocator, except for what is in use, and says in the root page how memory
/// is laid out.
fn init_memory(machine: &Machine<'_>, tree: Range<PhysAddr>, payload: Option<&Payload<'_>>) {
    let image = arch::image_range();
    let mut reserved: Few<Span, 16> = Few::default();
    let start = machine.memory.as_slice().iter().map(|span| span.start).min().unwrap_or(0);
    reserved.push(Span { start, end: start + suspend::TREE_ROOM });
    let behind = payload.map_or(0, Payload::len) as u64;
    reserved.push(Span { start: image.start.0, end: image.end.0 + behind });
    reserved.push(Span { start: tree.start.0, end: tree.end.0 });
    for span in machine.initrd.iter().chain(machine.reserved.as_slice()) {
        reserved.push(*span);
    }
    let ranges = |spans: &[Span]| {
        let mut ranges = [const { PhysAddr(0)..PhysAddr(0) }; 16];
        for (range, span) in ranges.iter_mut().zip(spans) {
            *range = PhysAddr(span.start)..PhysAddr(span.end);
        }
        ranges
    };
    let ram = machine.memory.as_slice();
    // SAFETY: the device tree says that it is RAM, and everything in use is reserved.
    unsafe { mm::init(&ranges(ram)[..ram.len()], &ranges(reserved.as_slice())) };

    // What an observer outside needs to read all that.
    introspect::publish_layout();
    introspect::publish_image(image, behind as usize, arch::kernel_root(), arch::build_id());
    introspect::publish_log(&klog::RING);
    let end = ram.iter().map(|s| s.end).max().unwrap_or(0);
    introspect::publish_frames(PhysAddr(start)..PhysAddr(end), mm::frame::record_table());
}

/// The interrupt controller, and the handlers of what is the scheduler's.
fn init_interrupts(machine: &Machine<'_>) {
    irq::init(&machine.gic);
    for ipi in [cpu::IPI_RESCHEDULE, cpu::IPI_TIMER, cpu::IPI_CALL] {
        irq::register(ipi, sched::handle_ipi);
    }
    irq::register(cpu::IPI_STOP, panic::stop_this_cpu);
    softirq::register(Softirq::Log, klog::wake_readers);
    irq::register(TIMER_IRQ, |_| sched::timer_interrupt(arch::interrupted_user()));
}

#[cfg(feature = "selftest")]
fn selftest() {
    let zero = mm::AllocFlags::ZERO;
    arch::selftest::run(|| mm::alloc_page(zero).expect("there are free frames").into_phys());
    kinfo!("selftest: passed");
    arch::power_off()
}

#[panic_handler]
fn panic_handler(info: &PanicInfo<'_>) -> ! {
    panic::end_with(info)
}

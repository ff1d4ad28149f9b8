//! The end: what is printed and left in the root page when the kernel cannot go on.
//!
//! Registers if there was an exception, the task, and a backtrace with symbols from the payload behind
//! the image. Everything here works without a heap and without locks that the dying code may hold.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use belljar_abi::root::PANIC_MESSAGE_SIZE;
use belljar_abi::symbols::Symbols;

use crate::arch::{self, PtRegs};
use crate::drivers::{console, klog};
use crate::introspect::ROOT;
use crate::sched::{self, cpu};
use crate::sync::{IrqGuard, Once};

/// Symbols of the kernel: where the image is linked, and the table.
static SYMBOLS: Once<(u64, Symbols<'static>)> = Once::new();
/// 0 until a CPU panics; then that CPU's number plus one.
static PANICKING: AtomicU32 = AtomicU32::new(0);
static DESCRIBE_TASK: AtomicUsize = AtomicUsize::new(0);

/// Sets the symbol table that backtraces are printed with.
pub fn set_symbols(base: u64, symbols: Symbols<'static>) {
    SYMBOLS.set((base, symbols));
}

/// Sets who names the current task in the report; this floor knows no task.
pub fn set_task_description(describe: fn(&mut dyn Write)) {
    DESCRIBE_TASK.store(describe as usize, Ordering::Release);
}

/// The report: to the console at once, to the log ring by line.
struct Report;

impl Write for Report {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        console::put(s.as_bytes());
        klog::RING.append(s.as_bytes());
        Ok(())
    }
}

/// Text cut to a buffer.
struct Message {
    text: [u8; PANIC_MESSAGE_SIZE],
    len: usize,
}

impl Message {
    fn of(what: &dyn fmt::Display) -> Self {
        let mut message = Self { text: [0; PANIC_MESSAGE_SIZE], len: 0 };
        let _ = write!(message, "{what}");
        message
    }

    fn as_str(&self) -> &str {
        // Cutting may have split a character.
        match core::str::from_utf8(&self.text[..self.len]) {
            Ok(text) => text,
            Err(error) => {
                core::str::from_utf8(&self.text[..error.valid_up_to()]).unwrap_or_default()
            }
        }
    }
}

impl Write for Message {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let n = s.len().min(self.text.len() - self.len);
        self.text[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

/// Prints an address as `symbol+offset`.
struct Symbol(u64);

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = SYMBOLS.try_get().and_then(|(base, symbols)| {
            let offset = u32::try_from(self.0.checked_sub(*base)?).ok()?;
            Some((offset, symbols.lookup(offset)?))
        });
        match found {
            Some((offset, symbol)) => {
                write!(f, "{}+{:#x}", symbol.name, offset - symbol.start)
            }
            None => write!(f, "{:#018x}", self.0),
        }
    }
}

/// This CPU stops for good: the machine ends on another one.
pub fn stop_this_cpu(_ipi: u32) {
    arch::irq_disable();
    STOPPED.fetch_add(1, Ordering::AcqRel);
    loop {
        arch::wait_for_interrupt();
    }
}

/// CPUs that stopped for [`stop_others`].
static STOPPED: AtomicU32 = AtomicU32::new(0);

/// Stops all other CPUs, as far as they listen: one that has interrupts off, as a dying one may have for
/// ever, is not waited for long.
pub fn stop_others() {
    const PATIENCE_NS: u64 = 100_000_000;
    let _irq = IrqGuard::new();
    let others = cpu::online_count().saturating_sub(1);
    cpu::send_to_others(cpu::IPI_STOP);
    let end = sched::monotonic_ns() + PATIENCE_NS;
    while STOPPED.load(Ordering::Acquire) < others && sched::monotonic_ns() < end {
        arch::cpu_relax();
    }
}

/// Ends the machine for an exception that the kernel took itself.
pub fn die(what: &dyn fmt::Debug, far: u64, regs: &PtRegs) -> ! {
    end(&format_args!("kernel exception: {what:?}"), Some((far, regs)), arch::frame_pointer())
}

/// Ends the machine for a failed assertion or the like.
pub fn end_with(message: &dyn fmt::Display) -> ! {
    end(message, None, arch::frame_pointer())
}

fn end(what: &dyn fmt::Display, exception: Option<(u64, &PtRegs)>, fp: u64) -> ! {
    arch::irq_disable();
    let cpu = arch::current_thread().info.cpu() as u32 + 1;
    match PANICKING.compare_exchange(0, cpu, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        Err(other) if other == cpu => {
            // The report itself failed.
            console::put(b"panic in panic\n");
            arch::power_off()
        }
        Err(_) => loop {
            arch::wait_for_interrupt();
        },
    }
    stop_others();
    ROOT.set_panicked(Message::of(what).as_str());
    let mut report = Report;
    let _ = writeln!(report, "Kernel panic: {what}");
    let _ = write!(report, "CPU {}", cpu - 1);
    let describe = DESCRIBE_TASK.load(Ordering::Acquire);
    if describe != 0 {
        // SAFETY: only `set_task_description` stores here, a function of this type.
        let describe: fn(&mut dyn Write) = unsafe { core::mem::transmute(describe) };
        let _ = report.write_str(", task ");
        describe(&mut report);
    }
    let _ = report.write_str("\n");
    let mut fp = fp;
    if let Some((far, regs)) = exception {
        print_registers(&mut report, far, regs);
        let _ = writeln!(report, "  {}", Symbol(regs.pc));
        fp = regs.x[29];
    }
    arch::backtrace(fp, |pc| {
        // A return address is the instruction behind the call.
        let _ = writeln!(report, "  {}", Symbol(pc - 4));
    });
    arch::power_off()
}

fn print_registers(report: &mut Report, far: u64, regs: &PtRegs) {
    let _ = writeln!(
        report,
        "pc  {:016x} pstate {:016x} esr {:08x} far {far:016x} sp {:016x}",
        regs.pc, regs.pstate, regs.esr, regs.sp
    );
    for (row, values) in regs.x.chunks(4).enumerate() {
        for (i, value) in values.iter().enumerate() {
            let _ = write!(report, "x{:<2} {value:016x} ", row * 4 + i);
        }
        let _ = report.write_str("\n");
    }
}

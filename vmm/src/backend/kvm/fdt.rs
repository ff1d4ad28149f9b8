//! The device tree: what QEMU's `virt` board says of itself, as far as this machine has it.
//!
//! Names, numbers and flags are those of the bindings in Linux's Documentation/devicetree/bindings.

use vm_fdt::{FdtWriter, FdtWriterResult};

use crate::machine::{
    GIC_DISTRIBUTOR, GIC_REDISTRIBUTORS, RAM_BASE, RTC, RTC_SPI, UART, UART_SPI, virtio_registers,
    virtio_spi,
};

/// Names of nodes for references between them.
const GIC_HANDLE: u32 = 1;
const CLOCK_HANDLE: u32 = 2;
/// CPUs of one cluster: as many as one SGI's target list has room for (GICv3).
const CLUSTER: u32 = 16;

/// `interrupts`: kind, number, flags (arm,gic-v3).
const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE: u32 = 1;
const LEVEL: u32 = 4;

/// What differs from machine to machine.
pub(super) struct Board<'a> {
    /// Number of CPUs.
    pub cpus: u32,
    /// RAM in bytes.
    pub memory: u64,
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// Where the initial RAM disk stands: first address and one past the last.
    pub initrd: Option<(u64, u64)>,
    /// Random bytes for the kernel's generator.
    pub rng_seed: &'a [u8],
    /// A random number for where the kernel puts itself.
    pub kaslr_seed: u64,
    /// The virtio-mmio transports that have a device.
    pub virtio: &'a [u32],
}

/// The MPIDR affinity of CPU `index`, as KVM and QEMU number them.
fn affinity(index: u32) -> u32 {
    ((index / CLUSTER) << 8) | (index % CLUSTER)
}

/// The tree as a blob.
pub(super) fn build(board: &Board<'_>) -> FdtWriterResult<Vec<u8>> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("model", "linux,dummy-virt")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC_HANDLE)?;
    chosen(&mut fdt, board)?;
    memory(&mut fdt, board.memory)?;
    cpus(&mut fdt, board.cpus)?;
    psci(&mut fdt)?;
    timer(&mut fdt)?;
    gic(&mut fdt)?;
    clock(&mut fdt)?;
    uart(&mut fdt)?;
    rtc(&mut fdt)?;
    for &index in board.virtio {
        virtio(&mut fdt, index)?;
    }
    fdt.end_node(root)?;
    fdt.finish()
}

fn chosen(fdt: &mut FdtWriter, board: &Board<'_>) -> FdtWriterResult<()> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", board.cmdline)?;
    fdt.property_string("stdout-path", &format!("/pl011@{:x}", UART.start))?;
    if let Some((start, end)) = board.initrd {
        fdt.property_u64("linux,initrd-start", start)?;
        fdt.property_u64("linux,initrd-end", end)?;
    }
    fdt.property("rng-seed", board.rng_seed)?;
    fdt.property_u64("kaslr-seed", board.kaslr_seed)?;
    fdt.end_node(node)
}

fn memory(fdt: &mut FdtWriter, size: u64) -> FdtWriterResult<()> {
    let node = fdt.begin_node(&format!("memory@{RAM_BASE:x}"))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[RAM_BASE, size])?;
    fdt.end_node(node)
}

fn cpus(fdt: &mut FdtWriter, count: u32) -> FdtWriterResult<()> {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for affinity in (0..count).map(affinity) {
        let node = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        if count > 1 {
            fdt.property_string("enable-method", "psci")?;
        }
        fdt.property_u32("reg", affinity)?;
        fdt.end_node(node)?;
    }
    fdt.end_node(cpus)
}

fn psci(fdt: &mut FdtWriter) -> FdtWriterResult<()> {
    let node = fdt.begin_node("psci")?;
    let compatible = ["arm,psci-1.0", "arm,psci-0.2", "arm,psci"].map(String::from);
    fdt.property_string_list("compatible", compatible.into())?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)
}

/// The architected timer: secure, non-secure, virtual and hypervisor interrupt.
fn timer(fdt: &mut FdtWriter) -> FdtWriterResult<()> {
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_null("always-on")?;
    let interrupts: Vec<u32> = [13, 14, 11, 10].into_iter().flat_map(|n| [PPI, n, LEVEL]).collect();
    fdt.property_array_u32("interrupts", &interrupts)?;
    fdt.end_node(node)
}

fn gic(fdt: &mut FdtWriter) -> FdtWriterResult<()> {
    let node = fdt.begin_node(&format!("intc@{:x}", GIC_DISTRIBUTOR.start))?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("#redistributor-regions", 1)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_null("ranges")?;
    let regions = [GIC_DISTRIBUTOR, GIC_REDISTRIBUTORS].map(|r| [r.start, r.end - r.start]);
    fdt.property_array_u64("reg", regions.as_flattened())?;
    fdt.property_phandle(GIC_HANDLE)?;
    fdt.end_node(node)
}

fn clock(fdt: &mut FdtWriter) -> FdtWriterResult<()> {
    let node = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", 24_000_000)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(CLOCK_HANDLE)?;
    fdt.end_node(node)
}

fn uart(fdt: &mut FdtWriter) -> FdtWriterResult<()> {
    let node = fdt.begin_node(&format!("pl011@{:x}", UART.start))?;
    fdt.property_string_list(
        "compatible",
        ["arm,pl011", "arm,primecell"].map(String::from).into(),
    )?;
    fdt.property_array_u64("reg", &[UART.start, UART.end - UART.start])?;
    fdt.property_array_u32("interrupts", &[SPI, UART_SPI, LEVEL])?;
    fdt.property_array_u32("clocks", &[CLOCK_HANDLE, CLOCK_HANDLE])?;
    fdt.property_string_list("clock-names", ["uartclk", "apb_pclk"].map(String::from).into())?;
    fdt.end_node(node)
}

fn rtc(fdt: &mut FdtWriter) -> FdtWriterResult<()> {
    let node = fdt.begin_node(&format!("pl031@{:x}", RTC.start))?;
    fdt.property_string_list(
        "compatible",
        ["arm,pl031", "arm,primecell"].map(String::from).into(),
    )?;
    fdt.property_array_u64("reg", &[RTC.start, RTC.end - RTC.start])?;
    fdt.property_array_u32("interrupts", &[SPI, RTC_SPI, LEVEL])?;
    fdt.property_u32("clocks", CLOCK_HANDLE)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.end_node(node)
}

fn virtio(fdt: &mut FdtWriter, index: u32) -> FdtWriterResult<()> {
    let registers = virtio_registers(index);
    let node = fdt.begin_node(&format!("virtio_mmio@{:x}", registers.start))?;
    fdt.property_string("compatible", "virtio,mmio")?;
    fdt.property_array_u64("reg", &[registers.start, registers.end - registers.start])?;
    fdt.property_array_u32("interrupts", &[SPI, virtio_spi(index), EDGE])?;
    fdt.property_null("dma-coherent")?;
    fdt.end_node(node)
}

#[cfg(test)]
mod tests {
    use belljar_kernel::drivers::fdt::{Gic, Machine, Span};

    use super::*;

    #[test]
    fn kernel_reads_the_tree_as_it_was_meant() {
        let board = Board {
            cpus: 18,
            memory: 96 << 20,
            cmdline: "console=ttyAMA0 quiet",
            initrd: Some((0x4400_0000, 0x4400_1234)),
            rng_seed: &[7; 32],
            kaslr_seed: 1,
            virtio: &[31, 30],
        };
        let blob = build(&board).unwrap();
        let machine = Machine::read(&blob).unwrap();
        let span = |range: std::ops::Range<u64>| Span { start: range.start, end: range.end };
        assert_eq!(machine.memory.as_slice(), [span(RAM_BASE..RAM_BASE + (96 << 20))]);
        assert_eq!(machine.bootargs, board.cmdline);
        assert_eq!(machine.initrd, Some(Span { start: 0x4400_0000, end: 0x4400_1234 }));
        assert_eq!(machine.rng_seed, [7; 32]);
        assert!(!machine.psci_smc);
        let cpus = machine.cpus.as_slice();
        assert_eq!((cpus.len(), cpus[1], cpus[16], cpus[17]), (18, 1, 0x100, 0x101));
        let (distributor, redistributors) = (span(GIC_DISTRIBUTOR), span(GIC_REDISTRIBUTORS));
        assert_eq!(machine.gic, Gic::V3 { distributor, redistributors });
        assert_eq!((machine.uart.registers, machine.uart.irq), (span(UART), 33));
        let rtc = machine.rtc.unwrap();
        assert_eq!((rtc.registers, rtc.irq), (span(RTC), 34));
        let virtio: Vec<_> =
            machine.virtio.as_slice().iter().map(|d| (d.registers, d.irq)).collect();
        assert_eq!(
            virtio,
            [(span(0xa00_3e00..0xa00_4000), 79), (span(0xa00_3c00..0xa00_3e00), 78)]
        );
    }
}

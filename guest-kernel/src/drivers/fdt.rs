//! What the kernel wants to know of the flattened device tree.
//!
//! It is read once, early, before there is a heap: the result is a plain value. The tree comes from the
//! boot loader and is trusted as far as the loader is, but reading it never panics: what is missing or
//! malformed is left at the default of QEMU's `virt` board or reported as [`FdtError`].

use core::ops::Range;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

/// Why a device tree cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdtError {
    /// It is not a device tree, or damaged.
    Malformed,
    /// No memory node with a register range.
    NoMemory,
}

impl core::fmt::Display for FdtError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            FdtError::Malformed => "the device tree is damaged",
            FdtError::NoMemory => "the device tree names no memory",
        })
    }
}

/// A list with room for `N`; more is dropped.
#[derive(Clone, Copy, Debug)]
pub struct Few<T, const N: usize> {
    items: [T; N],
    len: usize,
}

impl<T: Copy + Default, const N: usize> Default for Few<T, N> {
    fn default() -> Self {
        Self { items: [T::default(); N], len: 0 }
    }
}

impl<const N: usize> Few<Device, N> {
    /// No device.
    pub const fn new() -> Self {
        let none = Device { registers: Span { start: 0, end: 0 }, irq: 0, edge: false };
        Self { items: [none; N], len: 0 }
    }
}

impl<T: Copy, const N: usize> Few<T, N> {
    /// Adds an item, if there is room.
    pub fn push(&mut self, item: T) {
        if let Some(slot) = self.items.get_mut(self.len) {
            *slot = item;
            self.len += 1;
        }
    }

    /// The items.
    pub fn as_slice(&self) -> &[T] {
        &self.items[..self.len]
    }
}

/// Physical addresses, from the first to one past the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
}

impl Span {
    /// As a range.
    pub const fn range(self) -> Range<u64> {
        self.start..self.end
    }

    /// Bytes.
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// True if it holds nothing.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// Which interrupt controller the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    /// Distributor and CPU interface.
    V2 {
        /// Distributor registers.
        distributor: Span,
        /// CPU interface registers.
        cpu: Span,
    },
    /// Distributor and the region of the redistributors.
    V3 {
        /// Distributor registers.
        distributor: Span,
        /// Redistributor registers, one set for each CPU.
        redistributors: Span,
    },
}

/// A device with registers and an interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its registers.
    pub registers: Span,
    /// Its interrupt, as the controller numbers it.
    pub irq: u32,
    /// The interrupt is an edge, not a level.
    pub edge: bool,
}

/// What the device tree says about the machine.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// RAM.
    pub memory: Few<Span, 8>,
    /// RAM that is not free: reservations of the tree.
    pub reserved: Few<Span, 8>,
    /// MPIDR affinities of the CPUs.
    pub cpus: Few<u64, 64>,
    /// `/chosen/bootargs`.
    pub bootargs: &'a str,
    /// The initial RAM disk.
    pub initrd: Option<Span>,
    /// `/chosen/rng-seed`.
    pub rng_seed: &'a [u8],
    /// PSCI is called by `smc` instead of `hvc`.
    pub psci_smc: bool,
    /// The interrupt controller.
    pub gic: Gic,
    /// The console.
    pub uart: Device,
    /// The real-time clock.
    pub rtc: Option<Device>,
    /// virtio-mmio transports.
    pub virtio: Few<Device, 32>,
}

/// Bytes of a tree's header.
pub const HEADER_LEN: usize = 40;
/// Larger trees are not believed; QEMU's are 1 MiB.
const LARGEST: usize = 2 << 20;

/// The length that a tree's header states.
pub fn stated_len(header: &[u8]) -> Option<usize> {
    const MAGIC: u32 = 0xd00d_feed;
    let len = be32(header, 4)? as usize;
    (be32(header, 0)? == MAGIC && (HEADER_LEN..=LARGEST).contains(&len)).then_some(len)
}

/// How much of a tree is in use: QEMU states a mebibyte and leaves most of it empty.
pub fn used_len(blob: &[u8]) -> usize {
    let word = |at| be32(blob, at).unwrap_or(0) as usize;
    let structure = word(8).saturating_add(word(36));
    let strings = word(12).saturating_add(word(32));
    structure.max(strings).max(HEADER_LEN).min(blob.len())
}

const fn span(start: u64, len: u64) -> Span {
    Span { start, end: start + len }
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|c| u32::from_be_bytes(*c))
}

/// A number of one or two cells: QEMU writes the initrd's place as either, depending on its version.
fn number(bytes: &[u8]) -> Option<u64> {
    match bytes.len() {
        4 => be32(bytes, 0).map(u64::from),
        8 => Some(u64::from(be32(bytes, 0)?) << 32 | u64::from(be32(bytes, 4)?)),
        _ => None,
    }
}

/// The properties of one node that matter here, collected in one pass: a look-up by name is a walk.
#[derive(Clone, Copy, Default)]
struct Properties<'a> {
    compatible: &'a [u8],
    reg: &'a [u8],
    interrupts: &'a [u8],
    status: &'a [u8],
    method: &'a [u8],
    bootargs: &'a [u8],
    initrd_start: &'a [u8],
    initrd_end: &'a [u8],
    rng_seed: &'a [u8],
}

impl<'a> Properties<'a> {
    fn of(node: &FdtNode<'a>) -> Self {
        let mut all = Self::default();
        for property in node.properties() {
            let place = match property.name() {
                "compatible" => &mut all.compatible,
                "reg" => &mut all.reg,
                "interrupts" => &mut all.interrupts,
                "status" => &mut all.status,
                "method" => &mut all.method,
                "bootargs" => &mut all.bootargs,
                "linux,initrd-start" => &mut all.initrd_start,
                "linux,initrd-end" => &mut all.initrd_end,
                "rng-seed" => &mut all.rng_seed,
                _ => continue,
            };
            *place = property.value_as().unwrap_or_default();
        }
        all
    }

    fn compatible(&self, with: &str) -> bool {
        self.compatible.split(|&b| b == 0).any(|s| s == with.as_bytes())
    }

    /// A register range of a child of the root (2 address cells, 2 size cells, as the board has).
    fn registers(&self, at: usize) -> Option<Span> {
        let cells = self.reg.get(at * 16..at * 16 + 16)?;
        let (start, len) = (number(&cells[..8])?, number(&cells[8..])?);
        Some(Span { start, end: start.checked_add(len)? })
    }

    /// The first interrupt: `<type number flags>`, where type 1 is private.
    fn interrupt(&self) -> Option<u32> {
        let (kind, number) = (be32(self.interrupts, 0)?, be32(self.interrupts, 4)?);
        number.checked_add(if kind == 1 { 16 } else { 32 })
    }

    /// Bits 0 and 1 of the first interrupt's flags say edge, bits 2 and 3 level.
    fn interrupts_by_edge(&self) -> bool {
        be32(self.interrupts, 8).is_some_and(|flags| flags & 3 != 0)
    }

    fn device(&self) -> Option<Device> {
        let edge = self.interrupts_by_edge();
        Some(Device { registers: self.registers(0)?, irq: self.interrupt()?, edge })
    }
}

/// The text before the NUL.
fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    core::str::from_utf8(&bytes[..end]).unwrap_or("")
}

impl<'a> Machine<'a> {
    /// Reads a tree.
    pub fn read(blob: &'a [u8]) -> Result<Self, FdtError> {
        let fdt = Fdt::new(blob).map_err(|_| FdtError::Malformed)?;
        let mut machine = Machine {
            memory: Few::default(),
            reserved: Few::default(),
            cpus: Few::default(),
            bootargs: "",
            initrd: None,
            rng_seed: &[],
            psci_smc: false,
            gic: Gic::V3 {
                distributor: span(0x0800_0000, 0x1_0000),
                redistributors: span(0x080a_0000, 0xf6_0000),
            },
            uart: Device { registers: span(0x0900_0000, 0x1000), irq: 33, edge: false },
            rtc: None,
            virtio: Few::default(),
        };
        for reservation in fdt.memory_reservations() {
            machine.reserved.push(span(reservation.address(), reservation.size()));
        }
        for node in fdt.root().children() {
            machine.read_node(&node);
        }
        if machine.memory.as_slice().is_empty() {
            return Err(FdtError::NoMemory);
        }
        Ok(machine)
    }

    fn read_node(&mut self, node: &FdtNode<'a>) {
        match node.name_without_address() {
            "memory" => {
                let memory = Properties::of(node);
                for span in (0..8).map_while(|i| memory.registers(i)).filter(|s| !s.is_empty()) {
                    self.memory.push(span);
                }
            }
            "reserved-memory" => {
                for child in node.children() {
                    if let Some(span) = Properties::of(&child).registers(0) {
                        self.reserved.push(span);
                    }
                }
            }
            "cpus" => {
                for cpu in node.children().filter(|n| n.name_without_address() == "cpu") {
                    if let Some(id) = number(Properties::of(&cpu).reg) {
                        self.cpus.push(id);
                    }
                }
            }
            "chosen" => self.read_chosen(&Properties::of(node)),
            "psci" => self.psci_smc = text(Properties::of(node).method) == "smc",
            _ => self.read_device(&Properties::of(node)),
        }
    }

    fn read_chosen(&mut self, chosen: &Properties<'a>) {
        self.bootargs = text(chosen.bootargs);
        self.rng_seed = chosen.rng_seed;
        if let (Some(start), Some(end)) = (number(chosen.initrd_start), number(chosen.initrd_end)) {
            self.initrd = (start < end).then_some(Span { start, end });
        }
    }

    fn read_device(&mut self, device: &Properties<'a>) {
        if device.compatible("virtio,mmio") {
            if let Some(device) = device.device() {
                self.virtio.push(device);
            }
        } else if device.compatible("arm,pl011") {
            // A second one belongs to the secure world, and says so.
            if let (Some(uart), false) = (device.device(), text(device.status) == "disabled") {
                self.uart = uart;
            }
        } else if device.compatible("arm,pl031") {
            self.rtc = device.device();
        } else if device.compatible("arm,gic-v3") {
            if let (Some(distributor), Some(redistributors)) =
                (device.registers(0), device.registers(1))
            {
                self.gic = Gic::V3 { distributor, redistributors };
            }
        } else if (device.compatible("arm,cortex-a15-gic") || device.compatible("arm,gic-400"))
            && let (Some(distributor), Some(cpu)) = (device.registers(0), device.registers(1))
        {
            self.gic = Gic::V2 { distributor, cpu };
        }
    }

    /// The registers that drivers of this kernel touch.
    pub fn device_spans(&self) -> impl Iterator<Item = Span> + '_ {
        let gic = match self.gic {
            Gic::V2 { distributor, cpu } => [distributor, cpu],
            Gic::V3 { distributor, redistributors } => [distributor, redistributors],
        };
        let rtc = self.rtc.map(|rtc| rtc.registers);
        let virtio = self.virtio.as_slice().iter().map(|device| device.registers);
        gic.into_iter().chain([self.uart.registers]).chain(rtc).chain(virtio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes trees as the specification (devicetree.org, chapter 5) lays them out.
    struct Writer {
        structure: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Writer {
        fn new() -> Self {
            Self { structure: vec![], strings: vec![] }
        }

        fn word(&mut self, word: u32) {
            self.structure.extend(word.to_be_bytes());
        }

        fn padded(&mut self, bytes: &[u8]) {
            self.structure.extend(bytes);
            self.structure.resize(self.structure.len().next_multiple_of(4), 0);
        }

        fn begin(&mut self, name: &str) -> &mut Self {
            self.word(1);
            self.padded(format!("{name}\0").as_bytes());
            self
        }

        fn end(&mut self) -> &mut Self {
            self.word(2);
            self
        }

        fn property(&mut self, name: &str, value: &[u8]) -> &mut Self {
            let at = self.strings.len() as u32;
            self.strings.extend(format!("{name}\0").as_bytes());
            self.word(3);
            self.word(value.len() as u32);
            self.word(at);
            self.padded(value);
            self
        }

        fn cells(&mut self, name: &str, cells: &[u32]) -> &mut Self {
            let bytes: Vec<u8> = cells.iter().flat_map(|c| c.to_be_bytes()).collect();
            self.property(name, &bytes)
        }

        fn finish(&mut self) -> Vec<u8> {
            self.word(9);
            let structure = HEADER_LEN + 16;
            let strings = structure + self.structure.len();
            let total = strings + self.strings.len() + 1000;
            let header = [
                0xd00d_feed,
                total,
                structure,
                strings,
                HEADER_LEN,
                17,
                16,
                0,
                self.strings.len(),
                self.structure.len(),
            ];
            let mut blob: Vec<u8> = header.iter().flat_map(|&w| (w as u32).to_be_bytes()).collect();
            blob.extend([0; 16]);
            blob.extend(&self.structure);
            blob.extend(&self.strings);
            blob.resize(total, 0);
            blob
        }
    }

    fn board(initrd: (&[u32], &[u32])) -> Vec<u8> {
        let mut w = Writer::new();
        w.begin("").cells("#address-cells", &[2]).cells("#size-cells", &[2]);
        w.begin("psci").property("method", b"smc\0").end();
        w.begin("memory@40000000").cells("reg", &[0, 0x4000_0000, 0, 0x1000_0000]).end();
        w.begin("cpus").cells("#address-cells", &[1]).cells("#size-cells", &[0]);
        w.begin("cpu@0").cells("reg", &[0]).end().begin("cpu@1").cells("reg", &[1]).end();
        w.begin("cpu-map").end().end();
        w.begin("intc@8000000").property("compatible", b"arm,cortex-a15-gic\0");
        w.cells("reg", &[0, 0x800_0000, 0, 0x1_0000, 0, 0x801_0000, 0, 0x1_0000]).end();
        w.begin("pl011@9000000").property("compatible", b"arm,pl011\0arm,primecell\0");
        w.cells("reg", &[0, 0x900_0000, 0, 0x1000]).cells("interrupts", &[0, 1, 4]).end();
        w.begin("pl011@9040000").property("compatible", b"arm,pl011\0arm,primecell\0");
        w.property("status", b"disabled\0").cells("reg", &[0, 0x904_0000, 0, 0x1000]);
        w.cells("interrupts", &[0, 8, 4]).end();
        w.begin("virtio_mmio@a000000").property("compatible", b"virtio,mmio\0");
        w.cells("reg", &[0, 0xa00_0000, 0, 0x200]).cells("interrupts", &[0, 16, 1]).end();
        w.begin("chosen").property("bootargs", b"quiet x=1\0").property("rng-seed", &[7; 32]);
        w.cells("linux,initrd-start", initrd.0).cells("linux,initrd-end", initrd.1).end();
        w.end().finish()
    }

    #[test]
    fn a_board_is_read_whole() {
        let blob = board((&[0x4800_0000], &[0x4810_0000]));
        let machine = Machine::read(&blob).unwrap();
        assert_eq!(machine.memory.as_slice(), [span(0x4000_0000, 0x1000_0000)]);
        assert_eq!(machine.cpus.as_slice(), [0, 1]);
        assert!(machine.psci_smc);
        assert_eq!(machine.uart.irq, 33);
        assert_eq!(machine.uart.registers.start, 0x900_0000);
        assert_eq!(machine.virtio.as_slice()[0].irq, 48);
        assert!(machine.virtio.as_slice()[0].edge && !machine.uart.edge);
        assert_eq!((machine.bootargs, machine.rng_seed), ("quiet x=1", &[7; 32][..]));
        let (distributor, cpu) = (span(0x800_0000, 0x1_0000), span(0x801_0000, 0x1_0000));
        assert_eq!(machine.gic, Gic::V2 { distributor, cpu });
    }

    #[test]
    fn initrd_cells_may_be_32_or_64_bit() {
        let expected = Some(Span { start: 0x4800_0000, end: 0x4810_0000 });
        for blob in [
            board((&[0x4800_0000], &[0x4810_0000])),
            board((&[0, 0x4800_0000], &[0, 0x4810_0000])),
            board((&[0, 0x4800_0000], &[0x4810_0000])),
        ] {
            assert_eq!(Machine::read(&blob).unwrap().initrd, expected);
        }
        assert_eq!(Machine::read(&board((&[5], &[5]))).unwrap().initrd, None);
    }

    #[test]
    fn the_used_part_excludes_the_padding() {
        let blob = board((&[1], &[2]));
        assert_eq!(stated_len(&blob), Some(blob.len()));
        assert!(used_len(&blob) <= blob.len() - 1000 && Machine::read(&blob).is_ok());
    }

    #[test]
    fn a_damaged_tree_is_an_error_and_never_a_panic() {
        let good = board((&[0x4800_0000], &[0x4810_0000]));
        assert_eq!(Machine::read(&good[..20]).unwrap_err(), FdtError::Malformed);
        let empty = Writer::new().begin("").end().finish();
        assert_eq!(Machine::read(&empty).unwrap_err(), FdtError::NoMemory);
        for at in 0..good.len() - 1000 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = (Machine::read(&bad), stated_len(&bad), used_len(&bad));
            }
        }
    }
}

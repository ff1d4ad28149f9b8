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

/// The virtual timer and shared interrupts are `<type number flags>`; type 1 is private.
fn interrupt(node: &FdtNode<'_>) -> Option<u32> {
    let property = node.property("interrupts")?;
    let cells = property.value();
    let kind = be32(cells, 0)?;
    let number = be32(cells, 4)?;
    number.checked_add(if kind == 1 { 16 } else { 32 })
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

/// The register ranges of a child of the root (2 address cells, 2 size cells, as the board has).
fn registers(node: &FdtNode<'_>, at: usize) -> Option<Span> {
    let property = node.property("reg")?;
    let cells = property.value().get(at * 16..at * 16 + 16)?;
    let (start, len) = (number(&cells[..8])?, number(&cells[8..])?);
    Some(Span { start, end: start.checked_add(len)? })
}

fn bytes<'a>(node: &FdtNode<'a>, name: &str) -> Option<&'a [u8]> {
    node.properties().find(|p| p.name() == name)?.value_as().ok()
}

fn text<'a>(node: &FdtNode<'a>, name: &str) -> Option<&'a str> {
    let bytes = bytes(node, name)?;
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    core::str::from_utf8(bytes.get(..end)?).ok()
}

fn compatible(node: &FdtNode<'_>, with: &str) -> bool {
    bytes(node, "compatible")
        .is_some_and(|list| list.split(|&b| b == 0).any(|s| s == with.as_bytes()))
}

fn device(node: &FdtNode<'_>) -> Option<Device> {
    Some(Device { registers: registers(node, 0)?, irq: interrupt(node)? })
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
            uart: Device { registers: span(0x0900_0000, 0x1000), irq: 33 },
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
                for span in (0..8).map_while(|i| registers(node, i)).filter(|s| !s.is_empty()) {
                    self.memory.push(span);
                }
            }
            "reserved-memory" => {
                for span in node.children().filter_map(|child| registers(&child, 0)) {
                    self.reserved.push(span);
                }
            }
            "cpus" => {
                for cpu in node.children().filter(|n| n.name_without_address() == "cpu") {
                    if let Some(id) = bytes(&cpu, "reg").and_then(number) {
                        self.cpus.push(id);
                    }
                }
            }
            "chosen" => self.read_chosen(node),
            "psci" => self.psci_smc = text(node, "method") == Some("smc"),
            _ if node.property("compatible").is_some() => self.read_device(node),
            _ => {}
        }
    }

    fn read_chosen(&mut self, node: &FdtNode<'a>) {
        self.bootargs = text(node, "bootargs").unwrap_or("");
        self.rng_seed = bytes(node, "rng-seed").unwrap_or(&[]);
        let place = |name| bytes(node, name).and_then(number);
        if let (Some(start), Some(end)) = (place("linux,initrd-start"), place("linux,initrd-end")) {
            self.initrd = (start < end).then_some(Span { start, end });
        }
    }

    fn read_device(&mut self, node: &FdtNode<'a>) {
        if compatible(node, "virtio,mmio") {
            if let Some(device) = device(node) {
                self.virtio.push(device);
            }
        } else if compatible(node, "arm,pl011") {
            // With a second, secure one the first named is ours.
            if let (Some(device), true) = (device(node), text(node, "status") != Some("disabled")) {
                self.uart = device;
            }
        } else if compatible(node, "arm,pl031") {
            self.rtc = device(node);
        } else if compatible(node, "arm,gic-v3") {
            if let (Some(distributor), Some(redistributors)) =
                (registers(node, 0), registers(node, 1))
            {
                self.gic = Gic::V3 { distributor, redistributors };
            }
        } else if compatible(node, "arm,cortex-a15-gic") || compatible(node, "arm,gic-400") {
            if let (Some(distributor), Some(cpu)) = (registers(node, 0), registers(node, 1)) {
                self.gic = Gic::V2 { distributor, cpu };
            }
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

//! The board: what every backend builds, so that one kernel and one snapshot serve all of them.
//!
//! The addresses are those of QEMU's `virt` board. The guest learns them from its device tree; they
//! stand here for whoever must find something in the guest's memory without asking the guest.

use std::ops::Range;

/// Where RAM starts (guest physical).
pub const RAM_BASE: u64 = 0x4000_0000;
/// The interrupt controller's (GICv3) distributor.
pub const GIC_DISTRIBUTOR: Range<u64> = 0x0800_0000..0x0801_0000;
/// The redistributors of its CPUs, 128 KiB each.
pub const GIC_REDISTRIBUTORS: Range<u64> = 0x080a_0000..0x0900_0000;
/// The serial port, a PL011.
pub const UART: Range<u64> = 0x0900_0000..0x0900_1000;
/// The serial port's interrupt, as all here: the number among the shared ones (SPI).
pub const UART_SPI: u32 = 1;
/// The real-time clock, a PL031.
pub const RTC: Range<u64> = 0x0901_0000..0x0901_1000;
/// The clock's interrupt.
pub const RTC_SPI: u32 = 2;
/// How many virtio-mmio transports there are.
pub const VIRTIO_TRANSPORTS: u32 = 32;
/// How many shared interrupts the controller has.
pub const SPIS: u32 = 256;

/// The registers of transport `index`.
pub const fn virtio_registers(index: u32) -> Range<u64> {
    let start = 0x0a00_0000 + index as u64 * 0x200;
    start..start + 0x200
}

/// The interrupt of transport `index`.
pub const fn virtio_spi(index: u32) -> u32 {
    16 + index
}

/// Where a boot loader puts an `Image` whose header asks for no offset: RAM base + 2 MiB.
pub const KERNEL_BASE: u64 = RAM_BASE + 0x20_0000;
/// The least memory that the kernel and a small image run in.
pub const MIN_MEMORY: u64 = 16 << 20;
/// The memory of a VM if nobody says otherwise.
pub const DEFAULT_MEMORY: u64 = 256 << 20;
/// The most memory that the board's address map has room for, low devices included.
pub const MAX_MEMORY: u64 = 128 << 30;
/// What each CPU takes of [`GIC_REDISTRIBUTORS`].
pub const GIC_REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
/// The most CPUs that the board's interrupt controller serves. Our kernel leaves alone those that it has no
/// room for.
pub const MAX_CPUS: u32 =
    ((GIC_REDISTRIBUTORS.end - GIC_REDISTRIBUTORS.start) / GIC_REDISTRIBUTOR_SIZE) as u32;
/// The CPU model of a VM if nobody says otherwise: programs are shown what every backend has.
pub const PORTABLE_CPU: &str = "portable";
/// RAM is given out in such steps.
pub const MEMORY_STEP: u64 = 1 << 20;

/// Reads a size such as `64M` or `1G`; a plain number is MiB. Rounded up to [`MEMORY_STEP`].
pub fn parse_memory(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 20,
        "k" | "kb" | "kib" => 10,
        "g" | "gb" | "gib" => 30,
        unit => return Err(format!("unknown unit {unit:?}: write 64M or 1G")),
    };
    let number: u64 = digits.parse().map_err(|_| "not a size: write 64M or 1G".to_owned())?;
    let bytes = number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes <= MAX_MEMORY)
        .ok_or_else(|| format!("more than {} GiB", MAX_MEMORY >> 30))?;
    Ok(bytes.next_multiple_of(MEMORY_STEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_with_its_unit_and_rounded_up() {
        assert_eq!(parse_memory("32M"), Ok(32 << 20));
        assert_eq!(parse_memory("64"), Ok(64 << 20));
        assert_eq!(parse_memory("1GiB"), Ok(1 << 30));
        assert_eq!(parse_memory("1500k"), Ok(2 << 20));
        for bad in ["", "M", "-1", "1T", "99999999999G", "1.5G"] {
            assert!(parse_memory(bad).is_err(), "{bad:?}");
        }
    }
}

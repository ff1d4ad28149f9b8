//! How much of the kernel's stack each function takes. A thread has 16 KiB in the kernel, and a call goes
//! through twenty functions and more: none may take a large part of it.

use anyhow::{Context, Result};
use object::read::elf::ElfFile64;
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

/// Bytes that a function may take: a quarter of a stack (`arch::KERNEL_STACK_SIZE`).
const MOST: u64 = 4 << 10;

/// What takes more, with little above it and nothing below: at boot, and when a machine goes on.
const AT_START: [&str; 2] = ["kernel_start", "belljar_kernel::suspend::thaw::read_machine"];

/// Where the devices are made, then too.
const DEVICES: &str = "belljar_kernel::drivers::virtio::";

/// The functions there that make them; what sends and receives has no more room than anything else.
const MAKE_DEVICES: [&str; 5] = ["init", "start", "new", "try_new", "reinit"];

/// Whether a function runs only then.
fn is_at_start(name: &str) -> bool {
    let makes_devices = || {
        let path = name.trim_start_matches('<');
        let last = name.rsplit("::").next().unwrap_or_default();
        path.starts_with(DEVICES) && MAKE_DEVICES.contains(&last)
    };
    AT_START.contains(&name) || makes_devices()
}

/// The functions of a kernel that take more of the stack than they may, with the bytes that they take.
pub fn too_large(elf: &[u8]) -> Result<Vec<(String, u64)>> {
    let file =
        ElfFile64::<LittleEndian>::parse(elf).context("the kernel is not a 64-bit ELF file")?;
    let mut found = Vec::new();
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let code = section.data().context("a section lies outside the file")?;
        for symbol in file.symbols().filter(|s| s.section_index() == Some(section.index())) {
            if symbol.kind() != SymbolKind::Text {
                continue;
            }
            let start = symbol.address() - section.address();
            let Some(body) = code.get(start as usize..(start + symbol.size()) as usize) else {
                continue;
            };
            let name = format!("{:#}", rustc_demangle::demangle(symbol.name().unwrap_or_default()));
            let size = frame_size(body);
            if size > MOST && !is_at_start(&name) {
                found.push((name, size));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The bytes that a function's code takes off the stack pointer. A function does so once, at its start or
/// where it knows that it needs them, in up to three steps.
fn frame_size(code: &[u8]) -> u64 {
    code.as_chunks().0.iter().map(|word| taken_by(u32::from_le_bytes(*word))).sum()
}

/// The bytes that an instruction takes: `SUB SP, SP, #imm` and `STP Xn, Xm, [SP, #-imm]!` (ARM ARM, C6.2).
fn taken_by(word: u32) -> u64 {
    const SUB_SP: u32 = 0xd100_03ff;
    const STP_PRE_SP: u32 = 0xa980_03e0;
    if word & 0xff80_03ff == SUB_SP {
        let imm = u64::from(word >> 10 & 0xfff);
        let shifted = word >> 22 & 1 != 0;
        return if shifted { imm << 12 } else { imm };
    }
    if word & 0xffc0_03e0 == STP_PRE_SP {
        // imm7, signed, in units of 8 bytes.
        let imm = (word << 10).cast_signed() >> 25;
        return u64::from(imm.unsigned_abs()) * 8 * u64::from(imm < 0);
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_makes_devices_may_take_more() {
        for name in [
            "kernel_start",
            "belljar_kernel::drivers::virtio::queue::Queue<R,_,_>::new",
            "<belljar_kernel::drivers::virtio::net::Net<T>>::try_new",
            "belljar_kernel::drivers::virtio::net::start",
        ] {
            assert!(is_at_start(name), "{name}");
        }
        for name in [
            "kernel_start_again",
            "belljar_kernel::drivers::virtio::net::Net<T>::transmit",
            "<belljar_kernel::drivers::virtio::blk::Block<T> as Driver>::interrupt",
            "belljar_kernel::net::inet::stack::Stack::new",
        ] {
            assert!(!is_at_start(name), "{name}");
        }
    }

    #[test]
    fn the_steps_of_a_frame_are_added_up() {
        // stp x29, x30, [sp, #-80]!; sub sp, sp, #1, lsl #12; sub sp, sp, #1440; mov x29, sp; ret
        let code = [0xa9bb_7bfd_u32, 0xd140_07ff, 0xd116_83ff, 0x9100_03fd, 0xd65f_03c0];
        let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(frame_size(&bytes), 80 + 4096 + 1440);
        // ldp x29, x30, [sp], #80; add sp, sp, #1440; stp x1, x2, [sp, #16]
        for word in [0xa8c5_7bfd, 0x9116_83ff, 0xa901_0be1] {
            assert_eq!(taken_by(word), 0, "{word:x}");
        }
    }
}

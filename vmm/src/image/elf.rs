//! What the VMM must know of an ELF file before the guest runs it: is it for this machine, and can
//! it run alone.

use object::Endianness;
use object::elf::{EM_AARCH64, ET_DYN, ET_EXEC, FileHeader64, Machine, PT_INTERP, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

/// The bytes of a file that are needed: the header, and in practice the program headers.
pub(super) const HEAD: usize = 4096;

/// Whether `bytes` start as any ELF file does.
pub(super) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// Checks that an ELF file of `len` bytes, of which `head` is the start, is a whole AArch64 program. Says
/// in words what it is otherwise: "it is built for x86-64".
pub(super) fn check(head: &[u8], len: u64) -> Result<(), String> {
    let class = head.get(4).copied().unwrap_or(0);
    let data = head.get(5).copied().unwrap_or(0);
    let machine = match (head.get(18..20), data) {
        (Some(&[low, high]), 2) => Machine(u16::from_be_bytes([low, high])),
        (Some(&[low, high]), _) => Machine(u16::from_le_bytes([low, high])),
        _ => return Err("its ELF header is cut short".to_owned()),
    };
    if (class, data, machine) != (2, 1, EM_AARCH64) {
        return Err(format!("it is built for {}, not for AArch64", machine_name(machine)));
    }
    let header = FileHeader64::<Endianness>::parse(head)
        .map_err(|_| "its ELF header is cut short".to_owned())?;
    let kind = header.e_type(Endianness::Little);
    if kind != ET_EXEC && kind != ET_DYN {
        return Err("it is an ELF file but no program".to_owned());
    }
    // A table beyond what was read is not checked; compilers put it right behind the header.
    let segments = header.program_headers(Endianness::Little, head).unwrap_or_default();
    let end = |segment: &ProgramHeader64<_>| {
        let endian = Endianness::Little;
        segment.p_offset(endian).saturating_add(segment.p_filesz(endian))
    };
    match segments.iter().all(|segment| end(segment) <= len) {
        true => Ok(()),
        false => Err(format!("it is cut short after {len} bytes")),
    }
}

/// The dynamic loader that the program of which `head` is the start asks for.
pub(super) fn interpreter(head: &[u8]) -> Option<String> {
    let endian = Endianness::Little;
    let header = FileHeader64::<Endianness>::parse(head).ok()?;
    let headers = header.program_headers(endian, head).ok()?;
    let interp = headers.iter().find(|header| header.p_type(endian) == PT_INTERP)?;
    let path = interp.data(endian, head).ok()?;
    Some(String::from_utf8_lossy(path).trim_end_matches('\0').to_owned())
}

fn machine_name(machine: Machine) -> String {
    match machine {
        object::elf::EM_X86_64 => "x86-64".to_owned(),
        object::elf::EM_386 => "32-bit x86".to_owned(),
        object::elf::EM_ARM => "32-bit Arm".to_owned(),
        object::elf::EM_RISCV => "RISC-V".to_owned(),
        object::elf::EM_AARCH64 => "another form of AArch64 (big endian or ILP32)".to_owned(),
        Machine(other) => format!("machine {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(machine: Machine) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[16..18].copy_from_slice(&ET_EXEC.0.to_le_bytes());
        bytes[18..20].copy_from_slice(&machine.0.to_le_bytes());
        bytes[52..54].copy_from_slice(&64u16.to_le_bytes());
        bytes
    }

    #[test]
    fn check_names_the_other_machine() {
        assert_eq!(check(&header(EM_AARCH64), 64), Ok(()));
        assert!(check(&header(Machine(62)), 64).unwrap_err().contains("x86-64"));
        assert!(check(b"\x7fELF\x02", 5).unwrap_err().contains("cut short"));
    }

    #[test]
    fn check_finds_a_segment_beyond_the_end() {
        let mut bytes = header(EM_AARCH64);
        bytes[32] = 64; // e_phoff
        bytes[54] = 56; // e_phentsize
        bytes[56] = 1; // e_phnum
        bytes.resize(64 + 56, 0);
        bytes[64] = 1; // PT_LOAD
        bytes[64 + 32..64 + 34].copy_from_slice(&500u16.to_le_bytes()); // p_filesz
        assert_eq!(check(&bytes, 500), Ok(()));
        assert!(check(&bytes, 499).unwrap_err().contains("cut short"));
    }

    #[test]
    fn the_test_program_itself_is_refused_elsewhere_than_on_aarch64() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(is_elf(&bytes));
        assert_eq!(
            check(&bytes[..HEAD], bytes.len() as u64).is_ok(),
            cfg!(target_arch = "aarch64")
        );
        assert!(interpreter(&bytes[..HEAD]).is_some() || cfg!(target_feature = "crt-static"));
    }
}

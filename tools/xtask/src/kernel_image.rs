//! From the kernel's ELF file to a bootable arm64 `Image` that carries its own symbols.

use anyhow::{Context, Result, bail};
use belljar_abi::image::Header;
use belljar_abi::payload::{self, Builder};
use belljar_abi::symbols;
use object::elf::{PT_LOAD, STT_FUNC, STT_NOTYPE, STT_OBJECT};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SectionKind};

type Elf<'a> = ElfFile64<'a, LittleEndian>;

/// Flattens the ELF file `elf` into an `Image` with a payload of symbols behind its `.bss`.
pub fn from_elf(elf: &[u8]) -> Result<Vec<u8>> {
    let file = Elf::parse(elf).context("the kernel is not a 64-bit ELF file")?;
    let start = symbol(&file, "__image_start")?;
    let end = symbol(&file, "__image_end")?;
    let mut image = flatten(&file, elf)?;
    let memory = usize::try_from(end - start)?;
    if memory < image.len() {
        bail!("__image_end lies before the end of the last segment");
    }
    image.resize(memory.next_multiple_of(payload::ALIGN), 0);
    let header = Header::read(&image).context("the kernel does not start with an Image header")?;
    if header.image_size != memory as u64 {
        bail!("the header states {:#x} bytes, the linker {memory:#x}", header.image_size);
    }
    if header.root_page >= memory as u64 {
        bail!("the root page at {:#x} lies outside the image", header.root_page);
    }
    Builder::new().set(payload::SYMBOLS, symbol_table(&file, start)?).attach(&mut image)?;
    Ok(image)
}

/// Copies the loadable segments to where they stand relative to the lowest physical address.
fn flatten(file: &Elf<'_>, elf: &[u8]) -> Result<Vec<u8>> {
    let endian = LittleEndian;
    let segments = file.elf_header().program_headers(endian, elf)?;
    let loads =
        || segments.iter().filter(|s| s.p_type(endian) == PT_LOAD && s.p_filesz(endian) > 0);
    let base = loads().map(|s| s.p_paddr(endian)).min().context("the kernel has no segment")?;
    let mut image = Vec::new();
    for segment in loads() {
        let data = segment.data(endian, elf).ok().context("a segment lies outside the file")?;
        let at = usize::try_from(segment.p_paddr(endian) - base)?;
        if image.len() < at + data.len() {
            image.resize(at + data.len(), 0);
        }
        image[at..at + data.len()].copy_from_slice(data);
    }
    Ok(image)
}

/// The table that the kernel and the VMM name code addresses with: functions, and the labels of
/// assembly code, without the compiler's local ones.
fn symbol_table(file: &Elf<'_>, start: u64) -> Result<Vec<u8>> {
    let mut found = Vec::new();
    let mut end = 0;
    for section in file.sections() {
        if section.kind() != SectionKind::Text {
            continue;
        }
        end = end.max(section.address() + section.size() - start);
        for symbol in file.symbols().filter(|s| s.section_index() == Some(section.index())) {
            let kind = symbol.elf_symbol().st_type();
            let name = symbol.name().unwrap_or_default();
            let local = name.is_empty() || name.starts_with('$') || name.starts_with('.');
            if !matches!(kind, STT_FUNC | STT_NOTYPE | STT_OBJECT) || local {
                continue;
            }
            let Some(offset) = symbol.address().checked_sub(start) else { continue };
            let rank = (offset, kind != STT_FUNC, symbol.is_local());
            found.push((rank, format!("{:#}", rustc_demangle::demangle(name))));
        }
    }
    found.sort();
    let symbols = found.into_iter().map(|((offset, ..), name)| Ok((u32::try_from(offset)?, name)));
    Ok(symbols::encode(symbols.collect::<Result<_>>()?, u32::try_from(end)?))
}

fn symbol(file: &Elf<'_>, name: &str) -> Result<u64> {
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name));
    Ok(symbol.with_context(|| format!("the kernel has no symbol {name}"))?.address())
}

//! Hostile snapshots, cores and guests, for the fuzzer and for a fixed-seed run among the tests: good ones with
//! some bytes changed. Only coming back matters.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

use belljar_abi::corenote;

use super::manifest::Manifest;
use super::{Facts, MANIFEST, MEMORY, Snapshot, Trust, save};
use crate::checkpoint::{self, Depth};
use crate::introspect::Kernel;
use crate::introspect::synthetic::{BASE, Guest, look_at_everything};
use crate::target::{Ram, SliceRam, VmCore};
use crate::{dump, elfcore};

/// What a good machine, its snapshot and its core look like.
struct Good {
    ram: Vec<u8>,
    manifest: Vec<u8>,
    memory: Vec<u8>,
    core: Vec<u8>,
    note: Vec<u8>,
}

fn good() -> &'static Good {
    static GOOD: OnceLock<Good> = OnceLock::new();
    GOOD.get_or_init(|| {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let (dir, core) = (temp.path().join("snap"), temp.path().join("core"));
        let guest = Guest::new();
        let facts = Facts { cpus: 1, ..Facts::default() };
        save(&guest.target(), &facts, &dir).expect("the made-up guest can be saved");
        dump::dump(&guest.target(), &[Default::default()], &core).expect("and dumped");
        let read = |path: &Path| fs::read(path).expect("what was just written");
        let mut files: corenote::Writer<corenote::File> = corenote::Writer::default();
        let path_bytes = files.bytes(b"/tmp/file").expect("a short path");
        files.push(corenote::File { id: 1, path_bytes, ..Default::default() });
        Good {
            manifest: read(&dir.join(MANIFEST)),
            memory: read(&dir.join(MEMORY)),
            core: read(&core),
            ram: guest.ram,
            note: files.finish(),
        }
    })
}

/// Changes bytes as `data` says: three bytes of place, one of value; places wrap at the end of what is
/// `interesting`.
fn patched(good: &[u8], interesting: usize, data: &[u8]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let len = interesting.min(bytes.len()).max(1);
    for patch in data.chunks_exact(4) {
        let at = u32::from_le_bytes([patch[0], patch[1], patch[2], 0]) as usize % len;
        bytes[at] = patch[3];
    }
    bytes
}

/// One input: the first byte chooses what is attacked, the rest says how.
pub fn fuzz_one(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    let good = good();
    match which % 6 {
        0 => drop(Manifest::from_text(&patched(&good.manifest, usize::MAX, data))),
        // A manifest with the right hash, as whoever makes a hostile snapshot writes it.
        1 => rehashed(&patched(&good.manifest, usize::MAX, data)),
        2 => snapshot(&good.manifest, &patched(&good.memory, usize::MAX, data)),
        3 => core(&patched(&good.core, 4096, data)),
        4 => note(&patched(&good.note, usize::MAX, data)),
        _ => guest(&patched(&good.ram[2 << 20..], 512 << 10, data)),
    }
}

fn rehashed(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Some(start) = text.find("\"manifest\":").map(|at| at + "\"manifest\":".len()) else {
        return;
    };
    let body = text[start..].trim_end().trim_end_matches('}').to_owned() + "}";
    let Ok(body) = serde_json::value::RawValue::from_string(body) else { return };
    let hash = blake3::hash(body.get().as_bytes()).to_hex();
    let whole = format!(
        "{{\"magic\":\"{}\",\"version\":1,\"blake3\":\"{hash}\",\"manifest\":{body}}}",
        super::MAGIC
    );
    if Manifest::from_text(whole.as_bytes()).is_ok() {
        snapshot(whole.as_bytes(), &good().memory);
    }
}

fn snapshot(manifest: &[u8], memory: &[u8]) {
    let Ok(temp) = tempfile::tempdir() else { return };
    let written = fs::write(temp.path().join(MANIFEST), manifest)
        .and_then(|()| fs::write(temp.path().join(MEMORY), memory));
    if written.is_err() {
        return;
    }
    for trust in [Trust::Verify, Trust::Trust] {
        if let Ok(snapshot) = Snapshot::open(temp.path(), trust)
            && let Ok(ram) = snapshot.ram()
        {
            let mut bytes = vec![0; good().ram.len()];
            if ram.read(BASE, &mut bytes).is_ok() {
                look_at_everything(&bytes);
            }
        }
    }
}

fn core(bytes: &[u8]) {
    let _ = elfcore::parse(bytes);
    let Ok(mut file) = tempfile::NamedTempFile::new() else { return };
    if file.write_all(bytes).is_err() {
        return;
    }
    if let Ok(core) = VmCore::open(file.path()) {
        let _ = core.populated();
        let _ = Kernel::open(&core, true);
        let mut byte = [0; 8];
        for range in core.ranges() {
            for phys in [range.start, range.end.saturating_sub(4), range.end] {
                let _ = core.read(phys, &mut byte);
            }
        }
    }
}

fn note(desc: &[u8]) {
    let Ok(table) = corenote::Table::parse(desc) else { return };
    for file in table.records::<corenote::File>() {
        let _ = table.bytes(file.path_bytes);
    }
    for process in table.records::<corenote::Process>() {
        let _ = table.bytes(process.cwd_bytes);
    }
}

/// A guest that does what it likes is saved, dumped and taken apart.
fn guest(image: &[u8]) {
    let ram = [&good().ram[..2 << 20], image].concat();
    let target = SliceRam { base: BASE, bytes: &ram };
    let Ok(temp) = tempfile::tempdir() else { return };
    let _ = save(&target, &Facts { cpus: 1, ..Facts::default() }, &temp.path().join("snap"));
    let _ = dump::dump(&target, &[], &temp.path().join("core"));
    if let Ok(kernel) = Kernel::open(&target, true) {
        for depth in [Depth::Plain, Depth::Whole { now: 0 }] {
            let _ = checkpoint::image(&kernel, &[], 1, depth).map(drop);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same inputs every time; `BELLJAR_FUZZ_RUNS` makes it longer.
    #[test]
    fn hostile_snapshots_cores_and_guests_are_survived() {
        let runs = std::env::var("BELLJAR_FUZZ_RUNS").ok().and_then(|runs| runs.parse().ok());
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..runs.unwrap_or(400) {
            let mut data = vec![next() as u8];
            for _ in 0..1 + next() % 8 {
                data.extend(&next().to_le_bytes()[..4]);
            }
            fuzz_one(&data);
        }
    }
}

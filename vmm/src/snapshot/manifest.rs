//! The manifest: what a snapshot says of itself, and the form in which the file carries it.
//!
//! The file is one JSON object `{"magic", "version", "blake3", "manifest"}`. The hash covers the text of
//! `manifest` byte for byte, so a reader knows that the text is whole before it decodes it, whatever
//! fields a later version added. Everything that reading needs has been there since version 1; fields
//! may be added (readers skip what they do not know), and a field that is needed to read the memory
//! raises [`VERSION`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::machine::{MAX_CPUS, MAX_MEMORY};
use crate::target::PAGE_SIZE;

/// The manifest's file in the snapshot's folder.
pub const MANIFEST: &str = "manifest.json";
/// The memory file.
pub const MEMORY: &str = "memory.img";
/// What tells the manifest from any other JSON file.
pub const MAGIC: &str = "belljar snapshot";
/// Version of the form.
pub const VERSION: u32 = 1;
/// Bytes of memory whose stored frames share one hash.
pub const CHUNK: u64 = 2 << 20;
/// Frames of a chunk.
const FRAMES: u64 = CHUNK / PAGE_SIZE;
/// Larger manifests are not read: several times what all of the largest RAM needs.
pub(super) const MAX_BYTES: u64 = 256 << 20;

// Tripwires. Snapshots are kept and read by later versions: whoever must change one of these raises
// VERSION, keeps reading the old form, and adds a golden snapshot beside vmm/tests/golden/snapshot-v1.
const _: () = {
    assert!(VERSION == 1, "snapshot format: a new version needs a reader for the former ones");
    assert!(PAGE_SIZE == 4096, "snapshot format: frames of 4 KiB");
    assert!(CHUNK == 2 << 20, "snapshot format: hashes of chunks of 2 MiB");
    let magic = MAGIC.as_bytes();
    assert!(magic.len() == 16 && magic[0] == b'b' && magic[15] == b't', "snapshot format: magic");
};

/// What a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The program that saved it, such as `belljar 0.1.0`.
    pub writer: String,
    /// When the guest stood still for it, in nanoseconds since 1970.
    pub taken_ns: u64,
    /// Where it comes from.
    pub source: Source,
    /// The kernel in it.
    pub kernel: Kernel,
    /// The machine that it needs.
    pub board: Board,
    /// What its programs were told of the CPU.
    pub cpu: Cpu,
    /// Its disks, the first of which it calls /dev/vda. What is on them is not part of the snapshot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// Where the kernel goes on; absent if the memory is that of a kernel that was not frozen, which
    /// can be looked at but not resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thaw: Option<Thaw>,
    /// What ran in it.
    pub tasks: Tasks,
    /// Its RAM.
    pub memory: Memory,
}

/// Where a snapshot comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Name of the VM.
    pub vm: String,
    /// What it ran.
    pub image: String,
    /// The backend that ran its CPUs.
    pub backend: String,
}

/// The kernel in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Build id, in hexadecimal digits.
    pub build_id: String,
    /// Physical address of its root page.
    pub root_page: u64,
    /// Version of the root page.
    pub root_version: u32,
    /// Version of the layout note.
    pub layout_version: u32,
}

/// The machine that a snapshot needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Board {
    /// Its kind; this version knows `virt`.
    pub name: String,
    /// First physical address of RAM.
    pub ram_base: u64,
    /// Bytes of RAM.
    pub ram_size: u64,
    /// Number of CPUs.
    pub cpus: u32,
    /// What its network cards were connected to, as `--net` takes it. They may be others, or none, when the
    /// guest goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
}

/// A disk that a machine has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The file or block device of the host that it was.
    pub path: PathBuf,
    /// Its bytes.
    pub size: u64,
    /// The guest could not write to it.
    pub read_only: bool,
}

/// What programs were told of the CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// What `--cpu` was.
    pub model: String,
    /// The features shown, by the names in /proc/cpuinfo.
    pub features: Vec<String>,
}

/// Where and how a frozen kernel goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thaw {
    /// Physical address where CPU 0 starts, MMU off.
    pub entry: u64,
    /// Ticks of the counter in a second: a machine with another frequency is refused by the kernel.
    #[serde(default)]
    pub counter_frequency: u64,
    /// How many times the memory was thawed before.
    #[serde(default)]
    pub generation: u64,
    /// The kernel takes its console for a stream of bytes, no terminal.
    #[serde(default)]
    pub raw_console: bool,
}

/// What ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tasks {
    /// Number of processes, kernel threads included.
    pub count: u64,
    /// Programs among them, at most [`Tasks::MAX_ROWS`].
    pub programs: Vec<TaskRow>,
}

impl Tasks {
    /// Most programs that a manifest lists.
    pub const MAX_ROWS: usize = 256;
}

/// One program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRow {
    /// Process number.
    pub pid: u64,
    /// Number of its parent.
    pub ppid: Option<u64>,
    /// Its threads.
    pub threads: u64,
    /// Bytes in memory.
    pub rss: u64,
    /// Its name.
    pub comm: String,
}

/// The RAM of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Bytes of the frames that are stored.
    pub stored: u64,
    /// Bytes that one hash covers.
    pub chunk: u64,
    /// Every chunk with at least one stored frame, in ascending order.
    pub chunks: Vec<Chunk>,
}

/// The stored frames of one chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Offset of the chunk in the memory file.
    pub at: u64,
    /// Runs of stored frames: the first one's number in the chunk, and how many.
    pub frames: Vec<(u32, u32)>,
    /// BLAKE3 of the bytes of those frames, one after the other.
    #[serde(with = "hex")]
    pub blake3: [u8; 32],
}

impl Chunk {
    /// The byte ranges in the memory file that its runs stand for.
    pub fn ranges(&self) -> impl Iterator<Item = std::ops::Range<u64>> + '_ {
        self.frames.iter().map(|(first, count)| {
            let start = self.at + u64::from(*first) * PAGE_SIZE;
            start..start + u64::from(*count) * PAGE_SIZE
        })
    }
}

/// Hashes as hexadecimal digits.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(hash: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&blake3::Hash::from_bytes(*hash).to_hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        blake3::Hash::from_hex(text.as_bytes()).map(Into::into).map_err(D::Error::custom)
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
struct File<'a> {
    magic: &'a str,
    version: u32,
    blake3: &'a str,
    #[serde(borrow)]
    manifest: &'a RawValue,
}

/// As much of the file as every version has: for what is no [`File`].
#[derive(Deserialize)]
struct Head {
    magic: String,
    version: u64,
}

/// Why a manifest's text was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not ours.
    Foreign,
    /// Of a later version.
    Version(u64),
    /// Changed or contradictory.
    Damaged(String),
}

impl Refusal {
    /// Why `text` is refused, which is no [`File`] because of `error`.
    fn of(text: &[u8], error: &serde_json::Error) -> Self {
        // Cut text is no JSON any more; what it began with still says whose it was.
        let begins_like_ours = text.starts_with(format!("{{\"magic\":\"{MAGIC}\"").as_bytes());
        match serde_json::from_slice::<Head>(text) {
            Ok(head) if head.magic != MAGIC => Self::Foreign,
            Ok(head) if head.version != u64::from(VERSION) => Self::Version(head.version),
            Err(_) if !begins_like_ours => Self::Foreign,
            Ok(_) | Err(_) => Self::Damaged(error.to_string()),
        }
    }
}

impl Manifest {
    /// The text of the file.
    pub(super) fn to_text(&self) -> serde_json::Result<Vec<u8>> {
        let manifest = serde_json::value::to_raw_value(self)?;
        let hash = blake3::hash(manifest.get().as_bytes()).to_hex();
        let file = File { magic: MAGIC, version: VERSION, blake3: &hash, manifest: &manifest };
        let mut text = serde_json::to_vec(&file)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Checks the text of a file and decodes it.
    pub(super) fn from_text(text: &[u8]) -> Result<Self, Refusal> {
        let damaged = |what: &dyn std::fmt::Display| Refusal::Damaged(what.to_string());
        let file: File<'_> = serde_json::from_slice(text).map_err(|e| Refusal::of(text, &e))?;
        if file.magic != MAGIC {
            return Err(Refusal::Foreign);
        }
        if file.version != VERSION {
            return Err(Refusal::Version(file.version.into()));
        }
        let found = blake3::hash(file.manifest.get().as_bytes()).to_hex();
        if found.as_str() != file.blake3 {
            return Err(Refusal::Damaged(format!(
                "it is not what was saved (BLAKE3 {found} instead of {})",
                crate::render::escape(file.blake3)
            )));
        }
        let manifest: Self = serde_json::from_str(file.manifest.get()).map_err(|e| damaged(&e))?;
        manifest.check().map_err(Refusal::Damaged)?;
        Ok(manifest)
    }

    /// Whether the numbers fit each other; what passes can be used without a further look.
    fn check(&self) -> Result<(), String> {
        let Board { name, ram_base, ram_size, cpus, networks: _ } = &self.board;
        if name != "virt" {
            return Err(format!("board {:?} instead of \"virt\"", crate::render::escape(name)));
        }
        if ram_base % PAGE_SIZE != 0
            || *ram_size == 0
            || ram_size % PAGE_SIZE != 0
            || *ram_size > MAX_MEMORY
            || ram_base.checked_add(*ram_size).is_none()
        {
            return Err(format!("{ram_size:#x} bytes of RAM at {ram_base:#x}"));
        }
        if !(1..=MAX_CPUS).contains(cpus) {
            return Err(format!("{cpus} CPUs"));
        }
        let inside = |addr: u64| (*ram_base..ram_base + ram_size).contains(&addr);
        if !inside(self.kernel.root_page) || !self.kernel.root_page.is_multiple_of(PAGE_SIZE) {
            return Err(format!("a root page at {:#x}", self.kernel.root_page));
        }
        if let Some(thaw) = self.thaw.as_ref().filter(|thaw| !inside(thaw.entry)) {
            return Err(format!("a thaw entry at {:#x}, outside RAM", thaw.entry));
        }
        self.memory.check(*ram_size)
    }
}

impl Memory {
    fn check(&self, ram_size: u64) -> Result<(), String> {
        if self.chunk != CHUNK {
            return Err(format!("chunks of {} bytes instead of {CHUNK}", self.chunk));
        }
        let (mut next, mut stored) = (0, 0);
        for chunk in &self.chunks {
            let at = chunk.at;
            if at % CHUNK != 0 || at < next || at >= ram_size {
                return Err(format!("a chunk at {at:#x}"));
            }
            next = at + CHUNK;
            let frames = FRAMES.min((ram_size - at) / PAGE_SIZE);
            let mut from = 0;
            for (first, count) in &chunk.frames {
                let (first, count) = (u64::from(*first), u64::from(*count));
                if count == 0 || first < from || first + count > frames {
                    return Err(format!("frames {first}+{count} in the chunk at {at:#x}"));
                }
                from = first + count;
                stored += count * PAGE_SIZE;
            }
            if chunk.frames.is_empty() {
                return Err(format!("an empty chunk at {at:#x}"));
            }
        }
        match stored == self.stored {
            true => Ok(()),
            false => Err(format!("{stored} bytes in chunks, {} in all", self.stored)),
        }
    }
}

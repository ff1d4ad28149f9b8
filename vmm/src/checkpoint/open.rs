//! Opens a checkpoint: nothing of it is used before every core was found to be the one that was written.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::sync::Arc;

use super::tree::{INDEX, Index, MAGIC, VERSION};
use super::{Error, Result};
use crate::elfcore;

/// Most bytes of an index.
const MAX_INDEX: u64 = 16 << 20;
/// Most processes of a checkpoint: what the guest's kernel takes.
const MAX_PROCESSES: usize = 4096;

/// A checkpoint that was found to be whole.
#[derive(Debug)]
pub struct Checkpoint {
    /// What is in it.
    pub index: Index,
    /// Its cores, in the order of the index, opened for reading.
    pub cores: Vec<Arc<File>>,
}

impl Checkpoint {
    /// Opens the checkpoint in `dir`. The cores stay the ones that were checked as long as this lives.
    pub fn open(dir: &Path) -> Result<Self> {
        let bad = |why: String| Error::BadCheckpoint { dir: dir.to_owned(), why };
        let path = dir.join(INDEX);
        let mut text = vec![];
        File::open(&path)
            .and_then(|file| file.take(MAX_INDEX).read_to_end(&mut text))
            .map_err(|cause| bad(format!("its {INDEX} cannot be read: {cause}")))?;
        let index: Index = serde_json::from_slice(&text)
            .map_err(|cause| bad(format!("its {INDEX} is damaged: {cause}")))?;
        if index.magic != MAGIC {
            return Err(bad(format!("its {INDEX} is something else")));
        }
        if index.version != VERSION {
            let found = index.version;
            return Err(bad(format!("it has version {found}, this reads {VERSION}")));
        }
        if index.processes.is_empty() || index.processes.len() > MAX_PROCESSES {
            return Err(bad(format!("it has {} processes", index.processes.len())));
        }
        let mut cores = vec![];
        for member in &index.processes {
            let name = &member.file;
            // A name, not a way out of the folder.
            if name.is_empty() || name.contains('/') || name.starts_with('.') {
                return Err(bad(format!("it names a core {name:?}")));
            }
            let unreadable = |cause| bad(format!("its core {name} cannot be read: {cause}"));
            let mut file = File::open(dir.join(name)).map_err(unreadable)?;
            if hash(&mut file).map_err(unreadable)? != member.blake3 {
                return Err(bad(format!("its core {name} is not the one that was written")));
            }
            let checked = elfcore::parse(&object::ReadCache::new(&file));
            checked.map_err(|cause| bad(format!("its core {name}: {cause}")))?;
            cores.push(Arc::new(file));
        }
        Ok(Self { index, cores })
    }
}

/// The BLAKE3 of a file, from its start on, as text.
pub(super) fn hash(file: &mut File) -> std::io::Result<String> {
    file.rewind()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut *file)?;
    Ok(hasher.finalize().to_hex().to_string())
}

//! `image.toml`: what an image runs if nobody says otherwise.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::Error;
use crate::machine;

/// The keys that running an image needs; the rest of the file is about building it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Recipe {
    /// The first program and its arguments. Without it: `/init`, `/sbin/init`, `/bin/init`, `/bin/sh`.
    pub cmd: Vec<String>,
    /// Its environment, on top of the standard one.
    pub env: BTreeMap<String, String>,
    /// The memory of a VM that runs it, such as `64M`.
    pub memory: Option<String>,
}

impl Recipe {
    /// Reads `path`; a file that is not there is an empty recipe.
    pub fn read(path: &Path) -> Result<Self, Error> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                Self::parse(&text).map_err(|cause| Error::Recipe { path: path.to_owned(), cause })
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(cause) => Err(Error::Read { path: path.to_owned(), cause }),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let recipe: Self = toml::from_str(text)
            .map_err(|e| e.message().lines().next().unwrap_or_default().to_owned())?;
        if let Some(memory) = &recipe.memory {
            machine::parse_memory(memory).map_err(|e| format!("memory: {e}"))?;
        }
        Ok(recipe)
    }

    /// The memory of a VM that runs it, in bytes.
    pub fn memory(&self) -> Option<u64> {
        machine::parse_memory(self.memory.as_deref()?).ok()
    }
}

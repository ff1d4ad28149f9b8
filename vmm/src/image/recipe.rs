//! `image.toml`: what an image runs if nobody says otherwise.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::Error;

/// The keys that running an image needs; the rest of the file is about building it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Recipe {
    /// The first program and its arguments. Without it: `/init`, `/sbin/init`, `/bin/init`, `/bin/sh`.
    pub cmd: Vec<String>,
    /// Its environment, on top of the standard one.
    pub env: BTreeMap<String, String>,
}

impl Recipe {
    /// Reads `path`; a file that is not there is an empty recipe.
    pub fn read(path: &Path) -> Result<Self, Error> {
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|e| Error::Recipe {
                path: path.to_owned(),
                cause: e.message().lines().next().unwrap_or_default().to_owned(),
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(cause) => Err(Error::Read { path: path.to_owned(), cause }),
        }
    }
}

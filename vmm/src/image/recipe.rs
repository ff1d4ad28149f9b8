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
        // A start has to read in all code that it runs: this crate's is a small part of toml's.
        let recipe: Self = basic_toml::from_str(text)
            .map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_read_and_a_broken_one_says_where() {
        let text = "description = \"x\"\ncmd = [\"/bin/sh\",\n    \"-l\"]\n[env]\nA = \"b\"\n";
        let recipe = Recipe::parse(text).unwrap();
        assert_eq!(recipe.cmd, ["/bin/sh", "-l"]);
        assert_eq!(recipe.env["A"], "b");
        for (text, why) in [
            ("cmd = [\n", "unexpected eof encountered at line 2 column 1"),
            (
                "cmd = 5",
                "invalid type: integer `5`, expected a sequence for key `cmd` at line 1 column 7",
            ),
            ("memory = \"much\"", "memory: "),
        ] {
            let error = Recipe::parse(text).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }
}

//! What the end-to-end tests share: the `belljar` under test, a sandbox for it, a stub guest.
//!
//! The tests drive the real binary through its command line, as a user would. `$BELLJAR` names it,
//! else it is `target/release/belljar`, which `cargo xtask build` makes; without it they fail.

pub mod guest;
pub mod interrupted;
pub mod sandbox;
pub mod stub;
pub mod terminal;

use std::path::{Path, PathBuf};

/// The binary under test.
///
/// # Panics
/// If it has not been built.
pub fn belljar() -> PathBuf {
    let path = std::env::var_os("BELLJAR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/belljar"),
        PathBuf::from,
    );
    assert!(path.is_file(), "{} is not there: run cargo xtask build first", path.display());
    path
}

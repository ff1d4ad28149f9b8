//! Where things stand in the work tree.

use std::path::{Path, PathBuf};

/// The root of the work tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("tools/xtask is two levels deep")
}

/// Cargo's target folder; `CARGO_TARGET_DIR` is honoured.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// What `belljar` looks for beside its own folder: the kernel and the images.
pub fn home() -> PathBuf {
    target().join("belljar")
}

/// What the tools keep for themselves: downloaded packages, the reference kernel, markers.
pub fn cache() -> PathBuf {
    target().join("xtask")
}

/// The `belljar` binary.
pub fn belljar() -> PathBuf {
    target().join("release/belljar")
}

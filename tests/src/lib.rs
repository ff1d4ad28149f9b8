//! What the end-to-end tests share: the `belljar` under test, a sandbox for it, a stub guest.
//!
//! The tests drive the real binary through its command line, as a user would. `$BELLJAR` names it,
//! else it is `target/release/belljar`, which `cargo xtask build` makes; without it they fail.

pub mod gdb;
pub mod guest;
pub mod interrupted;
pub mod printing;
pub mod sandbox;
pub mod stub;
pub mod terminal;

use std::path::{Path, PathBuf};

/// What `cargo xtask build` left beside the binary under test: kernel, images, guest programs.
///
/// # Panics
/// If the binary has not been built.
pub fn home() -> PathBuf {
    let folder = belljar().canonicalize().unwrap().parent().unwrap().join("../belljar");
    folder.canonicalize().unwrap()
}

/// The variable that names the folder which the host and the reference machine share.
const SHARE: &str = "BELLJAR_SHARE";

/// The folder that the host and the reference machine share, for tests in a module `before_kvm` (which
/// run on the host first), `kvm` (in the machine) or `after_kvm` (on the host again).
///
/// # Panics
/// Outside of `cargo xtask test --only kvm`.
pub fn share() -> PathBuf {
    std::env::var_os(SHARE).expect("run this with cargo xtask test --only kvm").into()
}

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

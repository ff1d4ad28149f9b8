//! Where the kernel and the named images stand, so that `belljar` works from any current folder.
//!
//! A home holds `Image` and `kernel.elf` (the kernel), `Image.blake3` (hashes of `Image`, which need not be there), and
//! `images/NAME/` with `rootfs.cpio` and `image.toml` for each image. It is `$BELLJAR_HOME`, else `../belljar` beside the folder of the
//! executable (the build tree), else `../share/belljar` (an installation).

use std::path::{Path, PathBuf};

use super::Error;

/// A folder with a kernel and images.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// Finds the home; it need not be complete.
    pub fn find() -> Result<Self, Error> {
        if let Some(root) = std::env::var_os("BELLJAR_HOME") {
            let root = PathBuf::from(root);
            return match root.is_dir() {
                true => Ok(Self { root }),
                false => Err(Error::NoHome(format!("$BELLJAR_HOME ({})", root.display()))),
            };
        }
        let exe = std::env::current_exe().map_err(|e| Error::NoHome(e.to_string()))?;
        let above = exe.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        ["belljar", "share/belljar"]
            .iter()
            .map(|folder| above.join(folder))
            .find(|root| root.is_dir())
            .map(|root| Self { root })
            .ok_or_else(|| Error::NoHome(format!("{}/belljar", above.display())))
    }

    /// The kernel that boots an image.
    pub fn kernel(&self) -> Result<PathBuf, Error> {
        let path = self.root.join("Image");
        match path.is_file() {
            true => Ok(path),
            false => Err(Error::NoKernel(path)),
        }
    }

    /// The kernel's ELF file with its debug information, for source lines; it need not be there.
    pub fn kernel_elf(&self) -> PathBuf {
        self.root.join("kernel.elf")
    }

    /// The folder of the image `name`, if there is one.
    pub fn image(&self, name: &str) -> Option<PathBuf> {
        let folder = self.root.join("images").join(name);
        folder.join(ROOTFS).is_file().then_some(folder)
    }

    /// The names of all images, sorted.
    pub fn names(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.root.join("images")) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|entry| entry.path().join(ROOTFS).is_file())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

/// An image's files, in its folder.
pub(super) const ROOTFS: &str = "rootfs.cpio";
/// What it runs by default, in its folder.
pub(super) const RECIPE: &str = "image.toml";

//! Image recipes (`images/NAME/image.toml`) and the root file systems made from them.
//!
//! A root file system is a sorted list of paths in memory, written as one newc cpio archive. Times are
//! zero, owners are root and inode numbers count up, so the same input gives the same bytes.

use crate::apt::Apt;
use crate::toolchain::{GUEST_PROFILE, LINUX_TARGET};
use crate::{exec, paths};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// An image recipe. `belljar` reads the same file for what it runs; here are all keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    #[expect(dead_code, reason = "for people")]
    description: String,
    /// Debian arm64 packages to unpack.
    #[serde(default)]
    packages: Vec<String>,
    /// Whether everything that the packages depend on is unpacked too.
    #[serde(default)]
    dependencies: bool,
    /// The paths to take from the packages; without it all but documentation is taken.
    #[serde(default)]
    take: Vec<String>,
    /// A BusyBox binary: each of its applets becomes a link to it in its folder.
    applets: Option<String>,
    /// Programs of this workspace: guest path to cargo package.
    #[serde(default)]
    pub programs: BTreeMap<String, String>,
    /// A folder beside the recipe that is copied over all of that.
    files: Option<String>,
    /// Further folders, with their modes in octal.
    #[serde(default)]
    dirs: BTreeMap<String, String>,
    /// Further symbolic links: guest path to target.
    #[serde(default)]
    symlinks: BTreeMap<String, String>,
    /// What runs as process 1 when no command is given.
    cmd: Vec<String>,
    /// What `cargo xtask run` runs when there is no terminal.
    #[serde(default)]
    pub demo: Vec<String>,
    /// Environment of process 1.
    #[serde(default)]
    #[expect(dead_code, reason = "for belljar; checked here")]
    env: BTreeMap<String, String>,
    /// Memory of the machine when the user says nothing, for example `64M`.
    #[expect(dead_code, reason = "for belljar; checked here")]
    memory: Option<String>,
    /// Whether the image is for tests only and not listed to users.
    #[serde(default)]
    pub test_only: bool,
}

impl Recipe {
    /// Reads the recipe of the image in `dir`.
    pub fn read(dir: &Path) -> Result<Recipe> {
        let path = dir.join("image.toml");
        let text = String::from_utf8(exec::read(&path)?).context("a recipe must be UTF-8")?;
        let recipe: Recipe =
            toml::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        if recipe.cmd.is_empty() {
            bail!("{}: `cmd` is empty", path.display());
        }
        Ok(recipe)
    }

    /// Makes the root file system of the image in `dir`.
    pub fn rootfs(&self, dir: &Path) -> Result<Rootfs> {
        let mut rootfs = Rootfs::default();
        if !self.packages.is_empty() {
            for folder in Apt::open()?.unpacked(&self.packages, self.dependencies)? {
                rootfs.add_tree(&folder, &|path| self.takes(path))?;
            }
        }
        if let Some(binary) = &self.applets {
            rootfs.add_applets(binary)?;
        }
        for (path, package) in &self.programs {
            rootfs.add_file(path, 0o755, exec::read(&linux_program(package))?);
        }
        if let Some(files) = &self.files {
            rootfs.add_tree(&dir.join(files), &|_| true)?;
        }
        for (path, mode) in &self.dirs {
            let mode = u32::from_str_radix(mode, 8)
                .with_context(|| format!("`{mode}` of {path} is no octal mode"))?;
            rootfs.add_dir(path, mode);
        }
        for (path, target) in &self.symlinks {
            rootfs.add_symlink(path, target);
        }
        Ok(rootfs)
    }

    fn takes(&self, path: &str) -> bool {
        if self.take.is_empty() {
            const DOCUMENTATION: &[&str] = &[
                "/usr/share/doc",
                "/usr/share/man",
                "/usr/share/info",
                "/usr/share/locale",
                "/usr/share/lintian",
            ];
            return !DOCUMENTATION.iter().any(|dir| is_under(path, dir));
        }
        // A folder is taken when something in it is.
        self.take.iter().any(|wanted| is_under(path, wanted) || is_under(wanted, path))
    }
}

fn is_under(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The recipes of the work tree: name and folder of each image, sorted by name.
pub fn recipes() -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(paths::root().join("images")).context("cannot read images/")? {
        let dir = entry?.path();
        if dir.join("image.toml").is_file() {
            let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.push((name, dir));
        }
    }
    found.sort();
    Ok(found)
}

/// Where cargo leaves the AArch64 Linux program `name`.
pub fn linux_program(name: &str) -> PathBuf {
    paths::target().join(LINUX_TARGET).join(GUEST_PROFILE).join(name)
}

enum Node {
    Dir,
    File(Vec<u8>),
    Symlink(String),
}

/// A root file system in memory.
#[derive(Default)]
pub struct Rootfs {
    nodes: BTreeMap<String, (u32, Node)>,
}

impl Rootfs {
    /// Adds a folder; its parents are added with mode 755 where they are missing.
    pub fn add_dir(&mut self, path: &str, mode: u32) {
        self.add_parents(path);
        self.nodes.insert(path.to_string(), (mode, Node::Dir));
    }

    /// Adds a regular file.
    pub fn add_file(&mut self, path: &str, mode: u32, data: Vec<u8>) {
        self.add_parents(path);
        self.nodes.insert(path.to_string(), (mode, Node::File(data)));
    }

    /// Adds a symbolic link.
    pub fn add_symlink(&mut self, path: &str, target: &str) {
        self.add_parents(path);
        self.nodes.insert(path.to_string(), (0o777, Node::Symlink(target.to_string())));
    }

    fn add_parents(&mut self, path: &str) {
        let mut at = 0;
        while let Some(next) = path[at + 1..].find('/') {
            at += 1 + next;
            self.nodes.entry(path[..at].to_string()).or_insert((0o755, Node::Dir));
        }
    }

    /// Adds what is in the folder `source` of the host and passes `filter`, which is given guest paths.
    pub fn add_tree(&mut self, source: &Path, filter: &dyn Fn(&str) -> bool) -> Result<()> {
        self.add_tree_at(source, "", filter)
            .with_context(|| format!("cannot take the files in {}", source.display()))
    }

    fn add_tree_at(
        &mut self,
        source: &Path,
        at: &str,
        filter: &dyn Fn(&str) -> bool,
    ) -> Result<()> {
        for entry in fs::read_dir(source)? {
            let entry = entry?;
            let path = format!("{at}/{}", entry.file_name().to_string_lossy());
            if !filter(&path) {
                continue;
            }
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                let mode = metadata.permissions().mode() & 0o1777;
                self.nodes.entry(path.clone()).or_insert((mode, Node::Dir));
                self.add_tree_at(&entry.path(), &path, filter)?;
            } else if metadata.is_symlink() {
                let target = fs::read_link(entry.path())?;
                self.add_symlink(&path, &target.to_string_lossy());
            } else if metadata.is_file() {
                // Git keeps only the execute bit, and the umask of a checkout is anybody's guess; a
                // package's set-id bits are kept.
                let found = metadata.permissions().mode();
                let mode = if found & 0o100 != 0 { 0o755 } else { 0o644 };
                self.add_file(&path, mode | found & 0o6000, fs::read(entry.path())?);
            }
        }
        Ok(())
    }

    /// Links every applet of the BusyBox at `binary` to it. The names stand in the binary itself, as
    /// one sorted run of strings that starts with `[` and `[[` and ends with an empty one.
    fn add_applets(&mut self, binary: &str) -> Result<()> {
        let Some((_, Node::File(data))) = self.nodes.get(binary) else {
            bail!("`applets`: there is no file {binary}");
        };
        let start = data
            .windows(5)
            .position(|window| window == b"[\0[[\0")
            .with_context(|| format!("{binary} holds no list of BusyBox applets"))?;
        let names: Vec<_> = data[start..]
            .split(|byte| *byte == 0)
            .take_while(|name| !name.is_empty())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        let (dir, own_name) = binary.rsplit_once('/').context("`applets` must be a full path")?;
        let own_name = own_name.to_string();
        for name in names.iter().filter(|name| **name != own_name) {
            self.add_symlink(&format!("{dir}/{name}"), &own_name);
        }
        Ok(())
    }

    /// Writes the file system as a newc cpio archive.
    pub fn to_cpio(&self) -> Result<Vec<u8>> {
        const DIR: u32 = 0o040000;
        const FILE: u32 = 0o100000;
        const SYMLINK: u32 = 0o120000;
        let mut archive = Vec::new();
        for (ino, (path, (mode, node))) in (1..).zip(&self.nodes) {
            let (kind, data, nlink) = match node {
                Node::Dir => (DIR, &[][..], 2),
                Node::File(data) => (FILE, &data[..], 1),
                Node::Symlink(target) => (SYMLINK, target.as_bytes(), 1),
            };
            let builder = cpio::newc::Builder::new(path.trim_start_matches('/'));
            let builder = builder.ino(ino).nlink(nlink).mode(kind | mode);
            let mut writer = builder.write(&mut archive, data.len() as u32);
            writer.write_all(data)?;
            writer.finish()?;
        }
        cpio::newc::trailer(&mut archive)?;
        // Linux wants archives that follow one another to start on a word.
        archive.resize(archive.len().next_multiple_of(512), 0);
        Ok(archive)
    }

    /// Writes the file system as a folder of the host.
    pub fn to_folder(&self, root: &Path) -> Result<()> {
        let _ = fs::remove_dir_all(root);
        fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        for (path, (mode, node)) in &self.nodes {
            let host = root.join(path.trim_start_matches('/'));
            match node {
                Node::Dir => fs::create_dir(&host)?,
                Node::File(data) => fs::write(&host, data)?,
                Node::Symlink(target) => {
                    std::os::unix::fs::symlink(target, &host)?;
                    continue;
                }
            }
            fs::set_permissions(&host, fs::Permissions::from_mode(*mode))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpio_holds_parents_before_children() {
        let mut rootfs = Rootfs::default();
        rootfs.add_file("/etc/a/b", 0o600, b"text".to_vec());
        rootfs.add_symlink("/bin", "usr/bin");
        let archive = rootfs.to_cpio().unwrap();
        let mut reader = &archive[..];
        let mut names = Vec::new();
        loop {
            let entry = cpio::newc::Reader::new(reader).unwrap();
            if entry.entry().is_trailer() {
                break;
            }
            names.push((entry.entry().name().to_string(), entry.entry().mode()));
            reader = entry.finish().unwrap();
        }
        let expected =
            [("bin", 0o120777), ("etc", 0o40755), ("etc/a", 0o40755), ("etc/a/b", 0o100600)];
        assert_eq!(names, expected.map(|(name, mode)| (name.to_string(), mode)));
    }

    #[test]
    fn add_applets_reads_names_from_the_binary() {
        let mut rootfs = Rootfs::default();
        rootfs.add_file("/bin/busybox", 0o755, b"\x7fELF..\0[\0[[\0busybox\0sh\0\0tail".to_vec());
        rootfs.add_applets("/bin/busybox").unwrap();
        let names: Vec<_> = rootfs.nodes.keys().map(String::as_str).collect();
        assert_eq!(names, ["/bin", "/bin/[", "/bin/[[", "/bin/busybox", "/bin/sh"]);
    }

    #[test]
    fn every_recipe_of_the_tree_is_read() {
        let recipes = recipes().unwrap();
        assert!(recipes.iter().any(|(name, _)| name == "shell"));
        recipes.iter().for_each(|(_, dir)| drop(Recipe::read(dir).unwrap()));
    }

    #[test]
    fn take_keeps_only_what_is_named_and_its_parents() {
        let text = "description = ''\ncmd = ['/init']\ntake = ['/bin/busybox']";
        let recipe: Recipe = toml::from_str(text).unwrap();
        assert!(recipe.takes("/bin") && recipe.takes("/bin/busybox"));
        assert!(!recipe.takes("/bin/other") && !recipe.takes("/usr"));
    }
}

//! Debian's arm64 packages, fetched and unpacked without root and without touching the host's own
//! package state.
//!
//! An apt configuration of our own under the target folder knows one architecture, arm64, and one
//! release, bookworm, so that the images and the reference kernel are the same on every host. On a
//! bookworm host the host's own Debian sources are used; another Debian's archive is used under our
//! release's name; any other host names one in `BELLJAR_DEBIAN_MIRROR`.

use crate::{exec, paths};
use anyhow::{Context, Result, bail};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The keys that sign Debian's archives.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const RELEASE: &str = "bookworm";

/// The private apt.
pub struct Apt {
    dir: PathBuf,
    _lock: fs::File,
}

impl Apt {
    /// Opens the private apt, making it and fetching the package lists on the first call. Others
    /// wait until the returned value is dropped.
    pub fn open() -> Result<Apt> {
        let dir = paths::cache().join("apt");
        for sub in ["lists/partial", "cache/archives/partial", "unpacked"] {
            fs::create_dir_all(dir.join(sub)).context("cannot make the folder of apt")?;
        }
        let lock = fs::File::create(dir.join("lock")).context("cannot make apt's lock")?;
        lock.lock().context("cannot take apt's lock")?;
        exec::write(&dir.join("status"), b"")?;
        let list = match host_sources() {
            Some(list) => list,
            None => {
                let list = dir.join("debian.sources");
                exec::write(&list, debian_sources()?.as_bytes())?;
                list
            }
        };
        let list = list.display();
        let at = dir.display();
        let config = format!(
            "APT::Architecture \"arm64\";\nAPT::Architectures {{ \"arm64\"; }};\n\
             Dir::State \"{at}\";\nDir::State::lists \"{at}/lists\";\n\
             Dir::State::status \"{at}/status\";\nDir::Cache \"{at}/cache\";\n\
             Dir::Etc::sourcelist \"{list}\";\nDir::Etc::sourceparts \"-\";\n\
             APT::Sandbox::User \"\";\nAcquire::Languages \"none\";\nDebug::NoLocking \"true\";\n"
        );
        exec::write(&dir.join("apt.conf"), config.as_bytes())?;
        let apt = Apt { dir, _lock: lock };
        if !apt.dir.join("updated").exists() {
            apt.update()?;
        }
        Ok(apt)
    }

    fn update(&self) -> Result<()> {
        println!("Fetching Debian's package lists for arm64 (into the target folder)");
        exec::output(self.command("apt-get").args(["-q", "update"]))?;
        exec::write(&self.dir.join("updated"), b"")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.dir.join("apt.conf")).env("LC_ALL", "C");
        command.current_dir(self.dir.join("cache/archives"));
        command
    }

    /// Fetches `packages`, with all that they depend on if `dependencies`, and gives back the folders
    /// that each was unpacked into, dependencies included.
    pub fn unpacked(&self, packages: &[String], dependencies: bool) -> Result<Vec<PathBuf>> {
        let list =
            self.dir.join("unpacked").join(format!("{:016x}.list", key(packages, dependencies)));
        if let Ok(text) = fs::read_to_string(&list) {
            let folders: Vec<_> = text.lines().map(|line| self.dir.join(line)).collect();
            if folders.iter().all(|folder| folder.is_dir()) {
                return Ok(folders);
            }
        }
        let archives = match self.fetch(packages, dependencies) {
            Ok(archives) => archives,
            // The lists may be older than the archive's last update.
            Err(_) => {
                self.update()?;
                self.fetch(packages, dependencies)?
            }
        };
        let mut names = Vec::new();
        for archive in &archives {
            names.push(self.unpack(archive)?);
        }
        exec::write(&list, names.join("\n").as_bytes())?;
        Ok(names.iter().map(|name| self.dir.join(name)).collect())
    }

    /// Fetches package files and gives back their names.
    fn fetch(&self, packages: &[String], dependencies: bool) -> Result<Vec<PathBuf>> {
        let mut query = self.command("apt-get");
        if dependencies {
            query.args(["-qq", "--print-uris", "-y", "--no-install-recommends", "install"]);
        } else {
            query.args(["-qq", "--print-uris", "download"]);
        }
        // Not where the package files are: apt-get does not name those that lie in its current folder or
        // in its cache.
        let empty = self.dir.join("empty");
        fs::create_dir_all(empty.join("partial")).context("cannot make the folder of apt")?;
        query.arg("-o").arg(format!("Dir::Cache::archives={}", empty.display()));
        let uris = exec::output(query.args(packages).current_dir(&empty))?;
        let mut archives = Vec::new();
        let mut absent = Vec::new();
        // 'URI' FILE SIZE HASH, one line a package
        for line in uris.lines().filter(|line| line.starts_with('\'')) {
            let file = line.split_whitespace().nth(1).context("apt-get printed no file name")?;
            let path = self.dir.join("cache/archives").join(file);
            if !path.exists() {
                let mut fields = file.split('_');
                let name = fields.next().unwrap_or_default();
                let version = fields.next().unwrap_or_default().replace("%3a", ":");
                absent.push(format!("{name}={version}"));
            }
            archives.push(path);
        }
        if archives.is_empty() {
            bail!("apt-get knows no package {}", packages.join(", "));
        }
        if !absent.is_empty() {
            println!("Fetching Debian arm64 packages: {}", absent.join(" "));
            exec::output(self.command("apt-get").args(["-qq", "download"]).args(&absent))?;
        }
        Ok(archives)
    }

    /// Unpacks one package file; gives back the folder's name under ours.
    fn unpack(&self, archive: &Path) -> Result<String> {
        let stem = archive.file_stem().context("a package without a name")?.to_string_lossy();
        let name = format!("unpacked/{stem}");
        let folder = self.dir.join(&name);
        if !folder.is_dir() {
            let partial = self.dir.join(format!("{name}.partial"));
            let _ = fs::remove_dir_all(&partial);
            exec::run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&partial))?;
            fs::rename(&partial, &folder).context("cannot rename an unpacked package")?;
        }
        Ok(name)
    }

    /// The packages that `package` depends on directly.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = exec::output(self.command("apt-cache").args(["depends", package]))?;
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(|name| name.trim_end_matches(":arm64").to_string()).collect())
    }
}

/// Stands for a list of packages, in any order, in the name of the file that remembers their folders: the
/// names themselves may be longer than a file's name can be.
fn key(packages: &[String], dependencies: bool) -> u64 {
    let mut sorted: Vec<_> = packages.iter().collect();
    sorted.sort();
    let mut hasher = DefaultHasher::new();
    (sorted, dependencies).hash(&mut hasher);
    hasher.finish()
}

/// The host's own source list for Debian, if the host has our release: it may name a mirror.
fn host_sources() -> Option<PathBuf> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let has = |wanted: &str| release.lines().any(|line| line == wanted);
    if !has("ID=debian") || !has(&format!("VERSION_CODENAME={RELEASE}")) {
        return None;
    }
    let lists = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
    let filled = |path: &PathBuf| fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0);
    lists.map(PathBuf::from).into_iter().find(filled)
}

/// A source list for our release: from the archive that `BELLJAR_DEBIAN_MIRROR` names, else from the one
/// that a Debian host of another release uses itself.
fn debian_sources() -> Result<String> {
    let (main, security) = match std::env::var("BELLJAR_DEBIAN_MIRROR") {
        Ok(mirror) => (Some(mirror), None),
        Err(_) => host_archives()?,
    };
    let Some(main) = main else {
        bail!(
            "this host's apt names no Debian archive: set BELLJAR_DEBIAN_MIRROR to the address of one, \
             such as the mirror nearest to you"
        );
    };
    let stanza = |uri: &str, suites: &str| {
        format!(
            "Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYRING}\n"
        )
    };
    let mut list = stanza(&main, &format!("{RELEASE} {RELEASE}-updates"));
    if let Some(security) = security {
        list += &format!("\n{}", stanza(&security, &format!("{RELEASE}-security")));
    }
    Ok(list)
}

/// Where the host's own apt gets Debian's packages and Debian's security updates from.
fn host_archives() -> Result<(Option<String>, Option<String>)> {
    let format = "$(ORIGIN) $(CODENAME) $(REPO_URI)";
    let text = exec::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        format,
        "Created-By: Packages",
    ]))?;
    let mut found = (None, None);
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some("Debian"), Some(codename), Some(uri)) =
            (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let slot = if codename.ends_with("-security") { &mut found.1 } else { &mut found.0 };
        slot.get_or_insert_with(|| uri.to_string());
    }
    Ok(found)
}

//! The IMAGE argument: whatever the user names becomes a kernel, an initrd and a first program.
//!
//! An IMAGE is a name (see [`home`]), a folder, a cpio or tar archive (plain or gzip), one AArch64
//! ELF file (that program then is init), or a bootable Image made by `belljar build`. What a file is,
//! its content decides, not its name. The first program is looked up here, inside the image, so that
//! a mistake is an error before anything starts. Its arguments and environment travel in a second
//! archive behind the first: `/.belljar/init.argv` and `/.belljar/init.env`, each word ended by NUL; or cores of
//! processes that go on, as `/.belljar/resume/NUMBER`.

mod build;
mod cpio;
mod elf;
pub mod home;
mod recipe;
mod source;
mod tree;

use std::fs::{File, Metadata};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use belljar_abi::image::{HEADER_LEN, Header, MAGIC, MAGIC_AT};
use belljar_abi::payload::{INITRD, Payload};

pub use build::build;
pub use home::Home;
use recipe::Recipe;
use source::Rootfs;
use tree::Node;

/// What init gets if neither the image nor the user says otherwise; PATH is Debian's for root.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The first programs that are tried if none is named, in Linux's order.
const INITS: [&str; 4] = ["/init", "/sbin/init", "/bin/init", "/bin/sh"];

/// Why an IMAGE cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No folder with the kernel and the images.
    #[error("no kernel and images in {0}: run cargo xtask build, or set $BELLJAR_HOME")]
    NoHome(String),
    /// The home has no kernel.
    #[error("no kernel at {}: run cargo xtask build, or name one with --kernel", .0.display())]
    NoKernel(PathBuf),
    /// Neither an image nor a file of this name.
    #[error("no image or file is named {name:?}: {known}")]
    Unknown {
        /// What the user wrote.
        name: String,
        /// The images there are, as the end of the sentence.
        known: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {cause}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// An archive is cut short or damaged.
    #[error("{} is not a whole {what}: {cause}: make it again", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should have been.
        what: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// A file of no known form.
    #[error(
        "{} is no image: it is neither a cpio or tar archive, nor an AArch64 program, nor a bootable Image",
        .0.display()
    )]
    NoImage(PathBuf),
    /// A program that this machine cannot run.
    #[error("{program} cannot run: {cause}: build it for aarch64-unknown-linux-gnu or -musl")]
    Machine {
        /// The program.
        program: String,
        /// What it is instead.
        cause: String,
    },
    /// A single program that needs files beside it.
    #[error(
        "{} needs {interpreter} and its libraries: link it statically, or put all of them into a folder and run that",
        .path.display()
    )]
    Dynamic {
        /// The program.
        path: PathBuf,
        /// The dynamic loader that it asks for.
        interpreter: String,
    },
    /// A folder of the source tree.
    #[error("{} is the recipe of an image: run cargo xtask build, then belljar run {name}", .path.display())]
    Unbuilt {
        /// The folder.
        path: PathBuf,
        /// The image's name.
        name: String,
    },
    /// No program to start.
    #[error("image {0} has no init: add an executable /init, or name a program after --")]
    NoInit(String),
    /// The program to start is not in the image.
    #[error("image {image} has no program {program:?}: name one that it contains after --")]
    NoProgram {
        /// The image.
        image: String,
        /// The program as the user wrote it.
        program: String,
    },
    /// A kernel without a program.
    #[error("{} is a kernel without a program: name it with --kernel beside an IMAGE", .0.display())]
    BareKernel(PathBuf),
    /// Not an arm64 kernel.
    #[error("{} is not an arm64 kernel Image: {cause}", .path.display())]
    NotKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A word of `--env` without a name.
    #[error(
        "--env {0:?} has no name: write NAME=VALUE, or NAME for the value of your own environment"
    )]
    Env(String),
    /// A word with a NUL.
    #[error("the word {0:?} contains a NUL, which no program can be given")]
    Nul(String),
    /// `image.toml` cannot be understood.
    #[error("{} is not a valid recipe: {cause}", .path.display())]
    Recipe {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A memory file cannot be made.
    #[error("cannot make the initrd in memory: {0}")]
    Memory(io::Error),
    /// A file cannot be written.
    #[error("cannot write {}: {cause}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
}

/// What the user asks to be run in an image.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// The program and its arguments; empty means the image's own. For an image that is one
    /// program: its arguments.
    pub cmd: Vec<String>,
    /// `NAME=VALUE`, or `NAME` for the value of the caller's environment.
    pub env: Vec<String>,
    /// Cores of processes that go on instead of a program's start, the root of their tree first.
    pub cores: Vec<Arc<File>>,
}

/// An image that was found and understood.
pub struct Image {
    /// A short name: the image's, or the file's without its ending.
    pub name: String,
    /// The kernel, if the image is a bootable Image.
    kernel: Option<PathBuf>,
    files: Files,
    recipe: Recipe,
}

/// Where the guest's files come from.
enum Files {
    /// An archive.
    Rootfs(Rootfs),
    /// One program, at this path in the archive.
    Program(Rootfs, String),
    /// The kernel file carries them.
    Built(PathBuf),
}

/// What to boot.
pub struct Boot {
    /// The arm64 `Image`.
    pub kernel: PathBuf,
    /// The archives of the initrd, which follow each other; a built Image without another program brings its own.
    pub initrd: Option<Vec<File>>,
    /// Bytes of RAM that kernel and files take until the guest has booted: the initrd is there twice
    /// while it is unpacked.
    pub footprint: u64,
}

impl Image {
    /// Finds the image that the user calls `text`. A name of an image goes before a file of that
    /// name in the current folder; `./NAME` is always the file.
    pub fn resolve(text: &str) -> Result<Self, Error> {
        let home = Home::find();
        if !text.contains('/')
            && let Some(folder) = home.as_ref().ok().and_then(|home| home.image(text))
        {
            return Self::from_image_folder(text, &folder);
        }
        let path = Path::new(text);
        let Ok(metadata) = std::fs::metadata(path) else {
            let known = match home {
                Err(error) => error.to_string(),
                Ok(home) if home.names().is_empty() => {
                    "there are no images yet, run cargo xtask build".to_owned()
                }
                Ok(home) => format!("the images are {}", home.names().join(", ")),
            };
            return Err(Error::Unknown { name: text.to_owned(), known });
        };
        let name = short_name(path);
        match metadata.is_dir() {
            true => Self::from_folder(name, path),
            false => Self::from_file(name, path, &metadata),
        }
    }

    fn from_image_folder(name: &str, folder: &Path) -> Result<Self, Error> {
        let recipe = Recipe::read(&folder.join(home::RECIPE))?;
        let rootfs = Rootfs::cpio(&folder.join(home::ROOTFS))?;
        Ok(Self { name: name.to_owned(), kernel: None, files: Files::Rootfs(rootfs), recipe })
    }

    fn from_folder(name: String, folder: &Path) -> Result<Self, Error> {
        if folder.join(home::ROOTFS).is_file() && folder.join(home::RECIPE).is_file() {
            return Self::from_image_folder(&name, folder);
        }
        let rootfs = Rootfs::folder(folder)?;
        let recipe_only = rootfs.tree.contains(home::RECIPE)
            && !INITS.iter().any(|init| rootfs.tree.lookup(init).is_some());
        if recipe_only {
            return Err(Error::Unbuilt { path: folder.to_owned(), name });
        }
        let recipe = Recipe::default();
        Ok(Self { name, kernel: None, files: Files::Rootfs(rootfs), recipe })
    }

    fn from_file(name: String, path: &Path, metadata: &Metadata) -> Result<Self, Error> {
        let head = source::head(path)?;
        let plain = |files| Self { name, kernel: None, files, recipe: Recipe::default() };
        let named = |ending: &str| path.to_string_lossy().ends_with(ending);
        if elf::is_elf(&head) {
            let program = path.display().to_string();
            elf::check(&head, metadata.len()).map_err(|cause| Error::Machine { program, cause })?;
            if let Some(interpreter) = elf::interpreter(&head) {
                return Err(Error::Dynamic { path: path.to_owned(), interpreter });
            }
            let file_name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
            let rootfs = Rootfs::program(path, &file_name)?;
            return Ok(plain(Files::Program(rootfs, format!("/bin/{file_name}"))));
        }
        if head.get(MAGIC_AT..MAGIC_AT + 4) == Some(&MAGIC) {
            let kernel = Some(path.to_owned());
            return Ok(Self { kernel, ..plain(Files::Built(path.to_owned())) });
        }
        let rootfs = if head.starts_with(b"07070") || (head.is_empty() && named(".cpio")) {
            Rootfs::cpio(path)?
        } else if is_tar(&head) || named(".tar") {
            Rootfs::tar(path)?
        } else if head.starts_with(&[0x1f, 0x8b]) {
            match gzip_holds_tar(path)? {
                true => Rootfs::tar(path)?,
                false => Rootfs::cpio_gz(path)?,
            }
        } else {
            return Err(Error::NoImage(path.to_owned()));
        };
        Ok(plain(Files::Rootfs(rootfs)))
    }

    /// The memory that the image asks for, in bytes.
    pub fn memory(&self) -> Option<u64> {
        self.recipe.memory()
    }

    /// Makes what is needed to boot the image with `program`. `kernel` overrides the home's.
    pub fn boot(self, program: &Program, kernel: Option<&Path>) -> Result<Boot, Error> {
        let kernel = match (kernel, &self.kernel) {
            (Some(path), _) => path.to_owned(),
            (None, Some(path)) => path.clone(),
            (None, None) => Home::find()?.kernel()?,
        };
        let header = kernel_header(&kernel)?;
        let initrd = self.initrd(program)?;
        let len = |file: &File| file.metadata().map_or(0, |metadata| metadata.len());
        let len: u64 = initrd.iter().flatten().map(len).sum();
        Ok(Boot { kernel, initrd, footprint: header.image_size + 2 * len })
    }

    /// The files of the image and of `/.belljar`; none if the kernel carries them already.
    fn initrd(self, program: &Program) -> Result<Option<Vec<File>>, Error> {
        let (rootfs, alone) = match self.files {
            Files::Rootfs(rootfs) => (rootfs, None),
            Files::Program(rootfs, path) => (rootfs, Some(path)),
            Files::Built(path) => {
                let carried = carried_initrd(&path)?;
                if program.cmd.is_empty() && program.env.is_empty() && program.cores.is_empty() {
                    return Ok(None);
                }
                (Rootfs::memory(carried, &path)?, None)
            }
        };
        if !program.cores.is_empty() {
            return Ok(Some(rootfs.into_initrd(&[], &program.cores)?));
        }
        let env = environment(&self.recipe, &program.env)?;
        let argv = match alone {
            Some(path) => [vec![path], program.cmd.clone()].concat(),
            None if !program.cmd.is_empty() => program.cmd.clone(),
            None if !self.recipe.cmd.is_empty() => self.recipe.cmd.clone(),
            None => {
                let found = INITS.iter().find(|init| rootfs.tree.lookup(init).is_some());
                vec![(*found.ok_or_else(|| Error::NoInit(self.name.clone()))?).to_owned()]
            }
        };
        check_program(&self.name, &rootfs, &argv[0], &env)?;
        let extra = [("init.argv", words(&argv)?), ("init.env", words(&env)?)];
        Ok(Some(rootfs.into_initrd(&extra, &[])?))
    }
}

/// Looks `program` up in the image as the guest's kernel will, and checks that it can run.
fn check_program(image: &str, rootfs: &Rootfs, program: &str, env: &[String]) -> Result<(), Error> {
    let path = env.iter().find_map(|word| word.strip_prefix("PATH=")).unwrap_or(PATH);
    let candidates: Vec<String> = match program.contains('/') {
        true => vec![program.to_owned()],
        false => path.split(':').map(|folder| format!("{folder}/{program}")).collect(),
    };
    let found = candidates.into_iter().find_map(|path| match rootfs.tree.lookup(&path) {
        Some(Node::File { mode, offset, len }) if mode & 0o111 != 0 => Some((path, *offset, *len)),
        _ => None,
    });
    let Some((path, offset, len)) = found else {
        let program = program.to_owned();
        return Err(Error::NoProgram { image: image.to_owned(), program });
    };
    let program = format!("{path} in image {image}");
    rootfs.check_program(offset, len).map_err(|cause| Error::Machine { program, cause })
}

/// The standard variables, then the image's, then the user's; a later one replaces an earlier one.
fn environment(recipe: &Recipe, user: &[String]) -> Result<Vec<String>, Error> {
    let term = std::env::var("TERM").ok().filter(|term| !term.is_empty());
    let mut all: Vec<(String, String)> = vec![
        ("PATH".into(), PATH.into()),
        ("HOME".into(), "/root".into()),
        ("TERM".into(), term.unwrap_or_else(|| "linux".into())),
    ];
    let mut set = |name: &str, value: String| match all.iter_mut().find(|(n, _)| n == name) {
        Some(entry) => entry.1 = value,
        None => all.push((name.to_owned(), value)),
    };
    for (name, value) in &recipe.env {
        set(name, value.clone());
    }
    for word in user {
        match word.split_once('=') {
            Some(("", _)) => return Err(Error::Env(word.clone())),
            Some((name, value)) => set(name, value.to_owned()),
            None if word.is_empty() => return Err(Error::Env(word.clone())),
            None => {
                if let Ok(value) = std::env::var(word) {
                    set(word, value);
                }
            }
        }
    }
    Ok(all.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

/// The words one after the other, each ended by NUL.
fn words(words: &[String]) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    for word in words {
        if word.contains('\0') {
            return Err(Error::Nul(word.clone()));
        }
        bytes.extend_from_slice(word.as_bytes());
        bytes.push(0);
    }
    Ok(bytes)
}

/// The header of the kernel at `path`.
fn kernel_header(path: &Path) -> Result<Header, Error> {
    let head = source::head(path)?;
    Header::read(&head[..head.len().min(HEADER_LEN)])
        .map_err(|e| Error::NotKernel { path: path.to_owned(), cause: e.to_string() })
}

/// The initrd that the bootable Image at `path` carries, in memory.
fn carried_initrd(path: &Path) -> Result<File, Error> {
    let header = kernel_header(path)?;
    if header.payload == 0 {
        return Err(Error::BareKernel(path.to_owned()));
    }
    let bytes =
        std::fs::read(path).map_err(|cause| Error::Read { path: path.to_owned(), cause })?;
    let damaged =
        |cause: String| Error::Damaged { path: path.to_owned(), what: "bootable Image", cause };
    let start = usize::try_from(header.payload).unwrap_or(usize::MAX);
    let behind = bytes.get(start..).ok_or_else(|| damaged("it is cut short".to_owned()))?;
    let payload = Payload::read(behind).map_err(|e| damaged(e.to_string()))?;
    let initrd = payload.get(INITRD).ok_or_else(|| Error::BareKernel(path.to_owned()))?;
    let mut file = source::memory_file()?;
    file.write_all(initrd).map_err(Error::Memory)?;
    Ok(file)
}

/// A tar header has its magic at offset 257.
fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

fn gzip_holds_tar(path: &Path) -> Result<bool, Error> {
    let mut head = Vec::new();
    let reader = flate2::bufread::GzDecoder::new(BufReader::new(source::open(path)?));
    io::Read::read_to_end(&mut io::Read::take(reader, 512), &mut head).map_err(|e| {
        Error::Damaged { path: path.to_owned(), what: "gzip file", cause: e.to_string() }
    })?;
    Ok(!head.starts_with(b"07070"))
}

/// The file name without the endings of archives.
fn short_name(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = full.file_name().map_or("vm".into(), |name| name.to_string_lossy().into_owned());
    let endings = [".gz", ".tgz", ".tar", ".cpio", ".img", ".elf"];
    let mut short = name.as_str();
    while let Some(rest) = endings.iter().find_map(|ending| short.strip_suffix(ending)) {
        short = rest;
    }
    if short.is_empty() { "vm".to_owned() } else { short.to_owned() }
}

#[cfg(test)]
mod tests;

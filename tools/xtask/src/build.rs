//! `cargo xtask build`: everything that `belljar` needs, where it finds it.
//!
//! ```text
//! target/release/belljar              the VMM
//! target/belljar/Image                the kernel with its symbols behind it
//! target/belljar/Image.blake3         hashes of its whole chunks, which make the check of snapshots quicker
//! target/belljar/kernel.elf           the same kernel with DWARF
//! target/belljar/images/NAME/         rootfs.cpio and image.toml of each image (folder/ too for test images)
//! target/belljar/guest-tests/NAME     the programs of tests/guest
//! ```
//!
//! `belljar` looks for all but the first in `$BELLJAR_HOME`, else in `../belljar` or `../share/belljar`
//! beside the folder that it runs from.

use crate::rootfs::{Recipe, linux_program, recipes};
use crate::setup::{Need, ensure};
use crate::toolchain::{KERNEL_PACKAGE, KERNEL_PROFILE, KERNEL_TARGET, Toolchain, host};
use crate::{exec, kernel_image, paths};
use anyhow::{Context, Result};
use std::process::ExitCode;

/// The package of the guest test programs.
pub const GUEST_TESTS: &str = "belljar-guest-tests";

/// Arguments of `cargo xtask build`.
#[derive(clap::Args)]
pub struct Args {
    /// Only these parts; without it, all of them
    #[arg(value_enum)]
    parts: Vec<Part>,
}

/// A part of the build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The VMM for this host
    Vmm,
    /// The kernel
    Kernel,
    /// The images, with our programs in them
    Images,
    /// The guest test programs
    GuestTests,
}

const ALL: &[Part] = &[Part::Vmm, Part::Kernel, Part::Images, Part::GuestTests];

/// Runs `cargo xtask build`.
pub fn main(args: Args) -> Result<ExitCode> {
    build(if args.parts.is_empty() { ALL } else { &args.parts })?;
    println!("belljar: {}", paths::belljar().display());
    println!("kernel and images: {}", paths::home().display());
    Ok(ExitCode::SUCCESS)
}

/// Builds `parts`.
pub fn build(parts: &[Part]) -> Result<()> {
    let has = |part| parts.contains(&part);
    let mut needs = Vec::new();
    if has(Part::Kernel) || has(Part::Images) || has(Part::GuestTests) {
        needs.push(Need::Cross);
    }
    if has(Part::Images) {
        needs.push(Need::Packages);
    }
    let toolchain = ensure(&needs)?;
    // One CPU optimises the kernel, which is a single unit of code. The others need not wait: each profile of each target
    // has a folder and a lock of its own.
    std::thread::scope(|scope| {
        let kernel = has(Part::Kernel).then(|| scope.spawn(|| kernel(&toolchain)));
        let others = || {
            if has(Part::Vmm) {
                exec::run(host("build").args(["--release", "-p", "belljar"]))?;
            }
            if has(Part::Images) {
                images(&toolchain)?;
            }
            if has(Part::GuestTests) {
                guest_tests(&toolchain)?;
            }
            Ok(())
        };
        let others = others();
        let kernel = kernel.map_or(Ok(()), |kernel| {
            kernel.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        others.and(kernel)
    })
}

/// Builds the kernel and leaves `Image`, its hashes, and `kernel.elf`.
fn kernel(toolchain: &Toolchain) -> Result<()> {
    exec::run(&mut toolchain.kernel("build"))?;
    let path = paths::target().join(KERNEL_TARGET).join(KERNEL_PROFILE).join(KERNEL_PACKAGE);
    let elf = exec::read(&path)?;
    let image = kernel_image::from_elf(&elf).with_context(|| format!("in {}", path.display()))?;
    exec::write(&paths::home().join("kernel.elf"), &elf)?;
    // The hashes are never those of another image, whenever this is interrupted.
    let hashes = paths::home().join("Image.blake3");
    let _ = std::fs::remove_file(&hashes);
    exec::write(&paths::home().join("Image"), &image)?;
    exec::write(&hashes, hashes_of(&image).as_bytes())
}

/// What `vmm/src/snapshot/known.rs` reads: the BLAKE3 of each whole chunk of an `Image`.
fn hashes_of(image: &[u8]) -> String {
    /// As in snapshots.
    const CHUNK: usize = 2 << 20;
    image.chunks_exact(CHUNK).map(|chunk| format!("{}\n", blake3::hash(chunk).to_hex())).collect()
}

/// Builds every image.
fn images(toolchain: &Toolchain) -> Result<()> {
    for (name, dir) in recipes()? {
        let recipe = Recipe::read(&dir)?;
        for package in recipe.programs.values() {
            exec::run(toolchain.linux("build").args(["-p", package]))?;
        }
        let rootfs = recipe.rootfs(&dir).with_context(|| format!("image {name}"))?;
        let out = paths::home().join("images").join(&name);
        exec::write(&out.join("rootfs.cpio"), &rootfs.to_cpio()?)?;
        if recipe.test_only {
            rootfs.to_folder(&out.join("folder"))?;
        }
        exec::write(&out.join("image.toml"), &exec::read(&dir.join("image.toml"))?)?;
    }
    Ok(())
}

/// Builds the guest test programs and leaves each under its name.
fn guest_tests(toolchain: &Toolchain) -> Result<()> {
    exec::run(toolchain.linux("build").args(["--bins", "-p", GUEST_TESTS]))?;
    let out = paths::home().join("guest-tests");
    let _ = std::fs::remove_dir_all(&out);
    std::fs::create_dir_all(&out)?;
    for name in guest_test_names()? {
        let program = linux_program(&name);
        std::fs::copy(&program, out.join(&name))
            .with_context(|| format!("cannot copy {}", program.display()))?;
    }
    Ok(())
}

/// The names of the guest test programs, sorted.
pub fn guest_test_names() -> Result<Vec<String>> {
    let dir = paths::root().join("tests/guest/src/bin");
    let Ok(entries) = std::fs::read_dir(&dir) else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            || path.join("main.rs").exists()
        {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

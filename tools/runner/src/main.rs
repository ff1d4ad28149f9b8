//! Process 1 of the test machines: runs the programs that it finds named in its initramfs, tells the
//! host over the console how each ended, and powers the machine off.
//!
//! The same static program runs on Debian's kernel and on ours, so both are asked in the same way.
//! What to do stands in files that xtask put into the archive:
//!
//! - `/.runner/argv`: one command, its words separated by NUL. It gets the console as its controlling
//!   terminal; after it the runner prints `\x1e\x1eexit STATUS\n`.
//! - `/.runner/plan`: one program path a line. Each runs alone, in a new session and an empty folder,
//!   with its output in a file; the runner prints `\x1e\x1ebegin NAME\n`, and afterwards
//!   `\x1e\x1eend NAME STATUS LENGTH\n`, that many bytes of output, and `\n`.
//! - `/.runner/snapshots`: how often each program of the plan shall have its machine saved while it runs, at
//!   system calls that its name decides (`/proc/belljar/forced_snapshots`).
//! - `/.runner/raw`: if it is there the console passes bytes unchanged.
//! - `/.runner/modules/`: kernel modules, loaded in the order of their names before anything else. Once
//!   there are some, a folder that the host shares as `share` is mounted on `/share`.
//!
//! A status is the exit code, or 128 and the signal's number, or `timeout`.

mod console;
mod program;

use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::path::Path;

const DIR: &str = "/.runner";

fn main() {
    mount_all();
    load_modules();
    let raw = Path::new(DIR).join("raw").exists();
    let mut console = console::open(raw);
    let status = if let Ok(argv) = fs::read(Path::new(DIR).join("argv")) {
        let status = program::run_on_console(&argv, &console);
        // The end of a session hangs its terminal up: what was open on it is dead.
        console = console::open(raw);
        status
    } else if let Ok(plan) = fs::read_to_string(Path::new(DIR).join("plan")) {
        let snapshots = fs::read_to_string(Path::new(DIR).join("snapshots")).ok();
        program::run_plan(&plan, snapshots.as_deref(), &console);
        0
    } else {
        console.print("runner: neither argv nor plan in /.runner\n");
        125
    };
    console.print(&format!("\x1e\x1eexit {status}\n"));
    console.drain();
    power_off(status);
}

/// Mounts what a program expects, where the kernel has not done so by itself.
fn mount_all() {
    let wanted = [
        ("devtmpfs", "/dev", "/dev/null"),
        ("proc", "/proc", "/proc/self"),
        ("sysfs", "/sys", "/sys/kernel"),
        ("devpts", "/dev/pts", "/dev/pts/ptmx"),
        ("tmpfs", "/tmp", ""),
    ];
    for (kind, folder, sign) in wanted {
        if !sign.is_empty() && Path::new(sign).exists() {
            continue;
        }
        // A kernel without this file system is not the runner's business: the programs will tell.
        let _ = fs::create_dir_all(folder);
        let _ = mount(Some(kind), folder, Some(kind), MsFlags::empty(), None::<&str>);
    }
}

/// Loads the modules that came along. One that fails is not the runner's business either.
fn load_modules() {
    let Ok(entries) = fs::read_dir(Path::new(DIR).join("modules")) else { return };
    let mut modules: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    for module in modules {
        let loaded =
            fs::File::open(&module).map(|file| finit_module(file, c"", ModuleInitFlags::empty()));
        if !matches!(loaded, Ok(Ok(()))) {
            eprintln!("runner: cannot load {}: {loaded:?}", module.display());
        }
    }
    let _ = fs::create_dir_all("/share");
    let options = Some("trans=virtio,version=9p2000.L,msize=262144");
    let _ = mount(Some("share"), "/share", Some("9p"), MsFlags::empty(), options);
}

/// Ends the machine. Bell Jar's kernel powers off with process 1's exit status; Linux panics when
/// process 1 exits, so there the power is switched off by hand.
fn power_off(status: i32) -> ! {
    let version = fs::read_to_string("/proc/version").unwrap_or_default();
    if version.contains("Debian") {
        let _ = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
    }
    std::process::exit(status)
}

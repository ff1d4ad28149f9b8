//! gdb-multiarch on cores, and the files of an image where it looks for them.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::UNIX_EPOCH;

use cpio::newc;

use crate::home;

/// Unpacks the files of `image` into `root`, for gdb's `set sysroot`.
///
/// # Panics
/// If the image has not been built.
pub fn unpack(image: &str, root: &Path) {
    /// cpio(5): what kind of file it is.
    const KIND: u32 = 0o170_000;
    const REGULAR: u32 = 0o100_000;
    const LINK: u32 = 0o120_000;
    let mut archive = File::open(home().join("images").join(image).join("rootfs.cpio")).unwrap();
    loop {
        let mut entry = newc::Reader::new(archive).unwrap();
        if entry.entry().is_trailer() {
            return;
        }
        let path = root.join(entry.entry().name());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match entry.entry().mode() & KIND {
            REGULAR => {
                let mut file = File::create(&path).unwrap();
                std::io::copy(&mut entry, &mut file).unwrap();
                // gdb compares its age with the core's.
                file.set_modified(UNIX_EPOCH).unwrap();
            }
            LINK => {
                let mut to = String::new();
                entry.read_to_string(&mut to).unwrap();
                std::os::unix::fs::symlink(to, path).unwrap();
            }
            _ => {}
        }
        archive = entry.finish().unwrap();
    }
}

/// What gdb says to `commands` about the core of a process that ran `program`, whose libraries lie below `root`:
/// nothing by way of complaint.
///
/// # Panics
/// If it complains.
pub fn gdb(root: &Path, program: &Path, core: &Path, commands: &[&str]) -> String {
    let mut gdb = Command::new("gdb-multiarch");
    gdb.args(["-batch", "-nx", "-iex", &format!("set sysroot {}", root.display())]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let output = gdb.arg(program).arg(core).output().expect("the tests need gdb-multiarch");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{said}");
    said
}

//! Files of /proc about the system as a whole.

use super::text::Text;
use crate::drivers::cmdline;
use crate::errno::Result;
use crate::fs::SuperBlock;
use crate::fs::block;
use crate::fs::chrdev::chrdev_at;
use crate::fs::superblock::for_each_filesystem;
use crate::put;
use crate::syscall::system::{RELEASE, VERSION};

/// /proc/cgroups: the controllers, each in the only hierarchy there is.
pub(super) fn cgroups(_: &SuperBlock, out: &mut Text) -> Result<()> {
    out.bytes(b"#subsys_name\thierarchy\tnum_cgroups\tenabled\n")?;
    let count = crate::cgroup::count();
    crate::cgroup::Controllers::NAMES
        .iter()
        .try_for_each(|(_, name)| put!(out, "{name}\t0\t{count}\t1\n"))
}

/// /proc/cmdline.
pub fn command_line(_: &SuperBlock, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", cmdline::text())
}

/// /proc/version.
pub fn version(_: &SuperBlock, out: &mut Text) -> Result<()> {
    put!(out, "Linux version {RELEASE} (belljar@belljar) (rustc) {VERSION}\n")
}

/// A file that exists and is empty.
pub fn nothing(_: &SuperBlock, _: &mut Text) -> Result<()> {
    Ok(())
}

/// /proc/swaps: there are none.
pub fn swaps(_: &SuperBlock, out: &mut Text) -> Result<()> {
    out.bytes(b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")
}

/// /proc/filesystems.
pub fn filesystems(_: &SuperBlock, out: &mut Text) -> Result<()> {
    let mut result = Ok(());
    for_each_filesystem(|fs| {
        let nodev = if fs.needs_device() { "" } else { "nodev" };
        let line = put!(out, "{nodev}\t{}\n", fs.name());
        result = result.and(line);
    });
    result
}

/// /proc/devices: major numbers, each once.
pub fn devices(_: &SuperBlock, out: &mut Text) -> Result<()> {
    out.bytes(b"Character devices:\n")?;
    let mut last = None;
    while let Some(major) = next_major(last) {
        let name = match major {
            1 => "mem",
            5 => "/dev/tty",
            10 => "misc",
            136 => "pts",
            204 => "ttyAMA",
            229 => "hvc",
            _ => "other",
        };
        put!(out, "{major:3} {name}\n")?;
        last = Some(major);
    }
    out.bytes(b"\nBlock devices:\n")?;
    if block::disk_at(0).is_some() {
        put!(out, "{:3} virtblk\n", block::MAJOR)?;
    }
    Ok(())
}

/// /proc/partitions: the disks, with their size in KiB.
pub fn partitions(_: &SuperBlock, out: &mut Text) -> Result<()> {
    if block::disk_at(0).is_some() {
        out.bytes(b"major minor  #blocks  name\n\n")?;
    }
    for disk in block::disks() {
        let (major, minor) = (disk.dev.major(), disk.dev.minor());
        put!(out, "{major:4}  {minor:7} {:10} {}\n", disk.size >> 10, disk.name())?;
    }
    Ok(())
}

/// The lowest major number of a character device above `last`.
fn next_major(last: Option<u32>) -> Option<u32> {
    (0..)
        .map_while(chrdev_at)
        .map(|entry| entry.dev.major())
        .filter(|&major| last.is_none_or(|last| major > last))
        .min()
}

/// /proc/interrupts: the header, for programs that count CPUs by it.
pub fn interrupts(_: &SuperBlock, out: &mut Text) -> Result<()> {
    out.bytes(b"           ")?;
    for cpu in crate::sched::cpu::each(crate::sched::cpu::online_mask()) {
        put!(out, "CPU{cpu:<8}")?;
    }
    out.bytes(b"\n")
}

/// /proc/tty/drivers: how programs find the name of a terminal by its number.
pub fn tty_drivers(_: &SuperBlock, out: &mut Text) -> Result<()> {
    let rows = [
        ("/dev/tty", "/dev/tty", "5", "0", "system:/dev/tty"),
        ("/dev/console", "/dev/console", "5", "1", "system:console"),
        ("/dev/ptmx", "/dev/ptmx", "5", "2", "system"),
        ("pty_slave", "/dev/pts", "136", "0-1048575", "pty:slave"),
        ("ttyAMA", "/dev/ttyAMA", "204", "64-77", "serial"),
        ("hvc", "/dev/hvc", "229", "0-7", "system"),
    ];
    for (driver, node, major, minors, kind) in rows {
        put!(out, "{driver:<20} {node:<8} {major:>8} {minors:>7} {kind}\n")?;
    }
    Ok(())
}

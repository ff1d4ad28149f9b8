//! The little of sysfs that programs ask for: which CPUs, disks and network interfaces there are, and which
//! terminal the console is.

use super::sysnet;
use super::text::{Text, parse_bool};
use super::tree::{self, Entry, Kind, dir, text};
use crate::addr::PAGE_SIZE;
use crate::arch;
use crate::drivers::tty;
use crate::errno::{Errno, Result};
use crate::fs::block;
use crate::fs::{Dentry, FileSystem, MountRequest, SuperBlock, SuperOps};
use crate::kref::Ref;
use crate::mm::try_box;
use crate::net::inet::stack::Stack;
use crate::ns::Namespace;
use crate::process::smp;
use crate::put;
use crate::sched::cpu::{self, online_mask, possible_mask};
use crate::sync::MAX_CPUS;
use crate::task;

const SYSFS_MAGIC: u64 = 0x6265_6572;

/// A file about a disk.
macro_rules! disk_text {
    ($name:literal, |$disk:tt: &Disk, $out:ident| $show:expr) => {
        cpu_text($name, |i, $out| match block::disk_at(i) {
            Some($disk) => $show,
            None => Ok(()),
        })
    };
}

static ENTRIES: &[Entry] = &[
    dir("block", &[Entry { name: "", kind: Kind::PerDisk(DISK) }]),
    dir("bus", &[]),
    dir("class", &[Entry { name: "net", kind: Kind::Own(sysnet::class) }, dir("tty", TTY)]),
    dir("dev", &[]),
    dir(
        "devices",
        &[
            Entry { name: "platform", kind: Kind::Own(sysnet::platform) },
            dir("virtual", &[Entry { name: "net", kind: Kind::Own(sysnet::devices) }]),
            dir(
                "system",
                &[
                    dir(
                        "cpu",
                        &[
                            Entry { name: "cpu", kind: Kind::PerCpu(CPU) },
                            text("kernel_max", |_, out| put!(out, "{}\n", MAX_CPUS - 1)),
                            text("offline", |_, out| ranges(out, possible_mask() & !online_mask())),
                            text("online", |_, out| ranges(out, online_mask())),
                            text("possible", present),
                            text("present", present),
                        ],
                    ),
                    dir(
                        "node",
                        &[
                            text("online", |_, out| out.bytes(b"0\n")),
                            text("possible", |_, out| out.bytes(b"0\n")),
                        ],
                    ),
                ],
            ),
        ],
    ),
    dir("firmware", &[]),
    dir("fs", &[dir("cgroup", &[])]),
    dir("kernel", &[dir("mm", &[]), dir("security", &[]), dir("debug", &[]), dir("tracing", &[])]),
    dir("module", &[]),
];

static TTY: &[Entry] = &[
    dir(
        "console",
        &[
            text("active", |_, out| {
                let hvc0 = tty::console::kind() == tty::console::Kind::Virtio;
                out.bytes(if hvc0 { b"ttyAMA0 hvc0\n" } else { b"ttyAMA0\n" })
            }),
            text("dev", |_, out| out.bytes(b"5:1\n")),
        ],
    ),
    dir("ptmx", &[text("dev", |_, out| out.bytes(b"5:2\n"))]),
    dir("tty", &[text("dev", |_, out| out.bytes(b"5:0\n"))]),
    dir("ttyAMA0", &[text("dev", |_, out| out.bytes(b"204:64\n"))]),
];

static CPU: &[Entry] = &[
    Entry { name: "online", kind: Kind::CpuSetting(online, set_online) },
    dir("topology", TOPOLOGY),
];

fn online(cpu: usize, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", u8::from(cpu::is_online(cpu)))
}

/// Takes a CPU down or brings it up (Linux, Documentation/core-api/cpu_hotplug.rst).
fn set_online(cpu: usize, data: &[u8]) -> Result<()> {
    if parse_bool(data)? { smp::cpu_up(cpu) } else { smp::cpu_down(cpu) }
}

/// What there is to say about a disk (Linux, ABI/stable/sysfs-block).
static DISK: &[Entry] = &[
    disk_text!("alignment_offset", |_: &Disk, out| out.bytes(b"0\n")),
    disk_text!("dev", |disk: &Disk, out| put!(out, "{}:{}\n", disk.dev.major(), disk.dev.minor())),
    disk_text!("discard_alignment", |_: &Disk, out| out.bytes(b"0\n")),
    dir(
        "queue",
        &[
            disk_text!("discard_granularity", |disk: &Disk, out| {
                put!(out, "{}\n", if disk.can_discard { disk.block_size } else { 0 })
            }),
            disk_text!("hw_sector_size", |disk: &Disk, out| put!(out, "{}\n", disk.block_size)),
            disk_text!("logical_block_size", |disk: &Disk, out| put!(out, "{}\n", disk.block_size)),
            disk_text!("physical_block_size", |disk: &Disk, out| put!(
                out,
                "{}\n",
                disk.block_size
            )),
            disk_text!("read_ahead_kb", |_: &Disk, out| {
                put!(out, "{}\n", block::MAX_PAGES * PAGE_SIZE / 1024)
            }),
            disk_text!("rotational", |_: &Disk, out| out.bytes(b"1\n")),
            disk_text!("write_cache", |disk: &Disk, out| {
                out.bytes(if disk.can_flush { b"write back\n" } else { b"write through\n" })
            }),
        ],
    ),
    disk_text!("removable", |_: &Disk, out| out.bytes(b"0\n")),
    disk_text!("ro", |disk: &Disk, out| put!(out, "{}\n", u8::from(disk.is_read_only()))),
    disk_text!("size", |disk: &Disk, out| put!(out, "{}\n", disk.size / block::SECTOR)),
];

/// A CPU's place: each is a core of its own, all are in one package.
static TOPOLOGY: &[Entry] = &[
    cpu_text("cluster_cpus", |_, out| mask(out, online_mask())),
    cpu_text("cluster_cpus_list", |_, out| ranges(out, online_mask())),
    cpu_text("cluster_id", |_, out| out.bytes(b"0\n")),
    cpu_text("core_cpus", |cpu, out| mask(out, 1 << cpu)),
    cpu_text("core_cpus_list", |cpu, out| ranges(out, 1 << cpu)),
    cpu_text("core_id", |cpu, out| put!(out, "{cpu}\n")),
    cpu_text("core_siblings", |_, out| mask(out, online_mask())),
    cpu_text("core_siblings_list", |_, out| ranges(out, online_mask())),
    cpu_text("package_cpus", |_, out| mask(out, online_mask())),
    cpu_text("package_cpus_list", |_, out| ranges(out, online_mask())),
    cpu_text("physical_package_id", |_, out| out.bytes(b"0\n")),
    cpu_text("thread_siblings", |cpu, out| mask(out, 1 << cpu)),
    cpu_text("thread_siblings_list", |cpu, out| ranges(out, 1 << cpu)),
];

const fn cpu_text(name: &'static str, show: fn(usize, &mut Text) -> Result<()>) -> Entry {
    Entry { name, kind: Kind::CpuText(show) }
}

/// A mask in hexadecimal with as many digits as the machine's CPUs need.
fn mask(out: &mut Text, mask: u64) -> Result<()> {
    let digits = arch::cpu_count().min(64).div_ceil(4);
    if digits > 8 {
        put!(out, "{:0w$x},{:08x}\n", mask >> 32, mask as u32, w = digits - 8)
    } else {
        put!(out, "{mask:0digits$x}\n")
    }
}

fn present(_: &SuperBlock, out: &mut Text) -> Result<()> {
    ranges(out, possible_mask())
}

/// The bits of a mask as `0-3,5` and a line end.
pub fn ranges(out: &mut Text, mask: u64) -> Result<()> {
    range_list(out, mask)?;
    out.bytes(b"\n")
}

/// The bits of a mask as `0-3,5`.
pub fn range_list(out: &mut Text, mask: u64) -> Result<()> {
    let mut at = 0;
    let mut comma = "";
    while at < 64 && mask >> at != 0 {
        let first = at + (mask >> at).trailing_zeros();
        let len = (mask >> first).trailing_ones();
        match len {
            1 => put!(out, "{comma}{first}")?,
            _ => put!(out, "{comma}{first}-{}", first + len - 1)?,
        }
        comma = ",";
        at = first + len;
    }
    Ok(())
}

/// What a mount of sysfs holds.
struct SysSuper {
    /// What it shows interfaces of; the mount does not keep the namespace alive.
    stack: Ref<Stack>,
}

impl SuperOps for SysSuper {}

/// What a mount shows interfaces of.
pub(super) fn stack_of(sb: &SuperBlock) -> Result<&Ref<Stack>> {
    sb.ops_as::<SysSuper>().map(|ops| &ops.stack).ok_or(Errno::ENODEV)
}

/// The type, for mount(2).
pub struct SysFs;

impl FileSystem for SysFs {
    fn name(&self) -> &'static str {
        "sysfs"
    }

    fn allows_user_ns(&self) -> bool {
        true
    }

    fn shows(&self) -> Option<Namespace> {
        // Its interfaces are there.
        Some(Namespace::Net(task::current().nsproxy().net.clone()))
    }

    fn shows_the_machine(&self) -> bool {
        true
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Ref<Dentry>> {
        let Some(Namespace::Net(net)) = request.shows else { return Err(Errno::EINVAL) };
        let ops = try_box(SysSuper { stack: net.stack.clone() })?;
        let sb = SuperBlock::new("sysfs", SYSFS_MAGIC, ops)?;
        Dentry::new_root(tree::root_inode(&sb, ENTRIES, None)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_shown_as_ranges() {
        let show = |mask| {
            let mut out = Text::new();
            range_list(&mut out, mask).unwrap();
            String::from_utf8(out.into_bytes()).unwrap()
        };
        assert_eq!(show(0), "");
        assert_eq!(show(1), "0");
        assert_eq!(show(0b1011_1100), "2-5,7");
        assert_eq!(show(!0), "0-63");
        assert_eq!(show(1 << 63 | 1), "0,63");
    }
}

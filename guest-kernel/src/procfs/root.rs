//! /proc itself: one mount shows the processes of one pid namespace.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::text::Text;
use super::tree::{self, Entry, Kind, dir, link, text};
use super::{belljar, cpu, memory, pid, sysctl, system, sysvipc};
use crate::errno::{Errno, Result};
use crate::fs::{
    Dentry, DirSink, File, FileOps, FileSystem, Inode, InodeFlags, InodeOps, MountRequest, NewNode,
    OpenFlags, Path, SuperBlock, SuperOps,
};
use crate::kref::Ref;
use crate::mm::{try_arc_slice, try_box};
use crate::ns::{Namespace, Pid, PidNs, PidType, init_pid_ns};
use crate::put;
use crate::task::{self, list};
use crate::uapi::S_IFDIR;

const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// The files and directories besides the processes'.
static ENTRIES: &[Entry] = &[
    dir("belljar", belljar::ENTRIES),
    text("cgroups", system::cgroups),
    text("cmdline", system::command_line),
    text("cpuinfo", cpu::cpuinfo),
    text("devices", system::devices),
    text("filesystems", system::filesystems),
    text("interrupts", system::interrupts),
    text("loadavg", cpu::loadavg),
    text("meminfo", memory::meminfo),
    text("misc", system::nothing),
    text("modules", system::nothing),
    Entry { name: "net", kind: Kind::FixedLink("self/net") },
    Entry { name: "mounts", kind: Kind::FixedLink("self/mounts") },
    text("partitions", system::partitions),
    link("self", |sb, out| put!(out, "{}", caller_number(sb, PidType::Tgid)?)),
    Entry { name: "slabinfo", kind: Kind::RootText(memory::slabinfo) },
    text("stat", cpu::stat),
    text("swaps", system::swaps),
    dir("sys", sysctl::ENTRIES),
    dir("sysvipc", sysvipc::ENTRIES),
    link("thread-self", |sb, out| {
        let tgid = caller_number(sb, PidType::Tgid)?;
        put!(out, "{tgid}/task/{}", caller_number(sb, PidType::Pid)?)
    }),
    dir("tty", &[text("drivers", system::tty_drivers)]),
    text("uptime", cpu::uptime),
    text("version", system::version),
    text("vmstat", memory::vmstat),
];

/// What a mount of proc holds.
pub struct ProcSuper {
    /// The namespace whose processes it shows.
    pub ns: Ref<PidNs>,
}

impl SuperOps for ProcSuper {}

/// The pid namespace that a mount shows.
pub fn namespace(sb: &SuperBlock) -> &Ref<PidNs> {
    sb.ops_as::<ProcSuper>().map_or(init_pid_ns(), |s| &s.ns)
}

/// The caller's number in the namespace of a mount; `ENOENT` if it has none there.
fn caller_number(sb: &SuperBlock, kind: PidType) -> Result<u32> {
    match task::current().nr_of(kind, namespace(sb)) {
        0 => Err(Errno::ENOENT),
        nr => Ok(nr),
    }
}

/// The type, for mount(2).
pub struct ProcFs;

impl FileSystem for ProcFs {
    fn name(&self) -> &'static str {
        "proc"
    }

    fn allows_user_ns(&self) -> bool {
        true
    }

    fn shows(&self) -> Option<Namespace> {
        Some(Namespace::Pid(task::current().active_pid_ns()))
    }

    fn shows_the_machine(&self) -> bool {
        true
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Ref<Dentry>> {
        let Some(Namespace::Pid(ns)) = request.shows else { return Err(Errno::EINVAL) };
        let ops = try_box(ProcSuper { ns: ns.clone() })?;
        let owner = request.owner().clone();
        let sb = SuperBlock::new_in(owner, "proc", PROC_SUPER_MAGIC, ops)?;
        Dentry::new_root(tree::root_inode(&sb, ENTRIES, Some(try_box(Root)?))?)
    }
}

/// The root directory.
struct Root;

/// Positions from here on are numbers of processes.
const FIRST_PID_POS: u64 = 256;
const _: () = assert!(tree::end_of(ENTRIES) < FIRST_PID_POS);

impl InodeOps for Root {
    fn lookup(&self, dir: &Ref<Inode>, name: &[u8]) -> Result<Option<Ref<Inode>>> {
        let number = tree::parse_index(name).and_then(|n| u32::try_from(n).ok());
        let Some(number) = number else { return tree::lookup(&dir.sb, ENTRIES, name, 0) };
        let Some(pid) = Pid::find(number, namespace(&dir.sb)) else { return Ok(None) };
        // A thread is found by its number too, though it is not listed.
        if list::lock().thread_of(&pid).is_none() {
            return Ok(None);
        }
        pid::directory(&dir.sb, pid, true).map(Some)
    }

    fn create(&self, _: &Ref<Inode>, _: &[u8], _: &NewNode<'_>) -> Result<Ref<Inode>> {
        // Names that proc does not have are not there, whatever is to be done with them.
        Err(Errno::ENOENT)
    }

    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Ok(try_box(RootDir)?)
    }
}

struct RootDir;

impl FileOps for RootDir {
    fn readdir(&self, file: &File, pos: &mut u64, sink: &mut dyn DirSink) -> Result<()> {
        if *pos < FIRST_PID_POS {
            if !tree::list(file.inode.ino, ENTRIES, pos, sink) {
                return Ok(());
            }
            *pos = FIRST_PID_POS;
        }
        let ns = namespace(&file.inode.sb);
        loop {
            let Ok(from) = u32::try_from(*pos - FIRST_PID_POS) else { return Ok(()) };
            let Some(found) = Pid::find_from(from, ns) else { return Ok(()) };
            let number = found.nr_in(ns);
            let next = FIRST_PID_POS + u64::from(number) + 1;
            if list::lock().process_of(&found).is_some() {
                let mut name = Text::new();
                put!(name, "{number}")?;
                let ino = pid::directory_ino(&found, true);
                if !sink.emit(name.as_bytes(), ino, S_IFDIR, next) {
                    return Ok(());
                }
            }
            *pos = next;
        }
    }
}

/// Marks an inode that depends on a task: names of it are believed only while the task is there.
pub(super) fn depends_on_task(inode: &Inode) {
    inode.set_flags(InodeFlags::REVALIDATE);
}

/// The text of a link as an inode's operations return it.
pub(super) fn link_text(text: &Text) -> Result<Arc<[u8]>> {
    try_arc_slice(text.as_bytes())
}

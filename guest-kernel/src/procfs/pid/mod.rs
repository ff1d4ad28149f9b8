//! /proc/PID and /proc/PID/task/TID.
//!
//! An inode here holds the [`Pid`], not the task, so that an open directory does not keep a task that
//! was reaped; what it shows then fails with `ESRCH`. A name is believed only while the task is there.

mod fd;
mod files;
mod idmaps;
mod memory;
mod mounts;
mod net;
mod pagemap;
mod smaps;
mod stat;
mod status;

use alloc::boxed::Box;
use alloc::sync::Arc;

use memory::Left;
use memory::ShowMemory::{Mappings, Whole};

use super::root::{depends_on_task, link_text, namespace};
use super::text::{Source, Text, TextFile};
use super::tree;
use crate::errno::{Errno, Result};
use crate::fs::{
    DirSink, File, FileOps, Inode, InodeOps, Link, NewNode, OpenFlags, Path, SuperBlock,
};
use crate::kref::Ref;
use crate::mm::{Mm, try_box};
use crate::ns::{Cap, Cred, Pid, PidNs};
use crate::process::access::{AccessMode, may_access};
use crate::put;
use crate::task::{self, Task, list};
use crate::uapi::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};

/// The task that a file is about, and how it was asked for.
pub struct Subject {
    /// The thread, or the leader of the process.
    pub task: Ref<Task>,
    /// Asked as a process (/proc/PID), not as a thread (/proc/PID/task/TID).
    pub group: bool,
    /// The pid namespace that the mount shows.
    pub ns: Ref<PidNs>,
    /// Who opened the file.
    pub opener: Ref<Cred>,
}

impl Subject {
    fn find(pid: &Ref<Pid>, group: bool, sb: &SuperBlock, opener: &Ref<Cred>) -> Result<Self> {
        let task = list::lock().thread_of(pid).map(Task::to_ref).ok_or(Errno::ESRCH)?;
        Ok(Self { task, group, ns: namespace(sb).clone(), opener: opener.clone() })
    }

    /// Runs `f` on the task's memory, kept from going meanwhile; `None` for tasks without.
    fn with_mm<R>(&self, f: impl FnOnce(&Mm) -> R) -> Option<R> {
        self.task.se.get_mm()?.visit(f)
    }

    /// `EACCES` unless the caller may look into the task.
    fn check_access(&self) -> Result<()> {
        let may = may_access(&self.task, AccessMode::FsCreds);
        if may { Ok(()) } else { Err(Errno::EACCES) }
    }
}

/// What an entry is.
#[derive(Clone, Copy)]
enum Kind {
    /// A file to read.
    Text(fn(&Subject, &mut Text) -> Result<()>),
    /// A file to read that shows the memory that the process had when it was opened, to friends.
    OfMemory(memory::ShowMemory, Left),
    /// A file to read and write.
    Setting(fn(&Subject, &mut Text) -> Result<()>, fn(&Subject, &[u8]) -> Result<()>),
    /// A link straight to a place.
    Place(fn(&Subject) -> Result<Path>),
    /// A directory of entries.
    Dir(&'static [Entry]),
    /// The descriptors, as links.
    Fds,
    /// The descriptors, as files about them.
    FdInfos,
    /// The threads.
    Threads,
    /// The memory itself.
    Memory,
    /// Its pages.
    PageMap,
}

/// A name in a process's directory.
struct Entry {
    name: &'static str,
    permissions: u32,
    kind: Kind,
}

const fn entry(name: &'static str, permissions: u32, kind: Kind) -> Entry {
    Entry { name, permissions, kind }
}

impl Entry {
    const fn mode(&self) -> u32 {
        let file_type = match self.kind {
            Kind::Place(_) => S_IFLNK,
            Kind::Dir(_) | Kind::Fds | Kind::FdInfos | Kind::Threads => S_IFDIR,
            _ => S_IFREG,
        };
        file_type | self.permissions
    }
}

static NAMESPACES: &[Entry] = &[
    entry("cgroup", 0o777, Kind::Place(files::ns_cgroup)),
    entry("ipc", 0o777, Kind::Place(files::ns_ipc)),
    entry("mnt", 0o777, Kind::Place(files::ns_mnt)),
    entry("net", 0o777, Kind::Place(files::ns_net)),
    entry("pid", 0o777, Kind::Place(files::ns_pid)),
    entry("pid_for_children", 0o777, Kind::Place(files::ns_pid_for_children)),
    entry("time", 0o777, Kind::Place(files::ns_time)),
    entry("time_for_children", 0o777, Kind::Place(files::ns_time_for_children)),
    entry("user", 0o777, Kind::Place(files::ns_user)),
    entry("uts", 0o777, Kind::Place(files::ns_uts)),
];

/// /proc/PID/task/TID.
static THREAD_ENTRIES: &[Entry] = &[
    entry("auxv", 0o400, Kind::OfMemory(Whole(memory::auxv), Left::Same)),
    entry("cgroup", 0o444, Kind::Text(files::cgroup)),
    entry("children", 0o444, Kind::Text(files::children)),
    entry("cmdline", 0o444, Kind::Text(memory::cmdline)),
    entry("comm", 0o644, Kind::Setting(files::comm, files::set_comm)),
    entry("cwd", 0o777, Kind::Place(files::cwd)),
    entry("environ", 0o400, Kind::OfMemory(Whole(memory::environ), Left::Empty)),
    entry("exe", 0o777, Kind::Place(files::exe)),
    entry("fd", 0o500, Kind::Fds),
    entry("fdinfo", 0o555, Kind::FdInfos),
    entry("fail-nth", 0o644, Kind::Setting(files::fail_nth, files::set_fail_nth)),
    entry("gid_map", 0o644, Kind::Setting(idmaps::gid_map, idmaps::set_gid_map)),
    entry("io", 0o400, Kind::Text(files::io)),
    entry("limits", 0o444, Kind::Text(files::limits)),
    entry("loginuid", 0o644, Kind::Text(files::no_id)),
    entry("maps", 0o444, Kind::OfMemory(Mappings(memory::maps), Left::EmptyOrGone)),
    entry("mem", 0o600, Kind::Memory),
    entry("mountinfo", 0o444, Kind::Text(mounts::mountinfo)),
    entry("mounts", 0o444, Kind::Text(mounts::mounts)),
    entry("mountstats", 0o400, Kind::Text(mounts::mountstats)),
    entry("net", 0o555, Kind::Dir(net::ENTRIES)),
    entry("ns", 0o511, Kind::Dir(NAMESPACES)),
    entry("oom_score", 0o444, Kind::Text(files::oom_score)),
    entry("oom_score_adj", 0o644, Kind::Setting(files::oom_score_adj, files::set_oom_score_adj)),
    entry("pagemap", 0o400, Kind::PageMap),
    entry("personality", 0o400, Kind::Text(files::personality)),
    entry("projid_map", 0o644, Kind::Setting(idmaps::projid_map, idmaps::set_projid_map)),
    entry("root", 0o777, Kind::Place(files::root)),
    entry("schedstat", 0o444, Kind::Text(files::schedstat)),
    entry("sessionid", 0o444, Kind::Text(files::no_id)),
    entry("setgroups", 0o644, Kind::Setting(idmaps::setgroups, idmaps::set_setgroups)),
    entry("smaps", 0o444, Kind::OfMemory(Mappings(smaps::smaps), Left::EmptyOrGone)),
    entry("smaps_rollup", 0o444, Kind::OfMemory(Whole(smaps::smaps_rollup), Left::Gone)),
    entry("stat", 0o444, Kind::Text(stat::stat)),
    entry("statm", 0o444, Kind::Text(stat::statm)),
    entry("status", 0o444, Kind::Text(status::status)),
    entry("uid_map", 0o644, Kind::Setting(idmaps::uid_map, idmaps::set_uid_map)),
    entry("wchan", 0o444, Kind::Text(files::wchan)),
];

/// What a process's directory has besides its main thread's entries.
static PROCESS_ENTRIES: &[Entry] = &[
    entry(
        "coredump_filter",
        0o644,
        Kind::Setting(memory::coredump_filter, memory::set_coredump_filter),
    ),
    entry("task", 0o555, Kind::Threads),
    entry(
        "timens_offsets",
        0o644,
        Kind::Setting(idmaps::timens_offsets, idmaps::set_timens_offsets),
    ),
];

/// The inode number of a process's or thread's directory.
pub fn directory_ino(pid: &Ref<Pid>, group: bool) -> u64 {
    tree::ino_of(Ref::as_ptr(pid) as usize, usize::from(group))
}

/// The directory of a process, or of a thread.
pub fn directory(sb: &Ref<SuperBlock>, pid: Ref<Pid>, group: bool) -> Result<Ref<Inode>> {
    let ino = directory_ino(&pid, group);
    let node = Directory { pid, group };
    let inode = Inode::new(sb, ino, S_IFDIR | 0o555, try_box(node)?)?;
    inode.set_nlink(9);
    depends_on_task(&inode);
    if let Some(node) = inode.ops_as::<Directory>() {
        own(&inode, &node.pid);
    }
    Ok(inode)
}

/// The process whose directory an inode is.
pub fn process_of(inode: &Inode) -> Option<Ref<Pid>> {
    let directory = inode.ops_as::<Directory>().filter(|directory| directory.group)?;
    Some(directory.pid.clone())
}

/// Gives an inode the task's owner; false if the task is gone. The owner is the effective user, but root
/// for what is in the directory of a task that nobody else may look into.
fn own(inode: &Inode, pid: &Pid) -> bool {
    let Some(task) = list::lock().thread_of(pid).map(Task::to_ref) else { return false };
    let open =
        inode.mode() == S_IFDIR | 0o555 || task.se.get_mm().is_some_and(|mm| mm.is_dumpable());
    let (uid, gid) = if open { task.cred.with(|cred| (cred.euid, cred.egid)) } else { (0, 0) };
    inode.set_owner(uid, gid);
    true
}

/// /proc/PID, /proc/PID/task/TID.
struct Directory {
    pid: Ref<Pid>,
    group: bool,
}

impl Directory {
    fn tables(&self) -> [&'static [Entry]; 2] {
        [THREAD_ENTRIES, if self.group { PROCESS_ENTRIES } else { &[] }]
    }
}

impl InodeOps for Directory {
    fn lookup(&self, dir: &Ref<Inode>, name: &[u8]) -> Result<Option<Ref<Inode>>> {
        if list::lock().thread_of(&self.pid).is_none() {
            return Err(Errno::ESRCH);
        }
        let mut entries = self.tables().into_iter().flatten();
        let Some(entry) = entries.find(|e| e.name.as_bytes() == name) else { return Ok(None) };
        node(&dir.sb, &self.pid, self.group, entry).map(Some)
    }

    fn create(&self, _: &Ref<Inode>, _: &[u8], _: &NewNode<'_>) -> Result<Ref<Inode>> {
        Err(Errno::ENOENT)
    }

    fn revalidate(&self, inode: &Inode) -> bool {
        own(inode, &self.pid)
    }

    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        let [first, second] = self.tables();
        Ok(try_box(EntriesDir { pid: self.pid.clone(), first, second })?)
    }
}

fn node_ino(pid: &Ref<Pid>, group: bool, entry: &'static Entry) -> u64 {
    let salt = core::ptr::from_ref(entry) as usize;
    tree::ino_of(Ref::as_ptr(pid) as usize, salt ^ usize::from(group))
}

/// The inode of an entry.
fn node(
    sb: &Ref<SuperBlock>,
    pid: &Ref<Pid>,
    group: bool,
    entry: &'static Entry,
) -> Result<Ref<Inode>> {
    let ops = Node { pid: pid.clone(), group, entry };
    let inode = Inode::new(sb, node_ino(pid, group, entry), entry.mode(), try_box(ops)?)?;
    if entry.mode() & S_IFMT == S_IFDIR {
        inode.set_nlink(2);
    }
    depends_on_task(&inode);
    own(&inode, pid);
    Ok(inode)
}

/// An entry of a process's or thread's directory.
struct Node {
    pid: Ref<Pid>,
    group: bool,
    entry: &'static Entry,
}

impl Node {
    fn subject(&self, inode: &Inode) -> Result<Subject> {
        Subject::find(&self.pid, self.group, &inode.sb, task::current().cred())
    }
}

impl InodeOps for Node {
    fn lookup(&self, dir: &Ref<Inode>, name: &[u8]) -> Result<Option<Ref<Inode>>> {
        match self.entry.kind {
            Kind::Dir(entries) => {
                let entry = entries.iter().find(|e| e.name.as_bytes() == name);
                entry.map(|entry| node(&dir.sb, &self.pid, self.group, entry)).transpose()
            }
            Kind::Fds => fd::lookup_link(dir, &self.pid, name),
            Kind::FdInfos => fd::lookup_info(dir, &self.pid, name),
            Kind::Threads => {
                let number = tree::parse_index(name).and_then(|n| u32::try_from(n).ok());
                let pid = number.and_then(|n| Pid::find(n, namespace(&dir.sb)));
                let Some(pid) = pid else { return Ok(None) };
                let leader = self.subject(dir)?.task;
                let ours = list::lock().thread_of(&pid).is_some_and(|t| t.same_group(&leader));
                if ours { directory(&dir.sb, pid, false).map(Some) } else { Ok(None) }
            }
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn follow_link(&self, inode: &Ref<Inode>, cred: &Cred) -> Result<Link> {
        match self.entry.kind {
            Kind::Place(find) => {
                let subject = self.subject(inode)?;
                subject.check_access()?;
                find(&subject).map(Link::Jump)
            }
            _ => self.readlink(inode, cred).map(Link::Text),
        }
    }

    fn readlink(&self, inode: &Ref<Inode>, _cred: &Cred) -> Result<Arc<[u8]>> {
        let subject = self.subject(inode)?;
        let mut text = Text::new();
        match self.entry.kind {
            Kind::Place(find) => {
                subject.check_access()?;
                text.bytes(&find(&subject)?.to_vec_in(&task::current().fs().root())?)?;
            }
            _ => return Err(Errno::EINVAL),
        }
        link_text(&text)
    }

    fn revalidate(&self, inode: &Inode) -> bool {
        own(inode, &self.pid)
    }

    fn open(&self, inode: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        let pid = self.pid.clone();
        Ok(match self.entry.kind {
            Kind::Dir(entries) => try_box(EntriesDir { pid, first: entries, second: &[] })?,
            Kind::Fds => {
                self.subject(inode)?.check_access()?;
                try_box(fd::FdDir { pid, links: true })?
            }
            Kind::FdInfos => {
                self.subject(inode)?.check_access()?;
                try_box(fd::FdDir { pid, links: false })?
            }
            Kind::Threads => try_box(ThreadsDir { pid })?,
            Kind::Memory => {
                try_box(memory::MemFile { mm: memory::pinned(&self.subject(inode)?)? })?
            }
            Kind::PageMap => {
                let mm = memory::pinned(&self.subject(inode)?)?;
                let shows_frames = task::current().cred().capable(Cap::SysAdmin);
                try_box(pagemap::PageMap { mm, shows_frames })?
            }
            Kind::Text(show) => self.text_file(inode, show, None)?,
            Kind::OfMemory(show, left) => {
                let mm = memory::pinned(&self.subject(inode)?)?;
                try_box(TextFile::new(memory::MemoryText { pid, mm, show, left }))?
            }
            Kind::Setting(show, store) => self.text_file(inode, show, Some(store))?,
            Kind::Place(_) => return Err(Errno::ELOOP),
        })
    }

    fn truncate(&self, _inode: &Inode, _size: u64) -> Result<()> {
        // Shells open settings with O_TRUNC.
        Ok(())
    }
}

impl Node {
    fn text_file(
        &self,
        inode: &Ref<Inode>,
        show: fn(&Subject, &mut Text) -> Result<()>,
        store: Option<Store>,
    ) -> Result<Box<dyn FileOps>> {
        let (pid, group, sb) = (self.pid.clone(), self.group, inode.sb.clone());
        let opener = task::current().cred().clone();
        Ok(try_box(TextFile::new(TaskText { pid, group, sb, opener, show, store }))?)
    }
}

/// What is done with the bytes that are written into a text.
type Store = fn(&Subject, &[u8]) -> Result<()>;

/// A text about a task.
struct TaskText {
    pid: Ref<Pid>,
    group: bool,
    sb: Ref<SuperBlock>,
    opener: Ref<Cred>,
    show: fn(&Subject, &mut Text) -> Result<()>,
    store: Option<Store>,
}

impl Source for TaskText {
    fn show(&self, out: &mut Text) -> Result<()> {
        (self.show)(&Subject::find(&self.pid, self.group, &self.sb, &self.opener)?, out)
    }

    fn store(&self, data: &[u8]) -> Result<()> {
        let store = self.store.ok_or(Errno::EIO)?;
        store(&Subject::find(&self.pid, self.group, &self.sb, &self.opener)?, data)
    }
}

/// Lists `.` and `..`; false if there was no room.
fn list_dots(file: &File, pos: &mut u64, sink: &mut dyn DirSink) -> bool {
    tree::list(file.inode.ino, &[], pos, sink)
}

/// An open directory of entries.
struct EntriesDir {
    pid: Ref<Pid>,
    first: &'static [Entry],
    second: &'static [Entry],
}

impl FileOps for EntriesDir {
    fn readdir(&self, file: &File, pos: &mut u64, sink: &mut dyn DirSink) -> Result<()> {
        if !list_dots(file, pos, sink) {
            return Ok(());
        }
        if list::lock().thread_of(&self.pid).is_none() {
            return Err(Errno::ENOENT);
        }
        let entries = self.first.iter().chain(self.second);
        for (at, entry) in (2..).zip(entries) {
            if *pos == at {
                let ino = node_ino(&self.pid, !self.second.is_empty(), entry);
                if !sink.emit(entry.name.as_bytes(), ino, entry.mode(), at + 1) {
                    return Ok(());
                }
                *pos = at + 1;
            }
        }
        Ok(())
    }
}

/// /proc/PID/task, open. Positions are numbers of threads.
struct ThreadsDir {
    pid: Ref<Pid>,
}

impl FileOps for ThreadsDir {
    fn readdir(&self, file: &File, pos: &mut u64, sink: &mut dyn DirSink) -> Result<()> {
        if !list_dots(file, pos, sink) {
            return Ok(());
        }
        let ns = namespace(&file.inode.sb);
        loop {
            let from = (*pos - 2) as u32;
            let next = {
                let list = list::lock();
                let leader = list.thread_of(&self.pid).ok_or(Errno::ENOENT)?;
                let threads = leader.signal.threads.iter();
                let later = threads.filter(|t| t.pid_nr(ns) >= from.max(1));
                later.min_by_key(|t| t.pid_nr(ns)).map(|t| (t.pid_nr(ns), t.thread_pid.share()))
            };
            let Some((number, pid)) = next else { return Ok(()) };
            let mut name = Text::new();
            put!(name, "{number}")?;
            let after = u64::from(number) + 3;
            if !sink.emit(name.as_bytes(), directory_ino(&pid, false), S_IFDIR, after) {
                return Ok(());
            }
            *pos = after;
        }
    }
}

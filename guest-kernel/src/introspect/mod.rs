//! How the kernel makes itself readable from outside: the root page and the layout note.
//!
//! [`ROOT`] is the page that an observer of raw RAM finds first; the boot order fills it as the kernel
//! comes up. [`layout`] is the table of descriptors that `#[derive(Described)]` left in the image, one
//! per described structure. Neither costs anything while the kernel runs.
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod describe;
mod publish;

#[cfg(target_os = "none")]
pub use publish::publish_layout;
pub use publish::{
    publish_console, publish_frames, publish_image, publish_init_running, publish_log,
    publish_run_queues, publish_tasks, set_exit, set_not_resumed, set_panic_message,
};

#[cfg(target_os = "none")]
use belljar_abi::layout::TypeDesc;
use belljar_abi::root::RootPage;

/// The root page. Its offset from the image's start stands in the Image header.
#[unsafe(no_mangle)]
pub static ROOT: RootPage = RootPage::new();

#[cfg(target_os = "none")]
unsafe extern "C" {
    /// Start of the section `.belljar.layout`, from the linker script.
    static __layout_start: [&'static TypeDesc; 0];
    /// Its end.
    static __layout_end: [&'static TypeDesc; 0];
}

/// The descriptors of all described structures in this image.
#[cfg(target_os = "none")]
pub fn layout() -> &'static [&'static TypeDesc] {
    let start = (&raw const __layout_start).cast::<&'static TypeDesc>();
    let end = (&raw const __layout_end).cast::<&'static TypeDesc>();
    let len = (end as usize - start as usize) / size_of::<&TypeDesc>();
    // SAFETY: the section holds the pointers that the derive put there and nothing else.
    unsafe { core::slice::from_raw_parts(start, len) }
}

#[cfg(test)]
mod tests {
    use belljar_abi::layout::{Kind, Tag, TypeClass, TypeDesc, registry};
    use std::collections::HashMap;

    fn types() -> HashMap<&'static str, &'static TypeDesc> {
        registry::all().map(|t| (t.name.as_str(), t)).collect()
    }

    /// The kind of a dotted field path such as `entity.run_node`.
    fn field<'a>(
        types: &HashMap<&str, &'a TypeDesc>,
        owner: &'a TypeDesc,
        path: &str,
    ) -> Option<&'static Kind> {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        let kind = &owner.fields.as_slice().iter().find(|f| f.name.as_str() == first)?.kind;
        if rest.is_empty() {
            return Some(kind);
        }
        field(types, types.get(kind.type_name.as_str())?, rest)
    }

    fn check(types: &HashMap<&str, &TypeDesc>, place: &str, kind: &Kind) {
        let name = kind.type_name.as_str();
        let class = match Tag::from_u32(kind.tag).expect(place) {
            Tag::Struct | Tag::List => Some(TypeClass::Struct),
            Tag::Ptr if !name.is_empty() => Some(TypeClass::Struct),
            Tag::Enum => Some(TypeClass::Enum),
            Tag::Flags => Some(TypeClass::Flags),
            _ => None,
        };
        if let Some(class) = class {
            let Some(named) = types.get(name) else {
                panic!("{place}: no described type `{name}`")
            };
            assert_eq!(named.class, class as u32, "{place}: `{name}` is another kind of type");
            if kind.tag == Tag::List as u32 {
                let member = kind.member.as_str();
                let link = field(types, named, member)
                    .unwrap_or_else(|| panic!("{place}: `{name}` has no field `{member}`"));
                assert_eq!(link.tag, Tag::Link as u32, "{place}: `{name}.{member}` is no link");
            }
        }
        if let Some(elem) = kind.elem {
            check(types, place, elem);
        }
    }

    #[test]
    fn every_described_name_resolves() {
        let types = types();
        assert!(types.contains_key("Thread"), "nothing was described");
        for owner in registry::all() {
            for field in owner.fields.as_slice() {
                let place = format!("{}.{}", owner.name.as_str(), field.name.as_str());
                check(&types, &place, &field.kind);
                let end = field.offset + u64::from(field.kind.size);
                assert!(end <= owner.size, "{place} ends outside its structure");
            }
        }
    }

    /// What the VMM's views read, by name. Renaming a field here is renaming it in `vmm/src/introspect`.
    const READ_BY_VIEWS: &[(&str, &str, Tag)] = &[
        ("Task", "sig.pending.queue", Tag::Vec),
        ("Task", "sig.blocked", Tag::Hex),
        ("Task", "sig.saved_mask.is_set", Tag::Bool),
        ("Task", "altstack.sp", Tag::Hex),
        ("Task", "thread_pid", Tag::Ptr),
        ("Task", "nsproxy", Tag::Ptr),
        ("Task", "cgroup.group", Tag::Ptr),
        ("Cgroup", "parent", Tag::Ptr),
        ("Cgroup", "name", Tag::Vec),
        ("Task", "files", Tag::Ptr),
        ("Task", "fs", Tag::Ptr),
        ("Task", "cred", Tag::Ptr),
        ("Task", "sighand", Tag::Ptr),
        ("Entity", "thread.fp", Tag::Struct),
        ("Entity", "thread.tpidr_el0", Tag::Hex),
        ("FpState", "v", Tag::Opaque),
        ("PtRegs", "x", Tag::Array),
        ("PtRegs", "syscallno", Tag::Int),
        ("SignalStruct", "shared.pending.queue", Tag::Vec),
        ("SignalStruct", "rlimits.soft", Tag::Array),
        ("SignalStruct", "timers.posix.timers", Tag::Vec),
        ("SignalStruct", "timers.real", Tag::Ptr),
        ("SignalStruct", "timers.cpu", Tag::Array),
        ("SignalStruct", "signalfd_wait", Tag::Opaque),
        ("Common", "unix", Tag::Ptr),
        ("UnixSock", "state.queue", Tag::Vec),
        ("UnixSock", "state.bound", Tag::Ptr),
        ("Skb", "data", Tag::Vec),
        ("Skb", "extras", Tag::Ptr),
        ("Inode", "locks.addr", Tag::Ptr),
        ("FileLocks", "locks", Tag::Vec),
        ("PidFd", "pid", Tag::Ptr),
        ("TimerFd", "state.deadline", Tag::Uint),
        ("SignalFd", "polled", Tag::Vec),
        ("EpollSet", "items", Tag::Vec),
        ("EpollSet", "ready.list", Tag::List),
        ("EpollItem", "file", Tag::Ptr),
        ("EpollItem", "queue", Tag::Hex),
        ("PosixTimer", "state.deadline", Tag::Uint),
        ("PosixTimer", "notify.thread", Tag::Ptr),
        ("Sighand", "actions", Tag::Array),
        ("Files", "table.fds", Tag::Vec),
        ("Files", "table.cloexec", Tag::Vec),
        ("File", "kind", Tag::Enum),
        ("File", "detail", Tag::Hex),
        ("File", "path.dentry", Tag::Ptr),
        ("Mount", "tree.place.mnt", Tag::Ptr),
        ("Dentry", "hashed", Tag::Bool),
        ("Inode", "rdev", Tag::Uint),
        ("Pipe", "ring.slots", Tag::Vec),
        ("Slot", "page", Tag::Ptr),
        ("EventFd", "count", Tag::Uint),
        ("FsStruct", "paths.cwd", Tag::Struct),
        ("Upid", "ns", Tag::Ptr),
        ("PidNs", "common.inum", Tag::Uint),
        ("Mm", "auxv", Tag::Vec),
        ("Page", "order", Tag::Uint),
        ("Task", "pid", Tag::Uint),
        ("Task", "tgid", Tag::Uint),
        ("Task", "comm", Tag::Chars),
        ("Task", "flags", Tag::Flags),
        ("Task", "exit_state", Tag::Uint),
        ("Task", "tasks", Tag::Link),
        ("Task", "thread_node", Tag::Link),
        ("Task", "real_parent", Tag::Ptr),
        ("Task", "signal", Tag::Ptr),
        ("Task", "se", Tag::Struct),
        ("Entity", "state", Tag::Flags),
        ("Entity", "policy", Tag::Enum),
        ("Entity", "prio", Tag::Int),
        ("Entity", "static_prio", Tag::Int),
        ("Entity", "on_cpu", Tag::Bool),
        ("Entity", "sum_exec_runtime", Tag::Uint),
        ("Entity", "time_slice", Tag::Uint),
        ("Entity", "wchan", Tag::Ptr),
        ("Entity", "mm", Tag::Ptr),
        ("Entity", "thread.info.cpu", Tag::Uint),
        ("Entity", "thread.context.pc", Tag::Code),
        ("Entity", "thread.context.fp", Tag::Hex),
        ("Entity", "thread.stack.base", Tag::Hex),
        ("Entity", "thread.stack.size", Tag::Uint),
        ("WaitChannel", "name", Tag::Text),
        ("SignalStruct", "threads", Tag::List),
        ("SignalStruct", "pids", Tag::Array),
        ("SignalStruct", "dead.utime", Tag::Uint),
        ("SignalStruct", "dead.stime", Tag::Uint),
        ("Pid", "numbers", Tag::Vec),
        ("Upid", "nr", Tag::Uint),
        ("Mm", "seq", Tag::SeqCount),
        ("Mm", "space.vmas", Tag::Vec),
        ("Mm", "space.total_vm", Tag::Uint),
        ("Mm", "space.start_brk", Tag::Hex),
        ("Mm", "layout.start_stack", Tag::Hex),
        ("Mm", "tables.root", Tag::Phys),
        ("Mm", "tables.rss.anon", Tag::Int),
        ("Mm", "tables.rss.file", Tag::Int),
        ("Mm", "tables.rss.shmem", Tag::Int),
        ("Vma", "start", Tag::Hex),
        ("Vma", "end", Tag::Hex),
        ("Vma", "flags", Tag::Flags),
        ("Vma", "pgoff", Tag::Uint),
        ("Vma", "file", Tag::Ptr),
        ("MappedFile", "dev", Tag::Uint),
        ("MappedFile", "ino", Tag::Uint),
        ("MappedFile", "path", Tag::Vec),
        ("Page", "refcount", Tag::Uint),
        ("Page", "kind", Tag::Enum),
        ("RunQueue", "seq", Tag::SeqCount),
        ("RunQueue", "nr_running", Tag::Uint),
        ("RunQueue", "curr", Tag::Ptr),
        ("RunQueue", "online", Tag::Bool),
        ("RunQueue", "rt", Tag::Ptr),
        ("RunQueue", "active", Tag::Ptr),
        ("RunQueue", "expired", Tag::Ptr),
        ("PrioArray", "queue", Tag::Array),
    ];

    #[test]
    fn views_find_what_they_read() {
        let types = types();
        for (owner, path, tag) in READ_BY_VIEWS {
            let Some(ty) = types.get(owner) else { panic!("`{owner}` is not described") };
            let kind = field(&types, ty, path).unwrap_or_else(|| panic!("no `{owner}.{path}`"));
            assert_eq!(Tag::from_u32(kind.tag), Some(*tag), "`{owner}.{path}`");
        }
        // The masks and values that they know by name.
        for (owner, value) in [
            ("TaskFlags", "KTHREAD"),
            ("TaskState", "INTERRUPTIBLE"),
            ("TaskState", "UNINTERRUPTIBLE"),
            ("TaskState", "STOPPED"),
            ("TaskState", "TRACED"),
            ("Policy", "Normal"),
            ("VmFlags", "WRITE"),
            ("VmFlags", "SHARED"),
            ("VmFlags", "MAYSHARE"),
            ("PageKind", "Zero"),
            ("PageKind", "Cache"),
            ("PageKind", "Shmem"),
        ] {
            let values = types[owner].values.as_slice();
            assert!(values.iter().any(|v| v.name.as_str() == value), "no `{owner}::{value}`");
        }
    }

    #[test]
    fn names_are_unique() {
        assert_eq!(types().len(), registry::all().count(), "two described types share a name");
    }
}

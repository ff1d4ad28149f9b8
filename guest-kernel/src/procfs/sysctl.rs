//! /proc/sys: settings and facts (sysctl(8)).

use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use super::text::{Text, parse_number};
use super::tree::{Entry, dir, setting, text};
use crate::drivers::tty;
use crate::errno::{Errno, Result};
use crate::fs::SuperBlock;
use crate::fs::notify::inotify::MAX_QUEUED_EVENTS;
use crate::fs::pipe::limits as pipe_limits;
use crate::ipc::IpcNs;
use crate::ipc::sysv::table::MAX_OBJECTS;
use crate::kref::Ref;
use crate::mm::frame;
use crate::ns::ucounts::Counted;
use crate::ns::user::init_user_ns;
use crate::ns::uts::{UTS_LEN, uts_name};
use crate::ns::{Cap, NsKind, UserNs, pid};
use crate::process::coredump::{CORE_PIPE_LIMIT, name as core_name};
use crate::process::creds::SUID_DUMPABLE;
use crate::process::seccomp::log;
use crate::put;
use crate::seccomp::{Action, ActionSet};
use crate::sync::Once;
use crate::syscall::system::{RELEASE, VERSION};
use crate::task::{self, list};

/// A limit of the caller's user namespace (namespaces(7)).
macro_rules! user_limit {
    ($name:literal, $counted:expr) => {
        setting(
            $name,
            |_, out| {
                let ns = &task::current().cred().user_ns;
                put!(out, "{}\n", ns.limits.max($counted))
            },
            |data| set_user_limit(&task::current().cred().user_ns, $counted, data),
        )
    };
}

/// A limit of the caller's user namespace on namespaces of one kind.
macro_rules! max_namespaces {
    ($name:literal, $kind:ident) => {
        user_limit!($name, Counted::Namespace(NsKind::$kind))
    };
}

/// A limit of the machine on what users make with inotify(7).
macro_rules! inotify_limit {
    ($name:literal, $counted:ident) => {
        setting(
            $name,
            |_, out| put!(out, "{}\n", init_user_ns().limits.max(Counted::$counted)),
            |data| set_user_limit(init_user_ns(), Counted::$counted, data),
        )
    };
}

fn set_user_limit(ns: &UserNs, counted: Counted, data: &[u8]) -> Result<()> {
    if !task::current().cred().own_capable(Cap::SysResource) {
        return Err(Errno::EPERM);
    }
    let max = parse_number(data)?;
    let max = i32::try_from(max).ok().filter(|max| *max >= 0).ok_or(Errno::EINVAL)?;
    ns.limits.set_max(counted, max as u32);
    Ok(())
}

fn ipc_ns() -> &'static Ref<IpcNs> {
    &task::current().nsproxy().ipc
}

/// `EPERM` unless the caller may set the limits of its IPC namespace.
fn check_ipc_setting() -> Result<()> {
    // Linux goes by the file's mode: user 0 of the namespace that owns the IPC namespace.
    let owner = ipc_ns().common.user_ns();
    let root = owner.root_uid().unwrap_or(0);
    let cred = task::current().cred();
    if cred.euid == root || cred.ns_capable(owner, Cap::SysResource) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// A number that System V IPC does not exceed in the caller's namespace.
macro_rules! ipc_setting {
    ($name:literal, $field:ident, $atomic:ident) => {
        setting(
            $name,
            |_, out| put!(out, "{}\n", ipc_ns().limits.$field.load(Ordering::Relaxed)),
            |data| {
                check_ipc_setting()?;
                <$atomic as IpcLimit>::store(&ipc_ns().limits.$field, data, $name)
            },
        )
    };
}

/// A limit of System V IPC, in the width in which it is kept.
trait IpcLimit {
    /// Sets it.
    fn store(&self, data: &[u8], name: &str) -> Result<()>;
}

impl IpcLimit for AtomicI32 {
    fn store(&self, data: &[u8], name: &str) -> Result<()> {
        let value = parse_number(data)?;
        // Numbers of objects are also limited by how they are numbered.
        let max = if name.ends_with("mni") { MAX_OBJECTS as i64 } else { i64::from(i32::MAX) };
        if !(0..=max).contains(&value) {
            return Err(Errno::EINVAL);
        }
        AtomicI32::store(self, value as i32, Ordering::Relaxed);
        Ok(())
    }
}

impl IpcLimit for AtomicU64 {
    fn store(&self, data: &[u8], _name: &str) -> Result<()> {
        let text = core::str::from_utf8(line(data)).map_err(|_| Errno::EINVAL)?;
        AtomicU64::store(self, text.trim().parse().map_err(|_| Errno::EINVAL)?, Ordering::Relaxed);
        Ok(())
    }
}

fn show_sem(_: &SuperBlock, out: &mut Text) -> Result<()> {
    let [semmsl, semmns, semopm, semmni] = ipc_ns().limits.sem();
    put!(out, "{semmsl}\t{semmns}\t{semopm}\t{semmni}\n")
}

fn store_sem(data: &[u8]) -> Result<()> {
    check_ipc_setting()?;
    let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    let limits = &ipc_ns().limits.sem;
    for (limit, word) in limits.iter().zip(text.split_ascii_whitespace()) {
        let value: i32 = word.parse().map_err(|_| Errno::EINVAL)?;
        if value < 0 {
            return Err(Errno::EINVAL);
        }
        AtomicI32::store(limit, value, Ordering::Relaxed);
    }
    let sets = &limits[3];
    sets.fetch_min(MAX_OBJECTS as i32, Ordering::Relaxed);
    Ok(())
}

fn store_rmid_forced(data: &[u8]) -> Result<()> {
    check_ipc_setting()?;
    let on = match parse_number(data)? {
        0 => false,
        1 => true,
        _ => return Err(Errno::EINVAL),
    };
    ipc_ns().shm.set_rmid_forced(on, |pid| list::lock().thread_of(pid).is_some());
    Ok(())
}

/// A limit of the POSIX message queues of the caller's namespace.
macro_rules! mqueue_setting {
    ($name:literal, $field:ident, $min:expr, $max:expr) => {
        setting(
            $name,
            |_, out| put!(out, "{}\n", ipc_ns().mq.state.$field.load(Ordering::Relaxed)),
            |data| {
                check_ipc_setting()?;
                store_number(data, $min..=i64::from($max), &ipc_ns().mq.state.$field)
            },
        )
    };
}

/// The number after which the next one of the caller's pid namespace comes.
fn store_last_pid(data: &[u8]) -> Result<()> {
    let task = task::current();
    let ns = task.thread_pid.own().ns();
    let owner = ns.common.user_ns();
    let cred = task.cred();
    if !cred.ns_capable(owner, Cap::CheckpointRestore) && !cred.ns_capable(owner, Cap::SysAdmin) {
        return Err(Errno::EPERM);
    }
    let last = u32::try_from(parse_number(data)?).ok().filter(|&last| last < pid::pid_max());
    ns.set_last_pid(last.ok_or(Errno::EINVAL)?);
    Ok(())
}

/// How many slots the pipes of a user may have.
macro_rules! pipe_user_limit {
    ($name:literal, $limit:ident) => {
        setting(
            $name,
            |_, out| put!(out, "{}\n", pipe_limits::$limit.load(Ordering::Relaxed)),
            |data| {
                let slots = parse_number(data)?.try_into().map_err(|_| Errno::EINVAL)?;
                pipe_limits::$limit.store(slots, Ordering::Relaxed);
                Ok(())
            },
        )
    };
}

/// A number of bytes, which is rounded up as the size of a pipe is.
fn store_pipe_max_size(data: &[u8]) -> Result<()> {
    let bytes = u32::try_from(parse_number(data)?).map_err(|_| Errno::EINVAL)?;
    pipe_limits::MAX_SIZE.store(pipe_limits::round_size(bytes as usize)?, Ordering::Relaxed);
    Ok(())
}

/// /proc/sys.
pub static ENTRIES: &[Entry] = &[
    dir(
        "fs",
        &[
            dir("epoll", &[text("max_user_watches", |_, out| put!(out, "{}\n", 1 << 20))]),
            dir(
                "inotify",
                &[
                    setting(
                        "max_queued_events",
                        |_, out| put!(out, "{}\n", MAX_QUEUED_EVENTS.load(Ordering::Relaxed)),
                        |data| store_number(data, 0..=i64::from(i32::MAX), &MAX_QUEUED_EVENTS),
                    ),
                    inotify_limit!("max_user_instances", InotifyInstances),
                    inotify_limit!("max_user_watches", InotifyWatches),
                ],
            ),
            dir(
                "mqueue",
                &[
                    mqueue_setting!("msg_default", msg_default, 1, 65536),
                    mqueue_setting!("msg_max", msg_max, 1, 65536),
                    mqueue_setting!("msgsize_default", msgsize_default, 128, 16 << 20),
                    mqueue_setting!("msgsize_max", msgsize_max, 128, 16 << 20),
                    mqueue_setting!("queues_max", queues_max, 0, i32::MAX),
                ],
            ),
            text("mount-max", |_, out| put!(out, "{}\n", crate::fs::mntns::MOUNT_MAX)),
            text("file-max", |_, out| put!(out, "{}\n", i64::MAX)),
            text("file-nr", |_, out| put!(out, "0\t0\t{}\n", i64::MAX)),
            text("nr_open", |_, out| out.bytes(b"1048576\n")),
            text("overflowgid", |_, out| out.bytes(b"65534\n")),
            text("overflowuid", |_, out| out.bytes(b"65534\n")),
            setting(
                "suid_dumpable",
                |_, out| put!(out, "{}\n", SUID_DUMPABLE.load(Ordering::Relaxed)),
                |data| store_number(data, 0..=2, &SUID_DUMPABLE),
            ),
            setting(
                "pipe-max-size",
                |_, out| put!(out, "{}\n", pipe_limits::MAX_SIZE.load(Ordering::Relaxed)),
                store_pipe_max_size,
            ),
            pipe_user_limit!("pipe-user-pages-hard", USER_HARD),
            pipe_user_limit!("pipe-user-pages-soft", USER_SOFT),
        ],
    ),
    dir(
        "kernel",
        &[
            text("cap_last_cap", |_, out| put!(out, "{}\n", Cap::CheckpointRestore as u8)),
            setting(
                "core_pattern",
                |_, out| {
                    let pattern = core_name::pattern();
                    out.bytes(pattern.as_bytes())?;
                    out.bytes(b"\n")
                },
                |data| {
                    core_name::set_pattern(line(data));
                    Ok(())
                },
            ),
            setting(
                "core_pipe_limit",
                |_, out| put!(out, "{}\n", CORE_PIPE_LIMIT.load(Ordering::Relaxed)),
                |data| store_number(data, 0..=i64::from(i32::MAX), &CORE_PIPE_LIMIT),
            ),
            setting(
                "core_uses_pid",
                |_, out| put!(out, "{}\n", core_name::USES_PID.load(Ordering::Relaxed)),
                |data| store_number(data, i32::MIN.into()..=i32::MAX.into(), &core_name::USES_PID),
            ),
            setting("domainname", show_domainname, store_domainname),
            setting("hostname", show_hostname, store_hostname),
            ipc_setting!("msgmax", msgmax, AtomicI32),
            ipc_setting!("msgmnb", msgmnb, AtomicI32),
            ipc_setting!("msgmni", msgmni, AtomicI32),
            text("ngroups_max", |_, out| out.bytes(b"65536\n")),
            text("osrelease", |_, out| put!(out, "{RELEASE}\n")),
            text("ostype", |_, out| out.bytes(b"Linux\n")),
            text("overflowgid", |_, out| out.bytes(b"65534\n")),
            text("overflowuid", |_, out| out.bytes(b"65534\n")),
            setting(
                "ns_last_pid",
                |_, out| put!(out, "{}\n", task::current().active_pid_ns().last_pid()),
                store_last_pid,
            ),
            setting(
                "pid_max",
                |_, out| put!(out, "{}\n", pid::pid_max()),
                |data| {
                    let max = u32::try_from(parse_number(data)?).map_err(|_| Errno::EINVAL)?;
                    pid::set_pid_max(max)
                },
            ),
            text("printk", |_, out| out.bytes(b"4\t4\t1\t7\n")),
            dir(
                "pty",
                &[
                    text("max", |_, out| put!(out, "{}\n", tty::devpts::PTY_MAX)),
                    text("nr", |_, out| {
                        put!(out, "{}\n", tty::pty::NR_PTYS.load(Ordering::Relaxed))
                    }),
                ],
            ),
            dir(
                "random",
                &[
                    text("boot_id", |_, out| uuid(out, boot_id())),
                    text("entropy_avail", |_, out| out.bytes(b"256\n")),
                    text("poolsize", |_, out| out.bytes(b"256\n")),
                    text("uuid", |_, out| uuid(out, random_uuid())),
                ],
            ),
            text("randomize_va_space", |_, out| out.bytes(b"2\n")),
            setting("sem", show_sem, store_sem),
            setting(
                "shm_rmid_forced",
                |_, out| put!(out, "{}\n", u8::from(ipc_ns().shm.rmid_forced())),
                store_rmid_forced,
            ),
            dir(
                "seccomp",
                &[
                    text("actions_avail", |_, out| {
                        show_actions(out, Action::ALL.into_iter().map(|(_, name)| name))
                    }),
                    setting(
                        "actions_logged",
                        |_, out| show_actions(out, log::logged().names()),
                        store_actions_logged,
                    ),
                ],
            ),
            ipc_setting!("shmall", shmall, AtomicU64),
            ipc_setting!("shmmax", shmmax, AtomicU64),
            ipc_setting!("shmmni", shmmni, AtomicI32),
            text("tainted", |_, out| out.bytes(b"0\n")),
            text("threads-max", |_, out| put!(out, "{}\n", frame::total_frames() / 32)),
            text("version", |_, out| put!(out, "{VERSION}\n")),
        ],
    ),
    dir(
        "user",
        &[
            max_namespaces!("max_cgroup_namespaces", Cgroup),
            user_limit!("max_inotify_instances", Counted::InotifyInstances),
            user_limit!("max_inotify_watches", Counted::InotifyWatches),
            max_namespaces!("max_ipc_namespaces", Ipc),
            max_namespaces!("max_mnt_namespaces", Mnt),
            max_namespaces!("max_net_namespaces", Net),
            max_namespaces!("max_pid_namespaces", Pid),
            max_namespaces!("max_time_namespaces", Time),
            max_namespaces!("max_user_namespaces", User),
            max_namespaces!("max_uts_namespaces", Uts),
        ],
    ),
    dir("net", &[dir("core", &[text("somaxconn", |_, out| out.bytes(b"4096\n"))])]),
    dir(
        "vm",
        &[
            text("max_map_count", |_, out| out.bytes(b"65530\n")),
            text("mmap_min_addr", |_, out| out.bytes(b"4096\n")),
            setting(
                "overcommit_memory",
                |_, out| put!(out, "{}\n", OVERCOMMIT.load(Ordering::Relaxed)),
                |data| store_number(data, 0..=2, &OVERCOMMIT),
            ),
            text("overcommit_ratio", |_, out| out.bytes(b"50\n")),
            setting(
                "swappiness",
                |_, out| put!(out, "{}\n", SWAPPINESS.load(Ordering::Relaxed)),
                |data| store_number(data, 0..=200, &SWAPPINESS),
            ),
        ],
    ),
];

fn show_actions(out: &mut Text, names: impl Iterator<Item = &'static str>) -> Result<()> {
    for (i, name) in names.enumerate() {
        put!(out, "{}{name}", if i > 0 { " " } else { "" })?;
    }
    out.bytes(b"\n")
}

/// What seccomp logs; calls that are allowed are not among it.
fn store_actions_logged(data: &[u8]) -> Result<()> {
    if !task::current().cred().capable(Cap::SysAdmin) {
        return Err(Errno::EPERM);
    }
    let actions = ActionSet::parse(line(data)).filter(|actions| !actions.has(Action::Allow));
    log::set_logged(actions.ok_or(Errno::EINVAL)?);
    Ok(())
}

/// Policy of promising memory (proc(5)); this kernel always promises.
static OVERCOMMIT: AtomicI32 = AtomicI32::new(0);
/// Kept for programs that set it; there is no swap.
static SWAPPINESS: AtomicI32 = AtomicI32::new(60);

fn store_number(
    data: &[u8],
    range: core::ops::RangeInclusive<i64>,
    setting: &AtomicI32,
) -> Result<()> {
    let value = parse_number(data)?;
    if !range.contains(&value) {
        return Err(Errno::EINVAL);
    }
    setting.store(value as i32, Ordering::Relaxed);
    Ok(())
}

/// What was written, up to its line end.
fn line(data: &[u8]) -> &[u8] {
    data.split(|&b| b == b'\n' || b == 0).next().unwrap_or_default()
}

/// A name up to its NUL.
fn until_nul(name: &[u8]) -> &[u8] {
    name.split(|&b| b == 0).next().unwrap_or_default()
}

fn show_hostname(_: &SuperBlock, out: &mut Text) -> Result<()> {
    let name = task::current().nsproxy().uts.names.lock().nodename;
    out.bytes(until_nul(&name))?;
    out.bytes(b"\n")
}

fn show_domainname(_: &SuperBlock, out: &mut Text) -> Result<()> {
    let name = task::current().nsproxy().uts.names.lock().domainname;
    out.bytes(until_nul(&name))?;
    out.bytes(b"\n")
}

fn store_hostname(data: &[u8]) -> Result<()> {
    let name = line(data);
    let name = uts_name(&name[..name.len().min(UTS_LEN)])?;
    task::current().nsproxy().uts.names.lock().nodename = name;
    Ok(())
}

fn store_domainname(data: &[u8]) -> Result<()> {
    let name = line(data);
    let name = uts_name(&name[..name.len().min(UTS_LEN)])?;
    task::current().nsproxy().uts.names.lock().domainname = name;
    Ok(())
}

/// A random number in the form of RFC 4122, version 4.
fn random_uuid() -> [u8; 16] {
    let mut bytes = [0; 16];
    crate::drivers::random::fill(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

fn boot_id() -> [u8; 16] {
    static BOOT_ID: Once<[u8; 16]> = Once::new();
    match BOOT_ID.try_get() {
        Some(id) => *id,
        None => *BOOT_ID.set(random_uuid()),
    }
}

fn uuid(out: &mut Text, bytes: [u8; 16]) -> Result<()> {
    for (i, byte) in bytes.iter().enumerate() {
        let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
        put!(out, "{dash}{byte:02x}")?;
    }
    out.bytes(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_its_dashes() {
        let mut out = Text::new();
        uuid(&mut out, [0xab; 16]).unwrap();
        assert_eq!(out.as_bytes(), b"abababab-abab-abab-abab-abababababab\n");
    }

    #[test]
    fn settings_stay_in_their_range() {
        let value = AtomicI32::new(1);
        assert_eq!(store_number(b"3\n", 0..=2, &value), Err(Errno::EINVAL));
        assert_eq!(store_number(b"2\n", 0..=2, &value), Ok(()));
        assert_eq!(value.into_inner(), 2);
    }
}

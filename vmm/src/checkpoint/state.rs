//! What a process is beside memory, registers and files: ids, credentials, limits, signals, ranges.

use belljar_abi::corenote::{
    self, Group, Id, Kind, Limit, OWNER, Pending, Process as ProcessRecord, Record, SigAction,
    Thread, Vma as VmaRecord, Writer, Zombie,
};

use super::memory::{VM_SHARED, Vma};
use super::nameless::{Nameless, is_nameless};
use super::registers::Registers;
use super::{Error, Result, filters};
use crate::elfcore::Note;
use crate::introspect::{Kernel, Object, Process, optional, path_of};

/// `exit_state` of a task that has ended and was not waited for.
const EXIT_ZOMBIE: u64 = 32;

/// A table as a note.
pub(super) fn table<T: Record>(kind: Kind, table: &Writer<T>) -> Note {
    Note::new(OWNER, kind as u32, table.finish())
}

/// Bytes for a record.
pub(super) fn put<T: Record>(to: &mut Writer<T>, bytes: &[u8]) -> Result<u64> {
    to.bytes(bytes).ok_or_else(|| Error::Io(std::io::ErrorKind::FileTooLarge.into()))
}

/// The notes about the process as a whole.
pub(super) fn process(
    process: &Process<'_>,
    mm: &Object<'_>,
    vmas: &[Vma],
    nameless: &Nameless,
    now: u64,
) -> Result<Vec<Note>> {
    let task = process.task();
    let pid = process.pid()?;
    let refused = |what: &str| Error::Refused { pid, what: what.to_owned() };
    let signal = task.ptr("signal")?.ok_or_else(|| refused("it has no signal structure"))?;
    own_namespace(process)?;
    let fs = task.ptr("fs")?.ok_or_else(|| refused("it has no working directory"))?;
    let cred = task.ptr("cred")?.ok_or_else(|| refused("it has no credentials"))?;
    let (pgid, sid) = process.pgid_sid()?;
    let mut table_of: Writer<ProcessRecord> = Writer::default();
    let place = |field| -> Result<Vec<u8>> {
        Ok(path_of(&fs.embedded(field)?)?.map_or_else(Vec::new, |place| place.path))
    };
    let (cwd, root) = (place("paths.cwd")?, place("paths.root")?);
    let exe = match mm.ptr("exe")? {
        Some(exe) => exe.bytes("path")?,
        None => vec![],
    };
    if is_nameless(&exe) {
        let exe = String::from_utf8_lossy(&exe);
        return Err(refused(&format!("it runs {exe}, which no core carries yet")));
    }
    let record = ProcessRecord {
        pid,
        ppid: process.ppid()?.unwrap_or(0),
        pgid,
        sid,
        session_leader: signal.uint("leader")?,
        exit_signal: task.uint("exit_signal")?,
        stopped: u64::from(signal.flags("shared.flags")?.iter().any(|flag| flag == "STOPPED")),
        umask: fs.uint("umask")?,
        cwd_bytes: put(&mut table_of, &cwd)?,
        root_bytes: put(&mut table_of, &root)?,
        exe_bytes: put(&mut table_of, &exe)?,
        uid: cred.uint("uid")?,
        euid: cred.uint("euid")?,
        suid: cred.uint("suid")?,
        fsuid: cred.uint("fsuid")?,
        gid: cred.uint("gid")?,
        egid: cred.uint("egid")?,
        sgid: cred.uint("sgid")?,
        fsgid: cred.uint("fsgid")?,
        cap_inheritable: cred.uint("cap_inheritable")?,
        cap_permitted: cred.uint("cap_permitted")?,
        cap_effective: cred.uint("cap_effective")?,
        cap_bounding: cred.uint("cap_bounding")?,
        cap_ambient: cred.uint("cap_ambient")?,
        securebits: cred.uint("securebits")?,
        no_new_privs: match optional(task.uint("no_new_privs"))? {
            Some(set) => set,
            // Kernels kept it with the credentials before.
            None => cred.uint("no_new_privs")?,
        },
        start_brk: mm.uint("space.start_brk")?,
        brk: mm.uint("space.brk")?,
        mmap_base: mm.uint("space.mmap_base")?,
        start_code: mm.uint("layout.start_code")?,
        end_code: mm.uint("layout.end_code")?,
        start_data: mm.uint("layout.start_data")?,
        end_data: mm.uint("layout.end_data")?,
        start_stack: mm.uint("layout.start_stack")?,
        arg_start: mm.uint("layout.arg_start")?,
        arg_end: mm.uint("layout.arg_end")?,
        env_start: mm.uint("layout.env_start")?,
        env_end: mm.uint("layout.env_end")?,
        sigreturn: mm.uint("layout.sigreturn")?,
        oom_score_adj: signal.uint("oom_score_adj")?,
        subreaper: signal.uint("is_child_subreaper")?,
        monotonic_ns: now.saturating_add_signed(clock_offset(task)?),
        dead_utime: signal.uint("dead.utime")?,
        dead_stime: signal.uint("dead.stime")?,
        children_utime: signal.uint("children.utime")?,
        children_stime: signal.uint("children.stime")?,
    };
    table_of.push(record);

    let mut groups: Writer<Group> = Writer::default();
    for gid in cred.numbers("groups")? {
        groups.push(Group { gid });
    }
    let mut limits: Writer<Limit> = Writer::default();
    let (soft, hard) = (signal.numbers("rlimits.soft")?, signal.numbers("rlimits.hard")?);
    for (resource, (soft, hard)) in soft.into_iter().zip(hard).enumerate() {
        limits.push(Limit { resource: resource as u64, soft, hard });
    }
    let mut ranges: Writer<VmaRecord> = Writer::default();
    for vma in vmas {
        let (dev, ino, path) = match &vma.file {
            Some(file) => (file.dev, file.ino, file.path.as_slice()),
            None => (0, 0, &[][..]),
        };
        // A file may have been removed after it was mapped.
        let pages = vma.file.as_ref().map_or(0, |file| file.pages);
        let held = if nameless.has(pages) { pages } else { 0 };
        if !path.is_empty() && held == 0 && !is_found_again(path) {
            let path = String::from_utf8_lossy(path);
            return Err(refused(&format!("it maps {path}, which no core carries yet")));
        }
        let path_bytes = put(&mut ranges, path)?;
        let (start, end) = (vma.range.start, vma.range.end);
        let (flags, pgoff) = (vma.flags, vma.pgoff);
        let (size, hash) = match vma.file.as_ref().and_then(|file| file.content) {
            Some((size, hash)) => (size, Some(hash)),
            None => (0, None),
        };
        // A writer of shared memory may change it afterwards, so only what it has now is checked there.
        let hash = hash.filter(|_| vma.flags & VM_SHARED == 0 && held == 0);
        let hash_bytes = put(&mut ranges, hash.as_ref().map_or(&[], |hash| &hash[..]))?;
        ranges.push(VmaRecord {
            start,
            end,
            flags,
            pgoff,
            dev,
            ino,
            path_bytes,
            size,
            hash_bytes,
            nameless: held,
        });
    }
    let mut actions: Writer<SigAction> = Writer::default();
    if let Some(sighand) = task.ptr("sighand")? {
        for (signo, action) in (1..).zip(sighand.array("actions")?) {
            let record = SigAction {
                signo,
                handler: action.uint("handler")?,
                flags: action.uint("flags")?,
                restorer: action.uint("restorer")?,
                mask: action.uint("mask")?,
            };
            if record != (SigAction { signo, ..SigAction::default() }) {
                actions.push(record);
            }
        }
    }
    Ok(vec![
        table(Kind::Process, &table_of),
        table(Kind::Groups, &groups),
        table(Kind::Limits, &limits),
        table(Kind::Vmas, &ranges),
        table(Kind::SigActions, &actions),
    ])
}

/// Whether what is mapped under this name can be mapped again: a file by its path, or what each kernel has of its own.
fn is_found_again(path: &[u8]) -> bool {
    path == corenote::SIGRETURN_NAME
        || path == corenote::SHARED_NAME
        || path.starts_with(b"/") && !path.ends_with(b" (deleted)")
}

/// How far the process's CLOCK_MONOTONIC is ahead of the machine's.
pub(super) fn clock_offset(task: &Object<'_>) -> Result<i64> {
    let Some(proxy) = task.ptr("nsproxy")? else { return Ok(0) };
    let Some(time) = proxy.ptr("time")? else { return Ok(0) };
    Ok(time.int("monotonic")?)
}

/// Refuses a process that is not in init's namespaces: no note carries one yet. Only its clocks are carried.
fn own_namespace(process: &Process<'_>) -> Result<()> {
    let task = process.task();
    let init = Process::find(task.kernel(), 1)?;
    let (Some(own), Some(inits)) = (task.ptr("nsproxy")?, init.task().ptr("nsproxy")?) else {
        return Ok(());
    };
    for kind in ["uts", "ipc", "mnt", "net", "cgroup", "pid_for_children"] {
        if optional(own.uint(kind))? != optional(inits.uint(kind))? {
            let what = format!(
                "its {kind} namespace is not that of process 1, and no core carries one yet"
            );
            return Err(Error::Refused { pid: process.pid()?, what });
        }
    }
    Ok(())
}

/// The notes about its threads; `registers` are theirs, in the same order.
pub(super) fn threads(
    process: &Process<'_>,
    threads: &[&Process<'_>],
    registers: &[Registers],
) -> Result<Vec<Note>> {
    let mut table_of: Writer<Thread> = Writer::default();
    let mut pending: Writer<Pending> = Writer::default();
    let mut ids: Writer<Id> = Writer::default();
    for (thread, registers) in threads.iter().zip(registers) {
        let task = thread.task();
        let tid = thread.pid()?;
        let comm_bytes = put(&mut table_of, task.text("comm")?.as_bytes())?;
        let (restart_clock, end) = (task.uint("restart.clock")?, task.uint("restart.deadline")?);
        // The deadline is on the machine's clock, the note's on the process's.
        let shown = if restart_clock == 0 && end != u64::MAX { clock_offset(task)? } else { 0 };
        let restricted = filters::of(thread)?;
        table_of.push(Thread {
            tid,
            comm_bytes,
            syscall: registers.syscall as u64,
            orig_x0: registers.orig_x0,
            blocked: task.uint("sig.blocked")?,
            has_saved_mask: task.uint("sig.saved_mask.is_set")?,
            saved_mask: task.uint("sig.saved_mask.mask")?,
            altstack_sp: task.uint("altstack.sp")?,
            altstack_size: task.uint("altstack.size")?,
            altstack_flags: task.uint("altstack.flags")?,
            clear_child_tid: task.uint("clear_child_tid")?,
            robust_list: task.uint("robust_list")?,
            pdeath_signal: task.uint("pdeath_signal")?,
            policy: task.uint("se.policy")?,
            nice: thread.nice()? as u64,
            rt_priority: task.uint("se.rt_priority")?,
            cpus_allowed: task.uint("se.cpus_allowed")?,
            personality: task.uint("personality")?,
            restart_kind: task.uint("restart.kind")?,
            restart_clock,
            restart_ns: end.saturating_add_signed(shown),
            restart_addr: task.uint("restart.address")?,
            restart_value: task.uint("restart.value")?,
            restart_flags: task.uint("restart.flags")?,
            restart_bitset: task.uint("restart.bitset")?,
            cpu_ns: task.uint("se.sum_exec_runtime")?,
            user_sampled: task.uint("se.utime_sampled")?,
            system_sampled: task.uint("se.stime_sampled")?,
            utime: task.uint("se.utime")?,
            stime: task.uint("se.stime")?,
            seccomp_mode: restricted.mode,
            seccomp_filter: restricted.filter,
            no_new_privs: restricted.no_new_privs,
        });
        queued(tid, task, "sig.pending.queue", &mut pending)?;
        if let Some(number) = task.ptr("thread_pid")? {
            numbers(0, tid, &number, &mut ids)?;
        }
    }
    let pid = process.pid()?;
    if let Some(signal) = process.task().ptr("signal")? {
        queued(0, &signal, "shared.pending.queue", &mut pending)?;
        // The order of `SignalStruct.pids` is that of the kernel's `PidType`.
        for kind in 1..4 {
            if let Some(number) = signal.element("pids", kind)? {
                numbers(kind as u64, pid, &number, &mut ids)?;
            }
        }
    }
    Ok(vec![
        table(Kind::Threads, &table_of),
        table(Kind::Pending, &pending),
        table(Kind::Ids, &ids),
        filters::note(threads)?,
    ])
}

/// The children of `parent` that have ended and that nobody has waited for.
pub(super) fn zombies(kernel: &Kernel<'_>, parent: u64) -> Result<Note> {
    let mut all: Writer<Zombie> = Writer::default();
    for leader in kernel.processes()? {
        let process = Process::new(leader);
        let task = process.task();
        if task.uint("exit_state")? != EXIT_ZOMBIE || process.ppid()? != Some(parent) {
            continue;
        }
        let (pgid, sid) = process.pgid_sid()?;
        let (mut status, mut times) = (task.uint("exit_code")?, [0, 0]);
        if let Some(signal) = task.ptr("signal")? {
            if signal.flags("shared.flags")?.iter().any(|flag| flag == "EXIT") {
                status = signal.uint("shared.exit_code")?;
            }
            for (time, field) in times.iter_mut().zip(["utime", "stime"]) {
                *time = signal.uint(&format!("dead.{field}"))?
                    + signal.uint(&format!("children.{field}"))?
                    + task.uint(&format!("se.{field}"))?;
            }
        }
        let (uid, gid) = match task.ptr("cred")? {
            Some(cred) => (cred.uint("uid")?, cred.uint("gid")?),
            None => (0, 0),
        };
        let comm_bytes = put(&mut all, task.text("comm")?.as_bytes())?;
        all.push(Zombie {
            pid: process.pid()?,
            pgid,
            sid,
            status: status & 0xffff,
            exit_signal: task.uint("exit_signal")?,
            uid,
            gid,
            utime: times[0],
            stime: times[1],
            comm_bytes,
        });
    }
    Ok(table(Kind::Zombies, &all))
}

/// The queued signals in a field.
fn queued(tid: u64, of: &Object<'_>, path: &str, to: &mut Writer<Pending>) -> Result<()> {
    for info in of.array(path)? {
        let fields = info.numbers("fields")?;
        let field = |i: usize| fields.get(i).copied().unwrap_or(0);
        to.push(Pending {
            tid,
            signo: info.uint("signo")?,
            errno: info.uint("errno")?,
            code: info.uint("code")?,
            field0: field(0),
            field1: field(1),
            field2: field(2),
            field3: field(3),
        });
    }
    Ok(())
}

/// The numbers of a pid, one a level.
fn numbers(kind: u64, of: u64, pid: &Object<'_>, to: &mut Writer<Id>) -> Result<()> {
    for (level, number) in (0..).zip(pid.array("numbers")?) {
        let ns = match number.ptr("ns")? {
            Some(ns) => ns.uint("common.inum")?,
            None => 0,
        };
        to.push(Id { kind, of, level, nr: number.uint("nr")?, ns });
    }
    Ok(())
}

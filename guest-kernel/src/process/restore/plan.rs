//! What the notes of a core say, checked: every number within what the kernel's own types hold, every
//! reference to something that is there. What depends on the machine (a file, a free number) is checked
//! where it is used.

mod filters;
mod nameless;
mod terminals;
mod things;

pub use filters::FilterPlan;
pub use nameless::NamelessPlan;
pub use terminals::{PtyPlan, TerminalPlan};
pub use things::{MessagePlan, SocketPlan, TimerPlan};

use alloc::vec::Vec;

use belljar_abi::carried::Carried;
use belljar_abi::corenote::{
    self, Fd, File, FilePiece, Frames, Kind, Limit, Lock, Pending, Record, SigAction, Table,
    Thread, Vma, Watch, Zombie,
};
use belljar_abi::coreregs::{FpSimd, General};

use super::core::{Bad, Core, Result, Segment, room};
use crate::arch::{FpState, PtRegs};
use crate::errno::Errno;
use crate::fs::PATH_MAX;
use crate::mm::VmFlags;
use crate::mm::restore::Places;
use crate::mm::vma::MAX_MAP_COUNT;
use crate::process::sigframe::user_pstate;
use crate::sched::{ClockBase, Deadline, RestartBlock, RestartKind};
use crate::signal::NSIG;
use crate::task::rlimit::RLIM_NLIMITS;

/// Descriptors beyond this cannot be (`fs.nr_open`).
const MAX_FD: u64 = 1 << 20;
/// Numbers of processes end below this.
const MAX_PID: u64 = 4 << 20;
/// Most CPU time of a process, in nanoseconds: 73 years.
const MAX_CPU_TIME: u64 = 1 << 61;
/// Most words of an auxiliary vector.
const MAX_AUXV: usize = 128;

/// A thread.
pub struct ThreadPlan<'a> {
    /// What its note says.
    pub record: Thread,
    /// Its name.
    pub comm: &'a [u8],
    /// Its registers.
    pub regs: PtRegs,
    /// Its FP/SIMD registers.
    pub fp: FpState,
    /// Its thread pointer.
    pub tls: u64,
    /// How the call that it is in goes on. The deadline is on the clocks of the core.
    pub restart: RestartBlock,
}

/// A range of memory.
pub struct VmaPlan<'a> {
    /// What its note says.
    pub record: Vma,
    /// Its flags.
    pub flags: VmFlags,
    /// Path or name of what is mapped; empty for private anonymous memory.
    pub path: &'a [u8],
    /// Hash of the file's content; empty for what is no regular file.
    pub hash: &'a [u8],
}

/// An open file.
pub struct FilePlan<'a> {
    /// What its note says.
    pub record: File,
    /// Its path.
    pub path: &'a [u8],
    /// What is in a pipe.
    pub content: &'a [u8],
    /// Hash of a regular file's content; empty for others.
    pub hash: &'a [u8],
}

/// A child that has ended.
pub struct ZombiePlan<'a> {
    /// What its note says.
    pub record: Zombie,
    /// Its name.
    pub comm: &'a [u8],
}

/// A process.
pub struct Plan<'a> {
    /// What its note says; ids are in range.
    pub process: corenote::Process,
    /// Its working directory.
    pub cwd: &'a [u8],
    /// Its root directory.
    pub root: &'a [u8],
    /// Its program.
    pub exe: &'a [u8],
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// Its threads, the leader first.
    pub threads: Vec<ThreadPlan<'a>>,
    /// Its ranges, by address.
    pub vmas: Vec<VmaPlan<'a>>,
    /// Pages that others have too, by address.
    pub frames: Vec<Frames>,
    /// Its memory.
    pub segments: Vec<Segment>,
    /// Files without a name that it has open or mapped, by their ids.
    pub nameless: Vec<NamelessPlan<'a>>,
    /// Pieces of such files, its own or of other processes.
    pub pieces: Vec<FilePiece>,
    /// Its descriptors.
    pub fds: Vec<Fd>,
    /// What they refer to.
    pub files: Vec<FilePlan<'a>>,
    /// Its dispositions.
    pub actions: Vec<SigAction>,
    /// Its pending signals.
    pub pending: Vec<Pending>,
    /// Its limits.
    pub limits: Vec<Limit>,
    /// Its auxiliary vector.
    pub auxv: Vec<u64>,
    /// Its children that nobody has waited for.
    pub zombies: Vec<ZombiePlan<'a>>,
    /// Its controlling terminal.
    pub terminal: Option<TerminalPlan>,
    /// The pseudoterminals whose masters it has open, by their ids.
    pub ptys: Vec<PtyPlan<'a>>,
    /// Its timers; no two of a kind but those of timer_create(2), which have numbers of their own.
    pub timers: Vec<TimerPlan>,
    /// What its epoll sets watch. The sets are among its files; what is watched may be another process's.
    pub watches: Vec<Watch>,
    /// Its locks, through files that it has open.
    pub locks: Vec<Lock>,
    /// Its Unix sockets, and those that wait to be accepted from them.
    pub sockets: Vec<SocketPlan<'a>>,
    /// What is queued at them; the oldest come first.
    pub messages: Vec<MessagePlan<'a>>,
    /// The filters of its threads, each behind the one before it.
    pub filters: Vec<FilterPlan<'a>>,
}

/// The records of a note that each pass `check`; too many for any process are refused.
fn records<T: Record>(
    table: &Table<'_>,
    note: &'static str,
    most: usize,
    check: impl Fn(&T) -> Result<()>,
) -> Result<Vec<T>> {
    if table.len() > most {
        return Err(Bad::Value { note, word: "the number of records", value: table.len() as u64 });
    }
    let mut all = room(table.len())?;
    for record in table.records::<T>() {
        check(&record)?;
        all.push(record);
    }
    Ok(all)
}

/// Refuses a word that is not what it may be.
fn need(ok: bool, note: &'static str, word: &'static str, value: u64) -> Result<()> {
    if ok { Ok(()) } else { Err(Bad::Value { note, word, value }) }
}

fn path<'a>(table: &Table<'a>, kind: Kind, word: u64) -> Result<&'a [u8]> {
    let path = table.bytes(word).map_err(|error| Bad::Note(kind as u32, error))?;
    if path.len() >= PATH_MAX || path.contains(&0) {
        return Err(Bad::Header("a path that none can be"));
    }
    Ok(path)
}

/// A hash, or nothing.
fn hash<'a>(table: &Table<'a>, kind: Kind, word: u64) -> Result<&'a [u8]> {
    let hash = table.bytes(word).map_err(|error| Bad::Note(kind as u32, error))?;
    match hash.len() {
        0 | corenote::HASH_LEN => Ok(hash),
        _ => Err(Bad::Header("a hash that is none")),
    }
}

fn is_id(id: u64) -> bool {
    // The highest number means "leave it as it is" to setuid(2) and its kin.
    id < u64::from(u32::MAX)
}

fn is_pid(pid: u64) -> bool {
    (1..MAX_PID).contains(&pid)
}

impl<'a> Plan<'a> {
    /// Understands a core.
    pub fn read(core: Core<'a>) -> Result<Self> {
        let table = |kind, name| core.table(kind).ok_or(Bad::Lacks(name));
        let of = table(Kind::Process, "Process")?;
        let process = of.records::<corenote::Process>().next().ok_or(Bad::Lacks("Process"))?;
        check_process(&process)?;
        let (cwd, root, exe) = (
            path(&of, Kind::Process, process.cwd_bytes)?,
            path(&of, Kind::Process, process.root_bytes)?,
            path(&of, Kind::Process, process.exe_bytes)?,
        );
        let groups = records::<corenote::Group>(
            &table(Kind::Groups, "Groups")?,
            "Groups",
            65536,
            |group| need(is_id(group.gid), "Groups", "gid", group.gid),
        )?;
        let mut gids = room(groups.len())?;
        gids.extend(groups.iter().map(|group| group.gid as u32));
        let threads = threads(&core, &table(Kind::Threads, "Threads")?)?;
        need(
            threads[0].record.tid == process.pid,
            "Threads",
            "the first tid",
            threads[0].record.tid,
        )?;
        let pending =
            records(&table(Kind::Pending, "Pending")?, "Pending", 65536, |p: &Pending| {
                let known = p.tid == 0 || threads.iter().any(|t| t.record.tid == p.tid);
                need(known, "Pending", "tid", p.tid)?;
                need((1..=NSIG as u64).contains(&p.signo), "Pending", "signo", p.signo)
            })?;
        let files = files(&table(Kind::Files, "Files")?)?;
        let fds = records(&table(Kind::Fds, "Fds")?, "Fds", MAX_FD as usize, |fd: &Fd| {
            need(fd.fd < MAX_FD, "Fds", "fd", fd.fd)?;
            // Sorted below.
            need(find(&files, fd.file).is_some(), "Fds", "file", fd.file)
        })?;
        let actions = records(
            &table(Kind::SigActions, "SigActions")?,
            "SigActions",
            NSIG,
            |a: &SigAction| {
                need((1..=NSIG as u64).contains(&a.signo), "SigActions", "signo", a.signo)
            },
        )?;
        let limits = records(&table(Kind::Limits, "Limits")?, "Limits", 64, |l: &Limit| {
            need(l.resource < RLIM_NLIMITS as u64, "Limits", "resource", l.resource)?;
            need(l.soft <= l.hard, "Limits", "soft", l.soft)
        })?;
        let vmas = vmas(&table(Kind::Vmas, "Vmas")?)?;
        let frames = frames(&table(Kind::Frames, "Frames")?)?;
        let nameless = match core.table(Kind::Nameless) {
            Some(table) => nameless::read(&table)?,
            None => Vec::new(),
        };
        let terminal = core.table(Kind::Terminal).and_then(|table| terminals::terminal(&table));
        let ptys = match core.table(Kind::Ptys) {
            Some(table) => terminals::ptys(&table, &files)?,
            None => Vec::new(),
        };
        let zombies = match core.table(Kind::Zombies) {
            Some(table) => zombies(&table)?,
            None => Vec::new(),
        };
        let timers = match core.table(Kind::Timers) {
            Some(table) => things::timers(&table, &threads)?,
            None => Vec::new(),
        };
        let watches = match core.table(Kind::Watches) {
            Some(table) => records(&table, "Watches", MAX_FD as usize, |watch: &Watch| {
                let set = find(&files, watch.set).map(|file| Carried::of(file.record.kind));
                need(set == Some(Some(Carried::Epoll)), "Watches", "set", watch.set)?;
                need(watch.fd < MAX_FD, "Watches", "fd", watch.fd)?;
                let events = watch.events <= u64::from(u32::MAX);
                need(events, "Watches", "events", watch.events)
            })?,
            None => Vec::new(),
        };
        let locks = match core.table(Kind::Locks) {
            Some(table) => records(&table, "Locks", MAX_FD as usize, |lock: &Lock| {
                let known = find(&files, lock.file).is_some();
                need(known, "Locks", "file", lock.file)?;
                need(lock.kind <= corenote::LOCK_FLOCK, "Locks", "kind", lock.kind)?;
                let end = lock.end == u64::MAX || lock.end <= i64::MAX as u64;
                need(end && lock.start <= lock.end, "Locks", "end", lock.end)?;
                need(lock.start <= i64::MAX as u64, "Locks", "start", lock.start)
            })?,
            None => Vec::new(),
        };
        let (mut sockets, mut messages) = (Vec::new(), Vec::new());
        if let Some(table) = core.table(Kind::Sockets) {
            sockets = things::sockets(&table)?;
        }
        if let Some(table) = core.table(Kind::Messages) {
            messages = things::messages(&table)?;
        }
        let filters = match core.table(Kind::Filters) {
            Some(table) => filters::read(&table)?,
            None => Vec::new(),
        };
        filters::check_threads(&threads, &filters)?;
        check_cpu_time(&process, &threads)?;
        let mut words = room(MAX_AUXV)?;
        words.extend(
            core.auxv
                .chunks_exact(8)
                .take(MAX_AUXV)
                .map(|word| word.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte))),
        );
        Ok(Self {
            process,
            cwd,
            root,
            exe,
            groups: gids,
            threads,
            vmas,
            frames,
            segments: core.segments,
            nameless,
            pieces: core.pieces,
            fds,
            files,
            actions,
            pending,
            limits,
            auxv: words,
            zombies,
            terminal,
            ptys,
            timers,
            watches,
            locks,
            sockets,
            messages,
            filters,
        })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.process.pid as u32
    }

    /// The open file with this id.
    pub fn file(&self, id: u64) -> Option<&FilePlan<'a>> {
        find(&self.files, id)
    }

    /// The pseudoterminal with this id.
    pub fn pty(&self, id: u64) -> Option<&PtyPlan<'a>> {
        let at = self.ptys.binary_search_by_key(&id, |pty| pty.record.id).ok()?;
        self.ptys.get(at)
    }

    /// The timer of the timerfd with this id.
    pub fn file_timer(&self, id: u64) -> Option<&TimerPlan> {
        let key = (corenote::TIMER_FILE, id);
        let at = self.timers.binary_search_by_key(&key, TimerPlan::key).ok()?;
        self.timers.get(at)
    }

    /// Where things are in its address space.
    pub fn places(&self) -> Places {
        let p = &self.process;
        Places {
            start_brk: p.start_brk,
            brk: p.brk,
            mmap_base: p.mmap_base,
            layout: [
                p.start_code,
                p.end_code,
                p.start_data,
                p.end_data,
                p.start_stack,
                p.arg_start,
                p.arg_end,
                p.env_start,
                p.env_end,
                p.sigreturn,
            ],
        }
    }

    /// The number that the page at `addr` has in all cores of its checkpoint, if others have it too.
    pub fn shared_frame(&self, addr: u64) -> Option<u64> {
        let page = crate::addr::PAGE_SHIFT;
        let at = self.frames.partition_point(|run| run.start <= addr).checked_sub(1)?;
        let run = &self.frames[at];
        let index = (addr - run.start) >> page;
        (run.cow != 0 && index < run.pages).then(|| run.frame.wrapping_add(index))
    }
}

fn find<'p, 'a>(files: &'p [FilePlan<'a>], id: u64) -> Option<&'p FilePlan<'a>> {
    let at = files.binary_search_by_key(&id, |file| file.record.id).ok()?;
    files.get(at)
}

/// clone(2) keeps a byte, whether there is such a signal or not.
const EXIT_SIGNAL_MAX: u64 = 0xff;

fn check_process(p: &corenote::Process) -> Result<()> {
    let pids = [("pid", p.pid), ("pgid", p.pgid), ("sid", p.sid)];
    for (word, pid) in pids {
        need(is_pid(pid), "Process", word, pid)?;
    }
    need(p.ppid < MAX_PID, "Process", "ppid", p.ppid)?;
    need(p.exit_signal <= EXIT_SIGNAL_MAX, "Process", "exit_signal", p.exit_signal)?;
    let ids = [
        ("uid", p.uid),
        ("euid", p.euid),
        ("suid", p.suid),
        ("fsuid", p.fsuid),
        ("gid", p.gid),
        ("egid", p.egid),
        ("sgid", p.sgid),
        ("fsgid", p.fsgid),
    ];
    for (word, id) in ids {
        need(is_id(id), "Process", word, id)?;
    }
    let adj = p.oom_score_adj as i64;
    need((-1000..=1000).contains(&adj), "Process", "oom_score_adj", p.oom_score_adj)?;
    need(p.securebits <= 0xff, "Process", "securebits", p.securebits)?;
    need(p.monotonic_ns <= i64::MAX as u64, "Process", "monotonic_ns", p.monotonic_ns)
}

fn threads<'a>(core: &Core<'a>, table: &Table<'a>) -> Result<Vec<ThreadPlan<'a>>> {
    let n = table.len();
    let registers = [core.prstatus.len(), core.fpregset.len(), core.tls.len()];
    if n == 0 || registers != [n; 3] {
        return Err(Bad::Header("not as many threads as registers"));
    }
    let mut threads: Vec<ThreadPlan<'a>> = room(n)?;
    for (i, record) in table.records::<Thread>().enumerate() {
        need(is_pid(record.tid), "Threads", "tid", record.tid)?;
        let general = General::read(core.prstatus[i]);
        let fp = FpSimd::read(core.fpregset[i]);
        let tls = core.tls[i].first_chunk::<8>();
        let (Some(general), Some(fp), Some(tls)) = (general, fp, tls) else {
            return Err(Bad::Header("the registers of a thread are cut short"));
        };
        need(general.is_user(), "Threads", "pstate", general.pstate)?;
        let nice = record.nice as i64;
        need((-20..=19).contains(&nice), "Threads", "nice", record.nice)?;
        need(record.rt_priority <= 99, "Threads", "rt_priority", record.rt_priority)?;
        let signal = record.pdeath_signal <= NSIG as u64;
        need(signal, "Threads", "pdeath_signal", record.pdeath_signal)?;
        threads.push(ThreadPlan {
            comm: table
                .bytes(record.comm_bytes)
                .map_err(|error| Bad::Note(Kind::Threads as u32, error))?,
            regs: registers_of(&general, &record),
            fp: FpState { v: fp.v, fpsr: fp.fpsr, fpcr: fp.fpcr },
            tls: u64::from_le_bytes(*tls),
            restart: restart(&record)?,
            record,
        });
    }
    Ok(threads)
}

/// The registers as they lie on the kernel stack of a thread that is about to go to EL0: what remains to be
/// done about the call that it was in is seen from them ([`crate::trap`]).
fn registers_of(general: &General, record: &Thread) -> PtRegs {
    let syscall = i32::try_from(record.syscall as i64).unwrap_or(PtRegs::NO_SYSCALL);
    PtRegs {
        x: general.x,
        sp: general.sp,
        pc: general.pc,
        pstate: user_pstate(general.pstate),
        orig_x0: record.orig_x0,
        syscallno: if syscall < 0 { PtRegs::NO_SYSCALL } else { syscall },
        ..PtRegs::default()
    }
}

fn restart(record: &Thread) -> Result<RestartBlock> {
    let clock = match record.restart_clock {
        0 => ClockBase::Monotonic,
        1 => ClockBase::Realtime,
        other => return Err(Bad::Value { note: "Threads", word: "restart_clock", value: other }),
    };
    let end = Deadline { clock, ns: record.restart_ns };
    let (value, flags) = (record.restart_value as u32, record.restart_flags as u32);
    Ok(match record.restart_kind {
        corenote::RESTART_NONE => RestartBlock::default(),
        corenote::RESTART_NANOSLEEP => RestartBlock::nanosleep(end, record.restart_addr),
        corenote::RESTART_FUTEX => {
            let set = record.restart_bitset as u32;
            RestartBlock::futex_wait(end, record.restart_addr, value, flags, set)
        }
        other => return Err(Bad::Value { note: "Threads", word: "restart_kind", value: other }),
    })
}

const _: () = assert!(
    RestartKind::Nanosleep as u64 == corenote::RESTART_NANOSLEEP
        && RestartKind::FutexWait as u64 == corenote::RESTART_FUTEX,
    "core notes name the kinds as the kernel does"
);

const _: () = assert!(
    Errno::ERESTARTSYS.number() as u64 == corenote::ERESTARTSYS
        && Errno::ERESTARTNOINTR.number() as u64 == corenote::ERESTARTNOINTR
        && Errno::ERESTARTNOHAND.number() as u64 == corenote::ERESTARTNOHAND
        && Errno::ERESTART_RESTARTBLOCK.number() as u64 == corenote::ERESTART_RESTARTBLOCK,
    "core notes name the codes as the kernel does"
);

/// Refuses CPU time that would not add up in a word.
fn check_cpu_time(process: &corenote::Process, threads: &[ThreadPlan<'_>]) -> Result<()> {
    let p = process;
    let own = [p.dead_utime, p.dead_stime, p.children_utime, p.children_stime];
    let of_threads = threads.iter().flat_map(|thread| {
        let t = &thread.record;
        [t.cpu_ns, t.user_sampled, t.system_sampled, t.utime, t.stime]
    });
    let sum = own.into_iter().chain(of_threads).fold(0, u64::saturating_add);
    need(sum <= MAX_CPU_TIME, "Threads", "the CPU time in all", sum)
}

fn zombies<'a>(table: &Table<'a>) -> Result<Vec<ZombiePlan<'a>>> {
    let mut zombies = room(table.len().min(65536))?;
    for record in records::<Zombie>(table, "Zombies", 65536, |_| Ok(()))? {
        for (word, pid) in [("pid", record.pid), ("pgid", record.pgid), ("sid", record.sid)] {
            need(is_pid(pid), "Zombies", word, pid)?;
        }
        for (word, id) in [("uid", record.uid), ("gid", record.gid)] {
            need(is_id(id), "Zombies", word, id)?;
        }
        need(record.status <= 0xffff, "Zombies", "status", record.status)?;
        need(record.exit_signal <= EXIT_SIGNAL_MAX, "Zombies", "exit_signal", record.exit_signal)?;
        let comm = table.bytes(record.comm_bytes);
        let comm = comm.map_err(|error| Bad::Note(Kind::Zombies as u32, error))?;
        zombies.push(ZombiePlan { record, comm });
    }
    Ok(zombies)
}

fn vmas<'a>(table: &Table<'a>) -> Result<Vec<VmaPlan<'a>>> {
    let mut last = 0;
    let mut vmas = room(table.len().min(MAX_MAP_COUNT))?;
    for record in records::<Vma>(table, "Vmas", MAX_MAP_COUNT, |_| Ok(()))? {
        need(record.start >= last && record.start < record.end, "Vmas", "start", record.start)?;
        last = record.end;
        let flags = VmFlags::from_bits(record.flags);
        let flags = flags.ok_or(Bad::Value { note: "Vmas", word: "flags", value: record.flags })?;
        vmas.push(VmaPlan {
            flags,
            path: path(table, Kind::Vmas, record.path_bytes)?,
            hash: hash(table, Kind::Vmas, record.hash_bytes)?,
            record,
        });
    }
    Ok(vmas)
}

fn frames(table: &Table<'_>) -> Result<Vec<Frames>> {
    let mut last = 0;
    let frames: Vec<Frames> = records(table, "Frames", 1 << 24, |_| Ok(()))?;
    for run in &frames {
        let len = run.pages.checked_mul(crate::addr::PAGE_SIZE as u64);
        let end = len.and_then(|len| run.start.checked_add(len));
        let end = end.filter(|_| run.start >= last);
        last = end.ok_or(Bad::Value { note: "Frames", word: "start", value: run.start })?;
    }
    Ok(frames)
}

fn files<'a>(table: &Table<'a>) -> Result<Vec<FilePlan<'a>>> {
    let mut files: Vec<FilePlan<'a>> = room(table.len().min(MAX_FD as usize))?;
    for record in records::<File>(table, "Files", MAX_FD as usize, |_| Ok(()))? {
        need(record.flags <= u64::from(u32::MAX), "Files", "flags", record.flags)?;
        need(record.pos <= i64::MAX as u64, "Files", "pos", record.pos)?;
        for (word, id) in [("uid", record.uid), ("gid", record.gid)] {
            need(is_id(id), "Files", word, id)?;
        }
        let content = table.bytes(record.content_bytes);
        files.push(FilePlan {
            path: path(table, Kind::Files, record.path_bytes)?,
            content: content.map_err(|error| Bad::Note(Kind::Files as u32, error))?,
            hash: hash(table, Kind::Files, record.hash_bytes)?,
            record,
        });
    }
    files.sort_unstable_by_key(|file| file.record.id);
    let twice = files.windows(2).find(|pair| pair[0].record.id == pair[1].record.id);
    match twice {
        Some(pair) => Err(Bad::Value { note: "Files", word: "id", value: pair[0].record.id }),
        None => Ok(files),
    }
}

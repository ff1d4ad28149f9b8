//! The core that a process leaves when a signal ends it (core(5)).
//!
//! The thread that the signal hit writes it. The others are killed, and each waits at the beginning of its exit
//! ([`task_exit`]) with its registers in place, until the core is written. SIGKILL ends the writing.
//!
//! | file | what it is |
//! | --- | --- |
//! | this one | who waits for whom, and where the core goes |
//! | [`name`] | `core_pattern`: its name, or the program that takes it |
//! | `mappings` | which memory goes into it (`coredump_filter`) |
//! | `notes` | what it says of threads and files |
//! | `write` | the file itself |
//! | `helper` | starting the program that takes it |

mod helper;
mod mappings;
pub mod name;
mod notes;
mod write;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, Ordering};

use crate::arch::ThreadFlags;
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::fs::open::OpenHow;
use crate::fs::{Caller, File, FsStruct, OpenFlags, open, pipe, verbs};
use crate::kref::Ref;
use crate::kwarn;
use crate::mm::{Dumpable, Mm};
use crate::ns::{Cred, init_pid_ns};
use crate::process::exit::fatal_pending;
use crate::process::{init, signal};
use crate::sched;
use crate::signal::{SIGKILL, SigInfo};
use crate::task::rlimit::Resource;
use crate::task::{GroupFlags, Task, TaskFlags, list};
use crate::wait_event;

pub use mappings::FILTER_BITS;
use name::Target;

/// The shortest limit with which a core is begun.
const MIN_CORE: u64 = crate::addr::PAGE_SIZE as u64;
/// The limit of a program that takes cores: it leaves none itself.
const HELPER_LIMIT: u64 = 1;

/// How many programs may take cores at a time; 0 for any number, which then nobody waits for (proc(5)).
pub static CORE_PIPE_LIMIT: AtomicI32 = AtomicI32::new(0);
/// How many cores programs take at this moment.
static PIPED: AtomicI32 = AtomicI32::new(0);

/// What a core is written of and by.
struct Dump<'a> {
    task: &'a Task,
    mm: &'a Mm,
    info: &'a SigInfo,
    /// The threads, the writer first. The others stand still.
    threads: Array<Ref<Task>>,
    /// Who may have the core, as it was when the process died.
    dumpable: Dumpable,
    /// `RLIMIT_CORE`, in bytes.
    limit: u64,
}

/// Writes the core of the caller's process, which `info` ends, if it may have one; says in its wait status whether it
/// did. The caller exits afterwards.
#[inline(never)]
pub fn do_coredump(task: &Task, info: &SigInfo) {
    let Some(mm) = task.mm() else { return };
    let dumpable = mm.dumpable();
    if dumpable == Dumpable::No {
        return;
    }
    let Ok(threads) = gather(task, info.signo) else { return };
    let limit = task.signal.rlimits.soft(Resource::Core);
    let dump = Dump { task, mm, info, threads, dumpable, limit };
    let dumped = dump.run();
    {
        // A SIGKILL that came meanwhile is what it dies of.
        let mut shared = task.signal.shared.lock();
        if dumped && shared.exit_code == info.signo {
            shared.exit_code |= 0x80;
        }
    }
    let waiting = task.signal.core_dump.threads.lock().take();
    drop(waiting);
    task.signal.core_dump.finished.wake_all();
}

/// Brings every other thread of the caller's process to its end and waits until it stands still there
/// (`coredump_wait`); returns the caller and them. An error if the process ends anyway.
fn gather(task: &Task, sig: i32) -> Result<Array<Ref<Task>>> {
    let signal = &task.signal;
    let mut room = Array::new();
    let others = loop {
        let threads = signal.nr_threads();
        room.try_reserve(threads)?;
        let list = list::lock();
        // No thread joins while the list is locked.
        if threads < signal.nr_threads() {
            drop(list);
            continue;
        }
        let mut shared = signal.shared.lock();
        let execs = !signal.group_exec_task.load(Ordering::Acquire).is_null();
        if shared.flags.contains(GroupFlags::EXIT) || execs {
            return Err(Errno::EINTR);
        }
        shared.flags = shared.flags & GroupFlags::UNKILLABLE | GroupFlags::EXIT;
        shared.exit_code = sig;
        (shared.stopping, shared.stop_count) = (0, 0);
        *signal.core_dump.threads.lock() = Some(core::mem::take(&mut room));
        let mut others = 0;
        for other in signal.threads.iter().filter(|t| !core::ptr::eq(*t, task)) {
            if other.flags().contains(TaskFlags::POSTCOREDUMP) {
                continue;
            }
            others += 1;
            other.stop_pending.store(false, Ordering::Release);
            other.sig.lock().pending.add(SigInfo::kernel(SIGKILL));
            signal::wake_up_for_signal(other, true);
        }
        task.stop_pending.store(false, Ordering::Release);
        task.set_flags(TaskFlags::DUMPCORE);
        // Of all signals only SIGKILL still comes, and sets this again: cleared under the lock that it takes.
        task.se.thread.info.clear(ThreadFlags::SIGPENDING);
        drop(shared);
        break others;
    };
    wait_event!(signal.core_dump.arrived, signal.core_dump.waiting() == others);
    let mut threads = Array::new();
    let gathered = threads.try_reserve(others + 1).map(|()| {
        let _ = threads.try_push(task.to_ref());
        for thread in signal.core_dump.threads.lock().iter().flat_map(|waiting| waiting.iter()) {
            let _ = threads.try_push(thread.clone());
        }
        threads
    });
    match gathered {
        Ok(threads) => {
            for thread in threads.iter().skip(1) {
                // Its registers are saved once it was switched away from.
                while thread.se.is_on_cpu() {
                    sched::yield_now();
                }
            }
            Ok(threads)
        }
        Err(errno) => {
            drop(signal.core_dump.threads.lock().take());
            signal.core_dump.finished.wake_all();
            Err(errno)
        }
    }
}

/// The caller exits: if its process's core is being written, only after that (`coredump_task_exit`).
pub fn task_exit(task: &Task) {
    let signal = &task.signal;
    {
        let _shared = signal.shared.lock();
        task.set_flags(TaskFlags::POSTCOREDUMP);
        let mut waiting = signal.core_dump.threads.lock();
        let Some(threads) = &mut *waiting else { return };
        // Room was made for all.
        let _ = threads.try_push(task.to_ref());
    }
    signal.core_dump.arrived.wake_all();
    wait_event!(signal.core_dump.finished, !signal.core_dump.is_under_way());
}

impl Dump<'_> {
    /// Finds the place of the core and writes it there; true if one was begun.
    fn run(&self) -> bool {
        let target = match Target::of(self) {
            Ok(target) => target,
            Err(_) => {
                self.complain("its name cannot be made");
                return false;
            }
        };
        match target {
            Target::File(path) => {
                let Ok(file) = self.open(&path) else { return false };
                write::core(self, &file, self.limit)
            }
            Target::Program(argv) => self.run_piped(argv),
        }
    }

    /// What the kernel's log says of cores that are not written.
    fn complain(&self, why: &str) {
        kwarn!("Core dump of process {} ({}): {why}", self.task.tgid(), self.task.comm());
    }

    /// Makes the file of the core. It belongs to the process's user, or to root if it holds what that user must not
    /// know. What is not a new file of one name is not written to.
    fn open(&self, path: &[u8]) -> Result<Ref<File>> {
        if self.limit < MIN_CORE {
            return Err(Errno::EFBIG);
        }
        let safe = self.dumpable == Dumpable::Root;
        if safe && path.first() != Some(&b'/') {
            self.complain("suid_dumpable wants an absolute path");
            return Err(Errno::EPERM);
        }
        let (fs, cred) = if safe {
            (init_fs()?, self.task.cred().with(|cred| cred.fsuid = 0)?)
        } else {
            (self.task.fs().clone(), self.task.cred().clone())
        };
        let caller = Caller { fs: &fs, cred: &cred };
        if !safe {
            // It need not be there.
            let _ = verbs::unlink(caller, None, path);
        }
        let flags = OpenFlags::CREAT | OpenFlags::EXCL | OpenFlags::NOFOLLOW | OpenFlags::RDWR;
        let how = OpenHow { flags, mode: 0o600, ..OpenHow::default() };
        let file = open::open(caller, None, path, how)?;
        check_file(&file, &cred)?;
        verbs::set_length(&file.inode, 0)?;
        Ok(file)
    }

    /// Starts the program that takes the core, and writes it into its standard input.
    fn run_piped(&self, argv: Vec<Vec<u8>>) -> bool {
        if self.limit == HELPER_LIMIT {
            self.complain("the limit of 1 is that of a program that takes cores");
            return false;
        }
        let most = CORE_PIPE_LIMIT.load(Ordering::Relaxed);
        let begun = PIPED.fetch_add(1, Ordering::AcqRel) + 1;
        let dumped = if most != 0 && begun > most {
            self.complain("more than core_pipe_limit are being taken");
            false
        } else {
            self.pipe(argv, most != 0)
        };
        PIPED.fetch_sub(1, Ordering::AcqRel);
        dumped
    }

    fn pipe(&self, argv: Vec<Vec<u8>>, waits: bool) -> bool {
        // The kernel's own, whatever pipes the user has.
        let Ok((reader, writer)) = pipe::create(OpenFlags::empty(), &Cred::root()) else {
            kwarn!("Core dump to a program failed: no pipe");
            return false;
        };
        if let Err(e) = helper::run(argv, reader) {
            kwarn!("Core dump to a program failed: {e}");
            return false;
        }
        let dumped = !fatal_pending(self.task) && write::core(self, &writer, u64::MAX);
        if waits && let Some(pipe) = pipe::pipe_of(&writer).cloned() {
            // It may still look into what is left of the process.
            drop(writer);
            pipe.wait_for_readers_end();
        }
        dumped
    }
}

/// Whether the file is what was asked for: new, of one name, regular, the user's own and nobody else's.
fn check_file(file: &File, cred: &Cred) -> Result<()> {
    let inode = &file.inode;
    let own = inode.uid() == cred.fsuid && inode.mode() & 0o677 == 0o600;
    if inode.nlink() == 1 && inode.is_regular() && own { Ok(()) } else { Err(Errno::EPERM) }
}

/// Where names start for what is run or kept on behalf of the machine: at init's root.
fn init_fs() -> Result<Ref<FsStruct>> {
    let init = list::find_process(1, init_pid_ns());
    let of_init = init.and_then(|init| init.fs.share());
    let root = match of_init {
        Some(fs) => fs.root(),
        None => init::init_task().fs.share().ok_or(Errno::ENOENT)?.root(),
    };
    FsStruct::new(root, 0o022)
}

//! Tasks 0 and 1, from nothing: the boot CPU's idle task, and init, first a kernel thread, then a
//! program (execve(2) like any other).

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use crate::arch;
use crate::errno::{Errno, Result};
use crate::fs::open::OpenHow;
use crate::fs::{self, Caller, File, Files, FsStruct, OpenFlags};
use crate::kref::Ref;
use crate::ns::{Cred, Pid, PidType, init_nsproxy, init_pid_ns};
use crate::process::wait::{WaitOptions, Which, do_wait};
use crate::process::{exec, fork, restore, signal};
use crate::sched;
use crate::signal::Sighand;
use crate::sync::Once;
use crate::task::rlimit::Rlimits;
use crate::task::{self, GroupFlags, SignalStruct, Task, TaskFlags, list};
use crate::{kerr, kinfo};

static INIT_TASK: Once<Ref<Task>> = Once::new();

/// Task 0: everybody's first ancestor.
pub fn init_task() -> &'static Task {
    INIT_TASK.get()
}

/// Makes task 0 of the code that runs now, and puts it at the head of the task list. The root file
/// system and the namespaces exist already.
pub fn init_idle_task(root: crate::fs::Path) -> Result<()> {
    let signal = SignalStruct::new(Rlimits::initial(crate::mm::total_pages() as u64))?;
    let task = fork::new_task(
        Pid::idle()?,
        Ref::try_new(Cred::root())?,
        Files::new()?,
        FsStruct::new(root, 0o022)?,
        init_nsproxy().clone(),
        signal,
        Sighand::new()?,
        None,
    )?;
    task.set_comm(b"swapper/0");
    task.set_flags(TaskFlags::KTHREAD | TaskFlags::IDLE);
    let ptr = Ref::as_ptr(&task).cast_mut();
    task.group_leader.store(ptr, Ordering::Relaxed);
    task.parent.store(ptr, Ordering::Relaxed);
    task.real_parent.store(ptr, Ordering::Relaxed);
    list::lock().link_new(&task);
    let task = INIT_TASK.set(task);
    // SAFETY: once, at boot; the reference in `INIT_TASK` keeps task 0 for ever.
    unsafe { sched::adopt_boot_thread(&task.se) };
    crate::panic::set_task_description(describe_current);
    signal::install_hooks();
    crate::fs::file::set_writer_hooks(crate::fs::file::WriterHooks {
        size_limit: || task::current().signal.rlimits.soft(crate::task::rlimit::Resource::Fsize),
        without_set_id: |inode| {
            let cred = task::current().cred();
            let keeps = cred.capable(crate::ns::Cap::Fsetid);
            if keeps { None } else { crate::fs::verbs::without_set_id(inode, cred) }
        },
    });
    crate::syscall::tty::install_hooks();
    crate::syscall::net::install_hooks();
    crate::syscall::ipc::install_hooks();
    crate::introspect::publish_tasks(task);
    super::oom::init();
    Ok(())
}

/// What later floors do before the first program runs: in a task that may sleep.
static LATE_INIT: Once<fn()> = Once::new();

/// Makes tasks 1 and 2: init, and the parent of all kernel threads. Init calls `late_init` when kernel
/// threads can be made.
pub fn start_first_tasks(late_init: fn()) -> Result<()> {
    LATE_INIT.set(late_init);
    let init = fork::kernel_thread(init_thread, 0, b"swapper/0", init_task())?;
    init_pid_ns().child_reaper.store(Ref::as_ptr(&init).cast_mut().cast(), Ordering::Release);
    {
        let list = list::lock();
        let pid = init.thread_pid.share();
        for kind in [PidType::Pgid, PidType::Sid] {
            drop(list.change_pid(&init, kind, pid.clone()));
        }
    }
    init.signal.leader.store(true, Ordering::Relaxed);
    init.signal.shared.lock().flags.insert(GroupFlags::UNKILLABLE);
    super::kthread::start_kthreadd()?;
    fork::start(&init);
    Ok(())
}

/// What init is told to run, by the machine's user or by the image.
struct Command {
    path: Vec<u8>,
    argv: Vec<Vec<u8>>,
    envp: Vec<Vec<u8>>,
}

/// Init: the rest of the boot that may sleep, then the first program.
extern "C" fn init_thread(_: usize) {
    if crate::drivers::cmdline::is_set("belljar.mounts") {
        crate::fs::mount_defaults();
    }
    super::smp::start_all();
    super::kthread::start_system_threads();
    if let Some(late_init) = LATE_INIT.try_get() {
        late_init();
    }
    if let Err(e) = open_console() {
        kerr!("init: no console: {e}");
    }
    if resume_given() {
        crate::introspect::publish_init_running();
        return;
    }
    let explicit = given_command();
    let candidates: Vec<Command> = match explicit {
        Some(command) => alloc::vec![command],
        None => default_commands(),
    };
    let mut last = Errno::ENOENT;
    for command in &candidates {
        // From here on this is an ordinary program, but for what protects a namespace's reaper.
        match exec::exec_init(&command.path, &command.argv, &command.envp) {
            Ok(()) => {
                crate::introspect::publish_init_running();
                return;
            }
            Err(e) => {
                last = e;
                if e != Errno::ENOENT {
                    kerr!("init: {}: {e}", Printable(&command.path));
                }
            }
        }
    }
    let tried = candidates.first().map(|c| c.path.clone()).unwrap_or_default();
    crate::introspect::set_panic_message(format_args!(
        "cannot run init {}: {last}: name a program that is in the image, or give it /init or /bin/sh",
        Printable(&tried)
    ));
    panic!("no init could be run: {}: {last}", Printable(&tried));
}

/// Where cores lie that the machine's user wants resumed; by name, the root of their tree first.
const CORES: &[u8] = b"/.belljar/resume";

/// Goes on with the processes that came with the root file system, if there are any. The one that has this
/// task's number goes on in it (true: its registers are set); a machine for any other process ends with
/// it, and this task stays behind to collect what ends.
fn resume_given() -> bool {
    let names = crate::fs::names_in(task::current().fs(), CORES);
    if names.is_empty() {
        return false;
    }
    let mut cores = Vec::new();
    for name in &names {
        match open(&[CORES, b"/", name].concat(), OpenFlags::empty()) {
            Ok(core) => cores.push(core),
            Err(e) => kerr!("init: {}: {e}", Printable(name)),
        }
    }
    // They stay while they are open.
    crate::fs::remove_tree(task::current().fs(), b"/.belljar");
    // SAFETY: nothing else uses the top of this thread's stack, where a program's registers lie.
    let regs = unsafe { &mut *task::current().se.thread.user_regs() };
    let root = match restore::resume(cores, restore::Place::CallerOrChild(regs)) {
        Ok(root) => root,
        Err(failure) => {
            crate::introspect::set_panic_message(format_args!("cannot resume: {failure}"));
            panic!("cannot resume: {failure}");
        }
    };
    if core::ptr::eq(&raw const *root, task::current()) {
        return true;
    }
    crate::introspect::publish_init_running();
    loop {
        match do_wait(&Which::All, WaitOptions::EXITED | WaitOptions::ALL) {
            Ok(Some(ended)) if ended.pid == root.pid() => shutdown(ended.status, false),
            Ok(_) | Err(Errno::ERESTARTSYS) => {}
            Err(e) => panic!("init lost the process that it waits for: {e}"),
        }
    }
}

/// Descriptors 0, 1 and 2 of the first program; the console becomes its controlling terminal.
fn open_console() -> Result<()> {
    let task = task::current();
    let console = open(b"/dev/console", OpenFlags::RDWR)?;
    for _ in 0..3 {
        task.files().install(console.clone(), 0, 3, false)?;
    }
    if let Some(tty) = crate::drivers::tty::console::console() {
        tty.lend()?;
    }
    Ok(())
}

/// Opens a file as init would.
fn open(path: &[u8], flags: OpenFlags) -> Result<Ref<File>> {
    let task = task::current();
    let caller = Caller { fs: task.fs(), cred: task.cred() };
    fs::open::open(caller, None, path, OpenHow { flags, ..OpenHow::default() })
}

fn read_file(path: &[u8]) -> Option<Vec<u8>> {
    let file = open(path, OpenFlags::empty()).ok()?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 512];
    loop {
        let n = file.read_kernel(&mut chunk, bytes.len() as u64).ok()?;
        if n == 0 {
            return Some(bytes);
        }
        bytes.extend_from_slice(&chunk[..n]);
    }
}

fn split_nul(bytes: &[u8]) -> Vec<Vec<u8>> {
    let body = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if body.is_empty() && bytes.is_empty() {
        return Vec::new();
    }
    body.split(|&b| b == 0).map(<[u8]>::to_vec).collect()
}

fn default_env() -> Vec<Vec<u8>> {
    [
        &b"HOME=/root"[..],
        b"TERM=linux",
        b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]
    .iter()
    .map(|v| v.to_vec())
    .collect()
}

/// The command that came with the root file system (`/.belljar/init.argv`), or on the kernel's command
/// line (`init=`).
fn given_command() -> Option<Command> {
    let envp = read_file(b"/.belljar/init.env").map_or_else(default_env, |b| split_nul(&b));
    let argv = read_file(b"/.belljar/init.argv").map(|b| split_nul(&b)).filter(|a| !a.is_empty());
    crate::fs::remove_tree(task::current().fs(), b"/.belljar");
    if let Some(argv) = argv {
        let path = find_in_path(&argv[0], &envp);
        return Some(Command { path, argv, envp });
    }
    let init = crate::drivers::cmdline::value("init")?;
    let mut argv = alloc::vec![init.as_bytes().to_vec()];
    argv.extend(crate::drivers::cmdline::init_args().map(|a| a.as_bytes().to_vec()));
    Some(Command { path: init.as_bytes().to_vec(), argv, envp })
}

/// A name without a slash is looked for in PATH, as a shell would.
fn find_in_path(name: &[u8], envp: &[Vec<u8>]) -> Vec<u8> {
    if name.contains(&b'/') {
        return name.to_vec();
    }
    let path = envp.iter().find_map(|v| v.strip_prefix(b"PATH=".as_slice()));
    let path = path.unwrap_or(b"/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    for dir in path.split(|&b| b == b':') {
        let mut full = dir.to_vec();
        full.push(b'/');
        full.extend_from_slice(name);
        if open(&full, OpenFlags::empty()).is_ok() {
            return full;
        }
    }
    name.to_vec()
}

/// Linux's order, with the shell last.
fn default_commands() -> Vec<Command> {
    [&b"/init"[..], b"/sbin/init", b"/etc/init", b"/bin/init", b"/bin/sh"]
        .iter()
        .map(|path| Command {
            path: path.to_vec(),
            argv: alloc::vec![path.to_vec()],
            envp: default_env(),
        })
        .collect()
}

struct Printable<'a>(&'a [u8]);

impl core::fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for &b in self.0 {
            let c = if (0x20..0x7f).contains(&b) { b as char } else { '?' };
            core::fmt::Write::write_char(f, c)?;
        }
        Ok(())
    }
}

/// The first program ended: so does the machine, with its status.
pub fn init_exited(_init: &Task, code: i32) -> ! {
    kinfo!("init ended with wait status {code:#x}");
    shutdown(code, false)
}

/// Records how the machine ended, for whoever runs it, and turns it off or restarts it.
pub fn shutdown(wait_status: i32, restart: bool) -> ! {
    crate::fs::block::sync_all();
    crate::drivers::tty::console::drain();
    // Nothing that others do any more is seen.
    crate::panic::stop_others();
    crate::introspect::set_exit(wait_status);
    if restart { arch::reset() } else { arch::power_off() }
}

/// The current task, for the report of a panic.
fn describe_current(out: &mut dyn core::fmt::Write) {
    let task = task::current();
    let _ = write!(out, "{} ({})", task.pid(), task.comm());
}

//! What is measured. Each row gives back the ticks that a number of equal operations took.

use crate::clock::now;
use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid, pipe, read, write};
use std::ffi::c_void;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;

/// Ticks, and how many operations took them.
type Measured = io::Result<(u64, u64)>;

/// One row of the table.
pub struct Row {
    /// Name, a part of the output format.
    pub name: &'static str,
    /// Unit of the value: microseconds, for one operation or one MiB.
    pub unit: &'static str,
    /// Does the measuring.
    pub measure: fn() -> Measured,
}

const fn row(name: &'static str, unit: &'static str, measure: fn() -> Measured) -> Row {
    Row { name, unit, measure }
}

/// All rows, in the order of the table.
pub const ROWS: &[Row] = &[
    row("getppid", "us", null_call),
    row("seccomp_number", "us", || filtered_call(&filter(false))),
    row("seccomp_argument", "us", || filtered_call(&filter(true))),
    row("read", "us", read_one_byte),
    row("signal", "us", install_and_catch),
    row("fork_exit_wait_0", "us", || fork_exit_wait(0, 50)),
    row("fork_exit_wait_16m", "us", || fork_exit_wait(16, 20)),
    row("fork_exit_wait_128m", "us", || fork_exit_wait(128, 10)),
    row("vfork_exec", "us", vfork_exec),
    row("thread", "us", thread),
    row("fork_exec_true", "us", || fork_exec(&["/bin/true"], 20)),
    row("fork_exec_sh", "us", || fork_exec(&["/bin/sh", "-c", ":"], 20)),
    row("ctx_2", "us", || context_switch(2)),
    row("ctx_16", "us", || context_switch(16)),
    row("pipe_rtt", "us", pipe_round_trip),
    row("pipe_bw", "us/MiB", pipe_bandwidth),
    row("unix_rtt", "us", unix_round_trip),
    row("tcp_rtt", "us", tcp_round_trip),
    row("fault_anon", "us", anonymous_fault),
    row("fault_cow", "us", cow_fault),
    row("mmap", "us", map_and_unmap),
    row("ns_cgroup", "us", || unshare_again(libc::CLONE_NEWCGROUP)),
    row("ns_ipc", "us", || unshare_again(libc::CLONE_NEWIPC)),
    row("ns_mnt", "us", || unshare_again(libc::CLONE_NEWNS)),
    row("ns_net", "us", || unshare_again(libc::CLONE_NEWNET)),
    row("ns_pid", "us", || child_in_new(libc::CLONE_NEWPID)),
    row("ns_time", "us", || unshare_again(CLONE_NEWTIME)),
    row("ns_user", "us", || child_in_new(libc::CLONE_NEWUSER)),
    row("ns_uts", "us", || unshare_again(libc::CLONE_NEWUTS)),
];

/// Runs `operation` a few times unmeasured, then measures `count` runs.
fn repeat(count: u64, mut operation: impl FnMut() -> io::Result<()>) -> Measured {
    for _ in 0..count.div_ceil(10) {
        operation()?;
    }
    let start = now();
    for _ in 0..count {
        operation()?;
    }
    Ok((now() - start, count))
}

fn null_call() -> Measured {
    repeat(20_000, || {
        std::hint::black_box(getppid());
        Ok(())
    })
}

fn read_one_byte() -> Measured {
    let zero = File::open("/dev/zero")?;
    let mut byte = [0];
    repeat(20_000, || Ok(read(&zero, &mut byte).map(drop)?))
}

static CAUGHT: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_: i32) {
    CAUGHT.fetch_add(1, Ordering::Relaxed);
}

fn install_and_catch() -> Measured {
    let action =
        SigAction::new(SigHandler::Handler(count_signal), SaFlags::SA_RESTART, SigSet::empty());
    let own = getpid();
    let measured = repeat(2_000, || {
        // SAFETY: the handler only adds to an atomic number.
        unsafe { sigaction(Signal::SIGUSR1, &action) }?;
        Ok(kill(own, Signal::SIGUSR1)?)
    });
    if CAUGHT.load(Ordering::Relaxed) < 2_000 {
        return Err(io::Error::other("signals were lost"));
    }
    measured
}

/// Anonymous private memory, unmapped when dropped.
struct Memory {
    start: NonNull<c_void>,
    length: usize,
}

impl Memory {
    fn new(length: usize) -> io::Result<Memory> {
        let size = NonZeroUsize::new(length).ok_or(Errno::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { mmap_anonymous(None, size, protection, MapFlags::MAP_PRIVATE) }?;
        Ok(Memory { start, length })
    }

    /// Asks for small pages, so that what is counted is faults and not huge pages.
    fn small_pages(self) -> Memory {
        // SAFETY: the advice changes nothing that a program can see. A kernel without huge pages may
        // refuse it.
        let _ = unsafe { madvise(self.start, self.length, MmapAdvise::MADV_NOHUGEPAGE) };
        self
    }

    /// Writes one byte to every page.
    fn touch(&self) {
        for offset in (0..self.length).step_by(PAGE) {
            // SAFETY: the offset lies inside the mapping, which lives as long as `self`.
            unsafe { self.start.cast::<u8>().add(offset).write_volatile(1) };
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing else points into it.
        let _ = unsafe { munmap(self.start, self.length) };
    }
}

/// Forks; the child runs `work` and exits with 0 if it returned.
fn fork_child(work: impl FnOnce() -> io::Result<()>) -> io::Result<Pid> {
    // SAFETY: this program has no other thread while it forks, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let status = i32::from(work().is_err());
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(status) }
        }
    }
}

fn fork_exit_wait(mebibytes: usize, count: u64) -> Measured {
    let memory = (mebibytes > 0).then(|| Memory::new(mebibytes * MIB)).transpose()?;
    if let Some(memory) = &memory {
        memory.touch();
    }
    repeat(count, || {
        let child = fork_child(|| Ok(()))?;
        Ok(waitpid(child, None).map(drop)?)
    })
}

/// The C library's posix_spawn: a child that shares memory until it executes.
fn vfork_exec() -> Measured {
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::inherit());
    repeat(20, || expect_success(command.status()?.success()))
}

fn fork_exec(argv: &[&str], count: u64) -> Measured {
    let words: Vec<_> =
        argv.iter().map(|word| std::ffi::CString::new(*word)).collect::<Result<_, _>>()?;
    repeat(count, || {
        let child = fork_child(|| {
            nix::unistd::execv(&words[0], &words)?;
            Ok(())
        })?;
        let status = waitpid(child, None)?;
        expect_success(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)))
    })
}

fn expect_success(success: bool) -> io::Result<()> {
    if success { Ok(()) } else { Err(io::Error::other("the program failed")) }
}

/// A filter like those of containers, of 64 numbers that are refused; it allows all others, by their numbers alone or
/// after it looked at an argument.
fn filter(by_argument: bool) -> Vec<libc::sock_filter> {
    const LOAD: u16 = 0x20;
    const JUMP_EQ: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let insn = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = vec![insn(LOAD, 0, 0, 0)];
    for number in 1000..1064 {
        filter.push(insn(JUMP_EQ, 0, 1, number));
        filter.push(insn(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO));
    }
    if by_argument {
        filter.push(insn(LOAD, 0, 0, 16));
    }
    filter.push(insn(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    filter
}

/// A call that a filter of the calling thread allows.
fn filtered_call(filter: &[libc::sock_filter]) -> Measured {
    let measure = || {
        let program =
            libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: the program is there; the filter is this thread's alone.
        unsafe {
            Errno::result(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            let mode = libc::SECCOMP_MODE_FILTER;
            Errno::result(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program))?;
        }
        null_call()
    };
    std::thread::scope(|scope| scope.spawn(measure).join())
        .map_err(|_| io::Error::other("the thread panicked"))?
}

fn thread() -> Measured {
    repeat(100, || {
        std::thread::Builder::new()
            .spawn(|| ())?
            .join()
            .map_err(|_| io::Error::other("the thread panicked"))
    })
}

/// Passes a token round a ring of processes; what remains per hop when the cost of the pipe itself,
/// measured in one process, is taken off, is the switch.
fn context_switch(processes: usize) -> Measured {
    const ROUNDS: u64 = 200;
    let (own_read, own_write) = pipe()?;
    write(&own_write, b"t")?;
    let (pipe_ticks, pipe_count) = repeat(2_000, || pass_on(&own_read, &own_write))?;
    let pipes = (0..processes).map(|_| pipe()).collect::<Result<Vec<_>, _>>()?;
    let mut children = Vec::new();
    for index in 1..processes {
        let (input, output) = (&pipes[index].0, &pipes[(index + 1) % processes].1);
        children.push(fork_child(|| {
            loop {
                pass_on(input, output)?;
            }
        })?);
    }
    let (input, output) = (&pipes[0].0, &pipes[1].1);
    write(output, b"t")?;
    let measured = repeat(ROUNDS, || pass_on(input, output));
    for child in children {
        kill(child, Signal::SIGKILL)?;
        waitpid(child, None)?;
    }
    let (ticks, _) = measured?;
    let hops = ROUNDS * processes as u64;
    Ok((ticks.saturating_sub(hops * pipe_ticks / pipe_count), hops))
}

fn pass_on(input: &OwnedFd, output: &OwnedFd) -> io::Result<()> {
    let mut token = [0];
    read(input, &mut token)?;
    write(output, &token)?;
    Ok(())
}

fn pipe_round_trip() -> Measured {
    let (there_read, there_write) = pipe()?;
    let (back_read, back_write) = pipe()?;
    let child = fork_child(|| {
        let mut byte = [0];
        while read(&there_read, &mut byte)? == 1 {
            write(&back_write, &byte)?;
        }
        Ok(())
    })?;
    let measured = repeat(1_000, || {
        let mut byte = [0];
        write(&there_write, b"t")?;
        read(&back_read, &mut byte)?;
        Ok(())
    });
    kill(child, Signal::SIGKILL)?;
    waitpid(child, None)?;
    measured
}

/// A byte there and back: the child echoes at `theirs`.
fn round_trip<S: Read + Write>(mut ours: S, mut theirs: S) -> Measured {
    let child = fork_child(move || {
        let mut byte = [0];
        while theirs.read(&mut byte)? == 1 {
            theirs.write_all(&byte)?;
        }
        Ok(())
    })?;
    let measured = repeat(1_000, || {
        ours.write_all(b"t")?;
        ours.read_exact(&mut [0])
    });
    kill(child, Signal::SIGKILL)?;
    waitpid(child, None)?;
    measured
}

fn unix_round_trip() -> Measured {
    let (ours, theirs) = UnixStream::pair()?;
    round_trip(ours, theirs)
}

fn tcp_round_trip() -> Measured {
    // Neither kernel has its loopback interface up before somebody asks for it.
    Command::new("/bin/ifconfig").args(["lo", "127.0.0.1", "up"]).status()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let (theirs, _) = listener.accept()?;
    ours.set_nodelay(true)?;
    theirs.set_nodelay(true)?;
    round_trip(ours, theirs)
}

fn pipe_bandwidth() -> Measured {
    const TOTAL: usize = 16 * MIB;
    let (input, output) = pipe()?;
    let start = now();
    let child = fork_child(|| {
        let block = vec![7; 64 << 10];
        for _ in 0..TOTAL / block.len() {
            let mut rest = &block[..];
            while !rest.is_empty() {
                let written = write(&output, rest)?;
                rest = &rest[written..];
            }
        }
        Ok(())
    })?;
    drop(output);
    let mut block = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        match read(&input, &mut block)? {
            0 => break,
            length => total += length,
        }
    }
    let ticks = now() - start;
    waitpid(child, None)?;
    if total != TOTAL {
        return Err(io::Error::other(format!("{total} bytes came through the pipe")));
    }
    Ok((ticks, (TOTAL / MIB) as u64))
}

fn anonymous_fault() -> Measured {
    const SIZE: usize = 8 * MIB;
    let mut ticks = 0;
    for _ in 0..4 {
        let memory = Memory::new(SIZE)?.small_pages();
        let start = now();
        memory.touch();
        ticks += now() - start;
    }
    Ok((ticks, (4 * SIZE / PAGE) as u64))
}

/// The child writes to pages that it shares with its parent, and tells what that took.
fn cow_fault() -> Measured {
    const SIZE: usize = 8 * MIB;
    let memory = Memory::new(SIZE)?.small_pages();
    memory.touch();
    let (input, output) = pipe()?;
    let child = fork_child(|| {
        let start = now();
        memory.touch();
        write(&output, &(now() - start).to_ne_bytes())?;
        Ok(())
    })?;
    let mut ticks = [0; 8];
    read(&input, &mut ticks)?;
    waitpid(child, None)?;
    Ok((u64::from_ne_bytes(ticks), (SIZE / PAGE) as u64))
}

fn map_and_unmap() -> Measured {
    repeat(2_000, || Memory::new(MIB).map(drop))
}

const CLONE_NEWTIME: i32 = 0x80;
/// Namespaces made for one row.
const NAMESPACES: u64 = 100;

/// Waits until a kernel has done what it put off: Linux frees namespaces after a grace period of RCU,
/// in kernel threads.
fn synchronise() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: i32 = 1;
    for _ in 0..2 {
        // SAFETY: no pointers.
        Errno::result(unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) })?;
    }
    Ok(())
}

/// Measures operations together with what a kernel puts off until later, in a child, whose namespaces
/// they may change. What waiting takes by itself is taken off.
fn with_afterwork(mut operation: impl FnMut() -> io::Result<()>) -> Measured {
    let (input, output) = pipe()?;
    let child = fork_child(|| {
        for _ in 0..NAMESPACES / 10 {
            operation()?;
        }
        synchronise()?;
        let start = now();
        synchronise()?;
        let waiting = now() - start;
        let start = now();
        for _ in 0..NAMESPACES {
            operation()?;
        }
        synchronise()?;
        let ticks = (now() - start).saturating_sub(waiting);
        write(&output, &ticks.to_ne_bytes())?;
        Ok(())
    })?;
    drop(output);
    let mut ticks = [0; 8];
    let told = read(&input, &mut ticks)?;
    waitpid(child, None)?;
    if told != ticks.len() {
        return Err(io::Error::other("the child failed"));
    }
    Ok((u64::from_ne_bytes(ticks), NAMESPACES))
}

/// A new namespace of a kind takes the place of the one before, which is destroyed.
fn unshare_again(kind: i32) -> Measured {
    with_afterwork(|| {
        // SAFETY: no pointers; nothing in this process depends on the namespace.
        Errno::result(unsafe { libc::unshare(kind) })?;
        Ok(())
    })
}

/// A child in a new namespace ends, and the namespace with it: for kinds that a process cannot take
/// again and again. What the child costs is in it.
fn child_in_new(kind: i32) -> Measured {
    with_afterwork(|| {
        // SAFETY: as fork(2).
        let child = Errno::result(unsafe {
            libc::syscall(libc::SYS_clone, kind | libc::SIGCHLD, 0, 0, 0, 0)
        })?;
        if child == 0 {
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        Ok(waitpid(Pid::from_raw(child as i32), None).map(drop)?)
    })
}

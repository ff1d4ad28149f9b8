//! Calls that look into other processes: ptrace(2), process_vm_readv(2), process_vm_writev(2), kcmp(2).

use super::fs::rw::Pieces;
use super::{Args, SysResult};
use crate::errno::{Errno, Result};
use crate::fs::userbuf::{IoVec, UIO_MAXIOV};
use crate::kref::Ref;
use crate::mm::{UserPtr, copy_in, copy_out};
use crate::process::kcmp::{Kind, kcmp};
use crate::process::ptrace::control::{self, How, Stopped};
use crate::process::ptrace::regset::{self, Set};
use crate::process::ptrace::vm::{Direction, process_vm_rw};
use crate::process::ptrace::{attach, siginfo, syscall_info};
use crate::process::seccomp::attach::FilterFlags;
use crate::process::{seccomp, signal};
use crate::seccomp::SeccompFilter;
use crate::signal::{SIGKILL, SigInfo, SigSet};
use crate::task::ptrace::TraceOptions;
use crate::task::{self, Task, list};

const PTRACE_TRACEME: i32 = 0;
const PTRACE_PEEKTEXT: i32 = 1;
const PTRACE_PEEKDATA: i32 = 2;
const PTRACE_POKETEXT: i32 = 4;
const PTRACE_POKEDATA: i32 = 5;
const PTRACE_CONT: i32 = 7;
const PTRACE_KILL: i32 = 8;
const PTRACE_SINGLESTEP: i32 = 9;
const PTRACE_ATTACH: i32 = 16;
const PTRACE_DETACH: i32 = 17;
const PTRACE_OLDSETOPTIONS: i32 = 21;
const PTRACE_SYSCALL: i32 = 24;
const PTRACE_SETOPTIONS: i32 = 0x4200;
const PTRACE_GETEVENTMSG: i32 = 0x4201;
const PTRACE_GETSIGINFO: i32 = 0x4202;
const PTRACE_SETSIGINFO: i32 = 0x4203;
const PTRACE_GETREGSET: i32 = 0x4204;
const PTRACE_SETREGSET: i32 = 0x4205;
const PTRACE_SEIZE: i32 = 0x4206;
const PTRACE_INTERRUPT: i32 = 0x4207;
const PTRACE_LISTEN: i32 = 0x4208;
const PTRACE_PEEKSIGINFO: i32 = 0x4209;
const PTRACE_GETSIGMASK: i32 = 0x420a;
const PTRACE_SETSIGMASK: i32 = 0x420b;
const PTRACE_SECCOMP_GET_FILTER: i32 = 0x420c;
const PTRACE_SECCOMP_GET_METADATA: i32 = 0x420d;
const PTRACE_GET_SYSCALL_INFO: i32 = 0x420e;

/// ptrace(2).
pub fn sys_ptrace(a: &mut Args) -> SysResult {
    let (request, pid, addr, data) = (a.i64(0), a.i32(1), a.u64(2), a.u64(3));
    let request = i32::try_from(request).map_err(|_| Errno::EIO)?;
    if request == PTRACE_TRACEME {
        return attach::traceme().map(|()| 0);
    }
    let target = find(pid)?;
    match request {
        PTRACE_ATTACH => attach::attach(&target, None).map(|()| 0),
        PTRACE_SEIZE => {
            if addr != 0 {
                return Err(Errno::EIO);
            }
            attach::attach(&target, Some(options(data, Errno::EIO)?)).map(|()| 0)
        }
        PTRACE_KILL => {
            control::check_tracer(&target)?;
            let _ = signal::send(SigInfo::user(SIGKILL, 0, 0, 0), &target, true);
            Ok(0)
        }
        PTRACE_INTERRUPT => control::interrupt(&target).map(|()| 0),
        _ => control(Stopped::new(&target)?, request, addr, data),
    }
}

fn find(pid: i32) -> Result<Ref<Task>> {
    let nr = u32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    list::find_thread(nr, task::current().thread_pid.own().ns()).ok_or(Errno::ESRCH)
}

/// Options as the program gives them; `unknown` if there is one that does not exist, or is not here.
fn options(bits: u64, unknown: Errno) -> Result<TraceOptions> {
    let options = u32::try_from(bits).ok().and_then(TraceOptions::from_bits).ok_or(unknown)?;
    if options.contains(TraceOptions::SUSPEND_SECCOMP) && !seccomp::may_suspend() {
        return Err(Errno::EPERM);
    }
    Ok(options)
}

/// A request about a tracee that stands still.
fn control(mut stopped: Stopped<'_>, request: i32, addr: u64, data: u64) -> SysResult {
    let sig = data as i32;
    match request {
        PTRACE_CONT => control::resume(stopped, How::Cont, sig)?,
        PTRACE_SYSCALL => control::resume(stopped, How::Syscall, sig)?,
        PTRACE_SINGLESTEP => control::resume(stopped, How::Singlestep, sig)?,
        PTRACE_DETACH => {
            control::check_resume_signal(sig)?;
            stopped.regs().set_single_step(false);
            let target = stopped.task();
            attach::detach(target, sig);
        }
        PTRACE_LISTEN => control::listen(&stopped)?,
        PTRACE_PEEKTEXT | PTRACE_PEEKDATA => peek(&stopped, addr, data)?,
        PTRACE_POKETEXT | PTRACE_POKEDATA => poke(&stopped, addr, data)?,
        PTRACE_SETOPTIONS | PTRACE_OLDSETOPTIONS => {
            let options = options(data, Errno::EINVAL)?;
            stopped.task().ptrace.set_options(options);
        }
        PTRACE_GETEVENTMSG => {
            let message = stopped.task().ptrace.stop.lock().message;
            UserPtr::<u64>::new(data).write(message)?;
        }
        PTRACE_GETSIGINFO => copy_out(data, &siginfo::get(&stopped)?.to_user())?,
        PTRACE_SETSIGINFO => siginfo::set(&stopped, read_info(data)?)?,
        PTRACE_PEEKSIGINFO => return peek_signals(&stopped, addr, data),
        PTRACE_GETSIGMASK => {
            check_mask_size(addr)?;
            UserPtr::<u64>::new(data).write(siginfo::mask(&stopped).0)?;
        }
        PTRACE_SETSIGMASK => {
            check_mask_size(addr)?;
            siginfo::set_mask(&stopped, SigSet(UserPtr::<u64>::new(data).read()?));
        }
        PTRACE_GETREGSET => get_regset(&mut stopped, addr, data)?,
        PTRACE_SETREGSET => set_regset(&mut stopped, addr, data)?,
        PTRACE_SECCOMP_GET_FILTER => return seccomp_filter(&stopped, addr, data),
        PTRACE_SECCOMP_GET_METADATA => return seccomp_metadata(&stopped, addr, data),
        PTRACE_GET_SYSCALL_INFO => {
            let info = syscall_info::get(&mut stopped);
            let bytes = info.as_bytes();
            let room = usize::try_from(addr).unwrap_or(usize::MAX);
            copy_out(data, &bytes[..bytes.len().min(room)])?;
            return Ok(bytes.len());
        }
        _ => return Err(Errno::EIO),
    }
    Ok(0)
}

/// The program of a filter of the tracee, the first that it got being number 0; its length.
fn seccomp_filter(stopped: &Stopped<'_>, nr: u64, to: u64) -> SysResult {
    let last = seccomp::shown_filter(stopped.task())?;
    let filter = nth_filter(&last, nr)?;
    let words = filter.program().words();
    if to != 0 {
        UserPtr::<u64>::new(to).write_array(words)?;
    }
    Ok(words.len())
}

/// `struct seccomp_metadata`: which filter, and its flags.
fn seccomp_metadata(stopped: &Stopped<'_>, size: u64, at: u64) -> SysResult {
    const SIZE: u64 = size_of::<[u64; 2]>() as u64;
    let size = size.min(SIZE);
    if size < size_of::<u64>() as u64 {
        return Err(Errno::EINVAL);
    }
    let last = seccomp::shown_filter(stopped.task())?;
    let nr = UserPtr::<u64>::new(at).read()?;
    let filter = nth_filter(&last, nr)?;
    let flags = if filter.is_logging() { FilterFlags::LOG.bits() } else { 0 };
    let mut bytes = [0; SIZE as usize];
    bytes[..8].copy_from_slice(&nr.to_le_bytes());
    bytes[8..].copy_from_slice(&u64::from(flags).to_le_bytes());
    copy_out(at, &bytes[..size as usize])?;
    Ok(size as usize)
}

fn nth_filter(last: &SeccompFilter, nr: u64) -> Result<&SeccompFilter> {
    let from_last = (last.path().count() as u64).checked_sub(nr).and_then(|n| n.checked_sub(1));
    from_last.and_then(|n| last.path().nth(n as usize)).ok_or(Errno::ENOENT)
}

fn peek(stopped: &Stopped<'_>, addr: u64, data: u64) -> Result<()> {
    let mut word = [0; 8];
    let mm = stopped.task().se.get_mm().ok_or(Errno::EIO)?;
    let got = mm.visit(|mm| mm.read_remote(addr, &mut word));
    if got != Some(word.len()) {
        return Err(Errno::EIO);
    }
    copy_out(data, &word)
}

fn poke(stopped: &Stopped<'_>, addr: u64, word: u64) -> Result<()> {
    let word = word.to_le_bytes();
    let mm = stopped.task().se.get_mm().ok_or(Errno::EIO)?;
    let put = mm.visit(|mm| mm.write_remote(addr, &word));
    if put == Some(word.len()) { Ok(()) } else { Err(Errno::EIO) }
}

fn read_info(from: u64) -> Result<SigInfo> {
    let mut bytes = [0; SigInfo::USER_SIZE];
    copy_in(from, &mut bytes)?;
    Ok(SigInfo::from_user(&bytes))
}

fn check_mask_size(size: u64) -> Result<()> {
    if size == size_of::<SigSet>() as u64 { Ok(()) } else { Err(Errno::EINVAL) }
}

/// `struct ptrace_peeksiginfo_args`: from which on, flags, how many.
fn peek_signals(stopped: &Stopped<'_>, args: u64, to: u64) -> SysResult {
    let from = UserPtr::<u64>::new(args).read()?;
    let [flags, count] = UserPtr::<[u32; 2]>::new(args.wrapping_add(8)).read()?;
    let count = usize::try_from(count as i32).map_err(|_| Errno::EINVAL)?;
    if flags & !siginfo::PEEK_SHARED != 0 {
        return Err(Errno::EINVAL);
    }
    let found = siginfo::peek(stopped, from, flags & siginfo::PEEK_SHARED != 0, count)?;
    for (i, info) in found.iter().enumerate() {
        let at = to.wrapping_add((i * SigInfo::USER_SIZE) as u64);
        if let Err(errno) = copy_out(at, &info.to_user()) {
            return if i > 0 { Ok(i) } else { Err(errno) };
        }
    }
    Ok(found.len())
}

/// The set that a note's type names, and the memory for it: no more than there are registers, and whole ones.
fn regset_piece(note: u64, iov: u64) -> Result<(Set, IoVec)> {
    let mut piece = UserPtr::<IoVec>::new(iov).read()?;
    let set = Set::of(note as u32)?;
    if !piece.len.is_multiple_of(set.unit() as u64) {
        return Err(Errno::EINVAL);
    }
    piece.len = piece.len.min(set.size() as u64);
    Ok((set, piece))
}

fn get_regset(stopped: &mut Stopped<'_>, note: u64, iov: u64) -> Result<()> {
    let (set, piece) = regset_piece(note, iov)?;
    let mut bytes = [0; regset::LARGEST];
    set.read(stopped, &mut bytes[..set.size()]);
    copy_out(piece.base, &bytes[..piece.len as usize])?;
    UserPtr::<IoVec>::new(iov).write(piece)
}

fn set_regset(stopped: &mut Stopped<'_>, note: u64, iov: u64) -> Result<()> {
    let (set, piece) = regset_piece(note, iov)?;
    let mut bytes = [0; regset::LARGEST];
    let bytes = &mut bytes[..set.size()];
    // What is not given stays.
    set.read(stopped, bytes);
    copy_in(piece.base, &mut bytes[..piece.len as usize])?;
    set.write(stopped, bytes)?;
    UserPtr::<IoVec>::new(iov).write(piece)
}

fn vm_rw(a: &mut Args, direction: Direction) -> SysResult {
    let remote_len = a.usize(4);
    if a.u64(5) != 0 {
        return Err(Errno::EINVAL);
    }
    let local = Pieces::read(a.ptr(1), a.usize(2))?;
    let mut local = local.buffer()?;
    if local.is_empty() {
        return Ok(0);
    }
    if remote_len > UIO_MAXIOV {
        return Err(Errno::EINVAL);
    }
    let remote = Pieces::read(a.ptr(3), remote_len)?;
    process_vm_rw(a.i32(0), &mut local, remote.as_slice(), direction)
}

/// kcmp(2), but for `KCMP_EPOLL_TFD`.
pub fn sys_kcmp(a: &mut Args) -> SysResult {
    let (first, second) = (find(a.i32(0))?, find(a.i32(1))?);
    let kind = match a.i32(2) {
        // A descriptor too large is not open.
        0 => Kind::File(a.i32(3), a.i32(4)),
        1 => Kind::Vm,
        2 => Kind::Files,
        3 => Kind::Fs,
        4 => Kind::Sighand,
        5 => Kind::Io,
        6 => Kind::Sysvsem,
        _ => return Err(Errno::EINVAL),
    };
    kcmp(&first, &second, kind)
}

/// process_vm_readv(2).
pub fn sys_process_vm_readv(a: &mut Args) -> SysResult {
    vm_rw(a, Direction::Read)
}

/// process_vm_writev(2).
pub fn sys_process_vm_writev(a: &mut Args) -> SysResult {
    vm_rw(a, Direction::Write)
}

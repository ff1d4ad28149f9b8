//! execve(2): a new program for an old task.
//!
//! Everything that can fail is done first, on an address space of its own: headers are checked,
//! strings copied, segments mapped, the stack built. Only then the old program is let go of
//! (`commit`); from there on an error could only end the process.
//!
//! | file | what it is |
//! | --- | --- |
//! | this one | the steps of execve(2) |
//! | `strings` | arguments and environment on their way |
//! | `script` | `#!` |
//! | `load` | an ELF program and its interpreter, mapped aside |
//! | `stack` | what it finds on its stack |
//! | `privilege` | set-id bits and capabilities |
//! | `commit` | the point of no return |

mod commit;
mod load;
mod privilege;
mod script;
mod stack;
mod strings;

use alloc::vec::Vec;

use crate::arch::PtRegs;
use crate::errno::{Errno, Result};
use crate::fs::namei::LookupFlags;
use crate::fs::open::open_exec;
use crate::fs::{Caller, File};
use crate::kref::Ref;
use crate::mm::{try_collect, try_to_vec};
use crate::process::restore;
use crate::syscall::SysResult;
use crate::task;
use crate::task::rlimit::Resource;
use load::load_elf;
use script::follow_script;
use strings::Strings;

/// Upper bound of all arguments together, whatever the stack limit says.
const MAX_ARG_TOTAL: u64 = 6 << 20;
/// Room that arguments always have (`ARG_MAX` of POSIX Linux).
const MIN_ARG_TOTAL: u64 = 128 << 10;
/// Levels of `#!` that are followed.
const MAX_INTERPRETERS: usize = 5;
/// Bytes of the head of a file that decide what it is.
const HEAD_SIZE: usize = 256;

/// A program that is about to run.
struct Binary {
    file: Ref<File>,
    /// As the caller named it: `AT_EXECFN`.
    name: Vec<u8>,
    argv: Strings,
    envp: Strings,
    head: [u8; HEAD_SIZE],
    head_len: usize,
}

impl Binary {
    fn read_head(&mut self) -> Result<()> {
        self.head = [0; HEAD_SIZE];
        self.head_len = self.file.read_kernel(&mut self.head, 0)?;
        Ok(())
    }
}

/// execve(2) and execveat(2), with the caller's pointers.
pub fn execve_user(
    dir: i32,
    path: &[u8],
    argv: u64,
    envp: u64,
    flags: u32,
    regs: &mut PtRegs,
) -> SysResult {
    const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
    const AT_EMPTY_PATH: u32 = 0x1000;
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let task = task::current();
    let mut lookup = LookupFlags::FOLLOW;
    if flags & AT_SYMLINK_NOFOLLOW != 0 {
        lookup = LookupFlags::empty();
    }
    if flags & AT_EMPTY_PATH != 0 {
        lookup |= LookupFlags::EMPTY;
    }
    let start = if path.first() == Some(&b'/') { None } else { crate::syscall::fs::start_at(dir)? };
    let caller = Caller { fs: task.fs(), cred: task.cred() };
    let file = open_exec(caller, start.as_ref(), path, lookup)?;
    let limit = (task.signal.rlimits.soft(Resource::Stack) / 4).clamp(MIN_ARG_TOTAL, MAX_ARG_TOTAL);
    let mut budget = limit;
    let argv = Strings::read(argv, &mut budget)?;
    let envp = Strings::read(envp, &mut budget)?;
    let name = exec_name(dir, path)?;
    do_execve(file, name, argv, envp, regs)?;
    // A resumed program goes on with what it had in it.
    Ok(regs.x[0] as usize)
}

/// What `AT_EXECFN` says: the path, or its stand-in for a descriptor.
fn exec_name(dir: i32, path: &[u8]) -> Result<Vec<u8>> {
    const AT_FDCWD: i32 = -100;
    if dir == AT_FDCWD || path.first() == Some(&b'/') {
        return try_to_vec(path);
    }
    let mut digits = [0; 10];
    let mut at = digits.len();
    let mut rest = dir;
    while at == digits.len() || rest > 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let slash = if path.is_empty() { b"".as_slice() } else { b"/" };
    let parts = [b"/dev/fd/".as_slice(), &digits[at..], slash, path];
    try_collect(parts.into_iter().flatten().copied())
}

/// A program that the kernel starts itself: the kernel thread that asks becomes it once its function returns.
pub fn exec_init(path: &[u8], argv: &[Vec<u8>], envp: &[Vec<u8>]) -> Result<()> {
    let task = task::current();
    let caller = Caller { fs: task.fs(), cred: task.cred() };
    let file = open_exec(caller, None, path, LookupFlags::FOLLOW)?;
    // SAFETY: nothing else uses the top of this thread's stack, where a program's registers lie.
    let regs = unsafe { &mut *task.se.thread.user_regs() };
    do_execve(file, try_to_vec(path)?, Strings::of(argv)?, Strings::of(envp)?, regs)
}

/// Runs `file`, or the interpreter that it names.
fn do_execve(
    file: Ref<File>,
    name: Vec<u8>,
    argv: Strings,
    envp: Strings,
    regs: &mut PtRegs,
) -> Result<()> {
    let mut binary = Binary { file, name, argv, envp, head: [0; HEAD_SIZE], head_len: 0 };
    if binary.argv.count == 0 {
        // A program may count on argv[0] (execve(2), NOTES: since 5.18).
        binary.argv.push(b"")?;
    }
    binary.read_head()?;
    let mut levels = 0;
    while binary.head[..binary.head_len].starts_with(b"#!") {
        levels += 1;
        if levels > MAX_INTERPRETERS {
            return Err(Errno::ELOOP);
        }
        follow_script(&mut binary)?;
    }
    if restore::core::is_core(&binary.head[..binary.head_len]) {
        return restore::exec(binary.file, regs);
    }
    load_elf(binary, regs)
}

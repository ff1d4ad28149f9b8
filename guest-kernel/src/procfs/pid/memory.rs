//! Files of /proc/PID about its memory: maps, cmdline, environ, auxv, mem.

use core::sync::atomic::{AtomicU64, Ordering};

use super::Subject;
use crate::addr::PAGE_SHIFT;
use crate::errno::{Errno, Result};
use crate::fs::{Dev, File, FileOps, UserBuf, Whence};
use crate::kref::Ref;
use crate::mm::Mm;
use crate::mm::vma::{VmFlags, Vma};
use crate::ns::Pid;
use crate::process::access::{AccessMode, mm_access};
use crate::process::coredump;
use crate::procfs::text::{Source, Text, parse_unsigned};
use crate::put;
use crate::task::list;

/// The column where a mapping's name stands.
pub(super) const NAME_COLUMN: usize = 73;

/// The name of a mapping.
pub(super) fn name_of(vma: &Vma, start_brk: u64, brk: u64, start_stack: u64) -> &[u8] {
    match &vma.file {
        Some(file) => &file.path,
        None if vma.start <= brk && vma.end >= start_brk && start_brk != brk => b"[heap]",
        None if vma.start <= start_stack && vma.end >= start_stack => b"[stack]",
        None => b"",
    }
}

/// One line of maps.
pub(super) fn map_line(out: &mut Text, vma: &Vma, name: &[u8]) -> Result<()> {
    let start = out.len();
    let flag = |bit, letter| if vma.flags.contains(bit) { letter } else { '-' };
    let shared = if vma.flags.contains(VmFlags::MAYSHARE) { 's' } else { 'p' };
    put!(out, "{:08x}-{:08x} ", vma.start, vma.end)?;
    put!(out, "{}{}", flag(VmFlags::READ, 'r'), flag(VmFlags::WRITE, 'w'))?;
    put!(out, "{}{shared} ", flag(VmFlags::EXEC, 'x'))?;
    let (offset, dev, ino) = match &vma.file {
        Some(file) => (vma.pgoff << PAGE_SHIFT, Dev::decode(file.dev as u32), file.ino),
        None => (0, Dev::default(), 0),
    };
    put!(out, "{offset:08x} {:02x}:{:02x} {ino} ", dev.major(), dev.minor())?;
    if !name.is_empty() {
        out.pad_to(start, NAME_COLUMN)?;
        out.escaped(name, b"\n")?;
    }
    out.bytes(b"\n")
}

/// /proc/PID/maps, of one mapping.
pub(super) fn maps(_mm: &Mm, vma: &Vma, name: &[u8], out: &mut Text) -> Result<()> {
    map_line(out, vma, name)
}

/// Appends what lies at `start..end` of the memory, as far as it can be read.
fn copy_range(mm: &Mm, start: u64, end: u64, out: &mut Text) -> Result<()> {
    let mut at = start;
    let mut chunk = [0; 512];
    while at < end {
        let want = ((end - at) as usize).min(chunk.len());
        let got = mm.read_remote(at, &mut chunk[..want]);
        out.bytes(&chunk[..got])?;
        if got < want {
            break;
        }
        at += got as u64;
    }
    Ok(())
}

fn layout(at: &AtomicU64) -> u64 {
    at.load(Ordering::Relaxed)
}

/// /proc/PID/cmdline. A program that overwrote its arguments (to change its title) may have run over
/// into the environment; then what it wrote goes up to the first NUL.
pub(super) fn cmdline(subject: &Subject, out: &mut Text) -> Result<()> {
    let shown = subject.with_mm(|mm| {
        let (start, end) = (layout(&mm.layout.arg_start), layout(&mm.layout.arg_end));
        copy_range(mm, start, end, out)?;
        if out.as_bytes().last().is_some_and(|&b| b != 0) {
            copy_range(mm, end, layout(&mm.layout.env_end), out)?;
            if let Some(nul) = out.as_bytes().iter().position(|&b| b == 0) {
                out.truncate(nul + 1);
            }
        }
        Ok(())
    });
    shown.unwrap_or(Ok(()))
}

/// /proc/PID/environ.
pub(super) fn environ(mm: &Mm, out: &mut Text) -> Result<()> {
    copy_range(mm, layout(&mm.layout.env_start), layout(&mm.layout.env_end), out)
}

/// /proc/PID/auxv.
pub(super) fn auxv(mm: &Mm, out: &mut Text) -> Result<()> {
    mm.auxv()?.iter().try_for_each(|word| out.bytes(&word.to_ne_bytes()))
}

/// /proc/PID/coredump_filter: which mappings go into a core (core(5)).
pub(super) fn coredump_filter(subject: &Subject, out: &mut Text) -> Result<()> {
    let filter = subject.with_mm(|mm| mm.dump_filter.load(Ordering::Relaxed));
    filter.map_or(Ok(()), |filter| put!(out, "{filter:08x}\n"))
}

pub(super) fn set_coredump_filter(subject: &Subject, data: &[u8]) -> Result<()> {
    let filter = parse_unsigned(data)? & coredump::FILTER_BITS;
    subject.with_mm(|mm| mm.dump_filter.store(filter, Ordering::Relaxed)).ok_or(Errno::ESRCH)
}

/// The memory that a file stays with once it is open, whatever its process becomes (`proc_mem_open`). `EACCES` if
/// the caller may not look into the process; none of a kernel thread or a zombie, of which there is nothing to see.
pub(super) fn pinned(subject: &Subject) -> Result<Option<Ref<Mm>>> {
    match mm_access(&subject.task, AccessMode::FsCreds) {
        Ok(mm) => Ok(Some(mm)),
        Err(Errno::ESRCH) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// What a file shows of a memory.
#[derive(Clone, Copy)]
pub(super) enum ShowMemory {
    /// All at once.
    Whole(fn(&Mm, &mut Text) -> Result<()>),
    /// Each mapping, with its name: there may be so many that the memory is let go of in between.
    Mappings(fn(&Mm, &Vma, &[u8], &mut Text) -> Result<()>),
}

/// About how much of a file about mappings is made at a time.
const PIECE: usize = 4096;

impl ShowMemory {
    /// Shows what is at the address `at` and above, and returns where to go on.
    fn show(self, mm: &Mm, at: u64, out: &mut Text) -> Result<Option<u64>> {
        let each = match self {
            Self::Whole(show) => return show(mm, out).map(|()| None),
            Self::Mappings(each) => each,
        };
        let stack = layout(&mm.layout.start_stack);
        let space = mm.space.read();
        let first = space.vmas.partition_point(|vma| vma.end <= at);
        for vma in &space.vmas[first..] {
            each(mm, vma, name_of(vma, space.start_brk, space.brk, stack), out)?;
            if out.len() >= PIECE {
                return Ok(Some(vma.end));
            }
        }
        Ok(None)
    }
}

/// What a file about a memory is once the last user has left that memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// What it was: it is not read from the memory itself.
    Same,
    /// Empty.
    Empty,
    /// Empty as long as the process is there, then `ESRCH`.
    EmptyOrGone,
    /// `ESRCH`.
    Gone,
}

/// A text about the memory that a process had when the file was opened.
pub(super) struct MemoryText {
    pub(super) pid: Ref<Pid>,
    /// See [`pinned`].
    pub(super) mm: Option<Ref<Mm>>,
    pub(super) show: ShowMemory,
    pub(super) left: Left,
}

impl Source for MemoryText {
    fn show(&self, out: &mut Text) -> Result<()> {
        self.show_piece(0, out).map(drop)
    }

    fn show_piece(&self, at: u64, out: &mut Text) -> Result<Option<u64>> {
        let of_process = matches!(self.left, Left::EmptyOrGone | Left::Gone);
        if of_process && list::lock().thread_of(&self.pid).is_none() {
            return Err(Errno::ESRCH);
        }
        let shown = match (&self.mm, self.left) {
            (Some(mm), Left::Same) => Some(self.show.show(mm, at, out)),
            (Some(mm), _) => mm.visit(|mm| self.show.show(mm, at, out)),
            (None, _) => None,
        };
        shown.unwrap_or(if self.left == Left::Gone { Err(Errno::ESRCH) } else { Ok(None) })
    }
}

/// /proc/PID/mem, open.
pub(super) struct MemFile {
    /// See [`pinned`].
    pub(super) mm: Option<Ref<Mm>>,
}

impl MemFile {
    /// Moves up to `len` bytes in pieces; `step` returns how many it moved.
    fn transfer(
        &self,
        pos: &mut u64,
        len: usize,
        mut step: impl FnMut(&Mm, u64, &mut [u8]) -> Result<usize>,
    ) -> Result<usize> {
        let Some(mm) = &self.mm else { return Ok(0) };
        let done = mm.visit(|mm| {
            let mut done = 0;
            let mut chunk = [0; 512];
            while done < len {
                let want = (len - done).min(chunk.len());
                match step(mm, *pos + done as u64, &mut chunk[..want]) {
                    Ok(n) => {
                        done += n;
                        if n < want {
                            break;
                        }
                    }
                    Err(error) if done == 0 => return Err(error),
                    Err(_) => break,
                }
            }
            Ok(done)
        });
        // Without users there is no memory left to read.
        let done = done.unwrap_or(Ok(0))?;
        *pos += done as u64;
        Ok(done)
    }
}

impl FileOps for MemFile {
    fn read(&self, _file: &File, buf: &mut UserBuf<'_>, pos: &mut u64) -> Result<usize> {
        let len = buf.remaining();
        self.transfer(pos, len, |mm, at, chunk| match mm.read_remote(at, chunk) {
            0 => Err(Errno::EIO),
            n => buf.put(&chunk[..n]),
        })
    }

    fn write(&self, _file: &File, buf: &mut UserBuf<'_>, pos: &mut u64) -> Result<usize> {
        let len = buf.remaining();
        self.transfer(pos, len, |mm, at, chunk| {
            let n = buf.take(chunk)?;
            match mm.write_remote(at, &chunk[..n]) {
                0 => Err(Errno::EIO),
                n => Ok(n),
            }
        })
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        seek(file, offset, whence)
    }
}

/// A new position in a file whose positions are addresses, or counts of what is at addresses.
pub(super) fn seek(file: &File, offset: i64, whence: Whence) -> Result<u64> {
    match whence {
        // Beyond the positive range is fine here.
        Whence::Set => Ok(offset as u64),
        Whence::Cur => Ok(file.pos().wrapping_add_signed(offset)),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_as_proc_5_says() {
        let flags = VmFlags::READ | VmFlags::EXEC;
        let vma = Vma { start: 0x55_5555_0000, end: 0x55_5555_1000, flags, pgoff: 0, file: None };
        let mut out = Text::new();
        map_line(&mut out, &vma, b"[heap]").unwrap();
        let text = String::from_utf8(out.into_bytes()).unwrap();
        assert!(text.starts_with("5555550000-5555551000 r-xp 00000000 00:00 0 "));
        assert_eq!(text.find("[heap]\n"), Some(73));
        let mut out = Text::new();
        map_line(&mut out, &vma, b"").unwrap();
        assert_eq!(out.as_bytes(), b"5555550000-5555551000 r-xp 00000000 00:00 0 \n");
    }
}

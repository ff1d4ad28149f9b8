//! `core_pattern` (core(5), "Naming of core dump files"): the name of a core, or the program that takes it.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, Ordering};

use super::Dump;
use crate::errno::{Errno, Result};
use crate::fs::pagecache::FileBacking;
use crate::mm::try_to_vec;
use crate::ns::PidType;
use crate::sched::realtime_ns;
use crate::sync::SpinLock;
use crate::task::Task;

/// Bytes that a pattern may have, with its end.
const PATTERN_SIZE: usize = 128;

/// A pattern.
#[derive(Clone, Copy)]
pub struct Pattern {
    bytes: [u8; PATTERN_SIZE],
    len: usize,
}

impl Pattern {
    const fn initial() -> Self {
        let mut bytes = [0; PATTERN_SIZE];
        (bytes[0], bytes[1], bytes[2], bytes[3]) = (b'c', b'o', b'r', b'e');
        Self { bytes, len: 4 }
    }

    /// Its text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

static PATTERN: SpinLock<Pattern> = SpinLock::new(Pattern::initial());
/// `core_uses_pid`: names have the process's number at their end if they have it nowhere else.
pub static USES_PID: AtomicI32 = AtomicI32::new(0);

/// The pattern (`/proc/sys/kernel/core_pattern`).
pub fn pattern() -> Pattern {
    *PATTERN.lock()
}

/// Sets the pattern; what is too long is cut.
pub fn set_pattern(text: &[u8]) {
    let len = text.len().min(PATTERN_SIZE - 1);
    let mut pattern = PATTERN.lock();
    pattern.bytes[..len].copy_from_slice(&text[..len]);
    pattern.len = len;
}

/// Where a core goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A file.
    File(Vec<u8>),
    /// A program's standard input: its path and arguments.
    Program(Vec<Vec<u8>>),
}

impl Target {
    /// Where the pattern sends this core.
    pub(super) fn of(dump: &Dump<'_>) -> Result<Self> {
        let pattern = pattern();
        let number = || dump.task.nr_of(PidType::Tgid, &dump.task.active_pid_ns());
        expand(pattern.as_bytes(), USES_PID.load(Ordering::Relaxed) != 0, number, |letter, out| {
            specifier(dump, letter, out)
        })
    }
}

/// Expands a pattern. `pid` is what `core_uses_pid` appends, `specifier` what stands for a letter behind `%`.
fn expand(
    pattern: &[u8],
    uses_pid: bool,
    pid: impl Fn() -> u32,
    specifier: impl Fn(u8, &mut Name) -> Result<()>,
) -> Result<Target> {
    let (program, mut rest) = match pattern {
        [b'|', program @ ..] => (true, program),
        file => (false, file),
    };
    let (mut words, mut name) = (Vec::new(), Name::default());
    let mut has_pid = false;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, tail) {
            // The pattern is cut into words before anything is put in: names may have spaces in them.
            (b' ', _) if program => end_word(&mut words, &mut name)?,
            (b'%', [b'%', tail @ ..]) => {
                name.push(b"%")?;
                rest = tail;
            }
            (b'%', [letter, tail @ ..]) => {
                has_pid |= *letter == b'p';
                specifier(*letter, &mut name)?;
                rest = tail;
            }
            (b'%', []) => {}
            (byte, _) => name.push(&[*byte])?,
        }
    }
    if program {
        end_word(&mut words, &mut name)?;
        return if words.is_empty() { Err(Errno::ENOENT) } else { Ok(Target::Program(words)) };
    }
    if uses_pid && !has_pid {
        name.number(format_args!(".{}", pid()))?;
    }
    Ok(Target::File(name.0))
}

fn end_word(words: &mut Vec<Vec<u8>>, name: &mut Name) -> Result<()> {
    if !name.0.is_empty() {
        words.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        words.push(core::mem::take(&mut name.0));
    }
    Ok(())
}

/// A name that grows.
#[derive(Default)]
struct Name(Vec<u8>);

impl Name {
    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.try_reserve(bytes.len()).map_err(|_| Errno::ENOMEM)?;
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn number(&mut self, text: core::fmt::Arguments<'_>) -> Result<()> {
        core::fmt::write(self, text).map_err(|_| Errno::ENOMEM)
    }

    /// Text that programs choose: it must not lead elsewhere.
    fn push_escaped(&mut self, text: &[u8]) -> Result<()> {
        let start = self.0.len();
        self.push(text)?;
        let new = &mut self.0[start..];
        match new {
            // As a whole name these would be directories, or none.
            [] => return self.push(b"!"),
            [b'.'] | [b'.', b'.'] => new[0] = b'!',
            _ => {}
        }
        new.iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = b'!');
        Ok(())
    }
}

impl core::fmt::Write for Name {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        self.push(s.as_bytes()).map_err(|_| core::fmt::Error)
    }
}

/// What stands for a letter behind `%`; nothing for those that have no meaning.
fn specifier(dump: &Dump<'_>, letter: u8, out: &mut Name) -> Result<()> {
    let task = dump.task;
    let inside = |kind| task.nr_of(kind, &task.active_pid_ns());
    match letter {
        b'p' => out.number(format_args!("{}", inside(PidType::Tgid))),
        b'P' => out.number(format_args!("{}", task.tgid())),
        b'i' => out.number(format_args!("{}", inside(PidType::Pid))),
        b'I' => out.number(format_args!("{}", task.pid())),
        b'u' => out.number(format_args!("{}", task.cred().uid)),
        b'g' => out.number(format_args!("{}", task.cred().gid)),
        b'd' => out.number(format_args!("{}", dump.dumpable as u32)),
        b's' => out.number(format_args!("{}", dump.info.signo)),
        b't' => out.number(format_args!("{}", realtime_ns() / 1_000_000_000)),
        b'c' => out.number(format_args!("{}", dump.limit)),
        b'h' => {
            let name = task.nsproxy().uts.names.lock().nodename;
            out.push_escaped(name.split(|&b| b == 0).next().unwrap_or_default())
        }
        b'e' => out.push_escaped(task.comm().as_bytes()),
        b'f' => out.push_escaped(exe(task)?.rsplit(|&b| b == b'/').next().unwrap_or_default()),
        b'E' => out.push_escaped(&exe(task)?),
        _ => Ok(()),
    }
}

/// The path of the program.
fn exe(task: &Task) -> Result<Vec<u8>> {
    let exe = task.mm().and_then(|mm| mm.exe());
    let file = exe.as_ref().and_then(|exe| exe.backing().as_any().downcast_ref::<FileBacking>());
    match file {
        Some(backing) => backing.file.path.to_vec(),
        None => {
            let mut name = Name(try_to_vec(task.comm().as_bytes())?);
            name.push(b" (path unknown)")?;
            Ok(name.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(pattern: &str, uses_pid: bool) -> Result<Target> {
        expand(
            pattern.as_bytes(),
            uses_pid,
            || 7,
            |letter, out| match letter {
                b'p' => out.push(b"7"),
                b'e' => out.push_escaped(b"a b/c"),
                b'h' => out.push_escaped(b".."),
                b'f' => out.push_escaped(b""),
                _ => Ok(()),
            },
        )
    }

    fn file(name: &str) -> Result<Target> {
        Ok(Target::File(name.as_bytes().to_vec()))
    }

    #[test]
    fn specifiers_are_replaced_and_unknown_ones_dropped() {
        assert_eq!(expanded("core", false), file("core"));
        assert_eq!(expanded("/tmp/%e.%p%%%x%", false), file("/tmp/a b!c.7%"));
        assert_eq!(expanded("%h/%f", false), file("!./!"));
    }

    #[test]
    fn the_number_is_appended_unless_it_is_there() {
        assert_eq!(expanded("core", true), file("core.7"));
        assert_eq!(expanded("core-%p", true), file("core-7"));
        assert_eq!(expanded("%%p", true), file("%p.7"));
    }

    #[test]
    fn a_program_gets_the_words_of_the_pattern_as_they_are() {
        let words = ["/bin/take", "a b!c", "x7"].map(|word| word.as_bytes().to_vec());
        assert_eq!(expanded("|/bin/take  %e x%p ", true), Ok(Target::Program(words.to_vec())));
        assert_eq!(expanded("|", false), Err(Errno::ENOENT));
    }
}

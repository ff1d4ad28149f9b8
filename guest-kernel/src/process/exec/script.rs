//! `#!`: scripts are run by the interpreter that their first line names (execve(2), "Interpreter scripts").

use alloc::vec::Vec;

use super::{Binary, HEAD_SIZE};
use crate::errno::{Errno, Result};
use crate::fs::Caller;
use crate::fs::namei::LookupFlags;
use crate::fs::open::open_exec;
use crate::mm::{try_collect, try_to_vec};
use crate::task;

/// `#!interpreter [argument]`: the interpreter is run with the script's path in place of argv[0].
pub(super) fn follow_script(binary: &mut Binary) -> Result<()> {
    let (interpreter, argument) = parse_shebang(&binary.head[2..binary.head_len])?;
    let interpreter = try_to_vec(interpreter)?;
    let argument = argument.map(try_to_vec).transpose()?;
    let name = try_to_vec(&binary.name)?;
    let words = [Some(&interpreter), argument.as_ref(), Some(&name)];
    let with = try_collect(words.into_iter().flatten().map(Vec::as_slice))?;
    binary.argv.replace_first(&with)?;
    let task = task::current();
    let caller = Caller { fs: task.fs(), cred: task.cred() };
    binary.file = open_exec(caller, None, &interpreter, LookupFlags::FOLLOW)?;
    binary.read_head()
}

/// Splits the rest of a `#!` line.
fn parse_shebang(line: &[u8]) -> Result<(&[u8], Option<&[u8]>)> {
    let end = line.iter().position(|&b| b == b'\n');
    let text = match end {
        Some(end) => &line[..end],
        // Cut off: only an interpreter that is surely whole will do.
        None if line.trim_ascii_start().iter().any(|b| b.is_ascii_whitespace() || *b == 0) => line,
        None if line.len() < HEAD_SIZE - 2 => line,
        None => return Err(Errno::ENOEXEC),
    };
    let text = text.split(|&b| b == 0).next().unwrap_or(text);
    let text = trim(text);
    if text.is_empty() {
        return Err(Errno::ENOEXEC);
    }
    match text.iter().position(|&b| b == b' ' || b == b'\t') {
        None => Ok((text, None)),
        Some(at) => Ok((&text[..at], Some(trim(&text[at..])))),
    }
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shebang_lines_are_split_as_linux_does() {
        let split = |l: &[u8]| parse_shebang(l).map(|(i, a)| (i.to_vec(), a.map(<[u8]>::to_vec)));
        assert_eq!(split(b"/bin/sh\n").unwrap(), (b"/bin/sh".to_vec(), None));
        assert_eq!(
            split(b"  /usr/bin/env  -S a b \t\nrest").unwrap(),
            (b"/usr/bin/env".to_vec(), Some(b"-S a b".to_vec()))
        );
        assert_eq!(split(b"\n").unwrap_err(), Errno::ENOEXEC);
    }
}

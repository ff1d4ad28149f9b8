//! `belljar log`: what the kernel said.

use std::mem::offset_of;

use belljar_abi::root::LogRing;
use serde::Serialize;

use super::super::{Error, Kernel, Result, Root};
use crate::render::{Column, Kind, Schema, Shape};
use crate::target::{Ram, Space};

pub(super) static SCHEMA: Schema = Schema {
    name: "belljar.log.v1",
    shape: Shape::Table,
    columns: &[Column::new("level", "LEVEL", Kind::Text), Column::new("text", "TEXT", Kind::Text)],
};

/// Most bytes of log that are read.
const MAX_LOG: u64 = 16 << 20;

#[derive(Serialize)]
pub(super) struct Line {
    /// `error`, `warning`, `info`, as syslog(2) names them.
    level: &'static str,
    text: String,
}

pub(super) fn rows(kernel: &Kernel<'_>) -> Result<Vec<Line>> {
    let text = read(kernel.space(), kernel.root())?;
    Ok(text
        .lines()
        .map(|line| {
            let (level, text) = split_level(line);
            Line { level, text: text.to_owned() }
        })
        .collect())
}

/// A record begins with its priority in Linux's form, `<6>`: its level, and eight times who spoke.
fn split_level(line: &str) -> (&'static str, &str) {
    const NAMES: [&str; 8] =
        ["emerg", "alert", "crit", "error", "warning", "notice", "info", "debug"];
    let parsed = line.strip_prefix('<').and_then(|rest| {
        let (number, text) = rest.split_once('>')?;
        Some((NAMES[number.parse::<usize>().ok()? % 8], text))
    });
    parsed.unwrap_or(("info", line))
}

/// The log as text, from the oldest line still there. Works as soon as the kernel has mapped its
/// memory, and after a panic. What is not UTF-8 is replaced; the caller escapes control characters.
pub fn text(ram: &dyn Ram) -> Result<String> {
    let root = Root::find(ram)?;
    let space = Space::with_linear_map(ram, root.kernel_pgd_phys(), root.linear_offset());
    let text = read(&space, &root)?;
    Ok(text.lines().flat_map(|line| [split_level(line).1, "\n"]).collect())
}

fn read(space: &Space<'_>, root: &Root) -> Result<String> {
    let ring = root.log_ring();
    if ring == 0 {
        return Err(Error::TooEarly { what: "the log" });
    }
    let word = |offset: usize| space.read_u64(ring.wrapping_add(offset as u64));
    let size = word(offset_of!(LogRing<1>, size))?;
    let head = word(offset_of!(LogRing<1>, head))?;
    if size == 0 || size > MAX_LOG {
        return Err(Error::Damaged { what: "the log ring".into() });
    }
    let bytes = ring.wrapping_add(offset_of!(LogRing<1>, bytes) as u64);
    let mut text = vec![0; head.min(size) as usize];
    if head <= size {
        space.read(bytes, &mut text)?;
    } else {
        let at = head % size;
        let (old, new) = text.split_at_mut((size - at) as usize);
        space.read(bytes.wrapping_add(at), old)?;
        space.read(bytes, new)?;
        // The oldest line has lost its beginning.
        if let Some(end) = text.iter().position(|b| *b == b'\n') {
            text.drain(..=end);
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_is_a_level_and_who_spoke() {
        assert_eq!(split_level("<6>[    0.1] up"), ("info", "[    0.1] up"));
        assert_eq!(split_level("<28>[    0.1] unit"), ("warning", "[    0.1] unit"));
        assert_eq!(split_level("<x> no number"), ("info", "<x> no number"));
        assert_eq!(split_level("<"), ("info", "<"));
    }
}

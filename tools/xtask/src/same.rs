//! Guest programs named `same_…`, which print every call they make with its result: what one prints on
//! Debian's kernel it must print on ours, line for line.

use crate::guest_run::{Outcome, name_of};
use crate::paths;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Lines that are shown before the first that differs.
const BEFORE: usize = 6;

/// Where the outputs on Debian's kernel are kept.
fn record_of(name: &str) -> PathBuf {
    paths::home().join("same").join(name)
}

/// True if this program's output is compared.
pub fn is_compared(name: &str) -> bool {
    name.starts_with("same_")
}

/// True if Debian's answer to `program`, as it is now, is not known.
pub fn lacks_record(program: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let name = name_of(program);
    is_compared(&name) && changed(&record_of(&name)) < changed(program)
}

/// Keeps what a program printed on Debian's kernel.
pub fn record(outcome: &Outcome) -> Result<()> {
    let path = record_of(&outcome.name);
    let folder = path.parent().context("a record has no folder")?;
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&path, &outcome.output))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Fails `outcome` if it is not what Debian's kernel gave.
pub fn compare(outcome: &mut Outcome) -> Result<()> {
    let path = record_of(&outcome.name);
    let theirs = std::fs::read(&path)
        .with_context(|| format!("cannot read {}: run the reference layer", path.display()))?;
    if let Some(difference) = first_difference(&theirs, &outcome.output) {
        outcome.status = "it differs from Debian's kernel".to_string();
        outcome.output = difference.into_bytes();
    }
    Ok(())
}

/// The first line that differs, with those before it.
fn first_difference(theirs: &[u8], ours: &[u8]) -> Option<String> {
    if theirs == ours {
        return None;
    }
    let (theirs, ours) = (String::from_utf8_lossy(theirs), String::from_utf8_lossy(ours));
    let (theirs, ours): (Vec<_>, Vec<_>) = (theirs.lines().collect(), ours.lines().collect());
    let at = theirs.iter().zip(&ours).take_while(|(theirs, ours)| theirs == ours).count();
    let mut text = String::new();
    for line in &theirs[at.saturating_sub(BEFORE)..at] {
        text += &format!("  {line}\n");
    }
    text += &format!("- {}\n", theirs.get(at).unwrap_or(&"(the end)"));
    text += &format!("+ {}\n", ours.get(at).unwrap_or(&"(the end)"));
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_difference_shows_both_lines_and_what_led_there() {
        assert_eq!(first_difference(b"a\nb\n", b"a\nb\n"), None);
        let text = first_difference(b"a\nb\nc\n", b"a\nx\nc\n").unwrap();
        assert_eq!(text, "  a\n- b\n+ x\n");
        let text = first_difference(b"a\nb\n", b"a\n").unwrap();
        assert_eq!(text, "  a\n- b\n+ (the end)\n");
    }
}

//! The kernel command line, kept for the whole run: `key=value` words, and after `--` the arguments of
//! init (Linux, Documentation/admin-guide/kernel-parameters.rst).

use alloc::boxed::Box;

use crate::sync::Once;

static CMDLINE: Once<Box<str>> = Once::new();

/// Keeps the command line; boot order calls it once, when there is a heap.
pub fn set(text: &str) {
    CMDLINE.set(text.into());
}

/// The whole line.
pub fn text() -> &'static str {
    CMDLINE.try_get().map_or("", |line| line)
}

fn words() -> impl Iterator<Item = &'static str> {
    text().split_ascii_whitespace().take_while(|word| *word != "--")
}

/// The value of the last `key=value`.
pub fn value(key: &str) -> Option<&'static str> {
    words()
        .filter_map(|word| word.split_once('='))
        .filter(|(k, _)| *k == key)
        .last()
        .map(|(_, v)| v)
}

/// True if `key=1` was given, or `key` alone.
pub fn is_set(key: &str) -> bool {
    words().any(|word| word == key) || value(key) == Some("1")
}

/// What follows `--`.
pub fn init_args() -> impl Iterator<Item = &'static str> {
    text().split_ascii_whitespace().skip_while(|word| *word != "--").skip(1)
}

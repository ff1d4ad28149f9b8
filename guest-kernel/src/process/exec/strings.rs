//! Arguments and environment on their way from the caller's memory to the new stack.

use alloc::vec::Vec;

use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::mm::UserPtr;
use crate::mm::user::read_cstr;

/// Longest single argument (execve(2), `MAX_ARG_STRLEN`).
const MAX_ARG_STRLEN: usize = 32 * PAGE_SIZE;

/// Strings one after the other, each with its NUL: arguments or environment.
#[derive(Default)]
pub(super) struct Strings {
    pub(super) bytes: Vec<u8>,
    pub(super) count: usize,
}

impl Strings {
    pub(super) fn push(&mut self, s: &[u8]) -> Result<()> {
        self.bytes.try_reserve(s.len() + 1).map_err(|_| Errno::ENOMEM)?;
        self.bytes.extend_from_slice(s);
        self.bytes.push(0);
        self.count += 1;
        Ok(())
    }

    pub(super) fn of(list: &[Vec<u8>]) -> Result<Self> {
        let mut strings = Self::default();
        for s in list {
            strings.push(s)?;
        }
        Ok(strings)
    }

    /// Reads a NULL-terminated array of string pointers; a null array is empty.
    pub(super) fn read(array: u64, budget: &mut u64) -> Result<Self> {
        let mut strings = Self::default();
        if array == 0 {
            return Ok(strings);
        }
        for i in 0.. {
            let at = array.checked_add(i * 8).ok_or(Errno::EFAULT)?;
            let ptr = UserPtr::<u64>::new(at).read()?;
            if ptr == 0 {
                break;
            }
            let s = read_cstr(ptr, MAX_ARG_STRLEN).map_err(|e| match e {
                Errno::ENAMETOOLONG => Errno::E2BIG,
                other => other,
            })?;
            *budget = budget.checked_sub(s.len() as u64 + 9).ok_or(Errno::E2BIG)?;
            strings.push(&s)?;
        }
        Ok(strings)
    }

    /// Replaces the first string by others: what a script's interpreter is called with.
    pub(super) fn replace_first(&mut self, with: &[&[u8]]) -> Result<()> {
        let rest = self.bytes.iter().position(|&b| b == 0).map_or(0, |at| at + 1);
        let old = core::mem::take(self);
        for s in with {
            self.push(s)?;
        }
        self.bytes.try_reserve(old.bytes.len()).map_err(|_| Errno::ENOMEM)?;
        self.bytes.extend_from_slice(&old.bytes[rest..]);
        self.count += old.count.saturating_sub(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_takes_the_place_of_argv0() {
        let mut argv = Strings::of(&[b"x".to_vec(), b"1".to_vec(), b"2".to_vec()]).unwrap();
        argv.replace_first(&[b"/bin/sh", b"-e", b"/script"]).unwrap();
        assert_eq!(argv.bytes, b"/bin/sh\0-e\0/script\x001\x002\0");
        assert_eq!(argv.count, 5);
    }
}

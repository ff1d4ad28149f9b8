//! Random bytes of the host's kernel.
//!
//! By the system call alone, which a thread may make that opens no file.

use std::io;

use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};

/// Fills `bytes`. Waits, early after the host's start, until its generator is seeded (getrandom(2)).
pub fn fill(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // A signal may cut a long answer short.
        let count = retry_on_intr(|| getrandom(&mut *bytes, GetRandomFlags::empty()))?;
        bytes = &mut bytes[count..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_filled() {
        // More than a call gives that a signal may not cut short.
        let mut bytes = vec![0; 1 << 16];
        fill(&mut bytes).unwrap();
        assert!(bytes.chunks(16).all(|chunk| chunk.iter().any(|byte| *byte != 0)));
    }
}

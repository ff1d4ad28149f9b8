//! Advisory locks of files: POSIX record locks (fcntl(2)) and flock(2).

use super::File;

/// The locks of one inode.
pub struct InodeLocks {}

impl InodeLocks {
    /// No locks.
    pub const fn new() -> Self {
        Self {}
    }

    /// Drops the POSIX locks of a descriptor table.
    pub fn release_owner(&self, _owner: usize) {}

    /// Drops the flock of an open file.
    pub fn release_file(&self, _file: &File) {}
}

//! [`Files`]: a table of file descriptors, shared by the threads of a process.
//!
//! Descriptors are handed out lowest first, as POSIX wants. `seq` is odd while the table changes, so
//! that a reader outside the machine knows whether it met a change.

use belljar_abi::Described;

use super::File;
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::sync::{SeqCount, SpinLock};

const BITS: usize = u64::BITS as usize;

/// The slots of a table.
#[repr(C)]
#[derive(Default, Described)]
pub struct FdTable {
    /// The open files; the index is the descriptor.
    fds: Array<Option<Ref<File>>>,
    /// A bit per descriptor that is in use or reserved.
    used: Array<u64>,
    /// A bit per descriptor that exec closes.
    cloexec: Array<u64>,
    /// No free descriptor lies below this one.
    next: usize,
}

/// A table of file descriptors.
#[repr(C)]
#[derive(Described)]
pub struct Files {
    seq: SeqCount,
    table: SpinLock<FdTable>,
}

impl FdTable {
    fn is_used(&self, fd: usize) -> bool {
        self.used.get(fd / BITS).is_some_and(|w| w & (1 << (fd % BITS)) != 0)
    }

    /// The first descriptor from `from` on that is in use or reserved.
    fn next_used(&self, from: usize) -> Option<usize> {
        let mut word = from / BITS;
        let mut mask = !0u64 << (from % BITS);
        while let Some(used) = self.used.get(word) {
            let found = used & mask;
            if found != 0 {
                return Some(word * BITS + found.trailing_zeros() as usize);
            }
            (word, mask) = (word + 1, !0);
        }
        None
    }

    /// The first open descriptor from `from` on that `which` picks.
    fn next_open(&self, mut from: usize, which: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        loop {
            let fd = self.next_used(from)?;
            if self.fds[fd].is_some() && which(self, fd) {
                return Some(fd);
            }
            from = fd + 1;
        }
    }

    /// Makes room for descriptor `fd`.
    fn grow(&mut self, fd: usize) -> Result<()> {
        if fd >= self.fds.len() {
            let len = (fd + 1).next_multiple_of(BITS);
            self.used.try_resize_with(len / BITS, || 0)?;
            self.cloexec.try_resize_with(len / BITS, || 0)?;
            self.fds.try_resize_with(len, || None)?;
        }
        Ok(())
    }

    /// The lowest free descriptor from `min` on.
    fn find_free(&self, min: usize) -> usize {
        let start = min.max(self.next);
        let mut word = start / BITS;
        let mut mask = !0u64 << (start % BITS);
        while let Some(used) = self.used.get(word) {
            let free = !used & mask;
            if free != 0 {
                return word * BITS + free.trailing_zeros() as usize;
            }
            (word, mask) = (word + 1, !0);
        }
        (word * BITS).max(start)
    }

    /// Takes the lowest free descriptor from `min` on; `EMFILE` at `limit`.
    fn take(&mut self, min: usize, limit: usize, cloexec: bool) -> Result<usize> {
        let fd = self.find_free(min);
        if fd >= limit {
            return Err(Errno::EMFILE);
        }
        self.grow(fd)?;
        self.set_used(fd, cloexec);
        if min <= self.next {
            self.next = fd + 1;
        }
        Ok(fd)
    }

    fn set_used(&mut self, fd: usize, cloexec: bool) {
        self.used[fd / BITS] |= 1 << (fd % BITS);
        self.set_cloexec(fd, cloexec);
    }

    fn is_cloexec(&self, fd: usize) -> bool {
        self.cloexec[fd / BITS] & (1 << (fd % BITS)) != 0
    }

    fn set_cloexec(&mut self, fd: usize, on: bool) {
        let bit = 1 << (fd % BITS);
        let word = &mut self.cloexec[fd / BITS];
        *word = if on { *word | bit } else { *word & !bit };
    }

    fn free(&mut self, fd: usize) {
        self.used[fd / BITS] &= !(1 << (fd % BITS));
        self.next = self.next.min(fd);
    }

    /// Takes the file out of `fd` and frees the descriptor.
    fn remove(&mut self, fd: usize) -> Option<Ref<File>> {
        let file = self.fds.get_mut(fd)?.take()?;
        self.free(fd);
        Some(file)
    }
}

/// A descriptor that was set aside while its file is being opened; given back when dropped.
pub struct Reserved<'a> {
    files: &'a Files,
    fd: usize,
}

impl Reserved<'_> {
    /// Puts the file there; the number is the program's from now on.
    pub fn install(self, file: Ref<File>) -> i32 {
        let fd = self.fd;
        self.files.change(|t| t.fds[fd] = Some(file));
        core::mem::forget(self);
        fd as i32
    }

    /// The number.
    pub fn fd(&self) -> i32 {
        self.fd as i32
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.files.change(|t| t.free(self.fd));
    }
}

impl Files {
    /// An empty table.
    pub fn new() -> Result<Ref<Self>> {
        Ref::try_new(Self { seq: SeqCount::new(), table: SpinLock::new(FdTable::default()) })
    }

    fn change<R>(&self, change: impl FnOnce(&mut FdTable) -> R) -> R {
        let mut table = self.table.lock();
        self.seq.write(|| change(&mut table))
    }

    /// A copy for a child (fork, `CLOSE_RANGE_UNSHARE`).
    pub fn try_clone(&self) -> Result<Ref<Self>> {
        let table = self.table.lock();
        let words = table.used.iter().rposition(|&w| w != 0).map_or(0, |w| w + 1);
        let mut copy = FdTable::default();
        if words > 0 {
            copy.grow(words * BITS - 1)?;
        }
        // A descriptor that is only reserved is free in the copy.
        let mut at = 0;
        while let Some(fd) = table.next_open(at, |_, _| true) {
            copy.fds[fd] = table.fds[fd].clone();
            copy.set_used(fd, table.is_cloexec(fd));
            at = fd + 1;
        }
        copy.next = copy.find_free(0);
        Ref::try_new(Self { seq: SeqCount::new(), table: SpinLock::new(copy) })
    }

    /// The open file behind `fd`, `O_PATH` ones included; `EBADF` if there is none.
    #[inline]
    pub fn get_any(&self, fd: i32) -> Result<Ref<File>> {
        let table = self.table.lock();
        table.fds.get(fd as usize).and_then(Option::as_ref).cloned().ok_or(Errno::EBADF)
    }

    /// The open file behind `fd`; `EBADF` if there is none or it is a mere place (`O_PATH`).
    #[inline]
    pub fn get(&self, fd: i32) -> Result<Ref<File>> {
        let file = self.get_any(fd)?;
        if file.fmode().contains(super::FMode::PATH) {
            return Err(Errno::EBADF);
        }
        Ok(file)
    }

    /// Sets the lowest free descriptor from `min` on aside; `EMFILE` if none is left below `limit`
    /// (`RLIMIT_NOFILE`).
    pub fn reserve(&self, min: usize, limit: usize, cloexec: bool) -> Result<Reserved<'_>> {
        let fd = self.change(|t| t.take(min, limit, cloexec))?;
        Ok(Reserved { files: self, fd })
    }

    /// Gives `file` the lowest free descriptor from `min` on.
    pub fn install(&self, file: Ref<File>, min: usize, limit: usize, cloexec: bool) -> Result<i32> {
        let fd = self.change(|t| {
            let fd = t.take(min, limit, cloexec)?;
            t.fds[fd] = Some(file);
            Ok(fd)
        })?;
        Ok(fd as i32)
    }

    /// Makes `fd` refer to `file` and returns what it referred to before (dup2(2)). `EBADF` at
    /// `limit`, `EBUSY` while another thread has the descriptor reserved.
    pub fn replace(
        &self,
        fd: i32,
        file: Ref<File>,
        limit: usize,
        cloexec: bool,
    ) -> Result<Option<Ref<File>>> {
        let fd = usize::try_from(fd).ok().filter(|&fd| fd < limit).ok_or(Errno::EBADF)?;
        self.change(|t| {
            t.grow(fd)?;
            if t.fds[fd].is_none() && t.is_used(fd) {
                return Err(Errno::EBUSY);
            }
            t.set_used(fd, cloexec);
            Ok(t.fds[fd].replace(file))
        })
    }

    /// Takes the file out of `fd`, which is free again; `EBADF` if there is none. The caller closes it
    /// with [`close_file`](Self::close_file).
    pub fn remove(&self, fd: i32) -> Result<Ref<File>> {
        self.change(|t| t.remove(fd as usize)).ok_or(Errno::EBADF)
    }

    /// Closes `fd` (close(2)).
    pub fn close(&self, fd: i32) -> Result<()> {
        let file = self.remove(fd)?;
        self.close_file(file);
        Ok(())
    }

    /// What closing any descriptor does to its file: POSIX locks of this table go, whichever
    /// descriptor they were taken through (fcntl(2)).
    pub fn close_file(&self, file: Ref<File>) {
        file.inode.locks.release_owner(self.lock_owner());
        file.ops().flush(&file);
    }

    /// Who owns the POSIX locks taken through this table.
    pub fn lock_owner(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }

    /// Closes every descriptor from `first` to `last` that `which` picks.
    fn close_where(&self, first: usize, last: usize, which: impl Fn(&FdTable, usize) -> bool) {
        let mut fd = first;
        loop {
            let file = self.change(|t| {
                fd = t.next_open(fd, &which).filter(|&fd| fd <= last)?;
                t.remove(fd)
            });
            match file {
                Some(file) => self.close_file(file),
                None => return,
            }
        }
    }

    /// close_range(2).
    pub fn close_range(&self, first: usize, last: usize) {
        self.close_where(first, last, |_, _| true);
    }

    /// Marks a range close-on-exec (`CLOSE_RANGE_CLOEXEC`).
    pub fn cloexec_range(&self, first: usize, last: usize) {
        self.change(|t| {
            for fd in first..t.fds.len().min(last.saturating_add(1)) {
                if t.is_used(fd) {
                    t.set_cloexec(fd, true);
                }
            }
        });
    }

    /// Closes what exec closes.
    pub fn close_on_exec(&self) {
        let any = self.table.lock().cloexec.iter().any(|&w| w != 0);
        if any {
            self.close_where(0, usize::MAX, |t, fd| t.cloexec[fd / BITS] & (1 << (fd % BITS)) != 0);
        }
    }

    /// Closes everything (exit).
    pub fn close_all(&self) {
        self.close_where(0, usize::MAX, |_, _| true);
    }

    /// The close-on-exec flag of `fd`; `EBADF` if it is not open.
    pub fn cloexec(&self, fd: i32) -> Result<bool> {
        let table = self.table.lock();
        let fd = fd as usize;
        table.fds.get(fd).and_then(Option::as_ref).ok_or(Errno::EBADF)?;
        Ok(table.is_cloexec(fd))
    }

    /// Sets the close-on-exec flag of `fd`.
    pub fn set_cloexec(&self, fd: i32, on: bool) -> Result<()> {
        self.change(|t| {
            let fd = fd as usize;
            t.fds.get(fd).and_then(Option::as_ref).ok_or(Errno::EBADF)?;
            t.set_cloexec(fd, on);
            Ok(())
        })
    }

    /// The first open descriptor from `min` on and its file, for /proc/PID/fd.
    pub fn next_open(&self, min: usize) -> Option<(usize, Ref<File>)> {
        let table = self.table.lock();
        let at = table.next_open(min, |_, _| true)?;
        Some((at, table.fds[at].clone()?))
    }

    /// How many descriptors the table has room for (`FDSize` of /proc/PID/status).
    pub fn capacity(&self) -> usize {
        self.table.lock().fds.len()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.close_all();
    }
}

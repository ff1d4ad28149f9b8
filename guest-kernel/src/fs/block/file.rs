//! An open disk (open(2) of /dev/vda): the file operations, and the requests of ioctl(2) that are about
//! disks (Linux, linux/fs.h).

use alloc::boxed::Box;

use linux_raw_sys::ioctl::{
    BLKALIGNOFF, BLKBSZGET, BLKBSZSET, BLKDISCARD, BLKDISCARDZEROES, BLKFLSBUF, BLKGETSIZE,
    BLKGETSIZE64, BLKIOMIN, BLKIOOPT, BLKPBSZGET, BLKRAGET, BLKROGET, BLKROSET, BLKROTATIONAL,
    BLKRRPART, BLKSECTGET, BLKSSZGET,
};

use core::sync::atomic::Ordering;

use super::{Disk, MAX_PAGES, SECTOR, find};
use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::fs::file::{AT_END, FMode, File, FileOps, OpenFlags, Whence};
use crate::fs::{Dev, UserBuf};
use crate::mm::{UserPtr, try_box};
use crate::sync::Mutex;

/// Keeps writers of disks apart, so that what one call writes stays together.
static WRITERS: Mutex<()> = Mutex::new(());

/// An open disk.
pub struct BlockFile(&'static Disk);

/// Opens the disk of a number.
pub fn open(dev: Dev) -> Result<Box<dyn FileOps>> {
    let disk = find(dev)?;
    let file = try_box(BlockFile(disk))?;
    *disk.opens.lock() += 1;
    Ok(file)
}

impl Drop for BlockFile {
    fn drop(&mut self) {
        let mut opens = self.0.opens.lock();
        *opens -= 1;
        if *opens == 0 {
            // As on Linux, the last one to close stores what was written, and the next one to open sees
            // what the device holds then. Nobody is left to hear of an error.
            let _ = self.0.write_back_all();
            self.0.forget(0, self.0.size);
        }
    }
}

impl FileOps for BlockFile {
    fn read(&self, _file: &File, buf: &mut UserBuf<'_>, pos: &mut u64) -> Result<usize> {
        self.0.read(buf, pos)
    }

    fn write(&self, file: &File, buf: &mut UserBuf<'_>, pos: &mut u64) -> Result<usize> {
        let disk = self.0;
        if disk.is_read_only() {
            return Err(Errno::EPERM);
        }
        if buf.is_empty() {
            return Ok(0);
        }
        let written = {
            let _together = WRITERS.lock();
            if *pos == AT_END || file.flags().contains(OpenFlags::APPEND) {
                *pos = disk.size;
            }
            if *pos >= disk.size {
                return Err(Errno::ENOSPC);
            }
            disk.write(buf, pos)?
        };
        if file.flags().intersects(OpenFlags::DSYNC | OpenFlags::DIRECT) {
            disk.sync()?;
        }
        Ok(written)
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        let base = match whence {
            Whence::Set => 0,
            Whence::Cur => file.pos(),
            Whence::End => self.0.size,
            Whence::Data | Whence::Hole => return Err(Errno::EINVAL),
        };
        base.checked_add_signed(offset).filter(|at| *at <= self.0.size).ok_or(Errno::EINVAL)
    }

    fn fsync(&self, _file: &File, _data_only: bool) -> Result<()> {
        self.0.sync()
    }

    fn ioctl(&self, file: &File, cmd: u32, arg: u64) -> Result<usize> {
        ioctl(self.0, file.fmode().contains(FMode::WRITE), cmd, arg)
    }

    fn abilities(&self) -> FMode {
        FMode::SEEKABLE
    }
}

fn admin() -> Result<()> {
    let admin = crate::drivers::tty::job::is_admin();
    if admin { Ok(()) } else { Err(Errno::EACCES) }
}

fn ioctl(disk: &'static Disk, writable: bool, cmd: u32, arg: u64) -> Result<usize> {
    let int = UserPtr::<u32>::new(arg);
    let long = UserPtr::<u64>::new(arg);
    match cmd {
        BLKGETSIZE64 => long.write(disk.size)?,
        BLKGETSIZE => long.write(disk.size / SECTOR)?,
        BLKSSZGET => int.write(disk.block_size)?,
        BLKPBSZGET | BLKIOMIN => int.write(disk.block_size)?,
        BLKBSZGET => int.write(PAGE_SIZE as u32)?,
        BLKIOOPT | BLKALIGNOFF | BLKDISCARDZEROES => int.write(0)?,
        BLKROTATIONAL => UserPtr::<u16>::new(arg).write(1)?,
        BLKSECTGET => {
            UserPtr::<u16>::new(arg).write((MAX_PAGES * PAGE_SIZE) as u16 / SECTOR as u16)?;
        }
        BLKRAGET => long.write((MAX_PAGES * PAGE_SIZE) as u64 / SECTOR)?,
        BLKROGET => int.write(u32::from(disk.is_read_only()))?,
        BLKROSET => {
            admin()?;
            let wanted = int.read()? != 0;
            disk.read_only.store(wanted, Ordering::Relaxed);
        }
        BLKBSZSET => {
            admin()?;
            let size = int.read()?;
            let valid =
                size.is_power_of_two() && (disk.block_size..=PAGE_SIZE as u32).contains(&size);
            // The cache's own pages serve every size.
            if !valid {
                return Err(Errno::EINVAL);
            }
        }
        BLKFLSBUF => {
            admin()?;
            disk.sync()?;
            disk.forget(0, disk.size);
        }
        BLKDISCARD => {
            if !writable {
                return Err(Errno::EBADF);
            }
            if disk.is_read_only() {
                return Err(Errno::EPERM);
            }
            let [start, len] = UserPtr::<[u64; 2]>::new(arg).read()?;
            let end = start.checked_add(len).filter(|end| *end <= disk.size);
            if end.is_none() || !(start | len).is_multiple_of(SECTOR) || len == 0 {
                return Err(Errno::EINVAL);
            }
            let _together = WRITERS.lock();
            disk.discard(start, len)?;
        }
        // No partitions are looked for.
        BLKRRPART => return Err(Errno::EINVAL),
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

//! Pipes and FIFOs (pipe(7), fifo(7)).
//!
//! A pipe is a ring of page-sized slots. Pages are taken when a writer needs one and user memory is
//! copied straight into and out of them; one page that was read empty is kept for the next writer, so
//! that a pipe in steady use allocates nothing. A write of up to `PIPE_BUF` bytes goes into the last
//! page or into one new page, never into two: that is what makes it atomic.
//!
//! The ring is under a sleeping lock, because copying may fault. Wake-ups happen outside of it and
//! only if somebody waits: readers when the pipe was empty, writers when it was full.

pub mod limits;
pub mod splice;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use belljar_abi::Described;

use limits::Share;

use super::{
    FMode, File, FileKind, FileOps, Inode, OpenFlags, Path, PollFlags, PollTable, UserBuf, anon,
};
use crate::addr::PAGE_SIZE;
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::user::UserPtr;
use crate::mm::{
    AllocFlags, FrameRef, PageKind, alloc_for_caller, try_alloc_for_caller, try_arc, try_box,
};
use crate::ns::Cred;
use crate::sched::{TaskState, Wait, WaitChannel, WaitQueue};
use crate::signal::{self, SIGPIPE};
use crate::sync::Mutex;
use crate::{wait_channel, wait_event_interruptible, wait_event_interruptible_exclusive};

/// A page that only its pipe knows. It counts for the control group of whoever wrote first into it.
#[repr(transparent)]
struct PipePage(FrameRef);

impl PipePage {
    /// Never sleeps: a ring may be locked. `ENOMEM` also if the caller's group is full.
    fn try_new() -> Result<Self> {
        Ok(Self(try_alloc_for_caller(PageKind::Kernel, AllocFlags::USER)?))
    }

    /// The same without any lock: somebody of a full group may be killed for it, and who waits for a lock cannot die.
    fn new_at_any_price() -> Result<Self> {
        Ok(Self(alloc_for_caller(PageKind::Kernel, AllocFlags::USER)?))
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the frame is a page long, belongs to this pipe alone, and changes through
        // `bytes_mut` only.
        unsafe { core::slice::from_raw_parts(self.0.as_ptr(), PAGE_SIZE) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; `self` is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.0.as_ptr(), PAGE_SIZE) }
    }
}

/// A page with `len` bytes from `start` on.
#[repr(C)]
#[derive(Described)]
struct Slot {
    #[described(as = "ptr Page")]
    page: PipePage,
    start: usize,
    len: usize,
    /// One packet of O_DIRECT mode: a read ends with it, and drops what it left.
    packet: bool,
    /// A write may append to it; not so to packets and to what came by splice(2).
    #[described(skip)]
    merges: bool,
}

const _: () = assert!(
    size_of::<Option<Slot>>() == size_of::<Slot>(),
    "a reader outside finds the slots in use, from `tail` to `head`, one after the other"
);

/// The ring of slots.
#[repr(C)]
#[derive(Described)]
struct Ring {
    #[described(as = "vec struct Slot")]
    slots: Array<Option<Slot>>,
    head: usize,
    tail: usize,
    /// Free slots that nobody else may fill; see [`splice`].
    #[described(skip)]
    reserved: usize,
    #[described(skip)]
    spare: Option<PipePage>,
    /// As many as there are slots; none while nobody has the pipe open.
    #[described(skip)]
    share: Option<Share>,
}

fn try_slots(n: usize) -> Result<Array<Option<Slot>>> {
    let mut slots = Array::new();
    slots.try_resize_with(n, || None)?;
    Ok(slots)
}

impl Ring {
    /// Without slots.
    const fn new() -> Self {
        Self { slots: Array::new(), head: 0, tail: 0, reserved: 0, spare: None, share: None }
    }

    /// Has slots from here on, which count for whoever has `cred`, if it had none.
    fn begin(&mut self, cred: &Cred) -> Result<()> {
        if self.share.is_none() {
            let share = Share::new(cred)?;
            self.slots = try_slots(share.slots())?;
            self.share = Some(share);
        }
        Ok(())
    }

    /// Forgets what is in it, and its size.
    fn end(&mut self) {
        *self = Self::new();
    }

    fn used(&self) -> usize {
        self.head - self.tail
    }

    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Slots that are in use or kept for somebody.
    fn taken(&self) -> usize {
        self.used() + self.reserved
    }

    fn is_full(&self) -> bool {
        self.taken() >= self.slots.len()
    }

    fn slot(&mut self, position: usize) -> Option<&mut Slot> {
        let at = position & (self.slots.len() - 1);
        self.slots[at].as_mut()
    }

    fn bytes(&self) -> usize {
        self.slots.iter().flatten().map(|slot| slot.len).sum()
    }

    /// Copies what does not fill whole pages behind the last bytes, if all of it fits there.
    fn append(&mut self, src: &mut UserBuf<'_>) -> Result<usize> {
        let part = src.remaining() % PAGE_SIZE;
        if part == 0 || self.is_empty() {
            return Ok(0);
        }
        let Some(last) = self.slot(self.head - 1) else { return Ok(0) };
        let end = last.start + last.len;
        if !last.merges || end + part > PAGE_SIZE {
            return Ok(0);
        }
        let n = src.take(&mut last.page.bytes_mut()[end..end + part])?;
        last.len += n;
        Ok(n)
    }

    /// Copies up to a page into a new slot; the ring is not full.
    fn push(&mut self, src: &mut UserBuf<'_>, packet: bool) -> Result<usize> {
        let mut page = match self.spare.take() {
            Some(page) => page,
            None => PipePage::try_new()?,
        };
        let want = src.remaining().min(PAGE_SIZE);
        match src.take(&mut page.bytes_mut()[..want]) {
            Ok(len) if len > 0 => {
                let at = self.head & (self.slots.len() - 1);
                self.slots[at] = Some(Slot { page, start: 0, len, packet, merges: !packet });
                self.head += 1;
                Ok(len)
            }
            other => {
                self.spare = Some(page);
                other
            }
        }
    }

    /// Copies from the oldest slot; the ring is not empty. Returns the bytes and whether a packet
    /// ended with them.
    fn pop(&mut self, dst: &mut UserBuf<'_>) -> Result<(usize, bool)> {
        let tail = self.tail;
        let Some(slot) = self.slot(tail) else { return Ok((0, false)) };
        let want = slot.len.min(dst.remaining());
        let n = dst.put(&slot.page.bytes()[slot.start..slot.start + want])?;
        slot.start += n;
        slot.len -= n;
        let packet = slot.packet;
        if slot.len == 0 || packet {
            let at = tail & (self.slots.len() - 1);
            let page = self.slots[at].take().map(|slot| slot.page);
            self.spare = self.spare.take().or(page);
            self.tail += 1;
        }
        Ok((n, packet))
    }

    /// Changes the number of slots, a power of two, for who has `cred`; `EBUSY` if more are in use, `EPERM` if there may
    /// be no more.
    fn resize(&mut self, n: usize, cred: &Cred) -> Result<()> {
        if self.taken() > n {
            return Err(Errno::EBUSY);
        }
        let share = self.share.as_mut().ok_or(Errno::EBADF)?;
        let before = share.slots();
        share.resize(n, cred)?;
        let mut slots = try_slots(n).inspect_err(|_| share.restore(before))?;
        let used = self.used();
        let mask = self.slots.len() - 1;
        for (i, new) in slots.iter_mut().take(used).enumerate() {
            *new = self.slots[(self.tail + i) & mask].take();
        }
        (self.slots, self.head, self.tail) = (slots, used, 0);
        Ok(())
    }
}

/// Waits interruptibly; a wake-up of one wakes one such waiter.
const fn exclusive(channel: &'static WaitChannel) -> Wait {
    Wait::new(TaskState::INTERRUPTIBLE, channel).exclusive()
}

/// What both ends of a pipe share.
#[repr(C)]
#[derive(Described)]
pub struct Pipe {
    ring: Mutex<Ring>,
    /// Slots in use, and below slots there are, as of the last change: for looks without the lock.
    used: AtomicU32,
    /// Those in use and those that are kept for somebody, likewise.
    #[described(skip)]
    taken: AtomicU32,
    slots: AtomicU32,
    readers: AtomicU32,
    writers: AtomicU32,
    /// How often an end was opened, ever: a FIFO's open waits for the other's to grow.
    #[described(skip)]
    reader_opens: AtomicU32,
    #[described(skip)]
    writer_opens: AtomicU32,
    #[described(skip)]
    read_wait: WaitQueue,
    #[described(skip)]
    write_wait: WaitQueue,
    /// Somebody polled: edge-triggered watchers hear of every write, not only of the first.
    #[described(skip)]
    polled: AtomicBool,
}

impl Pipe {
    /// One that nobody has open.
    fn try_new() -> Result<Arc<Self>> {
        try_arc(Self {
            ring: Mutex::new(Ring::new()),
            used: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            slots: AtomicU32::new(0),
            readers: AtomicU32::new(0),
            writers: AtomicU32::new(0),
            reader_opens: AtomicU32::new(0),
            writer_opens: AtomicU32::new(0),
            read_wait: WaitQueue::new(),
            write_wait: WaitQueue::new(),
            polled: AtomicBool::new(false),
        })
    }

    fn publish(&self, ring: &Ring) {
        self.used.store(ring.used() as u32, Ordering::Release);
        self.taken.store(ring.taken() as u32, Ordering::Release);
        self.slots.store(ring.slots.len() as u32, Ordering::Release);
    }

    /// True if no byte waits to be read.
    pub fn is_empty(&self) -> bool {
        self.used.load(Ordering::Acquire) == 0
    }

    /// How many open files read from it, and how many write to it.
    pub fn ends(&self) -> (u32, u32) {
        (self.readers.load(Ordering::Acquire), self.writers.load(Ordering::Acquire))
    }

    fn is_full(&self) -> bool {
        self.taken.load(Ordering::Acquire) >= self.slots.load(Ordering::Acquire)
    }

    fn has_readers(&self) -> bool {
        self.readers.load(Ordering::Acquire) != 0
    }

    fn has_writers(&self) -> bool {
        self.writers.load(Ordering::Acquire) != 0
    }

    fn wake_readers(&self) {
        self.read_wait.wake_poll((PollFlags::IN | PollFlags::RDNORM).bits());
    }

    fn wake_writers(&self) {
        self.write_wait.wake_poll((PollFlags::OUT | PollFlags::WRNORM).bits());
    }

    /// Reads what is there, or waits for something.
    pub fn read(&self, nonblock: bool, buf: &mut UserBuf<'_>) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let mut done = 0;
        loop {
            let (was_full, result) = {
                let mut ring = self.ring.lock();
                let was_full = ring.is_full();
                let result = Self::drain(&mut ring, buf, &mut done);
                self.publish(&ring);
                (was_full && !ring.is_full(), result)
            };
            if was_full {
                self.wake_writers();
            }
            match result {
                Err(error) if done == 0 => return Err(error),
                _ if done > 0 => break,
                _ => {}
            }
            if !self.has_writers() {
                // A writer may have left its last bytes just before it closed.
                if self.is_empty() {
                    return Ok(0);
                }
                continue;
            }
            if nonblock {
                return Err(Errno::EAGAIN);
            }
            let ready = || !self.is_empty() || !self.has_writers();
            self.read_wait.wait_until(exclusive(wait_channel!("pipe_read")), ready)?;
        }
        if !self.is_empty() && self.read_wait.has_waiters() {
            self.wake_readers();
        }
        Ok(done)
    }

    fn drain(ring: &mut Ring, buf: &mut UserBuf<'_>, done: &mut usize) -> Result<()> {
        while !ring.is_empty() && !buf.is_empty() {
            let (n, packet) = ring.pop(buf)?;
            *done += n;
            if packet {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, nonblock: bool, packets: bool, buf: &mut UserBuf<'_>) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let mut done = 0;
        let mut page = None;
        let result = loop {
            let (had_readers, was_empty, result) = {
                let mut ring = self.ring.lock();
                ring.spare = ring.spare.take().or(page.take());
                let was_empty = ring.is_empty();
                let had_readers = self.has_readers();
                let result = match had_readers {
                    true => Self::fill(&mut ring, packets, buf, &mut done),
                    false => Err(Errno::EPIPE),
                };
                self.publish(&ring);
                (had_readers, was_empty && !ring.is_empty(), result)
            };
            if was_empty || self.polled.load(Ordering::Relaxed) {
                self.wake_readers();
            }
            if !had_readers {
                signal::hooks::send_current(SIGPIPE);
            }
            if result == Err(Errno::ENOMEM) {
                match PipePage::new_at_any_price() {
                    Ok(new) => page = Some(new),
                    Err(error) => break Err(error),
                }
                continue;
            }
            if result.is_err() || buf.is_empty() {
                break result;
            }
            if nonblock {
                break Err(Errno::EAGAIN);
            }
            let ready = || !self.is_full() || !self.has_readers();
            let waited = self.write_wait.wait_until(exclusive(wait_channel!("pipe_write")), ready);
            if waited.is_err() {
                break waited;
            }
        };
        if !self.is_full() && self.write_wait.has_waiters() {
            self.wake_writers();
        }
        match result {
            Err(error) if done == 0 => Err(error),
            _ => Ok(done),
        }
    }

    fn fill(ring: &mut Ring, packets: bool, buf: &mut UserBuf<'_>, done: &mut usize) -> Result<()> {
        if *done == 0 {
            *done += ring.append(buf)?;
        }
        while !buf.is_empty() && !ring.is_full() {
            let n = ring.push(buf, packets)?;
            *done += n;
            if n == 0 {
                return Err(Errno::EFAULT);
            }
        }
        Ok(())
    }

    /// Bytes that wait to be read.
    pub fn len(&self) -> usize {
        self.ring.lock().bytes()
    }

    /// Size in bytes (F_GETPIPE_SZ).
    pub fn capacity(&self) -> usize {
        self.slots.load(Ordering::Relaxed) as usize * PAGE_SIZE
    }

    /// Sets the size, rounded up to a power of two of pages (F_SETPIPE_SZ), for who has `cred`; returns the new one.
    pub fn set_capacity(&self, bytes: usize, cred: &Cred) -> Result<usize> {
        let bytes = limits::round_size(bytes)?;
        let slots = bytes / PAGE_SIZE;
        let was_full = {
            let mut ring = self.ring.lock();
            let was_full = ring.is_full();
            ring.resize(slots, cred)?;
            self.publish(&ring);
            was_full
        };
        if was_full {
            self.write_wait.wake_all();
        }
        Ok(bytes)
    }

    /// Sleeps until nobody reads from it any more, or a signal comes.
    pub fn wait_for_readers_end(&self) {
        let _ = wait_event_interruptible!(self.write_wait, !self.has_readers());
    }

    /// Counts one more who has these ends open. `ENXIO` if there is no reader and one `needs_reader`.
    fn open(&self, reads: bool, writes: bool, needs_reader: bool, cred: &Cred) -> Result<()> {
        {
            // Who closes the last end looks under this lock, too, whether it was the last.
            let mut ring = self.ring.lock();
            ring.begin(cred)?;
            if needs_reader && !self.has_readers() {
                if !self.has_writers() {
                    ring.end();
                }
                return Err(Errno::ENXIO);
            }
            self.publish(&ring);
            let ends = [
                (reads, &self.reader_opens, &self.readers),
                (writes, &self.writer_opens, &self.writers),
            ];
            for (_, opens, end) in ends.into_iter().filter(|(wanted, ..)| *wanted) {
                opens.fetch_add(1, Ordering::AcqRel);
                end.fetch_add(1, Ordering::AcqRel);
            }
        }
        self.read_wait.wake_all();
        self.write_wait.wake_all();
        Ok(())
    }

    fn close(&self, reads: bool, writes: bool) {
        let mut last = false;
        if reads {
            last |= self.readers.fetch_sub(1, Ordering::AcqRel) == 1;
        }
        if writes {
            last |= self.writers.fetch_sub(1, Ordering::AcqRel) == 1;
        }
        if !last {
            return;
        }
        {
            let mut ring = self.ring.lock();
            if !self.has_readers() && !self.has_writers() {
                ring.end();
                self.publish(&ring);
            }
        }
        self.read_wait.wake_all();
        self.write_wait.wake_all();
    }
}

/// An open end (or, for a FIFO opened for both, both ends) of a pipe.
pub struct PipeFile {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
    /// Writers there had been when a FIFO was opened: without a newer one, nobody has hung up.
    writer_opens: u32,
}

impl PipeFile {
    fn open(
        pipe: &Arc<Pipe>,
        (reads, writes): (bool, bool),
        needs_reader: bool,
        cred: &Cred,
    ) -> Result<Self> {
        let writer_opens = pipe.writer_opens.load(Ordering::Acquire);
        pipe.open(reads, writes, needs_reader, cred)?;
        Ok(Self { pipe: pipe.clone(), reads, writes, writer_opens })
    }

    /// The pipe.
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }
}

impl Drop for PipeFile {
    fn drop(&mut self) {
        self.pipe.close(self.reads, self.writes);
    }
}

impl FileOps for PipeFile {
    fn read(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        self.pipe.read(file.is_nonblocking(), buf)
    }

    fn write(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        let flags = file.flags();
        let nonblock = flags.contains(OpenFlags::NONBLOCK);
        self.pipe.write(nonblock, flags.contains(OpenFlags::DIRECT), buf)
    }

    fn ioctl(&self, _file: &File, cmd: u32, arg: u64) -> Result<usize> {
        match cmd {
            linux_raw_sys::ioctl::FIONREAD => {
                UserPtr::<u32>::new(arg).write(self.pipe.len() as u32)?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn poll(&self, _file: &File, table: &mut PollTable<'_>) -> PollFlags {
        let pipe = &self.pipe;
        pipe.polled.store(true, Ordering::Relaxed);
        let mut ready = PollFlags::empty();
        if self.reads {
            table.wait(&pipe.read_wait);
        }
        if self.writes {
            table.wait(&pipe.write_wait);
        }
        if self.reads {
            if !pipe.is_empty() {
                ready |= PollFlags::READABLE;
            }
            let seen_writer = pipe.writer_opens.load(Ordering::Acquire) != self.writer_opens;
            if !pipe.has_writers() && seen_writer {
                ready |= PollFlags::HUP;
            }
        }
        if self.writes {
            if !pipe.is_full() {
                ready |= PollFlags::WRITABLE;
            }
            if !pipe.has_readers() {
                ready |= PollFlags::ERR;
            }
        }
        ready
    }

    fn abilities(&self) -> FMode {
        FMode::empty()
    }

    fn kind(&self) -> Option<FileKind> {
        Some(FileKind::Pipe)
    }

    fn described(&self) -> usize {
        Arc::as_ptr(&self.pipe) as usize
    }
}

/// The two ends of a new pipe. They count themselves in order: the reader is there before the writer,
/// which lets it see that a writer has been there.
fn ends(cred: &Cred) -> Result<(PipeFile, PipeFile)> {
    let pipe = Pipe::try_new()?;
    let reader = PipeFile::open(&pipe, (true, false), false, cred)?;
    let writer = PipeFile::open(&pipe, (false, true), false, cred)?;
    Ok((reader, writer))
}

/// Makes a pipe of whoever has `cred`: its read end and its write end (pipe2(2)).
pub fn create(flags: OpenFlags, cred: &Cred) -> Result<(Ref<File>, Ref<File>)> {
    let (reader, writer) = ends(cred)?;
    let place = anon::new_place(anon::Pseudo::Pipe, cred.fsuid, cred.fsgid)?;
    // /proc/PID/fd/N opens the pipe again, like a FIFO.
    place.inode()?.special.set(crate::mm::try_box(reader.pipe.clone())?);
    let flags = flags & (OpenFlags::NONBLOCK | OpenFlags::DIRECT);
    let reader = File::new(place.clone(), flags, FMode::READ, crate::mm::try_box(reader)?)?;
    let flags = flags | OpenFlags::WRONLY;
    let writer = File::new(place, flags, FMode::WRITE, crate::mm::try_box(writer)?)?;
    Ok((reader, writer))
}

/// Opens a FIFO (fifo(7)) for whoever has `cred`: readers and writers wait for each other, unless they do not want to.
pub fn open_fifo(
    inode: &Ref<Inode>,
    path: &Path,
    flags: OpenFlags,
    cred: &Cred,
) -> Result<Box<dyn FileOps>> {
    let pipe = match inode.special.try_get() {
        Some(special) => special,
        None => inode.special.set(try_box(Pipe::try_new()?)?),
    };
    let pipe = pipe.downcast_ref::<Arc<Pipe>>().ok_or(Errno::ENXIO)?;
    let (reads, writes) = (flags.reads(), flags.writes());
    if !reads && !writes {
        return Err(Errno::EINVAL);
    }
    // A pipe that is opened again through /proc/PID/fd waits for nobody: it had both ends once.
    let is_fifo = !path.mnt.is_pseudo();
    let nonblock = flags.contains(OpenFlags::NONBLOCK);
    let (readers, writers) =
        (pipe.reader_opens.load(Ordering::Acquire), pipe.writer_opens.load(Ordering::Acquire));
    let needs_reader = is_fifo && writes && !reads && nonblock;
    // Of a limit Linux tells here as if memory were missing.
    let full = |error| if error == Errno::ENFILE { Errno::ENOMEM } else { error };
    let mut file = PipeFile::open(pipe, (reads, writes), needs_reader, cred).map_err(full)?;
    if reads && !writes {
        if nonblock || pipe.has_writers() || !is_fifo {
            // The reader of a FIFO without writers sees no hangup before one came and went; one
            // with writers has seen them.
            if pipe.has_writers() {
                file.writer_opens = writers.wrapping_sub(1);
            }
        } else {
            wait_event_interruptible_exclusive!(
                pipe.read_wait,
                pipe.writer_opens.load(Ordering::Acquire) != writers
            )?;
        }
    } else if writes && !reads && is_fifo && !nonblock && !pipe.has_readers() {
        wait_event_interruptible_exclusive!(
            pipe.write_wait,
            pipe.reader_opens.load(Ordering::Acquire) != readers
        )?;
    }
    Ok(try_box(file)?)
}

/// The pipe behind a file, for F_GETPIPE_SZ, splice and /proc.
pub fn pipe_of(file: &File) -> Option<&Arc<Pipe>> {
    file.ops_as::<PipeFile>().map(PipeFile::pipe)
}

#[cfg(test)]
#[path = "pipe_tests.rs"]
mod tests;

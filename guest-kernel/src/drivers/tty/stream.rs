//! /dev/console as a plain stream of bytes, for a machine whose console is two pipes of another program.
//!
//! There is no terminal then: bytes pass as they are, isatty(3) says no, and the end of input stays an
//! end, as with a pipe. A serial line has no end, so input is framed: DLE DLE is the byte DLE, DLE EOT
//! is the end. Chosen with `belljar.console=raw` on the kernel's command line.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::Tty;
use crate::drivers::ring::Ring;
use crate::drivers::serial::{Line, Listener};
use crate::errno::{Errno, Result};
use crate::fs::{FMode, File, FileOps, PollFlags, PollTable, UserBuf};
use crate::sched::WaitQueue;
use crate::sync::{IrqLock, Once};
use crate::wait_event_interruptible;

/// Starts a pair of bytes in the input.
const DLE: u8 = 0x10;
/// After [`DLE`]: the end of input.
const EOT: u8 = 0x04;
/// Bytes of input that wait for a reader; the rest waits in the device.
const CAPACITY: usize = 16 << 10;
/// Bytes that move through the kernel stack at a time.
const CHUNK: usize = 512;

static STREAM: Once<Stream> = Once::new();

/// The stream, if the console is one.
pub fn get() -> Option<&'static Stream> {
    STREAM.try_get()
}

/// Makes the console on `line` a stream. `tty` is the terminal that can be opened on the same line.
pub fn init(line: &'static Line, tty: &Arc<Tty>) -> Result<&'static Stream> {
    let input = IrqLock::new(Input { ring: Ring::try_new(CAPACITY)?, framing: Framing::default() });
    Ok(STREAM.set(Stream {
        line,
        tty: tty.clone(),
        input,
        readers: WaitQueue::new(),
        room: WaitQueue::new(),
    }))
}

/// The console of a machine that talks to a program.
pub struct Stream {
    line: &'static Line,
    /// Its writers write to the same line: one writer at a time, of whichever.
    tty: Arc<Tty>,
    input: IrqLock<Input>,
    readers: WaitQueue,
    /// Writers that wait for room in the device.
    room: WaitQueue,
}

struct Input {
    ring: Ring,
    framing: Framing,
}

/// Where the input is in its framing.
#[derive(Default)]
struct Framing {
    after_dle: bool,
    ended: bool,
}

impl Framing {
    /// The byte that `byte` stands for, if any.
    fn decode(&mut self, byte: u8) -> Option<u8> {
        match (core::mem::take(&mut self.after_dle), byte) {
            (false, DLE) => self.after_dle = true,
            (true, EOT) => self.ended = true,
            _ if self.ended => {}
            _ => return Some(byte),
        }
        None
    }
}

impl Listener for Stream {
    fn room(&self) -> usize {
        self.input.lock().ring.room()
    }

    fn receive(&self, bytes: &[u8]) {
        {
            let mut input = self.input.lock();
            for &byte in bytes {
                if let Some(byte) = input.framing.decode(byte) {
                    input.ring.push(byte);
                }
            }
        }
        self.readers.wake_all();
    }

    fn sent(&self) {
        self.room.wake_all();
        self.tty.sent();
    }

    fn resized(&self, _rows: u16, _columns: u16) {}
}

impl Stream {
    /// Takes input out; `None` if there is none yet.
    fn take(&self, dst: &mut [u8]) -> Option<usize> {
        let mut input = self.input.lock();
        match input.ring.read(dst) {
            0 if !input.framing.ended => None,
            n => Some(n),
        }
    }

    fn is_readable(&self) -> bool {
        let input = self.input.lock();
        !input.ring.is_empty() || input.framing.ended
    }
}

/// An open /dev/console.
pub struct StreamFile(pub &'static Stream);

impl FileOps for StreamFile {
    fn read(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        while !buf.is_empty() {
            let part = CHUNK.min(buf.remaining());
            match self.0.take(&mut chunk[..part]) {
                Some(0) => break,
                Some(n) => {
                    self.0.line.pull();
                    done += buf.put(&chunk[..n])?;
                }
                None if done > 0 => break,
                None if file.is_nonblocking() => return Err(Errno::EAGAIN),
                None => wait_event_interruptible!(self.0.readers, self.0.is_readable())?,
            }
        }
        Ok(done)
    }

    fn write(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        let _together = self.0.tty.writers.enter()?;
        let device = self.0.line.device();
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        let result = loop {
            if buf.is_empty() {
                break Ok(());
            }
            // Only one writer at a time, so the room does not shrink.
            let room = device.room().min(CHUNK);
            if room == 0 {
                device.start();
                if file.is_nonblocking() {
                    break Err(Errno::EAGAIN);
                }
                match wait_event_interruptible!(self.0.room, self.0.line.has_room(1)) {
                    Ok(()) => continue,
                    stopped => break stopped,
                }
            }
            match buf.take(&mut chunk[..room]) {
                Ok(n) => done += device.queue(&chunk[..n]),
                Err(error) => break Err(error),
            }
        };
        device.start();
        match result {
            Err(error) if done == 0 => Err(error),
            _ => Ok(done),
        }
    }

    fn poll(&self, _file: &File, table: &mut PollTable<'_>) -> PollFlags {
        table.wait(&self.0.readers);
        table.wait(&self.0.room);
        let mut ready = PollFlags::empty();
        ready.set(PollFlags::READABLE, self.0.is_readable());
        ready.set(PollFlags::WRITABLE, self.0.line.has_room(1));
        ready
    }

    fn abilities(&self) -> FMode {
        FMode::empty()
    }
}

/// Opens /dev/console if it is a stream.
pub fn open() -> Option<Box<dyn FileOps>> {
    get().map(|stream| Box::new(StreamFile(stream)) as Box<dyn FileOps>)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn decoded(bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut framing = Framing::default();
        let out = bytes.iter().filter_map(|byte| framing.decode(*byte)).collect();
        (out, framing.ended)
    }

    #[test]
    fn every_byte_passes_and_only_a_framed_eot_ends() {
        assert_eq!(decoded(b"a\x04\0\xff\x10\x10b"), (b"a\x04\0\xff\x10b".to_vec(), false));
        assert_eq!(decoded(b"ab\x10\x04"), (b"ab".to_vec(), true));
    }

    #[test]
    fn nothing_comes_after_the_end() {
        assert_eq!(decoded(b"a\x10\x04b\x10\x10"), (b"a".to_vec(), true));
    }
}

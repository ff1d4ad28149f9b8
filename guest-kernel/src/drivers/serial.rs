//! A line that carries bytes both ways: what a terminal needs of the device under it, and the device of
//! the terminal.
//!
//! Output is queued in the device's ring and then started, so that one write costs one notification of
//! the device however many pieces it was queued in. Input is pulled: the device says that there is some,
//! and the listener's room decides how much is taken; the rest stays in the device, so that whoever sends
//! it waits instead of losing it.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::sched::WaitQueue;
use crate::sync::{IrqGuard, Once};
use crate::wait_event;

/// A device that carries bytes. All methods work in any context and never wait for the other side.
pub trait SerialDevice: Send + Sync {
    /// How many bytes [`queue`](Self::queue) takes now.
    fn room(&self) -> usize;
    /// Copies bytes into the output ring, as many as there is room for, and says how many.
    fn queue(&self, bytes: &[u8]) -> usize;
    /// Sends what was queued.
    fn start(&self);
    /// How many queued bytes the other side has not taken yet.
    fn pending(&self) -> usize;
    /// Makes the device call [`Line::sent`] once the other side took something. A device may have told
    /// of it all along; what was taken before this call shows in [`room`](Self::room) after it.
    fn watch(&self);
    /// Takes input. After it returned 0 the device calls [`Line::pull`] when more comes.
    fn take(&self, buf: &mut [u8]) -> usize;
    /// Somebody listens: the device may let input come.
    fn open(&self);
}

/// Who is at our end of a line.
pub trait Listener: Send + Sync {
    /// How many bytes [`receive`](Self::receive) takes now.
    fn room(&self) -> usize;
    /// Takes bytes, no more than there is room for. Interrupts are off.
    fn receive(&self, bytes: &[u8]);
    /// The device took output: there may be room for more. Runs in interrupts too.
    fn sent(&self);
    /// The terminal at the other end has this size. Runs in interrupts too.
    fn resized(&self, rows: u16, columns: u16);
}

/// A device and its listener.
pub struct Line {
    device: &'static dyn SerialDevice,
    listener: Once<&'static dyn Listener>,
    pulling: AtomicBool,
    again: AtomicBool,
    drained: WaitQueue,
}

/// Bytes of input that move through the stack at a time.
const CHUNK: usize = 256;

impl Line {
    /// A line that nobody listens to yet.
    pub const fn new(device: &'static dyn SerialDevice) -> Self {
        Self {
            device,
            listener: Once::new(),
            pulling: AtomicBool::new(false),
            again: AtomicBool::new(false),
            drained: WaitQueue::new(),
        }
    }

    /// The device.
    pub fn device(&self) -> &'static dyn SerialDevice {
        self.device
    }

    /// Sets who listens; boot does it once. What came before waits in the device.
    pub fn attach(&self, listener: &'static dyn Listener) {
        self.listener.set(listener);
        self.device.open();
        self.pull();
    }

    /// Moves input from the device to the listener, as far as that has room. The device calls it when
    /// input came, the listener when it has room again. One caller at a time moves bytes, so that their
    /// order is kept; a second one makes the first go round again.
    pub fn pull(&self) {
        let Some(listener) = self.listener.try_get() else { return };
        self.again.store(true, Ordering::SeqCst);
        let _irqs_off = IrqGuard::new();
        while self.again.load(Ordering::SeqCst) && !self.pulling.swap(true, Ordering::SeqCst) {
            self.again.store(false, Ordering::SeqCst);
            let mut bytes = [0; CHUNK];
            loop {
                let room = listener.room().min(CHUNK);
                let n = match room {
                    0 => 0,
                    _ => self.device.take(&mut bytes[..room]),
                };
                if n == 0 {
                    break;
                }
                listener.receive(&bytes[..n]);
            }
            self.pulling.store(false, Ordering::SeqCst);
        }
    }

    /// The device took output. It calls this, also in interrupts.
    pub fn sent(&self) {
        if let Some(listener) = self.listener.try_get() {
            listener.sent();
        }
        self.drained.wake_all();
    }

    /// The terminal at the other end has this size. The device calls this, also in interrupts.
    pub fn resized(&self, rows: u16, columns: u16) {
        if let Some(listener) = self.listener.try_get() {
            listener.resized(rows, columns);
        }
    }

    /// True if there is room for `bytes`; if not, [`Listener::sent`] comes when there may be.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.device.room() >= bytes || {
            self.device.watch();
            self.device.room() >= bytes
        }
    }

    /// True if the other side took everything; if not, [`Listener::sent`] comes when it took more.
    pub fn is_drained(&self) -> bool {
        self.device.pending() == 0 || {
            self.device.watch();
            self.device.pending() == 0
        }
    }

    /// Sleeps until the other side took all that was queued.
    pub fn drain(&self) {
        self.device.start();
        wait_event!(self.drained, self.is_drained());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::IrqLock;
    use std::vec::Vec;

    struct Echo {
        input: IrqLock<Vec<u8>>,
    }

    impl SerialDevice for Echo {
        fn room(&self) -> usize {
            8
        }
        fn queue(&self, bytes: &[u8]) -> usize {
            bytes.len()
        }
        fn start(&self) {}
        fn pending(&self) -> usize {
            0
        }
        fn watch(&self) {}
        fn take(&self, buf: &mut [u8]) -> usize {
            let mut input = self.input.lock();
            let n = buf.len().min(input.len());
            buf[..n].copy_from_slice(&input[..n]);
            input.drain(..n);
            n
        }
        fn open(&self) {}
    }

    struct Small {
        got: IrqLock<Vec<u8>>,
        room: IrqLock<usize>,
    }

    impl Listener for Small {
        fn room(&self) -> usize {
            *self.room.lock()
        }
        fn receive(&self, bytes: &[u8]) {
            self.got.lock().extend(bytes);
            *self.room.lock() -= bytes.len();
        }
        fn sent(&self) {}
        fn resized(&self, _: u16, _: u16) {}
    }

    #[test]
    fn input_waits_in_the_device_until_the_listener_has_room() {
        static DEVICE: Echo = Echo { input: IrqLock::new(Vec::new()) };
        static LISTENER: Small = Small { got: IrqLock::new(Vec::new()), room: IrqLock::new(3) };
        static LINE: Line = Line::new(&DEVICE);
        DEVICE.input.lock().extend(b"abcdef");
        LINE.pull();
        assert!(LISTENER.got.lock().is_empty(), "nobody listens yet");
        LINE.attach(&LISTENER);
        assert_eq!(*LISTENER.got.lock(), b"abc");
        *LISTENER.room.lock() = 10;
        LINE.pull();
        assert_eq!(*LISTENER.got.lock(), b"abcdef");
        assert!(LINE.is_drained() && LINE.has_room(8) && !LINE.has_room(9));
    }
}

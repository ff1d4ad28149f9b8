//! The control port ([`PORT_NAME`](belljar_abi::control::PORT_NAME)): bytes between this kernel and the VMM that runs it, for kernel threads.
//!
//! Bytes only; what they say is up to whoever reads and writes here. Across [`quiesce`](super::quiesce)
//! and [`reinit`](super::reinit) readers go on waiting, and output that the VMM had not read is offered
//! again.

use super::Mmio;
use super::console::{self, Console};
use crate::errno::{Errno, Result};
use crate::sched::WaitQueue;
use crate::sync::Mutex;
use crate::wait_event_killable;

static READABLE: WaitQueue = WaitQueue::new();
/// What one call writes stays together.
static WRITERS: Mutex<()> = Mutex::new(());

fn port() -> Option<(&'static Console<Mmio>, usize)> {
    let device = console::device()?;
    Some((device, device.control_port()?))
}

/// True if the machine has such a port.
pub fn exists() -> bool {
    port().is_some()
}

/// True if the VMM has its end open.
pub fn is_connected() -> bool {
    port().is_some_and(|(device, port)| device.is_connected(port))
}

/// Who waits for input, or for the port to come: see [`has_input`].
pub fn readable() -> &'static WaitQueue {
    &READABLE
}

/// True if [`try_read`] has something.
pub fn has_input() -> bool {
    port().is_some_and(|(device, port)| device.has_input(port))
}

/// Takes what was received, up to `buf.len()` bytes; 0 if there is nothing. Any context.
pub fn try_read(buf: &mut [u8]) -> usize {
    port().map_or(0, |(device, port)| device.take(port, buf))
}

/// Sleeps until something was received, also if the port has yet to come, and takes it.
pub fn read(buf: &mut [u8]) -> Result<usize> {
    loop {
        wait_event_killable!(READABLE, has_input())?;
        match try_read(buf) {
            0 => {}
            n => return Ok(n),
        }
    }
}

/// Queues what fits and sends it; says how much that was. Any context.
pub fn try_write(bytes: &[u8]) -> usize {
    port().map_or(0, |(device, port)| {
        let n = device.queue(port, bytes);
        device.start(port);
        n
    })
}

/// Sends all of `bytes`, with one notification as far as they fit into the ring; sleeps for room.
/// `ENXIO` if there is no such port.
pub fn write(bytes: &[u8]) -> Result<()> {
    let (device, port) = port().ok_or(Errno::ENXIO)?;
    let _together = WRITERS.lock();
    let mut rest = bytes;
    while !rest.is_empty() {
        let n = device.queue(port, rest);
        rest = &rest[n..];
        device.start(port);
        if !rest.is_empty() {
            let has_room = || {
                device.watch(port);
                device.room(port) > 0
            };
            wait_event_killable!(device.sent(), has_room())?;
        }
    }
    Ok(())
}

/// Something came.
pub(super) fn wake() {
    READABLE.wake_all();
}

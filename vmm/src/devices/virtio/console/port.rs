//! One port of the console: a stream of bytes each way between a guest's driver and a Unix socket.
//!
//! Neither side loses a byte, and neither is read ahead: what the other end cannot take stays in the
//! guest's queue or in the socket, and its writer waits as it would with a slow terminal. Only output to
//! an end that has hung up is dropped, so that a guest without a reader runs on.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::devices::virtio::{Chain, Driver, Error, EventSet, Round, Served};

/// Its two queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queues {
    /// Towards the guest.
    pub receive: usize,
    /// From the guest.
    pub transmit: usize,
}

/// A port, on the host's side a socket.
pub struct Port {
    pub(super) name: Option<&'static str>,
    stream: UnixStream,
    /// The peer gives no more, or takes no more.
    input_ended: bool,
    output_ended: bool,
    /// The request at the head of the transmit queue was taken as far as this.
    sent: usize,
    /// A request waits until the peer takes more.
    blocked: bool,
    /// The guest has the port open. Without several ports there is no such thing: always.
    guest_open: bool,
    /// The guest had it open at some time.
    ever_open: Arc<AtomicBool>,
}

impl Port {
    /// The guest's terminal: `stream` is our end, the other one the user's.
    pub fn console(stream: UnixStream) -> io::Result<Self> {
        Self::new(None, stream)
    }

    /// A port that the guest finds by its name.
    pub fn named(name: &'static str, stream: UnixStream) -> io::Result<Self> {
        Self::new(Some(name), stream)
    }

    fn new(name: Option<&'static str>, stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (input_ended, output_ended) = (false, false);
        let (sent, blocked, guest_open) = (0, false, false);
        let ever_open = Arc::default();
        Ok(Self { name, stream, input_ended, output_ended, sent, blocked, guest_open, ever_open })
    }

    /// A flag that becomes true when the guest opens the port for the first time.
    pub fn ever_open(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.ever_open)
    }

    pub(super) fn open(&mut self, open: bool) {
        self.guest_open = open;
        self.ever_open.fetch_or(open, Ordering::AcqRel);
    }

    /// Whether something of the guest's waits for the peer.
    pub(super) fn has_output(&self, queues: Queues, driver: &Driver) -> bool {
        !self.output_ended && driver.waits(queues.transmit)
    }

    pub(super) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Whether somebody is at the host's end.
    pub(super) fn host_open(&self) -> bool {
        !self.output_ended
    }

    pub(super) fn reset(&mut self) {
        self.sent = 0;
        self.blocked = false;
        self.guest_open = false;
    }

    /// What the port waits for at its socket.
    pub(super) fn interest(&self, queues: Queues, driver: &Driver) -> EventSet {
        let mut interest = EventSet::empty();
        let reads = !self.input_ended && self.guest_open;
        interest.set(EventSet::IN, reads && driver.waits(queues.receive));
        interest.set(EventSet::OUT, !self.output_ended && self.blocked);
        interest
    }

    /// Takes what the guest wrote.
    pub(super) fn transmit(&mut self, queues: Queues, driver: &mut Driver) -> Result<(), Error> {
        let round = driver.serve(queues.transmit, |chain| {
            chain.readable.skip(self.sent);
            while !chain.readable.is_empty() && !self.output_ended {
                match chain.readable.send(self.stream.as_fd()) {
                    Ok(count) => self.sent += count,
                    Err(error) if is_for_now(&error) => return Ok(Served::Later),
                    // The peer hung up.
                    Err(_) => self.output_ended = true,
                }
            }
            self.sent = 0;
            Ok(Served::Done(0))
        })?;
        self.blocked = round == Round::Stalled;
        Ok(())
    }

    /// Gives the guest what the peer wrote.
    pub(super) fn receive(&mut self, queues: Queues, driver: &mut Driver) -> Result<(), Error> {
        if self.input_ended || !self.guest_open {
            return Ok(());
        }
        driver.serve(queues.receive, |chain| self.fill(chain)).map(drop)
    }

    fn fill(&mut self, chain: &mut Chain<'_>) -> Result<Served, Error> {
        if chain.writable.is_empty() {
            return Err(Error::Request("input"));
        }
        match chain.writable.receive(self.stream.as_fd()) {
            Ok(count) if count > 0 => return Ok(Served::Done(count as u32)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The end of input is not the end of the port: a pipe's end has been read, but its user
            // still wants to see the output. If the socket is gone, nobody does.
            Ok(_) => {
                self.input_ended = true;
                self.output_ended |= self.hung_up();
            }
            Err(_) => {
                self.input_ended = true;
                self.output_ended = true;
            }
        }
        Ok(Served::Later)
    }

    /// Whether both directions of the socket are shut.
    fn hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
    }
}

/// The peer takes no more for now, or the host has no memory for it.
fn is_for_now(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM))
}

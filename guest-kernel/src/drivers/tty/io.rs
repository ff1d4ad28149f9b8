//! Reading, writing and polling the terminal side, and taking in what the device received.

use core::ops::ControlFlow;

use super::termios::{EXTPROC, ICANON, IXOFF, TOSTOP, VMIN, VSTART, VSTOP, VTIME};
use super::{Backend, State, Tty};
use crate::errno::{Errno, Result};
use crate::fs::{PollFlags, PollTable};
use crate::sched::WaitQueue;
use crate::sched::clock::Deadline;
use crate::signal::{SIGTTIN, SIGTTOU};
use crate::{wait_event_interruptible, wait_event_interruptible_timeout};

/// Bytes that move through the kernel stack at a time.
const CHUNK: usize = 512;
/// With less room than this for input, the terminal is told to stop (IXOFF); with twice as much free,
/// to go on.
const THROTTLE_ROOM: usize = 128;

/// How a file of a terminal was opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenedAs {
    /// [`Tty::generation`] at that time.
    pub generation: u32,
    /// It is /dev/console, which job control leaves alone.
    pub is_console: bool,
    /// The call must not block.
    pub nonblock: bool,
}

/// Sleeps on `queue` until `done()`; `ERESTARTSYS` if a signal comes first.
pub(super) fn wait(queue: &WaitQueue, done: impl Fn() -> bool) -> Result<()> {
    wait_event_interruptible!(queue, done())
}

/// How long a read waits for (more) input.
#[derive(Clone, Copy)]
enum Patience {
    Forever,
    Until(Deadline),
    None,
}

/// A tenth of a second, the unit of VTIME.
const DECISECOND: u64 = 100_000_000;

impl Patience {
    fn tenths(n: u8) -> Self {
        Self::Until(Deadline::after(u64::from(n) * DECISECOND))
    }
}

impl State {
    fn is_canonical(&self) -> bool {
        self.termios.lflag(ICANON) && !self.termios.lflag(EXTPROC)
    }

    /// The bytes that poll(2) waits for.
    fn poll_minimum(&self) -> usize {
        match (self.termios.c_cc[VTIME as usize], self.termios.c_cc[VMIN as usize]) {
            (0, min) => usize::from(min).max(1),
            _ => 1,
        }
    }
}

impl Tty {
    // --- Reading ---

    /// read(2): up to `want` bytes, handed to `put` in pieces.
    pub fn read(
        &self,
        how: OpenedAs,
        want: usize,
        put: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<usize> {
        let mut done = 0;
        let result = self.read_loop(how, want, put, &mut done);
        self.input_was_read();
        match result {
            Err(error) if done == 0 => Err(error),
            _ => Ok(done),
        }
    }

    fn read_loop(
        &self,
        how: OpenedAs,
        want: usize,
        put: &mut dyn FnMut(&[u8]) -> Result<()>,
        done: &mut usize,
    ) -> Result<()> {
        if self.is_hung_up(how) || want == 0 {
            return Ok(());
        }
        self.check_reader(how)?;
        // Settings of noncanonical reads (termios(3)): how many bytes make a read complete, and how
        // long to wait for them.
        let (mut minimum, between, mut patience) = {
            let state = self.state.lock();
            let cc = &state.termios.c_cc;
            match (cc[VMIN as usize], cc[VTIME as usize]) {
                _ if state.is_canonical() => (1, 0, Patience::Forever),
                (0, 0) => (1, 0, Patience::None),
                (0, time) => (1, 0, Patience::tenths(time)),
                (min, time) => (usize::from(min), time, Patience::Forever),
            }
        };
        minimum = minimum.min(want);
        let mut chunk = [0; CHUNK];
        while *done < want {
            let part = CHUNK.min(want - *done);
            match self.take_input(how, &mut chunk[..part])? {
                Some((n, line_end, canonical)) => {
                    put(&chunk[..n])?;
                    *done += n;
                    if line_end || (!canonical && *done >= minimum) {
                        return Ok(());
                    }
                    if *done == want {
                        self.state.lock().ldisc.skip_eof_mark_if(canonical);
                    } else if between != 0 {
                        patience = Patience::tenths(between);
                    }
                }
                None if self.is_hung_up(how) => return Ok(()),
                None => {
                    if self.wait_for_input(how, patience)?.is_break() {
                        return Ok(());
                    }
                    self.check_reader(how)?;
                }
            }
        }
        Ok(())
    }

    fn check_reader(&self, how: OpenedAs) -> Result<()> {
        if how.is_console { Ok(()) } else { self.check_change(SIGTTIN) }
    }

    /// Takes what can be read now: bytes, whether they end a line, and whether the mode is canonical.
    fn take_input(&self, how: OpenedAs, dst: &mut [u8]) -> Result<Option<(usize, bool, bool)>> {
        let mut state = self.state.lock();
        if self.is_hung_up(how) {
            return Ok(None);
        }
        let State { ldisc, termios, .. } = &mut *state;
        if ldisc.input_available(termios, 1) {
            let chunk = ldisc.read(termios, dst);
            return Ok(Some((chunk.len, chunk.line_end, state.is_canonical())));
        }
        match self.master() {
            Some(master) if !master.is_open() => Err(Errno::EIO),
            _ => Ok(None),
        }
    }

    /// Waits for input; `Break` if the wait is over without any.
    fn wait_for_input(&self, how: OpenedAs, patience: Patience) -> Result<ControlFlow<()>> {
        let ready = || {
            let state = self.state.lock();
            state.ldisc.input_available(&state.termios, 1)
                || self.is_hung_up(how)
                || self.master().is_some_and(|m| !m.is_open())
        };
        match patience {
            Patience::None => return Ok(ControlFlow::Break(())),
            _ if how.nonblock => return Err(Errno::EAGAIN),
            Patience::Forever => wait(&self.read_wait, ready)?,
            Patience::Until(deadline) => {
                match wait_event_interruptible_timeout!(self.read_wait, ready(), deadline) {
                    Err(Errno::ETIMEDOUT) => return Ok(ControlFlow::Break(())),
                    result => result?,
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Input was taken: whoever was held back may send again.
    fn input_was_read(&self) {
        match &self.backend {
            Backend::Pty(master) => master.wait.wake_all(),
            Backend::Line(line) => {
                let go_on = {
                    let mut state = self.state.lock();
                    let State { ldisc, termios, sent_stop, .. } = &mut *state;
                    let roomy = ldisc.room(termios) >= 2 * THROTTLE_ROOM;
                    (roomy && core::mem::take(sent_stop)).then(|| termios.c_cc[VSTART as usize])
                };
                if let Some(start) = go_on {
                    self.send_char(start);
                }
                line.pull();
            }
        }
    }

    // --- Writing ---

    /// write(2): `len` bytes, which `get` copies into the kernel in pieces.
    pub fn write(
        &self,
        how: OpenedAs,
        len: usize,
        get: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<usize> {
        if !how.is_console && self.state.lock().termios.lflag(TOSTOP) {
            self.check_change(SIGTTOU)?;
        }
        let _together = self.writers.enter()?;
        let mut done = 0;
        let mut chunk = [0; CHUNK];
        while done < len {
            let part = CHUNK.min(len - done);
            let result = get(&mut chunk[..part])
                .and_then(|()| self.write_chunk(how, &chunk[..part], &mut done));
            match result {
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
                Ok(()) => {}
            }
        }
        self.start_output();
        Ok(done)
    }

    /// Sends all of `src` through output processing, waiting for room as needed.
    fn write_chunk(&self, how: OpenedAs, src: &[u8], done: &mut usize) -> Result<()> {
        let mut used = 0;
        while used < src.len() {
            let n = self.queue_output(how, &src[used..])?;
            used += n;
            *done += n;
            if n == 0 {
                self.start_output();
                if how.nonblock {
                    return Err(Errno::EAGAIN);
                }
                wait(&self.write_wait, || {
                    let state = self.state.lock();
                    self.has_output_room(&state)
                        || self.is_hung_up(how)
                        || self.master().is_some_and(|m| !m.is_open())
                })?;
            }
        }
        Ok(())
    }

    /// Queues as much of `src` as there is room for; [`start_output`](Self::start_output) sends it.
    fn queue_output(&self, how: OpenedAs, src: &[u8]) -> Result<usize> {
        self.send_echo();
        let mut state = self.state.lock();
        if self.is_hung_up(how) || self.master().is_some_and(|m| !m.is_open()) {
            return Err(Errno::EIO);
        }
        if state.ldisc.is_stopped() {
            return Ok(0);
        }
        let State { ldisc, termios, .. } = &mut *state;
        Ok(match &self.backend {
            // Whatever is queued for the line is queued under the terminal's lock, so there is no less
            // room than this.
            Backend::Line(line) => {
                let device = line.device();
                ldisc.output.process(termios, src, device.room(), |bytes| {
                    device.queue(bytes);
                })
            }
            Backend::Pty(master) => {
                let mut ring = master.output.lock();
                let room = ring.room();
                ldisc.output.process(termios, src, room, |bytes| {
                    ring.write(bytes);
                })
            }
        })
    }

    /// Sends what was queued.
    fn start_output(&self) {
        match &self.backend {
            Backend::Line(line) => line.device().start(),
            Backend::Pty(master) => master.wait.wake_all(),
        }
    }

    /// Sends one character past output processing (VSTART, VSTOP).
    pub(super) fn send_char(&self, byte: u8) {
        {
            let _state = self.state.lock();
            match &self.backend {
                Backend::Line(line) => {
                    line.device().queue(&[byte]);
                }
                Backend::Pty(master) => {
                    master.output.lock().push(byte);
                }
            }
        }
        self.start_output();
    }

    /// Waits until the device took what was written (tcdrain(3)). What a master has not read counts as
    /// taken.
    pub(super) fn drain(&self) -> Result<()> {
        match &self.backend {
            Backend::Line(line) => wait(&self.write_wait, || line.is_drained()),
            Backend::Pty(_) => Ok(()),
        }
    }

    /// The device took output: writers and the echo can go on.
    pub(super) fn output_was_taken(&self) {
        self.send_echo();
        self.write_wait.wake_all();
    }

    fn has_output_room(&self, state: &State) -> bool {
        const ENOUGH: usize = super::output::Output::MAX_EXPANSION;
        !state.ldisc.is_stopped()
            && match &self.backend {
                Backend::Line(line) => line.has_room(ENOUGH),
                Backend::Pty(master) => master.output.lock().room() >= ENOUGH,
            }
    }

    /// Sends what waits to be echoed, as far as the other side takes it.
    pub(super) fn send_echo(&self) {
        let mut out = [0; 64];
        loop {
            let len = {
                let mut state = self.state.lock();
                let pending = state.ldisc.pending_echo();
                let wanted = pending.len().min(out.len());
                if wanted == 0 {
                    return;
                }
                out[..wanted].copy_from_slice(&pending[..wanted]);
                let len = match &self.backend {
                    Backend::Line(line) if line.has_room(1) => line.device().queue(&out[..wanted]),
                    Backend::Line(_) => 0,
                    Backend::Pty(master) => master.output.lock().write(&out[..wanted]),
                };
                state.ldisc.echoed(len);
                len
            };
            if len == 0 {
                return;
            }
            self.start_output();
        }
    }

    /// TCXONC: stops output or lets it go on.
    pub(super) fn set_stopped(&self, stopped: bool) {
        let changed = self.state.lock().ldisc.set_stopped(stopped);
        if changed {
            self.flow_changed(stopped);
        }
    }

    fn flow_changed(&self, stopped: bool) {
        if let Backend::Pty(master) = &self.backend {
            master.flow_changed(stopped);
        }
        if !stopped {
            self.send_echo();
            self.write_wait.wake_all();
        }
    }

    // --- Input from the device ---

    /// How many bytes the terminal takes in now.
    pub fn input_room(&self) -> usize {
        let state = self.state.lock();
        state.ldisc.room(&state.termios)
    }

    /// Takes in what the device received, as far as there is room; returns how much that was. Runs in
    /// interrupts too.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        let mut wake = false;
        for &byte in bytes {
            let action = {
                let mut state = self.state.lock();
                let State { ldisc, termios, .. } = &mut *state;
                if ldisc.room(termios) == 0 {
                    break;
                }
                ldisc.receive(termios, byte)
            };
            taken += 1;
            wake |= action.wake;
            if action.flush_output
                && let Backend::Pty(master) = &self.backend
            {
                master.flush_for_signal();
            }
            if let Some(signal) = action.signal {
                self.signal_foreground(signal);
            }
            if let Some(stopped) = action.stop {
                self.flow_changed(stopped);
            }
        }
        self.send_echo();
        self.throttle();
        if wake {
            self.read_wait.wake_all();
        }
        taken
    }

    /// IXOFF: asks the terminal to stop sending before input is lost.
    fn throttle(&self) {
        let Backend::Line(_) = &self.backend else { return };
        let stop = {
            let mut state = self.state.lock();
            let State { ldisc, termios, sent_stop, .. } = &mut *state;
            let full = termios.iflag(IXOFF) && ldisc.room(termios) < THROTTLE_ROOM;
            (full && !core::mem::replace(sent_stop, full | *sent_stop))
                .then(|| termios.c_cc[VSTOP as usize])
        };
        if let Some(stop) = stop {
            self.send_char(stop);
        }
    }

    // --- Polling ---

    /// What the terminal side is ready for.
    pub fn poll(&self, how: OpenedAs, table: &mut PollTable<'_>) -> PollFlags {
        table.wait(&self.read_wait);
        table.wait(&self.write_wait);
        if self.is_hung_up(how) {
            return PollFlags::READABLE | PollFlags::WRITABLE | PollFlags::ERR | PollFlags::HUP;
        }
        let state = self.state.lock();
        let mut ready = PollFlags::empty();
        if state.ldisc.input_available(&state.termios, state.poll_minimum()) {
            ready |= PollFlags::READABLE;
        }
        if self.has_output_room(&state) {
            ready |= PollFlags::WRITABLE;
        }
        if self.master().is_some_and(|m| !m.is_open()) {
            ready |= PollFlags::HUP | PollFlags::READABLE;
        }
        ready
    }

    pub(super) fn wake_everybody(&self) {
        self.read_wait.wake_all();
        self.write_wait.wake_all();
        if let Backend::Pty(master) = &self.backend {
            master.wait.wake_all();
        }
    }
}

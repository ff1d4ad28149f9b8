//! The N_TTY line discipline (termios(3)): what happens to the bytes between a terminal and a program.
//!
//! Pure logic: it holds no lock, sleeps never and knows no device. The [`Tty`](super::Tty) around it
//! feeds it input bytes, carries its echo to the device, sends the signals that it asks for and wakes
//! readers. Positions in the input buffer are counted without wrapping:
//! `tail <= canon_head <= head`, and `head - tail <= SIZE`. In canonical mode `tail..canon_head` are
//! complete lines and `canon_head..head` is the line being edited.

use belljar_abi::Described;

use super::output::Output;
use super::termios::{
    DISABLED, ECHO, ECHOCTL, ECHOE, ECHOK, ECHOKE, ECHONL, ECHOPRT, EXTPROC, ICANON, ICRNL, IEXTEN,
    IGNCR, IMAXBEL, INLCR, ISIG, ISTRIP, IUCLC, IUTF8, IXANY, IXON, NOFLSH, PARMRK, Termios, VEOF,
    VEOL, VEOL2, VERASE, VINTR, VKILL, VLNEXT, VQUIT, VREPRINT, VSTART, VSTOP, VSUSP, VWERASE,
};
use crate::array::Array;
use crate::drivers::ring::{Ring, try_zeroed};
use crate::errno::Result;
use crate::signal::{SIGINT, SIGQUIT, SIGTSTP};

/// Bytes that the input buffer holds: a line has up to `SIZE - 1` bytes and its end.
pub const SIZE: usize = 4096;
/// Bytes of echo that wait for the device.
pub const ECHO_SIZE: usize = 4096;

/// What the tty has to do after a byte was taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// Send this signal to the foreground process group.
    pub signal: Option<i32>,
    /// Drop what was written and has not reached the device yet (a signal without `NOFLSH`).
    pub flush_output: bool,
    /// Readers may have something to read.
    pub wake: bool,
    /// Output stops (true) or goes on (false).
    pub stop: Option<bool>,
}

/// What a line discipline of another machine held.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held<'a> {
    /// What was received and not read; at most [`SIZE`] bytes.
    pub input: &'a [u8],
    /// A byte for each of `input`: not 0 where it ends a line.
    pub ends: &'a [u8],
    /// How many bytes of `input` are complete lines.
    pub complete: usize,
    /// What waits to be echoed; at most [`ECHO_SIZE`] bytes.
    pub echo: &'a [u8],
    /// See [`Output::column`].
    pub column: usize,
    /// See [`Output::canon_column`].
    pub canon_column: usize,
    /// The next byte is taken as it is.
    pub literal_next: bool,
    /// An `ECHOPRT` erasure is open.
    pub erasing: bool,
    /// Output is stopped.
    pub stopped: bool,
}

/// Which bytes an editing character takes away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Erase {
    Char,
    Word,
    Line,
}

/// The state of the line discipline of one terminal.
#[repr(C)]
#[derive(Described)]
pub struct LineDiscipline {
    buf: Array<u8>,
    /// A bit for each byte of `buf` that ends a line.
    ends: [u64; SIZE / 64],
    head: usize,
    canon_head: usize,
    tail: usize,
    /// What waits to be echoed; output processing was applied to it already.
    echo: Ring,
    /// Output processing and the cursor column.
    pub output: Output,
    /// The next byte is taken as it is.
    literal_next: bool,
    /// An `ECHOPRT` erasure is open: `\` was printed and `/` is due.
    erasing: bool,
    /// Output is stopped by `VSTOP` or TCOOFF.
    stopped: bool,
}

/// A control character, for echo: those below space, and DEL.
const fn is_control(c: u8) -> bool {
    c < 0x20 || c == 0x7f
}

impl LineDiscipline {
    /// Nothing received, nothing to echo.
    pub fn try_new() -> Result<Self> {
        Ok(Self {
            buf: try_zeroed(SIZE)?,
            ends: [0; SIZE / 64],
            head: 0,
            canon_head: 0,
            tail: 0,
            echo: Ring::try_new(ECHO_SIZE)?,
            output: Output::new(),
            literal_next: false,
            erasing: false,
            stopped: false,
        })
    }

    /// A new one holds what another held; what does not fit is left out.
    pub fn resume(&mut self, held: &Held<'_>) {
        for (&byte, &end) in held.input.iter().zip(held.ends).take(SIZE) {
            let at = self.head % SIZE;
            self.put(byte);
            if end != 0 {
                self.ends[at / 64] |= 1 << (at % 64);
            }
        }
        self.canon_head = held.complete.min(self.head);
        self.echo.write(held.echo);
        (self.output.column, self.output.canon_column) = (held.column, held.canon_column);
        (self.literal_next, self.erasing) = (held.literal_next, held.erasing);
        self.stopped = held.stopped;
    }

    /// True if output is stopped (`VSTOP`, TCOOFF).
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Stops output or lets it go on; true if that changed anything.
    pub fn set_stopped(&mut self, stopped: bool) -> bool {
        core::mem::replace(&mut self.stopped, stopped) != stopped
    }

    /// Bytes received and not read.
    fn len(&self) -> usize {
        self.head - self.tail
    }

    /// How many input bytes can be taken in now. A full buffer without a complete line still takes
    /// bytes: editing and line ends work, others are dropped.
    pub fn room(&self, t: &Termios) -> usize {
        match (SIZE - 1).saturating_sub(self.len()) {
            0 if t.lflag(ICANON) && self.canon_head == self.tail => 1,
            n => n,
        }
    }

    /// Bytes that a read would find (FIONREAD): complete lines without their end-of-file marks in
    /// canonical mode, everything otherwise.
    pub fn readable(&self, t: &Termios) -> usize {
        if !t.lflag(ICANON) || t.lflag(EXTPROC) {
            return self.len();
        }
        (self.tail..self.canon_head).filter(|&at| !self.is_eof_mark(at)).count()
    }

    /// True if a read has something to return: a line (an end of file counts) in canonical mode,
    /// at least `min` bytes otherwise.
    pub fn input_available(&self, t: &Termios, min: usize) -> bool {
        if t.lflag(ICANON) && !t.lflag(EXTPROC) {
            self.canon_head != self.tail
        } else {
            self.len() >= min.max(1)
        }
    }

    // --- Input ---

    /// Takes in one byte from the terminal; there must be [`room`](Self::room).
    pub fn receive(&mut self, t: &Termios, byte: u8) -> Action {
        let mut c = byte;
        if t.iflag(ISTRIP) {
            c &= 0x7f;
        }
        if t.iflag(IUCLC) && t.lflag(IEXTEN) {
            c.make_ascii_lowercase();
        }
        if core::mem::take(&mut self.literal_next) || t.lflag(EXTPROC) {
            return self.receive_plain(t, c);
        }
        let mut action = Action::default();
        if t.iflag(IXON) {
            if t.is_cc(VSTART, c) {
                action.stop = self.set_stopped(false).then_some(false);
                return action;
            }
            if t.is_cc(VSTOP, c) {
                action.stop = self.set_stopped(true).then_some(true);
                return action;
            }
        }
        if t.lflag(ISIG)
            && let Some(signal) = Self::signal_of(t, c)
        {
            return self.receive_signal(t, c, signal);
        }
        if t.iflag(IXON) && t.iflag(IXANY) && self.set_stopped(false) {
            action.stop = Some(false);
        }
        match c {
            b'\r' if t.iflag(IGNCR) => return action,
            b'\r' if t.iflag(ICRNL) => c = b'\n',
            b'\n' if t.iflag(INLCR) => c = b'\r',
            _ => {}
        }
        let rest = if t.lflag(ICANON) { self.receive_canonical(t, c) } else { None };
        let rest = rest.unwrap_or_else(|| self.receive_plain(t, c));
        action.wake = rest.wake;
        action
    }

    fn signal_of(t: &Termios, c: u8) -> Option<i32> {
        [(VINTR, SIGINT), (VQUIT, SIGQUIT), (VSUSP, SIGTSTP)]
            .into_iter()
            .find(|&(index, _)| t.is_cc(index, c))
            .map(|(_, signal)| signal)
    }

    fn receive_signal(&mut self, t: &Termios, c: u8, signal: i32) -> Action {
        let mut action = Action { signal: Some(signal), ..Action::default() };
        if !t.lflag(NOFLSH) {
            self.flush_input();
            self.echo.clear();
            action.flush_output = true;
        }
        if t.iflag(IXON) && self.set_stopped(false) {
            action.stop = Some(false);
        }
        if t.lflag(ECHO) {
            self.echo_char(t, c);
        }
        action
    }

    /// A byte that may edit or end the line; `None` if it is an ordinary one.
    fn receive_canonical(&mut self, t: &Termios, c: u8) -> Option<Action> {
        let extended = t.lflag(IEXTEN);
        if t.is_cc(VERASE, c) {
            self.erase(t, Erase::Char);
        } else if t.is_cc(VKILL, c) {
            self.erase(t, Erase::Line);
        } else if extended && t.is_cc(VWERASE, c) {
            self.erase(t, Erase::Word);
        } else if extended && t.is_cc(VLNEXT, c) {
            self.literal_next = true;
            if t.lflag(ECHO) {
                self.finish_erasing(t);
                if t.lflag(ECHOCTL) {
                    self.echo_raw(t, b'^');
                    self.echo_raw(t, 0x08);
                }
            }
        } else if extended && t.lflag(ECHO) && t.is_cc(VREPRINT, c) {
            self.finish_erasing(t);
            self.echo_char(t, c);
            self.echo_raw(t, b'\n');
            for at in self.canon_head..self.head {
                self.echo_char(t, self.at(at));
            }
        } else if c == b'\n' {
            if t.lflag(ECHO | ECHONL) {
                self.finish_erasing(t);
                self.echo_raw(t, b'\n');
            }
            return Some(self.end_line(b'\n'));
        } else if t.is_cc(VEOF, c) {
            return Some(self.end_line(DISABLED));
        } else if t.is_cc(VEOL, c) || extended && t.is_cc(VEOL2, c) {
            if t.lflag(ECHO) {
                self.echo_typed(t, c);
            }
            return Some(self.end_line(c));
        } else {
            return None;
        }
        Some(Action::default())
    }

    /// A byte that goes into the buffer.
    fn receive_plain(&mut self, t: &Termios, c: u8) -> Action {
        if t.lflag(ICANON) && self.len() >= SIZE - 1 {
            if t.iflag(IMAXBEL) {
                self.echo_raw(t, 0x07);
            }
            return Action::default();
        }
        if t.lflag(ECHO) {
            if c == b'\n' {
                self.finish_erasing(t);
                self.echo_raw(t, b'\n');
            } else {
                self.echo_typed(t, c);
            }
        }
        if t.iflag(PARMRK) && c == 0xff && self.len() < SIZE - 1 {
            self.put(c);
        }
        self.put(c);
        // In canonical mode nothing can be read before the line ends.
        Action { wake: !t.lflag(ICANON) || t.lflag(EXTPROC), ..Action::default() }
    }

    fn end_line(&mut self, c: u8) -> Action {
        if self.len() < SIZE {
            let at = self.head % SIZE;
            self.put(c);
            self.ends[at / 64] |= 1 << (at % 64);
            self.canon_head = self.head;
        }
        Action { wake: true, ..Action::default() }
    }

    fn put(&mut self, c: u8) {
        let at = self.head % SIZE;
        self.buf[at] = c;
        self.ends[at / 64] &= !(1 << (at % 64));
        self.head += 1;
    }

    fn at(&self, position: usize) -> u8 {
        self.buf[position % SIZE]
    }

    fn is_end(&self, position: usize) -> bool {
        let at = position % SIZE;
        self.ends[at / 64] & 1 << (at % 64) != 0
    }

    fn is_eof_mark(&self, position: usize) -> bool {
        self.is_end(position) && self.at(position) == DISABLED
    }

    // --- Editing ---

    fn erase(&mut self, t: &Termios, what: Erase) {
        if self.head == self.canon_head {
            return;
        }
        if what == Erase::Line {
            if !t.lflag(ECHO) {
                self.head = self.canon_head;
                return;
            }
            if !(t.lflag(ECHOK) && t.lflag(ECHOKE) && t.lflag(ECHOE)) {
                self.head = self.canon_head;
                self.finish_erasing(t);
                self.echo_char(t, t.c_cc[VKILL as usize]);
                if t.lflag(ECHOK) {
                    self.echo_raw(t, b'\n');
                }
                return;
            }
        }
        let mut in_word = false;
        while self.head != self.canon_head {
            // One character, of several bytes perhaps.
            let mut at = self.head - 1;
            while Self::is_continuation(t, self.at(at)) && at > self.canon_head {
                at -= 1;
            }
            let c = self.at(at);
            if Self::is_continuation(t, c) {
                break;
            }
            if what == Erase::Word {
                if c.is_ascii_alphanumeric() || c == b'_' || c >= 0x80 {
                    in_word = true;
                } else if in_word {
                    break;
                }
            }
            let old_head = core::mem::replace(&mut self.head, at);
            if t.lflag(ECHO) {
                self.echo_erasure(t, what, at, old_head);
            }
            if what == Erase::Char {
                break;
            }
        }
        if self.head == self.canon_head && t.lflag(ECHO) {
            self.finish_erasing(t);
        }
    }

    /// Shows that the character at `at..end` is gone.
    fn echo_erasure(&mut self, t: &Termios, what: Erase, at: usize, end: usize) {
        let c = self.at(at);
        if t.lflag(ECHOPRT) {
            if !core::mem::replace(&mut self.erasing, true) {
                self.echo_raw(t, b'\\');
            }
            self.echo_char(t, c);
            for more in at + 1..end {
                self.echo_raw(t, self.at(more));
            }
        } else if what == Erase::Char && !t.lflag(ECHOE) {
            self.echo_char(t, t.c_cc[VERASE as usize]);
        } else if c == b'\t' {
            self.echo_tab_erasure(t);
        } else {
            let cells = match is_control(c) {
                true if t.lflag(ECHOCTL) => 2,
                true => 0,
                false => 1,
            };
            for _ in 0..cells {
                for b in *b"\x08 \x08" {
                    self.echo_raw(t, b);
                }
            }
        }
    }

    /// Moves the cursor back over a tab whose width depends on what stands before it.
    fn echo_tab_erasure(&mut self, t: &Termios) {
        let mut cells = 0;
        let mut after_tab = false;
        for at in (self.canon_head..self.head).rev() {
            let c = self.at(at);
            if c == b'\t' {
                after_tab = true;
                break;
            } else if is_control(c) {
                cells += if t.lflag(ECHOCTL) { 2 } else { 0 };
            } else if !Self::is_continuation(t, c) {
                cells += 1;
            }
        }
        if !after_tab {
            cells += self.output.canon_column;
        }
        for _ in 0..8 - cells % 8 {
            self.echo_raw(t, 0x08);
        }
    }

    fn finish_erasing(&mut self, t: &Termios) {
        if core::mem::take(&mut self.erasing) {
            self.echo_raw(t, b'/');
        }
    }

    fn is_continuation(t: &Termios, c: u8) -> bool {
        t.iflag(IUTF8) && c & 0xc0 == 0x80
    }

    // --- Echo ---

    /// Echoes a byte that was typed into the line.
    fn echo_typed(&mut self, t: &Termios, c: u8) {
        self.finish_erasing(t);
        if self.canon_head == self.head {
            self.output.canon_column = self.output.column;
        }
        self.echo_char(t, c);
    }

    /// Echoes a byte, control characters as `^X`.
    fn echo_char(&mut self, t: &Termios, c: u8) {
        if t.lflag(ECHOCTL) && is_control(c) && c != b'\t' {
            self.echo_raw(t, b'^');
            self.echo_raw(t, c ^ 0x40);
        } else {
            self.echo_raw(t, c);
        }
    }

    /// Echoes a byte through output processing. When the device takes nothing and the buffer is
    /// full, the oldest echo is lost.
    fn echo_raw(&mut self, t: &Termios, c: u8) {
        let mut expanded = [0; Output::MAX_EXPANSION];
        let n = self.output.process_char(t, c, &mut expanded);
        let missing = n.saturating_sub(self.echo.room());
        self.echo.consume(missing);
        self.echo.write(&expanded[..n]);
    }

    /// What is to be echoed, oldest first, as far as it lies in one piece; empty while output is
    /// stopped. The caller sends it and tells [`echoed`](Self::echoed) how much went out.
    pub fn pending_echo(&self) -> &[u8] {
        if self.stopped { &[] } else { self.echo.front() }
    }

    /// The `n` oldest bytes of the echo went out.
    pub fn echoed(&mut self, n: usize) {
        self.echo.consume(n);
    }

    // --- Reading ---

    /// Copies input into `dst`: in canonical mode up to the end of a line, in the other everything
    /// that is there. `more` says whether the same read goes on (the line is not finished and `dst`
    /// was just one part of the reader's buffer).
    pub fn read(&mut self, t: &Termios, dst: &mut [u8]) -> ReadChunk {
        if t.lflag(ICANON) && !t.lflag(EXTPROC) {
            return self.read_canonical(dst);
        }
        let n = dst.len().min(self.len());
        for (i, byte) in dst[..n].iter_mut().enumerate() {
            *byte = self.at(self.tail + i);
        }
        self.advance(n);
        ReadChunk { len: n, line_end: false }
    }

    fn read_canonical(&mut self, dst: &mut [u8]) -> ReadChunk {
        let mut len = 0;
        while self.tail != self.canon_head {
            let at = self.tail;
            if self.is_eof_mark(at) {
                self.advance(1);
                return ReadChunk { len, line_end: true };
            }
            let Some(byte) = dst.get_mut(len) else { break };
            *byte = self.buf[at % SIZE];
            len += 1;
            let line_end = self.is_end(at);
            self.advance(1);
            if line_end {
                return ReadChunk { len, line_end };
            }
        }
        ReadChunk { len, line_end: false }
    }

    /// The reader's buffer was filled exactly up to an end-of-file mark: the mark belongs to this
    /// read, else the next one would return 0.
    pub fn skip_eof_mark(&mut self) {
        if self.tail != self.canon_head && self.is_eof_mark(self.tail) {
            self.advance(1);
        }
    }

    /// [`skip_eof_mark`](Self::skip_eof_mark) if the read was a canonical one.
    pub fn skip_eof_mark_if(&mut self, canonical: bool) {
        if canonical {
            self.skip_eof_mark();
        }
    }

    fn advance(&mut self, n: usize) {
        self.tail += n;
        self.canon_head = self.canon_head.max(self.tail);
    }

    /// Drops all input (TCIFLUSH).
    pub fn flush_input(&mut self) {
        self.tail = self.head;
        self.canon_head = self.head;
        self.erasing = false;
        self.literal_next = false;
    }

    /// Settings changed from `old` to `new`: what was received stays readable.
    pub fn termios_changed(&mut self, old: &Termios, new: &Termios) {
        if (old.c_lflag ^ new.c_lflag) & (ICANON | EXTPROC) != 0 {
            self.ends = [0; SIZE / 64];
            self.canon_head = self.tail;
            if new.lflag(ICANON) && self.head != self.tail {
                // What came in raw counts as one line.
                let at = (self.head - 1) % SIZE;
                self.ends[at / 64] |= 1 << (at % 64);
                self.canon_head = self.head;
            }
            self.erasing = false;
            self.literal_next = false;
        }
        if old.iflag(IXON) && !new.iflag(IXON) {
            self.stopped = false;
        }
    }
}

/// What one step of a read took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadChunk {
    /// Bytes copied.
    pub len: usize,
    /// The read is complete: a line, or an end of file, ended.
    pub line_end: bool,
}

#[cfg(test)]
#[path = "ldisc_tests.rs"]
mod tests;

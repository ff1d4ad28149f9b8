//! The guest's console: threads copy what the guest prints on either of its lines, and one what the user
//! types to the line that the guest's console is.
//!
//! Output goes to stdout (or nowhere, if detached), and its last bytes are kept. Input comes from a
//! terminal, where Ctrl-A starts a command to Bell Jar itself, or from a pipe or file, of which every
//! byte and the end reach the guest.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::sandbox::{self, Role};
use crate::thread;

/// What is at the other end of the guest's console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// A user at a terminal, which is raw: the guest does what a terminal driver does.
    Terminal,
    /// stdin and stdout, of which at least one is a file or a pipe: bytes pass as they are.
    Pipe,
    /// Nobody.
    Detached,
}

impl Console {
    /// What our stdin and stdout are.
    pub fn of_stdio() -> Self {
        match io::stdin().is_terminal() && io::stdout().is_terminal() {
            true => Self::Terminal,
            false => Self::Pipe,
        }
    }
}

/// How much of the output is kept.
const KEPT: usize = 256 << 10;

/// The end of everything that the guest printed so far.
#[derive(Debug, Default)]
pub struct Tail(Mutex<VecDeque<u8>>);

impl Tail {
    fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap();
        let bytes = &bytes[bytes.len().saturating_sub(KEPT)..];
        let excess = (kept.len() + bytes.len()).saturating_sub(KEPT);
        kept.drain(..excess);
        kept.extend(bytes);
    }

    /// The kept bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().iter().copied().collect()
    }
}

/// Where the guest's output goes.
struct Output<F> {
    out: Option<Mutex<Box<dyn Write + Send>>>,
    tail: Arc<Tail>,
    lines: AtomicUsize,
    done: Mutex<Option<F>>,
}

impl<F: FnOnce(io::Result<()>)> Output<F> {
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.tail.push(bytes);
        let Some(out) = &self.out else { return Ok(()) };
        let mut out = out.lock().unwrap();
        out.write_all(bytes).and_then(|()| out.flush())
    }

    /// One line has closed, or its output could not be written.
    fn end(&self, result: io::Result<()>) {
        let last = self.lines.fetch_sub(1, Ordering::AcqRel) == 1;
        if (last || result.is_err())
            && let Some(done) = self.done.lock().unwrap().take()
        {
            done(result);
        }
    }
}

/// Copies what the guest sends on its lines to `out`, if any, and to `tail` until all have closed; then
/// calls `done`, or with the error if `out` could not be written.
pub fn pump_output(
    lines: [UnixStream; 2],
    out: Option<Box<dyn Write + Send>>,
    tail: Arc<Tail>,
    done: impl FnOnce(io::Result<()>) + Send + 'static,
) -> io::Result<()> {
    let output = Arc::new(Output {
        out: out.map(Mutex::new),
        tail,
        lines: AtomicUsize::new(lines.len()),
        done: Mutex::new(Some(done)),
    });
    for mut line in lines {
        let output = Arc::clone(&output);
        thread::named("console-out").spawn(move || {
            sandbox::enter(Role::Pump);
            let mut buffer = vec![0; 64 << 10];
            let result = loop {
                match line.read(&mut buffer) {
                    Ok(0) => break Ok(()),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    // The other end is gone: that is how a line closes.
                    Err(_) => break Ok(()),
                    Ok(n) => {
                        if let Err(e) = output.write(&buffer[..n]) {
                            break Err(e);
                        }
                    }
                }
            };
            output.end(result);
        })?;
    }
    Ok(())
}

/// How what comes from stdin is sent to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// As typed at a terminal; Ctrl-A starts a command to Bell Jar.
    Keys,
    /// A stream of any bytes for our own kernel: DLE DLE is the byte DLE, DLE EOT is the end.
    Framed,
    /// A stream for another kernel's terminal: the end is sent as Ctrl-D.
    Plain,
}

/// Which line input goes to: asked whenever there is some.
pub type Destination = Box<dyn FnMut() -> Arc<UnixStream>>;

/// Copies stdin to the guest once `until_ready` returns, in the form and to the line that it returns.
/// `on_quit` is called when the user types Ctrl-A x at a terminal.
pub fn pump_input(
    until_ready: impl FnOnce() -> (Input, Destination) + Send + 'static,
    on_quit: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    thread::named("console-in").spawn(move || {
        sandbox::enter(Role::Pump);
        let (input, mut destination) = until_ready();
        let mut send = |bytes: &[u8]| (&*destination()).write_all(bytes);
        let mut stdin = io::stdin().lock();
        let mut keys = Keys::default();
        let mut line_ended = true;
        let mut buffer = vec![0; 16 << 10];
        loop {
            let n = match stdin.read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Ok(n) if n > 0 => n,
                Ok(_) | Err(_) => break,
            };
            let read = &buffer[..n];
            let (forward, quit) = match input {
                Input::Keys => keys.feed(read),
                Input::Framed => (framed(read), false),
                Input::Plain => (read.to_vec(), false),
            };
            if let Some(last) = forward.last() {
                line_ended = *last == b'\n';
            }
            if send(&forward).is_err() {
                return;
            }
            if quit {
                on_quit();
                return;
            }
        }
        let end: &[u8] = match input {
            Input::Keys => return,
            Input::Framed => &[DLE, CTRL_D],
            Input::Plain if line_ended => &[CTRL_D],
            // In the middle of a line, the first one only ends the line (termios(3), VEOF).
            Input::Plain => &[CTRL_D, CTRL_D],
        };
        // A guest that is gone needs no end of file.
        let _ = send(end);
    })?;
    Ok(())
}

const DLE: u8 = 0x10;

/// `bytes` with every DLE doubled.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        out.push(byte);
        if byte == DLE {
            out.push(DLE);
        }
    }
    out
}

const CTRL_A: u8 = 0x01;
const CTRL_D: u8 = 0x04;

/// What Ctrl-A does, printed after Ctrl-A h.
pub const KEYS_HELP: &str =
    "\r\nCtrl-A x  end the VM\r\nCtrl-A Ctrl-A  send Ctrl-A\r\nCtrl-A h  this list\r\n";

/// Finds Ctrl-A commands in what is typed.
#[derive(Debug, Default)]
struct Keys {
    after_ctrl_a: bool,
}

impl Keys {
    /// What of `typed` goes to the guest, and whether the user wants to end the VM.
    fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut forward = Vec::with_capacity(typed.len());
        for &key in typed {
            if !std::mem::take(&mut self.after_ctrl_a) {
                match key {
                    CTRL_A => self.after_ctrl_a = true,
                    _ => forward.push(key),
                }
                continue;
            }
            match key {
                b'x' => return (forward, true),
                b'h' | b'?' => eprint!("{KEYS_HELP}"),
                CTRL_A => forward.push(CTRL_A),
                other => forward.extend([CTRL_A, other]),
            }
        }
        (forward, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_x_quits_even_if_typed_in_two_reads() {
        let mut keys = Keys::default();
        assert_eq!(keys.feed(b"ls\x01"), (b"ls".to_vec(), false));
        assert_eq!(keys.feed(b"xrest"), (vec![], true));
    }

    #[test]
    fn ctrl_a_twice_sends_one_and_unknown_commands_pass() {
        let mut keys = Keys::default();
        assert_eq!(keys.feed(b"\x01\x01a\x01b"), (b"\x01a\x01b".to_vec(), false));
    }

    #[test]
    fn framed_doubles_the_escape() {
        assert_eq!(framed(b"a\x10\x04"), b"a\x10\x10\x04");
    }

    #[test]
    fn tail_keeps_the_last_bytes() {
        let tail = Tail::default();
        tail.push(&vec![b'a'; KEPT - 1]);
        tail.push(b"bcd");
        let bytes = tail.bytes();
        assert_eq!((bytes.len(), &bytes[KEPT - 4..]), (KEPT, &b"abcd"[..]));
        tail.push(&vec![b'e'; KEPT + 7]);
        assert_eq!(tail.bytes(), vec![b'e'; KEPT]);
    }
}

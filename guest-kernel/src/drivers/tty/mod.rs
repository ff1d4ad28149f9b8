//! Terminals.
//!
//! A [`Tty`] is what a program sees as a terminal: settings, a line discipline and a place in job
//! control (tty_ioctl(2), termios(3), credentials(7)). Behind it is a [`Backend`]: a serial
//! line, or the master side of a pseudoterminal, which lives in the same [`Tty`].
//!
//! | module | what it is |
//! | --- | --- |
//! | [`termios`], [`ldisc`], [`output`] | the logic, free of locks and devices |
//! | [`io`] | read, write and poll of the terminal side; input from the device |
//! | [`job`] | controlling terminals, background access, hangup |
//! | [`ioctl`] | requests that programs make of a terminal |
//! | [`pty`], [`devpts`] | pseudoterminals: /dev/ptmx and /dev/pts |
//! | `writers` | who writes: one at a time, and none while the machine freezes |
//! | [`console`] | /dev/console, /dev/tty and the terminals of serial lines |
//! | [`resume`] | pseudoterminals of processes that were taken out of another machine |
//! | [`stream`] | /dev/console where it is no terminal |
//!
//! All state of a terminal is under one lock that interrupt handlers take too: the serial port hands
//! its input over, signals and echo included, in its interrupt. User memory is never touched and
//! nothing is written to the device under it.

pub mod console;
pub mod devpts;
pub mod io;
pub mod ioctl;
pub mod job;
pub mod ldisc;
pub mod output;
pub mod pty;
pub mod resume;
pub mod stream;
pub mod termios;
mod writers;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use belljar_abi::Described;

use crate::drivers::serial::{Line, Listener};
use crate::errno::Result;
use crate::fs::Dev;
use crate::kref::Ref;
use crate::mm::try_arc;
use crate::ns::Pid;
use crate::sched::WaitQueue;
use crate::sync::IrqLock;
pub use console::{console, foreground_of};
use io::OpenedAs;
pub use job::disassociate_ctty;
use ldisc::LineDiscipline;
use pty::Master;
use termios::{Termios, WinSize};
use writers::Writers;

/// What a terminal is attached to.
pub enum Backend {
    /// A serial line.
    Line(&'static Line),
    /// A program that holds the master side.
    Pty(Master),
}

/// A terminal.
#[repr(C)]
#[derive(Described)]
pub struct Tty {
    /// Device number of its node.
    pub dev: Dev,
    /// The device, or the other side.
    #[described(skip)]
    pub backend: Backend,
    state: IrqLock<State>,
    /// Readers of the terminal, and whoever polls it.
    #[described(skip)]
    read_wait: WaitQueue,
    /// Writers of the terminal, and whoever polls it.
    #[described(skip)]
    write_wait: WaitQueue,
    /// Who writes to it.
    #[described(skip)]
    writers: Writers,
    /// Raised by a hangup: files opened before it are dead.
    generation: AtomicU32,
}

/// What a terminal's lock guards.
#[repr(C)]
#[derive(Described)]
pub struct State {
    /// Its settings.
    pub termios: Termios,
    /// Its size in characters and pixels.
    pub winsize: WinSize,
    /// What was received and is echoed.
    pub ldisc: LineDiscipline,
    /// The session that it controls.
    session: Option<Ref<Pid>>,
    /// The foreground process group.
    pgrp: Option<Ref<Pid>>,
    /// The session is init's, which gives the terminal up to the first that asks.
    lent: bool,
    /// TIOCEXCL: only privileged callers may open it.
    exclusive: bool,
    /// Open files of the terminal side.
    opens: u32,
    /// The terminal sent VSTOP because its input buffer fills up (IXOFF).
    sent_stop: bool,
}

impl Tty {
    /// A terminal that nobody has open.
    pub fn try_new(dev: Dev, backend: Backend, termios: Termios) -> Result<Arc<Self>> {
        try_arc(Self {
            dev,
            backend,
            state: IrqLock::new(State {
                termios,
                winsize: WinSize::default(),
                ldisc: LineDiscipline::try_new()?,
                session: None,
                pgrp: None,
                lent: false,
                exclusive: false,
                opens: 0,
                sent_stop: false,
            }),
            read_wait: WaitQueue::new(),
            write_wait: WaitQueue::new(),
            writers: Writers::new(),
            generation: AtomicU32::new(0),
        })
    }

    /// The master side of a pseudoterminal.
    pub fn master(&self) -> Option<&Master> {
        match &self.backend {
            Backend::Pty(master) => Some(master),
            Backend::Line(_) => None,
        }
    }

    /// True if a hangup came after a file was opened. Files of /dev/console survive.
    fn is_hung_up(&self, how: OpenedAs) -> bool {
        !how.is_console && self.generation.load(Ordering::Acquire) != how.generation
    }

    /// Looks at the state: for /proc and tests.
    pub fn with_state<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.state.lock())
    }
}

impl State {
    /// The foreground process group.
    pub fn pgrp(&self) -> Option<&Ref<Pid>> {
        self.pgrp.as_ref()
    }

    /// True if this is the terminal of a session.
    fn is_of(&self, session: &Ref<Pid>) -> bool {
        self.session.as_ref().is_some_and(|own| Ref::ptr_eq(own, session))
    }
}

impl Listener for Tty {
    fn room(&self) -> usize {
        self.input_room()
    }

    fn receive(&self, bytes: &[u8]) {
        self.receive(bytes);
    }

    fn sent(&self) {
        self.output_was_taken();
    }

    fn resized(&self, ws_row: u16, ws_col: u16) {
        self.resize(WinSize { ws_row, ws_col, ..WinSize::default() });
    }
}

//! Terminals by their device nodes: /dev/console, /dev/ttyAMA0, /dev/hvc0, /dev/tty, /dev/ptmx, /dev/pts/N.
//!
//! The machine has a terminal for each of its serial lines: the UART, and port 0 of a virtio console where
//! there is one. One of them is /dev/console: the last that the kernel's command line names with
//! `console=` and the machine has, else the UART.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use belljar_abi::Described;

use super::io::OpenedAs;
use super::pty::Ptmx;
use super::termios::{Termios, WinSize};
use super::writers::Writers;
use super::{Backend, Tty, devpts, ioctl, job, stream};
use crate::drivers::serial::Line;
use crate::drivers::{pl011, virtio};
use crate::errno::{Errno, Result};
use crate::fs::chrdev::{CharDevEntry, register_chrdev_region};
use crate::fs::{
    CharDevice, Dev, FMode, File, FileKind, FileOps, Inode, OpenFlags, Path, PollFlags, PollTable,
    UserBuf, register_chrdev, register_filesystem,
};
use crate::kref::Ref;
use crate::mm::try_box;
use crate::ns::{Cred, Pid};
use crate::sched::clock::Deadline;
use crate::sync::Once;

/// /dev/ttyAMA0, the UART.
pub const TTY_AMA0: Dev = Dev::new(204, 64);
/// /dev/hvc0, port 0 of the virtio console.
pub const HVC0: Dev = Dev::new(229, 0);
/// /dev/tty, the caller's controlling terminal.
pub const TTY: Dev = Dev::new(5, 0);
/// /dev/console.
pub const CONSOLE: Dev = Dev::new(5, 1);
/// /dev/ptmx.
pub const PTMX: Dev = Dev::new(5, 2);

/// Which device is the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The UART.
    Uart,
    /// Port 0 of the virtio console.
    Virtio,
}

/// How long the other side may take to read what is being written when the machine freezes.
const PATIENCE: u64 = 1_000_000_000;

static UART_TTY: Once<Arc<Tty>> = Once::new();
static VIRTIO_TTY: Once<Arc<Tty>> = Once::new();
static CONSOLE_KIND: Once<Kind> = Once::new();

impl Kind {
    fn line(self) -> &'static Line {
        match self {
            Self::Uart => &pl011::LINE,
            Self::Virtio => &virtio::console::LINE,
        }
    }

    fn tty(self) -> &'static Once<Arc<Tty>> {
        match self {
            Self::Uart => &UART_TTY,
            Self::Virtio => &VIRTIO_TTY,
        }
    }

    /// The console among the devices that there are.
    fn choose(bootargs: &str, has_virtio: bool) -> Self {
        bootargs
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix("console="))
            .filter_map(|value| match value.split(',').next() {
                Some("ttyAMA0") => Some(Self::Uart),
                Some("hvc0") if has_virtio => Some(Self::Virtio),
                _ => None,
            })
            .next_back()
            .unwrap_or(Self::Uart)
    }
}

/// The device of the console.
pub fn kind() -> Kind {
    CONSOLE_KIND.try_get().copied().unwrap_or(Kind::Uart)
}

/// The terminal of the console.
pub fn console() -> Option<&'static Arc<Tty>> {
    kind().tty().try_get()
}

/// The terminal at the other end has another size; its foreground group learns of that.
pub fn set_winsize(rows: u16, columns: u16) {
    if let Some(tty) = console() {
        tty.resize(WinSize { ws_row: rows, ws_col: columns, ..WinSize::default() });
    }
}

/// Sleeps until everything that was written to the console is out.
pub fn drain() {
    if console().is_some() {
        kind().line().drain();
    }
}

/// Lets nobody begin to write to the machine's lines, and gives those who write a while to finish.
pub fn stop_writers() {
    let deadline = Deadline::after(PATIENCE);
    all_writers().for_each(|writers| writers.stop(deadline));
}

/// Ends [`stop_writers`].
pub fn let_writers_go_on() {
    all_writers().for_each(Writers::go_on);
}

fn all_writers() -> impl Iterator<Item = &'static Writers> {
    // A console that is a stream has those of its line's terminal.
    [&UART_TTY, &VIRTIO_TTY].into_iter().filter_map(Once::try_get).map(|tty| &tty.writers)
}

fn register_nodes() {
    register_chrdev(CONSOLE, "console", 0o600, &TerminalNodes);
    register_chrdev(TTY_AMA0, "ttyAMA0", 0o600, &TerminalNodes);
    if VIRTIO_TTY.try_get().is_some() {
        register_chrdev(HVC0, "hvc0", 0o600, &TerminalNodes);
    }
    register_chrdev(TTY, "tty", 0o666, &TerminalNodes);
    register_chrdev(PTMX, "ptmx", 0o666, &Ptmx);
    register_chrdev_region(CharDevEntry {
        dev: Dev::new(super::pty::PTS_MAJOR, 0),
        count: devpts::PTY_MAX as u32,
        name: "",
        mode: 0o600,
        ops: &TerminalNodes,
    });
    register_filesystem(&devpts::DevPts);
}

/// The word on the kernel's command line that says that the console is no terminal: see [`stream`].
const RAW_CONSOLE: &str = "belljar.console=raw";

/// The word that says how many rows and columns the user's terminal has: `24x80`.
const CONSOLE_SIZE: &str = "belljar.winsize=";

/// Makes the terminals of the machine's lines and all device nodes, and lets input come. Boot order calls
/// it once, when the virtio devices are known.
pub fn init(bootargs: &str) -> Result<Kind> {
    pl011::init_line()?;
    let has_virtio = virtio::console::device().is_some();
    let kind = *CONSOLE_KIND.set(Kind::choose(bootargs, has_virtio));
    let raw = bootargs.split_ascii_whitespace().any(|word| word == RAW_CONSOLE);
    for (one, dev) in [(Kind::Uart, TTY_AMA0), (Kind::Virtio, HVC0)] {
        if one == Kind::Virtio && !has_virtio {
            continue;
        }
        let tty = one.tty().set(Tty::try_new(dev, Backend::Line(one.line()), Termios::STANDARD)?);
        if one == kind
            && let Some(size) = console_size(bootargs)
        {
            tty.state.lock().winsize = size;
        }
        // Port 0 stays closed, and what is sent to it waits outside, unless it is the console: the VMM
        // then knows that the user's input is for the UART.
        if one == kind && raw {
            one.line().attach(stream::init(one.line(), tty)?);
        } else if one == kind || one == Kind::Uart {
            one.line().attach(&**tty);
        }
    }
    register_nodes();
    Ok(kind)
}

fn console_size(bootargs: &str) -> Option<WinSize> {
    let mut words = bootargs.split_ascii_whitespace();
    let (rows, columns) =
        words.find_map(|word| word.strip_prefix(CONSOLE_SIZE))?.split_once('x')?;
    let (ws_row, ws_col) = (rows.parse().ok()?, columns.parse().ok()?);
    Some(WinSize { ws_row, ws_col, ..WinSize::default() })
}

/// Opens terminals.
struct TerminalNodes;

impl CharDevice for TerminalNodes {
    fn open(
        &self,
        dev: Dev,
        inode: &Ref<Inode>,
        _path: &Path,
        flags: OpenFlags,
        _cred: &Cred,
    ) -> Result<Box<dyn FileOps>> {
        if dev == CONSOLE
            && let Some(stream) = stream::open()
        {
            return Ok(stream);
        }
        let tty = match dev {
            TTY => job::controlling_tty().ok_or(Errno::ENXIO)?,
            CONSOLE => console().ok_or(Errno::ENXIO)?.clone(),
            TTY_AMA0 => UART_TTY.try_get().ok_or(Errno::ENXIO)?.clone(),
            HVC0 => {
                let tty = VIRTIO_TTY.try_get().ok_or(Errno::ENXIO)?;
                virtio::console::LINE.attach(&**tty);
                tty.clone()
            }
            _ => devpts::terminal_of(inode).ok_or(Errno::EIO)?,
        };
        let may_control = !flags.contains(OpenFlags::NOCTTY) && dev != TTY && dev != CONSOLE;
        Ok(try_box(TtyFile::open(tty, dev == CONSOLE, may_control && flags.reads())?)?)
    }
}

/// An open terminal.
#[repr(C)]
#[derive(Described)]
pub struct TtyFile {
    #[described(skip)]
    tty: Arc<Tty>,
    /// Where that is, for who looks from outside.
    #[described(as = "ptr Tty", name = "tty")]
    addr: usize,
    /// [`Tty::generation`] when it was opened.
    generation: u32,
    is_console: bool,
}

/// The foreground process group of the terminal that `file` is.
pub fn foreground_of(file: &File) -> Option<Ref<Pid>> {
    file.ops_as::<TtyFile>()?.tty.foreground()
}

impl TtyFile {
    /// Opens a terminal; with `take`, a session leader without one takes it as its controlling one.
    pub fn open(tty: Arc<Tty>, is_console: bool, take: bool) -> Result<Self> {
        let generation = {
            let mut state = tty.state.lock();
            if tty.master().is_some_and(|master| master.is_locked() || !master.is_open()) {
                return Err(Errno::EIO);
            }
            if state.exclusive && !job::is_admin() {
                return Err(Errno::EBUSY);
            }
            state.opens += 1;
            tty.generation.load(Ordering::Acquire)
        };
        if let Some(master) = tty.master() {
            master.set_slave_closed(false);
        }
        if take {
            tty.take_at_open();
        }
        Ok(Self { addr: Arc::as_ptr(&tty) as usize, tty, generation, is_console })
    }

    /// Opens a terminal of processes that go on in this machine as it was open in another, whatever it says to
    /// others who open it; with `hung_up`, a hangup came afterwards.
    pub(super) fn reopen(tty: Arc<Tty>, hung_up: bool) -> Self {
        tty.state.lock().opens += 1;
        let now = tty.generation.load(Ordering::Acquire);
        let generation = now.wrapping_sub(u32::from(hung_up));
        Self { addr: Arc::as_ptr(&tty) as usize, tty, generation, is_console: false }
    }

    /// The terminal.
    pub fn tty(&self) -> &Arc<Tty> {
        &self.tty
    }

    fn how(&self, file: &File) -> OpenedAs {
        OpenedAs {
            generation: self.generation,
            is_console: self.is_console,
            nonblock: file.is_nonblocking(),
        }
    }
}

impl Drop for TtyFile {
    fn drop(&mut self) {
        let master = self.tty.master();
        let (is_last, hears) = {
            let mut state = self.tty.state.lock();
            state.opens -= 1;
            state.exclusive &= state.opens != 0;
            (state.opens == 0, master.filter(|master| master.is_open()))
        };
        match (is_last, hears, master) {
            (true, Some(master), _) => master.set_slave_closed(true),
            (true, None, Some(master)) => master.release_number(),
            _ => {}
        }
    }
}

impl FileOps for TtyFile {
    fn read(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        let want = buf.remaining();
        self.tty.read(self.how(file), want, &mut |bytes| match buf.put(bytes)? {
            n if n == bytes.len() => Ok(()),
            _ => Err(Errno::EFAULT),
        })
    }

    fn write(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        let len = buf.remaining();
        self.tty.write(self.how(file), len, &mut |bytes| match buf.take(bytes)? {
            n if n == bytes.len() => Ok(()),
            _ => Err(Errno::EFAULT),
        })
    }

    fn ioctl(&self, file: &File, cmd: u32, arg: u64) -> Result<usize> {
        if self.tty.is_hung_up(self.how(file)) {
            use linux_raw_sys::ioctl::TIOCSPGRP;
            return Err(if cmd == TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO });
        }
        ioctl::terminal(&self.tty, file.fmode().contains(FMode::READ), cmd, arg)
    }

    fn poll(&self, file: &File, table: &mut PollTable<'_>) -> PollFlags {
        self.tty.poll(self.how(file), table)
    }

    fn abilities(&self) -> FMode {
        FMode::empty()
    }

    fn kind(&self) -> Option<FileKind> {
        Some(FileKind::Tty)
    }

    fn described(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_is_the_last_that_is_named_and_exists() {
        assert_eq!(Kind::choose("quiet", true), Kind::Uart);
        assert_eq!(Kind::choose("console=ttyAMA0 console=hvc0", true), Kind::Virtio);
        assert_eq!(Kind::choose("console=ttyAMA0 console=hvc0", false), Kind::Uart);
        assert_eq!(Kind::choose("console=hvc0 console=ttyAMA0,115200", true), Kind::Uart);
        assert_eq!(Kind::choose("console=hvc0 console=tty9", true), Kind::Virtio);
    }
}

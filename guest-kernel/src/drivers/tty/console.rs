//! Terminals by their device nodes: /dev/console, /dev/ttyAMA0, /dev/tty, /dev/ptmx, /dev/pts/N; and
//! the terminal of the machine's serial port.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::io::OpenedAs;
use super::pty::Ptmx;
use super::termios::{Termios, WinSize};
use super::{Backend, ConsoleDevice, Tty, devpts, ioctl, job, stream};
use crate::drivers::pl011::{self, RxHook};
use crate::errno::{Errno, Result};
use crate::fs::chrdev::{CharDevEntry, register_chrdev_region};
use crate::fs::{
    CharDevice, Dev, FMode, File, FileKind, FileOps, Inode, OpenFlags, Path, PollFlags, PollTable,
    UserBuf, register_chrdev, register_filesystem,
};
use crate::kref::Ref;
use crate::sync::Once;

/// /dev/ttyAMA0, the serial port.
pub const TTY_AMA0: Dev = Dev::new(204, 64);
/// /dev/tty, the caller's controlling terminal.
pub const TTY: Dev = Dev::new(5, 0);
/// /dev/console.
pub const CONSOLE: Dev = Dev::new(5, 1);
/// /dev/ptmx.
pub const PTMX: Dev = Dev::new(5, 2);

static CONSOLE_TTY: Once<Arc<Tty>> = Once::new();

/// The terminal of the serial port.
pub fn console() -> Option<&'static Arc<Tty>> {
    CONSOLE_TTY.try_get()
}

/// Makes the console's terminal and the device nodes.
fn init(device: &'static dyn ConsoleDevice) -> Result<()> {
    CONSOLE_TTY.set(Tty::try_new(TTY_AMA0, Backend::Console(device), Termios::STANDARD)?);
    register_chrdev(CONSOLE, "console", 0o600, &TerminalNodes);
    register_chrdev(TTY_AMA0, "ttyAMA0", 0o600, &TerminalNodes);
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
    Ok(())
}

/// The word on the kernel's command line that says that the console is no terminal: see [`stream`].
const RAW_CONSOLE: &str = "belljar.console=raw";

/// The word that says how many rows and columns the user's terminal has: `24x80`.
const CONSOLE_SIZE: &str = "belljar.winsize=";

/// Puts the console's terminal on the serial port.
pub fn init_serial(bootargs: &str) -> Result<()> {
    init(&SerialPort)?;
    if bootargs.split_ascii_whitespace().any(|word| word == RAW_CONSOLE) {
        stream::init(&SerialPort)?;
        pl011::set_rx_hook(RxHook {
            room: || stream::get().map_or(0, |stream| stream.room()),
            receive: |bytes| {
                if let Some(stream) = stream::get() {
                    stream.receive(bytes);
                }
            },
        });
        return Ok(());
    }
    if let (Some(tty), Some(size)) = (console(), console_size(bootargs)) {
        tty.state.lock().winsize = size;
    }
    pl011::set_rx_hook(RxHook {
        room: || CONSOLE_TTY.try_get().map_or(0, |tty| tty.input_room()),
        receive: |bytes| {
            if let Some(tty) = CONSOLE_TTY.try_get() {
                tty.receive(bytes);
            }
        },
    });
    Ok(())
}

fn console_size(bootargs: &str) -> Option<WinSize> {
    let mut words = bootargs.split_ascii_whitespace();
    let (rows, columns) =
        words.find_map(|word| word.strip_prefix(CONSOLE_SIZE))?.split_once('x')?;
    let (ws_row, ws_col) = (rows.parse().ok()?, columns.parse().ok()?);
    Some(WinSize { ws_row, ws_col, ..WinSize::default() })
}

/// The machine's UART.
struct SerialPort;

impl ConsoleDevice for SerialPort {
    fn write(&self, bytes: &[u8]) {
        pl011::put(bytes);
    }

    fn resume_input(&self) {
        pl011::resume_rx();
    }
}

/// Opens terminals.
struct TerminalNodes;

impl CharDevice for TerminalNodes {
    fn open(
        &self,
        dev: Dev,
        _inode: &Ref<Inode>,
        _path: &Path,
        flags: OpenFlags,
    ) -> Result<Box<dyn FileOps>> {
        if dev == CONSOLE
            && let Some(stream) = stream::open()
        {
            return Ok(stream);
        }
        let tty = match dev {
            TTY => job::controlling_tty().ok_or(Errno::ENXIO)?,
            CONSOLE | TTY_AMA0 => console().ok_or(Errno::ENXIO)?.clone(),
            _ => devpts::find(dev.minor()).ok_or(Errno::EIO)?,
        };
        let may_control = !flags.contains(OpenFlags::NOCTTY) && dev != TTY && dev != CONSOLE;
        Ok(Box::new(TtyFile::open(tty, dev == CONSOLE, may_control && flags.reads())?))
    }
}

/// An open terminal.
pub struct TtyFile {
    tty: Arc<Tty>,
    generation: u32,
    is_console: bool,
}

impl TtyFile {
    /// Opens a terminal; with `take`, a session leader without one takes it as its controlling one.
    pub fn open(tty: Arc<Tty>, is_console: bool, take: bool) -> Result<Self> {
        if let Some(master) = tty.master()
            && (master.is_locked() || !master.is_open())
        {
            return Err(Errno::EIO);
        }
        let generation = {
            let mut state = tty.state.lock();
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
        Ok(Self { tty, generation, is_console })
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
        let last = {
            let mut state = self.tty.state.lock();
            state.opens -= 1;
            state.exclusive &= state.opens != 0;
            state.opens == 0
        };
        if last && let Some(master) = self.tty.master() {
            master.set_slave_closed(true);
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
}

//! Requests that programs make of terminals (tty_ioctl(2)).

use alloc::sync::Arc;

use super::console::TtyFile;
use super::pty::Master;
use super::termios::{Termios, VSTART, VSTOP, WinSize};
use super::{Backend, State, Tty, devpts, job};
use crate::errno::{Errno, Result};
use crate::fs::{FMode, File, OpenFlags};
use crate::mm::try_box;
use crate::mm::user::UserPtr;
use crate::pod;
use crate::signal::{self, SIGTTOU, SIGWINCH};
use linux_raw_sys::ioctl::*;

pod!(Termios, WinSize, OldTermios, Termio);

/// `struct termios`: the first bytes of [`Termios`], without the speeds.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OldTermios([u32; Termios::OLD_SIZE / 4]);

impl OldTermios {
    fn of(t: &Termios) -> Self {
        // SAFETY: both are plain numbers, and `Termios` is the longer one.
        Self(unsafe { core::ptr::from_ref(t).cast::<[u32; Termios::OLD_SIZE / 4]>().read() })
    }

    fn apply(&self, t: &mut Termios) {
        // SAFETY: as above.
        unsafe { core::ptr::from_mut(t).cast::<[u32; Termios::OLD_SIZE / 4]>().write(self.0) };
    }
}

/// `struct termio` of asm-generic/termios.h: the low halves of the flags, and fewer control characters.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Termio {
    flags: [u16; 4],
    line: u8,
    cc: [u8; 8],
    /// Linux has a hole here.
    padding: u8,
}

impl Termio {
    fn of(t: &Termios) -> Self {
        let flags = [t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag].map(|flag| flag as u16);
        let mut cc = [0; 8];
        cc.copy_from_slice(&t.c_cc[..8]);
        Self { flags, line: t.c_line, cc, padding: 0 }
    }

    fn apply(&self, t: &mut Termios) {
        let flags = [&mut t.c_iflag, &mut t.c_oflag, &mut t.c_cflag, &mut t.c_lflag];
        for (flag, low) in flags.into_iter().zip(self.flags) {
            *flag = *flag & 0xffff_0000 | u32::from(low);
        }
        t.c_line = self.line;
        t.c_cc[..8].copy_from_slice(&self.cc);
    }
}

/// When new settings take effect.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    /// After what was written has gone out.
    Drained,
    /// Then, and what was not read is dropped.
    Flushed,
}

impl When {
    /// Of a request among three whose numbers follow each other.
    const fn of(cmd: u32, first: u32) -> Self {
        match cmd - first {
            0 => Self::Now,
            1 => Self::Drained,
            _ => Self::Flushed,
        }
    }
}

/// Arguments of TCFLSH and TCXONC (ioctl_tty(2)).
const TCIFLUSH: u64 = 0;
const TCOFLUSH: u64 = 1;
const TCIOFLUSH: u64 = 2;
const TCOOFF: u64 = 0;
const TCOON: u64 = 1;
const TCIOFF: u64 = 2;
const TCION: u64 = 3;
/// Line discipline number of N_TTY.
const N_TTY: u32 = 0;

fn word(arg: u64) -> UserPtr<u32> {
    UserPtr::new(arg)
}

/// A request through the terminal side.
pub fn terminal(tty: &Arc<Tty>, readable: bool, cmd: u32, arg: u64) -> Result<usize> {
    match cmd {
        FIONREAD => {
            let n = tty.with_state(|s| s.ldisc.readable(&s.termios));
            word(arg).write(n as u32)?;
        }
        TIOCSCTTY => tty.set_controlling(arg == 1, readable)?,
        TIOCNOTTY => tty.give_up()?,
        TIOCGPGRP => word(arg).write(tty.number_of(false, false)?)?,
        TIOCGSID => word(arg).write(tty.number_of(true, false)?)?,
        TIOCSTI => {
            if !tty.controls_caller() && !job::is_admin() {
                return Err(Errno::EPERM);
            }
            let byte = UserPtr::<u8>::new(arg).read()?;
            tty.receive(&[byte]);
        }
        _ => return common(tty, cmd, arg),
    }
    Ok(0)
}

/// A request through the master side of a pseudoterminal.
pub fn master(file: &File, tty: &Arc<Tty>, side: &Master, cmd: u32, arg: u64) -> Result<usize> {
    match cmd {
        TIOCGPTN => word(arg).write(side.index)?,
        TIOCSPTLCK => side.set_locked(word(arg).read()? != 0),
        TIOCGPTLCK => word(arg).write(u32::from(side.is_locked()))?,
        TIOCPKT => side.set_packet_mode(word(arg).read()? != 0),
        TIOCGPKT => word(arg).write(u32::from(side.packet_mode()))?,
        TIOCGPTPEER => return open_peer(file, tty, side, arg as u32),
        TIOCSIG => {
            let sig = i32::try_from(arg).map_err(|_| Errno::EINVAL)?;
            if !signal::is_valid(sig) {
                return Err(Errno::EINVAL);
            }
            tty.signal_foreground(sig);
        }
        FIONREAD => word(arg).write(side.output.lock().len() as u32)?,
        TIOCGPGRP => word(arg).write(tty.number_of(false, true)?)?,
        TIOCGSID => word(arg).write(tty.number_of(true, true)?)?,
        TCFLSH => {
            // The master's output is the terminal's input, and the other way round.
            let swapped = match arg {
                TCIFLUSH => TCOFLUSH,
                TCOFLUSH => TCIFLUSH,
                other => other,
            };
            tty.flush(swapped)?;
        }
        TIOCSTI | TIOCSCTTY | TIOCNOTTY => return Err(Errno::ENOTTY),
        _ => return common(tty, cmd, arg),
    }
    Ok(0)
}

/// TIOCGPTPEER: a descriptor of the terminal side, whatever its name in the caller's mounts.
fn open_peer(master: &File, tty: &Arc<Tty>, side: &Master, flags: u32) -> Result<usize> {
    let hooks = job::hooks().ok_or(Errno::ENOTTY)?;
    let flags = OpenFlags::from_bits_truncate(flags);
    let mut fmode = FMode::empty();
    fmode.set(FMode::READ, flags.reads());
    fmode.set(FMode::WRITE, flags.writes());
    let take = flags.reads() && !flags.contains(OpenFlags::NOCTTY);
    let place = devpts::place(&master.path, side.index)?;
    let ops = TtyFile::open(tty.clone(), false, take)?;
    let file = File::new(place, flags, fmode, try_box(ops)?)?;
    Ok((hooks.install_file)(file, flags.contains(OpenFlags::CLOEXEC))? as usize)
}

/// What both sides answer alike: it is about the terminal.
fn common(tty: &Arc<Tty>, cmd: u32, arg: u64) -> Result<usize> {
    match cmd {
        TCGETS => {
            let termios = tty.with_state(|s| s.termios);
            UserPtr::<OldTermios>::new(arg).write(OldTermios::of(&termios))?;
        }
        TCGETS2 => UserPtr::<Termios>::new(arg).write(tty.with_state(|s| s.termios))?,
        TCGETA => {
            let termios = tty.with_state(|s| s.termios);
            UserPtr::<Termio>::new(arg).write(Termio::of(&termios))?;
        }
        TCSETS | TCSETSW | TCSETSF => tty.change(When::of(cmd, TCSETS), |termios| {
            UserPtr::<OldTermios>::new(arg).read().map(|old| old.apply(termios))
        })?,
        TCSETS2 | TCSETSW2 | TCSETSF2 => tty.change(When::of(cmd, TCSETS2), |termios| {
            UserPtr::<Termios>::new(arg).read().map(|new| *termios = new)
        })?,
        TCSETA | TCSETAW | TCSETAF => tty.change(When::of(cmd, TCSETA), |termios| {
            UserPtr::<Termio>::new(arg).read().map(|old| old.apply(termios))
        })?,
        TIOCGWINSZ => UserPtr::<WinSize>::new(arg).write(tty.with_state(|s| s.winsize))?,
        TIOCSWINSZ => tty.resize(UserPtr::<WinSize>::new(arg).read()?),
        TIOCSPGRP => match tty.check_change(SIGTTOU) {
            Err(Errno::EIO) => return Err(Errno::ENOTTY),
            result => {
                result?;
                tty.set_foreground(word(arg).read()? as i32)?;
            }
        },
        TIOCOUTQ => {
            let waiting = match &tty.backend {
                Backend::Line(line) => line.device().pending(),
                Backend::Pty(master) => master.output.lock().len(),
            };
            word(arg).write(waiting as u32)?;
        }
        TCFLSH => {
            tty.check_change(SIGTTOU)?;
            tty.flush(arg)?;
        }
        TCXONC => {
            tty.check_change(SIGTTOU)?;
            tty.flow(arg)?;
        }
        // A break has nowhere to go, but it comes after what was written before.
        TCSBRK | TCSBRKP | TIOCSBRK | TIOCCBRK => {
            tty.check_change(SIGTTOU)?;
            tty.drain()?;
        }
        TIOCEXCL => tty.set_exclusive(true),
        TIOCNXCL => tty.set_exclusive(false),
        TIOCGEXCL => word(arg).write(u32::from(tty.with_state(|s| s.exclusive)))?,
        TIOCGDEV => word(arg).write(tty.dev.encode())?,
        TIOCGETD => word(arg).write(N_TTY)?,
        TIOCSETD => {
            tty.check_change(SIGTTOU)?;
            if word(arg).read()? != N_TTY {
                return Err(Errno::EINVAL);
            }
        }
        TIOCVHANGUP => {
            if !job::is_admin() {
                return Err(Errno::EPERM);
            }
            tty.hang_up(false);
        }
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

impl Tty {
    /// Changes the settings for the caller, who says how.
    fn change(&self, when: When, how: impl FnOnce(&mut Termios) -> Result<()>) -> Result<()> {
        self.check_change(SIGTTOU)?;
        let mut new = self.with_state(|s| s.termios);
        how(&mut new)?;
        new.derive_speeds();
        if when != When::Now {
            self.drain()?;
        }
        self.set_termios(new, when == When::Flushed);
        Ok(())
    }

    pub(super) fn set_termios(&self, new: Termios, flush: bool) {
        let old = {
            let mut state = self.state.lock();
            let State { ldisc, termios, .. } = &mut *state;
            if flush {
                ldisc.flush_input();
            }
            let old = core::mem::replace(termios, new);
            let stopped = ldisc.is_stopped();
            ldisc.termios_changed(&old, &new);
            (old, stopped && !ldisc.is_stopped())
        };
        if let Backend::Pty(master) = &self.backend {
            master.termios_changed(&old.0, &new);
        }
        if old.1 {
            self.send_echo();
        }
        self.wake_everybody();
    }

    /// Sets the size; the foreground group learns of a change.
    pub(super) fn resize(&self, size: WinSize) {
        let old = core::mem::replace(&mut self.state.lock().winsize, size);
        if old != size {
            self.signal_foreground(SIGWINCH);
        }
    }

    fn set_exclusive(&self, on: bool) {
        self.state.lock().exclusive = on;
    }

    /// TCFLSH.
    fn flush(&self, what: u64) -> Result<()> {
        let (input, output) = match what {
            TCIFLUSH => (true, false),
            TCOFLUSH => (false, true),
            TCIOFLUSH => (true, true),
            _ => return Err(Errno::EINVAL),
        };
        if input {
            self.state.lock().ldisc.flush_input();
        }
        if let Backend::Pty(master) = &self.backend {
            master.flushed(input, output);
        }
        self.wake_everybody();
        Ok(())
    }

    /// TCXONC.
    fn flow(&self, what: u64) -> Result<()> {
        let send = match what {
            TCOOFF | TCOON => {
                self.set_stopped(what == TCOOFF);
                return Ok(());
            }
            TCIOFF => VSTOP,
            TCION => VSTART,
            _ => return Err(Errno::EINVAL),
        };
        let byte = self.with_state(|s| s.termios.c_cc[send as usize]);
        if byte != super::termios::DISABLED {
            self.send_char(byte);
        }
        Ok(())
    }
}

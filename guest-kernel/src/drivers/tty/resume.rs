//! Pseudoterminals of processes that go on here after they were taken out of another machine: the pair under its
//! number, with settings, what was on its way in both directions, and who uses it.

use alloc::sync::Arc;

use super::console::{PTMX, TTY, TtyFile};
use super::ldisc::Held;
use super::pty::{MasterFile, PTS_MAJOR, Packet};
use super::termios::{Termios, WinSize};
use super::{Backend, Tty, devpts};
use crate::errno::{Errno, Result};
use crate::fs::{Dev, FMode, File, OpenFlags, Path};
use crate::kref::Ref;
use crate::mm::try_box;

pub use super::ldisc::{ECHO_SIZE, SIZE as INPUT_SIZE};
pub use super::pty::OUTPUT_SIZE;

/// What a pseudoterminal was.
pub struct Former<'a> {
    /// N of /dev/pts/N.
    pub index: u32,
    /// Permission bits, owner and group of that node.
    pub node: (u32, u32, u32),
    /// Its settings.
    pub termios: Termios,
    /// Its size.
    pub winsize: WinSize,
    /// What its line discipline holds.
    pub held: Held<'a>,
    /// What the terminal sent and the master has not read; at most [`OUTPUT_SIZE`] bytes.
    pub output: &'a [u8],
    /// Packet mode is on.
    pub packet_mode: bool,
    /// What the master's next read tells of in packet mode.
    pub packet_status: u8,
    /// The terminal side cannot be opened yet.
    pub locked: bool,
    /// The terminal side was open and is no more.
    pub slave_closed: bool,
    /// TIOCEXCL is in effect.
    pub exclusive: bool,
}

/// What files can be used for that were opened with these flags.
fn fmode(flags: OpenFlags) -> FMode {
    let mut fmode = FMode::empty();
    fmode.set(FMode::READ, flags.reads());
    fmode.set(FMode::WRITE, flags.writes());
    fmode
}

/// Makes a pair whose master was opened through `ptmx`; the file is the master. `EEXIST` if its number is
/// somebody else's here.
pub fn open_master(ptmx: Path, flags: OpenFlags, former: &Former<'_>) -> Result<Ref<File>> {
    if ptmx.inode()?.rdev != PTMX {
        return Err(Errno::ENODEV);
    }
    let root = devpts::root_for(&ptmx)?;
    let made = devpts::allocate(&root.mnt.sb, Some(former.index), |index| {
        let master = super::pty::Master::try_new(&root.mnt.sb, index)?;
        master.set_locked(former.locked);
        let packet = Packet { on: former.packet_mode, status: former.packet_status };
        master.set_packet(packet);
        master.set_slave_closed(former.slave_closed);
        master.output.lock().write(former.output);
        let dev = Dev::new(PTS_MAJOR, index);
        let tty = Tty::try_new(dev, Backend::Pty(master), former.termios)?;
        {
            let mut state = tty.state.lock();
            state.winsize = former.winsize;
            state.exclusive = former.exclusive;
            state.ldisc.resume(&former.held);
        }
        Ok(tty)
    });
    let (tty, node) = made?;
    let (mode, uid, gid) = former.node;
    node.set_permissions(mode);
    node.set_owner(uid, gid);
    File::new(ptmx, flags, fmode(flags), try_box(MasterFile::new(tty, node))?)
}

/// The terminal of a master file.
pub fn terminal_of(master: &File) -> Option<&Arc<Tty>> {
    master.ops_as::<MasterFile>().map(MasterFile::tty)
}

/// Opens the terminal side of the pair of `master` at `place`, its node or /dev/tty; with `hung_up`, a hangup came
/// since it was opened.
pub fn open_terminal(
    master: &File,
    place: Path,
    flags: OpenFlags,
    hung_up: bool,
) -> Result<Ref<File>> {
    let master = master.ops_as::<MasterFile>().ok_or(Errno::ENOTTY)?;
    let inode = place.inode()?;
    if !Ref::ptr_eq(inode, master.node()) && inode.rdev != TTY {
        return Err(Errno::ENOTTY);
    }
    let ops = TtyFile::reopen(master.tty().clone(), hung_up);
    File::new(place, flags, fmode(flags), try_box(ops)?)
}

//! Pseudoterminals (pty(7)): a [`Tty`] whose other side is a program that holds the master file.
//!
//! What the master writes is the terminal's input; what the terminal sends, echo included, waits in
//! [`Master::output`] until the master reads it. In packet mode (TIOCPKT) every read of the master
//! starts with a byte that tells of flushes and flow control.
//!
//! Lock order: the terminal's state, then the master's locks.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use belljar_abi::Described;

use super::termios::{EXTPROC, IXON, Termios, VSTART, VSTOP};
use super::{Backend, Tty, devpts, io, ioctl};
use crate::drivers::ring::Ring;
use crate::errno::{Errno, Result};
use crate::fs::{
    CharDevice, Dev, FMode, File, FileKind, FileOps, Inode, OpenFlags, Path, PollFlags, PollTable,
    SuperBlock, UserBuf,
};
use crate::kref::Ref;
use crate::mm::try_box;
use crate::ns::Cred;
use crate::sched::WaitQueue;
use crate::sync::IrqLock;
use crate::uapi;

/// Bytes that a terminal sends before its writers wait for the master.
pub const OUTPUT_SIZE: usize = 16 * 1024;
/// Major number of the terminal side.
pub const PTS_MAJOR: u32 = 136;

/// Control bytes of packet mode (tty_ioctl(2), TIOCPKT).
pub mod packet {
    #![allow(missing_docs, reason = "the names are tty_ioctl(2)'s")]
    pub const DATA: u8 = 0;
    pub const FLUSHREAD: u8 = 1;
    pub const FLUSHWRITE: u8 = 2;
    pub const STOP: u8 = 4;
    pub const START: u8 = 8;
    pub const NOSTOP: u8 = 16;
    pub const DOSTOP: u8 = 32;
    pub const IOCTL: u8 = 64;
}

/// The master side of a pseudoterminal.
#[repr(C)]
#[derive(Described)]
pub struct Master {
    /// N of /dev/pts/N.
    pub index: u32,
    /// The devpts of that.
    #[described(skip)]
    sb: Ref<SuperBlock>,
    /// What the terminal sent and the master has not read.
    pub output: IrqLock<Ring>,
    /// Where the master waits for output or for room for input, and whoever polls it.
    #[described(skip)]
    pub wait: WaitQueue,
    packet: IrqLock<Packet>,
    open: AtomicBool,
    locked: AtomicBool,
    /// The terminal side was open and is no more.
    slave_closed: AtomicBool,
}

/// Packet mode.
#[repr(C)]
#[derive(Clone, Copy, Default, Described)]
pub(super) struct Packet {
    /// It is on.
    pub(super) on: bool,
    /// What the next read tells of: bits of [`packet`].
    pub(super) status: u8,
}

impl Master {
    /// A side of pair `index` in `sb`.
    pub(super) fn try_new(sb: &Ref<SuperBlock>, index: u32) -> Result<Self> {
        Ok(Self {
            index,
            sb: sb.clone(),
            output: IrqLock::new(Ring::try_new(OUTPUT_SIZE)?),
            wait: WaitQueue::new(),
            packet: IrqLock::new(Packet::default()),
            open: AtomicBool::new(true),
            locked: AtomicBool::new(true),
            slave_closed: AtomicBool::new(false),
        })
    }

    /// The side that was open last is closed.
    pub(super) fn release_number(&self) {
        devpts::release(&self.sb, self.index);
    }

    /// False once the master file is closed, which happens under the lock of the terminal's state.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// True until unlockpt(3): the terminal side cannot be opened yet.
    pub fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Acquire)
    }

    pub(super) fn set_locked(&self, locked: bool) {
        self.locked.store(locked, Ordering::Release);
    }

    pub(super) fn set_slave_closed(&self, closed: bool) {
        self.slave_closed.store(closed, Ordering::Release);
        if closed {
            self.wait.wake_all();
        }
    }

    fn is_slave_closed(&self) -> bool {
        self.slave_closed.load(Ordering::Acquire)
    }

    pub(super) fn set_packet(&self, packet: Packet) {
        *self.packet.lock() = packet;
    }

    pub(super) fn packet_mode(&self) -> bool {
        self.packet.lock().on
    }

    pub(super) fn set_packet_mode(&self, on: bool) {
        let mut packet = self.packet.lock();
        if on && !packet.on {
            packet.status = 0;
        }
        packet.on = on;
    }

    /// Tells a master in packet mode of something.
    fn report(&self, clear: u8, set: u8) {
        {
            let mut packet = self.packet.lock();
            if !packet.on {
                return;
            }
            packet.status = packet.status & !clear | set;
        }
        self.wait.wake_all();
    }

    pub(super) fn flow_changed(&self, stopped: bool) {
        match stopped {
            true => self.report(packet::START, packet::STOP),
            false => self.report(packet::STOP, packet::START),
        }
    }

    /// A signal character drops what the terminal sent.
    pub(super) fn flush_for_signal(&self) {
        self.output.lock().clear();
        self.report(0, packet::FLUSHREAD | packet::FLUSHWRITE);
    }

    /// TCFLSH on the terminal side.
    pub(super) fn flushed(&self, input: bool, output: bool) {
        if output {
            self.output.lock().clear();
        }
        let bits = [(input, packet::FLUSHREAD), (output, packet::FLUSHWRITE)];
        self.report(0, bits.iter().filter(|b| b.0).fold(0, |all, b| all | b.1));
    }

    /// The terminal's settings changed: a master in packet mode learns whether it is to do flow
    /// control itself.
    pub(super) fn termios_changed(&self, old: &Termios, new: &Termios) {
        let does_flow = |t: &Termios| {
            t.iflag(IXON) && t.c_cc[VSTOP as usize] == 0x13 && t.c_cc[VSTART as usize] == 0x11
        };
        if does_flow(old) != does_flow(new) {
            match does_flow(new) {
                true => self.report(packet::NOSTOP, packet::DOSTOP),
                false => self.report(packet::DOSTOP, packet::NOSTOP),
            }
        }
        if old.lflag(EXTPROC) || new.lflag(EXTPROC) {
            self.report(0, packet::IOCTL);
        }
    }

    /// Takes the bytes of one read into `dst`; `None` if there is nothing.
    fn take(&self, dst: &mut [u8], first: bool) -> Option<usize> {
        let mut packet = self.packet.lock();
        if !packet.on || !first {
            let n = self.output.lock().read(dst);
            return (n > 0).then_some(n);
        }
        if packet.status != 0 {
            *dst.first_mut()? = core::mem::take(&mut packet.status);
            return Some(1);
        }
        let (control, data) = dst.split_first_mut()?;
        let n = self.output.lock().read(data);
        *control = packet::DATA;
        (n > 0).then_some(n + 1)
    }

    fn has_something(&self) -> bool {
        let packet = self.packet.lock();
        packet.on && packet.status != 0 || !self.output.lock().is_empty()
    }
}

/// An open master file.
#[repr(C)]
#[derive(Described)]
pub struct MasterFile {
    #[described(skip)]
    tty: Arc<Tty>,
    /// Where that is, for who looks from outside.
    #[described(as = "ptr Tty", name = "tty")]
    tty_addr: usize,
    /// Where its [`Master`] is, likewise.
    #[described(as = "ptr Master", name = "master")]
    master_addr: usize,
    /// The node of the terminal side.
    node: Ref<Inode>,
}

impl MasterFile {
    pub(super) fn new(tty: Arc<Tty>, node: Ref<Inode>) -> Self {
        let master_addr = tty.master().map_or(0, |master| core::ptr::from_ref(master) as usize);
        Self { tty_addr: Arc::as_ptr(&tty) as usize, master_addr, tty, node }
    }

    fn master(&self) -> &Master {
        match &self.tty.backend {
            Backend::Pty(master) => master,
            Backend::Line(_) => unreachable!("made by `open_master` only"),
        }
    }

    /// The terminal.
    pub fn tty(&self) -> &Arc<Tty> {
        &self.tty
    }

    /// The node of the terminal side.
    pub(super) fn node(&self) -> &Ref<Inode> {
        &self.node
    }
}

impl Drop for MasterFile {
    fn drop(&mut self) {
        let master = self.master();
        // Before the other side can find that it is the last one, and free the number.
        devpts::remove(&master.sb, master.index);
        let is_last = {
            let state = self.tty.state.lock();
            master.open.store(false, Ordering::Release);
            state.opens == 0
        };
        self.tty.hang_up(false);
        if is_last {
            master.release_number();
        }
    }
}

impl FileOps for MasterFile {
    fn read(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        let master = self.master();
        let mut chunk = [0; 512];
        let mut done = 0;
        while !buf.is_empty() {
            let want = chunk.len().min(buf.remaining());
            match master.take(&mut chunk[..want], done == 0) {
                Some(n) => {
                    buf.put(&chunk[..n])?;
                    done += n;
                    // A control byte other than DATA stands alone.
                    if done == 1 && master.packet_mode() {
                        break;
                    }
                }
                None if done > 0 => break,
                None if master.is_slave_closed() => return Err(Errno::EIO),
                None if file.is_nonblocking() => return Err(Errno::EAGAIN),
                None => {
                    io::wait(&master.wait, || master.has_something() || master.is_slave_closed())?
                }
            }
        }
        if done > 0 {
            self.tty.output_was_taken();
        }
        Ok(done)
    }

    fn write(&self, file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        let mut chunk = [0; 512];
        let mut done = 0;
        while !buf.is_empty() {
            let len = buf.take(&mut chunk)?;
            let mut taken = 0;
            while taken < len {
                let n = self.tty.receive(&chunk[taken..len]);
                taken += n;
                done += n;
                if n > 0 {
                    continue;
                }
                let error = if file.is_nonblocking() {
                    Errno::EAGAIN
                } else {
                    match io::wait(&self.master().wait, || self.tty.input_room() > 0) {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                };
                return if done > 0 { Ok(done) } else { Err(error) };
            }
        }
        Ok(done)
    }

    fn ioctl(&self, file: &File, cmd: u32, arg: u64) -> Result<usize> {
        ioctl::master(file, &self.tty, self.master(), cmd, arg)
    }

    fn poll(&self, _file: &File, table: &mut PollTable<'_>) -> PollFlags {
        let master = self.master();
        table.wait(&master.wait);
        let mut ready = PollFlags::empty();
        if master.has_something() {
            ready |= PollFlags::READABLE;
        }
        let packet = master.packet.lock();
        if packet.on && packet.status != 0 {
            ready |= PollFlags::PRI | PollFlags::READABLE;
        }
        drop(packet);
        if master.is_slave_closed() {
            ready |= PollFlags::HUP;
        }
        if self.tty.input_room() > 0 {
            ready |= PollFlags::WRITABLE;
        }
        ready
    }

    fn abilities(&self) -> FMode {
        FMode::empty()
    }

    fn kind(&self) -> Option<FileKind> {
        Some(FileKind::PtyMaster)
    }

    fn described(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }
}

/// Opens a new pair, whose node comes into `sb`: what /dev/ptmx does.
fn open_master(sb: &Ref<SuperBlock>) -> Result<MasterFile> {
    let (tty, node) = devpts::allocate(sb, None, |index| {
        let backend = Backend::Pty(Master::try_new(sb, index)?);
        let mut termios = Termios::STANDARD;
        // pty(7): a pseudoterminal starts like any terminal, with a line speed of 38400.
        termios.c_cflag &= !uapi::HUPCL;
        Tty::try_new(Dev::new(PTS_MAJOR, index), backend, termios)
    })?;
    Ok(MasterFile::new(tty, node))
}

/// /dev/ptmx.
pub struct Ptmx;

impl CharDevice for Ptmx {
    fn open(
        &self,
        _dev: Dev,
        _inode: &Ref<Inode>,
        path: &Path,
        _flags: OpenFlags,
        _cred: &Cred,
    ) -> Result<Box<dyn FileOps>> {
        Ok(try_box(open_master(&devpts::root_for(path)?.mnt.sb)?)?)
    }
}

/// How many pairs exist: /proc/sys/kernel/pty/nr.
pub static NR_PTYS: AtomicU32 = AtomicU32::new(0);

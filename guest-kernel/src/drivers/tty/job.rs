//! Terminals in job control: which session a terminal controls, who may use it from the background,
//! and what a hangup does (credentials(7), setsid(2), tty_ioctl(2)).
//!
//! The process floor tells about the caller and changes tasks through [`Hooks`].
//!
//! A session and its terminal point at each other: the terminal holds the session's pid, each process
//! of the session holds the terminal. Both ends change under [`JOB_LOCK`], so they agree.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::Tty;
use super::termios::Termios;
use crate::errno::{Errno, Result};
use crate::fs::File;
use crate::kref::Ref;
use crate::ns::Pid;
use crate::signal::{self, SIGCONT, SIGHUP, SIGTTIN};
use crate::sync::{Once, SpinLock};

/// What terminals ask of the process floor.
pub struct Hooks {
    /// The caller's session.
    pub session: fn() -> Option<Ref<Pid>>,
    /// The caller's process group.
    pub pgrp: fn() -> Option<Ref<Pid>>,
    /// True if the caller leads its session.
    pub is_session_leader: fn() -> bool,
    /// The caller's controlling terminal.
    pub controlling_tty: fn() -> Option<Arc<Tty>>,
    /// Sets or takes away the caller's controlling terminal.
    pub set_controlling_tty: fn(Option<Arc<Tty>>),
    /// Takes the controlling terminal away from every process of a session.
    pub clear_session_tty: fn(&Pid),
    /// The process group called so in the caller's pid namespace, with its session.
    pub find_pgrp: fn(u32) -> Option<GroupAndSession>,
    /// A pid's number in the caller's pid namespace.
    pub number: fn(&Pid) -> u32,
    /// True if the caller has CAP_SYS_ADMIN.
    pub is_admin: fn() -> bool,
    /// Gives the caller a descriptor of a file, closed on exec or not.
    pub install_file: fn(Ref<File>, bool) -> Result<i32>,
    /// User and group that the caller's new files belong to.
    pub file_ids: fn() -> (u32, u32),
}

/// A process group, and the session that it belongs to.
pub type GroupAndSession = (Ref<Pid>, Option<Ref<Pid>>);

static HOOKS: Once<Hooks> = Once::new();
static JOB_LOCK: SpinLock<()> = SpinLock::new(());

/// Installs the process floor's functions; called once at boot.
pub fn install(hooks: Hooks) {
    HOOKS.set(hooks);
}

/// The functions; `None` in host tests of this floor.
pub(super) fn hooks() -> Option<&'static Hooks> {
    HOOKS.try_get()
}

/// The caller's controlling terminal.
pub fn controlling_tty() -> Option<Arc<Tty>> {
    hooks().and_then(|h| (h.controlling_tty)())
}

/// True if the caller has CAP_SYS_ADMIN.
pub fn is_admin() -> bool {
    hooks().is_some_and(|h| (h.is_admin)())
}

/// User and group that the caller's new files belong to.
pub(super) fn file_ids() -> (u32, u32) {
    hooks().map_or((0, 0), |h| (h.file_ids)())
}

fn same(a: &Option<Ref<Pid>>, b: &Option<Ref<Pid>>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if Ref::ptr_eq(a, b))
}

impl Tty {
    /// True if this is the caller's controlling terminal.
    pub fn controls_caller(&self) -> bool {
        controlling_tty().is_some_and(|tty| core::ptr::eq(&*tty, self))
    }

    /// The foreground process group.
    pub fn foreground(&self) -> Option<Ref<Pid>> {
        self.state.lock().pgrp.clone()
    }

    /// Sends a signal to the foreground process group.
    pub(super) fn signal_foreground(&self, sig: i32) {
        if let Some(pgrp) = self.foreground() {
            // A group without members is nobody to signal.
            let _ = signal::hooks::send_pgrp(&pgrp, sig);
        }
    }

    /// Access from a background process group: the caller's group is sent `sig` and the call restarts
    /// once it goes on, unless it blocks or ignores the signal or nobody could bring it to the
    /// foreground (termios(3), "job control").
    pub(super) fn check_change(&self, sig: i32) -> Result<()> {
        let Some(hooks) = hooks() else { return Ok(()) };
        if !self.controls_caller() {
            return Ok(());
        }
        let pgrp = (hooks.pgrp)();
        let foreground = self.foreground();
        let Some(group) = pgrp.as_ref() else { return Ok(()) };
        if foreground.is_none() || same(&pgrp, &foreground) {
            return Ok(());
        }
        if signal::hooks::current_blocks_or_ignores(sig) {
            return if sig == SIGTTIN { Err(Errno::EIO) } else { Ok(()) };
        }
        if signal::hooks::current_pgrp_is_orphaned() {
            return Err(Errno::EIO);
        }
        signal::hooks::send_pgrp(group, sig)?;
        Err(Errno::ERESTARTSYS)
    }

    /// A session leader without a terminal that opens a free one takes it.
    pub(super) fn take_at_open(self: &Arc<Self>) {
        let Some(hooks) = hooks() else { return };
        let _job = JOB_LOCK.lock();
        if (hooks.is_session_leader)() && (hooks.controlling_tty)().is_none() {
            let (session, lent) = {
                let state = self.state.lock();
                (state.session.clone(), state.lent)
            };
            match session {
                None => self.become_controlling(hooks),
                Some(session) if lent => {
                    (hooks.clear_session_tty)(&session);
                    self.become_controlling(hooks);
                }
                Some(_) => {}
            }
        }
    }

    /// Makes this the controlling terminal of init, until a session leader asks for it: an init that is
    /// a shell then has job control, and one that starts sessions is not in their way.
    pub fn lend(self: &Arc<Self>) -> Result<()> {
        self.set_controlling(false, true)?;
        self.state.lock().lent = true;
        Ok(())
    }

    fn become_controlling(self: &Arc<Self>, hooks: &Hooks) {
        let new = ((hooks.session)(), (hooks.pgrp)());
        let old = {
            let mut state = self.state.lock();
            state.lent = false;
            (
                core::mem::replace(&mut state.session, new.0),
                core::mem::replace(&mut state.pgrp, new.1),
            )
        };
        drop(old);
        (hooks.set_controlling_tty)(Some(self.clone()));
    }

    /// TIOCSCTTY: makes this the caller's controlling terminal. With `steal`, a privileged caller
    /// takes it from another session.
    pub fn set_controlling(self: &Arc<Self>, steal: bool, readable: bool) -> Result<()> {
        let hooks = hooks().ok_or(Errno::EPERM)?;
        let _job = JOB_LOCK.lock();
        let leader = (hooks.is_session_leader)();
        let (session, lent) = {
            let state = self.state.lock();
            (state.session.clone(), state.lent)
        };
        if leader && same(&session, &(hooks.session)()) {
            return Ok(());
        }
        if !leader || (hooks.controlling_tty)().is_some() {
            return Err(Errno::EPERM);
        }
        if let Some(session) = &session {
            if !(lent || steal && (hooks.is_admin)()) {
                return Err(Errno::EPERM);
            }
            (hooks.clear_session_tty)(session);
        }
        if !readable && !(hooks.is_admin)() {
            return Err(Errno::EPERM);
        }
        self.become_controlling(hooks);
        Ok(())
    }

    /// TIOCNOTTY: the caller gives up its controlling terminal; a session leader gives it up for all.
    pub fn give_up(self: &Arc<Self>) -> Result<()> {
        let hooks = hooks().ok_or(Errno::ENOTTY)?;
        if !self.controls_caller() {
            return Err(Errno::ENOTTY);
        }
        if (hooks.is_session_leader)() {
            disassociate_ctty(false);
        } else {
            (hooks.set_controlling_tty)(None);
        }
        Ok(())
    }

    /// TIOCGPGRP and TIOCGSID see the terminal only if it is the caller's own, unless they come
    /// through a pseudoterminal's master side.
    pub(super) fn number_of(&self, session: bool, through_master: bool) -> Result<u32> {
        let hooks = hooks().ok_or(Errno::ENOTTY)?;
        if !through_master && !self.controls_caller() {
            return Err(Errno::ENOTTY);
        }
        let state = self.state.lock();
        if session {
            return state.session.as_ref().map(|s| (hooks.number)(s)).ok_or(Errno::ENOTTY);
        }
        Ok(state.pgrp.as_ref().map_or(0, |p| (hooks.number)(p)))
    }

    /// TIOCSPGRP: puts a process group of the caller's session into the foreground.
    pub(super) fn set_foreground(&self, number: i32) -> Result<()> {
        let hooks = hooks().ok_or(Errno::ENOTTY)?;
        let session = (hooks.session)();
        let _job = JOB_LOCK.lock();
        if !self.controls_caller() || !same(&self.state.lock().session, &session) {
            return Err(Errno::ENOTTY);
        }
        let number = u32::try_from(number).map_err(|_| Errno::EINVAL)?;
        let (pgrp, its_session) = (hooks.find_pgrp)(number).ok_or(Errno::ESRCH)?;
        if !same(&its_session, &session) {
            return Err(Errno::EPERM);
        }
        let old = self.state.lock().pgrp.replace(pgrp);
        drop(old);
        Ok(())
    }

    /// Settings and foreground process group as resumed processes had left them, if the terminal is still that of
    /// their session; the group is one of that.
    pub fn restore(&self, termios: Termios, session: &Ref<Pid>, pgrp: Option<Ref<Pid>>) {
        self.set_termios(termios, false);
        let _job = JOB_LOCK.lock();
        let old = {
            let mut state = self.state.lock();
            match (state.is_of(session), pgrp) {
                (true, Some(pgrp)) => state.pgrp.replace(pgrp),
                _ => None,
            }
        };
        drop(old);
    }

    /// Session and foreground process group of resumed processes, before any of them runs.
    pub fn resume_job(&self, session: Ref<Pid>, pgrp: Option<Ref<Pid>>) {
        let _job = JOB_LOCK.lock();
        let old = {
            let mut state = self.state.lock();
            (state.session.replace(session), core::mem::replace(&mut state.pgrp, pgrp))
        };
        drop(old);
    }

    /// The session, whose leader goes on at another terminal, gives this one up if it was its own. Nobody is told: the
    /// leader becomes another program, and would be the first to hear.
    pub fn part_from(&self, session: &Ref<Pid>) {
        let _job = JOB_LOCK.lock();
        let old = {
            let mut state = self.state.lock();
            state.is_of(session).then(|| (state.session.take(), state.pgrp.take()))
        };
        if old.is_some()
            && let Some(hooks) = hooks()
        {
            (hooks.clear_session_tty)(session);
        }
        drop(old);
    }

    /// The line is gone (the master side was closed, vhangup(2), or the session leader exited): the
    /// session is told with SIGHUP and SIGCONT and loses the terminal, and every open file of it is
    /// dead: reads give end of file, writes fail.
    pub fn hang_up(&self, leader_exits: bool) {
        let _job = JOB_LOCK.lock();
        self.generation.fetch_add(1, Ordering::AcqRel);
        let (session, pgrp) = {
            let mut state = self.state.lock();
            state.ldisc.flush_input();
            state.ldisc.set_stopped(false);
            (state.session.take(), state.pgrp.take())
        };
        if let Some(session) = session {
            if let Some(hooks) = hooks() {
                (hooks.clear_session_tty)(&session);
            }
            // The leader may be gone already.
            let _ = signal::hooks::send_session_leader(&session, SIGHUP);
            let _ = signal::hooks::send_session_leader(&session, SIGCONT);
        }
        if let Some(pgrp) = pgrp {
            let _ = signal::hooks::send_pgrp(&pgrp, SIGHUP);
            if leader_exits {
                let _ = signal::hooks::send_pgrp(&pgrp, SIGCONT);
            }
        }
        self.wake_everybody();
    }
}

/// The caller, a session leader, exits or gives up its controlling terminal: the foreground is told
/// and the whole session loses it. `do_exit` calls this for session leaders.
pub fn disassociate_ctty(exits: bool) {
    let Some(hooks) = hooks() else { return };
    let Some(tty) = (hooks.controlling_tty)() else { return };
    if exits && tty.master().is_none() {
        tty.hang_up(true);
        return;
    }
    if let Some(pgrp) = tty.foreground() {
        let _ = signal::hooks::send_pgrp(&pgrp, SIGHUP);
        if !exits {
            let _ = signal::hooks::send_pgrp(&pgrp, SIGCONT);
        }
    }
    let _job = JOB_LOCK.lock();
    let ids = {
        let mut state = tty.state.lock();
        (state.session.take(), state.pgrp.take())
    };
    if let Some(session) = &ids.0 {
        (hooks.clear_session_tty)(session);
    }
    (hooks.set_controlling_tty)(None);
}

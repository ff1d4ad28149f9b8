//! [`SeccompFilter`]: a node of the tree of filters.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use belljar_abi::Described;

use super::action::Action;
use super::data::{AUDIT_ARCH, SeccompData};
use super::notify::Listener;
use crate::array::Array;
use crate::bpf::{Alu, Insn, Op, Program, Source, Test, Width};
use crate::errno::{Errno, Result};
use crate::kref::Ref;

/// Most instructions on the way from a filter to the root, with [`OVERHEAD`] for each filter but the last.
pub const MAX_INSNS_PER_PATH: usize = 32768;
/// What a filter counts beside its instructions.
const OVERHEAD: usize = 4;
/// Numbers of system calls below this are looked up before the filters run.
const CACHED: usize = 512;

/// A filter.
#[repr(C)]
#[derive(Described)]
pub struct SeccompFilter {
    /// The one that was there before it.
    prev: Option<Ref<SeccompFilter>>,
    /// What it says.
    #[described(as = "struct Program")]
    program: Program,
    /// Instructions on the way to the root.
    path_insns: u32,
    /// Tasks that have it, and filters with such tasks that come behind it.
    users: AtomicU32,
    /// What it does beside allowing calls is logged.
    log: bool,
    /// Once its listener has taken a question, only a fatal signal ends the wait for the answer.
    wait_killable: bool,
    /// A bit for each call that it and all before it allow, whatever the arguments.
    #[described(skip)]
    allowed: [u64; CACHED / 64],
    /// Somebody listens to it.
    listening: AtomicBool,
    /// Whom it asks, if it has ever had somebody.
    #[described(skip)]
    listener: Option<Listener>,
}

/// What the filters of a task say.
pub struct Verdict {
    /// The word of the most restrictive of them.
    pub word: u32,
    /// Which that is; `None` if all allow the call.
    pub filter: Option<Ref<SeccompFilter>>,
}

impl SeccompFilter {
    /// A program as a filter; `EINVAL` if it is one that cannot be (`seccomp_check_filter`). Nothing is before it yet.
    pub fn new(insns: Array<u64>) -> Result<Self> {
        let program = Program::new(insns)?;
        if !program.insns().all(is_allowed) {
            return Err(Errno::EINVAL);
        }
        Ok(Self {
            prev: None,
            program,
            path_insns: 0,
            users: AtomicU32::new(1),
            log: false,
            wait_killable: false,
            allowed: [0; CACHED / 64],
            listening: AtomicBool::new(false),
            listener: None,
        })
    }

    /// With these flags.
    pub fn with_flags(mut self, log: bool, wait_killable: bool) -> Self {
        (self.log, self.wait_killable) = (log, wait_killable);
        self
    }

    /// With somebody to ask.
    pub fn with_listener(mut self) -> Self {
        self.listener = Some(Listener::new());
        self.listening.store(true, Ordering::Relaxed);
        self
    }

    /// Puts it behind `prev`; `ENOMEM` if the way to the root becomes too long. A task that had `prev` has this one
    /// from now on.
    pub fn attach(mut self, prev: Option<Ref<Self>>) -> Result<Ref<Self>> {
        self.path_insns = self.program.len() as u32;
        if let Some(prev) = &prev {
            let before = prev.path_insns as usize + OVERHEAD;
            self.path_insns = (self.program.len() + before) as u32;
        }
        if self.path_insns as usize > MAX_INSNS_PER_PATH {
            return Err(Errno::ENOMEM);
        }
        self.allowed = [0; CACHED / 64];
        for nr in 0..CACHED {
            let before = prev.as_ref().is_none_or(|prev| prev.always_allows(nr as i32));
            if before && is_const_allow(&self.program, nr as u32) {
                self.allowed[nr / 64] |= 1 << (nr % 64);
            }
        }
        self.prev = prev;
        Ref::try_new(self)
    }

    /// Nothing is before it any more.
    pub fn detach(&mut self) {
        drop(self.prev.take());
    }

    /// The one before it.
    pub fn prev(&self) -> Option<&Ref<Self>> {
        self.prev.as_ref()
    }

    /// It and all before it.
    pub fn path(&self) -> impl Iterator<Item = &Self> {
        core::iter::successors(Some(self), |filter| filter.prev.as_deref())
    }

    /// Its program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Whether what it does is logged.
    pub fn is_logging(&self) -> bool {
        self.log
    }

    /// Whether only a fatal signal ends the wait for an answer that is on its way.
    pub fn waits_killable(&self) -> bool {
        self.wait_killable
    }

    /// Whether the call is allowed whatever its arguments are; false if that is not known.
    #[inline]
    pub fn always_allows(&self, nr: i32) -> bool {
        let word = usize::try_from(nr).ok().and_then(|nr| self.allowed.get(nr / 64));
        word.is_some_and(|word| word & 1 << (nr % 64) != 0)
    }

    /// Whether `self` is `other` or on its way to the root; nothing is on every way.
    pub fn is_on_path(this: Option<&Ref<Self>>, other: Option<&Ref<Self>>) -> bool {
        let Some(this) = this else { return true };
        other.is_some_and(|other| {
            other.path().any(|filter| core::ptr::eq(filter, Ref::as_ptr(this)))
        })
    }

    /// True while somebody listens to it.
    pub fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    /// Whom it asks, if it has ever had somebody.
    pub fn listener(&self) -> Option<&Listener> {
        self.listener.as_ref()
    }

    /// Nobody listens any more.
    pub fn stop_listening(&self) {
        if let Some(listener) = &self.listener {
            self.listening.store(false, Ordering::Release);
            listener.close();
        }
    }

    /// Another task has it.
    pub fn add_user(&self) {
        self.users.fetch_add(1, Ordering::Relaxed);
    }

    /// A task that had it has it no more. Who listens to a filter that nobody has any more is told.
    pub fn drop_user(&self) {
        for filter in self.path() {
            if filter.users.fetch_sub(1, Ordering::AcqRel) != 1 {
                return;
            }
            if let Some(listener) = &filter.listener {
                listener.wait.wake_all();
            }
        }
    }

    /// True if a task has it, or one that is behind it.
    pub fn has_users(&self) -> bool {
        self.users.load(Ordering::Acquire) != 0
    }

    /// Runs it and all before it.
    pub fn run(this: Ref<Self>, data: &SeccompData) -> Verdict {
        let mut verdict = Verdict { word: Action::Allow as u32, filter: None };
        let mut at = Some(&this);
        while let Some(filter) = at {
            let word = filter.program.run(data);
            if Action::rank(word) < Action::rank(verdict.word) {
                verdict = Verdict { word, filter: Some(filter.clone()) };
            }
            at = filter.prev.as_ref();
        }
        verdict
    }
}

impl Drop for SeccompFilter {
    /// One after the other: the way to the root may be longer than the kernel's stack.
    fn drop(&mut self) {
        let mut next = self.prev.take();
        while let Some(mut filter) = next.and_then(Ref::into_inner) {
            next = filter.prev.take();
        }
    }
}

/// What a filter may do of what programs can (`seccomp_check_filter`).
fn is_allowed(insn: Insn) -> bool {
    match insn.op() {
        Some(Op::LdAbs(Width::Word)) => insn.k() < SeccompData::SIZE && insn.k().is_multiple_of(4),
        Some(Op::LdAbs(_) | Op::LdInd(_) | Op::LdxMsh | Op::Alu(Alu::Mod, _)) | None => false,
        Some(_) => true,
    }
}

/// Whether the program allows call `nr` without looking at anything else than its number and architecture
/// (`seccomp_is_const_allow`).
fn is_const_allow(program: &Program, nr: u32) -> bool {
    let insns = program.words();
    let mut a = 0_u32;
    let mut pc = 0_usize;
    while let Some(insn) = insns.get(pc).map(|word| Insn(*word)) {
        let k = insn.k();
        pc += 1;
        match insn.op() {
            Some(Op::LdAbs(Width::Word)) if k == 0 => a = nr,
            Some(Op::LdAbs(Width::Word)) if k == 4 => a = AUDIT_ARCH,
            Some(Op::Alu(Alu::And, Source::K)) => a &= k,
            Some(Op::Ja) => pc += k as usize,
            Some(Op::Jump(test, Source::K)) => {
                let skip = if Test::holds(test, a, k) { insn.jt() } else { insn.jf() };
                pc += usize::from(skip);
            }
            Some(Op::RetK) => return k == Action::Allow as u32,
            _ => return false,
        }
    }
    false
}

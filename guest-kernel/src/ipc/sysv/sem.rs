//! System V semaphore sets (semget(2)).
//!
//! A call's operations happen all together or not at all. One that must wait queues with its set, and
//! whoever changes a value performs, first come first served, what has become possible: a sleeper wakes
//! with its operations done.
//!
//! `SEM_UNDO` keeps, in the set, what to add to each value when the last task of an [`UndoList`] ends;
//! the list only knows the sets.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::abi::{IPC_NOWAIT, SEM_UNDO, SEMAEM, SEMVMX, Sembuf};
use super::perm::{self, NewOwner, Perm};
use super::table::{Id, Object, Table};
use super::{Caller, now};
use crate::errno::{Errno, Result};
use crate::ipc::park::Parked;
use crate::kref::Ref;
use crate::mm::try_vec;
use crate::ns::Pid;
use crate::sched::{Deadline, TaskState};
use crate::sync::SpinLock;

/// The semaphore sets of a namespace.
pub struct SemSets {
    /// By number and key.
    pub table: Table<SemSet>,
    used: AtomicUsize,
}

#[derive(Clone, Default)]
struct Sem {
    value: i32,
    pid: Option<Ref<Pid>>,
}

/// What one undo list adds to the values of a set.
struct Undo {
    list: u64,
    adjust: Vec<i16>,
}

/// Operations that wait.
struct Waiting {
    ops: Vec<Sembuf>,
    alters: bool,
    undo: Option<u64>,
    pid: Ref<Pid>,
    /// Which operation stands in the way.
    blocking: AtomicUsize,
    parked: Parked<Result<()>>,
}

struct State {
    perm: Perm,
    otime: i64,
    ctime: i64,
    sems: Vec<Sem>,
    /// Sorted by list.
    undos: Vec<Undo>,
    /// In the order in which they came.
    waiting: Vec<Ref<Waiting>>,
    gone: bool,
}

/// A set.
pub struct SemSet {
    id: Id,
    len: usize,
    state: SpinLock<State>,
}

impl Object for SemSet {
    fn id(&self) -> Id {
        self.id
    }
}

/// What semctl(2) shows of a set.
#[allow(missing_docs, reason = "the names are semctl(2)'s")]
pub struct Shown {
    pub perm: Perm,
    pub otime: i64,
    pub ctime: i64,
    pub nsems: usize,
}

/// How an attempt went.
enum Attempt {
    Done,
    /// This operation stands in the way.
    Blocked(usize),
    Failed(Errno),
}

impl State {
    fn undo_mut(&mut self, list: u64) -> Option<&mut Undo> {
        let at = self.undos.binary_search_by_key(&list, |undo| undo.list).ok()?;
        self.undos.get_mut(at)
    }

    /// Makes sure that the list's adjustments have a place.
    fn ensure_undo(&mut self, list: u64) -> Result<()> {
        if let Err(at) = self.undos.binary_search_by_key(&list, |undo| undo.list) {
            let adjust = try_vec(self.sems.len(), 0)?;
            self.undos.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            self.undos.insert(at, Undo { list, adjust });
        }
        Ok(())
    }

    /// One operation: `None` if it must wait.
    fn apply(&mut self, op: Sembuf, undo: Option<u64>) -> Result<Option<()>> {
        let num = usize::from(op.num);
        let change = i32::from(op.op);
        let old = self.sems.get(num).ok_or(Errno::EFBIG)?.value;
        if change == 0 {
            return Ok((old == 0).then_some(()));
        }
        let value = old + change;
        if value < 0 {
            return Ok(None);
        }
        if value > SEMVMX {
            return Err(Errno::ERANGE);
        }
        if op.has(SEM_UNDO)
            && let Some(undo) = undo.and_then(|list| self.undo_mut(list))
        {
            let adjust = i32::from(undo.adjust[num]) - change;
            if !(-SEMAEM - 1..=SEMAEM).contains(&adjust) {
                return Err(Errno::ERANGE);
            }
            undo.adjust[num] = adjust as i16;
        }
        self.sems[num].value = value;
        Ok(Some(()))
    }

    fn revert(&mut self, op: Sembuf, undo: Option<u64>) {
        let num = usize::from(op.num);
        self.sems[num].value -= i32::from(op.op);
        if op.has(SEM_UNDO)
            && op.op != 0
            && let Some(undo) = undo.and_then(|list| self.undo_mut(list))
        {
            undo.adjust[num] = (i32::from(undo.adjust[num]) + i32::from(op.op)) as i16;
        }
    }

    /// All operations or none.
    fn attempt(&mut self, ops: &[Sembuf], undo: Option<u64>, pid: &Ref<Pid>) -> Attempt {
        for (i, op) in ops.iter().enumerate() {
            let stop = match self.apply(*op, undo) {
                Ok(Some(())) => continue,
                Ok(None) if op.has(IPC_NOWAIT) => Attempt::Failed(Errno::EAGAIN),
                Ok(None) => Attempt::Blocked(i),
                Err(error) => Attempt::Failed(error),
            };
            for done in ops[..i].iter().rev() {
                self.revert(*done, undo);
            }
            return stop;
        }
        for op in ops {
            self.sems[usize::from(op.num)].pid = Some(pid.clone());
        }
        self.otime = now();
        Attempt::Done
    }

    /// Performs what waits and has become possible: those who wait for zero first, then the others in
    /// the order in which they came, all over again after each that changed a value.
    fn perform_waiting(&mut self) {
        loop {
            let mut altered = false;
            for alters in [false, true] {
                let mut i = 0;
                while let Some(waiting) = self.waiting.get(i).cloned() {
                    if waiting.alters != alters {
                        i += 1;
                        continue;
                    }
                    let result = match self.attempt(&waiting.ops, waiting.undo, &waiting.pid) {
                        Attempt::Blocked(at) => {
                            waiting.blocking.store(at, Ordering::Relaxed);
                            i += 1;
                            continue;
                        }
                        Attempt::Done => Ok(()),
                        Attempt::Failed(error) => Err(error),
                    };
                    self.waiting.remove(i);
                    waiting.parked.finish(result);
                    if alters && result.is_ok() {
                        altered = true;
                        break;
                    }
                }
            }
            if !altered {
                break;
            }
        }
    }

    /// How many wait for a semaphore, to become zero or to grow.
    fn count_waiting(&self, num: usize, for_zero: bool) -> usize {
        let waits = |waiting: &Ref<Waiting>| {
            let op = waiting.ops.get(waiting.blocking.load(Ordering::Relaxed));
            op.is_some_and(|op| usize::from(op.num) == num && (op.op == 0) == for_zero)
        };
        self.waiting.iter().filter(|waiting| waits(waiting)).count()
    }
}

impl SemSets {
    /// No sets yet.
    pub const fn new() -> Self {
        Self { table: Table::new(), used: AtomicUsize::new(0) }
    }

    /// Semaphores in all sets.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Default for SemSets {
    fn default() -> Self {
        Self::new()
    }
}

/// semget(2).
pub fn get(caller: &Caller<'_>, key: i32, nsems: i32, flags: u32) -> Result<i32> {
    let sets = &caller.ns.sem;
    let [max_len, max_all, _, max_sets] = caller.ns.limits.sem();
    let len = usize::try_from(nsems).ok().filter(|&len| len <= max_len).ok_or(Errno::EINVAL)?;
    let check = |set: &SemSet| {
        if len > set.len {
            return Err(Errno::EINVAL);
        }
        set.state.lock().perm.check(caller, flags)
    };
    let make = |id| {
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        if sets.used() + len > max_all {
            return Err(Errno::ENOSPC);
        }
        let state = SpinLock::new(State {
            perm: Perm::new(caller, key, id, flags),
            otime: 0,
            ctime: now(),
            sems: try_vec(len, Sem::default())?,
            undos: Vec::new(),
            waiting: Vec::new(),
            gone: false,
        });
        let set = Ref::try_new(SemSet { id, len, state })?;
        sets.used.fetch_add(len, Ordering::Relaxed);
        Ok(set)
    };
    let result = sets.table.get_or_make(key, flags, max_sets, check, make);
    if result == Err(Errno::ENOSPC) {
        // One that was made and found no place is not in use.
        let used = sets.table.iter().map(|set| set.len).sum();
        sets.used.store(used, Ordering::Relaxed);
    }
    result
}

/// Which tasks' operations are undone together, and in which sets there is something to undo.
pub struct UndoList {
    number: u64,
    sets: SpinLock<Vec<Ref<SemSet>>>,
}

impl UndoList {
    /// For one task, or those that will share it (`CLONE_SYSVSEM`).
    pub fn new() -> Result<Ref<Self>> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ref::try_new(Self { number, sets: SpinLock::new(Vec::new()) })
    }

    fn add(&self, set: &Ref<SemSet>) -> Result<()> {
        let mut sets = self.sets.lock();
        if sets.iter().any(|known| Ref::ptr_eq(known, set)) {
            return Ok(());
        }
        sets.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        sets.push(set.clone());
        Ok(())
    }
}

/// A task lets go of its undo list: the last one undoes.
pub fn leave(list: Ref<UndoList>, pid: &Ref<Pid>) {
    let Some(list) = Ref::into_inner(list) else { return };
    let sets = core::mem::take(&mut *list.sets.lock());
    for set in sets {
        set.undo(list.number, pid);
    }
}

/// semop(2) and semtimedop(2): `EINTR` if a signal comes first, `EAGAIN` if the deadline does.
pub fn operate(
    caller: &Caller<'_>,
    id: i32,
    ops: Vec<Sembuf>,
    deadline: Deadline,
    undo: impl FnOnce() -> Result<Ref<UndoList>>,
) -> Result<()> {
    let set = caller.ns.sem.table.get(id)?;
    let alters = ops.iter().any(|op| op.op != 0);
    let last = ops.iter().map(|op| usize::from(op.num)).max().ok_or(Errno::EINVAL)?;
    if last >= set.len {
        return Err(Errno::EFBIG);
    }
    set.state.lock().perm.check(caller, if alters { perm::WRITE } else { perm::READ })?;
    let undo = if ops.iter().any(|op| op.has(SEM_UNDO)) {
        let list = undo()?;
        list.add(&set)?;
        Some(list.number)
    } else {
        None
    };
    let waiting = {
        let mut state = set.state.lock();
        if state.gone {
            return Err(Errno::EIDRM);
        }
        if let Some(list) = undo {
            state.ensure_undo(list)?;
        }
        match state.attempt(&ops, undo, caller.pid) {
            Attempt::Done => {
                if alters {
                    state.perform_waiting();
                }
                return Ok(());
            }
            Attempt::Failed(error) => return Err(error),
            Attempt::Blocked(at) => {
                state.waiting.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                let waiting = Ref::try_new(Waiting {
                    ops,
                    alters,
                    undo,
                    pid: caller.pid.clone(),
                    blocking: AtomicUsize::new(at),
                    parked: Parked::new(),
                })?;
                state.waiting.push(waiting.clone());
                waiting
            }
        }
    };
    let slept = waiting.parked.sleep_in(TaskState::UNRESTARTED, deadline);
    if slept.is_err() {
        let mut state = set.state.lock();
        state.waiting.retain(|other| !Ref::ptr_eq(other, &waiting));
    }
    // Served, perhaps at the last moment; what was served is done.
    match waiting.parked.take() {
        Some(result) => result,
        None if slept == Err(Errno::ETIMEDOUT) => Err(Errno::EAGAIN),
        None => Err(Errno::EINTR),
    }
}

impl SemSet {
    /// Number of semaphores.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: a set has at least one.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The whole number.
    pub fn number(&self) -> i32 {
        self.id.0
    }

    /// What `IPC_STAT` shows.
    pub fn shown(&self) -> Shown {
        let state = self.state.lock();
        Shown { perm: state.perm, otime: state.otime, ctime: state.ctime, nsems: self.len }
    }

    /// Runs `f` on the set, if it is still there and the caller has these rights.
    fn with<R>(
        &self,
        caller: &Caller<'_>,
        wanted: u32,
        f: impl FnOnce(&mut State) -> Result<R>,
    ) -> Result<R> {
        let mut state = self.state.lock();
        state.perm.check(caller, wanted)?;
        if state.gone {
            return Err(Errno::EIDRM);
        }
        f(&mut state)
    }

    /// `EACCES` unless the caller may read it.
    pub fn check_read(&self, caller: &Caller<'_>) -> Result<()> {
        self.with(caller, perm::READ, |_| Ok(()))
    }

    /// `EACCES` unless the caller may alter it.
    pub fn check_write(&self, caller: &Caller<'_>) -> Result<()> {
        self.with(caller, perm::WRITE, |_| Ok(()))
    }

    /// `GETALL`.
    pub fn values(&self, caller: &Caller<'_>) -> Result<Vec<u16>> {
        let mut values = try_vec(self.len, 0_u16)?;
        self.with(caller, perm::READ, |state| {
            for (value, sem) in values.iter_mut().zip(&state.sems) {
                *value = sem.value as u16;
            }
            Ok(())
        })?;
        Ok(values)
    }

    /// `SETALL`.
    pub fn set_values(&self, caller: &Caller<'_>, values: &[u16]) -> Result<()> {
        self.with(caller, perm::WRITE, |state| {
            if values.iter().any(|&value| i32::from(value) > SEMVMX) {
                return Err(Errno::ERANGE);
            }
            for (sem, value) in state.sems.iter_mut().zip(values) {
                *sem = Sem { value: i32::from(*value), pid: Some(caller.pid.clone()) };
            }
            state.undos.iter_mut().for_each(|undo| undo.adjust.fill(0));
            state.ctime = now();
            state.perform_waiting();
            Ok(())
        })
    }

    /// `SETVAL`. The range of the value comes before everything else.
    pub fn set_value(&self, caller: &Caller<'_>, num: i32, value: i32) -> Result<()> {
        let num = self.index(num)?;
        self.with(caller, perm::WRITE, |state| {
            state.sems[num] = Sem { value, pid: Some(caller.pid.clone()) };
            state.undos.iter_mut().for_each(|undo| undo.adjust[num] = 0);
            state.ctime = now();
            state.perform_waiting();
            Ok(())
        })
    }

    fn index(&self, num: i32) -> Result<usize> {
        usize::try_from(num).ok().filter(|&num| num < self.len).ok_or(Errno::EINVAL)
    }

    /// `GETVAL`.
    pub fn value(&self, caller: &Caller<'_>, num: i32) -> Result<i32> {
        self.with(caller, perm::READ, |state| Ok(state.sems[self.index(num)?].value))
    }

    /// `GETPID`.
    pub fn last_pid(&self, caller: &Caller<'_>, num: i32) -> Result<Option<Ref<Pid>>> {
        self.with(caller, perm::READ, |state| Ok(state.sems[self.index(num)?].pid.clone()))
    }

    /// `GETNCNT` and `GETZCNT`.
    pub fn waiting(&self, caller: &Caller<'_>, num: i32, for_zero: bool) -> Result<usize> {
        self.with(caller, perm::READ, |state| Ok(state.count_waiting(self.index(num)?, for_zero)))
    }

    /// `IPC_SET`.
    pub fn set(&self, caller: &Caller<'_>, new: &NewOwner) -> Result<()> {
        let mut state = self.state.lock();
        state.perm.check_control(caller)?;
        state.perm.set(new);
        state.ctime = now();
        Ok(())
    }

    /// `IPC_RMID`: who waits is told that the set is gone.
    pub fn remove(&self, caller: &Caller<'_>) -> Result<()> {
        let key = {
            let mut state = self.state.lock();
            state.perm.check_control(caller)?;
            if state.gone {
                return Err(Errno::EIDRM);
            }
            state.gone = true;
            for waiting in core::mem::take(&mut state.waiting) {
                waiting.parked.finish(Err(Errno::EIDRM));
            }
            state.undos = Vec::new();
            state.perm.key
        };
        if caller.ns.sem.table.remove(self, key) {
            caller.ns.sem.used.fetch_sub(self.len, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The tasks of a list have ended: their operations are undone as far as the values allow.
    fn undo(&self, list: u64, pid: &Ref<Pid>) {
        let mut state = self.state.lock();
        let Ok(at) = state.undos.binary_search_by_key(&list, |undo| undo.list) else { return };
        let undo = state.undos.remove(at);
        for (sem, adjust) in state.sems.iter_mut().zip(&undo.adjust) {
            if *adjust != 0 {
                sem.value = (sem.value + i32::from(*adjust)).clamp(0, SEMVMX);
                sem.pid = Some(pid.clone());
            }
        }
        state.otime = now();
        state.perform_waiting();
    }
}

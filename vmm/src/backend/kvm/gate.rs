//! Who may run: the door that every vCPU thread passes before it enters the guest, and the signal that
//! brings it out.
//!
//! A thread is either in the guest or standing. [`Gate::pause`] returns when all stand. A signal that
//! arrives just before `KVM_RUN` is not lost: its handler sets `immediate_exit` in the thread's
//! `kvm_run` page, and `KVM_RUN` looks at that first.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Stand,
    Run,
    End,
}

struct State {
    wanted: Wanted,
    standing: usize,
    threads: Vec<JoinHandle<()>>,
}

/// The door.
pub(super) struct Gate {
    cpus: usize,
    state: Mutex<State>,
    changed: Condvar,
}

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn kicked(_signal: c_int, _info: *mut siginfo_t, _context: *mut c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: `Kickable` keeps the page mapped while the pointer is set, and this runs on the
        // thread that set it. A byte is written whole.
        unsafe { flag.write_volatile(1) };
    }
}

/// While it lives, a kick of this thread sets the byte.
pub(super) struct Kickable(());

impl Kickable {
    /// # Safety
    ///
    /// `immediate_exit` must stay writable until the value is dropped, on the same thread.
    pub(super) unsafe fn new(immediate_exit: *mut u8) -> Self {
        IMMEDIATE_EXIT.set(immediate_exit);
        Self(())
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

impl Gate {
    /// A closed door for `cpus` threads, all of which stand. Claims the signal.
    pub(super) fn new(cpus: usize) -> io::Result<Self> {
        register_signal_handler(SIGRTMIN(), kicked)
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        let state = State { wanted: Wanted::Stand, standing: cpus, threads: Vec::new() };
        Ok(Self { cpus, state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Makes `thread` known, so that it can be kicked and waited for.
    pub(super) fn add(&self, thread: JoinHandle<()>) {
        self.lock().threads.push(thread);
    }

    /// Waits until the caller, which stands, may run; `false` if it shall end.
    pub(super) fn pass(&self) -> bool {
        let mut state = self.lock();
        loop {
            match state.wanted {
                Wanted::Stand => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Wanted::Run => {
                    state.standing -= 1;
                    return true;
                }
                Wanted::End => return false,
            }
        }
    }

    /// Whether the caller, which runs, may go on.
    pub(super) fn is_open(&self) -> bool {
        self.lock().wanted == Wanted::Run
    }

    /// The caller stands again.
    pub(super) fn stand(&self) {
        self.lock().standing += 1;
        self.changed.notify_all();
    }

    /// Opens the door, unless it is closed for good.
    pub(super) fn open(&self) {
        let mut state = self.lock();
        if state.wanted == Wanted::Stand {
            state.wanted = Wanted::Run;
            // Who wakes up finds the lock free.
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Brings that thread out of the guest, in the order in which they were made known. It may go on.
    pub(super) fn kick(&self, index: usize) {
        // One that has ended stands.
        let _ = self.lock().threads.get(index).map(|thread| thread.kill(SIGRTMIN()));
    }

    /// Closes the door and waits until all stand.
    pub(super) fn pause(&self) {
        self.close(Wanted::Stand);
    }

    /// Closes the door for good and waits until all stand. Whether the caller is the first who did.
    pub(super) fn end(&self) -> bool {
        self.close(Wanted::End)
    }

    /// Waits for the threads after [`Gate::end`]. None of them may call this.
    pub(super) fn join(&self) {
        let threads = std::mem::take(&mut self.lock().threads);
        for thread in threads {
            // A thread that panicked has ended, too.
            let _ = thread.join();
        }
    }

    /// Whether this changed what is wanted.
    fn close(&self, wanted: Wanted) -> bool {
        let mut state = self.lock();
        let changed = state.wanted != Wanted::End && state.wanted != wanted;
        if changed {
            state.wanted = wanted;
            self.changed.notify_all();
            for thread in &state.threads {
                // A thread that has ended stands.
                let _ = thread.kill(SIGRTMIN());
            }
        }
        while state.standing < self.cpus {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        changed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

    use super::*;

    /// Threads that "run" by counting until their flag is set, as `KVM_RUN` looks at it.
    #[test]
    fn pause_catches_every_thread_however_it_is_timed() {
        const CPUS: usize = 3;
        let gate = Arc::new(Gate::new(CPUS).unwrap());
        let count = Arc::new(AtomicU64::new(0));
        for _ in 0..CPUS {
            let (gate_of_thread, count) = (gate.clone(), count.clone());
            gate.add(std::thread::spawn(move || {
                let flag = AtomicU8::new(0);
                // SAFETY: the flag lives longer than the guard.
                let _kickable = unsafe { Kickable::new(flag.as_ptr()) };
                while gate_of_thread.pass() {
                    flag.store(0, Ordering::SeqCst);
                    while gate_of_thread.is_open() && flag.load(Ordering::SeqCst) == 0 {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                    gate_of_thread.stand();
                }
            }));
        }
        for _ in 0..200 {
            gate.open();
            gate.pause();
            let before = count.load(Ordering::SeqCst);
            std::thread::yield_now();
            assert_eq!(count.load(Ordering::SeqCst), before);
        }
        gate.open();
        assert!(gate.end());
        assert!(!gate.end());
        gate.open();
        gate.join();
    }
}

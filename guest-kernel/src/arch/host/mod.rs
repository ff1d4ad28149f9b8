//! The machine's interface on a host, for tests: a thread is a host thread, interrupts are a flag.

use std::cell::Cell;

use super::Thread;

/// Whether interrupts were on.
pub type IrqState = bool;

thread_local! {
    static IRQS: Cell<bool> = const { Cell::new(true) };
    static CURRENT: Cell<&'static Thread> = Cell::new(Box::leak(Box::new(Thread::new())));
}

/// The thread that runs on this CPU.
pub fn current_thread() -> &'static Thread {
    CURRENT.get()
}

/// Makes `thread` the current one, as `switch_to` would.
pub fn set_current_thread(thread: &'static Thread) {
    CURRENT.set(thread);
}

/// Masks interrupts and says whether they were on.
pub fn irq_save() -> IrqState {
    IRQS.replace(false)
}

/// Undoes [`irq_save`].
pub fn irq_restore(state: IrqState) {
    IRQS.set(state);
}

/// True if interrupts are on.
pub fn irqs_enabled() -> bool {
    IRQS.get()
}

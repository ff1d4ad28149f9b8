//! The states of an entity, in Linux's bits: what /proc, ptrace and a reader outside expect.
//!
//! The diagram is in [`super`]. The value changes through the transitions of [`super::Entity`] only.

bitflags::bitflags! {
    /// The state of an entity; empty means runnable (`TASK_RUNNING`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TaskState: u32 {
        /// Sleeps; a signal ends the sleep.
        const INTERRUPTIBLE = 0x1;
        /// Sleeps; only the event ends the sleep.
        const UNINTERRUPTIBLE = 0x2;
        /// Stopped by job control.
        const STOPPED = 0x4;
        /// Stopped for a tracer.
        const TRACED = 0x8;
        /// A kernel thread that waits to be let go on.
        const PARKED = 0x40;
        /// Never runs again; its last reference goes once it is switched away.
        const DEAD = 0x80;
        /// Added to a sleep or a stop: a fatal signal ends it.
        const WAKEKILL = 0x100;
        /// A waker moves it between CPUs.
        const WAKING = 0x200;
        /// Added to an uninterruptible sleep that is no load (an idle kernel thread).
        const NOLOAD = 0x400;
        /// Not yet started.
        const NEW = 0x800;
        /// Added to an interruptible sleep: who holds the process leaves it asleep.
        const FREEZABLE = 0x2000;
    }
}

belljar_abi::describe_flags!(TaskState);

impl TaskState {
    /// Runnable: on a CPU or in a run queue.
    pub const RUNNING: Self = Self::empty();
    /// Sleeps until the event or a fatal signal.
    pub const KILLABLE: Self = Self::UNINTERRUPTIBLE.union(Self::WAKEKILL);
    /// An interruptible sleep of a call that does nothing before it sleeps, and is never restarted after a signal.
    pub const UNRESTARTED: Self = Self::INTERRUPTIBLE.union(Self::FREEZABLE);
    /// An uninterruptible sleep that does not count as load.
    pub const IDLE: Self = Self::UNINTERRUPTIBLE.union(Self::NOLOAD);
    /// What an ordinary wake-up ends.
    pub const NORMAL: Self = Self::INTERRUPTIBLE.union(Self::UNINTERRUPTIBLE);
    /// Every state that some wake-up ends.
    pub const ALL: Self = Self::NORMAL.union(Self::STOPPED).union(Self::TRACED).union(Self::PARKED);

    /// The letter that /proc/PID/stat shows for a task that has not exited.
    pub const fn letter(self) -> char {
        let bits = self.bits();
        if bits & Self::DEAD.bits() != 0 {
            'X'
        } else if bits & Self::TRACED.bits() != 0 {
            't'
        } else if bits & Self::STOPPED.bits() != 0 {
            'T'
        } else if bits & Self::PARKED.bits() != 0 {
            'P'
        } else if bits & Self::NOLOAD.bits() != 0 {
            'I'
        } else if bits & (Self::UNINTERRUPTIBLE.bits() | Self::NEW.bits()) != 0 {
            'D'
        } else if bits & Self::INTERRUPTIBLE.bits() != 0 {
            'S'
        } else {
            'R'
        }
    }
}

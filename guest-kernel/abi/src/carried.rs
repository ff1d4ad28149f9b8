//! The kinds of open files that a checkpoint carries. The VMM writes into a core what is on this list and refuses
//! the rest; the kernel makes it again. Both match it whole, so neither can lack a kind that the other has.

macro_rules! carried {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)+) => {
        /// A kind of open file that a core can hold. The numbers are those of the kernel's own kinds and part of
        /// the form of [`corenote::File::kind`](crate::corenote::File::kind).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u64)]
        pub enum Carried { $($(#[$doc])* $name = $number,)+ }

        impl Carried {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The kind with that number; `None` if no core holds one.
            pub const fn of(number: u64) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)+
                    _ => None,
                }
            }
        }
    };
}

carried! {
    /// A regular file: by path, size and content.
    Regular = 0,
    /// A directory: by path.
    Directory = 1,
    /// A character device that keeps nothing of who has it open: by path.
    CharDevice = 2,
    /// An end of a pipe, or a FIFO: with what is in it.
    Pipe = 4,
    /// A Unix socket whose other ends are in the same checkpoint: with what is queued at it.
    Socket = 5,
    /// A terminal: a line of the machine by path, a pseudoterminal whose master is in the same checkpoint with all
    /// that it holds.
    Tty = 7,
    /// An eventfd: with its count.
    EventFd = 8,
    /// An epoll set: with what it watches.
    Epoll = 9,
    /// A timerfd: with what is left of it.
    TimerFd = 10,
    /// A signalfd: with its mask.
    SignalFd = 11,
    /// A pidfd of a process of the same checkpoint.
    PidFd = 12,
    /// The master of a pseudoterminal.
    PtyMaster = 16,
}

//! The notes in a process core that Linux cores lack: what resuming the process needs besides registers
//! and memory. The VMM writes them (`belljar checkpoint`), the kernel's ELF loader reads them.
//!
//! Every note has the owner [`OWNER`] and a kind of [`Kind`]. Its descriptor is a table: a header of
//! [`HEADER_LEN`] bytes (version, number of records, bytes of a record, 0; u32 each), the records, then bytes
//! that records refer to. A record is a row of little-endian u64 words. Later versions may only add words at
//! a record's end and new kinds: a reader takes the words that it knows, those that an older writer
//! did not have are 0. A kind that changes its meaning raises [`VERSION`], which a reader refuses.
//!
//! Nothing here is trusted: reading works on plain bytes, checks every bound, and never allocates.

/// The owner of the notes.
pub const OWNER: &str = "BELLJAR";
/// The version that every table states.
pub const VERSION: u32 = 1;
/// Bytes before the records.
pub const HEADER_LEN: usize = 16;

/// Kinds count on from this: readers of cores that look at kinds alone know other notes by small numbers.
const FIRST_KIND: u32 = 0x424a_0000;

/// Which note. The numbers are part of the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// One [`Process`].
    Process = FIRST_KIND + 1,
    /// A [`Group`] for each supplementary group.
    Groups = FIRST_KIND + 2,
    /// An [`Id`] for each number, of each kind, at each level.
    Ids = FIRST_KIND + 3,
    /// A [`Thread`] for each `NT_PRSTATUS`, in the same order.
    Threads = FIRST_KIND + 4,
    /// The ranges of the address space: [`Vma`].
    Vmas = FIRST_KIND + 5,
    /// Pages that somebody else has too: [`Frames`].
    Frames = FIRST_KIND + 6,
    /// Descriptors: [`Fd`].
    Fds = FIRST_KIND + 7,
    /// Open file descriptions: [`File`].
    Files = FIRST_KIND + 8,
    /// Signal dispositions that are not the default: [`SigAction`].
    SigActions = FIRST_KIND + 9,
    /// Pending signals: [`Pending`].
    Pending = FIRST_KIND + 10,
    /// Resource limits: [`Limit`].
    Limits = FIRST_KIND + 11,
    /// Children that have ended and were not waited for: [`Zombie`].
    Zombies = FIRST_KIND + 12,
    /// The controlling terminal, if there is one: a [`Terminal`].
    Terminal = FIRST_KIND + 13,
    /// Timers: [`Timer`].
    Timers = FIRST_KIND + 14,
}

/// Bytes behind the records, as a word: the offset from their start in the upper half, the length in the lower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl Bytes {
    /// No bytes.
    pub const NONE: Self = Self(0);

    /// Where they start, and how many.
    pub const fn parts(self) -> (usize, usize) {
        ((self.0 >> 32) as usize, self.0 as u32 as usize)
    }
}

/// Why a note was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It is shorter than it says.
    CutShort,
    /// Another version.
    Version(u32),
    /// Records of no words, or of a number of bytes that are no words.
    BadRecord(u32),
    /// A reference to bytes that are not there.
    BadBytes(u64),
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::CutShort => f.write_str("a note is cut short"),
            Self::Version(found) => {
                write!(f, "a note has version {found}, this reads {VERSION}")
            }
            Self::BadRecord(size) => write!(f, "a note has records of {size} bytes"),
            Self::BadBytes(word) => write!(f, "a note refers to bytes {word:#x} that it lacks"),
        }
    }
}

impl core::error::Error for Error {}

/// A row of a table.
pub trait Record: Default {
    /// The words of this version.
    const WORDS: usize;
    /// Sets word number `index`, if there is one.
    fn set(&mut self, index: usize, value: u64);
    /// Word number `index`; 0 if there is none.
    fn get(&self, index: usize) -> u64;
}

macro_rules! records {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident,)+ })+) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$fdoc])* pub $field: u64,)+ }

        impl Record for $name {
            const WORDS: usize = [$(stringify!($field)),+].len();

            fn set(&mut self, index: usize, value: u64) {
                let fields: [&mut u64; Self::WORDS] = [$(&mut self.$field),+];
                if let Some(field) = fields.into_iter().nth(index) {
                    *field = value;
                }
            }

            fn get(&self, index: usize) -> u64 {
                [$(self.$field),+].get(index).copied().unwrap_or(0)
            }
        }
    )+ };
}

records! {
    /// The process as a whole. Fields named `*_bytes` are [`Bytes`].
    Process {
        /// Its number, its parent's, its group's, its session's: in the initial namespace.
        pid,
        /// See `pid`.
        ppid,
        /// See `pid`.
        pgid,
        /// See `pid`.
        sid,
        /// 1 if it leads its session.
        session_leader,
        /// Signal for its parent when it ends.
        exit_signal,
        /// 1 if all its threads are stopped.
        stopped,
        /// File creation mask.
        umask,
        /// Path of its working directory.
        cwd_bytes,
        /// Path of its root directory.
        root_bytes,
        /// Path of its program.
        exe_bytes,
        /// Real user id; the others follow as credentials(7) names them.
        uid,
        /// Effective user id.
        euid,
        /// Saved user id.
        suid,
        /// File system user id.
        fsuid,
        /// Real group id.
        gid,
        /// Effective group id.
        egid,
        /// Saved group id.
        sgid,
        /// File system group id.
        fsgid,
        /// Inheritable capabilities.
        cap_inheritable,
        /// Permitted capabilities.
        cap_permitted,
        /// Effective capabilities.
        cap_effective,
        /// Bounding set.
        cap_bounding,
        /// Ambient capabilities.
        cap_ambient,
        /// securebits.
        securebits,
        /// 1 if execve(2) grants nothing.
        no_new_privs,
        /// Start of the heap.
        start_brk,
        /// End of the heap.
        brk,
        /// Mappings are placed below this.
        mmap_base,
        /// Start of the code; the others as in prctl(2) `PR_SET_MM`.
        start_code,
        /// End of the code.
        end_code,
        /// Start of the data.
        start_data,
        /// End of the data.
        end_data,
        /// Start of the stack.
        start_stack,
        /// Start of the arguments.
        arg_start,
        /// End of the arguments.
        arg_end,
        /// Start of the environment.
        env_start,
        /// End of the environment.
        env_end,
        /// Address of the code that returns from a signal handler.
        sigreturn,
        /// Bias of the OOM killer, as a signed number.
        oom_score_adj,
        /// 1 if it adopts orphans.
        subreaper,
        /// CLOCK_MONOTONIC when the core was made, in nanoseconds, as the process sees it; 0 if unknown.
        monotonic_ns,
        /// User time of its threads that have ended, in nanoseconds.
        dead_utime,
        /// System time of them.
        dead_stime,
        /// User time of its children that were waited for.
        children_utime,
        /// System time of them.
        children_stime,
    }
    /// A supplementary group.
    Group {
        /// Its id.
        gid,
    }
    /// A number of the process or of one of its threads.
    Id {
        /// 0 thread, 1 process, 2 process group, 3 session.
        kind,
        /// The thread, by its number in the initial namespace; for the others the process.
        of,
        /// Level of the namespace, 0 for the initial one.
        level,
        /// The number there.
        nr,
        /// Inode number of the namespace.
        ns,
    }
    /// A thread.
    Thread {
        /// Its number in the initial namespace.
        tid,
        /// Its name.
        comm_bytes,
        /// The system call that it is in, as a signed number; -1 for none.
        syscall,
        /// x0 as that call was made with.
        orig_x0,
        /// Blocked signals.
        blocked,
        /// 1 if `saved_mask` is to be restored once the call returns.
        has_saved_mask,
        /// See `has_saved_mask`.
        saved_mask,
        /// Alternate signal stack.
        altstack_sp,
        /// Its size.
        altstack_size,
        /// `SS_*`.
        altstack_flags,
        /// See set_tid_address(2).
        clear_child_tid,
        /// See set_robust_list(2).
        robust_list,
        /// Signal when its parent ends.
        pdeath_signal,
        /// `SCHED_*`.
        policy,
        /// Nice value, as a signed number.
        nice,
        /// Real-time priority.
        rt_priority,
        /// A bit for each CPU that it may run on.
        cpus_allowed,
        /// See personality(2).
        personality,
        /// How the call that it is in goes on ([`RESTART_NONE`] and so on), for one that
        /// returned [`ERESTART_RESTARTBLOCK`]; the words that follow belong to it.
        restart_kind,
        /// The clock of its deadline: 0 CLOCK_MONOTONIC, 1 CLOCK_REALTIME.
        restart_clock,
        /// The deadline, in nanoseconds on that clock.
        restart_ns,
        /// Where the remaining time goes, or the futex.
        restart_addr,
        /// Value, flags and bit set of a wait for a futex.
        restart_value,
        /// See `restart_value`.
        restart_flags,
        /// See `restart_value`.
        restart_bitset,
        /// CPU time that it used, in nanoseconds.
        cpu_ns,
        /// How much of it was found to be user time.
        user_sampled,
        /// How much of it was found to be system time.
        system_sampled,
        /// User time as last shown: what is shown does not go back.
        utime,
        /// System time as last shown.
        stime,
    }
    /// A range of the address space.
    Vma {
        /// First address.
        start,
        /// One past the last.
        end,
        /// `VM_*`.
        flags,
        /// Page of the file at `start`.
        pgoff,
        /// Device number of what is mapped, 0 for private anonymous memory.
        dev,
        /// Inode number of it.
        ino,
        /// Its path or name.
        path_bytes,
        /// Size of a regular file.
        size,
        /// BLAKE3 of a regular file's content.
        hash_bytes,
    }
    /// A run of pages that another process of the same checkpoint may have too: equal `frame`s are one page.
    Frames {
        /// First address.
        start,
        /// Number of the frame of the first page.
        frame,
        /// Pages.
        pages,
        /// 1 if a write copies the page, 0 if all see it.
        cow,
    }
    /// A descriptor.
    Fd {
        /// Its number.
        fd,
        /// [`File::id`] of what it refers to.
        file,
        /// 1 if exec closes it.
        cloexec,
    }
    /// An open file description. Equal `id`s in cores of one checkpoint are the same one.
    File {
        /// Which one.
        id,
        /// A kind of open file, one of [`Carried`](crate::carried::Carried) unless a later version wrote it.
        kind,
        /// `O_*`, as fcntl(2) shows them.
        flags,
        /// Position.
        pos,
        /// Path.
        path_bytes,
        /// Device number of its file system.
        dev,
        /// Inode number.
        ino,
        /// File type and mode.
        mode,
        /// Size.
        size,
        /// The device that it is.
        rdev,
        /// What is behind it, for those that share it (both ends of a pipe).
        object,
        /// Bytes in a pipe; for an eventfd nothing.
        content_bytes,
        /// The count of an eventfd; the slots of a pipe.
        value,
        /// 1 for an eventfd that is a semaphore.
        semaphore,
        /// BLAKE3 of a regular file's content.
        hash_bytes,
    }
    /// A signal disposition.
    SigAction {
        /// The signal.
        signo,
        /// `SIG_IGN` (1) or an address.
        handler,
        /// `SA_*`.
        flags,
        /// `sa_restorer`.
        restorer,
        /// Blocked while the handler runs.
        mask,
    }
    /// A pending signal.
    Pending {
        /// The thread; 0 for the process.
        tid,
        /// The signal.
        signo,
        /// `si_errno`.
        errno,
        /// `si_code`, as a signed number.
        code,
        /// The union in `siginfo_t`, as words; the others follow.
        field0,
        /// See `field0`.
        field1,
        /// See `field0`.
        field2,
        /// See `field0`.
        field3,
    }
    /// A child that has ended and was not waited for yet.
    Zombie {
        /// Its number, its group's, its session's: in the initial namespace.
        pid,
        /// See `pid`.
        pgid,
        /// See `pid`.
        sid,
        /// Its wait status.
        status,
        /// Signal for its parent.
        exit_signal,
        /// Its real user id.
        uid,
        /// Its real group id.
        gid,
        /// User time that it and its children used, in nanoseconds.
        utime,
        /// System time.
        stime,
        /// Its name.
        comm_bytes,
    }
    /// A controlling terminal.
    Terminal {
        /// Its device number.
        dev,
        /// Its foreground process group, in the initial namespace; 0 for none.
        pgrp,
        /// `c_iflag`; the others follow as termios(3) names them.
        iflag,
        /// `c_oflag`.
        oflag,
        /// `c_cflag`.
        cflag,
        /// `c_lflag`.
        lflag,
        /// `c_ispeed`.
        ispeed,
        /// `c_ospeed`.
        ospeed,
        /// `c_cc`.
        cc_bytes,
    }
    /// A timer of the process.
    Timer {
        /// [`TIMER_POSIX`] and so on.
        what,
        /// Its number, if it was made by timer_create(2).
        id,
        /// What it counts: a clock's number as in clock_gettime(2), or [`CLOCK_PROCESS_USER`].
        clock,
        /// The thread whose CPU time it counts, if it does that.
        clock_tid,
        /// The clock of its deadline, if it counts no CPU time: 0 CLOCK_MONOTONIC, 1 CLOCK_REALTIME.
        base,
        /// When it rings next, in nanoseconds on that clock, as the process sees it, or of CPU time; 0 if it
        /// does not.
        deadline,
        /// How long after that again, in nanoseconds; 0 for once.
        interval,
        /// Expirations that its last signal stood for, beyond the first.
        overrun,
        /// The signal that it sends; 0 for none.
        signo,
        /// The signal's value.
        value,
        /// The thread that gets the signal; 0 for the process.
        notify_tid,
    }
    /// A resource limit.
    Limit {
        /// `RLIMIT_*`.
        resource,
        /// What is enforced.
        soft,
        /// How far it may be raised.
        hard,
    }
}

/// [`Timer::what`]: made by timer_create(2).
pub const TIMER_POSIX: u64 = 0;
/// [`Timer::what`]: `ITIMER_REAL` of setitimer(2).
pub const TIMER_REAL: u64 = 1;
/// [`Timer::what`]: `ITIMER_VIRTUAL`.
pub const TIMER_VIRTUAL: u64 = 2;
/// [`Timer::what`]: `ITIMER_PROF`.
pub const TIMER_PROF: u64 = 3;
/// [`Timer::clock`]: user time of the process. No clock of clock_gettime(2) has the number.
pub const CLOCK_PROCESS_USER: u64 = 16;

/// [`Thread::restart_kind`]: it does not.
pub const RESTART_NONE: u64 = 0;
/// [`Thread::restart_kind`]: it sleeps on.
pub const RESTART_NANOSLEEP: u64 = 1;
/// [`Thread::restart_kind`]: it waits on for a futex.
pub const RESTART_FUTEX: u64 = 2;

/// What an interrupted call returned, negated, in x0 of a core: it starts over unless a handler runs that
/// forbids it (`SA_RESTART`). The kernel's own codes, as Linux numbers them.
pub const ERESTARTSYS: u64 = 512;
/// See [`ERESTARTSYS`]: it starts over.
pub const ERESTARTNOINTR: u64 = 513;
/// See [`ERESTARTSYS`]: it starts over unless a handler runs.
pub const ERESTARTNOHAND: u64 = 514;
/// See [`ERESTARTSYS`]: it goes on as [`Thread::restart_kind`] says unless a handler runs.
pub const ERESTART_RESTARTBLOCK: u64 = 516;

/// Name of the mapping of the page that signal handlers return through.
pub const SIGRETURN_NAME: &[u8] = b"[sigreturn]";
/// Name of a mapping of shared anonymous memory.
pub const SHARED_NAME: &[u8] = b"/dev/zero (deleted)";
/// Bytes of a hash.
pub const HASH_LEN: usize = 32;

// Tripwires. Cores are kept and read by later kernels: add words at a record's end and kinds with new
// numbers only; anything else raises `VERSION`, and the reader keeps reading the former ones.
const _: () = {
    assert!(VERSION == 1, "core notes: a new version needs a reader for the former ones");
    assert!(HEADER_LEN == 16, "core notes: version, count, size, 0");
    assert!(Kind::Process as u32 == 0x424a_0001, "core notes: kinds");
    assert!(Kind::Limits as u32 == 0x424a_000b, "core notes: kinds");
    assert!(Kind::Zombies as u32 == 0x424a_000c, "core notes: kinds");
    assert!(Kind::Terminal as u32 == 0x424a_000d, "core notes: kinds");
    assert!(Kind::Timers as u32 == 0x424a_000e, "core notes: kinds");
    assert!(Timer::WORDS >= 11, "core notes: Timer loses no word");
    assert!(Terminal::WORDS >= 9, "core notes: Terminal loses no word");
    assert!(Zombie::WORDS >= 10, "core notes: Zombie loses no word");
    assert!(Process::WORDS >= 46, "core notes: Process loses no word");
    assert!(Id::WORDS >= 5 && Thread::WORDS >= 30, "core notes: Id, Thread lose no word");
    assert!(Vma::WORDS >= 9 && Frames::WORDS >= 4, "core notes: Vma, Frames lose no word");
    assert!(Fd::WORDS >= 3 && File::WORDS >= 15, "core notes: Fd, File lose no word");
    assert!(SigAction::WORDS >= 5 && Pending::WORDS >= 8, "core notes: signals lose no word");
    assert!(Limit::WORDS >= 3 && Group::WORDS >= 1, "core notes: Limit, Group lose no word");
};

/// A note's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table<'a> {
    records: &'a [u8],
    size: usize,
    bytes: &'a [u8],
}

impl<'a> Table<'a> {
    /// Reads a note's descriptor.
    pub fn parse(desc: &'a [u8]) -> Result<Self, Error> {
        let (header, rest) = desc.split_first_chunk::<HEADER_LEN>().ok_or(Error::CutShort)?;
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| header[at + i]));
        let (version, count, size) = (word(0), word(4), word(8));
        if version != VERSION {
            return Err(Error::Version(version));
        }
        if size == 0 || size % 8 != 0 {
            return Err(Error::BadRecord(size));
        }
        let len = (count as usize).checked_mul(size as usize).ok_or(Error::CutShort)?;
        let (records, bytes) = rest.split_at_checked(len).ok_or(Error::CutShort)?;
        Ok(Self { records, size: size as usize, bytes })
    }

    /// How many records it has.
    pub fn len(&self) -> usize {
        self.records.len() / self.size
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The records.
    pub fn records<T: Record>(&self) -> impl Iterator<Item = T> + use<'a, T> {
        self.records.chunks_exact(self.size).map(|bytes| {
            let mut record = T::default();
            for (index, word) in bytes.chunks_exact(8).take(T::WORDS).enumerate() {
                let word = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| word[i]);
                record.set(index, u64::from_le_bytes(word));
            }
            record
        })
    }

    /// The bytes that a record's word refers to.
    pub fn bytes(&self, word: u64) -> Result<&'a [u8], Error> {
        let (start, len) = Bytes(word).parts();
        let end = start.checked_add(len).ok_or(Error::BadBytes(word))?;
        self.bytes.get(start..end).ok_or(Error::BadBytes(word))
    }
}

/// A table under construction.
#[cfg(any(feature = "alloc", test))]
#[derive(Clone, Debug)]
pub struct Writer<T> {
    records: alloc::vec::Vec<T>,
    bytes: alloc::vec::Vec<u8>,
}

#[cfg(any(feature = "alloc", test))]
impl<T: Record> Default for Writer<T> {
    fn default() -> Self {
        Self { records: Default::default(), bytes: Default::default() }
    }
}

#[cfg(any(feature = "alloc", test))]
impl<T: Record> Writer<T> {
    /// Adds a record.
    pub fn push(&mut self, record: T) {
        self.records.push(record);
    }

    /// Adds bytes, for a word of a record. `None` if the table is full: it holds less than 4 GiB of them.
    pub fn bytes(&mut self, bytes: &[u8]) -> Option<u64> {
        if bytes.is_empty() {
            return Some(Bytes::NONE.0);
        }
        let start = u32::try_from(self.bytes.len()).ok()?;
        let len = u32::try_from(bytes.len()).ok()?;
        self.bytes.extend_from_slice(bytes);
        Some(u64::from(start) << 32 | u64::from(len))
    }

    /// The note's descriptor.
    pub fn finish(&self) -> alloc::vec::Vec<u8> {
        let size = (T::WORDS * 8) as u32;
        let mut desc = alloc::vec::Vec::new();
        for word in [VERSION, self.records.len() as u32, size, 0] {
            desc.extend_from_slice(&word.to_le_bytes());
        }
        for record in &self.records {
            for index in 0..T::WORDS {
                desc.extend_from_slice(&record.get(index).to_le_bytes());
            }
        }
        desc.extend_from_slice(&self.bytes);
        desc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of descriptors as version 1 wrote it: two, and no bytes. Never changes.
    const GOLDEN_FDS: &[u8] = b"\x01\0\0\0\x02\0\0\0\x18\0\0\0\0\0\0\0\
        \0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
        \x03\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0";

    #[test]
    fn golden_table_of_version_1_is_read_and_written() {
        let fds = [Fd { fd: 0, file: 16, cloexec: 0 }, Fd { fd: 3, file: 32, cloexec: 1 }];
        let table = Table::parse(GOLDEN_FDS).unwrap();
        assert_eq!(table.records::<Fd>().collect::<Vec<_>>(), fds);
        let mut writer = Writer::default();
        fds.iter().for_each(|fd| writer.push(*fd));
        assert_eq!(writer.finish(), GOLDEN_FDS);
    }

    #[test]
    fn records_of_other_versions_are_read_as_far_as_they_are_known() {
        let mut writer = Writer::default();
        let path_bytes = writer.bytes(b"/tmp/x").unwrap();
        writer.push(Vma { start: 1, path_bytes, ..Vma::default() });
        let desc = writer.finish();
        let table = Table::parse(&desc).unwrap();
        assert_eq!(table.records::<Fd>().next(), Some(Fd { fd: 1, file: 0, cloexec: 0 }));
        let longer = table.records::<Process>().next().unwrap();
        assert_eq!((longer.pid, longer.subreaper), (1, 0));
        assert_eq!(table.bytes(path_bytes), Ok(&b"/tmp/x"[..]));
        assert_eq!(table.bytes(path_bytes + 1), Err(Error::BadBytes(path_bytes + 1)));
        assert_eq!(table.bytes(u64::MAX), Err(Error::BadBytes(u64::MAX)));
    }

    #[test]
    fn damaged_tables_are_refused() {
        assert_eq!(Table::parse(b""), Err(Error::CutShort));
        assert_eq!(Table::parse(&GOLDEN_FDS[..20]), Err(Error::CutShort));
        let with = |at: usize, byte: u8| {
            let mut desc = GOLDEN_FDS.to_vec();
            desc[at] = byte;
            Table::parse(&desc).map(|table| table.len())
        };
        assert_eq!(with(0, 2), Err(Error::Version(2)));
        assert_eq!(with(7, 0xff), Err(Error::CutShort));
        assert_eq!(with(8, 0), Err(Error::BadRecord(0)));
        assert_eq!(with(8, 9), Err(Error::BadRecord(9)));
        assert_eq!(with(4, 1), Ok(1));
    }

    /// Whatever the bytes are, reading ends without a panic. Fixed seed.
    #[test]
    fn noise_is_read_or_refused() {
        let mut state = 7_u32;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        for _ in 0..20_000 {
            let mut desc = GOLDEN_FDS.to_vec();
            for _ in 0..1 + next() % 4 {
                let at = usize::from(next()) % desc.len();
                desc[at] = next();
            }
            if let Ok(table) = Table::parse(&desc) {
                for file in table.records::<File>() {
                    let _ = table.bytes(file.path_bytes);
                }
            }
        }
    }
}

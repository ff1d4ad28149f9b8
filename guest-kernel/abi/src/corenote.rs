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

mod records;

pub use records::*;

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
    /// What epoll sets watch: [`Watch`].
    Watches = FIRST_KIND + 15,
    /// Locks of files: [`Lock`].
    Locks = FIRST_KIND + 16,
    /// Unix sockets: [`Socket`].
    Sockets = FIRST_KIND + 17,
    /// What is queued at them: [`Message`].
    Messages = FIRST_KIND + 18,
    /// Filters of system calls: [`Filter`].
    Filters = FIRST_KIND + 19,
    /// Pseudoterminals whose masters the process has open: [`Pty`].
    Ptys = FIRST_KIND + 20,
    /// Files without a name, which the checkpoint holds itself: [`Nameless`].
    Nameless = FIRST_KIND + 21,
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

/// [`Lock::kind`]: a record lock of the process (fcntl(2)).
pub const LOCK_POSIX: u64 = 0;
/// [`Lock::kind`]: a record lock of the open file.
pub const LOCK_OFD: u64 = 1;
/// [`Lock::kind`]: flock(2).
pub const LOCK_FLOCK: u64 = 2;

/// [`Timer::what`]: made by timer_create(2).
pub const TIMER_POSIX: u64 = 0;
/// [`Timer::what`]: `ITIMER_REAL` of setitimer(2).
pub const TIMER_REAL: u64 = 1;
/// [`Timer::what`]: `ITIMER_VIRTUAL`.
pub const TIMER_VIRTUAL: u64 = 2;
/// [`Timer::what`]: `ITIMER_PROF`.
pub const TIMER_PROF: u64 = 3;
/// [`Timer::what`]: a timerfd.
pub const TIMER_FILE: u64 = 4;
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

/// Type of a program header, of those that elf(5) leaves to each system, for a piece of a file without a name:
/// `p_paddr` is its [`Nameless::id`], `p_vaddr` the place in the file. A reader that does not know it passes
/// over it.
pub const PT_FILE_PIECE: u32 = 0x6042_4a01;

/// A piece of a file without a name, as a header of the type [`PT_FILE_PIECE`] says where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilePiece {
    /// [`Nameless::id`] of the file.
    pub file: u64,
    /// Where in the file.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Where they stand in the core; while one is made, from the start of its data.
    pub offset: u64,
}

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
    assert!(Kind::Sockets as u32 == 0x424a_0011, "core notes: kinds");
    assert!(Kind::Messages as u32 == 0x424a_0012, "core notes: kinds");
    assert!(Socket::WORDS >= 28 && Message::WORDS >= 6, "core notes: Socket, Message lose no word");
    assert!(Kind::Filters as u32 == 0x424a_0013, "core notes: kinds");
    assert!(Filter::WORDS >= 5, "core notes: Filter loses no word");
    assert!(Kind::Locks as u32 == 0x424a_0010, "core notes: kinds");
    assert!(Lock::WORDS >= 5, "core notes: Lock loses no word");
    assert!(Kind::Watches as u32 == 0x424a_000f, "core notes: kinds");
    assert!(Watch::WORDS >= 7, "core notes: Watch loses no word");
    assert!(Timer::WORDS >= 11, "core notes: Timer loses no word");
    assert!(Kind::Nameless as u32 == 0x424a_0015, "core notes: kinds");
    assert!(PT_FILE_PIECE == 0x6042_4a01, "core notes: pieces of files");
    assert!(Nameless::WORDS >= 9, "core notes: Nameless loses no word");
    assert!(Kind::Ptys as u32 == 0x424a_0014, "core notes: kinds");
    assert!(Pty::WORDS >= 35, "core notes: Pty loses no word");
    assert!(Terminal::WORDS >= 10, "core notes: Terminal loses no word");
    assert!(Zombie::WORDS >= 10, "core notes: Zombie loses no word");
    assert!(Process::WORDS >= 46, "core notes: Process loses no word");
    assert!(Id::WORDS >= 5 && Thread::WORDS >= 33, "core notes: Id, Thread lose no word");
    assert!(Vma::WORDS >= 10 && Frames::WORDS >= 4, "core notes: Vma, Frames lose no word");
    assert!(Fd::WORDS >= 3 && File::WORDS >= 17, "core notes: Fd, File lose no word");
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

//! The control protocol: what the VMM and the kernel tell each other over the port
//! [`PORT_NAME`] (virtio-console, multiport).
//!
//! Both directions carry frames, little endian: a header of [`HEADER_LEN`] bytes (magic `BJCM`, kind,
//! 0, sequence, length of the payload), then the payload, at most [`MAX_PAYLOAD`] bytes. An answer carries
//! the sequence of what it answers; everything else has a number of its sender's choice. A receiver
//! skips kinds that it does not know, so either side may be newer. A damaged frame means that the other side
//! is not what it should be: the receiver stops listening.
//!
//! The kernel says [`Message::Hello`] when it begins to listen, after boot and after every thaw. A frozen
//! kernel cannot speak, so "frozen" is not a message but a word in the root page.

/// The name of the port.
pub const PORT_NAME: &str = "org.belljar.control";
/// The name of the terminal's port, where that is not port 0.
pub const TERMINAL_NAME: &str = "org.belljar.terminal";
/// First four bytes of every frame.
pub const MAGIC: [u8; 4] = *b"BJCM";
/// The version that [`Message::Hello`] states; 2 is the first that waits for [`Message::SnapshotTaken`].
pub const VERSION: u32 = 2;
/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 16;
/// The most bytes of a payload.
pub const MAX_PAYLOAD: usize = 1024;
/// The most bytes of a frame.
pub const MAX_FRAME: usize = HEADER_LEN + MAX_PAYLOAD;

/// What a frame says, as a number. To the guest below 0x100, to the VMM from there on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs, reason = "described at `Message`")]
pub enum Kind {
    Ping = 1,
    Freeze = 2,
    WindowSize = 3,
    SnapshotRefused = 4,
    SnapshotTaken = 5,
    Hold = 6,
    Release = 7,
    CoreStart = 8,
    CorePiece = 9,
    Resume = 10,
    Pong = 0x101,
    FreezeRefused = 0x102,
    Resumed = 0x103,
    SnapshotWanted = 0x104,
    Hello = 0x105,
    Held = 0x106,
    HoldRefused = 0x107,
    CoreWindow = 0x108,
    ResumeRefused = 0x109,
    ResumedProcess = 0x10a,
}

/// As what a thawed kernel goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Role {
    /// The machine that was frozen goes on itself.
    Original = 0,
    /// Its memory goes on in another machine.
    Copy = 1,
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// To the guest: answer with [`Message::Pong`].
    Ping,
    /// To the guest: freeze. Answered by the root page's `frozen` or by [`Message::FreezeRefused`].
    Freeze,
    /// To the guest: the terminal has this many character cells and pixels (0: unknown).
    WindowSize {
        /// Rows of characters.
        rows: u16,
        /// Columns of characters.
        columns: u16,
        /// Width in pixels.
        x_pixels: u16,
        /// Height in pixels.
        y_pixels: u16,
    },
    /// To the guest: the last answer to [`Message::SnapshotWanted`] when there is none; why. Also after
    /// [`Message::Freeze`]: the machine stood still, but its memory could not be kept.
    SnapshotRefused(&'a str),
    /// To the guest: the last answer to [`Message::SnapshotWanted`] when it is kept. A copy needs no such
    /// answer: that it runs says as much.
    SnapshotTaken,
    /// To the guest: bring a process to rest, until [`Message::Release`], so that it can be taken out. Answered
    /// by [`Message::Held`] or [`Message::HoldRefused`].
    Hold {
        /// Its number in the initial namespace.
        pid: u32,
        /// Its descendants too.
        tree: bool,
    },
    /// To the guest: let go of what is held.
    Release {
        /// It ends.
        kill: bool,
    },
    /// To the guest: a core comes, of a process that shall go on here; the first one is the root of a tree. Answered
    /// by [`Message::CoreWindow`] or [`Message::ResumeRefused`].
    CoreStart,
    /// To the guest: the next bytes of the core, so many, are in the window. Answered as
    /// [`Message::CoreStart`].
    CorePiece(u32),
    /// To the guest: that was the last core; the processes shall go on. Answered by
    /// [`Message::ResumedProcess`] or [`Message::ResumeRefused`].
    Resume,
    /// To the VMM: the answer to [`Message::Ping`].
    Pong,
    /// To the VMM: the answer to [`Message::Freeze`] when it cannot be; why.
    FreezeRefused(&'a str),
    /// To the VMM, after a thaw, behind [`Message::Hello`].
    Resumed {
        /// As what it goes on.
        role: Role,
        /// The root page's generation.
        generation: u64,
        /// Which copy it is, as the VMM said; 0 for the original.
        copy: u64,
    },
    /// To the VMM: a program in the guest wants a snapshot of this name (maybe empty). Answered by
    /// [`Message::Freeze`] and then [`Message::SnapshotTaken`], or by [`Message::SnapshotRefused`].
    SnapshotWanted(&'a str),
    /// To the VMM: the kernel listens from now on; [`VERSION`].
    Hello(u32),
    /// To the VMM: the processes are at rest; CLOCK_MONOTONIC in nanoseconds.
    Held(u64),
    /// To the VMM: the answer to [`Message::Hold`] when they do not come to rest; why. They go on.
    HoldRefused(&'a str),
    /// To the VMM: where the next bytes of a core may be put: physical memory that is set aside for them.
    CoreWindow {
        /// Its address.
        phys: u64,
        /// Its bytes.
        len: u64,
    },
    /// To the VMM: no process goes on, and what was sent is forgotten; why.
    ResumeRefused(&'a str),
    /// To the VMM: the processes go on; the number of the first.
    ResumedProcess(u32),
}

/// A message with its sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The sequence number.
    pub sequence: u32,
    /// The message; `None` for a kind that this version does not know.
    pub message: Option<Message<'a>>,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// They do not begin with [`MAGIC`].
    NoMagic,
    /// The payload is stated to be longer than [`MAX_PAYLOAD`].
    TooLong(u32),
    /// The payload of a known kind is not what that kind carries.
    BadPayload(u16),
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Error::NoMagic => f.write_str("a control frame does not begin with its magic"),
            Error::TooLong(len) => write!(f, "a control frame of {len} bytes is too long"),
            Error::BadPayload(kind) => write!(f, "a control frame of kind {kind:#x} is damaged"),
        }
    }
}

impl core::error::Error for Error {}

impl Message<'_> {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Message::Ping => Kind::Ping,
            Message::Freeze => Kind::Freeze,
            Message::WindowSize { .. } => Kind::WindowSize,
            Message::SnapshotRefused(_) => Kind::SnapshotRefused,
            Message::SnapshotTaken => Kind::SnapshotTaken,
            Message::Pong => Kind::Pong,
            Message::FreezeRefused(_) => Kind::FreezeRefused,
            Message::Resumed { .. } => Kind::Resumed,
            Message::SnapshotWanted(_) => Kind::SnapshotWanted,
            Message::Hello(_) => Kind::Hello,
            Message::Hold { .. } => Kind::Hold,
            Message::Release { .. } => Kind::Release,
            Message::CoreStart => Kind::CoreStart,
            Message::CorePiece(_) => Kind::CorePiece,
            Message::Resume => Kind::Resume,
            Message::Held(_) => Kind::Held,
            Message::HoldRefused(_) => Kind::HoldRefused,
            Message::CoreWindow { .. } => Kind::CoreWindow,
            Message::ResumeRefused(_) => Kind::ResumeRefused,
            Message::ResumedProcess(_) => Kind::ResumedProcess,
        }
    }

    /// Writes the frame to the start of `out` and returns its length. Text that is too long is cut.
    pub fn encode(&self, sequence: u32, out: &mut [u8; MAX_FRAME]) -> usize {
        let (header, payload) = out.split_at_mut(HEADER_LEN);
        let len = self.payload(payload);
        header[..4].copy_from_slice(&MAGIC);
        header[4..6].copy_from_slice(&(self.kind() as u16).to_le_bytes());
        header[6..8].fill(0);
        header[8..12].copy_from_slice(&sequence.to_le_bytes());
        header[12..].copy_from_slice(&(len as u32).to_le_bytes());
        HEADER_LEN + len
    }

    fn payload(&self, out: &mut [u8]) -> usize {
        match *self {
            Message::Ping
            | Message::Freeze
            | Message::SnapshotTaken
            | Message::Pong
            | Message::CoreStart
            | Message::Resume => 0,
            Message::WindowSize { rows, columns, x_pixels, y_pixels } => {
                for (to, from) in out.chunks_exact_mut(2).zip([rows, columns, x_pixels, y_pixels]) {
                    to.copy_from_slice(&from.to_le_bytes());
                }
                8
            }
            Message::Resumed { role, generation, copy } => {
                for (to, from) in out.chunks_exact_mut(8).zip([role as u64, generation, copy]) {
                    to.copy_from_slice(&from.to_le_bytes());
                }
                24
            }
            Message::Hello(word) | Message::CorePiece(word) | Message::ResumedProcess(word) => {
                out[..4].copy_from_slice(&word.to_le_bytes());
                4
            }
            Message::Release { kill } => {
                out[..4].copy_from_slice(&u32::from(kill).to_le_bytes());
                4
            }
            Message::Hold { pid, tree } => {
                for (to, from) in out.chunks_exact_mut(4).zip([pid, u32::from(tree)]) {
                    to.copy_from_slice(&from.to_le_bytes());
                }
                8
            }
            Message::Held(ns) => {
                out[..8].copy_from_slice(&ns.to_le_bytes());
                8
            }
            Message::CoreWindow { phys, len } => {
                for (to, from) in out.chunks_exact_mut(8).zip([phys, len]) {
                    to.copy_from_slice(&from.to_le_bytes());
                }
                16
            }
            Message::SnapshotRefused(text)
            | Message::HoldRefused(text)
            | Message::ResumeRefused(text)
            | Message::FreezeRefused(text)
            | Message::SnapshotWanted(text) => {
                let len = text.floor_char_boundary(MAX_PAYLOAD);
                out[..len].copy_from_slice(&text.as_bytes()[..len]);
                len
            }
        }
    }
}

/// Reads the frame at the start of `bytes` and says how long it is; `None` if it is not there whole yet.
/// At most [`MAX_FRAME`] bytes are needed.
pub fn decode(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, Error> {
    let start = &bytes[..bytes.len().min(MAGIC.len())];
    if !MAGIC.starts_with(start) {
        return Err(Error::NoMagic);
    }
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let [kind_low, kind_high] = [header[4], header[5]];
    let kind = u16::from_le_bytes([kind_low, kind_high]);
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| header[at + i]));
    let len = word(12);
    if len as usize > MAX_PAYLOAD {
        return Err(Error::TooLong(len));
    }
    let Some(payload) = rest.get(..len as usize) else { return Ok(None) };
    let frame = Frame { sequence: word(8), message: read(kind, payload)? };
    Ok(Some((frame, HEADER_LEN + len as usize)))
}

fn read(kind: u16, payload: &[u8]) -> Result<Option<Message<'_>>, Error> {
    let bad = Error::BadPayload(kind);
    let text = || core::str::from_utf8(payload).map_err(|_| bad);
    let word = || {
        let bytes: &[u8; 4] = payload.try_into().map_err(|_| bad)?;
        Ok(u32::from_le_bytes(*bytes))
    };
    let words32 = || {
        let bytes: &[u8; 8] = payload.try_into().map_err(|_| bad)?;
        let at =
            |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Ok([at(0), at(4)])
    };
    let empty = |message| if payload.is_empty() { Ok(message) } else { Err(bad) };
    Ok(Some(match kind {
        k if k == Kind::Ping as u16 => empty(Message::Ping)?,
        k if k == Kind::Freeze as u16 => empty(Message::Freeze)?,
        k if k == Kind::SnapshotTaken as u16 => empty(Message::SnapshotTaken)?,
        k if k == Kind::Pong as u16 => empty(Message::Pong)?,
        k if k == Kind::WindowSize as u16 => {
            let cells: &[u8; 8] = payload.try_into().map_err(|_| bad)?;
            let [rows, columns, x_pixels, y_pixels] =
                [0, 2, 4, 6].map(|at| u16::from_le_bytes([cells[at], cells[at + 1]]));
            Message::WindowSize { rows, columns, x_pixels, y_pixels }
        }
        k if k == Kind::Resumed as u16 => {
            let words: &[u8; 24] = payload.try_into().map_err(|_| bad)?;
            let word =
                |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| words[at * 8 + i]));
            let role = match word(0) {
                0 => Role::Original,
                1 => Role::Copy,
                _ => return Err(bad),
            };
            Message::Resumed { role, generation: word(1), copy: word(2) }
        }
        k if k == Kind::Hello as u16 => Message::Hello(word()?),
        k if k == Kind::CorePiece as u16 => Message::CorePiece(word()?),
        k if k == Kind::ResumedProcess as u16 => Message::ResumedProcess(word()?),
        k if k == Kind::Release as u16 => Message::Release { kill: word()? != 0 },
        k if k == Kind::CoreStart as u16 => empty(Message::CoreStart)?,
        k if k == Kind::Resume as u16 => empty(Message::Resume)?,
        k if k == Kind::Hold as u16 => {
            let [pid, tree] = words32()?;
            Message::Hold { pid, tree: tree != 0 }
        }
        k if k == Kind::Held as u16 => {
            let [low, high] = words32()?;
            Message::Held(u64::from(low) | u64::from(high) << 32)
        }
        k if k == Kind::CoreWindow as u16 => {
            let words: &[u8; 16] = payload.try_into().map_err(|_| bad)?;
            let word =
                |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| words[at * 8 + i]));
            Message::CoreWindow { phys: word(0), len: word(1) }
        }
        k if k == Kind::HoldRefused as u16 => Message::HoldRefused(text()?),
        k if k == Kind::ResumeRefused as u16 => Message::ResumeRefused(text()?),
        k if k == Kind::SnapshotRefused as u16 => Message::SnapshotRefused(text()?),
        k if k == Kind::FreezeRefused as u16 => Message::FreezeRefused(text()?),
        k if k == Kind::SnapshotWanted as u16 => Message::SnapshotWanted(text()?),
        _ => return Ok(None),
    }))
}

// Tripwires. The other side may be of another version: a kind keeps its number and its payload for ever,
// new ones get new numbers.
const _: () = {
    assert!(HEADER_LEN == 16, "control protocol: the header");
    assert!(MAX_PAYLOAD >= 24, "control protocol: every message of fixed size fits");
    assert!(
        Kind::Freeze as u16 == 2
            && Kind::SnapshotRefused as u16 == 4
            && Kind::SnapshotTaken as u16 == 5,
        "control protocol: kinds"
    );
    assert!(Kind::Hold as u16 == 6 && Kind::Resume as u16 == 10, "control protocol: kinds");
    assert!(Kind::Pong as u16 == 0x101 && Kind::Hello as u16 == 0x105, "control protocol: kinds");
    assert!(Kind::Held as u16 == 0x106, "control protocol: kinds");
    assert!(Kind::ResumedProcess as u16 == 0x10a, "control protocol: kinds");
};

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Message<'static>; 20] = [
        Message::Ping,
        Message::Freeze,
        Message::WindowSize { rows: 24, columns: 80, x_pixels: 1, y_pixels: 0xffff },
        Message::SnapshotRefused("no folder"),
        Message::SnapshotTaken,
        Message::Pong,
        Message::FreezeRefused("busy"),
        Message::Resumed { role: Role::Copy, generation: 3, copy: u64::MAX },
        Message::SnapshotWanted(""),
        Message::Hello(VERSION),
        Message::Hold { pid: 77, tree: true },
        Message::Release { kill: true },
        Message::CoreStart,
        Message::CorePiece(1 << 20),
        Message::Resume,
        Message::Held(u64::MAX - 1),
        Message::HoldRefused("it sleeps"),
        Message::CoreWindow { phys: 1 << 40, len: 4096 },
        Message::ResumeRefused("taken"),
        Message::ResumedProcess(5),
    ];

    #[test]
    fn every_message_is_read_back_and_not_before_it_is_whole() {
        for (sequence, message) in (7..).zip(ALL) {
            let mut bytes = [0xee; MAX_FRAME];
            let len = message.encode(sequence, &mut bytes);
            let frame = Frame { sequence, message: Some(message) };
            assert_eq!(decode(&bytes), Ok(Some((frame, len))));
            for cut in 0..len {
                assert_eq!(decode(&bytes[..cut]), Ok(None), "{message:?} cut to {cut}");
            }
        }
    }

    #[test]
    fn text_is_cut_between_characters() {
        let long = String::from("x") + &"\u{e4}".repeat(MAX_PAYLOAD);
        let mut bytes = [0; MAX_FRAME];
        let len = Message::FreezeRefused(&long).encode(0, &mut bytes);
        let (frame, _) = decode(&bytes[..len]).unwrap().unwrap();
        assert_eq!(frame.message, Some(Message::FreezeRefused(&long[..MAX_PAYLOAD - 1])));
    }

    #[test]
    fn an_unknown_kind_is_skipped_and_a_damaged_frame_refused() {
        let mut bytes = [0; MAX_FRAME];
        let len = Message::Hello(1).encode(5, &mut bytes);
        bytes[4] = 0x77;
        assert_eq!(decode(&bytes), Ok(Some((Frame { sequence: 5, message: None }, len))));
        Message::Ping.encode(0, &mut bytes);
        bytes[12] = 1;
        assert_eq!(decode(&bytes), Err(Error::BadPayload(1)));
        bytes[13] = 0xff;
        assert_eq!(decode(&bytes), Err(Error::TooLong(0xff01)));
        assert_eq!(decode(b"BJX"), Err(Error::NoMagic));
        assert_eq!(decode(b""), Ok(None));
    }

    /// Whatever the bytes are, reading ends without a panic and within the bytes. Fixed seed.
    #[test]
    fn noise_is_read_or_refused() {
        let mut state = 1_u32;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        for round in 0..20_000 {
            let mut bytes = [0; MAX_FRAME];
            let len = ALL[round % ALL.len()].encode(1, &mut bytes);
            for _ in 0..usize::from(next() % 4) {
                bytes[usize::from(next()) % (len + 4)] = next();
            }
            if let Ok(Some((_, used))) = decode(&bytes[..len]) {
                assert!(used <= len);
            }
        }
    }
}

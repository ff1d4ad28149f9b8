//! Addresses of Unix and inet sockets, right and wrong, and how they are printed.

use std::mem::zeroed;

use belljar_guest_tests::same::Random;

/// Ports that have names here; others are the kernel's choice.
pub const PORT: u16 = 20_000;

/// An address to pass.
pub struct Name {
    storage: libc::sockaddr_storage,
    /// Its length as passed.
    pub len: libc::socklen_t,
    /// For the trace.
    pub text: String,
}

impl Name {
    fn of_bytes(family: u16, bytes: &[u8], text: String) -> Self {
        // SAFETY: plain bytes; the name is shorter than the storage.
        unsafe {
            let mut storage: libc::sockaddr_storage = zeroed();
            storage.ss_family = family;
            let at = (&raw mut storage).cast::<u8>().add(2);
            at.copy_from(bytes.as_ptr(), bytes.len().min(126));
            Self { storage, len: bytes.len() as u32 + 2, text }
        }
    }

    /// A name of a Unix socket, now and then one that is none.
    pub fn random(random: &mut Random) -> Self {
        let unix = libc::AF_UNIX as u16;
        match random.below(24) {
            0 => Self::of_bytes(unix, b"", "autobind".into()),
            1 => Self::of_bytes(libc::AF_UNSPEC as u16, b"", "unspecified".into()),
            2 => Self::of_bytes(libc::AF_INET as u16, &[0; 14], "inet".into()),
            3 => {
                let mut this = Self::of_bytes(unix, b"\0a", "a short".into());
                this.len = random.pick(&[0, 1, 111, 129, !0]);
                this.text += &this.len.to_string();
                this
            }
            4 => {
                let len = random.pick(&[107, 108]);
                Self::of_bytes(unix, &vec![b'x'; len], format!("long {len}"))
            }
            5 => Self::of_bytes(unix, b"\0a\0", "@a0".into()),
            6 => Self::of_bytes(unix, b"no/such", "no/such".into()),
            7 => Self::of_bytes(unix, b"file", "file".into()),
            8..=10 => Self::of_bytes(unix, b"s\0", "s".into()),
            11 => Self::of_bytes(unix, b"s\0z", "s with more".into()),
            12 => Self::of_bytes(unix, b"t", "t".into()),
            n => {
                let letter = b'a' + n as u8 % 4;
                Self::of_bytes(unix, &[0, letter], format!("@{}", letter as char))
            }
        }
    }

    /// An IPv4 address on loopback; `port` is one of ours.
    pub fn inet(port: u16) -> Self {
        let [high, low] = (PORT + port).to_be_bytes();
        let bytes = [high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        Self::of_bytes(libc::AF_INET as u16, &bytes, format!("127.0.0.1:{port}"))
    }

    /// An address with these bytes behind the family.
    pub fn odd(family: i32, bytes: &[u8], len: u32) -> Self {
        let mut this = Self::of_bytes(family as u16, bytes, format!("{family} {bytes:x?} {len}"));
        this.len = len;
        this
    }

    /// Where it lies.
    pub fn at(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }
}

/// An address that the kernel returned, with what may rightly differ left out.
pub fn shown(storage: &libc::sockaddr_storage, len: libc::socklen_t) -> String {
    // SAFETY: an address is plain bytes.
    let bytes = unsafe { *std::ptr::from_ref(storage).cast::<[u8; 128]>() };
    let body = &bytes[2..(len as usize).clamp(2, 128)];
    match i32::from(storage.ss_family) {
        libc::AF_INET if len >= 16 => {
            let port = u16::from_be_bytes([body[0], body[1]]);
            let port = match port.checked_sub(PORT) {
                Some(port) if port < 16 => port.to_string(),
                _ if port == 0 => "none".to_string(),
                _ => "some".to_string(),
            };
            format!("{len} {:?}:{port} {:?}", &body[2..6], &body[6..])
        }
        // The kernel's choice of an abstract name has five digits.
        libc::AF_UNIX if body.len() == 6 && body[0] == 0 => format!("{len} chosen"),
        family => format!("{len} {family} {:?}", String::from_utf8_lossy(body)),
    }
}

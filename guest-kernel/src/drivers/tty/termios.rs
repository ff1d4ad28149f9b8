//! Terminal settings (termios(3), tty_ioctl(2)): the kernel's form of them and its defaults.
//!
//! [`Termios`] is `struct termios2` of the generic ABI; `struct termios` is its first
//! [`Termios::OLD_SIZE`] bytes. Flag and index names are those of asm-generic/termbits.h.

use crate::uapi;

pub use uapi::{
    BRKINT, CLOCAL, CREAD, CS8, ECHO, ECHOCTL, ECHOE, ECHOK, ECHOKE, ECHONL, ECHOPRT, EXTPROC,
    FLUSHO, HUPCL, ICANON, ICRNL, IEXTEN, IGNCR, IMAXBEL, INLCR, ISIG, ISTRIP, IUCLC, IUTF8, IXANY,
    IXOFF, IXON, NOFLSH, OCRNL, OLCUC, ONLCR, ONLRET, ONOCR, OPOST, PARMRK, TABDLY, TOSTOP, VEOF,
    VEOL, VEOL2, VERASE, VINTR, VKILL, VLNEXT, VMIN, VQUIT, VREPRINT, VSTART, VSTOP, VSUSP, VTIME,
    VWERASE, XTABS,
};

/// How many control characters there are.
pub const NCCS: usize = 19;
/// The value of a control character that is switched off (`_POSIX_VDISABLE`).
pub const DISABLED: u8 = 0;
/// `B38400`.
const B38400: u32 = 0o17;
/// The bits of `c_cflag` that hold the output speed (CBAUD).
const CBAUD: u32 = 0o10017;
/// The speed stands in `c_ospeed` as a number.
const BOTHER: u32 = 0o10000;

/// The settings of a terminal.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, belljar_abi::Described)]
#[allow(missing_docs, reason = "the names are termios(3)'s")]
pub struct Termios {
    pub c_iflag: u32,
    pub c_oflag: u32,
    pub c_cflag: u32,
    pub c_lflag: u32,
    pub c_line: u8,
    pub c_cc: [u8; NCCS],
    pub c_ispeed: u32,
    pub c_ospeed: u32,
}

const _: () = assert!(size_of::<Termios>() == 44, "struct termios2 of the generic ABI");

impl Default for Termios {
    fn default() -> Self {
        Self::STANDARD
    }
}

impl Termios {
    /// Bytes of `struct termios`, which lacks the speeds.
    pub const OLD_SIZE: usize = 36;

    /// What a terminal starts with on Linux (`tty_std_termios`).
    pub const STANDARD: Self = Self {
        c_iflag: ICRNL | IXON,
        c_oflag: OPOST | ONLCR,
        c_cflag: B38400 | CS8 | CREAD | HUPCL,
        c_lflag: ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
        c_line: 0,
        // INTR QUIT ERASE KILL EOF TIME MIN SWTC START STOP SUSP EOL REPRINT DISCARD WERASE LNEXT EOL2
        c_cc: [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0],
        c_ispeed: 38400,
        c_ospeed: 38400,
    };

    /// True if any of `bits` is set in `c_iflag`.
    #[inline]
    pub const fn iflag(&self, bits: u32) -> bool {
        self.c_iflag & bits != 0
    }

    /// True if any of `bits` is set in `c_oflag`.
    #[inline]
    pub const fn oflag(&self, bits: u32) -> bool {
        self.c_oflag & bits != 0
    }

    /// True if any of `bits` is set in `c_lflag`.
    #[inline]
    pub const fn lflag(&self, bits: u32) -> bool {
        self.c_lflag & bits != 0
    }

    /// True if `c` is the control character with this index, and that is not switched off.
    #[inline]
    pub const fn is_cc(&self, index: u32, c: u8) -> bool {
        let cc = self.c_cc[index as usize];
        cc == c && cc != DISABLED
    }

    /// Makes the speed numbers agree with the speed code in `c_cflag`, as setting them by
    /// `struct termios` requires.
    pub fn derive_speeds(&mut self) {
        const LOW: [u32; 16] =
            [0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400];
        const HIGH: [u32; 15] = [
            57600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000,
            1_500_000, 2_000_000, 2_500_000, 3_000_000, 3_500_000, 4_000_000,
        ];
        let code = self.c_cflag & CBAUD;
        let speed = match code {
            BOTHER => return,
            0..16 => LOW[code as usize],
            _ => HIGH[(code & 0o17) as usize - 1],
        };
        self.c_ispeed = speed;
        self.c_ospeed = speed;
    }
}

/// `struct winsize`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, belljar_abi::Described)]
#[allow(missing_docs, reason = "the names are tty_ioctl(2)'s")]
pub struct WinSize {
    pub ws_row: u16,
    pub ws_col: u16,
    pub ws_xpixel: u16,
    pub ws_ypixel: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_follow_the_code_in_cflag() {
        let mut t = Termios::STANDARD;
        t.c_cflag = (t.c_cflag & !CBAUD) | 0o10002;
        t.derive_speeds();
        assert_eq!((t.c_ispeed, t.c_ospeed), (115_200, 115_200));
        t.c_cflag = (t.c_cflag & !CBAUD) | 0o15;
        t.derive_speeds();
        assert_eq!(t.c_ospeed, 9600);
    }
}

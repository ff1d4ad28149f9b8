//! Output processing (termios(3), `c_oflag`): what is done to bytes on their way to the terminal,
//! and the cursor column that tabs and erasing depend on.

use belljar_abi::Described;

use super::termios::{IUTF8, OCRNL, OLCUC, ONLCR, ONLRET, ONOCR, OPOST, TABDLY, Termios, XTABS};

/// The state of output processing.
#[repr(C)]
#[derive(Described)]
pub struct Output {
    /// The column where the cursor stands.
    pub column: usize,
    /// The column where the line being typed began.
    pub canon_column: usize,
}

impl Default for Output {
    fn default() -> Self {
        Self::new()
    }
}

impl Output {
    /// The most bytes that one byte becomes: a tab as spaces.
    pub const MAX_EXPANSION: usize = 8;

    /// The cursor at the left edge.
    pub const fn new() -> Self {
        Self { column: 0, canon_column: 0 }
    }

    /// Processes `src` as far as the result surely fits into `room` bytes, handing the result to
    /// `sink` in pieces. Returns how much of `src` was used.
    pub fn process(
        &mut self,
        t: &Termios,
        src: &[u8],
        room: usize,
        mut sink: impl FnMut(&[u8]),
    ) -> usize {
        if !t.oflag(OPOST) {
            let n = src.len().min(room);
            sink(&src[..n]);
            return n;
        }
        let (mut used, mut room) = (0, room);
        while used < src.len() && room > 0 {
            let rest = &src[used..];
            let plain = self.plain_run(t, &rest[..rest.len().min(room)]);
            if plain > 0 {
                sink(&rest[..plain]);
                used += plain;
                room -= plain;
                continue;
            }
            let mut expanded = [0; Self::MAX_EXPANSION];
            let before = (self.column, self.canon_column);
            let n = self.process_char(t, rest[0], &mut expanded);
            if n > room {
                (self.column, self.canon_column) = before;
                break;
            }
            sink(&expanded[..n]);
            used += 1;
            room -= n;
        }
        used
    }

    /// How many bytes at the start of `src` go out as they are; the column moves past them.
    fn plain_run(&mut self, t: &Termios, src: &[u8]) -> usize {
        if t.oflag(OLCUC) {
            return 0;
        }
        let utf8 = t.iflag(IUTF8);
        let n = src.iter().take_while(|&&c| c >= 0x20 && c != 0x7f).count();
        let cells = src[..n].iter().filter(|&&c| !utf8 || c & 0xc0 != 0x80).count();
        self.column += cells;
        n
    }

    /// Processes one byte into `out`; returns how many bytes it became.
    pub fn process_char(
        &mut self,
        t: &Termios,
        c: u8,
        out: &mut [u8; Self::MAX_EXPANSION],
    ) -> usize {
        let mut c = c;
        if t.oflag(OPOST) {
            match c {
                b'\n' if t.oflag(ONLCR) => {
                    (self.column, self.canon_column) = (0, 0);
                    out[..2].copy_from_slice(b"\r\n");
                    return 2;
                }
                b'\n' => {
                    if t.oflag(ONLRET) {
                        self.column = 0;
                    }
                    self.canon_column = self.column;
                }
                b'\r' if t.oflag(ONOCR) && self.column == 0 => return 0,
                b'\r' => {
                    if t.oflag(OCRNL) {
                        c = b'\n';
                    }
                    if !t.oflag(OCRNL) || t.oflag(ONLRET) {
                        (self.column, self.canon_column) = (0, 0);
                    }
                }
                b'\t' => {
                    let cells = 8 - self.column % 8;
                    self.column += cells;
                    if t.c_oflag & TABDLY == XTABS {
                        out[..cells].fill(b' ');
                        return cells;
                    }
                }
                0x08 => self.column = self.column.saturating_sub(1),
                _ if c < 0x20 || c == 0x7f => {}
                _ => {
                    if t.oflag(OLCUC) {
                        c.make_ascii_uppercase();
                    }
                    if !t.iflag(IUTF8) || c & 0xc0 != 0x80 {
                        self.column += 1;
                    }
                }
            }
        }
        out[0] = c;
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(t: &Termios, out: &mut Output, src: &[u8], room: usize) -> (usize, Vec<u8>) {
        let mut got = Vec::new();
        let used = out.process(t, src, room, |b| got.extend_from_slice(b));
        (used, got)
    }

    #[test]
    fn newline_becomes_cr_lf_and_is_not_split() {
        let t = Termios::STANDARD;
        let mut out = Output::new();
        assert_eq!(run(&t, &mut out, b"ab\ncd\n", 100), (6, b"ab\r\ncd\r\n".to_vec()));
        assert_eq!(run(&t, &mut out, b"ab\n", 3), (2, b"ab".to_vec()));
        assert_eq!(out.column, 2);
    }

    #[test]
    fn tabs_become_spaces_with_xtabs() {
        let t = Termios { c_oflag: OPOST | XTABS, ..Termios::STANDARD };
        assert_eq!(run(&t, &mut Output::new(), b"abc\tx", 100).1, b"abc     x");
    }

    #[test]
    fn raw_output_is_untouched() {
        let t = Termios { c_oflag: ONLCR, ..Termios::STANDARD };
        assert_eq!(run(&t, &mut Output::new(), b"a\n\tb", 3), (3, b"a\n\t".to_vec()));
    }

    #[test]
    fn carriage_returns_obey_ocrnl_and_onocr() {
        let t = Termios { c_oflag: OPOST | OCRNL, ..Termios::STANDARD };
        assert_eq!(run(&t, &mut Output::new(), b"a\rb", 9).1, b"a\nb");
        let t = Termios { c_oflag: OPOST | ONOCR, ..Termios::STANDARD };
        assert_eq!(run(&t, &mut Output::new(), b"\ra\rb", 9).1, b"a\rb");
    }
}

//! What a user at a terminal sees and what a program reads.

use proptest::prelude::*;

use super::*;
use crate::drivers::tty::termios::*;

struct Terminal {
    ldisc: LineDiscipline,
    t: Termios,
    screen: Vec<u8>,
    signals: Vec<i32>,
}

impl Terminal {
    fn new(t: Termios) -> Self {
        let ldisc = LineDiscipline::try_new().unwrap();
        Self { ldisc, t, screen: Vec::new(), signals: Vec::new() }
    }

    fn typed(mut self, bytes: &[u8]) -> Self {
        self.type_in(bytes);
        self
    }

    fn type_in(&mut self, bytes: &[u8]) {
        for &b in bytes {
            if self.ldisc.room(&self.t) == 0 {
                break;
            }
            let action = self.ldisc.receive(&self.t, b);
            self.signals.extend(action.signal);
            while !self.ldisc.pending_echo().is_empty() {
                let n = self.ldisc.pending_echo().len();
                self.screen.extend_from_slice(self.ldisc.pending_echo());
                self.ldisc.echoed(n);
            }
        }
    }

    fn read(&mut self, n: usize) -> Option<Vec<u8>> {
        if !self.ldisc.input_available(&self.t, 1) {
            return None;
        }
        let mut buf = vec![0; n];
        let chunk = self.ldisc.read(&self.t, &mut buf);
        if chunk.len == n && !chunk.line_end {
            self.ldisc.skip_eof_mark();
        }
        buf.truncate(chunk.len);
        Some(buf)
    }
}

fn with(f: impl FnOnce(&mut Termios)) -> Termios {
    let mut t = Termios::STANDARD;
    f(&mut t);
    t
}

#[test]
fn a_line_is_readable_once_it_ends_and_one_at_a_time() {
    let mut tty = Terminal::new(Termios::STANDARD).typed(b"one");
    assert_eq!(tty.read(10), None);
    tty.type_in(b"\rtwo\r");
    assert_eq!(tty.screen, b"one\r\ntwo\r\n");
    assert_eq!(tty.ldisc.readable(&tty.t), 8);
    assert_eq!(tty.read(100).unwrap(), b"one\n");
    assert_eq!(tty.read(2).unwrap(), b"tw");
    assert_eq!(tty.read(100).unwrap(), b"o\n");
    assert_eq!(tty.read(100), None);
}

#[test]
fn eof_ends_a_line_without_a_byte_and_reads_as_zero_when_alone() {
    let mut tty = Terminal::new(Termios::STANDARD).typed(b"abc\x04\x04");
    assert_eq!(tty.screen, b"abc");
    assert_eq!(tty.read(100).unwrap(), b"abc");
    assert_eq!(tty.read(100).unwrap(), b"");
    assert_eq!(tty.read(100), None);
    tty.type_in(b"abc\x04x\n");
    assert_eq!(tty.read(3).unwrap(), b"abc", "the mark goes with the read that it completes");
    assert_eq!(tty.read(100).unwrap(), b"x\n");
}

#[test]
fn erase_takes_back_characters_and_their_echo() {
    let mut tty = Terminal::new(Termios::STANDARD).typed(b"ax\x7f\x01\x7fb\n");
    assert_eq!(tty.screen, b"ax\x08 \x08^A\x08 \x08\x08 \x08b\r\n");
    assert_eq!(tty.read(100).unwrap(), b"ab\n");
    let mut tty = tty.typed(b"\x7f\x7f\n");
    assert_eq!(tty.read(100).unwrap(), b"\n");
}

#[test]
fn erase_takes_back_whole_utf8_characters_with_iutf8() {
    let t = with(|t| t.c_iflag |= IUTF8);
    let mut tty = Terminal::new(t).typed("aä\x7fb\n".as_bytes());
    assert_eq!(tty.screen, "aä\x08 \x08b\r\n".as_bytes());
    assert_eq!(tty.read(100).unwrap(), b"ab\n");
    let mut tty = Terminal::new(Termios::STANDARD).typed("ä\x7f\n".as_bytes());
    assert_eq!(tty.read(100).unwrap(), b"\xc3\n");
}

#[test]
fn word_erase_and_kill() {
    let mut tty = Terminal::new(Termios::STANDARD).typed(b"one two  \x17x\n");
    assert_eq!(tty.read(100).unwrap(), b"one x\n");
    tty.screen.clear();
    tty.type_in(b"abc\x15z\n");
    assert_eq!(tty.screen, b"abc\x08 \x08\x08 \x08\x08 \x08z\r\n");
    assert_eq!(tty.read(100).unwrap(), b"z\n");
    let mut tty = Terminal::new(with(|t| t.c_lflag &= !ECHOKE)).typed(b"abc\x15z\n");
    assert_eq!(tty.screen, b"abc^U\r\nz\r\n");
    assert_eq!(tty.read(100).unwrap(), b"z\n");
}

#[test]
fn a_tab_is_erased_by_its_width() {
    let tty = Terminal::new(Termios::STANDARD).typed(b"abc\t\x7f");
    assert_eq!(tty.screen, b"abc\t\x08\x08\x08\x08\x08");
    let tty = Terminal::new(Termios::STANDARD).typed(b"abc\t\t\x7f");
    assert_eq!(tty.screen, b"abc\t\t\x08\x08\x08\x08\x08\x08\x08\x08");
}

#[test]
fn echoprt_shows_what_was_erased() {
    let tty = Terminal::new(with(|t| t.c_lflag |= ECHOPRT)).typed(b"abc\x7f\x7fx");
    assert_eq!(tty.screen, b"abc\\cb/x");
}

#[test]
fn literal_next_takes_the_sting_out_of_a_character() {
    let mut tty = Terminal::new(Termios::STANDARD).typed(b"a\x16\x03b\n");
    assert!(tty.signals.is_empty());
    assert_eq!(tty.screen, b"a^\x08^Cb\r\n");
    assert_eq!(tty.read(100).unwrap(), b"a\x03b\n");
}

#[test]
fn reprint_shows_the_line_again() {
    let tty = Terminal::new(Termios::STANDARD).typed(b"ab\x12");
    assert_eq!(tty.screen, b"ab^R\r\nab");
}

#[test]
fn eol_characters_end_a_line_and_stay_in_it() {
    let t = with(|t| t.c_cc[VEOL as usize] = b';');
    let mut tty = Terminal::new(t).typed(b"ab;c\n");
    assert_eq!(tty.read(100).unwrap(), b"ab;");
    assert_eq!(tty.read(100).unwrap(), b"c\n");
    assert_eq!(tty.screen, b"ab;c\r\n");
}

#[test]
fn signal_characters_flush_unless_noflsh() {
    let mut tty = Terminal::new(Termios::STANDARD).typed(b"abc\x03\x1c\x1a\n");
    assert_eq!(tty.signals, [SIGINT, SIGQUIT, SIGTSTP]);
    assert_eq!(tty.screen, b"abc^C^\\^Z\r\n");
    assert_eq!(tty.read(100).unwrap(), b"\n");
    let mut tty = Terminal::new(with(|t| t.c_lflag |= NOFLSH)).typed(b"abc\x03\n");
    assert_eq!(tty.signals, [SIGINT]);
    assert_eq!(tty.read(100).unwrap(), b"abc\n");
    let mut tty = Terminal::new(with(|t| t.c_lflag &= !ISIG)).typed(b"\x03\n");
    assert!(tty.signals.is_empty());
    assert_eq!(tty.read(100).unwrap(), b"\x03\n");
}

#[test]
fn stop_and_start_hold_and_release_the_echo() {
    let mut tty = Terminal::new(Termios::STANDARD).typed(b"a\x13b");
    assert!(tty.ldisc.is_stopped());
    assert_eq!(tty.screen, b"a");
    tty.type_in(b"\x11");
    tty.type_in(b"");
    assert!(!tty.ldisc.is_stopped());
    assert_eq!(tty.screen, b"ab");
    let tty = Terminal::new(with(|t| t.c_iflag |= IXANY)).typed(b"\x13b");
    assert_eq!(tty.screen, b"b");
}

#[test]
fn input_mapping_follows_iflag() {
    let mut tty = Terminal::new(with(|t| t.c_iflag = INLCR | ISTRIP)).typed(b"a\n\xe2\r");
    tty.t.c_lflag &= !ICANON;
    tty.ldisc.termios_changed(&Termios::STANDARD, &tty.t);
    assert_eq!(tty.read(100).unwrap(), b"a\rb\r");
    let mut tty = Terminal::new(with(|t| t.c_iflag = IGNCR)).typed(b"a\r\n");
    assert_eq!(tty.read(100).unwrap(), b"a\n");
    let mut tty = Terminal::new(with(|t| t.c_iflag |= IUCLC)).typed(b"aBC\n");
    assert_eq!(tty.read(100).unwrap(), b"abc\n");
}

#[test]
fn echonl_echoes_only_the_line_end() {
    let t = with(|t| t.c_lflag = (t.c_lflag & !ECHO) | ECHONL);
    assert_eq!(Terminal::new(t).typed(b"secret\n").screen, b"\r\n");
}

#[test]
fn raw_mode_hands_over_every_byte() {
    let t = with(|t| (t.c_lflag, t.c_iflag) = (0, 0));
    let all: Vec<u8> = (0..=255).collect();
    let mut tty = Terminal::new(t).typed(&all);
    assert!(tty.screen.is_empty());
    assert!(!tty.ldisc.input_available(&t, 257));
    assert!(tty.ldisc.input_available(&t, 256));
    assert_eq!(tty.read(1000).unwrap(), all);
}

#[test]
fn a_full_line_can_still_be_ended() {
    let mut tty = Terminal::new(Termios::STANDARD).typed(&[b'x'; 6000]).typed(b"\n");
    assert_eq!(tty.ldisc.room(&tty.t), 0);
    let line = tty.read(10_000).unwrap();
    assert_eq!(line.len(), SIZE);
    assert_eq!(line.last(), Some(&b'\n'));
    assert_eq!(tty.ldisc.room(&tty.t), SIZE - 1);
}

#[test]
fn switching_the_mode_keeps_what_was_received() {
    let raw = with(|t| t.c_lflag &= !ICANON);
    let mut tty = Terminal::new(Termios::STANDARD).typed(b"half");
    tty.ldisc.termios_changed(&Termios::STANDARD, &raw);
    tty.t = raw;
    assert_eq!(tty.read(2).unwrap(), b"ha");
    tty.ldisc.termios_changed(&raw, &Termios::STANDARD);
    tty.t = Termios::STANDARD;
    assert_eq!(tty.read(100).unwrap(), b"lf");
}

/// What canonical mode means, written down naively: lines of bytes, edited as they are typed.
fn model(input: &[u8]) -> Vec<Vec<u8>> {
    let (mut lines, mut line, mut literal) = (Vec::new(), Vec::new(), false);
    for &c in input {
        match c {
            _ if core::mem::take(&mut literal) => line.push(c),
            0x7f => drop(line.pop()),
            0x15 => line.clear(),
            0x16 => literal = true,
            0x04 => lines.push(core::mem::take(&mut line)),
            b'\r' | b'\n' => {
                line.push(b'\n');
                lines.push(core::mem::take(&mut line));
            }
            _ => line.push(c),
        }
    }
    lines
}

proptest! {
    #[test]
    fn canonical_mode_agrees_with_a_naive_editor(
        input in prop::collection::vec(
            prop_oneof![
                Just(0x7f), Just(0x15), Just(0x16), Just(0x04), Just(b'\n'), Just(b'\r'),
                b'a'..b'f', Just(b'\t'), Just(0xc3),
            ],
            0..300,
        ),
        echo in any::<bool>(),
    ) {
        let mut t = with(|t| {
            t.c_lflag &= !(ISIG | ECHO);
            t.c_iflag = ICRNL;
        });
        if echo {
            t.c_lflag |= ECHO;
        }
        let mut tty = Terminal::new(t).typed(&input);
        for line in model(&input) {
            prop_assert_eq!(tty.read(4096).expect("a line"), line);
        }
        prop_assert_eq!(tty.read(4096), None);
    }

    #[test]
    fn any_settings_and_input_keep_the_invariants(
        iflag in any::<u32>(),
        oflag in any::<u32>(),
        lflags in prop::collection::vec(any::<u32>(), 1..4),
        cc in prop::array::uniform19(any::<u8>()),
        input in prop::collection::vec(any::<u8>(), 0..5000),
        reads in prop::collection::vec(1..100_usize, 3),
    ) {
        let t = Termios {
            c_iflag: iflag, c_oflag: oflag, c_cc: cc, ..Termios::STANDARD
        };
        let mut tty = Terminal::new(t);
        for (&lflag, &n) in lflags.iter().zip(&reads) {
            let old = tty.t;
            tty.t.c_lflag = lflag;
            tty.ldisc.termios_changed(&old, &tty.t);
            tty.type_in(&input);
            let l = &tty.ldisc;
            prop_assert!(l.tail <= l.canon_head && l.canon_head <= l.head && l.len() <= SIZE);
            if let Some(got) = tty.read(n) {
                prop_assert!(got.len() <= n);
            }
            let l = &tty.ldisc;
            prop_assert!(l.tail <= l.canon_head && l.canon_head <= l.head);
        }
    }
}

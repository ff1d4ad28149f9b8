//! Terminals: the one that controls a process, and pseudoterminals with what is on its way through them.

use std::collections::{HashMap, HashSet};

use belljar_abi::corenote::{Kind, Pty, Terminal, Writer};

use super::state::{put, table};
use super::{Error, Result};
use crate::elfcore::Note;
use crate::introspect::{self, Object};

/// Control characters of a terminal (asm-generic/termbits.h).
const NCCS: usize = 19;
/// Most places of a ring of a terminal: as many as the longest has.
const MAX_RING: u64 = 16 << 10;
/// Most pseudoterminals that a machine has at a time.
const MAX_PAIRS: usize = 4096;

/// A descriptor of a pseudoterminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PtyFd {
    /// The descriptor.
    pub fd: u64,
    /// The open file.
    pub file: u64,
    /// The pair: where the kernel has its terminal.
    pub pty: u64,
}

/// The pseudoterminals that a process has open.
#[derive(Default)]
pub(super) struct Ptys {
    /// Those whose masters it has open.
    pub pairs: Vec<Pty>,
    /// Descriptors of masters.
    pub masters: Vec<PtyFd>,
    /// Descriptors of terminal sides.
    pub terminals: Vec<PtyFd>,
    records: Writer<Pty>,
    /// The pairs of `masters`.
    seen: HashSet<u64>,
}

impl Ptys {
    /// The note about the pairs.
    pub(super) fn note(&self) -> Note {
        table(Kind::Ptys, &self.records)
    }

    /// Adds the terminal side that is open as `file`; `detail` is the kernel's structure of that. Returns the pair and
    /// whether a hangup came since it was opened; `None` if it is a line of the machine.
    pub(super) fn terminal(
        &mut self,
        fd: u64,
        file: u64,
        detail: &Object<'_>,
    ) -> Result<Option<(u64, bool)>> {
        let Some(tty) = detail.ptr("tty")?.filter(|tty| is_pty(tty).unwrap_or(false)) else {
            return Ok(None);
        };
        self.terminals.push(PtyFd { fd, file, pty: tty.addr() });
        let hung_up = tty.uint("generation")? != detail.uint("generation")?;
        Ok(Some((tty.addr(), hung_up)))
    }

    /// Adds the master that is open as `file`, and all that is in the pair, which it returns. A pair has one master:
    /// a guest that shows it in several files, or more pairs than there can be, contradicts itself, and is not read for
    /// each of them.
    pub(super) fn master(&mut self, fd: u64, file: u64, detail: &Object<'_>) -> Result<u64> {
        let damaged = damaged("a pseudoterminal");
        let tty = detail.ptr("tty")?.ok_or_else(&damaged)?;
        let master = detail.ptr("master")?.ok_or_else(&damaged)?;
        let node = detail.ptr("node")?.ok_or_else(&damaged)?;
        self.add_master(PtyFd { fd, file, pty: tty.addr() }).ok_or_else(&damaged)?;
        let (state, to) = (tty.embedded("state")?, &mut self.records);
        let flag = |name: &str| state.uint(&format!("termios.{name}"));
        let held = Held::of(&state.embedded("ldisc")?)?;
        let record = Pty {
            id: tty.addr(),
            index: master.uint("index")?,
            mode: node.uint("mode")? & 0o7777,
            uid: node.uint("uid")?,
            gid: node.uint("gid")?,
            session: number(&state, "session")?,
            pgrp: number(&state, "pgrp")?,
            iflag: flag("c_iflag")?,
            oflag: flag("c_oflag")?,
            cflag: flag("c_cflag")?,
            lflag: flag("c_lflag")?,
            line: flag("c_line")?,
            ispeed: flag("c_ispeed")?,
            ospeed: flag("c_ospeed")?,
            cc_bytes: put(to, &control_characters(&tty)?)?,
            rows: state.uint("winsize.ws_row")?,
            cols: state.uint("winsize.ws_col")?,
            xpixel: state.uint("winsize.ws_xpixel")?,
            ypixel: state.uint("winsize.ws_ypixel")?,
            input_bytes: put(to, &held.input)?,
            ends_bytes: put(to, &held.ends)?,
            complete: held.complete,
            echo_bytes: put(to, &ring(&state.embedded("ldisc.echo")?)?)?,
            output_bytes: put(to, &ring(&master.embedded("output")?)?)?,
            column: state.uint("ldisc.output.column")?,
            canon_column: state.uint("ldisc.output.canon_column")?,
            literal_next: state.uint("ldisc.literal_next")?,
            erasing: state.uint("ldisc.erasing")?,
            stopped: state.uint("ldisc.stopped")?,
            packet_mode: master.uint("packet.on")?,
            packet_status: master.uint("packet.status")?,
            locked: master.uint("locked")?,
            slave_closed: master.uint("slave_closed")?,
            exclusive: state.uint("exclusive")?,
            opens: state.uint("opens")?,
        };
        self.records.push(record);
        self.pairs.push(record);
        Ok(tty.addr())
    }

    /// Notes a master before its pair is read; `None` if there cannot be one more of it.
    fn add_master(&mut self, master: PtyFd) -> Option<()> {
        if self.masters.len() >= MAX_PAIRS || !self.seen.insert(master.pty) {
            return None;
        }
        self.masters.push(master);
        Some(())
    }
}

/// Input of a line discipline.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    input: Vec<u8>,
    ends: Vec<u8>,
    complete: u64,
}

impl Held {
    fn of(ldisc: &Object<'_>) -> Result<Self> {
        let (tail, canon) = (ldisc.uint("tail")?, ldisc.uint("canon_head")?);
        let damaged = damaged("a line discipline");
        fits(ldisc.count("buf")?.max(ldisc.count("ends")?)).ok_or_else(&damaged)?;
        let (all, ends) = (ldisc.bytes("buf")?, ldisc.numbers("ends")?);
        let held = Self::from(&all, &ends, tail, canon, ldisc.uint("head")?);
        Ok(held.ok_or_else(damaged)?)
    }

    /// What lies from `tail` to `head` in the ring `all`, whose `ends` are bits; up to `canon` it is complete lines.
    fn from(all: &[u8], ends: &[u64], tail: u64, canon: u64, head: u64) -> Option<Self> {
        let input = between(all, tail, head)?;
        let is_end = |at: usize| ends.get(at / 64).map(|bits| (bits >> (at % 64) & 1) as u8);
        let marks: Option<Vec<u8>> = (0..all.len()).map(is_end).collect();
        let complete = canon.checked_sub(tail).filter(|n| *n <= input.len() as u64)?;
        Some(Self { ends: between(&marks?, tail, head)?, input, complete })
    }
}

/// The bytes in a ring, oldest first.
fn ring(ring: &Object<'_>) -> Result<Vec<u8>> {
    let damaged = damaged("a ring of bytes");
    fits(ring.count("bytes")?).ok_or_else(&damaged)?;
    let bytes = between(&ring.bytes("bytes")?, ring.uint("tail")?, ring.uint("head")?);
    Ok(bytes.ok_or_else(damaged)?)
}

/// The places of a ring, unless no terminal has that many.
fn fits(places: u64) -> Option<u64> {
    (places <= MAX_RING).then_some(places)
}

/// For `what` contradicts itself.
fn damaged(what: &'static str) -> impl Fn() -> introspect::Error {
    move || introspect::Error::Damaged { what: what.into() }
}

/// What lies from `tail` to `head`, which count on, in a ring of a power of two of places.
fn between(all: &[u8], tail: u64, head: u64) -> Option<Vec<u8>> {
    let len = head.checked_sub(tail).filter(|len| *len <= all.len() as u64)?;
    let at = |i: u64| all.get((tail.wrapping_add(i) % all.len() as u64) as usize).copied();
    (0..len).map(at).collect()
}

/// The number in the initial namespace, which comes first, of what a field leads to; 0 for nothing.
fn number(of: &Object<'_>, field: &str) -> Result<u64> {
    let Some(pid) = of.ptr(field)? else { return Ok(0) };
    let numbers = pid.array("numbers")?;
    Ok(numbers.first().map(|upid| upid.uint("nr")).transpose()?.unwrap_or(0))
}

fn control_characters(tty: &Object<'_>) -> Result<[u8; NCCS]> {
    let mut cc = [0; NCCS];
    tty.kernel().space().read(tty.addr_of("state.termios.c_cc")?, &mut cc)?;
    Ok(cc)
}

/// Whether a device number, as the kernel keeps it, is that of a pseudoterminal: the terminal side of one, or
/// /dev/ptmx.
pub(super) fn is_pty_number(dev: u64) -> bool {
    const MINOR_BITS: u64 = 20;
    const PTMX: u64 = 5 << MINOR_BITS | 2;
    (136..=143).contains(&(dev >> MINOR_BITS)) || dev == PTMX
}

/// Whether a terminal is the side of a pseudoterminal.
fn is_pty(tty: &Object<'_>) -> Result<bool> {
    Ok(is_pty_number(tty.uint("dev")?))
}

/// The controlling terminal.
pub(super) fn controlling(task: &Object<'_>) -> Result<Option<Note>> {
    let Some(tty) = task.ptr("signal")?.map(|signal| signal.ptr("tty.addr")).transpose()?.flatten()
    else {
        return Ok(None);
    };
    let mut note: Writer<Terminal> = Writer::default();
    let flag = |name: &str| tty.uint(&format!("state.termios.{name}"));
    let cc_bytes = put(&mut note, &control_characters(&tty)?)?;
    note.push(Terminal {
        dev: tty.uint("dev")?,
        pgrp: number(&tty.embedded("state")?, "pgrp")?,
        iflag: flag("c_iflag")?,
        oflag: flag("c_oflag")?,
        cflag: flag("c_cflag")?,
        lflag: flag("c_lflag")?,
        ispeed: flag("c_ispeed")?,
        ospeed: flag("c_ospeed")?,
        cc_bytes,
        pty: if is_pty(&tty)? { tty.addr() } else { 0 },
    });
    Ok(Some(table(Kind::Terminal, &note)))
}

/// Refuses pseudoterminals of which somebody outside has a part: `all` are those of each process, by its number.
pub(super) fn both_sides(all: &[(u64, &Ptys)]) -> Result<()> {
    let pids: HashSet<u64> = all.iter().map(|(pid, _)| *pid).collect();
    // How often the terminal side of each pair is open here, whose master is here.
    let masters = all.iter().flat_map(|(_, own)| &own.pairs);
    let mut inside: HashMap<u64, u64> = masters.map(|pty| (pty.id, 0)).collect();
    let mut seen = HashSet::new();
    for (pid, own) in all {
        for end in &own.terminals {
            let Some(opens) = inside.get_mut(&end.pty) else {
                let what = format!(
                    "descriptor {} is of the kind Tty, a pseudoterminal whose master is not in the checkpoint",
                    end.fd
                );
                return Err(Error::Refused { pid: *pid, what });
            };
            *opens += u64::from(seen.insert((end.pty, end.file)));
        }
    }
    for (pid, own) in all {
        for (end, pty) in own.masters.iter().zip(&own.pairs) {
            let all_inside = inside.get(&pty.id) == Some(&pty.opens);
            let leads = pty.session == 0 || pids.contains(&pty.session);
            let what = match (all_inside, leads) {
                (true, true) => continue,
                (false, _) => "that a process outside the checkpoint has open too".to_owned(),
                _ => format!("of session {}, whose leader is not in the checkpoint", pty.session),
            };
            let what = format!(
                "descriptor {} is of the kind PtyMaster, of pseudoterminal {}, {what}",
                end.fd, pty.index
            );
            return Err(Error::Refused { pid: *pid, what });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_read_oldest_first_and_lying_ones_not_at_all() {
        assert_eq!(between(b"abcd", 6, 9).as_deref(), Some(&b"cda"[..]));
        assert_eq!(between(b"abcd", 6, 6).as_deref(), Some(&b""[..]));
        assert_eq!(between(b"", 3, 3).as_deref(), Some(&b""[..]));
        for (tail, head) in [(7, 6), (0, 5), (1, u64::MAX)] {
            assert_eq!(between(b"abcd", tail, head), None);
        }
    }

    #[test]
    fn rings_that_no_terminal_has_are_refused() {
        assert_eq!([0, 4096, MAX_RING].map(fits), [Some(0), Some(4096), Some(MAX_RING)]);
        assert_eq!([MAX_RING + 1, u64::MAX].map(fits), [None; 2]);
    }

    #[test]
    fn pairs_are_read_once_and_no_more_than_there_can_be() {
        let mut own = Ptys::default();
        let mut add = |pty| own.add_master(PtyFd { fd: 3, file: pty, pty }).is_some();
        assert_eq!([add(7), add(8), add(7)], [true, true, false]);
        assert_eq!((9..5000).filter(|pty| add(*pty)).count(), MAX_PAIRS - 2);
        assert_eq!(own.masters.len(), MAX_PAIRS);
    }

    #[test]
    fn pseudoterminals_are_told_from_lines() {
        let all = [136 << 20 | 3, 143 << 20, 5 << 20 | 2].map(is_pty_number);
        assert_eq!(all, [true; 3]);
        assert_eq!([5 << 20 | 1, 204 << 20 | 64, 229 << 20].map(is_pty_number), [false; 3]);
    }

    #[test]
    fn lines_keep_their_ends() {
        let all = [&b"d\nx"[..], &[b'.'; 60], b"a"].concat();
        let held = Held::from(&all, &[0b10], 63, 66, 67).unwrap();
        assert_eq!(
            (&*held.input, &*held.ends, held.complete),
            (&b"ad\nx"[..], &[0, 0, 1, 0][..], 3)
        );
        // More lines than bytes, none that begin later, too few bits.
        assert_eq!(Held::from(&all, &[0], 63, 68, 67), None);
        assert_eq!(Held::from(&all, &[0], 63, 62, 67), None);
        assert_eq!(Held::from(&all, &[], 63, 64, 67), None);
    }

    fn pty(opens: u64, session: u64) -> Ptys {
        let mut own = Ptys::default();
        own.pairs.push(Pty { id: 7, index: 2, opens, session, ..Pty::default() });
        own.masters.push(PtyFd { fd: 3, file: 1, pty: 7 });
        own.terminals.push(PtyFd { fd: 4, file: 2, pty: 7 });
        own
    }

    #[test]
    fn pairs_of_which_somebody_outside_has_a_part_are_refused() {
        let says = |all: &[(u64, &Ptys)]| both_sides(all).map_err(|error| error.to_string());
        let (whole, half, led) = (pty(1, 0), pty(2, 0), pty(1, 9));
        assert_eq!(says(&[(5, &whole)]), Ok(()));
        assert!(
            says(&[(5, &half)])
                .unwrap_err()
                .contains("process 5 cannot be taken out: descriptor 3 is of the kind PtyMaster")
        );
        assert!(says(&[(5, &led)]).unwrap_err().contains("of session 9, whose leader"));
        assert_eq!(says(&[(5, &led), (9, &Ptys::default())]), Ok(()));
        // The same open file in two processes is one.
        let mut child = Ptys::default();
        child.terminals.push(PtyFd { fd: 0, file: 2, pty: 7 });
        assert_eq!(says(&[(5, &whole), (6, &child)]), Ok(()));
        assert!(says(&[(6, &child)]).unwrap_err().contains("descriptor 0 is of the kind Tty"));
        // Another one is not, wherever it is.
        child.terminals[0].file = 3;
        assert!(says(&[(5, &whole), (6, &child)]).unwrap_err().contains("outside the checkpoint"));
        assert_eq!(says(&[(5, &half), (6, &child)]), Ok(()));
    }
}

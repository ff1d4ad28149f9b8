//! What the notes say of terminals.

use alloc::vec::Vec;

use belljar_abi::carried::Carried;
use belljar_abi::corenote::{Kind, Pty, Table, Terminal};

use super::super::core::{Bad, Result, room};
use super::{FilePlan, MAX_PID, is_id, need, records};
use crate::drivers::tty::devpts::PTY_MAX;
use crate::drivers::tty::ldisc::Held;
use crate::drivers::tty::resume::{ECHO_SIZE, Former, INPUT_SIZE, OUTPUT_SIZE};
use crate::drivers::tty::termios::{NCCS, Termios, WinSize};

/// A controlling terminal.
pub struct TerminalPlan {
    /// What its note says.
    pub record: Terminal,
    /// Its settings.
    pub termios: Termios,
}

/// A pseudoterminal.
pub struct PtyPlan<'a> {
    /// What its note says.
    pub record: Pty,
    /// What it was.
    pub former: Former<'a>,
}

/// Settings that no terminal could have are none.
pub(super) fn terminal(table: &Table<'_>) -> Option<TerminalPlan> {
    let record = table.records::<Terminal>().next()?;
    let mut termios = Termios {
        c_iflag: record.iflag as u32,
        c_oflag: record.oflag as u32,
        c_cflag: record.cflag as u32,
        c_lflag: record.lflag as u32,
        c_line: 0,
        c_cc: *table.bytes(record.cc_bytes).ok()?.first_chunk()?,
        c_ispeed: record.ispeed as u32,
        c_ospeed: record.ospeed as u32,
    };
    termios.derive_speeds();
    Some(TerminalPlan { record, termios })
}

/// The pseudoterminals by their ids; each master among `files` has one.
pub(super) fn ptys<'a>(table: &Table<'a>, files: &[FilePlan<'_>]) -> Result<Vec<PtyPlan<'a>>> {
    let mut ptys: Vec<PtyPlan<'a>> = room(table.len().min(PTY_MAX))?;
    for record in records::<Pty>(table, "Ptys", PTY_MAX, |_| Ok(()))? {
        ptys.push(PtyPlan { former: former(table, &record)?, record });
    }
    ptys.sort_unstable_by_key(|pty| pty.record.id);
    if let Some(pair) = ptys.windows(2).find(|pair| pair[0].record.id == pair[1].record.id) {
        return Err(Bad::Value { note: "Ptys", word: "id", value: pair[0].record.id });
    }
    for file in files.iter().filter(|file| file.record.kind == Carried::PtyMaster as u64) {
        let known = ptys.binary_search_by_key(&file.record.object, |pty| pty.record.id).is_ok();
        need(known, "Files", "the object of a master", file.record.object)?;
    }
    Ok(ptys)
}

fn former<'a>(table: &Table<'a>, record: &Pty) -> Result<Former<'a>> {
    let bytes = |word, most: usize| -> Result<&'a [u8]> {
        let bytes = table.bytes(word).map_err(|error| Bad::Note(Kind::Ptys as u32, error))?;
        need(bytes.len() <= most, "Ptys", "the number of bytes", bytes.len() as u64)?;
        Ok(bytes)
    };
    need(record.index < PTY_MAX as u64, "Ptys", "index", record.index)?;
    need(record.mode <= 0o7777, "Ptys", "mode", record.mode)?;
    for (word, id) in [("uid", record.uid), ("gid", record.gid)] {
        need(is_id(id), "Ptys", word, id)?;
    }
    for (word, pid) in [("session", record.session), ("pgrp", record.pgrp)] {
        need(pid < MAX_PID, "Ptys", word, pid)?;
    }
    let words = [
        ("iflag", record.iflag),
        ("oflag", record.oflag),
        ("cflag", record.cflag),
        ("lflag", record.lflag),
        ("ispeed", record.ispeed),
        ("ospeed", record.ospeed),
        ("column", record.column),
        ("canon_column", record.canon_column),
    ];
    for (word, value) in words {
        need(value <= u64::from(u32::MAX), "Ptys", word, value)?;
    }
    let small = [
        ("rows", record.rows),
        ("cols", record.cols),
        ("xpixel", record.xpixel),
        ("ypixel", record.ypixel),
    ];
    for (word, value) in small {
        need(value <= u64::from(u16::MAX), "Ptys", word, value)?;
    }
    for (word, value) in [("line", record.line), ("packet_status", record.packet_status)] {
        need(value <= u64::from(u8::MAX), "Ptys", word, value)?;
    }
    let cc: Option<&[u8; NCCS]> = bytes(record.cc_bytes, NCCS)?.first_chunk();
    let (input, ends) =
        (bytes(record.input_bytes, INPUT_SIZE)?, bytes(record.ends_bytes, INPUT_SIZE)?);
    need(ends.len() == input.len(), "Ptys", "the number of ends", ends.len() as u64)?;
    need(record.complete <= input.len() as u64, "Ptys", "complete", record.complete)?;
    Ok(Former {
        index: record.index as u32,
        node: (record.mode as u32, record.uid as u32, record.gid as u32),
        termios: Termios {
            c_iflag: record.iflag as u32,
            c_oflag: record.oflag as u32,
            c_cflag: record.cflag as u32,
            c_lflag: record.lflag as u32,
            c_line: record.line as u8,
            c_cc: *cc.ok_or(Bad::Header("a terminal without control characters"))?,
            c_ispeed: record.ispeed as u32,
            c_ospeed: record.ospeed as u32,
        },
        winsize: WinSize {
            ws_row: record.rows as u16,
            ws_col: record.cols as u16,
            ws_xpixel: record.xpixel as u16,
            ws_ypixel: record.ypixel as u16,
        },
        held: Held {
            input,
            ends,
            complete: record.complete as usize,
            echo: bytes(record.echo_bytes, ECHO_SIZE)?,
            column: record.column as usize,
            canon_column: record.canon_column as usize,
            literal_next: record.literal_next != 0,
            erasing: record.erasing != 0,
            stopped: record.stopped != 0,
        },
        output: bytes(record.output_bytes, OUTPUT_SIZE)?,
        packet_mode: record.packet_mode != 0,
        packet_status: record.packet_status as u8,
        locked: record.locked != 0,
        slave_closed: record.slave_closed != 0,
        exclusive: record.exclusive != 0,
    })
}

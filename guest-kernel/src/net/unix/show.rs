//! /proc/net/unix (proc(5)).

use core::fmt;

use super::sock::UnixSock;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::net::NetNs;
use crate::net::common::state;

/// Writes the file.
pub fn show(net: &NetNs, out: &mut dyn fmt::Write) -> Result<()> {
    let line = out.write_str("Num       RefCount Protocol Flags    Type St Inode Path\n");
    line.map_err(|_| Errno::ENOMEM)?;
    net.unix.for_each(|sock| line_of(sock, out).map_err(|_| Errno::ENOMEM))
}

fn line_of(sock: &Ref<UnixSock>, out: &mut dyn fmt::Write) -> fmt::Result {
    const SS_UNCONNECTED: u32 = 1;
    const SS_CONNECTED: u32 = 3;
    const ACCEPTS_CONNECTIONS: u32 = 1 << 16;
    let common = &sock.common;
    let flags = if common.state() == state::LISTEN { ACCEPTS_CONNECTIONS } else { 0 };
    let st = if common.state() == state::ESTABLISHED { SS_CONNECTED } else { SS_UNCONNECTED };
    let refs = Ref::ref_count(sock).saturating_sub(1);
    let kind = common.kind;
    write!(out, "{:016x}: {refs:08X} 00000000 {flags:08X} {kind:04X} {st:02X}", 0)?;
    write!(out, " {:5}", common.ino())?;
    let address = common.local();
    let name = address.bytes().get(2..).unwrap_or_default();
    if let Some(&first) = name.first() {
        out.write_char(' ')?;
        // An abstract name is shown with an @ for each NUL; a path ends at its NUL.
        let shown = if first == 0 { name } else { name.strip_suffix(&[0]).unwrap_or(name) };
        for &byte in shown {
            out.write_char(if byte == 0 { '@' } else { char::from(byte) })?;
        }
    }
    out.write_char('\n')
}

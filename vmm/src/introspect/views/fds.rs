//! `belljar fds`: the open files of a process: what they are, where they are, and who has the other end.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use super::super::{Error, Kernel, Object, Result, path_of};
use super::process::Process;
use crate::render::{Column, Consistency, Kind, Schema, Shape};

pub(super) static SCHEMA: Schema = Schema {
    name: "belljar.fds.v1",
    shape: Shape::Table,
    columns: &[
        Column::new("fd", "FD", Kind::Int),
        Column::new("kind", "KIND", Kind::Text),
        Column::new("flags", "FLAGS", Kind::Text),
        Column::new("pos", "POS", Kind::Int),
        Column::new("state", "STATE", Kind::Text),
        Column::new("path", "PATH", Kind::Text),
        Column::new("local", "LOCAL", Kind::Text),
        Column::new("peer", "PEER", Kind::Text),
    ],
};

#[derive(Serialize)]
pub(super) struct Fd {
    fd: u64,
    /// `file`, `dir`, `tcp`, `unix-stream`, `pipe`, …
    kind: String,
    /// `r`, `w`, `rw`, and whatever of `nonblock`, `append`, `cloexec` is set.
    flags: String,
    pos: u64,
    /// A socket's state; what waits in a pipe; an eventfd's count.
    state: Option<String>,
    path: Option<String>,
    /// A socket's own address.
    local: Option<String>,
    /// A socket's other address, and who has the other end of a pipe or Unix socket, as `PID/FD`.
    peer: Option<String>,
}

/// Values of AArch64's `O_*` flags that are shown.
const FLAGS: [(u64, &str); 4] =
    [(0o2000, "append"), (0o4000, "nonblock"), (0o1_0000, "dsync"), (0o20_0000, "direct")];

/// One open file of one process, while looking for other ends.
struct Place {
    pid: u64,
    fd: u64,
    writes: bool,
}

impl Place {
    fn text(&self) -> String {
        format!("{}/{}", self.pid, self.fd)
    }
}

/// Who has what open: pipes by the address of their inode, sockets by its number.
#[derive(Default)]
struct Holders {
    pipes: HashMap<u64, Vec<Place>>,
    sockets: HashMap<u64, Vec<Place>>,
}

/// The descriptor table of a task; `None` once it has let go of it.
fn table<'k>(kernel: &'k Kernel<'_>, task: &Object<'k>) -> Result<Option<Object<'k>>> {
    let Some(files) = task.ptr("files")? else { return Ok(None) };
    kernel.check_seq_of(&files, "seq")?;
    Ok(Some(files))
}

/// The open files in a table, with their numbers.
fn open_files<'k>(kernel: &'k Kernel<'_>, files: &Object<'k>) -> Result<Vec<(u64, Object<'k>)>> {
    let mut open = vec![];
    for (fd, addr) in files.numbers("table.fds")?.into_iter().enumerate() {
        if addr != 0 {
            open.push((fd as u64, Object::new(kernel, "File", addr)?));
        }
    }
    Ok(open)
}

fn has_bit(words: &[u64], bit: u64) -> bool {
    words.get((bit / 64) as usize).is_some_and(|word| word >> (bit % 64) & 1 != 0)
}

impl Holders {
    fn find(kernel: &Kernel<'_>) -> Result<Self> {
        let mut holders = Self::default();
        for leader in kernel.processes()? {
            if holders.add(kernel, &leader).is_err() {
                kernel.degrade(Consistency::Torn);
            }
        }
        Ok(holders)
    }

    fn add(&mut self, kernel: &Kernel<'_>, task: &Object<'_>) -> Result<()> {
        let pid = task.uint("pid")?;
        let Some(files) = table(kernel, task)? else { return Ok(()) };
        for (fd, file) in open_files(kernel, &files)? {
            let writes = file.flags("fmode")?.iter().any(|flag| flag == "WRITE");
            let place = Place { pid, fd, writes };
            let Some(inode) = file.ptr("inode")? else { continue };
            match file.enum_name("kind")?.as_str() {
                "Pipe" => self.pipes.entry(inode.addr()).or_default().push(place),
                "Socket" => self.sockets.entry(inode.uint("ino")?).or_default().push(place),
                _ => {}
            }
        }
        Ok(())
    }
}

fn join(places: impl Iterator<Item = String>) -> Option<String> {
    let text = places.collect::<Vec<_>>().join(",");
    Some(text).filter(|text| !text.is_empty())
}

pub(super) fn rows(kernel: &Kernel<'_>, pid: u32) -> Result<Vec<Fd>> {
    let process = Process::find(kernel, pid)?;
    let Some(files) = table(kernel, process.task())? else { return Ok(vec![]) };
    let cloexec = files.numbers("table.cloexec")?;
    let holders = Holders::find(kernel)?;
    let mut rows = vec![];
    for (fd, file) in open_files(kernel, &files)? {
        match row(kernel, fd, &file, has_bit(&cloexec, fd), &holders) {
            Ok(row) => rows.push(row),
            Err(e) if e.is_absent() => return Err(e),
            Err(_) => kernel.degrade(Consistency::Torn),
        }
    }
    Ok(rows)
}

fn row(
    kernel: &Kernel<'_>,
    fd: u64,
    file: &Object<'_>,
    cloexec: bool,
    holders: &Holders,
) -> Result<Fd> {
    let raw = file.uint("flags")?;
    let mode = file.flags("fmode")?;
    let has = |name: &str| mode.iter().any(|flag| flag == name);
    let mut flags = String::new();
    flags += if has("READ") { "r" } else { "" };
    flags += if has("WRITE") { "w" } else { "" };
    flags += if has("PATH") { "path" } else { "" };
    for (bit, name) in FLAGS {
        if raw & bit != 0 {
            flags += ",";
            flags += name;
        }
    }
    if cloexec {
        flags += ",cloexec";
    }
    let kind = file.enum_name("kind")?;
    let mut row = Fd {
        fd,
        kind: kind.to_lowercase(),
        flags,
        pos: file.uint("pos")?,
        state: None,
        path: None,
        local: None,
        peer: None,
    };
    let Some(inode) = file.ptr("inode")? else {
        return Err(Error::Damaged { what: "an open file".into() });
    };
    let ino = inode.uint("ino")?;
    let detail = file.uint("detail")?;
    let detail = |name: &str| Object::new(kernel, name, detail);
    match kind.as_str() {
        "Socket" => {
            row.path = Some(format!("socket:[{ino}]"));
            socket(&detail("Common")?, &mut row, holders)?;
        }
        "Pipe" => {
            row.path = path(file)?.or_else(|| Some(format!("pipe:[{ino}]")));
            let pipe = detail("Pipe")?;
            row.state = Some(format!("{}/{}", pipe.uint("used")?, pipe.uint("slots")?));
            let ends = holders.pipes.get(&inode.addr()).map_or(&[][..], Vec::as_slice);
            // A reader's peers write.
            row.peer = join(ends.iter().filter(|end| end.writes != has("WRITE")).map(Place::text));
        }
        "EventFd" => {
            row.path = Some("anon_inode:[eventfd]".into());
            row.state = Some(format!("count {}", detail("EventFd")?.uint("count")?));
        }
        "Epoll" => row.path = Some("anon_inode:[eventpoll]".into()),
        "TimerFd" => row.path = Some("anon_inode:[timerfd]".into()),
        "SignalFd" => row.path = Some("anon_inode:[signalfd]".into()),
        "PidFd" => row.path = Some("anon_inode:[pidfd]".into()),
        _ => row.path = path(file)?,
    }
    Ok(row)
}

const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const AF_NETLINK: u64 = 16;
const AF_PACKET: u64 = 17;
const SOCK_STREAM: u64 = 1;
const SOCK_DGRAM: u64 = 2;
const SOCK_SEQPACKET: u64 = 5;

fn socket(common: &Object<'_>, row: &mut Fd, holders: &Holders) -> Result<()> {
    let (family, kind) = (common.uint("family")?, common.uint("kind")?);
    let protocol = common.uint("protocol")?;
    row.kind = socket_kind(family, kind, protocol);
    row.state = Some(state(family, kind, common.uint("state")?).into());
    row.local = address(common, "names.local")?;
    row.peer = address(common, "names.peer")?;
    let peer_ino = common.uint("peer_ino")?;
    if family == AF_UNIX && peer_ino != 0 {
        let ends = holders.sockets.get(&peer_ino).map_or(&[][..], Vec::as_slice);
        let others = join(ends.iter().map(Place::text));
        row.peer = join([row.peer.take(), others].into_iter().flatten());
    }
    Ok(())
}

/// What a socket is, as people call it.
pub fn socket_kind(family: u64, kind: u64, protocol: u64) -> String {
    match (family, kind) {
        (AF_UNIX, SOCK_STREAM) => "unix-stream".into(),
        (AF_UNIX, SOCK_DGRAM) => "unix-dgram".into(),
        (AF_UNIX, SOCK_SEQPACKET) => "unix-seqpacket".into(),
        (AF_INET, SOCK_STREAM) => "tcp".into(),
        (AF_INET6, SOCK_STREAM) => "tcp6".into(),
        (AF_INET, _) if protocol == 17 => "udp".into(),
        (AF_INET6, _) if protocol == 17 => "udp6".into(),
        (AF_INET | AF_INET6, _) => "raw".into(),
        (AF_NETLINK, _) => "netlink".into(),
        (AF_PACKET, _) => "packet".into(),
        _ => format!("socket-{family}"),
    }
}

/// A state's name; datagram sockets are merely connected or not.
fn state(family: u64, kind: u64, number: u64) -> &'static str {
    let connects = kind == SOCK_STREAM || kind == SOCK_SEQPACKET;
    match number {
        1 => "ESTABLISHED",
        7 if !connects || family == AF_UNIX => "UNCONNECTED",
        2 => "SYN_SENT",
        3 => "SYN_RECV",
        4 => "FIN_WAIT1",
        5 => "FIN_WAIT2",
        6 => "TIME_WAIT",
        7 => "CLOSE",
        8 => "CLOSE_WAIT",
        9 => "LAST_ACK",
        10 => "LISTEN",
        11 => "CLOSING",
        _ => "?",
    }
}

/// The `struct sockaddr` in `field`, as people write addresses; `None` if there is none.
fn address(common: &Object<'_>, field: &str) -> Result<Option<String>> {
    /// Size of `struct sockaddr_storage`: no address is longer.
    const LONGEST: u64 = 128;
    let len = common.uint(&format!("{field}.len"))?.min(LONGEST);
    let mut bytes = vec![0; len as usize];
    let at = common.addr_of(&format!("{field}.bytes"))?;
    common.kernel().space().read(at, &mut bytes)?;
    Ok(text_of(&bytes))
}

fn text_of(bytes: &[u8]) -> Option<String> {
    let family = u16::from_le_bytes(*bytes.first_chunk()?);
    let port = || Some(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
    match u64::from(family) {
        AF_UNIX => {
            let name = &bytes[2..];
            match name {
                [] => None,
                [0, name @ ..] => Some(format!("@{}", String::from_utf8_lossy(name))),
                name => {
                    let name = name.strip_suffix(&[0]).unwrap_or(name);
                    Some(String::from_utf8_lossy(name).into_owned())
                }
            }
        }
        AF_INET => {
            let octets: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
            Some(format!("{}:{}", Ipv4Addr::from(octets), port()?))
        }
        AF_INET6 => {
            let octets: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
            Some(format!("[{}]:{}", Ipv6Addr::from(octets), port()?))
        }
        AF_NETLINK => Some(format!("port {}", u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?))),
        AF_PACKET => {
            let index = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
            Some(format!("protocol {:#06x} device {index}", port()?))
        }
        _ => None,
    }
}

/// The path of a file, through the mounts that it is seen through; `None` for files without names.
fn path(file: &Object<'_>) -> Result<Option<String>> {
    let place = path_of(&file.embedded("path")?)?;
    Ok(place.map(|place| String::from_utf8_lossy(&place.path).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_people_write_them() {
        let v4 = [2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(text_of(&v4).as_deref(), Some("127.0.0.1:80"));
        let mut v6 = [0; 28];
        (v6[0], v6[3], v6[23]) = (10, 22, 1);
        assert_eq!(text_of(&v6).as_deref(), Some("[::1]:22"));
        assert_eq!(text_of(b"\x01\x00/run/s\0").as_deref(), Some("/run/s"));
        assert_eq!(text_of(b"\x01\x00\0name").as_deref(), Some("@name"));
        assert_eq!(text_of(b"\x01\x00"), None);
    }

    #[test]
    fn no_address_makes_reading_panic() {
        for family in 0..20 {
            for len in 0..40 {
                let mut bytes = vec![0xff; len];
                if let Some(first) = bytes.first_mut() {
                    *first = family;
                }
                if let Some(second) = bytes.get_mut(1) {
                    *second = 0;
                }
                let _ = text_of(&bytes);
            }
        }
    }
}

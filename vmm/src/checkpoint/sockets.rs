//! Unix sockets, and what is queued at them.

use std::collections::BTreeSet;

use belljar_abi::corenote::{Kind, Message, Socket, Writer};

use super::state::{put, table};
use super::{Error, Result};
use crate::elfcore::Note;
use crate::introspect::{Object, socket_kind};

const AF_UNIX: u64 = 1;
/// The states of a socket that cores hold.
const ESTABLISHED: u64 = 1;
const CLOSE: u64 = 7;
const LISTEN: u64 = 10;
/// Bytes of the longest address, `struct sockaddr_storage`.
const LONGEST_NAME: u64 = 128;
/// Bytes before the path in a `struct sockaddr_un`.
const PATH_OFFSET: usize = 2;

/// The sockets of a process.
#[derive(Default)]
pub(super) struct Sockets {
    sockets: Writer<Socket>,
    messages: Writer<Message>,
    /// Which there are, those that wait to be accepted included.
    pub known: BTreeSet<u64>,
    /// What they refer to: the descriptor, and the other socket.
    pub others: Vec<(u64, u64)>,
}

impl Sockets {
    /// The notes about them.
    pub(super) fn notes(&self) -> [Note; 2] {
        [table(Kind::Sockets, &self.sockets), table(Kind::Messages, &self.messages)]
    }

    /// Adds the socket behind descriptor `fd`, whose common part is `common`.
    pub(super) fn add(&mut self, pid: u64, fd: u64, common: &Object<'_>) -> Result<()> {
        let refused =
            |what: String| Error::Refused { pid, what: format!("descriptor {fd} {what}") };
        let word = |name: &str| common.uint(name);
        let name = socket_kind(word("family")?, word("kind")?, word("protocol")?);
        let unix = match common.ptr("unix")? {
            Some(unix) if word("family")? == AF_UNIX => unix,
            _ => {
                return Err(refused(format!(
                    "is a socket of the kind {name}, which no core carries yet"
                )));
            }
        };
        let refused = |what: &str| refused(format!("is a socket of the kind {name} {what}"));
        self.describe(fd, &unix, 0, &refused)?;
        for embryo in unix.array("state.pending")? {
            self.describe(fd, &embryo, common.addr(), &refused)?;
        }
        Ok(())
    }

    fn describe(
        &mut self,
        fd: u64,
        unix: &Object<'_>,
        listener: u64,
        refused: &dyn Fn(&str) -> Error,
    ) -> Result<()> {
        let Some(common) = unix.ptr("common")? else { return Err(refused("without a state")) };
        let id = common.addr();
        if !self.known.insert(id) {
            return Ok(());
        }
        let word = |name: &str| common.uint(name);
        let state = word("state")?;
        if ![ESTABLISHED, CLOSE, LISTEN].contains(&state) {
            return Err(refused("in a state that no core carries yet"));
        }
        if common.ptr("program")?.is_some() {
            return Err(refused("with a filter, which no core carries yet"));
        }
        // A negative number is none.
        if i32::try_from(word("peek_off")? as u32).is_ok() {
            return Err(refused("with SO_PEEK_OFF, which no core carries yet"));
        }
        let len = word("names.local.len")?.min(LONGEST_NAME);
        let mut name = vec![0; len as usize];
        common.kernel().space().read(common.addr_of("names.local.bytes")?, &mut name)?;
        let bound = unix.ptr("state.bound")?;
        let (mut mode, mut owner) = (0, (0, 0));
        if let Some(inode) = bound.as_ref().map(|bound| bound.ptr("inode")).transpose()?.flatten() {
            if name.get(PATH_OFFSET) != Some(&b'/') {
                return Err(refused("under a relative path, which no core carries yet"));
            }
            if inode.uint("nlink")? == 0 {
                return Err(refused("under a path that is gone, which no core carries yet"));
            }
            (mode, owner) = (inode.uint("mode")?, (inode.uint("uid")?, inode.uint("gid")?));
        }
        let peer = unix.ptr("state.peer")?;
        let (peer, peer_gone) = match peer.as_ref().map(closed_or_id).transpose()? {
            None => (0, 0),
            Some(None) => (0, 1),
            Some(Some(peer)) => (peer, 0),
        };
        let cred = credentials(&unix.embedded("state.peer_identity")?)?;
        let name_bytes = put(&mut self.sockets, &name)?;
        self.sockets.push(Socket {
            id,
            kind: word("kind")?,
            protocol: word("protocol")?,
            uid: word("uid")?,
            state,
            shutdown: word("shutdown")?,
            error: word("error")?,
            flags: word("flags")?,
            sndbuf: word("sndbuf")?,
            rcvbuf: word("rcvbuf")?,
            linger: word("linger")?,
            rcvlowat: word("rcvlowat")?,
            priority: word("priority")?,
            mark: word("mark")?,
            rcvtimeo: word("rcvtimeo")?,
            sndtimeo: word("sndtimeo")?,
            backlog: unix.uint("state.backlog")?,
            peer,
            peer_gone,
            listener,
            bound: u64::from(bound.is_some()),
            name_bytes,
            mode,
            name_uid: owner.0,
            name_gid: owner.1,
            cred_pid: cred[0],
            cred_uid: cred[1],
            cred_gid: cred[2],
        });
        self.others.extend((peer != 0).then_some((fd, peer)));
        for message in unix.array("state.queue")? {
            let mut cred = [0; 3];
            if let Some(extras) = message.ptr("extras")? {
                if extras.ptr("files")?.is_some() {
                    return Err(refused("with descriptors in flight, which no core carries yet"));
                }
                cred = credentials(&extras.embedded("identity")?)?;
            }
            let read = message.uint("read")? as usize;
            let data = message.bytes("data")?;
            let sender = message.ptr("sender")?.as_ref().map(closed_or_id).transpose()?;
            let sender = sender.flatten().unwrap_or(0);
            let data_bytes = put(&mut self.messages, data.get(read..).unwrap_or_default())?;
            let [cred_pid, cred_uid, cred_gid] = cred;
            self.messages.push(Message {
                socket: id,
                sender,
                data_bytes,
                cred_pid,
                cred_uid,
                cred_gid,
            });
            self.others.extend((sender != 0).then_some((fd, sender)));
        }
        Ok(())
    }
}

/// How a socket is called; `None` if it is closed.
fn closed_or_id(unix: &Object<'_>) -> Result<Option<u64>> {
    if unix.bool("dead")? {
        return Ok(None);
    }
    Ok(unix.ptr("common")?.map(|common| common.addr()))
}

/// Process, user and group; zeros for nobody.
fn credentials(identity: &Object<'_>) -> Result<[u64; 3]> {
    let Some(pid) = identity.ptr("pid")? else { return Ok([0; 3]) };
    let number = pid.array("numbers")?.first().map(|upid| upid.uint("nr")).transpose()?;
    Ok([number.unwrap_or(0), identity.uint("uid")?, identity.uint("gid")?])
}

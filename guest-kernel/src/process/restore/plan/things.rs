//! What the notes say of timers and Unix sockets.

use alloc::vec::Vec;

use belljar_abi::corenote::{self, Kind, Message, Socket, Table, Timer};

use super::super::core::{Bad, Result, room};
use super::{MAX_FD, MAX_PID, ThreadPlan, is_id, need, records};
use crate::net::address::ADDRESS_MAX;
use crate::net::common::{flag, state};
use crate::net::unix::connect::SOMAXCONN;
use crate::net::{AF_UNIX, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM};
use crate::sched::ClockBase;
use crate::signal::NSIG;
use crate::task::timers::{TimerClock, TimerClockKind};

/// Most timers of a process, and one more than the highest number of one.
const MAX_TIMERS: usize = 1 << 20;
/// The highest error that programs know, EHWPOISON: what lies beyond are the kernel's own.
const MAX_ERROR: u64 = 133;

/// A timer.
pub struct TimerPlan {
    /// What its note says.
    pub record: Timer,
    /// What it counts.
    pub clock: TimerClock,
    /// The clock of its deadline.
    pub base: ClockBase,
}

impl TimerPlan {
    /// What tells it from the others of its process.
    pub(super) fn key(&self) -> (u64, u64) {
        match self.record.what {
            what @ (corenote::TIMER_POSIX | corenote::TIMER_FILE) => (what, self.record.id),
            what => (what, 0),
        }
    }
}

/// A Unix socket.
pub struct SocketPlan<'a> {
    /// What its note says.
    pub record: Socket,
    /// Its name, as an address; empty for none.
    pub name: &'a [u8],
}

/// What is queued at a Unix socket.
pub struct MessagePlan<'a> {
    /// What its note says.
    pub record: Message,
    /// The bytes.
    pub data: &'a [u8],
}

pub(super) fn timers(table: &Table<'_>, threads: &[ThreadPlan<'_>]) -> Result<Vec<TimerPlan>> {
    let mut timers: Vec<TimerPlan> = room(table.len().min(MAX_TIMERS))?;
    for record in records::<Timer>(table, "Timers", MAX_TIMERS, |_| Ok(()))? {
        let bad = |word, value| Bad::Value { note: "Timers", word, value };
        need(record.what <= corenote::TIMER_FILE, "Timers", "what", record.what)?;
        let is_file = record.what == corenote::TIMER_FILE;
        need(is_file || record.id <= i32::MAX as u64, "Timers", "id", record.id)?;
        need(record.clock_tid < MAX_PID, "Timers", "clock_tid", record.clock_tid)?;
        need(record.deadline <= i64::MAX as u64, "Timers", "deadline", record.deadline)?;
        need(record.interval <= i64::MAX as u64, "Timers", "interval", record.interval)?;
        need(record.overrun <= i64::MAX as u64, "Timers", "overrun", record.overrun)?;
        need(record.signo <= NSIG as u64, "Timers", "signo", record.signo)?;
        let told = record.notify_tid;
        let known = told == 0 || threads.iter().any(|thread| thread.record.tid == told);
        need(known, "Timers", "notify_tid", told)?;
        let clock = TimerClock::of_number(record.clock as u32, record.clock_tid as u32);
        let clock = clock.filter(|_| record.clock <= u64::from(u32::MAX));
        let clock = clock.filter(|clock| !is_file || clock.wall().is_some());
        timers.push(TimerPlan {
            clock: clock.ok_or(bad("clock", record.clock))?,
            base: match record.base {
                0 => ClockBase::Monotonic,
                1 => ClockBase::Realtime,
                other => return Err(bad("base", other)),
            },
            record,
        });
    }
    timers.sort_unstable_by_key(TimerPlan::key);
    match timers.windows(2).find(|pair| pair[0].key() == pair[1].key()) {
        Some(pair) => Err(Bad::Value { note: "Timers", word: "id", value: pair[0].record.id }),
        None => Ok(timers),
    }
}

const _: () = assert!(
    TimerClockKind::ProcessUser as u64 == corenote::CLOCK_PROCESS_USER,
    "core notes name the clocks as the kernel does"
);

pub(super) fn sockets<'a>(table: &Table<'a>) -> Result<Vec<SocketPlan<'a>>> {
    let mut sockets = room(table.len().min(MAX_FD as usize))?;
    for record in records::<Socket>(table, "Sockets", MAX_FD as usize, |_| Ok(()))? {
        let is_u32 = |word, value: u64| need(value <= u64::from(u32::MAX), "Sockets", word, value);
        let kinds = [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET].map(u64::from);
        need(kinds.contains(&record.kind), "Sockets", "kind", record.kind)?;
        let states = [state::ESTABLISHED, state::CLOSE, state::LISTEN].map(u64::from);
        need(states.contains(&record.state), "Sockets", "state", record.state)?;
        let protocol = [0, u64::from(AF_UNIX)].contains(&record.protocol);
        need(protocol, "Sockets", "protocol", record.protocol)?;
        // A closed one would be nobody's.
        let alive = record.flags & u64::from(flag::DEAD) == 0;
        need(alive, "Sockets", "flags", record.flags)?;
        need(record.shutdown <= 3, "Sockets", "shutdown", record.shutdown)?;
        need(record.error <= MAX_ERROR, "Sockets", "error", record.error)?;
        need(record.backlog <= SOMAXCONN as u64, "Sockets", "backlog", record.backlog)?;
        let words = [
            ("flags", record.flags),
            ("sndbuf", record.sndbuf),
            ("rcvbuf", record.rcvbuf),
            ("linger", record.linger),
            ("rcvlowat", record.rcvlowat),
            ("priority", record.priority),
            ("mark", record.mark),
            ("cred_uid", record.cred_uid),
            ("cred_gid", record.cred_gid),
        ];
        for (word, value) in words {
            is_u32(word, value)?;
        }
        need(record.cred_pid < MAX_PID, "Sockets", "cred_pid", record.cred_pid)?;
        for (word, id) in
            [("uid", record.uid), ("name_uid", record.name_uid), ("name_gid", record.name_gid)]
        {
            need(is_id(id), "Sockets", word, id)?;
        }
        let name = table.bytes(record.name_bytes);
        let name = name.map_err(|error| Bad::Note(Kind::Sockets as u32, error))?;
        if name.len() > ADDRESS_MAX {
            return Err(Bad::Header("a name that no socket can have"));
        }
        sockets.push(SocketPlan { record, name });
    }
    Ok(sockets)
}

pub(super) fn messages<'a>(table: &Table<'a>) -> Result<Vec<MessagePlan<'a>>> {
    let mut messages = room(table.len().min(MAX_FD as usize))?;
    for record in records::<Message>(table, "Messages", MAX_FD as usize, |_| Ok(()))? {
        need(record.cred_pid < MAX_PID, "Messages", "cred_pid", record.cred_pid)?;
        for (word, value) in [("cred_uid", record.cred_uid), ("cred_gid", record.cred_gid)] {
            need(value <= u64::from(u32::MAX), "Messages", word, value)?;
        }
        let data = table.bytes(record.data_bytes);
        let data = data.map_err(|error| Bad::Note(Kind::Messages as u32, error))?;
        messages.push(MessagePlan { record, data });
    }
    Ok(messages)
}

//! POSIX message queues (mq_overview(7)).
//!
//! | module | what it is |
//! | --- | --- |
//! | [`queue`] | a queue: messages by priority, who waits, who is to be told |
//! | [`file`] | an open queue, and its inode |
//! | [`fs`] | the file system that queues are files of, one a namespace |

pub mod file;
pub mod fs;
pub mod queue;

use crate::errno::{Errno, Result};
use crate::ns::{Cap, Cred};

/// Priorities are below this.
pub const PRIO_MAX: u32 = 32768;
/// Nobody makes longer queues, or longer messages.
const HARD_MSGMAX: i64 = 65536;
const HARD_MSGSIZEMAX: i64 = 16 << 20;

/// How long a queue is and how long its messages are, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Messages.
    pub maxmsg: i64,
    /// Bytes of each.
    pub msgsize: i64,
}

impl Size {
    /// `EINVAL` unless both are above zero and within the limits of `max`; the privileged have others.
    fn check(self, max: Self, cred: &Cred) -> Result<()> {
        let Self { maxmsg, msgsize } = self;
        let max = if cred.capable(Cap::SysResource) {
            Self { maxmsg: HARD_MSGMAX, msgsize: HARD_MSGSIZEMAX }
        } else {
            max
        };
        if maxmsg <= 0 || msgsize <= 0 || maxmsg > max.maxmsg || msgsize > max.msgsize {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// Bytes that count against `RLIMIT_MSGQUEUE`: what Linux needs for a full queue (getrlimit(2)).
    fn charged(self) -> u64 {
        const MSG: u64 = 48;
        const LEAF: u64 = 48;
        let (maxmsg, msgsize) = (self.maxmsg as u64, self.msgsize as u64);
        maxmsg * MSG + maxmsg.min(u64::from(PRIO_MAX)) * LEAF + maxmsg * msgsize
    }
}

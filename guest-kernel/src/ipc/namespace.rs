//! [`IpcNs`]: an IPC namespace (ipc_namespaces(7)): System V objects, their limits, and POSIX message
//! queues.
//!
//! It lives while a task, an open namespace file or a bind mount holds it; what is in it goes with it,
//! but shared memory that is still attached somewhere goes with its last attachment.

use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use belljar_abi::Described;

use crate::errno::Result;
use crate::ipc::mqueue::fs::Mqueues;
use crate::ipc::sysv::msg::MsgQueues;
use crate::ipc::sysv::sem::SemSets;
use crate::ipc::sysv::shm::Segments;
use crate::kref::Ref;
use crate::ns::common::publish;
use crate::ns::{Cap, Cred, HasCommon, NsCommon};

/// What may be set in /proc/sys/kernel (proc(5)), with Linux's values from the start.
pub struct SysvLimits {
    /// `shmmax`: bytes of a segment.
    pub shmmax: AtomicU64,
    /// `shmall`: pages of all segments.
    pub shmall: AtomicU64,
    /// `shmmni`: segments.
    pub shmmni: AtomicI32,
    /// `msgmax`: bytes of a message.
    pub msgmax: AtomicI32,
    /// `msgmnb`: bytes on a new queue.
    pub msgmnb: AtomicI32,
    /// `msgmni`: queues.
    pub msgmni: AtomicI32,
    /// `sem`: semaphores of a set, of all sets, operations of a call, sets.
    pub sem: [AtomicI32; 4],
}

impl SysvLimits {
    const fn new() -> Self {
        let all = u64::MAX - (1 << 24);
        Self {
            shmmax: AtomicU64::new(all),
            shmall: AtomicU64::new(all),
            shmmni: AtomicI32::new(4096),
            msgmax: AtomicI32::new(8192),
            msgmnb: AtomicI32::new(16384),
            msgmni: AtomicI32::new(32000),
            sem: [
                AtomicI32::new(32000),
                AtomicI32::new(1_024_000_000),
                AtomicI32::new(500),
                AtomicI32::new(32000),
            ],
        }
    }

    fn count(limit: &AtomicI32) -> usize {
        usize::try_from(limit.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// `shmmni`.
    pub fn max_segments(&self) -> usize {
        Self::count(&self.shmmni)
    }

    /// `msgmni`.
    pub fn max_queues(&self) -> usize {
        Self::count(&self.msgmni)
    }

    /// `msgmax`.
    pub fn max_message(&self) -> usize {
        Self::count(&self.msgmax)
    }

    /// SEMMSL, SEMMNS, SEMOPM, SEMMNI.
    pub fn sem(&self) -> [usize; 4] {
        [0, 1, 2, 3].map(|i| Self::count(&self.sem[i]))
    }
}

/// An IPC namespace.
#[repr(C)]
#[derive(Described)]
pub struct IpcNs {
    /// Identity and owner.
    #[described(as = "struct NsCommon")]
    pub common: NsCommon,
    /// Limits of System V IPC.
    #[described(skip)]
    pub limits: SysvLimits,
    /// Shared memory.
    #[described(skip)]
    pub shm: Ref<Segments>,
    /// Semaphore sets.
    #[described(skip)]
    pub sem: SemSets,
    /// Message queues.
    #[described(skip)]
    pub msg: MsgQueues,
    /// POSIX message queues.
    #[described(skip)]
    pub mq: Mqueues,
}

impl HasCommon for IpcNs {
    fn common(&self) -> &NsCommon {
        &self.common
    }
}

impl IpcNs {
    /// An empty namespace.
    pub fn new(common: NsCommon) -> Result<Ref<Self>> {
        publish(Self {
            common,
            limits: SysvLimits::new(),
            shm: Segments::new()?,
            sem: SemSets::new(),
            msg: MsgQueues::new(),
            mq: Mqueues::new()?,
        })
    }

    /// True if `cred` has `cap` over this namespace.
    pub fn capable(&self, cred: &Cred, cap: Cap) -> bool {
        cred.ns_capable(self.common.user_ns(), cap)
    }
}

impl Drop for IpcNs {
    fn drop(&mut self) {
        self.shm.close();
    }
}

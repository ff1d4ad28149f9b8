//! Constants and structures of System V IPC as programs know them: linux/ipc.h, shm.h, sem.h, msg.h and
//! the generic asm/*buf.h, which AArch64 uses.
#![allow(missing_docs, reason = "the names are sysvipc(7)'s")]

use crate::pod;

pub const IPC_PRIVATE: i32 = 0;
pub const IPC_CREAT: u32 = 0o1000;
pub const IPC_EXCL: u32 = 0o2000;
pub const IPC_NOWAIT: u32 = 0o4000;

pub const IPC_RMID: u32 = 0;
pub const IPC_SET: u32 = 1;
pub const IPC_STAT: u32 = 2;
pub const IPC_INFO: u32 = 3;

pub const SHM_LOCK: u32 = 11;
pub const SHM_UNLOCK: u32 = 12;
pub const SHM_STAT: u32 = 13;
pub const SHM_INFO: u32 = 14;
pub const SHM_STAT_ANY: u32 = 15;

/// Mode: goes with its last attachment.
pub const SHM_DEST: u32 = 0o1000;
/// Mode: locked in memory.
pub const SHM_LOCKED: u32 = 0o2000;
pub const SHM_HUGETLB: u32 = 0o4000;
pub const SHM_NORESERVE: u32 = 0o10000;
pub const SHM_RDONLY: u32 = 0o10000;
pub const SHM_RND: u32 = 0o20000;
pub const SHM_REMAP: u32 = 0o40000;
pub const SHM_EXEC: u32 = 0o100000;

pub const GETPID: u32 = 11;
pub const GETVAL: u32 = 12;
pub const GETALL: u32 = 13;
pub const GETNCNT: u32 = 14;
pub const GETZCNT: u32 = 15;
pub const SETVAL: u32 = 16;
pub const SETALL: u32 = 17;
pub const SEM_STAT: u32 = 18;
pub const SEM_INFO: u32 = 19;
pub const SEM_STAT_ANY: u32 = 20;
pub const SEM_UNDO: u32 = 0x1000;
/// Largest value of a semaphore.
pub const SEMVMX: i32 = 32767;
/// Largest adjustment at exit.
pub const SEMAEM: i32 = SEMVMX;
/// `sizeof(struct sem_undo)`, as Linux has always told it.
pub const SEMUSZ: i32 = 20;

pub const MSG_STAT: u32 = 11;
pub const MSG_INFO: u32 = 12;
pub const MSG_STAT_ANY: u32 = 13;
pub const MSG_NOERROR: u32 = 0o10000;
pub const MSG_EXCEPT: u32 = 0o20000;
pub const MSG_COPY: u32 = 0o40000;
pub const MSGSSZ: i32 = 16;
pub const MSGPOOL: i32 = 32000 * 16384 / 1024;
pub const MSGMNB: i32 = 16384;

/// `struct ipc64_perm`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Ipc64Perm {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    pub seq: u16,
    pub pad: [u16; 3],
    pub unused: [u64; 2],
}

/// `struct shmid64_ds`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Shmid64Ds {
    pub perm: Ipc64Perm,
    pub segsz: u64,
    pub atime: i64,
    pub dtime: i64,
    pub ctime: i64,
    pub cpid: u32,
    pub lpid: u32,
    pub nattch: u64,
    pub unused: [u64; 2],
}

/// `struct shminfo64`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Shminfo64 {
    pub shmmax: u64,
    pub shmmin: u64,
    pub shmmni: u64,
    pub shmseg: u64,
    pub shmall: u64,
    pub unused: [u64; 4],
}

/// `struct shm_info`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct ShmInfo {
    pub used_ids: u32,
    pub pad: u32,
    pub shm_tot: u64,
    pub shm_rss: u64,
    pub shm_swp: u64,
    pub swap_attempts: u64,
    pub swap_successes: u64,
}

/// `struct semid64_ds`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Semid64Ds {
    pub perm: Ipc64Perm,
    pub otime: i64,
    pub ctime: i64,
    pub nsems: u64,
    pub unused: [u64; 2],
}

/// `struct seminfo`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Seminfo {
    pub semmap: i32,
    pub semmni: i32,
    pub semmns: i32,
    pub semmnu: i32,
    pub semmsl: i32,
    pub semopm: i32,
    pub semume: i32,
    pub semusz: i32,
    pub semvmx: i32,
    pub semaem: i32,
}

/// `struct sembuf`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Sembuf {
    pub num: u16,
    pub op: i16,
    pub flags: i16,
}

impl Sembuf {
    /// True if `flag` is set.
    pub fn has(&self, flag: u32) -> bool {
        u32::from(self.flags as u16) & flag != 0
    }
}

/// `struct msqid64_ds`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Msqid64Ds {
    pub perm: Ipc64Perm,
    pub stime: i64,
    pub rtime: i64,
    pub ctime: i64,
    pub cbytes: u64,
    pub qnum: u64,
    pub qbytes: u64,
    pub lspid: u32,
    pub lrpid: u32,
    pub unused: [u64; 2],
}

/// `struct msginfo`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Msginfo {
    pub msgpool: i32,
    pub msgmap: i32,
    pub msgmax: i32,
    pub msgmnb: i32,
    pub msgmni: i32,
    pub msgssz: i32,
    pub msgtql: i32,
    pub msgseg: u32,
}

pod!(Ipc64Perm, Shmid64Ds, Shminfo64, ShmInfo, Semid64Ds, Seminfo, Sembuf, Msqid64Ds, Msginfo);

const _: () = assert!(
    size_of::<Ipc64Perm>() == 48
        && size_of::<Shmid64Ds>() == 112
        && size_of::<Semid64Ds>() == 88
        && size_of::<Msqid64Ds>() == 120
        && size_of::<Sembuf>() == 6,
    "the sizes of asm-generic/*buf.h on a 64-bit machine"
);

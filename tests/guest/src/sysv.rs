//! System V IPC by its raw system calls and structures, as the kernel has them: C libraries translate
//! some of both.
#![allow(missing_docs, reason = "the names are sysvipc(7)'s")]
#![allow(
    clippy::not_unsafe_ptr_arg_deref,
    reason = "the kernel checks the pointers, not this code"
)]

use libc::{c_long, syscall};

pub const PRIVATE: i32 = 0;
pub const CREAT: i32 = 0o1000;
pub const EXCL: i32 = 0o2000;
pub const NOWAIT: i32 = 0o4000;
pub const RMID: i32 = 0;
pub const SET: i32 = 1;
pub const STAT: i32 = 2;
pub const INFO: i32 = 3;

/// `struct ipc64_perm`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Perm {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    pub seq: u16,
    pad: [u16; 3],
    unused: [u64; 2],
}

/// `struct shmid64_ds`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Shm {
    pub perm: Perm,
    pub segsz: u64,
    pub atime: i64,
    pub dtime: i64,
    pub ctime: i64,
    pub cpid: i32,
    pub lpid: i32,
    pub nattch: u64,
    unused: [u64; 2],
}

/// `struct semid64_ds`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Sem {
    pub perm: Perm,
    pub otime: i64,
    pub ctime: i64,
    pub nsems: u64,
    unused: [u64; 2],
}

/// `struct msqid64_ds`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Msq {
    pub perm: Perm,
    pub stime: i64,
    pub rtime: i64,
    pub ctime: i64,
    pub cbytes: u64,
    pub qnum: u64,
    pub qbytes: u64,
    pub lspid: i32,
    pub lrpid: i32,
    unused: [u64; 2],
}

/// `struct sembuf`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Op {
    pub num: u16,
    pub op: i16,
    pub flags: i16,
}

/// One operation.
pub const fn op(num: u16, op: i16, flags: i32) -> Op {
    Op { num, op, flags: flags as i16 }
}

pub fn shmget(key: i32, size: usize, flags: i32) -> c_long {
    // SAFETY: no pointers.
    unsafe { syscall(libc::SYS_shmget, key, size, flags) }
}

pub fn shmat(id: c_long, addr: usize, flags: i32) -> c_long {
    // SAFETY: tests attach where nothing else is.
    unsafe { syscall(libc::SYS_shmat, id, addr, flags) }
}

pub fn shmdt(addr: c_long) -> c_long {
    // SAFETY: tests detach what they attached.
    unsafe { syscall(libc::SYS_shmdt, addr) }
}

pub fn shmctl<T>(id: c_long, cmd: i32, buf: *mut T) -> c_long {
    // SAFETY: the buffer is of the command's type, or a bad one on purpose.
    unsafe { syscall(libc::SYS_shmctl, id, cmd, buf) }
}

pub fn shmstat(id: c_long) -> Shm {
    let mut stat = Shm::default();
    crate::ok(shmctl(id, STAT, &mut stat));
    stat
}

pub fn semget(key: i32, n: i32, flags: i32) -> c_long {
    // SAFETY: no pointers.
    unsafe { syscall(libc::SYS_semget, key, n, flags) }
}

pub fn semctl(id: c_long, num: i32, cmd: i32, arg: usize) -> c_long {
    // SAFETY: the argument is of the command's type, or a bad one on purpose.
    unsafe { syscall(libc::SYS_semctl, id, num, cmd, arg) }
}

pub fn semop(id: c_long, ops: &[Op]) -> c_long {
    // SAFETY: the operations are valid.
    unsafe { syscall(libc::SYS_semtimedop, id, ops.as_ptr(), ops.len(), 0) }
}

pub fn semtimedop(id: c_long, ops: &[Op], seconds: f64) -> c_long {
    let time = crate::timespec(seconds);
    // SAFETY: the operations and the time are valid.
    unsafe { syscall(libc::SYS_semtimedop, id, ops.as_ptr(), ops.len(), &raw const time) }
}

pub fn msgget(key: i32, flags: i32) -> c_long {
    // SAFETY: no pointers.
    unsafe { syscall(libc::SYS_msgget, key, flags) }
}

pub fn msgctl<T>(id: c_long, cmd: i32, buf: *mut T) -> c_long {
    // SAFETY: the buffer is of the command's type, or a bad one on purpose.
    unsafe { syscall(libc::SYS_msgctl, id, cmd, buf) }
}

pub fn msgsnd(id: c_long, kind: i64, text: &[u8], flags: i32) -> c_long {
    let mut message = kind.to_ne_bytes().to_vec();
    message.extend_from_slice(text);
    // SAFETY: the message is valid for its length.
    unsafe { syscall(libc::SYS_msgsnd, id, message.as_ptr(), text.len(), flags) }
}

/// A message of at most `max` bytes; the type and the text.
pub fn msgrcv(id: c_long, max: usize, kind: i64, flags: i32) -> Result<(i64, Vec<u8>), i32> {
    let mut message = vec![0_u8; 8 + max];
    // SAFETY: the buffer has room for the type and `max` bytes.
    let n = unsafe { syscall(libc::SYS_msgrcv, id, message.as_mut_ptr(), max, kind, flags) };
    if n < 0 {
        return Err(crate::errno());
    }
    let kind = i64::from_ne_bytes(message[..8].try_into().unwrap_or_default());
    message.truncate(8 + n as usize);
    Ok((kind, message.split_off(8)))
}

/// Becomes a user without rights, for the rest of this (child) process.
pub fn become_user(uid: u32) {
    // SAFETY: plain calls.
    unsafe {
        crate::ok(libc::setgroups(0, std::ptr::null()));
        crate::ok(libc::setresgid(uid, uid, uid));
        crate::ok(libc::setresuid(uid, uid, uid));
    }
}

/// Waits until `done` is true.
pub fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

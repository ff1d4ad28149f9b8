//! [`SigInfo`]: what `siginfo_t` tells about one signal.

use super::{SIGBUS, SIGCHLD, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};

/// `si_code`: sent by kill(2).
pub const SI_USER: i32 = 0;
/// `si_code`: sent by the kernel.
pub const SI_KERNEL: i32 = 0x80;
/// `si_code`: sent by sigqueue(3).
pub const SI_QUEUE: i32 = -1;
/// `si_code`: a POSIX timer expired.
pub const SI_TIMER: i32 = -2;
/// `si_code`: a message came to a queue.
pub const SI_MESGQ: i32 = -3;
/// `si_code`: I/O is possible, where the signal's own codes mean something else.
pub const SI_SIGIO: i32 = -5;
/// `si_code`: sent by tkill(2).
pub const SI_TKILL: i32 = -6;

/// The first 48 bytes of `siginfo_t`; the rest is zero for every kind of signal.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, belljar_abi::Described)]
pub struct SigInfo {
    /// Signal number.
    pub signo: i32,
    /// Always 0 but for what a sender queued itself.
    pub errno: i32,
    /// Why it was sent.
    pub code: i32,
    pad: i32,
    /// The union, as words.
    pub fields: [u64; 4],
}

const _: () = assert!(size_of::<SigInfo>() == 48, "as much of siginfo_t as Linux keeps");

/// The signals whose positive codes below [`SI_KERNEL`] mean something of their own (sigaction(2)).
const HAVE_CODES: [i32; 7] = [SIGILL, SIGFPE, SIGSEGV, SIGBUS, SIGTRAP, SIGCHLD, SIGSYS];

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

impl SigInfo {
    /// Bytes of `siginfo_t` in user memory.
    pub const USER_SIZE: usize = 128;

    fn new(signo: i32, code: i32, fields: [u64; 4]) -> Self {
        Self { signo, errno: 0, code, pad: 0, fields }
    }

    /// Sent by the kernel itself, about nothing in particular.
    pub fn kernel(signo: i32) -> Self {
        Self::new(signo, SI_KERNEL, [0; 4])
    }

    /// Sent by a process; `code` is [`SI_USER`] or [`SI_TKILL`].
    pub fn user(signo: i32, code: i32, pid: u32, uid: u32) -> Self {
        Self::new(signo, code, [pair(pid, uid), 0, 0, 0])
    }

    /// A fault at an address.
    pub fn fault(signo: i32, code: i32, addr: u64) -> Self {
        Self::new(signo, code, [addr, 0, 0, 0])
    }

    /// A child changed its state (times in clock ticks of 1/100 s).
    pub fn child(code: i32, pid: u32, uid: u32, status: i32, utime: u64, stime: u64) -> Self {
        Self::new(SIGCHLD, code, [pair(pid, uid), u64::from(status as u32), utime, stime])
    }

    /// A POSIX timer expired.
    pub fn timer(signo: i32, id: i32, overrun: i32, value: u64) -> Self {
        Self::new(signo, SI_TIMER, [pair(id as u32, overrun as u32), value, 0, 0])
    }

    /// A message came to an empty queue (mq_notify(3)); `pid` and `uid` sent it.
    pub fn message(signo: i32, pid: u32, uid: u32, value: u64) -> Self {
        Self::new(signo, SI_MESGQ, [pair(pid, uid), value, 0, 0])
    }

    /// I/O is possible (fcntl(2), `F_SETSIG`): why (`POLL_IN` and so on), events of poll(2), descriptor.
    pub fn io(signo: i32, reason: i32, band: u32, fd: i32) -> Self {
        let code = if HAVE_CODES.contains(&signo) { SI_SIGIO } else { reason };
        Self::new(signo, code, [u64::from(band), u64::from(fd as u32), 0, 0])
    }

    /// True if I/O is possible: the signal has `si_band` and `si_fd`.
    pub fn is_io(&self) -> bool {
        self.code == SI_SIGIO || (1..=6).contains(&self.code) && !HAVE_CODES.contains(&self.signo)
    }

    /// A system call that seccomp refused.
    pub fn sys(addr: u64, syscall: i32, arch: u32, data: i32) -> Self {
        let mut info = Self::new(SIGSYS, 1, [addr, pair(syscall as u32, arch), 0, 0]);
        info.errno = data;
        info
    }

    /// `si_timerid` of [`SI_TIMER`].
    pub fn timer_id(&self) -> i32 {
        self.fields[0] as u32 as i32
    }

    /// Lets a waiting [`SI_TIMER`] stand for `n` expirations more; returns `si_overrun`.
    pub fn add_overrun(&mut self, n: u64) -> u64 {
        let overrun = (self.fields[0] >> 32).saturating_add(n).min(i32::MAX as u64);
        self.fields[0] = pair(self.fields[0] as u32, overrun as u32);
        overrun
    }

    /// `si_pid` of the kinds that have one.
    pub fn pid(&self) -> u32 {
        self.fields[0] as u32
    }

    /// `si_uid` of the kinds that have one.
    pub fn uid(&self) -> u32 {
        (self.fields[0] >> 32) as u32
    }

    /// True if a program sent it; the kernel's timers look like programs otherwise.
    pub fn is_from_user(&self) -> bool {
        self.code <= 0 && ![SI_TIMER, SI_SIGIO].contains(&self.code)
    }

    /// True if `si_pid` and `si_uid` say who sent it.
    pub fn has_sender(&self) -> bool {
        self.is_from_user()
    }

    /// Sets `si_pid` and `si_uid`.
    pub fn set_sender(&mut self, pid: u32, uid: u32) {
        self.fields[0] = pair(pid, uid);
    }

    /// True if the kernel sent it.
    pub fn from_kernel(&self) -> bool {
        self.code > 0
    }

    /// The bytes of `siginfo_t`.
    pub fn to_user(&self) -> [u8; Self::USER_SIZE] {
        let mut bytes = [0; Self::USER_SIZE];
        for (i, word) in [self.signo, self.errno, self.code].iter().enumerate() {
            bytes[i * 4..][..4].copy_from_slice(&word.to_le_bytes());
        }
        for (i, word) in self.fields.iter().enumerate() {
            bytes[16 + i * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads the bytes of `siginfo_t`.
    pub fn from_user(bytes: &[u8; Self::USER_SIZE]) -> Self {
        let word = |at: usize| {
            i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let field = |i: usize| pair(word(16 + i * 8) as u32, word(20 + i * 8) as u32);
        Self::new(word(0), word(8), [field(0), field(1), field(2), field(3)]).with_errno(word(4))
    }

    fn with_errno(mut self, errno: i32) -> Self {
        self.errno = errno;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_bytes_round_trip() {
        let info = SigInfo::child(1, 42, 1000, -7, 3, 4);
        assert_eq!(SigInfo::from_user(&info.to_user()), info);
        assert_eq!(info.to_user()[16..20], 42_u32.to_le_bytes(), "si_pid lies at offset 16");
        assert_eq!(info.to_user()[24..28], (-7_i32).to_le_bytes(), "si_status lies at offset 24");
    }
}

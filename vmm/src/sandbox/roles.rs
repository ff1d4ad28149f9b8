//! The lists: which system calls each role makes, and with which arguments.
//!
//! They are kept as short as the code and the C library allow. What only x86-64 has, its C library still
//! uses in the place of the newer call that is listed too.

use kvm_bindings::{kvm_ioeventfd, kvm_irq_level, kvm_one_reg};
use syscalls::Sysno;

use super::Role;

/// For which arguments a call is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Allowed {
    /// Any.
    Always,
    /// The second is this: a command of ioctl or fcntl.
    Command(u64),
    /// The first is this.
    First(u64),
    /// The first has these bits.
    FirstHas(u64),
    /// The third lacks these bits.
    ThirdLacks(u64),
}

pub(super) type Entry = (Sysno, Allowed);

/// No memory that holds code is ever made.
const CODE: u64 = libc::PROT_EXEC as u64;
/// A thread, not a process.
const THREAD: u64 = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;

/// KVM's commands that are used once the machine stands (Linux's uapi/linux/kvm.h).
const KVM: u32 = 0xae;
const KVM_RUN: u64 = libc::_IO(KVM, 0x80);
const KVM_IRQ_LINE: u64 = libc::_IOW::<kvm_irq_level>(KVM, 0x61);
const KVM_IOEVENTFD: u64 = libc::_IOW::<kvm_ioeventfd>(KVM, 0x79);
const KVM_GET_ONE_REG: u64 = libc::_IOW::<kvm_one_reg>(KVM, 0xab);
const KVM_SET_ONE_REG: u64 = libc::_IOW::<kvm_one_reg>(KVM, 0xac);

/// What every thread needs to run, to allocate, to wait for another and to end.
pub(super) const BASE: &[Entry] = &[
    (Sysno::read, Allowed::Always),
    (Sysno::write, Allowed::Always),
    // A Unix stream of the standard library.
    (Sysno::recvfrom, Allowed::Always),
    (Sysno::sendto, Allowed::Always),
    (Sysno::close, Allowed::Always),
    // The standard library's check before it closes, in builds with assertions.
    (Sysno::fcntl, Allowed::Command(libc::F_GETFD as u64)),
    (Sysno::futex, Allowed::Always),
    (Sysno::mmap, Allowed::ThirdLacks(CODE)),
    (Sysno::mprotect, Allowed::ThirdLacks(CODE)),
    (Sysno::munmap, Allowed::Always),
    (Sysno::mremap, Allowed::Always),
    (Sysno::madvise, Allowed::Always),
    (Sysno::brk, Allowed::Always),
    (Sysno::rt_sigprocmask, Allowed::Always),
    // abort(3) gives SIGABRT its default action.
    (Sysno::rt_sigaction, Allowed::Always),
    (Sysno::rt_sigreturn, Allowed::Always),
    (Sysno::sigaltstack, Allowed::Always),
    (Sysno::restart_syscall, Allowed::Always),
    (Sysno::sched_yield, Allowed::Always),
    (Sysno::clock_gettime, Allowed::Always),
    (Sysno::clock_nanosleep, Allowed::Always),
    (Sysno::getpid, Allowed::Always),
    (Sysno::gettid, Allowed::Always),
    // A signal to a thread of ours: a kick of a vCPU, abort(3).
    (Sysno::tgkill, Allowed::Always),
    (Sysno::getrandom, Allowed::Always),
    (Sysno::rseq, Allowed::Always),
    (Sysno::set_robust_list, Allowed::Always),
    (Sysno::prctl, Allowed::First(libc::PR_SET_NAME as u64)),
    (Sysno::prctl, Allowed::First(libc::PR_GET_NAME as u64)),
    (Sysno::exit, Allowed::Always),
    (Sysno::exit_group, Allowed::Always),
];

const VCPU: &[Entry] = &[
    (Sysno::ioctl, Allowed::Command(KVM_RUN)),
    (Sysno::ioctl, Allowed::Command(KVM_IRQ_LINE)),
    // Where a CPU was that cannot go on.
    (Sysno::ioctl, Allowed::Command(KVM_GET_ONE_REG)),
    // What a register write of the guest makes a device do at once.
    (Sysno::ioctl, Allowed::Command(libc::TUNSETOFFLOAD)),
];

const DEVICES: &[Entry] = &[
    (Sysno::epoll_pwait, Allowed::Always),
    (Sysno::epoll_ctl, Allowed::Always),
    (Sysno::ppoll, Allowed::Always),
    (Sysno::readv, Allowed::Always),
    (Sysno::writev, Allowed::Always),
    (Sysno::preadv, Allowed::Always),
    (Sysno::pwritev, Allowed::Always),
    (Sysno::pwrite64, Allowed::Always),
    (Sysno::fallocate, Allowed::Always),
    (Sysno::fdatasync, Allowed::Always),
    (Sysno::ioctl, Allowed::Command(KVM_IOEVENTFD)),
    (Sysno::ioctl, Allowed::Command(KVM_IRQ_LINE)),
    (Sysno::ioctl, Allowed::Command(libc::TUNSETOFFLOAD)),
    #[cfg(target_arch = "x86_64")]
    (Sysno::epoll_wait, Allowed::Always),
    #[cfg(target_arch = "x86_64")]
    (Sysno::poll, Allowed::Always),
];

const PUMP: &[Entry] = &[
    (Sysno::ppoll, Allowed::Always),
    // What the guest's kernel says of its console, in RAM that is a child's.
    (Sysno::pread64, Allowed::Always),
    (Sysno::ioctl, Allowed::Command(libc::TCGETS)),
    #[cfg(target_arch = "x86_64")]
    (Sysno::poll, Allowed::Always),
];

/// QEMU's monitor: messages, and how the child ended.
const MONITOR: &[Entry] = &[
    (Sysno::readv, Allowed::Always),
    (Sysno::writev, Allowed::Always),
    (Sysno::lseek, Allowed::Always),
    (Sysno::statx, Allowed::Always),
    (Sysno::wait4, Allowed::Always),
    (Sysno::waitid, Allowed::Always),
    (Sysno::kill, Allowed::Always),
    (Sysno::pidfd_send_signal, Allowed::Always),
];

/// Files, of which Landlock says which ones; sockets that exist already; threads.
const API: &[Entry] = &[
    (Sysno::accept4, Allowed::Always),
    (Sysno::recvmsg, Allowed::Always),
    (Sysno::sendmsg, Allowed::Always),
    (Sysno::shutdown, Allowed::Always),
    (Sysno::getsockname, Allowed::Always),
    (Sysno::getpeername, Allowed::Always),
    (Sysno::ppoll, Allowed::Always),
    (Sysno::readv, Allowed::Always),
    (Sysno::writev, Allowed::Always),
    (Sysno::pread64, Allowed::Always),
    (Sysno::pwrite64, Allowed::Always),
    (Sysno::preadv, Allowed::Always),
    (Sysno::pwritev, Allowed::Always),
    (Sysno::lseek, Allowed::Always),
    (Sysno::openat, Allowed::Always),
    (Sysno::statx, Allowed::Always),
    (Sysno::fstat, Allowed::Always),
    (Sysno::fstatfs, Allowed::Always),
    (Sysno::faccessat, Allowed::Always),
    (Sysno::readlinkat, Allowed::Always),
    (Sysno::getcwd, Allowed::Always),
    (Sysno::getdents64, Allowed::Always),
    (Sysno::mkdirat, Allowed::Always),
    (Sysno::unlinkat, Allowed::Always),
    (Sysno::renameat2, Allowed::Always),
    (Sysno::renameat, Allowed::Always),
    (Sysno::linkat, Allowed::Always),
    (Sysno::ftruncate, Allowed::Always),
    (Sysno::fallocate, Allowed::Always),
    (Sysno::copy_file_range, Allowed::Always),
    (Sysno::sendfile, Allowed::Always),
    (Sysno::fsync, Allowed::Always),
    (Sysno::fdatasync, Allowed::Always),
    (Sysno::flock, Allowed::Always),
    (Sysno::fchmod, Allowed::Always),
    (Sysno::fchmodat, Allowed::Always),
    (Sysno::umask, Allowed::Always),
    (Sysno::dup, Allowed::Always),
    (Sysno::fcntl, Allowed::Command(libc::F_GETFL as u64)),
    (Sysno::fcntl, Allowed::Command(libc::F_SETFL as u64)),
    (Sysno::fcntl, Allowed::Command(libc::F_SETFD as u64)),
    (Sysno::fcntl, Allowed::Command(libc::F_DUPFD_CLOEXEC as u64)),
    (Sysno::ioctl, Allowed::Command(libc::FIONBIO)),
    // The guest's clock, and the registers of its CPUs.
    (Sysno::ioctl, Allowed::Command(KVM_GET_ONE_REG)),
    (Sysno::ioctl, Allowed::Command(KVM_SET_ONE_REG)),
    (Sysno::memfd_create, Allowed::Always),
    (Sysno::eventfd2, Allowed::Always),
    (Sysno::pipe2, Allowed::Always),
    (Sysno::getuid, Allowed::Always),
    (Sysno::geteuid, Allowed::Always),
    (Sysno::uname, Allowed::Always),
    (Sysno::clone, Allowed::FirstHas(THREAD)),
    (Sysno::sched_getaffinity, Allowed::Always),
    (Sysno::prlimit64, Allowed::Always),
    (Sysno::landlock_create_ruleset, Allowed::Always),
    (Sysno::landlock_add_rule, Allowed::Always),
    (Sysno::landlock_restrict_self, Allowed::Always),
    (Sysno::prctl, Allowed::First(libc::PR_SET_NO_NEW_PRIVS as u64)),
    // The child QEMU, if a request ends the machine.
    (Sysno::wait4, Allowed::Always),
    (Sysno::waitid, Allowed::Always),
    (Sysno::kill, Allowed::Always),
    (Sysno::pidfd_send_signal, Allowed::Always),
    #[cfg(target_arch = "x86_64")]
    (Sysno::poll, Allowed::Always),
    #[cfg(target_arch = "x86_64")]
    (Sysno::open, Allowed::Always),
    #[cfg(target_arch = "x86_64")]
    (Sysno::stat, Allowed::Always),
    #[cfg(target_arch = "x86_64")]
    (Sysno::lstat, Allowed::Always),
    #[cfg(target_arch = "x86_64")]
    (Sysno::newfstatat, Allowed::Always),
    #[cfg(target_arch = "aarch64")]
    (Sysno::fstatat, Allowed::Always),
    #[cfg(target_arch = "x86_64")]
    (Sysno::readlink, Allowed::Always),
    #[cfg(target_arch = "x86_64")]
    (Sysno::access, Allowed::Always),
    #[cfg(target_arch = "x86_64")]
    (Sysno::mkdir, Allowed::Always),
    #[cfg(target_arch = "x86_64")]
    (Sysno::rmdir, Allowed::Always),
    #[cfg(target_arch = "x86_64")]
    (Sysno::unlink, Allowed::Always),
    #[cfg(target_arch = "x86_64")]
    (Sysno::rename, Allowed::Always),
];

/// Beside what the API does: the terminal, and threads that confine themselves further.
const SUPERVISOR: &[Entry] = &[
    (Sysno::seccomp, Allowed::First(libc::SECCOMP_SET_MODE_FILTER as u64)),
    (Sysno::ioctl, Allowed::Command(libc::TCGETS)),
    (Sysno::ioctl, Allowed::Command(libc::TCGETS2)),
    (Sysno::ioctl, Allowed::Command(libc::TCSETS2)),
    (Sysno::ioctl, Allowed::Command(libc::TCSETSW2)),
    (Sysno::ioctl, Allowed::Command(libc::TCSETSF2)),
    (Sysno::ioctl, Allowed::Command(libc::TIOCGWINSZ)),
];

/// What `role` makes beside [`BASE`].
pub(super) fn of(role: Role) -> &'static [&'static [Entry]] {
    match role {
        Role::Vcpu => &[VCPU],
        Role::Devices => &[DEVICES],
        Role::Pump => &[PUMP],
        Role::Monitor => &[MONITOR],
        Role::Api => &[API],
        Role::Supervisor => &[API, SUPERVISOR],
    }
}

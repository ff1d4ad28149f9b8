//! seccomp(2) for test programs: filters, and installing them.

use std::io::Error;

/// An instruction.
pub type Insn = libc::sock_filter;

/// `BPF_LD | BPF_W | BPF_ABS`: loads a word of `struct seccomp_data`.
pub const LOAD: u16 = 0x20;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
pub const JUMP_EQ: u16 = 0x15;
/// `BPF_RET | BPF_K`.
pub const RETURN: u16 = 0x06;
/// `BPF_RET | BPF_A`.
pub const RETURN_A: u16 = 0x16;

/// Where the number of the call is.
pub const NR: u32 = 0;
/// Where the architecture is.
pub const ARCH: u32 = 4;
/// `AUDIT_ARCH_AARCH64`.
pub const AARCH64: u32 = 0xc000_00b7;

/// Where the lower half of an argument is.
pub const fn arg(n: u32) -> u32 {
    16 + 8 * n
}

/// An instruction that does not jump.
pub const fn stmt(code: u16, k: u32) -> Insn {
    Insn { code, jt: 0, jf: 0, k }
}

/// One that does.
pub const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Insn {
    Insn { code, jt, jf, k }
}

/// A filter that answers each of these calls with a word, and all others with another.
pub fn rules(calls: &[(i64, u32)], otherwise: u32) -> Vec<Insn> {
    let mut filter = vec![stmt(LOAD, NR)];
    for (call, word) in calls {
        filter.push(jump(JUMP_EQ, *call as u32, 0, 1));
        filter.push(stmt(RETURN, *word));
    }
    filter.push(stmt(RETURN, otherwise));
    filter
}

/// A filter that answers one call and allows all others.
pub fn rule(call: i64, word: u32) -> Vec<Insn> {
    rules(&[(call, word)], libc::SECCOMP_RET_ALLOW)
}

/// The system call itself: what it returns, or the error number.
#[allow(clippy::not_unsafe_ptr_arg_deref, reason = "the kernel checks the address")]
pub fn seccomp(operation: u32, flags: u64, args: *const libc::c_void) -> Result<i64, i32> {
    // SAFETY: each caller passes what the operation asks for.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, args) };
    if result < 0 { Err(Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(result) }
}

/// Installs a filter.
pub fn install(flags: u64, filter: &[Insn]) -> Result<i64, i32> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    seccomp(libc::SECCOMP_SET_MODE_FILTER, flags, (&raw const program).cast())
}

/// exec grants nothing from now on, so that anybody may install filters.
pub fn no_new_privs() {
    // SAFETY: a plain call.
    crate::check_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
}

/// A plain call by number, as it comes back: its result, or the error number negated.
pub fn call(number: i64, args: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = args;
    // SAFETY: each caller passes what the call asks for.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 {
        -i64::from(Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        result
    }
}

/// A field of /proc/self/status.
pub fn status(field: &str) -> String {
    let text = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_default().trim().to_owned()
}

//! From a role's list of system calls to the programs that the host's kernel runs at each of them.
//!
//! One program a role: first it turns away, with an error that the C library expects, what that only tries and
//! has a substitute for; then it lets through what is listed and traps the rest. A compiled filter has one answer
//! to what it lists, so the first part is put before it by hand: the host's kernel translates and checks each
//! program that a thread loads, and threads are made while a guest waits for its start.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};
use syscalls::Sysno;

use super::Role;
use super::roles::{self, Allowed};

#[cfg(target_arch = "x86_64")]
const TARGET: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const TARGET: TargetArch = TargetArch::aarch64;

/// The program of `role`.
pub(super) fn program(role: Role) -> &'static BpfProgram {
    // Compiled when first needed: most commands confine nobody.
    static ROLES: [OnceLock<BpfProgram>; 6] = [const { OnceLock::new() }; 6];
    ROLES[role as usize].get_or_init(|| compile(role))
}

fn compile(role: Role) -> BpfProgram {
    let mut rules = BTreeMap::<i64, Vec<SeccompRule>>::new();
    let mut free = vec![];
    for &(call, allowed) in roles::BASE.iter().chain(roles::of(role).iter().copied().flatten()) {
        let number = i64::from(call.id());
        match condition(allowed) {
            Some(condition) => {
                let rule = SeccompRule::new(vec![condition]).expect("a rule with a condition");
                rules.entry(number).or_default().push(rule);
            }
            None => free.push(number),
        }
    }
    let opens_files = free.contains(&i64::from(Sysno::openat.id()));
    // No rule at all means: whatever the arguments.
    rules.extend(free.into_iter().map(|number| (number, vec![])));
    // It fails for two equal actions and for more instructions than the kernel takes: both are known
    // when this is compiled, and every role's is compiled by a test.
    let (otherwise, listed) = (SeccompAction::Trap, SeccompAction::Allow);
    let filter = SeccompFilter::new(rules, otherwise, listed, TARGET).expect("two actions");
    let filter: BpfProgram = filter.try_into().expect("a program of a size that the kernel takes");
    // clone3's arguments are in memory, where no filter can see them; clone's are not.
    let mut program = turn_away(Sysno::clone3, libc::ENOSYS).to_vec();
    if !opens_files {
        // malloc(3) counts the CPUs and reads a setting where it can; whichever thread comes upon it.
        program.extend(turn_away(Sysno::openat, libc::EACCES));
    }
    program.extend(filter);
    program
}

/// Instructions that answer `call` with `errno` and leave other calls to those behind them.
fn turn_away(call: Sysno, errno: i32) -> [sock_filter; 3] {
    /// Where the call's number is in `struct seccomp_data` (seccomp(2)).
    const NUMBER: u32 = 0;
    let instruction = |code: u32, jf, k| sock_filter { code: code as u16, jt: 0, jf, k };
    [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, NUMBER),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call.id() as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
    ]
}

fn condition(allowed: Allowed) -> Option<SeccompCondition> {
    use SeccompCmpArgLen::{Dword, Qword};
    let (index, length, operator, value) = match allowed {
        Allowed::Always => return None,
        Allowed::Command(command) => (1, Dword, SeccompCmpOp::Eq, command),
        Allowed::First(value) => (0, Dword, SeccompCmpOp::Eq, value),
        Allowed::FirstHas(bits) => (0, Qword, SeccompCmpOp::MaskedEq(bits), bits),
        Allowed::ThirdLacks(bits) => (2, Qword, SeccompCmpOp::MaskedEq(bits), 0),
    };
    Some(SeccompCondition::new(index, length, operator, value).expect("an index below six"))
}

//! From a role's list of system calls to the programs that the host's kernel runs at each of them.
//!
//! Three programs a role: two turn away, with an error that the C library expects, what it only tries and
//! has a substitute for; the last lets through what is listed and traps the rest. The kernel runs all
//! programs of a thread and takes the strictest answer, in which a trap is stricter than an error.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use syscalls::Sysno;

use super::Role;
use super::roles::{self, Allowed};

#[cfg(target_arch = "x86_64")]
const TARGET: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const TARGET: TargetArch = TargetArch::aarch64;

/// The programs of `role`, in the order in which they must be loaded.
pub(super) fn programs(role: Role) -> &'static [BpfProgram] {
    // Compiled when first needed: most commands confine nobody.
    static ROLES: [OnceLock<Vec<BpfProgram>>; 6] = [const { OnceLock::new() }; 6];
    ROLES[role as usize].get_or_init(|| compile(role))
}

fn compile(role: Role) -> Vec<BpfProgram> {
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
    let mut turn_away = |call: Sysno, errno: i32| {
        rules.insert(i64::from(call.id()), vec![]);
        let calls = BTreeMap::from([(i64::from(call.id()), vec![])]);
        program(calls, SeccompAction::Allow, SeccompAction::Errno(errno as u32))
    };
    // clone3's arguments are in memory, where no filter can see them; clone's are not.
    let mut programs = vec![turn_away(Sysno::clone3, libc::ENOSYS)];
    if !opens_files {
        // malloc(3) counts the CPUs and reads a setting where it can; whichever thread comes upon it.
        programs.push(turn_away(Sysno::openat, libc::EACCES));
    }
    // Last: it does not let another program be loaded.
    programs.push(program(rules, SeccompAction::Trap, SeccompAction::Allow));
    programs
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

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> BpfProgram {
    // It fails for two equal actions and for more instructions than the kernel takes: both are known
    // when this is compiled, and every role's is compiled by a test.
    let filter = SeccompFilter::new(rules, otherwise, listed, TARGET).expect("two actions");
    filter.try_into().expect("a program of a size that the kernel takes")
}

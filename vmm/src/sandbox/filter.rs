//! From a role's list of system calls to the programs that the host's kernel runs at each of them.
//!
//! One program a role: first it turns away, with an error that the C library expects, what that only tries and
//! has a substitute for; then it lets through what is listed and traps the rest. A compiled filter has one answer
//! to what it lists, so the first part is put before it by hand.
//!
//! When a thread loads a program, the host's kernel runs it for every system call that there is, to know which
//! ones it always allows; and a compiled filter compares with one number after the other. Threads are made while a
//! guest waits for its start, so the list is cut into a few filters, and the number decides at the beginning which
//! of them runs.

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
    let rules = rules(role);
    // clone3's arguments are in memory, where no filter can see them; clone's are not.
    let mut program = turn_away(Sysno::clone3, libc::ENOSYS).to_vec();
    if !rules.contains_key(&i64::from(Sysno::openat.id())) {
        // malloc(3) counts the CPUs and reads a setting where it can; whichever thread comes upon it.
        program.extend(turn_away(Sysno::openat, libc::EACCES));
    }
    program.extend(choose(rules));
    program
}

/// What `role` may call, and with which arguments.
fn rules(role: Role) -> BTreeMap<i64, Vec<SeccompRule>> {
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
    // No rule at all means: whatever the arguments.
    rules.extend(free.into_iter().map(|number| (number, vec![])));
    rules
}

/// The filter of `rules` as several filters for a part of the numbers each, and before them what chooses one.
fn choose(mut rules: BTreeMap<i64, Vec<SeccompRule>>) -> BpfProgram {
    /// About the root of the number of rules: as many comparisons to find a part as there are in it.
    const PART: usize = 10;
    let mut parts = vec![];
    while !rules.is_empty() {
        let behind = rules.keys().nth(PART).copied();
        let rest = behind.map(|number| rules.split_off(&number)).unwrap_or_default();
        parts.push((behind, filter(std::mem::replace(&mut rules, rest))));
    }
    let mut program = vec![load_number()];
    let at_least = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    // Of a part, counted from the first one's.
    let mut start = 0;
    for (index, (behind, part)) in parts.iter().enumerate() {
        if let Some(number) = behind {
            program.push(instruction(at_least, (1, 0), *number as u32));
        }
        // Over the rest of the choice: two instructions a part, but one for the last.
        let left = (2 * (parts.len() - 1 - index)).saturating_sub(1);
        program.push(instruction(libc::BPF_JMP | libc::BPF_JA, (0, 0), (left + start) as u32));
        start += part.len();
    }
    program.extend(parts.into_iter().flat_map(|(_, part)| part));
    program
}

fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>) -> BpfProgram {
    // It fails for two equal actions and for more instructions than the kernel takes: both are known
    // when this is compiled, and every role's is compiled by a test.
    let (otherwise, listed) = (SeccompAction::Trap, SeccompAction::Allow);
    let filter = SeccompFilter::new(rules, otherwise, listed, TARGET).expect("two actions");
    filter.try_into().expect("a program of a size that the kernel takes")
}

/// Instructions that answer `call` with `errno` and leave other calls to those behind them.
fn turn_away(call: Sysno, errno: i32) -> [sock_filter; 3] {
    let answer = libc::SECCOMP_RET_ERRNO | errno as u32;
    [
        load_number(),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, (0, 1), call.id() as u32),
        instruction(libc::BPF_RET | libc::BPF_K, (0, 0), answer),
    ]
}

fn load_number() -> sock_filter {
    /// Where the call's number is in `struct seccomp_data` (seccomp(2)).
    const NUMBER: u32 = 0;
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, (0, 0), NUMBER)
}

/// `jumps` are those over as many instructions if a comparison is true, and if it is not.
fn instruction(code: u32, jumps: (u8, u8), k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: jumps.0, jf: jumps.1, k }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What `program` answers to `call` (Linux's filter.rst, and seccomp(2) for what it reads).
    fn run(program: &[sock_filter], call: u32, argument: u64) -> u32 {
        let word = |at: u32| match at {
            0 => call,
            // The architecture: a part looks at it first.
            4 => program.iter().find(|i| i.k >> 24 == 0xc0).expect("AUDIT_ARCH_*").k,
            at if at >= 16 && at % 8 == 0 => argument as u32,
            at if at >= 16 => (argument >> 32) as u32,
            _ => panic!("reads at {at}"),
        };
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let mut jump = |condition: bool| at += usize::from(if condition { jt } else { jf });
            match code {
                0x20 => accumulator = word(k),
                0x54 => accumulator &= k,
                0x05 => at += k as usize,
                0x15 => jump(accumulator == k),
                0x25 => jump(accumulator > k),
                0x35 => jump(accumulator >= k),
                0x06 => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn parts_answer_as_one_filter_does() {
        for role in
            [Role::Vcpu, Role::Devices, Role::Pump, Role::Monitor, Role::Api, Role::Supervisor]
        {
            let (whole, parts) = (filter(rules(role)), choose(rules(role)));
            let numbers = (0..600).chain([0x4000_0001, u32::MAX]);
            let arguments = [0, 1, 15, 4, 0xae80, 0x5401, 0x10f00, u64::MAX];
            for (call, argument) in numbers.flat_map(|n| arguments.map(|argument| (n, argument))) {
                let [one, other] = [&whole, &parts].map(|program| run(program, call, argument));
                assert_eq!(one, other, "{role:?}: call {call}, argument {argument:#x}");
            }
        }
    }
}

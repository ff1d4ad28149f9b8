//! From a role's list of system calls to the program that the host's kernel runs at each of them.
//!
//! When a thread loads a program, the host's kernel runs it for every system call that there is, of every architecture
//! that it knows, to find out which ones it always allows; then it compiles it. Threads are made while a guest waits for
//! its start, so the program is short in both ways: it looks at the architecture first, finds the call's number among
//! ranges of numbers with one answer by bisection, and looks at arguments only where they matter. A compiled filter
//! compares with one number after the other; so there is one for each call whose arguments matter, and the rest is put
//! around them by hand.

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

/// [`TARGET`] as the host's kernel calls it (Linux's uapi/linux/audit.h).
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// What a call is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// This, whatever its arguments.
    Always(u32),
    /// That it is allowed if one of the rules fits, else trapped.
    Rules(Vec<SeccompRule>),
}

const ALLOWED: Answer = Answer::Always(libc::SECCOMP_RET_ALLOW);
const TRAPPED: Answer = Answer::Always(libc::SECCOMP_RET_TRAP);

/// The program of `role`.
pub(super) fn program(role: Role) -> &'static BpfProgram {
    // Compiled when first needed: most commands confine nobody.
    static ROLES: [OnceLock<BpfProgram>; 6] = [const { OnceLock::new() }; 6];
    ROLES[role as usize].get_or_init(|| compile(answers(role)))
}

/// What `role`'s calls are answered with, those that are not trapped: what is listed, and what only tries and has a
/// substitute for what is turned away with an error that the C library expects.
fn answers(role: Role) -> BTreeMap<u32, Answer> {
    let mut rules = BTreeMap::<u32, Vec<SeccompRule>>::new();
    let mut answers = BTreeMap::new();
    for &(call, allowed) in roles::BASE.iter().chain(roles::of(role).iter().copied().flatten()) {
        match condition(allowed) {
            Some(condition) => {
                let rule = SeccompRule::new(vec![condition]).expect("a rule with a condition");
                rules.entry(call.id() as u32).or_default().push(rule);
            }
            None => _ = answers.insert(call.id() as u32, ALLOWED),
        }
    }
    for (call, rules) in rules {
        answers.entry(call).or_insert(Answer::Rules(rules));
    }
    let mut turn_away = |call: Sysno, errno: i32| {
        let answer = Answer::Always(libc::SECCOMP_RET_ERRNO | errno as u32);
        answers.entry(call.id() as u32).or_insert(answer);
    };
    // clone3's arguments are in memory, where no filter can see them; clone's are not.
    turn_away(Sysno::clone3, libc::ENOSYS);
    // malloc(3) counts the CPUs and reads a setting where it can; whichever thread comes upon it.
    turn_away(Sysno::openat, libc::EACCES);
    answers
}

fn compile(answers: BTreeMap<u32, Answer>) -> BpfProgram {
    /// Where both are in `struct seccomp_data` (seccomp(2)).
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let mut program = vec![
        instruction(load, (0, 0), ARCHITECTURE),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, (1, 0), AUDIT_ARCH),
        answer_with(libc::SECCOMP_RET_KILL_PROCESS),
        instruction(load, (0, 0), NUMBER),
    ];
    program.extend(bisect(&ranges(answers)));
    program
}

/// All numbers as ranges with one answer each: where they begin, the first at 0.
fn ranges(answers: BTreeMap<u32, Answer>) -> Vec<(u32, Answer)> {
    let mut ranges = vec![(0, TRAPPED)];
    let mut begin = |number: u32, answer: Answer| {
        ranges.pop_if(|(before, _)| *before == number);
        // A filter is for one number.
        let is_rule = matches!(answer, Answer::Rules(_));
        if is_rule || ranges.last().is_none_or(|(_, before)| *before != answer) {
            ranges.push((number, answer));
        }
    };
    for (number, answer) in answers {
        begin(number, answer);
        begin(number + 1, TRAPPED);
    }
    ranges
}

/// What answers a call whose number is loaded and in one of `ranges`.
fn bisect(ranges: &[(u32, Answer)]) -> BpfProgram {
    if let [(number, answer)] = ranges {
        return match answer {
            Answer::Always(answer) => vec![answer_with(*answer)],
            Answer::Rules(rules) => filter(BTreeMap::from([(i64::from(*number), rules.clone())])),
        };
    }
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let (middle, _) = above[0];
    let (below, above) = (bisect(below), bisect(above));
    let at_least = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    let mut program = match u8::try_from(below.len()) {
        Ok(over) => vec![instruction(at_least, (over, 0), middle)],
        // Farther than a comparison jumps.
        Err(_) => vec![
            instruction(at_least, (0, 1), middle),
            instruction(libc::BPF_JMP | libc::BPF_JA, (0, 0), below.len() as u32),
        ],
    };
    program.extend(below);
    program.extend(above);
    program
}

fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>) -> BpfProgram {
    // It fails for two equal actions and for more instructions than the kernel takes: both are known
    // when this is compiled, and every role's is compiled by a test.
    let (otherwise, listed) = (SeccompAction::Trap, SeccompAction::Allow);
    let filter = SeccompFilter::new(rules, otherwise, listed, TARGET).expect("two actions");
    filter.try_into().expect("a program of a size that the kernel takes")
}

fn answer_with(answer: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, (0, 0), answer)
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

    /// What `program` answers to `call` of an architecture (Linux's filter.rst, and seccomp(2) for what it reads).
    /// And how many instructions that took.
    fn run(program: &[sock_filter], arch: u32, call: u32, argument: u64) -> (u32, u32) {
        let word = |at: u32| match at {
            0 => call,
            4 => arch,
            at if at >= 16 && at % 8 == 0 => argument as u32,
            at if at >= 16 => (argument >> 32) as u32,
            _ => panic!("reads at {at}"),
        };
        let (mut at, mut accumulator) = (0, 0u32);
        for count in 1.. {
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
                0x06 => return (k, count),
                other => panic!("instruction {other:#x}"),
            }
        }
        unreachable!()
    }

    const ROLES: [Role; 6] =
        [Role::Vcpu, Role::Devices, Role::Pump, Role::Monitor, Role::Api, Role::Supervisor];

    #[test]
    fn programs_answer_what_the_lists_say() {
        for role in ROLES {
            let program = compile(answers(role));
            // One filter for all that is listed, as the crate compiles it.
            let listed = |answer: &Answer| match answer {
                Answer::Rules(rules) => Some(rules.clone()),
                answer => (*answer == ALLOWED).then(Vec::new),
            };
            let rules = answers(role).into_iter();
            let rules = rules.filter_map(|(call, answer)| Some((call.into(), listed(&answer)?)));
            let whole = filter(rules.collect());
            let numbers = (0..600).chain([0x4000_0001, u32::MAX]);
            let arguments = [0, 1, 15, 4, 0xae80, 0x5401, 0x10f00, u64::MAX];
            for (call, argument) in numbers.flat_map(|n| arguments.map(|argument| (n, argument))) {
                let [(one, _), (other, _)] =
                    [&whole, &program].map(|program| run(program, AUDIT_ARCH, call, argument));
                let turned_away = other & libc::SECCOMP_RET_ACTION_FULL == libc::SECCOMP_RET_ERRNO;
                match turned_away {
                    true => assert_eq!(one, libc::SECCOMP_RET_TRAP, "{role:?}: call {call}"),
                    false => {
                        assert_eq!(one, other, "{role:?}: call {call}, argument {argument:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_has_a_substitute_is_turned_away_and_not_trapped() {
        let answer =
            |role, call: Sysno| run(&compile(answers(role)), AUDIT_ARCH, call.id() as u32, 0).0;
        let error = |errno: i32| libc::SECCOMP_RET_ERRNO | errno as u32;
        assert_eq!(answer(Role::Vcpu, Sysno::openat), error(libc::EACCES));
        assert_eq!(answer(Role::Api, Sysno::openat), libc::SECCOMP_RET_ALLOW);
        for role in ROLES {
            assert_eq!(answer(role, Sysno::clone3), error(libc::ENOSYS));
        }
    }

    #[test]
    fn another_architecture_ends_the_process_at_once() {
        /// AUDIT_ARCH_ARM and AUDIT_ARCH_I386.
        const OTHERS: [u32; 2] = [0x4000_0028, 0x4000_0003];
        for (role, arch) in ROLES.iter().flat_map(|role| OTHERS.map(|arch| (*role, arch))) {
            let program = compile(answers(role));
            for call in 0..600 {
                let (answer, count) = run(&program, arch, call, 0);
                assert_eq!((answer, count), (libc::SECCOMP_RET_KILL_PROCESS, 3), "{role:?}");
            }
        }
    }

    #[test]
    fn no_number_takes_long_to_find() {
        for role in ROLES {
            let answers = answers(role);
            let program = compile(answers.clone());
            // Beside the bisection of its ranges: what comes before, the answer, and a jump over much.
            let most = ranges(answers.clone()).len().next_power_of_two().ilog2() + 4 + 3;
            for call in (0..600).filter(|n| !matches!(answers.get(n), Some(Answer::Rules(_)))) {
                let (_, count) = run(&program, AUDIT_ARCH, call, 0);
                assert!(count <= most, "{role:?}: call {call} takes {count} of {}", program.len());
            }
        }
    }
}

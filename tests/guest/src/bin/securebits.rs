//! Securebits (capabilities(7)): what becomes of capabilities when user ids change and over exec, with each
//! bit and its lock, and ambient capabilities.
//!
//! PROCESS_MODEL.md, Identity: credentials (capability sets, securebits, keep-caps).
use belljar_guest_tests::{check, check_eq, child, err, fail, ok, wait_ok};
use std::ffi::CString;

const NOROOT: u64 = 1 << 0;
const NO_SETUID_FIXUP: u64 = 1 << 2;
const KEEP_CAPS: u64 = 1 << 4;
const NO_CAP_AMBIENT_RAISE: u64 = 1 << 6;
const ALL: [u64; 4] = [NOROOT, NO_SETUID_FIXUP, KEEP_CAPS, NO_CAP_AMBIENT_RAISE];

const CAP_SETUID: u32 = 7;
const CAP_SETPCAP: u32 = 8;
const CAP_NET_RAW: u32 = 13;

fn get_bits() -> u64 {
    // SAFETY: no pointers.
    ok(unsafe { libc::prctl(libc::PR_GET_SECUREBITS, 0, 0, 0, 0) }) as u64
}

fn set_bits(bits: u64) -> i32 {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) }
}

fn ambient(what: i32, cap: u32) -> i32 {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, what as u64, u64::from(cap), 0, 0) }
}

fn keep_caps(on: u64) -> i32 {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, on, 0, 0, 0) }
}

/// A capability set of this process, by its name in /proc/self/status.
fn set(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

/// capset(2) with these effective, permitted and inheritable sets.
fn capset(effective: u64, permitted: u64, inheritable: u64) {
    let header = [0x2008_0522_u32, 0];
    let low = |set: u64| set as u32;
    let high = |set: u64| (set >> 32) as u32;
    let data = [
        [low(effective), low(permitted), low(inheritable)],
        [high(effective), high(permitted), high(inheritable)],
    ];
    // SAFETY: both have the form of the third version.
    ok(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) });
}

fn become_user(id: u32) {
    // SAFETY: no pointers.
    ok(unsafe { libc::setresuid(id, id, id) });
}

/// Runs this program anew, which then has these sets and bits.
fn exec_and_expect(permitted: u64, effective: u64, ambient: u64, bits: u64) -> i32 {
    let words = ["expect".to_string(), permitted.to_string(), effective.to_string()];
    let words = words.into_iter().chain([ambient.to_string(), bits.to_string()]);
    let words: Vec<CString> = words.map(|word| CString::new(word).unwrap()).collect();
    let mut argv: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
    argv.push(std::ptr::null());
    // SAFETY: a valid path and vector.
    unsafe { libc::execv(c"/proc/self/exe".as_ptr(), argv.as_ptr()) };
    fail("execv")
}

fn expected(args: &[String]) {
    let numbers: Vec<u64> = args.iter().map(|arg| arg.parse().unwrap()).collect();
    let sets = ["CapPrm", "CapEff", "CapAmb"].map(set);
    check_eq!((&sets[..], get_bits()), (&numbers[..3], numbers[3]));
}

fn case(f: impl FnOnce() -> i32) {
    wait_ok(child(f));
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args[0] == "expect" {
        return expected(&args[1..]);
    }
    let full = set("CapPrm");
    let bit = 1 << CAP_NET_RAW;
    check!(full & (1 << CAP_SETPCAP) != 0);
    check_eq!(get_bits(), 0);

    // Without any: root's exec gives all, and giving up root takes all.
    case(|| exec_and_expect(full, full, 0, 0));
    case(|| {
        become_user(1000);
        check_eq!((set("CapPrm"), set("CapEff")), (0, 0));
        check_eq!(err(set_bits(0)), libc::EPERM);
        exec_and_expect(0, 0, 0, 0)
    });

    // Each bit alone, its lock, and what there is not.
    for one in ALL {
        case(|| {
            ok(set_bits(one));
            check_eq!(get_bits(), one);
            ok(set_bits(0));
            // The lock alone: the bit can no longer be set.
            wait_ok(child(|| {
                ok(set_bits(one << 1));
                check_eq!(err(set_bits(one << 1 | one)), libc::EPERM);
                check_eq!(err(set_bits(0)), libc::EPERM);
                0
            }));
            ok(set_bits(one | one << 1));
            for other in [0, one, one << 1] {
                check_eq!(err(set_bits(other)), libc::EPERM);
            }
            // The others are free, and children have what their parent had.
            let more = ALL.iter().find(|&&more| more != one).unwrap();
            ok(set_bits(one | one << 1 | more));
            wait_ok(child(|| {
                check_eq!(get_bits(), one | one << 1 | more);
                0
            }));
            check_eq!(err(set_bits(one | one << 1 | 1 << 8)), libc::EPERM);
            0
        });
    }
    // It takes CAP_SETPCAP.
    case(|| {
        capset(full & !(1 << CAP_SETPCAP), full, 0);
        check_eq!(err(set_bits(NOROOT)), libc::EPERM);
        capset(full, full, 0);
        ok(set_bits(NOROOT));
        0
    });

    // KEEP_CAPS: the permitted set stays, the effective one goes. It ends with exec.
    case(|| {
        ok(set_bits(KEEP_CAPS));
        // SAFETY: no pointers.
        check_eq!(unsafe { libc::prctl(libc::PR_GET_KEEPCAPS, 0, 0, 0, 0) }, 1);
        become_user(1000);
        check_eq!((set("CapPrm"), set("CapEff")), (full, 0));
        exec_and_expect(0, 0, 0, 0)
    });
    case(|| {
        ok(set_bits(KEEP_CAPS | KEEP_CAPS << 1));
        check_eq!(err(keep_caps(0)), libc::EPERM);
        check_eq!(err(keep_caps(1)), libc::EPERM);
        exec_and_expect(full, full, 0, KEEP_CAPS << 1)
    });

    // NO_SETUID_FIXUP: changing ids leaves the sets alone. exec does not.
    case(|| {
        ok(set_bits(NO_SETUID_FIXUP));
        // SAFETY: no pointers.
        unsafe {
            ok(libc::setresuid(u32::MAX, 1000, u32::MAX));
            check_eq!(set("CapEff"), full);
            ok(libc::setresuid(u32::MAX, 0, u32::MAX));
            libc::setfsuid(1000);
            check_eq!(set("CapEff"), full);
        }
        become_user(1000);
        check_eq!((set("CapPrm"), set("CapEff")), (full, full));
        // Without CAP_SETUID the ids cannot come back, but with it they can.
        become_user(0);
        become_user(1000);
        capset(full & !(1 << CAP_SETUID), full & !(1 << CAP_SETUID), 0);
        // SAFETY: no pointers.
        check_eq!(err(unsafe { libc::setresuid(0, 0, 0) }), libc::EPERM);
        exec_and_expect(0, 0, 0, NO_SETUID_FIXUP)
    });

    // NOROOT: user 0 gets nothing by exec. Changing ids is still what it was.
    case(|| {
        ok(set_bits(NOROOT));
        check_eq!(set("CapEff"), full);
        exec_and_expect(0, 0, 0, NOROOT)
    });
    case(|| {
        ok(set_bits(NOROOT | NOROOT << 1));
        // SAFETY: no pointers.
        unsafe {
            ok(libc::seteuid(1000));
            check_eq!(set("CapEff"), 0);
            ok(libc::seteuid(0));
            check_eq!(set("CapEff"), full);
        }
        exec_and_expect(0, 0, 0, NOROOT | NOROOT << 1)
    });

    // Ambient capabilities: permitted and inheritable ones, which exec keeps.
    case(|| {
        check_eq!(err(ambient(libc::PR_CAP_AMBIENT_RAISE, CAP_NET_RAW)), libc::EPERM);
        capset(full, full, bit);
        ok(ambient(libc::PR_CAP_AMBIENT_RAISE, CAP_NET_RAW));
        check_eq!(ambient(libc::PR_CAP_AMBIENT_IS_SET, CAP_NET_RAW), 1);
        ok(set_bits(NOROOT));
        exec_and_expect(bit, bit, bit, NOROOT)
    });
    case(|| {
        capset(full, full, bit);
        ok(ambient(libc::PR_CAP_AMBIENT_RAISE, CAP_NET_RAW));
        ok(set_bits(KEEP_CAPS));
        // Giving up root takes them, though the permitted set stays; then they can be raised again.
        become_user(1000);
        check_eq!((set("CapPrm"), set("CapAmb")), (full, 0));
        ok(ambient(libc::PR_CAP_AMBIENT_RAISE, CAP_NET_RAW));
        exec_and_expect(bit, bit, bit, 0)
    });
    case(|| {
        capset(full, full, bit);
        ok(ambient(libc::PR_CAP_AMBIENT_RAISE, CAP_NET_RAW));
        // What is no longer inheritable is no longer ambient.
        capset(full, full, 0);
        check_eq!(set("CapAmb"), 0);
        0
    });

    // NO_CAP_AMBIENT_RAISE: those that are there stay, and can go.
    case(|| {
        let two = bit | 1 << CAP_SETUID;
        capset(full, full, two);
        ok(ambient(libc::PR_CAP_AMBIENT_RAISE, CAP_NET_RAW));
        ok(set_bits(NO_CAP_AMBIENT_RAISE | NO_CAP_AMBIENT_RAISE << 1 | NOROOT));
        check_eq!(err(ambient(libc::PR_CAP_AMBIENT_RAISE, CAP_SETUID)), libc::EPERM);
        check_eq!(set("CapAmb"), bit);
        wait_ok(child(|| {
            ok(ambient(libc::PR_CAP_AMBIENT_LOWER, CAP_NET_RAW));
            check_eq!(set("CapAmb"), 0);
            check_eq!(err(ambient(libc::PR_CAP_AMBIENT_RAISE, CAP_NET_RAW)), libc::EPERM);
            0
        }));
        let bits = NO_CAP_AMBIENT_RAISE | NO_CAP_AMBIENT_RAISE << 1 | NOROOT;
        exec_and_expect(bit, bit, bit, bits)
    });

    // In a new user namespace none is set, whatever was locked outside.
    case(|| {
        ok(set_bits(NOROOT | NOROOT << 1));
        // SAFETY: no pointers.
        ok(unsafe { libc::unshare(libc::CLONE_NEWUSER) });
        check_eq!(get_bits(), 0);
        check_eq!(set("CapEff"), full);
        0
    });
}

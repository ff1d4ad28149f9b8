//! Random system calls with random arguments: `syscall_fuzz [CALLS] [SEED [FIRST END]]`; with FIRST and
//! END only numbers in between are called, which finds the culprit. Whatever the calls do to the
//! processes that make them, the machine lives. Calls that end or stop the machine itself by design
//! (reboot, kexec) are left out, and so are those that would take the tester along.
use std::ops::Range;

use belljar_guest_tests::{Random, check, child, map};

/// reboot, kexec_load, kexec_file_load, kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo,
/// pidfd_send_signal, exit, exit_group; clone and clone3 would multiply the fuzzers.
const LEFT_OUT: &[u64] = &[
    142, 104, 294, 129, 130, 131, 138, 240, 424, 220, 435, 40, 39, 41, 51, 224, 225, 105, 106, 273,
    89,
];

/// What each burst has open.
const SOCKETS: &[(i32, i32, i32)] = &[
    (libc::AF_INET, libc::SOCK_STREAM, 0),
    (libc::AF_INET6, libc::SOCK_STREAM, 0),
    (libc::AF_INET, libc::SOCK_DGRAM, 0),
    (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
    (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE),
    (libc::AF_PACKET, libc::SOCK_RAW, 0x300),
    (libc::AF_UNIX, libc::SOCK_DGRAM, 0),
    (libc::AF_UNIX, libc::SOCK_SEQPACKET, 0),
];

/// socket to recvmsg, accept4, recvmmsg, sendmmsg, ioctl, read, write, ppoll.
const SOCKET_CALLS: &[u64] = &[
    198, 199, 200, 201, 202, 203, 204, 205, 206, 207, 208, 209, 210, 211, 212, 242, 243, 269, 29,
    63, 64, 73,
];

fn argument(random: &mut Random, memory: u64) -> u64 {
    match random.below(12) {
        0 => 0,
        1 => random.below(16),
        2 => u64::MAX - random.below(4096),
        3 => memory + random.below(65536),
        4 => memory,
        5 => 0xffff_0000_4020_0000 + random.below(1 << 20),
        6 => 1 << random.below(64),
        7 => (1 << 48) - random.below(8192),
        8 => random.below(1 << 16),
        9 => u64::from(random.number() as u32),
        10 => memory + 65536 - random.below(64),
        _ => random.number(),
    }
}

fn burst(seed: u64, calls: u64, as_user: bool, only: &Range<u64>) -> i32 {
    let mut random = Random(seed);
    let memory = map(65536, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE) as u64;
    // SAFETY: the memory is ours; the calls may do to this process whatever they like.
    unsafe {
        for i in 0..8192 {
            *(memory as *mut u64).add(i) = random.number() >> random.below(64);
        }
        if as_user {
            libc::setgid(1000);
            libc::setuid(1000);
        }
        // Not the terminal of whoever started us.
        libc::setsid();
        libc::chdir(c"/tmp".as_ptr());
        for fd in 0..3 {
            let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            libc::dup2(null, fd);
        }
        // Sockets of every family, for the calls to find.
        for (family, kind, protocol) in SOCKETS {
            libc::socket(*family, *kind, *protocol);
        }
        let mut pair = [0; 2];
        libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr());
        libc::alarm(20);
        for _ in 0..calls {
            let nr = match random.below(4) {
                0 => SOCKET_CALLS[random.below(SOCKET_CALLS.len() as u64) as usize],
                _ => random.below(480),
            };
            let a: [u64; 6] = std::array::from_fn(|_| argument(&mut random, memory));
            if LEFT_OUT.contains(&nr) || !only.contains(&nr) {
                continue;
            }
            libc::syscall(nr as i64, a[0], a[1], a[2], a[3], a[4], a[5]);
        }
    }
    0
}

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>().unwrap_or(1));
    let calls = args.next().unwrap_or(40_000);
    let mut seed = args.next().unwrap_or(1);
    let only = args.next().unwrap_or(0)..args.next().unwrap_or(u64::MAX);
    const BURST: u64 = 500;
    let mut left = calls;
    let mut ends = [0_u32; 3];
    while left > 0 {
        let n = left.min(BURST);
        left -= n;
        seed += 1;
        let pid = child(|| burst(seed, n, seed.is_multiple_of(2), &only));
        // A burst may sleep for ever, or stop itself: it is given time and then ended.
        let mut status = 0;
        let mut waited = 0;
        // SAFETY: plain calls.
        unsafe {
            loop {
                let got = libc::waitpid(pid, &raw mut status, libc::WNOHANG);
                if got == pid {
                    break;
                }
                check!(got == 0, "the burst with seed {seed} is gone");
                if waited > 60 {
                    libc::kill(pid, libc::SIGKILL);
                }
                check!(waited < 4000, "the burst with seed {seed} cannot be killed");
                waited += 1;
                let nap = libc::timespec { tv_sec: 0, tv_nsec: 2_000_000 };
                libc::nanosleep(&raw const nap, std::ptr::null_mut());
            }
        }
        let end = if status == 0 {
            0
        } else if libc::WIFSIGNALED(status) {
            1
        } else {
            2
        };
        ends[end] += 1;
    }
    println!(
        "{calls} calls: {} bursts ended by themselves, {} by signals, {} otherwise",
        ends[0], ends[1], ends[2]
    );
}

//! Processes that do what they are told, one call at a time, through a page that all of them share.

use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, Ordering::SeqCst};

use belljar_guest_tests::{errno, fail, map, ok};

/// Processes at a time, the first of which is the program's own.
pub const PUPPETS: usize = 6;

/// What a process can be told to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Op {
    Nothing,
    /// Makes another process: its place, and the flags of clone(2).
    Spawn,
    Exit,
    Kill,
    SetPgid,
    GetPgid,
    SetSid,
    GetSid,
    GetPpid,
    Wait4,
    WaitId,
    Prctl,
    /// What SIGCHLD does: 0 default, 1 ignored, 2 caught with `SA_NOCLDWAIT`.
    OnChild,
    /// How often the handler ran since the last time.
    Caught,
    GetPriority,
    SetPriority,
    SetUid,
    Limit,
    /// A child that ends while its parent waits in vfork(2).
    VFork,
    /// The program's own part alone.
    End,
}

const OPS: [Op; 20] = [
    Op::Nothing,
    Op::Spawn,
    Op::Exit,
    Op::Kill,
    Op::SetPgid,
    Op::GetPgid,
    Op::SetSid,
    Op::GetSid,
    Op::GetPpid,
    Op::Wait4,
    Op::WaitId,
    Op::Prctl,
    Op::OnChild,
    Op::Caught,
    Op::GetPriority,
    Op::SetPriority,
    Op::SetUid,
    Op::Limit,
    Op::VFork,
    Op::End,
];

const IDLE: u32 = 0;
const ASKED: u32 = 1;
const ANSWERED: u32 = 2;

/// Where one process is told what to do and answers.
#[repr(C)]
pub struct Mailbox {
    state: AtomicU32,
    op: AtomicU32,
    args: [AtomicI64; 4],
    answer: [AtomicI64; 5],
}

/// What a call came to: its result or the negative error, and what it filled in.
pub type Answer = [i64; 5];

static SHARED: AtomicPtr<[Mailbox; PUPPETS]> = AtomicPtr::new(null_mut());
static CAUGHT: AtomicU32 = AtomicU32::new(0);

extern "C" fn caught(_: i32, _: *mut libc::siginfo_t) {
    CAUGHT.fetch_add(1, SeqCst);
}

/// Of SIGCHLDs several may become one.
extern "C" fn unnoticed(_: i32, _: *mut libc::siginfo_t) {}

/// Makes the shared page; the caller is the first process.
pub fn start() {
    let page = map(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    SHARED.store(page.cast(), SeqCst);
    catch();
}

/// Catches the signal that the processes send each other.
pub fn catch() {
    belljar_guest_tests::handle(libc::SIGUSR1, libc::SA_RESTART, caught);
}

fn mailbox(index: usize) -> &'static Mailbox {
    // SAFETY: `start` mapped it for good, and zeroes are valid.
    unsafe { &(*SHARED.load(SeqCst))[index] }
}

fn futex(word: &AtomicU32, op: i32, value: u32) {
    let none = std::ptr::null::<libc::timespec>();
    // SAFETY: the word stays mapped.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), op, value, none) };
}

fn sleep_until(word: &AtomicU32, wanted: u32) {
    loop {
        let now = word.load(SeqCst);
        if now == wanted {
            return;
        }
        futex(word, libc::FUTEX_WAIT, now);
    }
}

fn set(word: &AtomicU32, value: u32) {
    word.store(value, SeqCst);
    futex(word, libc::FUTEX_WAKE, i32::MAX as u32);
}

/// Tells a process what to do.
pub fn tell(index: usize, op: Op, args: [i64; 4]) {
    let mailbox = mailbox(index);
    mailbox.op.store(op as u32, SeqCst);
    for (place, arg) in mailbox.args.iter().zip(args) {
        place.store(arg, SeqCst);
    }
    set(&mailbox.state, ASKED);
}

/// Waits for the answer.
pub fn answer(index: usize) -> Answer {
    let mailbox = mailbox(index);
    sleep_until(&mailbox.state, ANSWERED);
    mailbox.state.store(IDLE, SeqCst);
    [0, 1, 2, 3, 4].map(|i| mailbox.answer[i].load(SeqCst))
}

/// Makes a place ready for a new process.
pub fn clear(index: usize) {
    mailbox(index).state.store(IDLE, SeqCst);
}

/// The life of a process other than the first.
fn live(index: usize) -> ! {
    let mailbox = mailbox(index);
    CAUGHT.store(0, SeqCst);
    loop {
        sleep_until(&mailbox.state, ASKED);
        let args = [0, 1, 2, 3].map(|i| mailbox.args[i].load(SeqCst));
        let answer = perform(OPS[mailbox.op.load(SeqCst) as usize], args);
        for (place, word) in mailbox.answer.iter().zip(answer) {
            place.store(word, SeqCst);
        }
        set(&mailbox.state, ANSWERED);
    }
}

/// Makes a call.
pub fn perform(op: Op, args: [i64; 4]) -> Answer {
    let [a, b, c, d] = args;
    let (x, y) = (a as i32, b as i32);
    let mut more = [0; 4];
    // SAFETY: plain calls with valid places.
    let result = unsafe {
        match op {
            Op::Nothing => libc::syscall(libc::SYS_sched_yield),
            Op::Spawn => {
                let pid = libc::syscall(libc::SYS_clone, b, 0, 0, 0, 0);
                if pid == 0 {
                    live(a as usize);
                }
                pid
            }
            Op::Exit => libc::syscall(libc::SYS_exit_group, a),
            Op::Kill => i64::from(libc::kill(x, y)),
            Op::SetPgid => i64::from(libc::setpgid(x, y)),
            Op::GetPgid => i64::from(libc::getpgid(x)),
            Op::SetSid => i64::from(libc::setsid()),
            Op::GetSid => i64::from(libc::getsid(x)),
            Op::GetPpid => i64::from(libc::getppid()),
            Op::Wait4 => {
                let mut status = 0;
                let pid = libc::syscall(libc::SYS_wait4, a, &raw mut status, b, 0);
                more[0] = i64::from(status);
                pid
            }
            Op::WaitId => {
                let mut info: libc::siginfo_t = zeroed();
                let result = libc::syscall(libc::SYS_waitid, a, b, &raw mut info, c, 0);
                let (signo, pid) = (info.si_signo, info.si_pid());
                more = [signo, info.si_code, pid, info.si_status()].map(i64::from);
                result
            }
            Op::Prctl => {
                let mut word = -1_i64;
                // With a last argument, the second is a place to fill.
                let result = if d != 0 {
                    libc::syscall(libc::SYS_prctl, a, &raw mut word, 0, 0, 0)
                } else {
                    libc::syscall(libc::SYS_prctl, a, b, c, 0, 0)
                };
                more[0] = word;
                result
            }
            Op::OnChild => {
                let mut action: libc::sigaction = zeroed();
                match x {
                    1 => action.sa_sigaction = libc::SIG_IGN,
                    2 => {
                        action.sa_sigaction = unnoticed as *const () as usize;
                        action.sa_flags = libc::SA_NOCLDWAIT | libc::SA_RESTART | libc::SA_SIGINFO;
                    }
                    _ => {}
                }
                i64::from(libc::sigaction(libc::SIGCHLD, &action, null_mut()))
            }
            Op::Caught => i64::from(CAUGHT.swap(0, SeqCst)),
            Op::GetPriority => libc::syscall(libc::SYS_getpriority, a, b),
            Op::SetPriority => libc::syscall(libc::SYS_setpriority, a, b, c),
            Op::SetUid => libc::syscall(libc::SYS_setresuid, a, a, a),
            Op::Limit => {
                let mut limit = libc::rlimit { rlim_cur: c as u64, rlim_max: d as u64 };
                let new = if c < 0 { null_mut() } else { &raw mut limit };
                let mut old: libc::rlimit = zeroed();
                let result = libc::syscall(libc::SYS_prlimit64, a, b, new, &raw mut old);
                more[0] = old.rlim_cur as i64;
                result
            }
            Op::VFork => {
                let flags = libc::CLONE_VFORK | libc::SIGCHLD;
                let pid = ok(libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0));
                if pid == 0 {
                    libc::_exit(x);
                }
                let mut status = -1;
                let result = libc::waitpid(pid as i32, &mut status, 0);
                more[0] = i64::from(status);
                i64::from(result.min(1))
            }
            Op::End => fail("nobody ends so"),
        }
    };
    let result = if result < 0 { -i64::from(errno()) } else { result };
    [result, more[0], more[1], more[2], more[3]]
}

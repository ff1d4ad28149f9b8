//! Random calls of a few processes that are each other's parents, children and members of groups: every
//! result, every wait status and who becomes whose parent is Linux's. `same_processes [CALLS [SEED]]`.

mod clones;
mod puppet;

use belljar_guest_tests::same::{Random, Trace, arguments};
use belljar_guest_tests::seconds;

use puppet::{Answer, Op, PUPPETS, answer, clear, perform, tell};

/// The program's own process.
const FIRST: usize = 0;
/// A number that nobody has.
const NOBODY: i32 = 0x3fff_fff0;

struct State {
    trace: Trace,
    /// Numbers of those that were made, in their places.
    pids: [i32; PUPPETS],
    alive: [bool; PUPPETS],
}

/// The letter of a process's state and its parent, as /proc shows them.
fn stat(pid: i32) -> Option<(char, i32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = text.rsplit(')').next()?.split_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// Waits until it is true; false if it never is.
fn comes_true(mut what: impl FnMut() -> bool) -> bool {
    let start = seconds(libc::CLOCK_MONOTONIC);
    while !what() {
        if seconds(libc::CLOCK_MONOTONIC) > start + 30.0 {
            return false;
        }
        // SAFETY: a plain call.
        unsafe { libc::sched_yield() };
    }
    true
}

/// Passes only when nobody is in the middle of an exit.
fn barrier() {
    // SAFETY: it takes nothing.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        libc::waitid(libc::P_ALL, 0, &mut info, options);
    }
}

impl State {
    fn name(&self, pid: i64) -> String {
        match self.pids.iter().position(|there| i64::from(*there) == pid) {
            Some(i) => format!("p{i}"),
            None if pid <= 0 || pid == i64::from(NOBODY) => pid.to_string(),
            None => "other".to_string(),
        }
    }

    fn someone(&self, random: &mut Random) -> usize {
        loop {
            let i = random.below(PUPPETS as u64) as usize;
            if self.alive[i] {
                return i;
            }
        }
    }

    /// A number for a call: of a process, dead or alive, or none's.
    fn a_pid(&self, random: &mut Random) -> i32 {
        match random.below(10) {
            0 => 0,
            1 => NOBODY,
            2 => -1,
            _ => self.pids[random.below(PUPPETS as u64) as usize],
        }
    }

    fn ask(&mut self, who: usize, op: Op, args: [i64; 4]) -> Answer {
        if who == FIRST {
            return perform(op, args);
        }
        tell(who, op, args);
        answer(who)
    }

    /// Every signal that was sent has been handled.
    fn ping(&mut self) {
        for i in 0..PUPPETS {
            if self.alive[i] {
                self.ask(i, Op::Nothing, [0; 4]);
            }
        }
    }

    /// Who ends when `who` does: those, too, that asked to be told of their parents' deaths so.
    fn ends_with(&mut self, who: usize) -> Vec<usize> {
        let mut ending = vec![who];
        let mut at = 0;
        while at < ending.len() {
            let parent = self.pids[ending[at]];
            for i in 1..PUPPETS {
                if !self.alive[i] || ending.contains(&i) {
                    continue;
                }
                let [_, signal, ..] =
                    self.ask(i, Op::Prctl, [i64::from(libc::PR_GET_PDEATHSIG), 0, 0, 1]);
                let fatal = [libc::SIGKILL, libc::SIGTERM].contains(&(signal as i32));
                if fatal && stat(self.pids[i]).is_some_and(|(_, its)| its == parent) {
                    ending.push(i);
                }
            }
            at += 1;
        }
        ending
    }

    /// Waits until they have ended, and their relatives know it.
    fn ended(&mut self, ending: &[usize]) {
        for &i in ending {
            let pid = self.pids[i];
            let ended = comes_true(|| match stat(pid) {
                None => true,
                Some(('Z', _)) => {
                    barrier();
                    matches!(stat(pid), Some(('Z', _)))
                }
                Some(_) => false,
            });
            let left = stat(pid).map(|(state, parent)| (state, self.name(i64::from(parent))));
            self.alive[i] = false;
            self.trace.line(&format!("  p{i} ended {ended} {left:?}"));
        }
        self.ping();
    }

    fn spawn(&mut self, random: &mut Random) {
        let Some(place) = (1..PUPPETS).find(|&i| !self.alive[i]) else { return };
        let who = self.someone(random);
        let signal = random.pick(&[libc::SIGCHLD, libc::SIGCHLD, libc::SIGCHLD, libc::SIGUSR1, 0]);
        let flags = random.flags(&[libc::CLONE_PARENT], 5)
            | random.flags(&[libc::CLONE_FS, libc::CLONE_FILES, libc::CLONE_IO], 4);
        // The program's own parent is to get no more children.
        let flags = if who == FIRST { flags & !libc::CLONE_PARENT } else { flags };
        clear(place);
        let [pid, ..] = self.ask(who, Op::Spawn, [place as i64, i64::from(flags | signal), 0, 0]);
        if pid > 0 {
            self.pids[place] = pid as i32;
            self.alive[place] = true;
            let [parent, ..] = self.ask(place, Op::GetPpid, [0; 4]);
            let parent = self.name(parent);
            self.trace.line(&format!("p{who} makes p{place} {flags:x} {signal}, of {parent}"));
        } else {
            self.trace.line(&format!("p{who} makes nobody {flags:x} {signal}: {pid}"));
        }
    }

    fn end(&mut self, random: &mut Random) {
        let who = self.someone(random);
        if who == FIRST {
            return;
        }
        let code = random.pick(&[0, 1, 77, 256, 300, -1]);
        let ending = self.ends_with(who);
        self.trace.line(&format!("p{who} exits {code}"));
        tell(who, Op::Exit, [code, 0, 0, 0]);
        self.ended(&ending);
    }

    fn kill(&mut self, random: &mut Random) {
        let (who, target) = (self.someone(random), self.someone(random));
        let (pid, name) = (self.pids[target], format!("p{target}"));
        if target != FIRST && random.one_in(3) {
            let signal = random.pick(&[libc::SIGKILL, libc::SIGTERM]);
            let ending = self.ends_with(target);
            if ending[1..].contains(&who) {
                return;
            }
            let args = [i64::from(pid), i64::from(signal), 0, 0];
            // Who ends itself does not answer.
            let result = if who == target {
                tell(who, Op::Kill, args);
                0
            } else {
                self.ask(who, Op::Kill, args)[0]
            };
            self.trace.line(&format!("p{who} ends {name} with {signal}: {result}"));
            if result == 0 {
                self.ended(&ending);
            }
            return;
        }
        let signal = random.pick(&[0, libc::SIGUSR1, libc::SIGURG, libc::SIGCONT, 65, -1]);
        let (pid, name) = match random.below(6) {
            0 => (0, "its group".to_string()),
            1 => (-pid, format!("group {name}")),
            2 => (NOBODY, "nobody".to_string()),
            3 => (-NOBODY, "no group".to_string()),
            _ => (pid, name),
        };
        let [result, ..] = self.ask(who, Op::Kill, [i64::from(pid), i64::from(signal), 0, 0]);
        self.trace.line(&format!("p{who} kill {name} {signal}: {result}"));
        self.ping();
    }

    fn stop(&mut self, random: &mut Random) {
        let target = self.someone(random);
        if target == FIRST {
            return;
        }
        let pid = self.pids[target];
        // SAFETY: plain calls.
        unsafe { libc::kill(pid, libc::SIGSTOP) };
        let stopped = comes_true(|| stat(pid).is_some_and(|(state, _)| state == 'T'));
        self.trace.line(&format!("p{target} stops {stopped}"));
        let parent = stat(pid).map_or(0, |(_, parent)| parent);
        let parent = self.pids.iter().position(|there| *there == parent);
        let parent = parent.filter(|&i| self.alive[i]);
        if let Some(parent) = parent {
            for _ in 0..2 {
                let peek = random.pick(&[0, libc::WNOWAIT]);
                self.waitid(parent, 1, pid, libc::WSTOPPED | libc::WNOHANG | peek);
            }
            self.wait4(parent, pid, libc::WUNTRACED | libc::WNOHANG);
        }
        // SAFETY: plain calls.
        unsafe { libc::kill(pid, libc::SIGCONT) };
        if let Some(parent) = parent {
            self.wait4(parent, pid, libc::WNOHANG);
            self.wait4(parent, pid, libc::WNOHANG | libc::WCONTINUED);
            self.waitid(parent, 1, pid, libc::WNOHANG | libc::WCONTINUED);
        }
        self.ping();
    }

    fn waitid(&mut self, who: usize, kind: i64, id: i32, options: i32) {
        let args = [kind, i64::from(id), i64::from(options), 0];
        let [result, signo, code, pid, status] = self.ask(who, Op::WaitId, args);
        let (id, pid) = (self.name(i64::from(id)), self.name(pid));
        self.trace.line(&format!(
            "p{who} waitid {kind} {id} {options:x}: {result} {signo} {code} {pid} {status}"
        ));
    }

    fn wait4(&mut self, who: usize, id: i32, options: i32) {
        let args = [i64::from(id), i64::from(options), 0, 0];
        let [result, status, ..] = self.ask(who, Op::Wait4, args);
        let name =
            if id < -1 { format!("-{}", self.name(-i64::from(id))) } else { self.name(id.into()) };
        let result = self.name(result);
        self.trace.line(&format!("p{who} wait4 {name} {options:x}: {result} {status:x}"));
    }

    fn wait(&mut self, random: &mut Random) {
        let who = self.someone(random);
        let id = self.a_pid(random);
        if random.one_in(2) {
            let options = random
                .flags(&[libc::WUNTRACED, libc::WCONTINUED, libc::__WALL, libc::__WCLONE], 3)
                | random.flags(&[libc::__WNOTHREAD, 0x40, libc::WNOWAIT], 20);
            let id = if random.one_in(4) && id > 0 { -id } else { id };
            let id = if random.one_in(3) { -1 } else { id };
            self.wait4(who, id, options | libc::WNOHANG);
        } else {
            let options = random.flags(&[libc::WEXITED, libc::WNOWAIT], 2)
                | random.flags(&[libc::WSTOPPED, libc::WCONTINUED, libc::__WALL], 4)
                | random.flags(&[libc::__WCLONE, 0x40], 12);
            let kind = random.pick(&[0, 0, 1, 1, 2, 9]);
            self.waitid(who, kind, id, options | libc::WNOHANG);
        }
    }

    fn groups(&mut self, random: &mut Random) {
        let who = self.someone(random);
        let (a, b) = (self.a_pid(random), self.a_pid(random));
        let (first, second) = (self.name(a.into()), self.name(b.into()));
        let args = [i64::from(a), i64::from(b), 0, 0];
        let (text, op) = match random.below(8) {
            0..=2 => (format!("setpgid {first} {second}"), Op::SetPgid),
            3 => (format!("getpgid {first}"), Op::GetPgid),
            4 => (format!("getsid {first}"), Op::GetSid),
            5 if who != FIRST => ("setsid".to_string(), Op::SetSid),
            _ => ("getppid".to_string(), Op::GetPpid),
        };
        let [result, ..] = self.ask(who, op, args);
        let result = self.name(result);
        self.trace.line(&format!("p{who} {text}: {result}"));
    }

    fn properties(&mut self, random: &mut Random) {
        let (who, target) = (self.someone(random), self.a_pid(random));
        let name = self.name(target.into());
        let target = i64::from(target);
        let (text, op, args) = match random.below(12) {
            0..=4 => {
                let (option, value, fills) = random.pick(&[
                    (libc::PR_SET_PDEATHSIG, 0, false),
                    (libc::PR_SET_PDEATHSIG, libc::SIGUSR1, false),
                    (libc::PR_SET_PDEATHSIG, libc::SIGTERM, false),
                    (libc::PR_SET_PDEATHSIG, libc::SIGKILL, false),
                    (libc::PR_SET_PDEATHSIG, 65, false),
                    (libc::PR_GET_PDEATHSIG, 0, true),
                    (libc::PR_SET_CHILD_SUBREAPER, 1, false),
                    (libc::PR_SET_CHILD_SUBREAPER, 0, false),
                    (libc::PR_GET_CHILD_SUBREAPER, 0, true),
                    (libc::PR_SET_DUMPABLE, 0, false),
                    (libc::PR_SET_DUMPABLE, 1, false),
                    (libc::PR_SET_DUMPABLE, 2, false),
                    (libc::PR_GET_DUMPABLE, 0, false),
                    (libc::PR_SET_KEEPCAPS, 1, false),
                    (libc::PR_SET_KEEPCAPS, 2, false),
                    (libc::PR_GET_KEEPCAPS, 0, false),
                    (libc::PR_SET_TIMERSLACK, 777, false),
                    (libc::PR_SET_TIMERSLACK, 0, false),
                    (libc::PR_GET_TIMERSLACK, 0, false),
                    (libc::PR_GET_TIMING, 0, false),
                    (libc::PR_SET_TIMING, 0, false),
                    (libc::PR_SET_TIMING, 1, false),
                    (libc::PR_SET_NO_NEW_PRIVS, 0, false),
                    (libc::PR_GET_NO_NEW_PRIVS, 0, false),
                    (libc::PR_GET_NO_NEW_PRIVS, 1, false),
                    (libc::PR_GET_THP_DISABLE, 0, false),
                    (libc::PR_SET_THP_DISABLE, 1, false),
                    (libc::PR_CAPBSET_READ, 5, false),
                    (libc::PR_CAPBSET_READ, 64, false),
                    (libc::PR_GET_SECUREBITS, 0, false),
                    (libc::PR_GET_SECCOMP, 0, false),
                    (999, 0, false),
                ]);
                // Orphans are to come here.
                if who == FIRST && option == libc::PR_SET_CHILD_SUBREAPER {
                    return;
                }
                let args = [i64::from(option), i64::from(value), 0, i64::from(fills)];
                (format!("prctl {option} {value}"), Op::Prctl, args)
            }
            5 => {
                let how = random.below(3) as i64;
                (format!("SIGCHLD {how}"), Op::OnChild, [how, 0, 0, 0])
            }
            6 | 7 => ("caught".into(), Op::Caught, [0; 4]),
            8 => {
                let which = random.pick(&[0, 1, 0, 1, 3]);
                (format!("getpriority {which} {name}"), Op::GetPriority, [which, target, 0, 0])
            }
            9 => {
                let (which, nice) = (random.pick(&[0, 1, 0, 3]), random.pick(&[0, 5, 19, 40, -3]));
                let text = format!("setpriority {which} {name} {nice}");
                (text, Op::SetPriority, [which, target, nice, 0])
            }
            10 => {
                let (soft, hard) = random.pick(&[(-1, 0), (-1, 0), (0, 100), (100, 100), (9, 5)]);
                // RLIMIT_CORE: nothing depends on it.
                let args = [target, random.pick(&[4, 4, 4, 16]), soft, hard];
                (format!("prlimit {name} {} {soft} {hard}", args[1]), Op::Limit, args)
            }
            _ if who != FIRST && random.one_in(3) => {
                let uid = random.pick(&[1000, 1001]);
                (format!("setresuid {uid}"), Op::SetUid, [uid, 0, 0, 0])
            }
            _ => {
                let code = random.below(9) as i64;
                (format!("vfork {code}"), Op::VFork, [code, 0, 0, 0])
            }
        };
        let [result, more, ..] = self.ask(who, op, args);
        self.trace.line(&format!("p{who} {text}: {result} {more:x}"));
    }
}

fn main() {
    if std::env::args().nth(1).is_some_and(|word| word == "probe") {
        println!("{}", clones::probe());
        return;
    }
    let (calls, mut random) = arguments(800);
    puppet::start();
    // SAFETY: plain calls. Orphans come here, and nothing depends on whose session this was.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
    }
    let mut state =
        State { trace: Trace::default(), pids: [NOBODY; PUPPETS], alive: [false; PUPPETS] };
    state.pids[FIRST] = std::process::id() as i32;
    state.alive[FIRST] = true;
    for _ in 0..calls {
        match random.below(40) {
            0..=6 => state.spawn(&mut random),
            7 | 8 => state.end(&mut random),
            9..=14 => state.kill(&mut random),
            15 => state.stop(&mut random),
            16..=22 => state.wait(&mut random),
            23..=28 => state.groups(&mut random),
            29..=36 => state.properties(&mut random),
            _ => {}
        }
    }
    for i in 1..PUPPETS {
        if state.alive[i] {
            // SAFETY: a child or grandchild of ours.
            unsafe { libc::kill(state.pids[i], libc::SIGKILL) };
            state.alive[i] = false;
        }
    }
    // All come here in the end.
    // SAFETY: plain calls.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        while libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL) > 0 {}
    }
    for i in 0..calls / 8 {
        match i % 3 {
            0 => clones::clone(&mut state, &mut random),
            1 => clones::clone3(&mut state, &mut random),
            _ => clones::exec(&mut state, &mut random),
        }
    }
}

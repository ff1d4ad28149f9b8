//! One task as the views see it: what `ps` and its relatives have in common.

use super::super::{Error, Kernel, Object, Result, optional};
use super::stack::{self, Start};
use crate::render::Consistency;

/// Order of the pids in `SignalStruct.pids`, which is that of the kernel's `PidType`.
const PGID: usize = 2;
const SID: usize = 3;
/// Control groups nest less deep in any sane guest.
const MAX_DEPTH: usize = 4096;
/// `exit_state` of a task that waits for its parent, and of one that is gone (Linux's values).
const EXIT_ZOMBIE: u64 = 32;
const EXIT_DEAD: u64 = 16;

/// The numbers of a `Pid`, outermost namespace first, with the namespaces' addresses.
fn numbers(pid: &Object<'_>) -> Result<Vec<(u64, u64)>> {
    let numbers = pid.array("numbers")?;
    let pair = |upid: Object<'_>| Ok((upid.uint("nr")?, upid.ptr("ns")?.map_or(0, |ns| ns.addr())));
    numbers.into_iter().map(pair).collect()
}

/// A task.
pub struct Process<'k> {
    kernel: &'k Kernel<'k>,
    task: Object<'k>,
}

impl<'k> Process<'k> {
    /// The task that an object is.
    pub fn new(task: Object<'k>) -> Self {
        Self { kernel: task.kernel(), task }
    }

    /// The task with that number in the initial namespace, leader or other thread.
    pub fn find(kernel: &'k Kernel<'_>, pid: u32) -> Result<Self> {
        for leader in kernel.processes()? {
            let leader = Self::new(leader);
            if leader.pid()? == u64::from(pid) {
                return Ok(leader);
            }
            for thread in leader.threads()? {
                if thread.pid()? == u64::from(pid) {
                    return Ok(thread);
                }
            }
        }
        Err(Error::NoProcess { pid })
    }

    /// The structure.
    pub fn task(&self) -> &Object<'k> {
        &self.task
    }

    /// Number in the initial namespace.
    pub fn pid(&self) -> Result<u64> {
        self.task.uint("pid")
    }

    /// Its number at each level of pid namespaces, outermost first, with the namespace's address.
    pub(super) fn numbers(&self) -> Result<Vec<(u64, u64)>> {
        let Some(pid) = self.task.ptr("thread_pid")? else { return Ok(vec![]) };
        numbers(&pid)
    }

    /// Number of its parent's process; `None` if it has no parent.
    pub fn ppid(&self) -> Result<Option<u64>> {
        self.task.ptr("real_parent")?.map(|p| p.uint("tgid")).transpose()
    }

    /// Process group and session, as the initial namespace numbers them; 0 for none.
    pub fn pgid_sid(&self) -> Result<(u64, u64)> {
        let Some(signal) = self.task.ptr("signal")? else { return Ok((0, 0)) };
        let number = |kind| -> Result<u64> {
            let Some(pid) = signal.element("pids", kind)? else { return Ok(0) };
            match pid.array("numbers")?.first() {
                Some(outermost) => outermost.uint("nr"),
                None => Ok(0),
            }
        };
        Ok((number(PGID)?, number(SID)?))
    }

    /// What the pid namespace at `ns` calls it, its parent, its process group and its session; 0 for what
    /// it does not see. `None` if it does not see the process itself.
    pub(super) fn numbers_in(&self, ns: u64) -> Result<Option<[u64; 4]>> {
        let in_ns = |all: Vec<(u64, u64)>| all.into_iter().find(|n| n.1 == ns).map(|n| n.0);
        let Some(own) = in_ns(self.numbers()?) else { return Ok(None) };
        let parent = match self.task.ptr("real_parent")? {
            Some(parent) => match parent.ptr("group_leader")? {
                Some(leader) => in_ns(Self::new(leader).numbers()?),
                None => None,
            },
            None => None,
        };
        let mut seen = [own, parent.unwrap_or(0), 0, 0];
        if let Some(signal) = self.task.ptr("signal")? {
            for (slot, kind) in [(2, PGID), (3, SID)] {
                if let Some(pid) = signal.element("pids", kind)? {
                    seen[slot] = in_ns(numbers(&pid)?).unwrap_or(0);
                }
            }
        }
        Ok(Some(seen))
    }

    /// The path of its control group from the root. `None` before it joined one.
    pub(super) fn cgroup(&self) -> Result<Option<String>> {
        let Some(mut group) = self.task.ptr("cgroup.group")? else { return Ok(None) };
        let mut names = vec![];
        while let Some(parent) = group.ptr("parent")? {
            let name: Vec<u8> = group.numbers("name")?.into_iter().map(|n| n as u8).collect();
            names.push(String::from_utf8_lossy(&name).into_owned());
            if names.len() == MAX_DEPTH {
                self.kernel.degrade(Consistency::Torn);
                break;
            }
            group = parent;
        }
        names.reverse();
        Ok(Some(format!("/{}", names.join("/"))))
    }

    /// The threads of its process, itself included.
    pub fn threads(&self) -> Result<Vec<Process<'k>>> {
        match self.task.ptr("signal")? {
            Some(signal) => {
                let threads: Result<Vec<_>> = signal.list("threads")?.collect();
                Ok(threads?.into_iter().map(Self::new).collect())
            }
            None => Ok(vec![]),
        }
    }

    /// The letter of ps(1).
    pub fn state(&self) -> Result<char> {
        match self.task.uint("exit_state")? {
            0 => {}
            state if state & EXIT_ZOMBIE != 0 => return Ok('Z'),
            state if state & EXIT_DEAD != 0 => return Ok('X'),
            _ => {}
        }
        let state = self.task.flags("se.state")?;
        let has = |name: &str| state.iter().any(|s| s == name);
        // The order of proc_pid_stat(5)'s letters: what says more comes first.
        let letters = [
            ("DEAD", 'X'),
            ("TRACED", 't'),
            ("STOPPED", 'T'),
            ("PARKED", 'P'),
            ("NOLOAD", 'I'),
            ("UNINTERRUPTIBLE", 'D'),
            ("NEW", 'D'),
            ("INTERRUPTIBLE", 'S'),
        ];
        Ok(letters.into_iter().find(|(name, _)| has(name)).map_or('R', |(_, letter)| letter))
    }

    /// The class as ps(1) abbreviates it.
    pub fn policy(&self) -> Result<String> {
        let name = self.task.enum_name("se.policy")?;
        Ok(match name.as_str() {
            "Normal" => "TS".into(),
            "Fifo" => "FF".into(),
            "RoundRobin" => "RR".into(),
            "Batch" => "B".into(),
            "Idle" => "IDL".into(),
            "Deadline" => "DLN".into(),
            _ => name,
        })
    }

    /// Priority as proc_pid_stat(5) counts it: 20 for nice 0, negative for real time.
    pub fn prio(&self) -> Result<i64> {
        Ok(self.task.int("se.prio")? - 100)
    }

    /// Nice value.
    pub fn nice(&self) -> Result<i64> {
        Ok(self.task.int("se.static_prio")? - 120)
    }

    /// Where it sleeps; `None` while it does not.
    pub fn wchan(&self) -> Result<Option<String>> {
        if matches!(self.state()?, 'R' | 'Z' | 'X') {
            return Ok(None);
        }
        if let Some(channel) = optional(self.task.ptr("se.wchan"))?.flatten() {
            return channel.text("name").map(Some);
        }
        // It said nothing: the function that called the scheduler, as Linux's get_wchan has it.
        let addresses = stack::code_addresses(self.kernel, &self.task, Start::saved(&self.task)?)?;
        let mut functions = addresses.into_iter().enumerate().filter_map(|(index, pc)| {
            let location =
                self.kernel.symbols().lookup(stack::call_site(self.kernel, index, pc))?;
            Some(location.symbol)
        });
        let scheduler = ["belljar_kernel::sched::", "belljar_kernel::sync::"];
        let caller = functions.find(|f| !scheduler.iter().any(|s| f.starts_with(s)));
        Ok(caller.map(|f| f.rsplit("::").next().unwrap_or(&f).to_owned()))
    }

    /// Nanoseconds that this thread has run.
    pub fn runtime(&self) -> Result<u64> {
        self.task.uint("se.sum_exec_runtime")
    }

    /// Nanoseconds that the process has run, threads that ended included.
    pub fn process_runtime(&self) -> Result<u64> {
        let mut total = 0u64;
        for thread in self.threads()? {
            total = total.saturating_add(thread.runtime()?);
        }
        if let Some(signal) = self.task.ptr("signal")? {
            for part in ["dead.utime", "dead.stime"] {
                total = total.saturating_add(optional(signal.uint(part))?.unwrap_or(0));
            }
        }
        Ok(total)
    }

    /// The name; in brackets for a kernel thread, as ps(1) shows what has no command line.
    pub fn comm(&self) -> Result<String> {
        let name = self.task.text("comm")?;
        let kthread = self.task.flags("flags")?.iter().any(|f| f == "KTHREAD");
        Ok(if kthread { format!("[{name}]") } else { name })
    }

    /// Whether it is on a CPU now, so that its registers are not in memory.
    pub fn on_cpu(&self) -> Result<bool> {
        self.task.bool("se.on_cpu")
    }

    /// The CPU that it runs or last ran on.
    pub fn cpu(&self) -> Result<u64> {
        self.task.uint("se.thread.info.cpu")
    }

    /// Its address space; `None` for kernel threads and zombies.
    pub fn mm(&self) -> Result<Option<Object<'k>>> {
        self.task.ptr("se.mm")
    }
}

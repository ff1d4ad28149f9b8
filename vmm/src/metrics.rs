//! Figures of a running VM, in Prometheus' text format (version 0.0.4).
//!
//! Whoever counts keeps plain atomic counters and hands out [`Family`]s when it is asked: the machine
//! ([`crate::backend::Machine::metrics`]) its own, [`of_process`] and [`of_vcpus`] what the host's
//! kernel knows of a process. `GET /metrics` of the API shows them all. Counters begin at 0 with the
//! VM's process; units are seconds and bytes. A figure that this host does not have is left out.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

/// The media type of the format.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How a figure changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One figure for each set of labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: f64,
}

impl Family {
    /// A figure without a value yet. `name` is a metric name with its unit at the end (`_total` for a
    /// counter), `help` one line.
    pub fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { name, help, kind, samples: vec![] }
    }

    /// With one more value.
    #[must_use]
    pub fn with(mut self, labels: &[(&'static str, &str)], value: f64) -> Self {
        self.push(labels, value);
        self
    }

    /// Adds a value.
    pub fn push(&mut self, labels: &[(&'static str, &str)], value: f64) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.samples.push(Sample { labels, value });
    }
}

/// `families` as text. One without a value is left out.
pub fn render(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        let Family { name, help, kind, samples } = family;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing to a string does not fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for Sample { labels, value } in samples {
            text.push_str(name);
            for (index, (label, value)) in labels.iter().enumerate() {
                let opening = if index == 0 { '{' } else { ',' };
                let _ = write!(text, "{opening}{label}=\"{}\"", escaped(value));
            }
            if !labels.is_empty() {
                text.push('}');
            }
            let _ = writeln!(text, " {value}");
        }
    }
    text
}

/// A label's value between quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

/// Resident memory of processes: what each is to the VM, and its id.
pub fn of_process(processes: &[(&str, u32)]) -> Family {
    let mut family = Family::new(
        "belljar_resident_memory_bytes",
        Kind::Gauge,
        "Resident memory by kind (proc(5)); the RAM of a guest that was booted is shared, all else of the VMM is not",
    );
    for (role, pid) in processes {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        for (field, kind) in
            [("RssAnon:", "anonymous"), ("RssFile:", "file"), ("RssShmem:", "shared")]
        {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
            if let Some(kib) = kib {
                family.push(&[("process", role), ("kind", kind)], kib * 1024.0);
            }
        }
    }
    family
}

/// How long the thread `thread` of the process `pid` has been on a CPU of the host; `None` if the host does
/// not tell.
pub fn cpu_time(pid: u32, thread: i64) -> Option<Duration> {
    // Time on a CPU in nanoseconds, time waited for one, slices (Linux's scheduler/sched-stats).
    let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// `times`: how long the threads that run the guest's CPUs have been on a CPU of the host, in the order of the
/// guest's CPUs.
pub fn of_vcpus(times: &[Duration]) -> Family {
    let mut family = Family::new(
        "belljar_vcpu_cpu_seconds_total",
        Kind::Counter,
        "CPU time of the host that the guest's CPU has had",
    );
    for (index, time) in times.iter().enumerate() {
        family.push(&[("vcpu", &index.to_string())], time.as_secs_f64());
    }
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn render_escapes_labels_and_leaves_empty_families_out() {
        let families = [
            Family::new("a_total", Kind::Counter, "What a is")
                .with(&[("x", "1"), ("y", "q\"\\\n")], 3.0)
                .with(&[("x", "2"), ("y", "")], 2_500_000_000.0),
            Family::new("none", Kind::Gauge, "Nothing"),
            Family::new("b_seconds", Kind::Gauge, "Without labels").with(&[], 0.25),
        ];
        assert_eq!(
            render(&families),
            "# HELP a_total What a is\n# TYPE a_total counter\n\
             a_total{x=\"1\",y=\"q\\\"\\\\\\n\"} 3\na_total{x=\"2\",y=\"\"} 2500000000\n\
             # HELP b_seconds Without labels\n# TYPE b_seconds gauge\nb_seconds 0.25\n"
        );
    }

    #[test]
    fn this_process_has_resident_memory() {
        let text = render(&[of_process(&[("vmm", std::process::id())])]);
        assert!(text.contains("{process=\"vmm\",kind=\"anonymous\"} "), "{text}");
    }
}

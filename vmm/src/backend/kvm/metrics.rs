//! The figures of a machine on KVM: what this process counts, and what KVM does.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::Kvm;
use crate::devices::virtio::Counters;
use crate::metrics::{Family, Kind};

/// How often the guest was left for this process, by cause.
#[derive(Debug, Default)]
pub(super) struct Exits {
    pub mmio_read: AtomicU64,
    pub mmio_write: AtomicU64,
    /// A signal: pause, quit.
    pub interrupted: AtomicU64,
    /// Power off, reset.
    pub system_event: AtomicU64,
    /// What ended the machine.
    pub failed: AtomicU64,
}

/// The threads of the vCPUs, by their ids once they run.
#[derive(Debug)]
pub(super) struct Threads(Vec<AtomicI64>);

impl Threads {
    /// None of `count` runs.
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).map(|_| AtomicI64::new(0)).collect())
    }

    /// The caller is the thread of vCPU `index`.
    pub(super) fn enter(&self, index: u32) {
        if let Some(slot) = self.0.get(index as usize) {
            let id = rustix::thread::gettid().as_raw_nonzero().get();
            slot.store(id.into(), Ordering::Relaxed);
        }
    }

    /// The ids of those that run, up to the first that does not yet.
    pub(super) fn known(&self) -> Vec<i64> {
        let ids = self.0.iter().map(|id| id.load(Ordering::Relaxed));
        ids.take_while(|id| *id != 0).collect()
    }
}

/// How KVM's names for an exit's cause (Linux's arch/arm64/kvm/guest.c) are shown.
const CAUSES: [(&str, &str); 6] = [
    ("hvc_exit_stat", "hvc"),
    ("wfe_exit_stat", "wfe"),
    ("wfi_exit_stat", "wfi"),
    ("mmio_exit_user", "mmio_user"),
    ("mmio_exit_kernel", "mmio_kernel"),
    ("signal_exits", "signal"),
];

/// All figures of `machine`.
pub(super) fn of(machine: &Kvm) -> Vec<Family> {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let exits = &machine.shared.exits;
    let to_user = Family::new(
        "belljar_vmm_exits_total",
        Kind::Counter,
        "Exits of the guest's CPUs that this process answered, by cause",
    )
    .with(&[("cause", "mmio_read")], load(&exits.mmio_read))
    .with(&[("cause", "mmio_write")], load(&exits.mmio_write))
    .with(&[("cause", "interrupted")], load(&exits.interrupted))
    .with(&[("cause", "system_event")], load(&exits.system_event))
    .with(&[("cause", "failed")], load(&exits.failed));

    let mut all =
        Family::new("belljar_vcpu_exits_total", Kind::Counter, "Exits of a CPU, counted by KVM");
    let mut by_cause = Family::new(
        "belljar_vcpu_exits_by_cause_total",
        Kind::Counter,
        "Exits of a CPU whose cause KVM counts; mmio_kernel are notifications of virtio devices",
    );
    for (index, stats) in machine.stats.iter().enumerate() {
        let vcpu = index.to_string();
        for (name, value) in stats.iter().flat_map(|stats| stats.read()) {
            if name == "exits" {
                all.push(&[("vcpu", &vcpu)], value as f64);
            } else if let Some((_, cause)) = CAUSES.iter().find(|(known, _)| *known == name) {
                by_cause.push(&[("vcpu", &vcpu), ("cause", cause)], value as f64);
            }
        }
    }

    let mut notifications = Family::new(
        "belljar_virtio_notifications_total",
        Kind::Counter,
        "How often a virtio device was told to look at its queues",
    );
    let mut requests = Family::new(
        "belljar_virtio_requests_total",
        Kind::Counter,
        "Requests of the guest's driver that a virtio device has done",
    );
    let mut interrupts = Family::new(
        "belljar_virtio_interrupts_total",
        Kind::Counter,
        "Interrupts that a virtio device has raised",
    );
    for (name, counters) in &machine.counters {
        let Counters { notifications: notified, requests: done, interrupts: raised } = &**counters;
        let label = [("device", name.as_str())];
        notifications.push(&label, load(notified));
        requests.push(&label, load(done));
        interrupts.push(&label, load(raised));
    }
    let unclaimed = Family::new(
        "belljar_mmio_unclaimed_total",
        Kind::Counter,
        "Accesses of the guest to where no device is",
    )
    .with(&[], load(&machine.unclaimed));
    vec![all, by_cause, to_user, notifications, requests, interrupts, unclaimed]
}

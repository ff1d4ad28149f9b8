//! The cpu controller (cgroup-v2.rst, "CPU"): cpu.stat adds up over groups, groups that both have
//! something to do divide a CPU as their weights say, however many run in each, and none gets more than its
//! quota.
//!
//! PROCESS_MODEL.md, Namespaces: cgroup (v2: cpu).

use belljar_guest_tests::cgroups::*;
use belljar_guest_tests::*;

fn usage(group: &Group) -> u64 {
    group.value("cpu.stat", "usage_usec")
}

/// A child that computes on CPU 0 until it is killed.
fn hog(group: &Group) -> Idle {
    let idle = Idle::new(|| {
        check_eq!(cpus::bind(0, &[0]), 0);
        loop {
            std::hint::spin_loop();
        }
    });
    group.take(idle.pid);
    idle
}

fn end(hogs: Vec<Idle>) {
    for hog in hogs {
        // SAFETY: a child.
        ok(unsafe { libc::kill(hog.pid, libc::SIGKILL) });
        wait(hog.pid);
    }
}

/// Windows that are measured before the time of two groups is said not to relate as it should.
const WINDOWS: u32 = 12;

/// Checks how the time of two groups relates, over so many microseconds of both.
///
/// A host that is busy takes the CPU away in the middle of a turn and the guest counts that time as the turn's, so one
/// window may say anything. Windows are independent, and a scheduler that divides otherwise is not right in any.
fn check_ratio(a: &Group, b: &Group, enough: u64, should: std::ops::Range<f64>) {
    // What happened while they started does not count.
    let settle = enough / 4;
    while usage(a) + usage(b) < settle {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let mut got = Vec::new();
    for _ in 0..WINDOWS {
        let (a0, b0) = (usage(a), usage(b));
        while usage(a) - a0 + usage(b) - b0 < enough {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let ratio = (usage(a) - a0) as f64 / (usage(b) - b0).max(1) as f64;
        if should.contains(&ratio) {
            return;
        }
        got.push(ratio);
    }
    fail(&format!("{should:?} became {got:.2?}"));
}

fn settings() {
    let group = Group::new("weighed", "cpu");
    check_eq!(group.get("cpu.weight"), "100");
    check_eq!(group.get("cpu.weight.nice"), "0");
    group.set("cpu.weight", "300");
    check_eq!(group.get("cpu.weight"), "300");
    for bad in ["0", "10001"] {
        check_eq!(group.put("cpu.weight", bad), libc::ERANGE, "{bad}");
    }
    for bad in ["x", "-1"] {
        check_eq!(group.put("cpu.weight", bad), libc::EINVAL, "{bad}");
    }
    group.set("cpu.weight.nice", "-5");
    check_eq!(group.get("cpu.weight.nice"), "-5");
    check_eq!(group.get("cpu.weight"), "305");
    check_eq!(group.put("cpu.weight.nice", "20"), libc::ERANGE);
    check!(!root().join("cpu.weight").exists());
}

fn quota_settings() {
    let group = Group::new("quota", "cpu");
    check_eq!(group.get("cpu.max"), "max 100000");
    check_eq!(group.get("cpu.max.burst"), "0");
    for (text, then) in [
        ("20000", "20000 100000"),
        ("30000 50000", "30000 50000"),
        ("max", "max 50000"),
        ("250000 100000", "250000 100000"),
    ] {
        group.set("cpu.max", text);
        check_eq!(group.get("cpu.max"), then);
    }
    // Less than a millisecond, more than a second, no number.
    for bad in ["999", "1000 999", "1000 1000001", "x", "0 100000"] {
        check_eq!(group.put("cpu.max", bad), libc::EINVAL, "{bad}");
    }
    group.set("cpu.max.burst", "250000");
    check_eq!(group.get("cpu.max.burst"), "250000");
    check_eq!(group.put("cpu.max.burst", "250001"), libc::EINVAL);
    check_eq!(group.put("cpu.max", "200000"), libc::EINVAL);
    check_eq!(group.get("cpu.max"), "250000 100000");
    for name in ["nr_throttled", "throttled_usec", "nr_bursts", "burst_usec"] {
        check_eq!(group.value("cpu.stat", name), 0, "{name}");
    }
    // A period begins with the limit, and Linux counts it even if nobody ran.
    check!(group.get("cpu.stat").contains("nr_periods "));
    check!(!root().join("cpu.max").exists());
    // A group that the controller is not enabled for has none of this.
    let inner = group.child("inner");
    check!(!inner.file("cpu.max").exists());
    check!(!inner.get("cpu.stat").contains("nr_periods"));
}

/// Waits until something was counted.
fn wait_for(what: impl Fn() -> bool) {
    while !what() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// A group never has more than its quota, nor have those in it together.
fn quota_holds() {
    let outer = Group::new("throttled", "cpu");
    let inner = outer.child("inner");
    outer.set("cgroup.subtree_control", "+cpu");
    outer.set("cpu.max", "10000 100000");
    let mut hogs = [hog(&inner), hog(&inner)];
    hogs.iter_mut().for_each(Idle::go);
    wait_for(|| outer.value("cpu.stat", "nr_throttled") >= 1);
    let (begin, start) = (std::time::Instant::now(), usage(&inner));
    // Six quotas at least: four periods, and what began before and has not ended.
    wait_for(|| usage(&inner) - start >= 60_000);
    let elapsed = begin.elapsed();
    check!(elapsed.as_millis() >= 350, "{elapsed:?}");
    check!(outer.value("cpu.stat", "nr_periods") >= outer.value("cpu.stat", "nr_throttled"));
    check!(outer.value("cpu.stat", "throttled_usec") > 0);
    check_eq!(inner.value("cpu.stat", "nr_throttled"), 0);

    // Signals still reach who waits.
    let [first, second] = hogs;
    end(vec![first]);
    // A larger quota counts at once, however much is owed.
    outer.set("cpu.max", "1000 1000000");
    let before = outer.value("cpu.stat", "nr_throttled");
    wait_for(|| outer.value("cpu.stat", "nr_throttled") > before);
    outer.set("cpu.max", "max");
    let start = usage(&inner);
    wait_for(|| usage(&inner) - start >= 50_000);
    // Who leaves is not held back.
    outer.set("cpu.max", "1000 1000000");
    let free = Group::new("free", "cpu");
    free.take(second.pid);
    wait_for(|| usage(&free) >= 50_000);
    end(vec![second]);
}

fn time_adds_up() {
    let outer = Group::new("sums", "cpu");
    let inner = outer.child("inner");
    let mut hogs = vec![hog(&inner)];
    hogs[0].go();
    while usage(&inner) < 50_000 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    check!(usage(&outer) >= 50_000);
    let (user, system) =
        (inner.value("cpu.stat", "user_usec"), inner.value("cpu.stat", "system_usec"));
    check!(user + system >= 50_000);
    end(std::mem::take(&mut hogs));
    // What a group that is gone used stays in the one around it.
    let before = usage(&outer);
    drop(inner);
    check!(usage(&outer) >= before);
    check!(value(root().join("cpu.stat"), "usage_usec") >= before);
}

fn weights_divide_a_cpu() {
    let (heavy, light) = (Group::new("heavy", "cpu"), Group::new("light", "cpu"));
    heavy.set("cpu.weight", "300");
    // However many run in each.
    let mut hogs = vec![hog(&heavy), hog(&light), hog(&light)];
    hogs.iter_mut().for_each(Idle::go);
    check_ratio(&heavy, &light, 4_000_000, 2.2..4.0);
    // A change takes effect on what runs.
    heavy.set("cpu.weight", "100");
    light.set("cpu.weight", "200");
    check_ratio(&light, &heavy, 4_000_000, 1.4..2.8);
    end(hogs);
}

fn weights_count_level_by_level() {
    let (outer, other) = (Group::new("levels", "cpu"), Group::new("other", "cpu"));
    let (one, two) = (outer.child("one"), outer.child("two"));
    outer.set("cgroup.subtree_control", "+cpu");
    one.set("cpu.weight", "300");
    let mut hogs = vec![hog(&one), hog(&two), hog(&other)];
    hogs.iter_mut().for_each(Idle::go);
    check_ratio(&one, &two, 3_000_000, 2.0..4.5);
    check_ratio(&outer, &other, 3_000_000, 0.7..1.4);
    // Without the controller inside, the three compete in two groups still.
    outer.set("cgroup.subtree_control", "-cpu");
    check_ratio(&one, &two, 3_000_000, 0.6..1.6);
    end(hogs);
}

fn main() {
    settings();
    quota_settings();
    quota_holds();
    time_adds_up();
    weights_divide_a_cpu();
    weights_count_level_by_level();
}

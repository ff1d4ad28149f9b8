//! What `belljar` reads from outside is what the guest says of itself in /proc.

use belljar_tests::guest::Waiting;
use belljar_tests::sandbox::eventually;
use serde_json::{Value, json};

fn row(rows: &[Value], key: &str, value: Value) -> Value {
    let found = rows.iter().find(|row| row[key] == value);
    found.cloned().unwrap_or_else(|| panic!("no {key} {value} in {rows:#?}"))
}

#[test]
fn ps_agrees_with_proc_pid_stat() {
    let vm = Waiting::start(
        "sleep 1000 & sleep 2000 & (sleep 3000; true) & sleep 1
         for p in /proc/[0-9]*; do cat $p/stat 2>/dev/null; done; echo END; wait",
    );
    let rows = vm.guest.rows(&["ps", "t"]);
    let mut compared = 0;
    for line in &vm.printed {
        // proc_pid_stat(5): pid (comm) state ppid pgrp session …
        let (pid, rest) = line.split_once(" (").unwrap_or_else(|| panic!("{line:?}"));
        let (comm, rest) = rest.rsplit_once(") ").unwrap();
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |n: usize| -> Value { json!(fields[n - 3].parse::<i64>().unwrap()) };
        let Some(seen) = rows.iter().find(|row| row["pid"].as_u64() == pid.parse().ok()) else {
            // `cat` is gone since it showed itself.
            assert_eq!(comm, "cat", "{line}");
            continue;
        };
        let name = seen["comm"].as_str().unwrap();
        assert_eq!(name.trim_matches(['[', ']']), comm, "{line}");
        for (key, n) in
            [("ppid", 4), ("pgid", 5), ("sid", 6), ("nice", 19), ("threads", 20), ("vsz", 23)]
        {
            assert_eq!(seen[key], number(n), "{key} of {line}");
        }
        if comm == "sleep" {
            assert_eq!((seen["state"].as_str(), fields[0]), (Some("S"), "S"), "{line}");
            assert_eq!(
                seen["rss"].as_i64().unwrap(),
                number(24).as_i64().unwrap() * 4096,
                "{line}"
            );
            compared += 1;
        }
    }
    assert_eq!(compared, 3);
    let brackets = rows.iter().filter(|row| row["comm"].as_str().unwrap().starts_with('[')).count();
    assert!(brackets >= 3, "{rows:#?}");
}

#[test]
fn maps_agrees_with_proc_pid_maps() {
    let vm = Waiting::start("sleep 1000 & sleep 1; cat /proc/$!/maps; echo END; wait");
    let sleeper = row(&vm.guest.rows(&["ps", "t"]), "comm", json!("sleep"));
    let rows = vm.rows("maps", sleeper["pid"].as_u64().unwrap());
    let hex = |value: &Value| {
        u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
    };
    let seen: Vec<String> = rows
        .iter()
        .map(|row| {
            let (start, end) = (hex(&row["start"]), hex(&row["end"]));
            let perms = row["perms"].as_str().unwrap();
            format!("{start:08x}-{end:08x} {perms} {:08x}", row["offset"].as_u64().unwrap())
        })
        .collect();
    let said: Vec<String> = vm
        .printed
        .iter()
        .map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(seen, said);
    // What the tables hold is what the counters say.
    let total: u64 = rows.iter().map(|row| row["rss"].as_u64().unwrap()).sum();
    assert_eq!(sleeper["rss"], total);
    assert!(rows.iter().any(|row| row["name"].as_str().is_some_and(|n| n.contains("busybox"))));
}

#[test]
fn a_fork_shares_memory_until_somebody_writes() {
    // Half a megabyte in the shell's memory, then a fork that only waits.
    let vm = Waiting::start(
        "x=$(head -c 500000 /dev/zero | tr '\\0' x); (read y < /dev/ttyS9 2>/dev/null; sleep 1000; true) &
         sleep 1; echo END; wait",
    );
    let rows = vm.guest.rows(&["ps", "t"]);
    let fork = row(&rows, "comm", json!("sleep"))["ppid"].as_u64().unwrap();
    let cow = |pid: u64| -> u64 {
        vm.rows("maps", pid).iter().map(|row| row["cow"].as_u64().unwrap()).sum()
    };
    assert!(cow(1) >= 400_000, "{}", cow(1));
    assert!(cow(fork) >= 400_000, "{}", cow(fork));
}

#[test]
fn bt_names_the_call_that_sleeps_and_its_way_in() {
    let vm = Waiting::start("sleep 1000 & sleep 1; echo END; wait");
    let sleeper = row(&vm.guest.rows(&["ps", "t"]), "comm", json!("sleep"));
    let rows = vm.rows("bt", sleeper["pid"].as_u64().unwrap());
    let functions: Vec<&str> = rows.iter().map(|row| row["function"].as_str().unwrap()).collect();
    assert!(functions.iter().any(|f| f.ends_with("nanosleep")), "{functions:?}");
    assert_eq!(functions.last(), Some(&"el0_sync"));
    // The kernel was built here, so its source lines are known.
    assert!(
        rows.iter().any(|row| {
            row["source"].as_str().is_some_and(|line| line.starts_with("src/sched/"))
        })
    );
}

#[test]
fn bt_of_a_task_on_a_cpu_shows_where_it_is() {
    // One hardly leaves the kernel and one hardly enters it; neither ever sleeps.
    let vm = Waiting::start(
        "dd if=/dev/zero of=/dev/null bs=4M & while :; do :; done & sleep 1; echo END; wait",
    );
    let rows = vm.guest.rows(&["ps", "t"]);
    let copier = row(&rows, "comm", json!("dd"))["pid"].as_u64().unwrap();
    let busy = |row: &&Value| row["comm"] == "sh" && row["ppid"] == 1 && row["state"] == "R";
    let counter = rows.iter().find(busy).unwrap()["pid"].as_u64().unwrap();
    // What the process's stack looks like at a moment when it is on the CPU.
    let caught = |pid: u64, wanted: &dyn Fn(&[String]) -> bool| {
        eventually("the process is caught", || {
            assert_eq!(vm.guest.run(&["pause", "t"], "").code, 0);
            let on_cpu = row(&vm.rows("task", pid), "field", json!("se.on_cpu"))["value"] == true;
            let frames = vm.rows("bt", pid);
            assert_eq!(vm.guest.run(&["unpause", "t"], "").code, 0);
            let name = |frame: &Value| frame["function"].as_str().unwrap_or_default().to_owned();
            on_cpu && wanted(&frames.iter().map(name).collect::<Vec<_>>())
        });
    };
    caught(copier, &|functions| {
        functions.len() > 2
            && functions.iter().any(|function| function.contains("read"))
            && functions.last().is_some_and(|last| last == "el0_sync")
    });
    caught(counter, &|functions| functions == ["(in the program on CPU 0)"]);
}

#[test]
fn vtop_ends_at_the_page_that_maps_counts() {
    let vm = Waiting::start("sleep 1; echo END; sleep 1000");
    let maps = vm.rows("maps", 1);
    let text = row(&maps, "perms", json!("r-xp"));
    let steps = vm.guest.rows(&["vtop", "t", "1", text["start"].as_str().unwrap()]);
    let levels: Vec<u64> = steps.iter().map(|step| step["level"].as_u64().unwrap()).collect();
    assert_eq!(levels, [0, 1, 2, 3]);
    assert_eq!(steps[3]["type"], "page");
    assert!(steps[3]["refcount"].as_u64().unwrap() >= 1);
    let attributes = steps[3]["attributes"].as_array().unwrap();
    for attribute in ["ro", "EL0", "PXN"] {
        assert!(attributes.contains(&json!(attribute)), "{attributes:?}");
    }
    let beyond = vm.guest.rows(&["vtop", "t", "1", "0x1000"]);
    assert_eq!(beyond.last().unwrap()["type"], "invalid");
}

#[test]
fn a_busy_guest_is_seen_whole_every_time() {
    let vm = Waiting::start(
        "while :; do ls / | sort >/dev/null; done & while :; do (echo a | cat >/dev/null); done &
         echo END; wait",
    );
    eventually("both loops run", || vm.guest.rows(&["ps", "t"]).len() > 7);
    for _ in 0..30 {
        let done = vm.guest.run(&["ps", "t", "--format", "json"], "");
        let answer: Value = serde_json::from_str(&done.stdout).unwrap();
        assert_eq!(answer["consistency"], "quiesced", "{answer:#}");
        let rows = answer["rows"].as_array().unwrap();
        // Every process has its parent in the same answer.
        for row in rows {
            let ppid = &row["ppid"];
            assert!(*ppid == 0 || rows.iter().any(|r| r["pid"] == *ppid), "{row}");
        }
    }
}

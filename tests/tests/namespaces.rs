//! Namespaces with tools that nobody here wrote, and as they look from outside.

use belljar_tests::guest::{Guest, Waiting};
use serde_json::{Value, json};

/// The worked example of the literature: a task in a pid namespace of the third level, which calls it
/// 10; the one around it calls it 20, and the machine's own 30000.
const THREE_LEVELS: &str = r#"
    mkfifo /tmp/a /tmp/b /tmp/c /tmp/d; mkdir /tmp/p
    unshare -p -f sh -c '
        unshare -p -f sh -c "
            read x < /tmp/a
            echo 9 > /proc/sys/kernel/ns_last_pid
            sleep 1000 & echo inner \$!; echo > /tmp/c; wait" &
        read x < /tmp/b
        echo 19 > /proc/sys/kernel/ns_last_pid
        echo > /tmp/a; read x < /tmp/c
        mount -t proc none /tmp/p; grep NSpid /tmp/p/20/status | while read a b; do echo middle $b; done
        echo > /tmp/d; wait' &
    sleep 1
    echo 29999 > /proc/sys/kernel/ns_last_pid
    echo > /tmp/b; read x < /tmp/d
    grep NSpid /proc/30000/status | while read a b; do echo outer $b; done
    echo END; wait
"#;

fn find<'a>(rows: &'a [Value], key: &str, value: &Value) -> &'a Value {
    let found = rows.iter().find(|row| &row[key] == value);
    found.unwrap_or_else(|| panic!("no {key} {value} in {rows:#?}"))
}

#[test]
fn a_task_of_the_third_level_has_its_three_numbers_inside_and_outside() {
    let vm = Waiting::start(THREE_LEVELS);
    let printed: Vec<String> =
        vm.printed.iter().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in ["inner 10", "middle 20 10", "outer 30000 20 10"] {
        assert!(printed.iter().any(|l| l == line), "no {line:?} in {printed:?}");
    }

    let fields = vm.rows("task", 30000);
    assert_eq!(find(&fields, "field", &json!("numbers"))["value"], json!([30000, 20, 10]));

    let rows = vm.guest.rows(&["ns", "t"]);
    let pids: Vec<&Value> = rows.iter().filter(|row| row["type"] == "pid").collect();
    let levels: Vec<u64> = pids.iter().filter_map(|row| row["level"].as_u64()).collect();
    assert_eq!(levels, [0, 1, 2], "{rows:#?}");
    let third = pids[2];
    let members = third["members"].as_str().unwrap();
    assert!(members.split(' ').any(|m| m == "30000/20/10"), "{members}");
    assert_eq!(third["processes"], 2, "{third}");
    // Of the other kinds there is one of each.
    for kind in ["user", "uts", "ipc", "mnt", "net", "cgroup", "time"] {
        assert_eq!(rows.iter().filter(|row| row["type"] == kind).count(), 1, "{kind}");
    }

    let tree = vm.guest.rows(&["ns", "t", "--tree"]);
    let depths: Vec<u64> = tree
        .iter()
        .filter(|row| row["type"] == "pid")
        .filter_map(|row| row["depth"].as_u64())
        .collect();
    assert_eq!(depths, [0, 1, 2], "{tree:#?}");

    // Each level by its own numbers: what is inside is seen, what is outside is not.
    let seen = |row: &Value| {
        let inode = row["inode"].to_string();
        vm.guest.rows(&["ps", "t", "--ns", &inode])
    };
    let inner = seen(third);
    let sleeper = find(&inner, "comm", &json!("sleep"));
    assert_eq!((&sleeper["pid"], &sleeper["ppid"]), (&json!(10), &json!(1)), "{inner:#?}");
    assert_eq!(inner.len(), 2);
    let middle = seen(pids[1]);
    assert!(middle.iter().any(|row| row["pid"] == 20 && row["comm"] == "sleep"), "{middle:#?}");
    assert!(middle.len() >= 4, "{middle:#?}");
    let none = vm.guest.run(&["ps", "t", "--ns", "7"], "");
    assert_eq!(none.code, 125);
    assert!(none.stderr.contains("no namespace 7"), "{}", none.stderr);
}

/// What a script prints in the image with util-linux and bubblewrap.
fn with_tools(script: &str) -> (i32, Vec<String>) {
    let done = Guest::new().run(&["run", "namespaces", "--", "/bin/bash", "-c", script], "");
    assert_eq!(done.stderr, "", "{}", done.stdout);
    (done.code, done.stdout.lines().map(str::to_owned).collect())
}

#[test]
fn unshare_nsenter_and_lsns_work_unchanged() {
    let (code, lines) = with_tools(
        r#"
        unshare --user --map-root-user --pid --fork --mount-proc --uts --ipc --net --cgroup --time \
            sh -c 'id -u; echo $$; ls /proc | grep -c "^[0-9]"; lsns -n -o TYPE | sort | tr "\n" " "; echo'
        unshare --uts --pid --fork --mount-proc sh -c 'echo inner > /proc/sys/kernel/hostname; sleep 60' &
        until grep -q sleep /proc/*/comm 2>/dev/null; do sleep 0.1; done
        target=$(pgrep -x sleep 2>/dev/null || grep -l sleep /proc/[0-9]*/comm | head -n1 | cut -d/ -f3)
        nsenter -t $target --uts --pid --mount sh -c 'cat /proc/sys/kernel/hostname; ls /proc | grep -c "^[12]$"'
        cat /proc/sys/kernel/hostname
        kill -9 $target"#,
    );
    assert_eq!(code, 0, "{lines:?}");
    assert_eq!(lines[..3], ["0", "1", "3"], "{lines:?}");
    assert_eq!(lines[3].trim(), "cgroup ipc mnt net pid time user uts");
    assert_eq!(lines[4..], ["inner", "2", "belljar"], "{lines:?}");
}

#[test]
fn bubblewrap_closes_a_program_in() {
    let (code, lines) = with_tools(
        "bwrap --unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup \
            --ro-bind / / --proc /proc --dev /dev --tmpfs /tmp --die-with-parent \
            sh -c 'id -u; ls /proc | grep -c ^[0-9]; touch /x 2>&1; touch /tmp/y && echo made
                   echo > /dev/null && echo null; kill -9 1; echo alive'",
    );
    assert_eq!(code, 0, "{lines:?}");
    assert_eq!(lines[0], "0");
    assert!(lines[2].contains("Read-only file system"), "{lines:?}");
    assert_eq!(lines[3..], ["made", "null", "alive"], "{lines:?}");
}

#[test]
fn ipcmk_ipcs_and_ipcrm_work_unchanged() {
    let (code, lines) = with_tools(
        r#"
        ipcmk -M 65536 -p 0640 > /dev/null; ipcmk -S 5 -p 0600 > /dev/null; ipcmk -Q -p 0622 > /dev/null
        rows() { ipcs $1 | awk '$1 ~ /^0x/ {print $4, $5, $6}'; }
        rows -m; rows -s; rows -q
        ipcs -l | grep -c '='
        unshare --ipc sh -c 'ipcs | grep -c ^0x; ipcmk -Q | grep -c "Message queue id"'
        ipcrm -m $(ipcs -m | awk '$1 ~ /^0x/ {print $2}') && rows -m
        ipcrm -a; ipcs | grep -c ^0x"#,
    );
    assert_eq!(code, 1, "{lines:?}");
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    assert_eq!(lines[..3], ["640 65536 0", "600 5", "622 0 0"], "{lines:?}");
    assert_eq!(lines[4..], ["0", "1", "0"], "{lines:?}");
}

#[test]
fn bubblewrap_unshares_everything_and_mounts_its_own_terminals() {
    let (code, lines) = with_tools(
        "echo outside; exec bwrap --unshare-all --hostname inside --ro-bind / / --proc /proc --dev /dev \
            sh -c 'cat /proc/sys/kernel/hostname; ls /dev/pts; ls /sys/class/net 2>/dev/null
                   grep -c : /proc/net/dev; test -c /dev/pts/ptmx && readlink /dev/ptmx
                   : 3<> /dev/ptmx && echo pair; ipcs | grep -c ^0x; kill -0 $PPID 2>&1 | wc -l'",
    );
    assert_eq!(code, 0, "{lines:?}");
    assert_eq!(lines[..2], ["outside", "inside"], "{lines:?}");
    assert!(lines.iter().any(|line| line == "pts/ptmx"), "{lines:?}");
    assert!(lines.iter().any(|line| line == "pair"), "{lines:?}");
}

#[test]
fn busybox_joins_two_network_namespaces() {
    let done = Guest::new().sh(r#"
        ip link add va type veth
        unshare -n sh -c 'echo $$ > /tmp/pid; while :; do sleep 100; done' &
        until [ -s /tmp/pid ]; do sleep 0.1; done
        pid=$(cat /tmp/pid)
        there() { nsenter -t $pid -n "$@"; }
        ip link set veth0 netns $pid
        ip addr add 10.9.0.1/24 dev va; ip link set va up
        ip addr add 10.8.0.1/32 dev lo; ip link set lo up
        there ip addr add 10.9.0.2/24 dev veth0; there ip link set veth0 up
        ip link | grep -c veth0:
        there ip route
        ping -c 2 -W 20 10.9.0.2 | grep -o '2 packets received'
        there ping -c 1 -W 5 10.8.0.1 2>&1 | grep -o unreachable
        there ip route add default via 10.9.0.1
        there ping -c 2 -W 20 10.8.0.1 | grep -o '2 packets received'
        there nc -l -p 7000 > /tmp/there & listener=$!
        until there grep -q ':1B58 .* 0A ' /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done
        echo to there | nc -w 20 10.9.0.2 7000; wait $listener
        nc -l -p 7001 > /tmp/here & listener=$!
        until grep -q ':1B59 .* 0A ' /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done
        echo to here | there nc -w 20 10.9.0.1 7001; wait $listener
        cat /tmp/there /tmp/here
        kill $pid"#);
    let lines: Vec<&str> = done.stdout.lines().map(str::trim).collect();
    assert_eq!(lines[0], "0", "{done:?}");
    assert!(lines[1].starts_with("10.9.0.0/24 dev veth0 scope link"), "{done:?}");
    let rest = ["2 packets received", "unreachable", "2 packets received", "to there", "to here"];
    assert_eq!(lines[2..], rest, "{done:?}");
}

//! Namespaces with tools that nobody here wrote, and as they look from outside.
//!
//! Debian's util-linux, iproute2, bubblewrap, crun and BusyBox, unchanged, on QEMU and on KVM.
//!
//! PROCESS_MODEL.md, Namespaces: all kinds, as users of containers make them.

use belljar_tests::guest::{Guest, Waiting};
use serde_json::{Value, json};

/// The worked example of the literature: a task in a pid namespace of the third level, which calls it
/// 10; the one around it calls it 20, and the machine's own 30.
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
    echo 29 > /proc/sys/kernel/ns_last_pid
    echo > /tmp/b; read x < /tmp/d
    grep NSpid /proc/30/status | while read a b; do echo outer $b; done
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
    for line in ["inner 10", "middle 20 10", "outer 30 20 10"] {
        assert!(printed.iter().any(|l| l == line), "no {line:?} in {printed:?}");
    }

    let fields = vm.rows("task", 30);
    assert_eq!(find(&fields, "field", &json!("numbers"))["value"], json!([30, 20, 10]));

    let rows = vm.guest.rows(&["ns", "t"]);
    let pids: Vec<&Value> = rows.iter().filter(|row| row["type"] == "pid").collect();
    let levels: Vec<u64> = pids.iter().filter_map(|row| row["level"].as_u64()).collect();
    assert_eq!(levels, [0, 1, 2], "{rows:#?}");
    let third = pids[2];
    let members = third["members"].as_str().unwrap();
    assert!(members.split(' ').any(|m| m == "30/20/10"), "{members}");
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
            sh -c 'id -u; echo $$; set -- /proc/[0-9]*; echo $#; lsns -n -o TYPE | sort | tr "\n" " "; echo'
        # It cannot end itself by the signal that ended its child, and says so.
        unshare --uts --pid --fork --mount-proc sh -c 'echo inner > /proc/sys/kernel/hostname; sleep 60' \
            2> /dev/null &
        until grep -q sleep /proc/*/comm 2>/dev/null; do sleep 0.1; done
        target=$(pgrep -x sleep 2>/dev/null || grep -l sleep /proc/[0-9]*/comm | head -n1 | cut -d/ -f3)
        nsenter -t $target --uts --pid --mount sh -c 'cat /proc/sys/kernel/hostname; ls /proc | grep -c "^[12]$"'
        cat /proc/sys/kernel/hostname
        kill -9 $target"#,
    );
    assert_eq!(code, 0, "{lines:?}");
    assert_eq!(lines[..3], ["0", "1", "1"], "{lines:?}");
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
        # From a file: a listener with nothing to say hangs up, and a caller that has not spoken yet does then.
        echo to there > /tmp/words; nc -w 20 10.9.0.2 7000 < /tmp/words; wait $listener
        nc -l -p 7001 > /tmp/here & listener=$!
        until grep -q ':1B59 .* 0A ' /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done
        echo to here > /tmp/words; there nc -w 20 10.9.0.1 7001 < /tmp/words; wait $listener
        cat /tmp/there /tmp/here
        kill $pid"#);
    let lines: Vec<&str> = done.stdout.lines().map(str::trim).collect();
    assert_eq!(lines[0], "0", "{done:?}");
    assert!(lines[1].starts_with("10.9.0.0/24 dev veth0 scope link"), "{done:?}");
    let rest = ["2 packets received", "unreachable", "2 packets received", "to there", "to here"];
    assert_eq!(lines[2..], rest, "{done:?}");
}

/// Every namespace of a machine in which nobody has made one: the initial ones, which exist from boot
/// (PROCESS_MODEL.md, Namespaces: nsproxy, INIT_NSPROXY; `belljar ns`).
#[test]
fn the_initial_namespaces_exist_from_boot_and_hold_every_process() {
    let vm = Waiting::start(
        "for kind in user uts ipc mnt net cgroup time pid; do readlink /proc/1/ns/$kind; done
         sleep 1000 & echo END; wait",
    );
    let rows = vm.guest.rows(&["ns", "t"]);
    let shown: Vec<String> =
        rows.iter().map(|r| format!("{}:[{}]", r["type"].as_str().unwrap(), r["inode"])).collect();
    let (mut inside, mut outside) = (vm.printed.clone(), shown);
    inside.sort();
    outside.sort();
    assert_eq!(inside, outside);
    // Those that Linux numbers for good have its numbers (linux/proc_ns.h).
    let fixed = [
        ("ipc", 0xefff_ffff_u32),
        ("uts", 0xefff_fffe),
        ("user", 0xefff_fffd),
        ("pid", 0xefff_fffc),
        ("cgroup", 0xefff_fffb),
        ("time", 0xefff_fffa),
    ];
    for (kind, inode) in fixed {
        assert_eq!(find(&rows, "type", &json!(kind))["inode"], inode, "{kind}");
    }
    let processes = vm.guest.rows(&["ps", "t"]).len();
    for row in &rows {
        assert_eq!(row["processes"], processes, "{row}");
        assert_eq!(row["level"].as_u64().unwrap_or(0), 0, "{row}");
    }
}

/// PROCESS_MODEL.md, Namespaces: net (interfaces, sockets, routes; veth pairs).
#[test]
fn iproute2_works_unchanged_between_network_namespaces() {
    let (code, lines) = with_tools(
        r#"
        ip netns add one; ip netns add two
        ip link add va netns one type veth peer name vb netns two
        ip -n one addr add 10.9.0.1/24 dev va; ip -n one link set va up
        ip -n two addr add 10.9.0.2/24 dev vb; ip -n two link set vb up
        ip -br link; ip -n one -br addr show va
        ip -n one -o link show va | grep -o 'link-netns two'
        ip netns list | sort
        ip -n two route; ip -n one route get 10.9.0.2 | head -n1
        ip -n one route add 10.10.0.0/16 via 10.9.0.2; ip -n one route show 10.10.0.0/16
        ip netns exec one ls /sys/class/net; ls /sys/class/net
        ip netns exec one cat /sys/class/net/va/operstate
        mkfifo /tmp/a /tmp/b; exec 8<> /tmp/a 9<> /tmp/b
        ip netns exec two busybox nc -l -p 7000 < /tmp/a > /tmp/there & server=$!
        until ip netns exec two ss -tlnH | grep -q :7000; do sleep 0.1; done
        ip netns exec two ss -tlnpH | awk '{print $1, $4, $6}' | sed 's/pid=[0-9]*/pid=N/'
        ss -tlnH | wc -l
        ip netns exec one busybox nc 10.9.0.2 7000 < /tmp/b & client=$!
        echo hello > /tmp/b
        until [ -s /tmp/there ]; do sleep 0.1; done
        ip netns exec one ss -tnH | awk '{print $1, $5}'
        cat /tmp/there
        ip -n one -s -j link show va | grep -o '"tx":{"bytes":[1-9]' | cut -c1-4
        ip -n one neigh | awk '{print $1, $3, $4}'
        [ "$(ip netns pids one)" = $client ] && echo its process
        kill $server; wait
        ip netns del one; ip netns del two; ip netns list | wc -l
        "#,
    );
    assert_eq!(code, 0, "{lines:#?}");
    let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = lines.iter().map(words).collect();
    let fixed = |from: usize, expected: &[&str]| {
        assert_eq!(lines[from..from + expected.len()], *expected, "{lines:#?}");
    };
    assert!(lines[0].starts_with("lo DOWN 00:00:00:00:00:00"), "{lines:#?}");
    assert!(lines[1].starts_with("va@if2 UP 10.9.0.1/24"), "{lines:#?}");
    fixed(2, &["link-netns two", "one", "two"]);
    fixed(5, &["10.9.0.0/24 dev vb proto kernel scope link src 10.9.0.2"]);
    assert!(lines[6].starts_with("10.9.0.2 dev va src 10.9.0.1"), "{lines:#?}");
    fixed(7, &["10.10.0.0/16 via 10.9.0.2 dev va", "lo", "va", "lo", "up"]);
    fixed(12, &["LISTEN *:7000 users:((\"busybox\",pid=N,fd=3))", "0"]);
    fixed(14, &["ESTAB 10.9.0.2:7000", "hello", "\"tx\"", "10.9.0.2 va lladdr"]);
    fixed(18, &["its process", "0"]);
}

#[test]
fn iproute2_shows_rules_and_sums_of_sockets() {
    let (code, lines) = with_tools(
        r#"
        ip rule; ip -6 rule
        ip netns add one; ip netns add two
        ip link add va netns one type veth peer name vb netns two
        ip -n one addr add 10.9.0.1/24 dev va; ip -n one link set va up; ip -n one link set lo up
        ip -n two addr add 10.9.0.2/24 dev vb; ip -n two link set vb up
        ip netns exec one busybox nc -l -p 7000 < /dev/null > /tmp/there & server=$!
        until ip netns exec one ss -tlnH | grep -q :7000; do sleep 0.1; done
        ip netns exec one ss -s
        ip netns exec one busybox nc 127.0.0.1 7000 < /dev/null
        wait $server
        ip netns exec one ss -s | grep TCP: | sed 's/.*timewait/timewait/'
        # What does not fit into one frame goes in pieces, there and back.
        ip netns exec one busybox ping -c 1 -s 4000 10.9.0.2 | grep -c ' 0% packet loss'
        counts() {
            awk '/^(Ip|Icmp):/ { if (n++ % 2 == 0) split($0, title); else for (i = 2; i <= NF; i++)
                if (title[i] ~ /^(Reasm|Frag|InEcho|OutEcho)/) print title[i], $i }' /proc/net/snmp | tr '
' ' '
            echo
        }
        export -f counts
        ip netns exec one bash -c counts; ip netns exec two bash -c counts
        "#,
    );
    assert_eq!(code, 0, "{lines:#?}");
    let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = lines.iter().map(words).filter(|line| !line.is_empty()).collect();
    let pieces =
        "ReasmTimeout 0 ReasmReqds 3 ReasmOKs 1 ReasmFails 0 FragOKs 1 FragFails 0 FragCreates 3";
    assert_eq!(
        lines,
        [
            "0: from all lookup local",
            "32766: from all lookup main",
            "32767: from all lookup default",
            "0: from all lookup local",
            "32766: from all lookup main",
            // The listener is of IPv6, and takes both.
            "Total: 1",
            "TCP: 1 (estab 0, closed 0, orphaned 0, timewait 0)",
            "Transport Total IP IPv6",
            "RAW 0 0 0",
            "UDP 0 0 0",
            "TCP 1 0 1",
            "INET 1 0 1",
            "FRAG 0 0 0",
            "timewait 1)",
            "1",
            &format!("{pieces} InEchos 0 InEchoReps 1 OutEchos 1 OutEchoReps 0"),
            &format!("{pieces} InEchos 1 InEchoReps 0 OutEchos 0 OutEchoReps 1"),
        ],
        "{lines:#?}"
    );
}

/// Debian's own programs about credentials (PROCESS_MODEL.md, Identity: credentials: ids, capability sets,
/// securebits, no_new_privs).
#[test]
fn setpriv_capsh_and_newuidmap_work_unchanged() {
    let (code, lines) = with_tools(
        r#"
        echo root:x:0:0::/root:/bin/bash > /etc/passwd; echo user:x:1000:1000::/:/bin/bash >> /etc/passwd
        echo user:100000:65536 > /etc/subuid; cp /etc/subuid /etc/subgid
        as_user='setpriv --reuid 1000 --regid 1000 --clear-groups'
        capsh --print | grep -E '^(Current:|uid=)'
        $as_user --inh-caps +net_raw --ambient-caps +net_raw capsh --print | grep -E '^(Current:|Ambient)'
        setpriv --securebits +noroot,+noroot_locked capsh --print | grep -E '^(Current:|Securebits)'
        $as_user --no-new-privs /bin/mount -t tmpfs none /tmp 2>&1 | grep -o 'must be superuser'
        capsh --drop=cap_sys_admin -- -c 'unshare --uts true 2>&1 | grep -o "not permitted"'
        $as_user bash -c '
            mkfifo /tmp/go; unshare --user sh -c "echo > /tmp/go; exec sleep 1000" & p=$!
            read x < /tmp/go
            newuidmap $p 0 1000 1 1 100000 65535; newgidmap $p 0 1000 1 1 100000 65535
            newuidmap $p 0 0 1 2>&1 | grep -o "not allowed"
            cat /proc/$p/uid_map /proc/$p/gid_map; kill $p'
        $as_user unshare --map-auto --map-root-user cat /proc/self/uid_map
        busybox unshare -U -r busybox id -u
        mkdir -p /new/bin; cp /bin/busybox /new/bin; chroot /new /bin/busybox ls / "#,
    );
    assert_eq!(code, 0, "{lines:#?}");
    let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = lines.iter().map(words).collect();
    let expected = [
        "Current: =ep",
        "uid=0(root) euid=0(root)",
        "Current: cap_net_raw=eip",
        "Ambient set =cap_net_raw",
        "Current: =",
        "Securebits: 03/0x3/2'b11 (no-new-privs=0)",
        "must be superuser",
        "not permitted",
        "not allowed",
        "0 1000 1",
        "1 100000 65535",
        "0 1000 1",
        "1 100000 65535",
        "0 1000 1",
        "1 100000 65535",
        "0",
        "bin",
    ];
    assert_eq!(lines, expected);
}

/// A bundle's configuration (OCI runtime specification) as `crun spec` writes it, but for the rules about
/// devices, which Linux has as eBPF programs.
fn bundle(script: &str) -> String {
    let mount = |at: &str, kind: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
    let few = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let namespaces = ["pid", "network", "ipc", "uts", "cgroup", "mount"];
    let namespaces = namespaces.map(|kind| json!({"type": kind}));
    json!({
        "ociVersion": "1.0.0",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": few, "effective": few, "permitted": few, "ambient": few},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "contained",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
            {"destination": "/bound", "type": "bind", "source": "/bound", "options": ["rbind", "rro"]},
        ],
        "linux": {
            "resources": {"pids": {"limit": 20}},
            "namespaces": namespaces,
            "maskedPaths": ["/proc/sysvipc", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys"],
        },
    })
    .to_string()
}

/// Debian's crun: a container from start to end, and what can be done with a running one.
#[test]
fn crun_runs_containers() {
    let inside = "hostname; echo number $$; id -u; touch /x 2>&1; cat /proc/1/comm
        grep -E 'CapEff|NoNewPrivs' /proc/self/status; cat /proc/self/cgroup; ls /sys/class/net
        ls -l /dev/ptmx | grep -o 'pts/ptmx'; cat /proc/sysvipc/shm 2>&1; ulimit -n
        echo 1 2>/dev/null > /proc/sys/kernel/ns_last_pid || echo kept
        cat /bound/file; touch /bound/sub/file 2>&1; cat /sys/fs/cgroup/pids.max";
    let script = r#"
        mount -t cgroup2 none /sys/fs/cgroup
        mkdir -p /bound /b/rootfs/bin /b/rootfs/proc /b/rootfs/sys /b/rootfs/dev /b/rootfs/bound
        cp /bin/busybox /b/rootfs/bin
        for i in sh hostname id touch ls grep cat sleep; do ln -s busybox /b/rootfs/bin/$i; done
        echo bound > /bound/file; mkdir /bound/sub; mount -t tmpfs sub /bound/sub
        cd /b; cp /one.json config.json; crun run one; echo ended $?
        cp /two.json config.json; crun run --detach two
        crun list | awk 'NR > 1 {print $1, $3}'
        crun exec two ls /proc/1/ns | wc -l
        crun exec two cat /proc/1/comm
        crun pause two; crun list | awk 'NR > 1 {print $1, $3}'; crun resume two
        cat /sys/fs/cgroup/two/pids.max
        crun kill two KILL
        until crun list | grep -q stopped; do sleep 0.1; done
        crun delete two; crun list | wc -l; ls -d /sys/fs/cgroup/two 2>&1 | grep -c 'No such'"#;
    let files = [("one", bundle(inside)), ("two", bundle("exec sleep 1000"))];
    let files = files.map(|(name, text)| format!("cat > /{name}.json <<'END'\n{text}\nEND\n"));
    let (code, lines) = with_tools(&format!("{}{script}", files.concat()));
    assert_eq!(code, 0, "{lines:#?}");
    let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = lines.iter().map(words).collect();
    let expected = [
        "contained",
        "number 1",
        "0",
        "touch: /x: Read-only file system",
        "sh",
        "CapEff: 0000000020000420",
        "NoNewPrivs: 1",
        "0::/",
        "lo",
        "pts/ptmx",
        "cat: can't open '/proc/sysvipc/shm': No such file or directory",
        "1024",
        "kept",
        "bound",
        "touch: /bound/sub/file: Read-only file system",
        "20",
        "ended 0",
        "two running",
        "10",
        "sleep",
        "two paused",
        "20",
        "1",
        "1",
    ];
    assert_eq!(lines, expected);
}

/// A filter as bubblewrap takes it: the bytes of instructions.
fn filter_file(calls: &[(u32, u32)]) -> String {
    let insn = |code: u16, jt: u8, jf: u8, k: u32| {
        let [a, b] = code.to_le_bytes();
        let bytes = [&[a, b, jt, jf], &k.to_le_bytes()[..]].concat();
        bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>()
    };
    const ALLOW: u32 = 0x7fff_0000;
    let mut text = insn(0x20, 0, 0, 0);
    for (call, word) in calls {
        text += &insn(0x15, 0, 1, *call);
        text += &insn(0x06, 0, 0, *word);
    }
    text + &insn(0x06, 0, 0, ALLOW)
}

/// Debian's bubblewrap with a filter: mkdirat(2) fails, and unlinkat(2) ends who calls it.
#[test]
fn bubblewrap_installs_a_seccomp_filter() {
    let filter = filter_file(&[(34, 0x0005_000d), (35, 0x8000_0000)]);
    let (code, lines) = with_tools(&format!(
        r#"printf '{filter}' > /tmp/filter; touch /tmp/file
        bwrap --unshare-user --unshare-pid --bind / / --proc /proc --dev /dev --seccomp 10 \
            bash -c 'grep Seccomp: /proc/self/status; mkdir /tmp/x 2>&1; echo $?
                rm /tmp/file 2>/dev/null; echo $?; ls /tmp/file' 10< /tmp/filter
        echo ended $?; mkdir /tmp/x && echo made"#
    ));
    assert_eq!(code, 0, "{lines:?}");
    let expected = [
        "Seccomp:\t2",
        "mkdir: cannot create directory '/tmp/x': Permission denied",
        "1",
        "159",
        "/tmp/file",
        "ended 0",
        "made",
    ];
    let lines: Vec<String> =
        lines.iter().map(|l| l.replace(['\u{2018}', '\u{2019}'], "'")).collect();
    let is_said = |line: &String| line.contains("Bad system call");
    assert_eq!(lines.iter().filter(|line| is_said(line)).count(), 1, "{lines:?}");
    let lines: Vec<String> = lines.into_iter().filter(|line| !is_said(line)).collect();
    assert_eq!(lines, expected);
}

/// Debian's crun with a profile as container engines give it: what is not allowed fails.
#[test]
fn crun_installs_a_seccomp_profile() {
    let inside = "grep -E 'Seccomp|NoNewPrivs' /proc/self/status
        mkdir /dev/x 2>&1; hostname other 2>&1; (sleep 1000 & kill -9 $!); echo alive";
    let mut config: Value = serde_json::from_str(&bundle(inside)).unwrap();
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_AARCH64"],
        "syscalls": [
            {"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
            {"names": ["ptrace", "sethostname"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["personality"], "action": "SCMP_ACT_ERRNO",
             "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
        ],
    });
    let script = r#"
        mount -t cgroup2 none /sys/fs/cgroup
        mkdir -p /bound /b/rootfs/bin /b/rootfs/proc /b/rootfs/sys /b/rootfs/dev /b/rootfs/bound
        cp /bin/busybox /b/rootfs/bin
        for i in sh hostname mkdir grep sleep kill; do ln -s busybox /b/rootfs/bin/$i; done
        cd /b; crun run one; echo ended $?"#;
    let (code, lines) =
        with_tools(&format!("mkdir -p /b; cat > /b/config.json <<'END'\n{config}\nEND\n{script}"));
    assert_eq!(code, 0, "{lines:#?}");
    let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = lines.iter().map(words).collect();
    assert_eq!(lines[..2], ["NoNewPrivs: 1", "Seccomp: 2"], "{lines:#?}");
    assert!(lines[2].starts_with("Seccomp_filters: "), "{lines:#?}");
    let expected = [
        "mkdir: can't create directory '/dev/x': No space left on device",
        "hostname: sethostname: Operation not permitted",
        "alive",
        "ended 0",
    ];
    assert_eq!(lines[3..], expected, "{lines:#?}");
}

//! `belljar fds` shows from outside what /proc/PID/fd and /proc/net say inside, and more: the other ends.

use belljar_tests::guest::Waiting;
use serde_json::{Value, json};

fn find(rows: &[Value], key: &str, value: &str) -> Value {
    let found = rows.iter().find(|row| row[key] == json!(value));
    found.cloned().unwrap_or_else(|| panic!("no {key} {value} in {rows:#?}"))
}

#[test]
fn fds_shows_files_pipes_and_sockets_with_their_other_ends() {
    let vm = Waiting::start(
        "ifconfig lo 127.0.0.1 up; echo hello > /tmp/there
         sleep 1000 < /tmp/there | sleep 2000 & sleep 1; sleep 3000 | nc -l -p 4000 > /dev/null &
         sleep 2; sleep 4000 | nc 127.0.0.1 4000 > /dev/null & sleep 2; echo END; wait",
    );
    let processes = vm.guest.rows(&["ps", "t"]);
    let pids = |name: &str| -> Vec<u64> {
        let named = processes.iter().filter(|row| row["comm"] == json!(name));
        named.map(|row| row["pid"].as_u64().unwrap()).collect()
    };
    let [sleeper, reader, ..] = pids("sleep")[..] else { panic!("{processes:#?}") };
    let rows = vm.rows("fds", sleeper);
    let file = find(&rows, "path", "/tmp/there");
    assert_eq!(
        (&file["fd"], &file["kind"], &file["flags"]),
        (&json!(0), &json!("regular"), &json!("r"))
    );
    let pipe = find(&rows, "kind", "pipe");
    assert_eq!((&pipe["fd"], &pipe["flags"]), (&json!(1), &json!("w")));
    assert_eq!(pipe["peer"], json!(format!("{reader}/0")));
    let other_end = find(&vm.rows("fds", reader), "kind", "pipe");
    assert_eq!(other_end["path"], pipe["path"]);
    assert_eq!(other_end["peer"], json!(format!("{sleeper}/1")));

    let [server, client] = pids("nc")[..] else { panic!("{processes:#?}") };
    let ours = find(&vm.rows("fds", client), "state", "ESTABLISHED");
    assert!(ours["kind"].as_str().unwrap().starts_with("tcp"), "{ours:#?}");
    assert!(ours["peer"].as_str().unwrap().contains("127.0.0.1"), "{ours:#?}");
    assert!(ours["peer"].as_str().unwrap().ends_with(":4000"), "{ours:#?}");
    let theirs = find(&vm.rows("fds", server), "state", "ESTABLISHED");
    let port = ours["local"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    assert!(theirs["peer"].as_str().unwrap().ends_with(&format!(":{port}")), "{theirs:#?}");
}

/// TCP over a veth pair: each end's process shows the other address, in namespaces of their own.
#[test]
fn fds_shows_both_ends_of_a_connection_between_network_namespaces() {
    let vm = Waiting::start(
        "mkfifo /tmp/go; ip link add va type veth
         unshare -n sh -c 'echo $$ > /tmp/pid; read x < /tmp/go; sleep 1000 | nc -l -p 7000' > /tmp/out &
         until [ -s /tmp/pid ]; do sleep 0.1; done; pid=$(cat /tmp/pid)
         there() { nsenter -t $pid -n \"$@\"; }
         ip link set veth0 netns $pid
         ip addr add 10.9.0.1/24 dev va; ip link set va up
         there ip addr add 10.9.0.2/24 dev veth0; there ip link set veth0 up
         echo > /tmp/go
         until there grep -q ':1B58 .* 0A ' /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done
         { echo hello; sleep 1000; } | nc 10.9.0.2 7000 & until [ -s /tmp/out ]; do sleep 0.1; done
         echo END; wait",
    );
    let processes = vm.guest.rows(&["ps", "t"]);
    let named = processes.iter().filter(|row| row["comm"] == json!("nc"));
    let pids: Vec<u64> = named.map(|row| row["pid"].as_u64().unwrap()).collect();
    let [server, client] = pids[..] else { panic!("{processes:#?}") };
    let established = |pid| find(&vm.rows("fds", pid), "state", "ESTABLISHED");
    let (theirs, ours) = (established(server), established(client));
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().replace("::ffff:", "");
    let plain = |text: String| text.replace(['[', ']'], "");
    assert_eq!(plain(text(&ours, "peer")), "10.9.0.2:7000", "{ours:#?}");
    assert_eq!(plain(text(&theirs, "local")), "10.9.0.2:7000", "{theirs:#?}");
    assert_eq!(plain(text(&ours, "local")), plain(text(&theirs, "peer")), "{ours:#?} {theirs:#?}");
}

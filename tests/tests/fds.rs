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

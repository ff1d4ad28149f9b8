//! The engine against a made-up guest: what it reads when all is well, and that it comes back when
//! nothing is.

use super::synthetic::{BASE, Guest, LINEAR, USER, fuzz_one, look_at_everything};
use super::*;
use crate::render::{Format, Row, render};
use crate::target::SliceRam;
use proptest::prelude::*;
use serde_json::json;

fn answer(guest: &Guest, request: &Request) -> Answer {
    let ram = guest.target();
    view(&Kernel::open(&ram, true).unwrap(), request, None).unwrap()
}

fn refused(guest: &Guest, request: &Request) -> Error {
    let ram = guest.target();
    view(&Kernel::open(&ram, true).unwrap(), request, None).unwrap_err()
}

fn table(guest: &Guest, request: &Request) -> String {
    let mut out = vec![];
    let answer = answer(guest, request);
    let schema = answer.schema;
    render(&mut out, schema, &answer.envelope("t"), Format::Table).unwrap();
    String::from_utf8(out).unwrap()
}

fn row(rows: &[Row], key: &str, value: serde_json::Value) -> Row {
    rows.iter().find(|r| r[key] == value).cloned().unwrap_or_else(|| panic!("no {key} {value}"))
}

#[test]
fn ps_shows_every_process_but_the_idle_task() {
    assert_eq!(
        table(&Guest::new(), &Request::Ps),
        "PID PPID PGID SID S POL PRI NI NLWP VSZ RSS    TIME WCHAN   COMMAND\n\
         \x20 1    0    1   1 S TS   20  0    2  16   8 0:02.00 do_wait init\n\
         \x20 2    0    2   2 R TS   20  0    1   0   0 0:00.00 -       [kthreadd]\n\
         \x20 7    1    7   7 Z TS   20  0    1   0   0 0:00.00 -       gone\n\
         # t: 3 rows, quiesced\n"
    );
}

#[test]
fn pstree_puts_children_below_their_parent() {
    assert_eq!(
        table(&Guest::new(), &Request::Pstree),
        "PID S COMMAND\n  1 S init\n  7 Z └─gone\n  2 R [kthreadd]\n# t: 3 rows, quiesced\n"
    );
}

#[test]
fn task_shows_fields_of_embedded_structures() {
    let rows = answer(&Guest::new(), &Request::Task { pid: 5 }).rows;
    assert_eq!(row(&rows, "field", json!("tgid"))["value"], 1);
    assert_eq!(row(&rows, "field", json!("comm"))["value"], "init");
    assert_eq!(row(&rows, "field", json!("se.policy"))["value"], "Normal");
    assert_eq!(row(&rows, "field", json!("se.sum_exec_runtime"))["value"], 1_500_000_000);
    assert_eq!(row(&rows, "field", json!("real_parent"))["type"], "*Task");
}

#[test]
fn maps_counts_what_the_page_tables_hold() {
    let mut guest = Guest::new();
    let only = |guest: &Guest| answer(guest, &Request::Maps { pid: 1 }).rows[0].clone();
    let own = only(&guest);
    assert_eq!((&own["name"], &own["perms"]), (&json!("/bin/init"), &json!("rw-p")));
    // Four pages of addresses; one page is its own, one has two holders, one is the page of zeros.
    assert_eq!((&own["size"], &own["rss"]), (&json!(16384), &json!(8192)));
    assert_eq!((&own["shared"], &own["cow"]), (&json!(0), &json!(4096)));
    // After a fork the last table has two holders: everything in it is shared copy-on-write.
    let table = guest.last_table();
    guest.frame(table, 2, 6);
    assert_eq!(only(&guest)["cow"], 8192);
}

#[test]
fn maps_of_a_kernel_thread_is_refused_by_name() {
    assert_eq!(refused(&Guest::new(), &Request::Maps { pid: 2 }), Error::NoMm { pid: 2 });
    assert_eq!(refused(&Guest::new(), &Request::Maps { pid: 99 }), Error::NoProcess { pid: 99 });
}

#[test]
fn vtop_shows_each_level() {
    let rows = answer(&Guest::new(), &Request::Vtop { pid: 1, addr: USER + 4096 + 0x10 }).rows;
    let column = |key: &str| rows.iter().map(|r| r[key].clone()).collect::<Vec<_>>();
    assert_eq!(column("level"), [0, 1, 2, 3]);
    assert_eq!(column("type"), ["table", "table", "table", "page"]);
    assert_eq!(column("refcount"), [1, 1, 1, 2]);
    assert!(rows[3]["address"].as_str().unwrap().ends_with("010"));
    assert_eq!(rows[3]["attributes"], json!(["AF", "nsh", "rw", "EL0", "attr0"]));
    let absent = answer(&Guest::new(), &Request::Vtop { pid: 1, addr: 0 }).rows;
    assert_eq!(absent.last().unwrap()["type"], "invalid");
}

#[test]
fn runq_lists_who_runs_and_who_waits() {
    let rows = answer(&Guest::new(), &Request::Runq).rows;
    let seen: Vec<_> = rows.iter().map(|r| (r["queue"].clone(), r["pid"].clone())).collect();
    assert_eq!(seen, [(json!("running"), json!(2)), (json!("active"), json!(5))]);
}

#[test]
fn bt_follows_frame_records_to_the_last_one() {
    let rows = answer(&Guest::new(), &Request::Bt { pid: 1 }).rows;
    let pcs: Vec<_> = rows.iter().map(|r| r["pc"].clone()).collect();
    assert_eq!(
        pcs,
        [format!("{:#x}", LINEAR + BASE + 0x1000), format!("{:#x}", LINEAR + BASE + 0x2000)]
    );
}

#[test]
fn bt_survives_a_frame_record_that_points_at_itself() {
    let mut guest = Guest::new();
    let init = guest.tasks[1];
    let stack = guest.target();
    let kernel = Kernel::open(&stack, true).unwrap();
    let fp = Object::new(&kernel, "Task", init).unwrap().uint("se.thread.context.fp").unwrap();
    drop(kernel);
    guest.write_u64(fp, fp);
    assert_eq!(answer(&guest, &Request::Bt { pid: 1 }).rows.len(), 2);
}

#[test]
fn log_starts_with_the_oldest_whole_line() {
    let text = log_text(&Guest::new().target()).unwrap();
    assert_eq!(text, "first\nsecond line three\n");
}

#[test]
fn log_rows_name_their_level() {
    let rows = answer(&Guest::new(), &Request::Log).rows;
    assert_eq!(rows[0]["level"], "error");
    assert_eq!(rows[0]["text"], "first");
}

#[test]
fn odd_sequence_count_is_paused_and_a_broken_list_is_torn() {
    let mut guest = Guest::new();
    let seq = guest.task_list_seq;
    guest.write(seq, &[1]);
    assert_eq!(answer(&guest, &Request::Ps).consistency, Consistency::Paused);
    // The head's successor points at itself: a circle that never comes back to the head.
    let first = guest.target_u64(guest.task_list);
    guest.write_u64(first, first);
    let torn = answer(&guest, &Request::Ps);
    assert_eq!(torn.consistency, Consistency::Torn);
}

#[test]
fn running_guest_is_never_called_quiesced() {
    let guest = Guest::new();
    let ram = guest.target();
    let kernel = Kernel::open(&ram, false).unwrap();
    assert_eq!(view(&kernel, &Request::Ps, None).unwrap().consistency, Consistency::Torn);
}

#[test]
fn a_wild_pointer_loses_its_process_only() {
    let mut guest = Guest::new();
    let zombie = guest.tasks[4];
    guest.set_task(zombie, "signal", 0x1234);
    let answer = answer(&guest, &Request::Ps);
    assert_eq!(answer.consistency, Consistency::Torn);
    assert_eq!(answer.rows.len(), 2);
}

#[test]
fn other_versions_are_refused_by_name() {
    let mut guest = Guest::new();
    guest.ram[(2 << 20) + 4096 + 8] = 99;
    let error = Kernel::open(&guest.target(), true).err().unwrap();
    assert_eq!(error, Error::RootVersion { found: 99 });
    assert_eq!(
        Kernel::open(&SliceRam { base: BASE, bytes: &[0; 8192] }, true).err(),
        Some(Error::NoRoot)
    );
}

#[test]
fn root_page_is_found_without_its_header() {
    let guest = Guest::new();
    // The image somewhere else: 12 KiB further up.
    let mut ram = vec![0; 3 * 4096];
    ram.extend(&guest.ram);
    let root = Root::find(&SliceRam { base: BASE - 3 * 4096, bytes: &ram });
    assert_eq!(root.unwrap().phys(), BASE + (2 << 20) + 4096);
}

/// A short run of the fuzz target with a fixed generator: the same patches every time. A longer one with
/// `BELLJAR_FUZZ_RUNS=20000`.
#[test]
fn patched_guests_are_survived() {
    let runs = std::env::var("BELLJAR_FUZZ_RUNS").ok().and_then(|n| n.parse().ok());
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..runs.unwrap_or(300) {
        let mut data = vec![];
        for _ in 0..1 + next() % 12 {
            let (place, word) = (next().to_le_bytes(), next());
            data.extend(&place[..3]);
            // Small numbers, addresses inside and anything at all, a third each.
            match next() % 3 {
                0 => data.extend((word % 300).to_le_bytes()),
                1 => data.extend([
                    0xff,
                    word as u8,
                    (word >> 8) as u8,
                    (word >> 16) as u8,
                    0,
                    0,
                    0,
                    0,
                ]),
                _ => data.extend(word.to_le_bytes()),
            }
        }
        fuzz_one(&data);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_task_contents_are_survived(which in 0usize..5, bytes in prop::collection::vec(any::<u8>(), 200)) {
        let mut guest = Guest::new();
        let task = guest.tasks[which];
        guest.write(task, &bytes);
        look_at_everything(&guest.ram);
    }
}

//! Whole machines that are saved, restored and copied: what runs in them goes on as if nothing had been.

use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use belljar_abi::root::RootPage;
use belljar_tests::guest::Guest;
use belljar_tests::home;
use belljar_tests::interrupted::{Itinerary, travel};

/// A guest test program, as `cargo xtask build guest-tests` leaves it.
fn program(name: &str) -> String {
    let path = home().join("guest-tests").join(name);
    assert!(path.is_file(), "{} is not there: run cargo xtask build first", path.display());
    path.to_str().unwrap().to_owned()
}

const THREE_TIMES: &[&[&str]] = &[&[], &[], &[]];

fn counted() -> String {
    (1..=12).map(|step| format!("step {step}\n")).chain(["counted to 600\n".into()]).collect()
}

#[test]
fn threads_that_count_go_on_three_times_in_a_row() {
    let counting = program("counting");
    for (cpus, seed) in [("1", 1), ("4", 2)] {
        let guest = Guest::new();
        let run = ["--cpus", cpus, counting.as_str()];
        let between = (50, 250);
        let done = travel(&guest, &Itinerary { run: &run, restores: THREE_TIMES, seed, between });
        assert_eq!((done.code, done.stdout), (0, counted()), "{cpus} CPUs");
        assert!(done.moves > 0);
        guest.assert_clean();
    }
}

const PIPELINE: &str = "
    for j in 1 2 3; do (for i in 1 2 3 4 5 6; do sleep 0.15; done; echo job $j >> /tmp/jobs) & done
    seq 1 200 | while read n; do echo line $n; [ $((n % 20)) = 0 ] && sleep 0.1; done | tail -n 3
    trap 'echo trapped' USR1; kill -USR1 $$
    wait; sort /tmp/jobs; exit 7";

#[test]
fn a_shell_with_jobs_and_a_pipeline_goes_on() {
    for (cpus, seed) in [("1", 3), ("4", 4)] {
        let guest = Guest::new();
        let run = ["--cpus", cpus, "shell", "--", "sh", "-c", PIPELINE];
        let between = (50, 350);
        let done = travel(&guest, &Itinerary { run: &run, restores: THREE_TIMES, seed, between });
        let expected = "line 198\nline 199\nline 200\ntrapped\njob 1\njob 2\njob 3\n";
        assert_eq!((done.code, &*done.stdout), (7, expected), "{cpus} CPUs");
        assert!(done.moves > 0);
    }
}

#[test]
fn debians_bash_goes_on_with_its_script() {
    let script = "
        declare -A square
        for i in {1..40}; do square[$i]=$((i * i)); sleep 0.02; done
        coproc cat; echo through >&${COPROC[1]}; read -r word <&${COPROC[0]}
        echo $word ${square[40]} $(for i in {1..3}; do sleep 0.1; echo -n $i; done)";
    for (cpus, seed) in [("1", 5), ("4", 7)] {
        let guest = Guest::new();
        let run = ["--cpus", cpus, "bash", "--", "bash", "-c", script];
        let between = (100, 400);
        let done = travel(&guest, &Itinerary { run: &run, restores: THREE_TIMES, seed, between });
        assert_eq!((done.code, &*done.stdout), (0, "through 1600 123\n"), "{cpus} CPUs: {done:?}");
        assert!(done.moves > 0);
    }
}

#[test]
fn a_machine_goes_on_with_more_and_with_fewer_cpus() {
    let counting = program("counting");
    let guest = Guest::new();
    let run = ["--cpus", "2", counting.as_str()];
    let restores: &[&[&str]] = &[&["--cpus", "4"], &["--cpus", "1"], &["--cpus", "2"]];
    let done = travel(&guest, &Itinerary { run: &run, restores, seed: 6, between: (50, 250) });
    assert_eq!((done.code, done.stdout), (0, counted()));
}

/// A guest that is copied while it works. When it notices that it is a copy it prints `random NUMBER`, and stays.
struct Copied<'a> {
    /// Options of `run`.
    run: &'a [&'a str],
    /// What it prints when it is under way.
    ready: &'a str,
    /// What each copy prints.
    says: &'a [&'a str],
}

impl Copied<'_> {
    fn assert_twenty_differ(&self) {
        // One after the other: a machine with few CPUs gets through twenty guests in time, not through sixty.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let guest = Guest::new();
        let started = guest.run(&[&["run", "--detach", "--name", "t"], self.run].concat(), "");
        assert_eq!(started.code, 0, "{started:?}");
        guest.wait_until_prints("t", self.ready);
        let copies = guest.run(&["clone", "t", "-n", "20"], "");
        assert_eq!(copies.code, 0, "{copies:?}");
        let names: Vec<&str> = copies.stdout.lines().collect();
        assert_eq!(names.len(), 20);
        let mut seen = HashSet::new();
        for (number, name) in (1..).zip(&names) {
            for text in self.says {
                guest.wait_until_prints(name, &text.replace("{n}", &format!("{number}")));
            }
            let console = guest.wait_until_prints(name, "random ");
            let random = console.split("random ").nth(1).and_then(|rest| rest.lines().next());
            let random = random.unwrap().split(' ').next().unwrap().to_owned();
            assert!(!random.is_empty() && !console.contains("wrong"), "{name}: {console}");
            assert!(seen.insert(random), "twice: {name}: {console}");
        }
        let original = guest.console("t");
        assert!(original.contains(self.ready.trim()) && !original.contains("random"), "{original}");
        assert!(guest.rows(&["ps", "t"]).iter().any(|row| row["pid"] == 1));
        for name in names.iter().chain(&["t"]) {
            assert_eq!(guest.run(&["kill", name], "").code, 0);
        }
        guest.assert_clean();
    }
}

#[test]
fn the_original_goes_on_and_twenty_copies_differ() {
    // A pipeline is under way in all of them.
    let script = "
        (i=0; while [ $i -lt 20 ]; do i=$((i + 1)); echo $i; sleep 0.5; done) |
            (sum=0; while read n; do sum=$((sum + n)); done; echo sum $sum) &
        echo ready; until [ $(cat /proc/belljar/generation) = 1 ]; do sleep 0.2; done
        echo random $(head -c 8 /dev/urandom | hexdump -e '8/1 \"%02x\"') $(cat /proc/belljar/snapshot) end
        wait; echo all; sleep 1000";
    let says = &["copy {n} end", "sum 210\n", "all\n"];
    Copied { run: &["shell", "--", "sh", "-c", script], ready: "ready", says }
        .assert_twenty_differ();
}

#[test]
fn twenty_copies_of_threads_that_count_differ() {
    // The threads are in the middle of it: what was counted before, the original printed.
    let run = ["--cpus", "2", &program("counting"), "--", "400", "copy"];
    let says = &["step 31\n", "counted to 1600\n"];
    Copied { run: &run, ready: "step 3\n", says }.assert_twenty_differ();
}

#[test]
fn twenty_copies_of_debians_bash_differ() {
    let script = "
        declare -A square; i=0; echo ready
        until [ $(< /proc/belljar/generation) = 1 ]; do
            i=$((i + 1)); square[$i]=$((i * i)); sleep 0.1
        done
        for j in ${!square[@]}; do [ ${square[$j]} = $((j * j)) ] || echo wrong $j; done
        coproc cat; echo through >&${COPROC[1]}; read -r word <&${COPROC[0]}
        echo $word $((${#square[@]} == i)); echo random $SRANDOM-$SRANDOM; sleep 1000";
    let run = ["bash", "--", "bash", "-c", script];
    Copied { run: &run, ready: "ready", says: &["through 1\n"] }.assert_twenty_differ();
}

#[test]
fn a_program_saves_its_machine_and_learns_as_what_it_goes_on() {
    let script = "
        cat /proc/belljar/snapshot; cat /proc/belljar/generation
        echo warm > /proc/belljar/snapshot || exit 1
        cat /proc/belljar/snapshot /proc/belljar/generation
        echo ../up > /proc/belljar/snapshot 2>/dev/null || echo refused";
    let guest = Guest::new();
    let folder = guest.path("snapshots");
    std::fs::create_dir(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    let run = ["run", "--snapshots", folder, "shell", "--", "sh", "-c", script];
    let done = guest.run(&run, "");
    let expected = "original\n0\noriginal\n0\nrefused\n";
    assert_eq!((done.code, &*done.stdout), (0, expected), "{done:?}");
    let done = guest.run(&["restore", &format!("{folder}/warm")], "");
    assert_eq!((done.code, &*done.stdout), (0, "copy 1\n1\nrefused\n"), "{done:?}");
    // Without a folder there is nobody to take it.
    let done = guest.sh("echo warm > /proc/belljar/snapshot");
    assert_eq!(done.code, 1, "{done:?}");
}

#[test]
fn a_machine_that_saves_itself_may_end_with_that() {
    let script =
        "echo before; echo own > /proc/belljar/snapshot; cat /proc/belljar/snapshot; exit 3";
    let guest = Guest::new();
    let folder = guest.path("snapshots");
    std::fs::create_dir(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    let own = ["--snapshots", folder, "--stop-when-saved"];
    let run = [&["run"], &own[..], &["shell", "--", "sh", "-c", script]].concat();
    let done = guest.run(&run, "");
    assert_eq!((done.code, &*done.stdout), (0, "before\n"), "{done:?}");
    for _ in 0..2 {
        let done = guest.run(&["restore", &format!("{folder}/own")], "");
        assert_eq!((done.code, &*done.stdout), (3, "copy 1\n"), "{done:?}");
    }
    guest.assert_clean();
}

#[test]
fn disks_are_wanted_again_and_none_is_written_by_two() {
    let guest = Guest::new();
    let (a, b) = (guest.path("a.img"), guest.path("b.img"));
    std::fs::write(&a, vec![0; 1 << 20]).unwrap();
    std::fs::write(&b, b"from the second".repeat(1000)).unwrap();
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    let script = "
        printf 'before' | dd of=/dev/vda bs=512 conv=sync 2>/dev/null; sync; echo ready
        until [ $(cat /proc/belljar/generation) = 1 ]; do sleep 0.2; done
        head -c 6 /dev/vda; echo; head -c 15 /dev/vdb; echo
        printf 'after' | dd of=/dev/vda bs=512 seek=1 conv=sync 2>/dev/null; sync; echo done";
    let b_ro = format!("{b},ro");
    let disks = ["--disk", a, "--disk", &b_ro];
    let run =
        [&["run", "--detach", "--name", "t"], &disks[..], &["shell", "--", "sh", "-c", script]];
    assert_eq!(guest.run(&run.concat(), "").code, 0);
    guest.wait_until_prints("t", "ready");
    // The original goes on and writes.
    guest.run(&[&["clone", "t"], &disks[..]].concat(), "").assert_failed(&["a.img", "{n}"]);
    let dir = guest.path("s");
    let dir = dir.to_str().unwrap();
    assert_eq!(guest.run(&["snapshot", "t", dir, "--stop"], "").code, 0);
    guest.run(&["restore", dir], "").assert_failed(&["a.img", "1 more", "--disk"]);
    guest.run(&["restore", dir, "--disk", a], "").assert_failed(&["b.img", "read-only"]);
    guest
        .run(&["restore", dir, "--disk", &b_ro, "--disk", &b_ro], "")
        .assert_failed(&["knows it with 1048576"]);
    let clones = [&["clone", dir, "-n", "2"], &disks[..]].concat();
    guest.run(&clones, "").assert_failed(&["a.img", "{n}"]);
    let copies = [1, 2].map(|n| guest.path(&format!("a-{n}.img")));
    for copy in &copies {
        std::fs::copy(a, copy).unwrap();
    }
    let numbered = guest.path("a-{n}.img");
    let disks_of_clones = ["--disk", numbered.to_str().unwrap(), "--disk", &b_ro];
    let done = guest.run(&[&["clone", dir, "-n", "2"], &disks_of_clones[..]].concat(), "");
    assert_eq!(done.code, 0, "{done:?}");
    let restored = guest.run(&[&["restore", dir], &disks[..]].concat(), "");
    // Its console is still the terminal that a detached VM has.
    let printed = restored.stdout.replace('\r', "");
    assert_eq!((restored.code, &*printed), (0, "before\nfrom the second\ndone\n"), "{restored:?}");
    guest.assert_clean();
    for path in [a, copies[0].to_str().unwrap(), copies[1].to_str().unwrap()] {
        let stored = std::fs::read(path).unwrap();
        assert!(stored.starts_with(b"before\0") && stored[512..].starts_with(b"after\0"), "{path}");
    }
}

#[test]
fn the_time_that_a_machine_was_saved_for_did_not_pass_in_it() {
    // A sleep is under way when it is saved; uptime is CLOCK_BOOTTIME.
    let script = "
        read up _ < /proc/uptime; date +%s; echo saving
        sleep 1; read later _ < /proc/uptime; date +%s
        echo $(( ${later%.*} - ${up%.*} ))";
    let guest = Guest::new();
    let run = ["run", "--detach", "--name", "t", "shell", "--", "sh", "-c", script];
    assert_eq!(guest.run(&run, "").code, 0);
    let first = guest.wait_until_prints("t", "saving");
    let dir = guest.path("s");
    let saved = guest.run(&["snapshot", "t", dir.to_str().unwrap(), "--stop"], "");
    assert_eq!(saved.code, 0, "{saved:?}");
    std::thread::sleep(std::time::Duration::from_secs(4));
    let done = guest.run(&["restore", dir.to_str().unwrap()], "");
    let lines: Vec<u64> = done.stdout.lines().map(|line| line.parse().unwrap()).collect();
    let then: u64 = first.lines().next().unwrap().parse().unwrap();
    let [now, passed] = lines[..] else { panic!("{done:?}") };
    assert!(now >= then + 4, "the wall clock went from {then} to {now}");
    assert!(passed <= 3, "{passed} seconds of uptime");
}

#[test]
fn what_is_no_whole_snapshot_is_refused() {
    let guest = Guest::new();
    let run = ["run", "--detach", "--name", "t", "shell", "--", "sleep", "1000"];
    assert_eq!(guest.run(&run, "").code, 0);
    let dir = guest.path("s");
    let name = dir.to_str().unwrap();
    assert_eq!(guest.run(&["snapshot", "t", name], "").code, 0);
    assert_eq!(guest.run(&["kill", "t"], "").code, 0);
    let image = std::fs::File::options().write(true).open(dir.join("memory.img")).unwrap();
    // The kernel's first page: stored in every snapshot.
    std::os::unix::fs::FileExt::write_all_at(&image, b"damage", 0x20_0100).unwrap();
    guest.run(&["restore", name], "").assert_failed(&["damaged"]);
    guest.run(&["clone", name, "-n", "2"], "").assert_failed(&["damaged"]);
    guest
        .run(&["restore", guest.path("nothing").to_str().unwrap()], "")
        .assert_failed(&["nothing"]);
    guest.run(&["snapshot", "nobody", name], "").assert_failed(&["nobody"]);
    guest.assert_clean();
}

/// CPUs can be chosen where they are emulated.
#[test]
fn features_that_no_backend_here_shows_are_refused_by_name() {
    let guest = Guest::new();
    let run = ["run", "--detach", "--name", "t", "shell", "--", "sleep", "1000"];
    assert_eq!(guest.run(&run, "").code, 0);
    let dir = guest.path("s");
    let name = dir.to_str().unwrap();
    assert_eq!(guest.run(&["snapshot", "t", name, "--stop"], "").code, 0);
    // As if its programs had been shown SVE, which `portable` never shows, or a DC ZVA of 2 KiB, which nobody has.
    const SVE: u64 = 1 << 22;
    const LARGEST: u64 = 9;
    let manifest = std::fs::read(dir.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let (board, kernel) = (&manifest["manifest"]["board"], &manifest["manifest"]["kernel"]);
    let base = board["ram_base"].as_u64().unwrap();
    let root = kernel["root_page"].as_u64().unwrap() - base;
    let hwcap = root + std::mem::offset_of!(RootPage, hwcap) as u64;
    let dczid = root + std::mem::offset_of!(RootPage, dczid) as u64;
    let image = std::fs::File::options().read(true).write(true).open(dir.join("memory.img"));
    let image = image.unwrap();
    let more = |shown: u64| shown | SVE;
    let sve = ("CPU features that are not here: sve", hwcap, &more as &dyn Fn(u64) -> u64);
    let other = |_: u64| LARGEST;
    for (what, at, change) in [sve, ("a DC ZVA of 2048 bytes (DCZID_EL0)", dczid, &other)] {
        let mut bytes = [0; 8];
        image.read_exact_at(&mut bytes, at).unwrap();
        let shown = u64::from_le_bytes(bytes);
        assert_ne!(shown, 0);
        image.write_all_at(&change(shown).to_le_bytes(), at).unwrap();
        guest.run(&["restore", name], "").assert_failed(&["damaged"]);
        let done = guest.run(&["restore", name, "--trust"], "");
        assert_eq!(done.code, 125, "{done:?}");
        assert!(done.stderr.contains(&format!("shown {what}")), "{done:?}");
        image.write_all_at(&bytes, at).unwrap();
    }
    guest.assert_clean();
}

mod qemu {
    use super::*;

    #[test]
    fn a_cpu_that_lacks_what_programs_were_shown_is_refused_by_name() {
        let guest = Guest::new();
        let run = ["run", "--detach", "--name", "t", "shell", "--", "sleep", "1000"];
        assert_eq!(guest.run(&run, "").code, 0);
        let dir = guest.path("s");
        let dir = dir.to_str().unwrap();
        assert_eq!(guest.run(&["snapshot", "t", dir, "--stop"], "").code, 0);
        let done = guest.run(&["restore", dir, "--backend", "qemu", "--cpu", "cortex-a53"], "");
        assert_eq!(done.code, 125, "{done:?}");
        assert!(
            done.stderr.contains("CPU features") && done.stderr.contains("atomics"),
            "{done:?}"
        );
    }
}

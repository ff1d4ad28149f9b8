//! Guests that move from one backend to the other and back while they work: saved under QEMU on the host,
//! restored under KVM in the reference machine, moved there once more from KVM to KVM, and restored under
//! QEMU on the host, where they end. What they print in all four machines is what they would have printed in
//! one.
//!
//! The folders go through what the host and the machine share; beside each stands the guest's output so far.

use std::path::{Path, PathBuf};

use belljar_tests::guest::Guest;
use belljar_tests::interrupted::Journey;
use belljar_tests::{home, share};

/// A guest, and what it is expected to print and to end with.
struct Traveller {
    name: &'static str,
    cpus: &'static [&'static str],
    run: Vec<String>,
    stdout: String,
    code: i32,
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// They work for a few seconds by their own clock, which stands still while they travel.
fn travellers() -> [Traveller; 3] {
    let counting = home().join("guest-tests/counting").to_str().unwrap().to_owned();
    let counted = (1..=12).map(|step| format!("step {step}\n"));
    let pipeline = "
        for j in 1 2 3; do (for i in 1 2 3 4 5 6 7 8; do sleep 0.4; done; echo job $j >> /tmp/jobs) & done
        seq 1 200 | while read n; do echo line $n; [ $((n % 20)) = 0 ] && sleep 0.3; done | tail -n 3
        trap 'echo trapped' USR1; kill -USR1 $$
        wait; sort /tmp/jobs; exit 7";
    let bash = "
        declare -A square
        for i in {1..60}; do square[$i]=$((i * i)); sleep 0.05; done
        coproc cat; echo through >&${COPROC[1]}; read -r word <&${COPROC[0]}
        echo $word ${square[60]} $(for i in {1..3}; do sleep 0.1; echo -n $i; done)";
    [
        Traveller {
            name: "counting",
            cpus: &["1", "4"],
            run: vec![counting],
            stdout: counted.chain(["counted to 600\n".to_owned()]).collect(),
            code: 0,
        },
        Traveller {
            name: "pipeline",
            cpus: &["1", "4"],
            run: words(&["shell", "--", "sh", "-c", pipeline]),
            stdout: "line 198\nline 199\nline 200\ntrapped\njob 1\njob 2\njob 3\n".to_owned(),
            code: 7,
        },
        Traveller {
            name: "bash",
            cpus: &["1", "4"],
            run: words(&["bash", "--", "bash", "-c", bash]),
            stdout: "through 3600 123\n".to_owned(),
            code: 0,
        },
    ]
}

/// Calls `each` for every guest with a folder of its own among what is shared.
fn for_each(mut each: impl FnMut(&Traveller, &str, &Path)) {
    for traveller in travellers() {
        for cpus in traveller.cpus {
            let place = share().join(format!("cross-{}-{cpus}", traveller.name));
            each(&traveller, cpus, &place);
        }
    }
}

const PRINTED: &str = "printed";
const SNAPSHOT: &str = "snapshot";

/// Puts a guest that was saved as `saved` where the next one finds it.
fn hand_over(saved: &Path, printed: &str, place: &Path) {
    let to = place.join(SNAPSHOT);
    std::fs::create_dir_all(&to).unwrap();
    for name in ["manifest.json", "memory.img"] {
        copy_sparse(&saved.join(name), &to.join(name));
    }
    std::fs::write(place.join(PRINTED), printed).unwrap();
}

/// Takes such a guest over into `to`, with what it has printed.
fn take_over(place: &Path, to: PathBuf) -> (PathBuf, String) {
    let from = place.join(SNAPSHOT);
    std::fs::create_dir_all(&to).unwrap();
    for name in ["manifest.json", "memory.img"] {
        copy_sparse(&from.join(name), &to.join(name));
    }
    (to, std::fs::read_to_string(place.join(PRINTED)).unwrap())
}

/// Holes stay holes: the memory file is as long as the RAM.
fn copy_sparse(from: &Path, to: &Path) {
    use std::io::{Read, Seek, SeekFrom, Write};
    let mut source = std::fs::File::open(from).unwrap();
    let mut target = std::fs::File::create(to).unwrap();
    let mut chunk = vec![0; 64 << 10];
    let mut length = 0;
    loop {
        let n = source.read(&mut chunk).unwrap();
        if n == 0 {
            break;
        }
        if chunk[..n].iter().any(|byte| *byte != 0) {
            target.seek(SeekFrom::Start(length)).unwrap();
            target.write_all(&chunk[..n]).unwrap();
        }
        length += n as u64;
    }
    target.set_len(length).unwrap();
}

mod before_kvm {
    use super::*;

    #[test]
    #[ignore = "needs KVM: cargo xtask test --only kvm"]
    fn guests_leave_qemu() {
        for_each(|traveller, cpus, place| {
            let guest = Guest::new();
            let run: Vec<&str> = traveller.run.iter().map(String::as_str).collect();
            let run = [&["--backend", "qemu", "--cpus", cpus], &run[..]].concat();
            let mut journey = Journey::start(&guest, &run);
            let saved = journey.save(300).expect("it works for longer");
            hand_over(&saved, journey.printed(), place);
        });
    }
}

mod kvm {
    use super::*;

    #[test]
    #[ignore = "needs KVM: cargo xtask test --only kvm"]
    fn guests_of_qemu_go_on_and_leave_again() {
        for_each(|traveller, cpus, place| {
            let guest = Guest::new();
            let (saved, printed) = take_over(place, guest.path("arrived"));
            let mut journey = Journey::go_on(&guest, &saved, &["--backend", "kvm"], printed);
            for delay in [250, 100] {
                let context = || panic!("{} with {cpus} CPUs ended too early", traveller.name);
                let saved = journey.save(delay).unwrap_or_else(context);
                if delay == 100 {
                    hand_over(&saved, journey.printed(), place);
                } else {
                    journey.restore(&saved, &["--backend", "kvm"]);
                }
            }
        });
    }

    #[test]
    #[ignore = "needs KVM: cargo xtask test --only kvm"]
    fn both_backends_show_programs_the_same_features() {
        let manifest = share().join("cross-counting-1").join(SNAPSHOT).join("manifest.json");
        let features = |path: &Path| {
            let text = std::fs::read(path).unwrap();
            let manifest: serde_json::Value = serde_json::from_slice(&text).unwrap();
            (
                manifest["manifest"]["cpu"].clone(),
                manifest["manifest"]["thaw"]["counter_frequency"].clone(),
            )
        };
        let guest = Guest::new();
        let run = ["run", "--detach", "--name", "t", "shell", "--", "sleep", "1000"];
        assert_eq!(guest.run(&run, "").code, 0);
        let dir = guest.path("s");
        assert_eq!(guest.run(&["snapshot", "t", dir.to_str().unwrap(), "--stop"], "").code, 0);
        assert_eq!(features(&manifest), features(&dir.join("manifest.json")));
    }
}

mod after_kvm {
    use super::*;

    #[test]
    #[ignore = "needs KVM: cargo xtask test --only kvm"]
    fn guests_of_kvm_end_under_qemu_as_if_nothing_had_been() {
        for_each(|traveller, cpus, place| {
            let guest = Guest::new();
            let (saved, printed) = take_over(place, guest.path("arrived"));
            let manifest = std::fs::read_to_string(saved.join("manifest.json")).unwrap();
            assert!(manifest.contains("\"backend\":\"kvm\""), "{manifest}");
            let journey = Journey::go_on(&guest, &saved, &["--backend", "qemu"], printed);
            let (code, stdout) = journey.end();
            let expected = (traveller.code, &*traveller.stdout);
            assert_eq!((code, &*stdout), expected, "{} with {cpus} CPUs", traveller.name);
        });
    }
}

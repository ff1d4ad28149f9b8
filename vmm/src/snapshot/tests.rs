//! Snapshots of the made-up guest: saved, opened, and damaged in every way that has an error.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::*;
use crate::introspect::synthetic::{BASE, Guest};
use crate::introspect::{Kernel as Guts, Request, view};
use crate::target::{Ram, SliceRam};

struct Place {
    _temp: tempfile::TempDir,
    dir: PathBuf,
}

fn place() -> Place {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("snap");
    Place { _temp: temp, dir }
}

fn facts() -> Facts {
    Facts {
        source: Source { vm: "t".into(), image: "shell".into(), backend: "qemu".into() },
        cpus: 1,
        networks: vec![],
        cpu: Cpu { model: "portable".into(), features: vec!["fp".into()] },
        disks: vec![Disk { path: "/d/a".into(), size: 512, read_only: true }],
        thaw: Some(Thaw { entry: BASE + 0x20_0000, ..Thaw::default() }),
    }
}

fn saved() -> (Place, Guest) {
    let (place, guest) = (place(), Guest::new());
    save(&guest.target(), &facts(), &place.dir).unwrap();
    (place, guest)
}

fn error_of(dir: &Path) -> String {
    Snapshot::open(dir, Trust::Verify).unwrap_err().to_string()
}

fn memory_of(place: &Place) -> fs::File {
    fs::File::options().write(true).read(true).open(place.dir.join(MEMORY)).unwrap()
}

fn rows_of(ram: &dyn Ram) -> String {
    let kernel = Guts::open(ram, true).unwrap();
    format!("{:?}", view(&kernel, &Request::Ps, None).unwrap())
}

#[test]
fn snapshot_holds_the_same_guest() {
    let (place, guest) = saved();
    let snapshot = Snapshot::open(&place.dir, Trust::Verify).unwrap();
    let ram = snapshot.ram().unwrap();
    assert_eq!(ram.ranges(), guest.target().ranges());
    let mut bytes = vec![0; guest.ram.len()];
    ram.read(BASE, &mut bytes).unwrap();
    assert!(bytes == guest.ram, "no frame of this guest is free");
    assert_eq!(rows_of(&ram), rows_of(&guest.target()));
    let manifest = snapshot.manifest();
    assert_eq!(manifest.tasks.count, 3);
    assert_eq!(manifest.tasks.programs[0].comm, "init");
    assert!(manifest.memory.stored < guest.ram.len() as u64 / 8, "zeros are not stored");
    assert_eq!(manifest.source.vm, "t");
}

#[test]
fn free_frames_are_not_stored() {
    let (place, mut guest) = (place(), Guest::new());
    // A block of four, one frame on a CPU's list, and one that is in use.
    for frame in 0..6 {
        let at = 0x10_0000 + frame * 0x1000;
        guest.ram[at] = 1;
        guest.frame(BASE + at as u64, 0, [1, 7, 7, 7, 2, 7][frame]);
    }
    guest.frame_order(BASE + 0x10_0000, 2);
    save(&guest.target(), &facts(), &place.dir).unwrap();
    let ram = Snapshot::open(&place.dir, Trust::Verify).unwrap().ram().unwrap();
    let stored: Vec<u8> = (0..6)
        .map(|frame| {
            let mut byte = [0];
            ram.read(BASE + 0x10_0000 + frame * 0x1000, &mut byte).unwrap();
            byte[0]
        })
        .collect();
    assert_eq!(stored, [0, 0, 0, 0, 0, 1]);
}

#[test]
fn saving_again_replaces_the_snapshot_and_leaves_nothing_else() {
    let (place, mut guest) = saved();
    guest.ram[0x5000] = 9;
    save(&guest.target(), &facts(), &place.dir).unwrap();
    let ram = Snapshot::open(&place.dir, Trust::Verify).unwrap().ram().unwrap();
    let mut byte = [0];
    ram.read(BASE + 0x5000, &mut byte).unwrap();
    assert_eq!(byte, [9]);
    assert_eq!(fs::read_dir(place.dir.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn save_given_up_leaves_the_former_snapshot() {
    let (place, mut guest) = saved();
    guest.ram[0x5000] = 9;
    drop(Save::begin(&place.dir).unwrap().copy(&guest.target(), &facts()).unwrap());
    let snapshot = Snapshot::open(&place.dir, Trust::Verify).unwrap();
    let mut byte = [0];
    snapshot.ram().unwrap().read(BASE + 0x5000, &mut byte).unwrap();
    assert_eq!(byte, [0]);
    assert_eq!(fs::read_dir(place.dir.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn save_that_died_is_cleared_away_and_one_that_lives_is_not() {
    let (place, guest) = saved();
    let stale = place.dir.with_file_name(".snap.partial");
    fs::create_dir(&stale).unwrap();
    fs::write(stale.join(MEMORY), b"half").unwrap();
    let alive = Save::begin(&place.dir).unwrap();
    let error = Save::begin(&place.dir).err().unwrap();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    alive.copy(&guest.target(), &facts()).unwrap().finish().unwrap();
    assert!(!stale.exists());
    Snapshot::open(&place.dir, Trust::Verify).unwrap();
}

#[test]
fn save_over_something_else_is_refused() {
    let place = place();
    fs::create_dir(&place.dir).unwrap();
    fs::write(place.dir.join("diary"), "dear").unwrap();
    assert!(matches!(Save::begin(&place.dir).err().unwrap(), Error::InTheWay { .. }));
    assert!(matches!(Save::begin(Path::new("/")).err().unwrap(), Error::BadName { .. }));
}

#[test]
fn truncated_and_longer_memory_is_refused_also_when_trusted() {
    let (place, guest) = saved();
    memory_of(&place).set_len(guest.ram.len() as u64 - 1).unwrap();
    let error = Snapshot::open(&place.dir, Trust::Trust).unwrap_err().to_string();
    assert!(error.contains("cut short"), "{error}");
    memory_of(&place).set_len(guest.ram.len() as u64 + 1).unwrap();
    assert!(error_of(&place.dir).contains("not the one of this snapshot"));
}

#[test]
fn damaged_frame_is_refused_with_its_place_unless_trusted() {
    let (place, _) = saved();
    memory_of(&place).write_all_at(b"X", 0x20_1234).unwrap();
    let error = error_of(&place.dir);
    assert!(error.contains("bytes 0x200000 to 0x300000"), "{error}");
    Snapshot::open(&place.dir, Trust::Trust).unwrap();
}

#[test]
fn data_in_a_hole_are_refused_and_written_zeros_are_not() {
    let (place, _) = saved();
    memory_of(&place).write_all_at(&[0; 8192], 0x3000).unwrap();
    Snapshot::open(&place.dir, Trust::Verify).unwrap();
    memory_of(&place).write_all_at(b"X", 0x3456).unwrap();
    let error = error_of(&place.dir);
    assert!(error.contains("data at 0x3456"), "{error}");
}

#[test]
fn swapped_memory_is_refused() {
    let ((one, mut guest), two) = (saved(), place());
    guest.set_task(guest.tasks[1], "pid", 77);
    save(&guest.target(), &facts(), &two.dir).unwrap();
    fs::rename(two.dir.join(MEMORY), one.dir.join(MEMORY)).unwrap();
    let error = Snapshot::open(&one.dir, Trust::Verify).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

#[test]
fn changed_manifest_is_refused() {
    let (place, _) = saved();
    let path = place.dir.join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"cpus\":1", "\"cpus\":2")).unwrap();
    assert!(error_of(&place.dir).contains("not what was saved"));
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert!(error_of(&place.dir).contains("is damaged"));
    fs::write(&path, text.replace("\"version\":1", "\"version\":7")).unwrap();
    assert!(error_of(&place.dir).contains("version 7"));
    fs::write(&path, "{\"name\": \"something else\"}").unwrap();
    assert!(error_of(&place.dir).contains("no manifest of a Bell Jar snapshot"));
    fs::remove_file(&path).unwrap();
    assert!(error_of(&place.dir).contains("is no snapshot"));
}

/// A manifest whose hash is right but whose numbers are not, as a hostile snapshot has it.
#[test]
fn contradictory_manifest_is_refused() {
    let (place, _) = saved();
    let good = Snapshot::open(&place.dir, Trust::Verify).unwrap().manifest().clone();
    type Spoil = fn(&mut Manifest);
    let spoils: &[Spoil] = &[
        |m| m.board.name = "pc".into(),
        |m| m.board.ram_size = u64::MAX - 4095,
        |m| m.board.ram_base = u64::MAX - 4095,
        |m| m.board.ram_base += 1,
        |m| m.board.cpus = 0,
        |m| m.board.cpus = 1 << 20,
        |m| m.kernel.root_page = 0,
        |m| m.thaw = Some(Thaw { entry: 0, ..Thaw::default() }),
        |m| m.memory.chunk = 4096,
        |m| m.memory.stored += 4096,
        |m| m.memory.chunks[0].at += 4096,
        |m| m.memory.chunks[0].at = u64::MAX - CHUNK + 1,
        |m| m.memory.chunks[0].frames.push((u32::MAX, u32::MAX)),
        |m| m.memory.chunks[0].frames.clear(),
        |m| m.memory.chunks = [m.memory.chunks.clone(), m.memory.chunks.clone()].concat(),
    ];
    for (i, spoil) in spoils.iter().enumerate() {
        let mut bad = good.clone();
        spoil(&mut bad);
        fs::write(place.dir.join(MANIFEST), bad.to_text().unwrap()).unwrap();
        let error = Snapshot::open(&place.dir, Trust::Trust).unwrap_err();
        assert!(matches!(error, Error::BadManifest { .. }), "spoil {i}: {error}");
    }
}

#[test]
fn links_and_fifos_are_refused() {
    let (place, _) = saved();
    let path = place.dir.join(MEMORY);
    let elsewhere = place.dir.with_file_name("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(error_of(&place.dir).contains("no regular file"));
    fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    assert!(error_of(&place.dir).contains("no regular file"));
}

#[test]
fn ram_without_a_kernel_is_refused() {
    let place = place();
    let ram = vec![0; 4 << 20];
    let error = save(&SliceRam { base: BASE, bytes: &ram }, &facts(), &place.dir).unwrap_err();
    assert!(matches!(error, Error::Guest(_)), "{error}");
    assert_eq!(fs::read_dir(place.dir.parent().unwrap()).unwrap().count(), 0);
}

/// Where the tests that run this program again tell it what to do.
const CHILD_DIR: &str = "BELLJAR_TEST_SNAPSHOT";

/// This test program again, for one of its tests that is no test by itself.
fn child(test: &str, dir: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("snapshot::tests::{test}"), "--ignored", "--quiet"]);
    command.env(CHILD_DIR, dir);
    command
}

#[test]
#[ignore = "started by save_killed_at_any_moment_leaves_a_whole_snapshot"]
fn child_saves_for_ever() {
    let dir = PathBuf::from(std::env::var_os(CHILD_DIR).unwrap());
    let mut guest = Guest::new();
    for round in 0.. {
        guest.ram[0x5000] = round;
        save(&guest.target(), &facts(), &dir).unwrap();
    }
}

#[test]
fn save_killed_at_any_moment_leaves_a_whole_snapshot() {
    let (place, _) = saved();
    for round in 0..12 {
        let mut saver = child("child_saves_for_ever", &place.dir)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20 + 7 * round));
        saver.kill().unwrap();
        saver.wait().unwrap();
        Snapshot::open(&place.dir, Trust::Verify).unwrap();
    }
    // The next save clears away what the dead ones left.
    save(&Guest::new().target(), &facts(), &place.dir).unwrap();
    assert_eq!(fs::read_dir(place.dir.parent().unwrap()).unwrap().count(), 1);
}

#[test]
#[ignore = "started by save_on_a_full_disk_says_so_and_leaves_the_former_snapshot"]
fn child_saves_on_a_full_disk() {
    let parent = PathBuf::from(std::env::var_os(CHILD_DIR).unwrap());
    let (dir, mut guest) = (parent.join("snap"), Guest::new());
    save(&guest.target(), &facts(), &dir).unwrap();
    // Twice as much as is left.
    for frame in guest.ram[..1 << 20].chunks_mut(4096) {
        frame[0] = 1;
    }
    let error = save(&guest.target(), &facts(), &dir).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    let names: Vec<_> = fs::read_dir(&parent).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["snap"]);
    let mut byte = [1];
    let former = Snapshot::open(&dir, Trust::Verify).unwrap();
    former.ram().unwrap().read(BASE, &mut byte).unwrap();
    assert_eq!(byte, [0]);
}

/// A file system of half a megabyte, in a mount namespace of its own.
#[test]
fn save_on_a_full_disk_says_so_and_leaves_the_former_snapshot() {
    let unshare = |script: &str| {
        let mut command = std::process::Command::new("unshare");
        command.args(["-rm", "sh", "-c", script, "sh"]);
        command
    };
    if !unshare("mount -t tmpfs tmpfs /mnt").status().is_ok_and(|status| status.success()) {
        eprintln!("not tested: this host gives no mount namespace");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let again = child("child_saves_on_a_full_disk", temp.path());
    let script = "mount -t tmpfs -o size=512k tmpfs \"$BELLJAR_TEST_SNAPSHOT\" && exec \"$@\"";
    let done = unshare(script)
        .arg(again.get_program())
        .args(again.get_args())
        .env(CHILD_DIR, temp.path())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

/// The golden snapshot of version 1, its memory file compressed: what version 1 saved stays readable.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/snapshot-v1")
}

#[test]
fn golden_snapshot_of_version_1_is_read() {
    let place = place();
    fs::create_dir(&place.dir).unwrap();
    fs::copy(golden().join(MANIFEST), place.dir.join(MANIFEST)).unwrap();
    let packed = fs::File::open(golden().join("memory.img.gz")).unwrap();
    let mut memory = fs::File::create(place.dir.join(MEMORY)).unwrap();
    std::io::copy(&mut flate2::read::GzDecoder::new(packed), &mut memory).unwrap();
    let snapshot = Snapshot::open(&place.dir, Trust::Verify).unwrap();
    let manifest = snapshot.manifest();
    assert_eq!((manifest.board.cpus, &*manifest.source.vm), (1, "t"));
    assert_eq!(manifest.thaw.as_ref().map(|thaw| thaw.entry), Some(BASE + 0x20_0000));
    let rows = rows_of(&snapshot.ram().unwrap());
    for name in ["init", "kthreadd", "gone"] {
        assert!(rows.contains(name), "{rows}");
    }
}

/// Makes the golden snapshot: only for a new version of the format, beside those of the former ones.
#[test]
#[ignore = "writes into the work tree"]
fn write_golden_snapshot() {
    let (place, _) = saved();
    fs::create_dir_all(golden()).unwrap();
    fs::copy(place.dir.join(MANIFEST), golden().join(MANIFEST)).unwrap();
    let packed = fs::File::create(golden().join("memory.img.gz")).unwrap();
    let mut packer = flate2::write::GzEncoder::new(packed, flate2::Compression::best());
    std::io::copy(&mut fs::File::open(place.dir.join(MEMORY)).unwrap(), &mut packer).unwrap();
    packer.finish().unwrap();
}

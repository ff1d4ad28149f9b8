//! The guest's devices through the command line: console ports, disks, entropy.

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use belljar_tests::guest::Guest;
use belljar_tests::sandbox::Done;

fn with_disk(guest: &Guest, disks: &[&str], script: &str) -> Done {
    let mut args = vec!["run"];
    for disk in disks {
        args.extend(["--disk", disk]);
    }
    args.extend(["shell", "--", "sh", "-c", script]);
    guest.run(&args, "")
}

/// A file of `len` bytes, each different from its neighbours.
fn make_disk(path: &Path, len: usize) -> Vec<u8> {
    let bytes: Vec<u8> = (0..len).map(|i| (i / 512 + i % 251) as u8).collect();
    fs::write(path, &bytes).unwrap();
    bytes
}

#[test]
fn the_console_is_the_virtio_port_and_the_uart_is_there_too() {
    let guest = Guest::new();
    // A run for each: two devices' bytes come in any order.
    for (script, expected) in [
        ("ls /dev/hvc0 /dev/ttyAMA0", "/dev/hvc0\n/dev/ttyAMA0\n"),
        ("cat /sys/class/tty/console/active", "ttyAMA0 hvc0\n"),
        ("echo port > /dev/hvc0", "port\n"),
        ("echo uart > /dev/ttyAMA0", "uart\n"),
    ] {
        let done = guest.sh(script);
        assert_eq!((done.code, &*done.stdout.replace('\r', "")), (0, expected), "{done:?}");
    }
    let args = ["run", "--append", "console=ttyAMA0", "shell", "--", "sh", "-c", "cat; echo end"];
    let done = guest.run(&args, "through the uart\n");
    assert_eq!((done.code, &*done.stdout), (0, "through the uart\nend\n"));
    guest.assert_clean();
}

#[test]
fn a_large_output_comes_whole_before_the_power_goes() {
    let done = Guest::new().sh("seq 1 200000; echo last");
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(done.code == 0 && done.stdout == expected + "last\n", "{} bytes", done.stdout.len());
}

#[test]
fn the_terminal_takes_a_large_output_when_the_console_is_a_stream() {
    // More than the device takes at once: whoever writes to the terminal has to be woken, too.
    let done =
        Guest::new().sh("seq 1 40000 > /dev/hvc0; seq 40001 80000; seq 80001 90000 > /dev/hvc0");
    let expected: String = (1..=90_000).map(|n| format!("{n}\n")).collect();
    let output = done.stdout.replace('\r', "");
    assert!(done.code == 0 && output == expected, "{} bytes: {:?}", output.len(), done.stderr);
}

#[test]
fn a_disk_is_read_and_written_where_the_guest_says() {
    let guest = Guest::new();
    let path = guest.path("disk.img");
    // The last page is not whole.
    let mut bytes = make_disk(&path, (3 << 20) + 512);
    let script = "
        blockdev --getsize64 /dev/vda; blockdev --getss /dev/vda; blockdev --getro /dev/vda
        cat /sys/block/vda/size; grep vda /proc/partitions | tr -s ' '
        md5sum < /dev/vda
        printf 'hello' | dd of=/dev/vda bs=1 seek=1000003 conv=notrunc 2>/dev/null
        yes block | head -c 1048576 | dd of=/dev/vda bs=64k seek=32 conv=fsync 2>/dev/null
        dd if=/dev/vda bs=1 skip=1000000 count=10 2>/dev/null | od -An -c
        echo 1 | dd of=/dev/vda bs=512 seek=6145 2>&1 | grep -o 'No space left on device'
        dd if=/dev/vda bs=512 skip=6145 2>/dev/null | wc -c";
    let done = with_disk(&guest, &[path.to_str().unwrap()], script);
    assert_eq!((done.code, &*done.stderr), (0, ""), "{done:?}");
    let mut lines = done.stdout.lines();
    let mut line = || lines.next().unwrap_or_default().trim().to_owned();
    assert_eq!([line(), line(), line(), line()], ["3146240", "512", "0", "6145"]);
    assert_eq!(line(), "254 0 3072 vda");
    assert_eq!(line().len(), 32 + "  -".len());
    assert!(line().contains("h   e   l   l   o"), "{done:?}");
    assert_eq!([line(), line()], ["No space left on device", "0"]);
    bytes[1_000_003..1_000_008].copy_from_slice(b"hello");
    let blocks: Vec<u8> = b"block\n".iter().copied().cycle().take(1 << 20).collect();
    bytes[2 << 20..3 << 20].copy_from_slice(&blocks);
    assert!(fs::read(&path).unwrap() == bytes, "what the guest wrote is where it wrote it");
    guest.assert_clean();
}

#[test]
fn disks_are_found_in_the_order_in_which_they_are_given_and_may_be_read_only() {
    let guest = Guest::new();
    let (first, second) = (guest.path("first"), guest.path("second"));
    make_disk(&first, 4096);
    let bytes = make_disk(&second, 8192);
    let second_arg = format!("{},ro", second.display());
    let script = "
        cat /sys/block/vda/size /sys/block/vdb/size /sys/block/vdb/ro
        blockdev --getro /dev/vdb
        echo x > /dev/vdb || echo refused
        dd if=/dev/vdb bs=512 count=1 2>/dev/null | wc -c
        blockdev --setro /dev/vda; echo x > /dev/vda || echo refused too";
    let done = with_disk(&guest, &[first.to_str().unwrap(), &second_arg], script);
    let expected = "8\n16\n1\n1\nrefused\n512\nrefused too\n";
    // The shell's own complaints are in between.
    let words = done.stdout.lines().filter(|line| !line.contains("rror") && !line.contains("sh: "));
    assert_eq!(words.collect::<Vec<_>>(), expected.lines().collect::<Vec<_>>(), "{done:?}");
    assert!(fs::read(&second).unwrap() == bytes);
}

#[test]
fn what_was_written_is_stored_when_the_machine_goes_off() {
    let guest = Guest::new();
    let path = guest.path("disk.img");
    make_disk(&path, 1 << 20);
    // The disk is still open, and nobody asked for anything to be stored.
    let script = "exec 3<>/dev/vda; yes kept | head -c 65536 >&3; exit 3";
    let done = with_disk(&guest, &[path.to_str().unwrap()], script);
    assert_eq!(done.code, 3, "{done:?}");
    let stored = fs::read(&path).unwrap();
    let kept: Vec<u8> = b"kept\n".iter().copied().cycle().take(65536).collect();
    assert!(stored[..65536] == kept);
}

#[test]
fn a_disk_larger_than_memory_is_read_and_written_whole() {
    let guest = Guest::new();
    let path = guest.path("disk.img");
    let end = make_disk(&path, 1 << 20);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(47 << 20).unwrap();
    file.write_all_at(&end, 47 << 20).unwrap();
    let disk = path.to_str().unwrap();
    let script = "wc -c < /dev/vda; yes | dd of=/dev/vda bs=1M count=40 iflag=fullblock 2>/dev/null; \
                  dd if=/dev/vda bs=1M skip=47 2>/dev/null | wc -c";
    let args = ["run", "--memory", "32M", "--disk", disk, "shell", "--", "sh", "-c", script];
    let done = guest.run(&args, "");
    assert_eq!((done.code, &*done.stdout), (0, "50331648\n1048576\n"), "{done:?}");
    let stored = fs::read(&path).unwrap();
    assert!(stored[..40 << 20] == b"y\n".repeat(20 << 20));
    assert!(stored[40 << 20..47 << 20] == vec![0; 7 << 20] && stored[47 << 20..] == end);
}

/// As [`with_disk`], on a host that stores no file beyond `limit` bytes: what a full file system is too.
fn with_full_host(guest: &Guest, disk: &str, limit: u64, script: &str) -> Done {
    let mut command = guest.command(&["run", "--disk", disk, "shell", "--", "sh", "-c", script]);
    // SAFETY: both calls are allowed between fork and exec.
    unsafe {
        command.pre_exec(move || {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
            match libc::setrlimit(libc::RLIMIT_FSIZE, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    Done::from(command.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn a_full_host_is_an_input_output_error_and_the_guest_goes_on() {
    let guest = Guest::new();
    let path = guest.path("sparse.img");
    fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
    let script = "
        dd if=/dev/zero of=/dev/vda bs=1M count=1 seek=600 conv=fsync 2>&1 | grep -o 'I/O error\\|Input/output error'
        dd if=/dev/zero of=/dev/vda bs=1M count=1 seek=1 conv=fsync 2>/dev/null && echo goes on
        dd if=/dev/vda bs=1M skip=600 count=1 2>/dev/null | wc -c";
    let done = with_full_host(&guest, path.to_str().unwrap(), 512 << 20, script);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{done:?}");
    assert!(lines[0].contains("rror"), "{done:?}");
    assert_eq!(lines[1..], ["goes on", "1048576"], "{done:?}");
}

#[test]
fn a_file_that_cannot_be_a_disk_is_refused_in_one_line() {
    let guest = Guest::new();
    let empty = guest.path("empty");
    fs::write(&empty, "").unwrap();
    for (disk, why) in [
        ("/nonexistent.img", "cannot open the disk /nonexistent.img: "),
        ("/", "neither a file nor a block device"),
        (empty.to_str().unwrap(), "has 0 bytes"),
    ] {
        let done = with_disk(&guest, &[disk], "true");
        assert_eq!((done.code, done.stderr.lines().count()), (125, 1), "{done:?}");
        assert!(done.stderr.contains(why), "{done:?}");
    }
    guest.assert_clean();
}

#[test]
fn the_entropy_device_gives_bytes_that_differ() {
    let script = "head -c 100 /dev/hwrng | wc -c
        a=$(head -c 32 /dev/hwrng | md5sum); b=$(head -c 32 /dev/hwrng | md5sum)
        [ \"$a\" != \"$b\" ] && echo differ";
    let done = Guest::new().sh(script);
    assert_eq!((done.code, &*done.stdout), (0, "100\ndiffer\n"), "{done:?}");
}

/// The device is our own on KVM.
mod kvm {
    use super::*;
    use std::process::Command;

    /// A small file system that goes with it.
    struct Full(std::path::PathBuf);

    impl Drop for Full {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).status();
        }
    }

    #[test]
    #[ignore = "needs KVM: cargo xtask test --only kvm"]
    fn a_full_file_system_under_a_disk_is_an_error_there_and_a_line_here() {
        let guest = Guest::new();
        let folder = guest.path("small");
        fs::create_dir(&folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&folder);
        assert!(mount.status().unwrap().success());
        let full = Full(folder);
        let disk = full.0.join("disk.img");
        fs::File::create(&disk).unwrap().set_len(4 << 20).unwrap();
        let script =
            "dd if=/dev/zero of=/dev/vda bs=64k count=64 conv=fsync 2>/dev/null || echo failed
            dd if=/dev/zero of=/dev/vda bs=64k count=4 conv=fsync 2>/dev/null && echo fits";
        let done = with_disk(&guest, &[disk.to_str().unwrap()], script);
        assert_eq!((done.code, &*done.stdout), (0, "failed\nfits\n"), "{done:?}");
        assert!(done.stderr.contains("disk.img") && done.stderr.contains("No space"), "{done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
        guest.assert_clean();
    }
}

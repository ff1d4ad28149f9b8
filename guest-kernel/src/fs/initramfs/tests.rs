//! Tests of the archive reader and of unpacking, hostile archives among them.

use std::io::Write as _;

use proptest::prelude::*;

use super::cpio::Reason;
use super::*;
use crate::fs::testing::World;

/// Builds a newc archive.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn entry(mut self, name: &str, mode: u32, nlink: u32, ino: u32, data: &[u8]) -> Self {
        let fields = [
            ino,
            mode,
            7,
            8,
            nlink,
            1_000_000_000,
            data.len() as u32,
            0,
            0,
            1,
            3,
            name.len() as u32 + 1,
            0,
        ];
        write!(self.0, "070701").unwrap();
        for field in fields {
            write!(self.0, "{field:08X}").unwrap();
        }
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        self.pad();
        self.0.extend_from_slice(data);
        self.pad();
        self
    }

    fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(name, 0o100755, 1, 1, data)
    }

    fn pad(&mut self) {
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
    }

    fn end(self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, 1, 0, b"").0
    }
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3];
    out.extend_from_slice(b"name\0");
    out.extend(miniz_oxide::deflate::compress_to_vec(data, 6));
    out.extend([0; 8]);
    out
}

fn unpacked(image: &[u8]) -> (World, Summary) {
    let w = World::with_options(b"size=8m");
    let summary = unpack(w.caller(), image);
    (w, summary)
}

#[test]
fn all_kinds_of_entries_appear_with_their_attributes() {
    let image = Archive::default()
        .entry(".", 0o40755, 2, 9, b"")
        .entry("bin", 0o40711, 2, 2, b"")
        .file("bin/prog", b"binary")
        .entry("bin/link", 0o120777, 1, 3, b"prog")
        .entry("dev/null", 0o20666, 1, 4, b"")
        .entry("one", 0o100600, 2, 5, b"")
        .entry("two", 0o100600, 2, 5, b"shared")
        .file("missing/parent/file", b"deep")
        .end();
    let (w, summary) = unpacked(&image);
    assert_eq!(summary, Summary { entries: 8, failed: 0, broken: None });
    assert_eq!(w.read("/bin/link").unwrap(), "binary");
    assert_eq!(w.read("/one").unwrap(), "shared");
    assert_eq!(w.read("/missing/parent/file").unwrap(), "deep");
    let attr = |name: &str| {
        let at = namei::lookup(w.caller(), None, name.as_bytes(), LookupFlags::empty()).unwrap();
        at.inode().unwrap().attr().unwrap()
    };
    assert_eq!(attr("/bin").mode, 0o40711);
    assert_eq!(attr("/bin").times.mtime.sec, 1_000_000_000, "later entries do not touch it");
    assert_eq!((attr("/bin/prog").uid, attr("/bin/prog").gid), (7, 8));
    assert_eq!(attr("/dev/null").rdev, Dev::new(1, 3));
    assert_eq!((attr("/one").nlink, attr("/one").ino), (2, attr("/two").ino));
}

#[test]
fn archives_follow_each_other_plain_and_compressed() {
    let big = vec![b'x'; 100_000];
    let mut image = Archive::default().file("a", b"1").file("both", b"old").end();
    image.extend([0; 512]);
    image.extend(gzip(&Archive::default().file("b", &big).end()));
    image.extend([0; 3]);
    image.extend(Archive::default().file("c", b"3").file("both", b"new").end());
    let (w, summary) = unpacked(&image);
    assert_eq!(summary, Summary { entries: 5, failed: 0, broken: None });
    assert_eq!(w.read("/b").unwrap().len(), big.len());
    assert_eq!((w.read("/c").unwrap(), w.read("/both").unwrap()), ("3".into(), "new".into()));
}

#[test]
fn a_broken_archive_says_where_and_keeps_what_came_before() {
    let good = Archive::default().file("a", b"1").file("b", &[0; 50]).end();
    let start_of_b = Archive::default().file("a", b"1").0.len();
    let broken = |image: &[u8]| {
        let (w, summary) = unpacked(image);
        assert_eq!(w.read("/a").unwrap(), "1");
        let broken = summary.broken.expect("it is broken");
        (broken.offset as usize, broken.reason)
    };
    for cut in [start_of_b + 1, start_of_b + 109, start_of_b + 111, start_of_b + 150] {
        assert_eq!(broken(&good[..cut]), (cut, Reason::Truncated), "cut at {cut}");
    }
    let mut bad = good.clone();
    bad[start_of_b + 8] = b'g';
    assert_eq!(broken(&bad), (start_of_b, Reason::BadNumber));
    let mut bad = good.clone();
    bad[start_of_b + 5] = b'7';
    assert_eq!(broken(&bad), (start_of_b, Reason::OtherFormat));
    let mut bad = good.clone();
    bad[start_of_b] = b'x';
    assert_eq!(broken(&bad), (start_of_b, Reason::NoHeader));
    let mut bad = good.clone();
    bad[start_of_b + 94..start_of_b + 102].copy_from_slice(b"FFFFFFFF");
    assert_eq!(broken(&bad), (start_of_b, Reason::BadName));
}

#[test]
fn a_broken_gzip_stream_is_an_error() {
    let whole = gzip(&Archive::default().file("a", b"1").end());
    let reason = |image: &[u8]| unpacked(image).1.broken.map(|b| b.reason);
    assert_eq!(reason(&whole), None);
    assert_eq!(reason(&whole[..20]), Some(Reason::Truncated));
    assert_eq!(reason(&whole[..5]), Some(Reason::BadCompression));
    let mut bad = whole.clone();
    bad[15] = 0xff;
    assert_eq!(reason(&bad), Some(Reason::BadCompression));
    assert_eq!(reason(b"\x28\xb5\x2f\xfdxxxx"), Some(Reason::OtherCompression));
    assert_eq!(reason(b"garbage"), Some(Reason::NoHeader));
    assert_eq!(reason(b""), None);
}

#[test]
fn only_regular_files_take_data() {
    // Opening the FIFO for writing would wait for a reader for ever.
    let image = Archive::default()
        .entry("fifo", 0o10644, 1, 2, b"data")
        .entry("null", 0o20666, 1, 3, b"data")
        .entry("dir", 0o40755, 2, 4, b"data")
        .file("after", b"read")
        .end();
    let (w, summary) = unpacked(&image);
    assert_eq!(summary, Summary { entries: 4, failed: 0, broken: None });
    assert_eq!(w.read("/after").unwrap(), "read");
}

#[test]
fn names_cannot_leave_the_root() {
    let image = Archive::default().file("../../up", b"x").file("/abs", b"y").end();
    let (w, summary) = unpacked(&image);
    assert_eq!(summary.failed, 0);
    assert_eq!((w.read("/up").unwrap(), w.read("/abs").unwrap()), ("x".into(), "y".into()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_bytes_panic(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        unpacked(&data);
    }

    #[test]
    fn no_damage_panics(
        at in 0_usize..600,
        byte in any::<u8>(),
        cut in 0_usize..700,
        compress in any::<bool>(),
    ) {
        let mut image = Archive::default()
            .entry("d", 0o40755, 2, 2, b"")
            .file("d/f", &[1; 200])
            .entry("l", 0o120777, 1, 3, b"d/f")
            .end();
        if compress {
            image = gzip(&image);
        }
        if let Some(b) = image.get_mut(at) {
            *b = byte;
        }
        image.truncate(cut);
        unpacked(&image);
    }
}

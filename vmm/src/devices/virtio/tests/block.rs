//! The disk.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};

use tempfile::NamedTempFile;
use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_CONFIG;

use crate::devices::MmioDevice;
use crate::devices::virtio::block::Error;
use crate::devices::virtio::synthetic::{Buffer, DATA, Guest, Ring};
use crate::devices::virtio::{Block, Report};

const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
const BODY: u64 = DATA + 0x1000;
const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;

struct Disk {
    file: NamedTempFile,
    guest: Guest,
    ring: Ring,
}

fn open(file: &NamedTempFile) -> File {
    File::options().read(true).write(true).open(file.path()).unwrap()
}

impl Disk {
    /// A disk of 64 KiB, each sector filled with its number, and a few bytes more.
    fn new(read_only: bool) -> Self {
        let mut file = NamedTempFile::new().unwrap();
        for sector in 0..128 {
            file.write_all(&[sector; 512]).unwrap();
        }
        file.write_all(&[0xee; 100]).unwrap();
        Self::over(file, read_only)
    }

    fn over(file: NamedTempFile, read_only: bool) -> Self {
        let disk = |report| Block::new(open(&file), file.path(), read_only, report).unwrap();
        let mut guest = Guest::new(|report| Box::new(disk(report)));
        let ring = guest.start(0, 128).remove(0);
        Self { file, guest, ring }
    }

    fn capacity(&mut self) -> u64 {
        let mut capacity = [0; 8];
        self.guest.mmio.read(VIRTIO_MMIO_CONFIG.into(), &mut capacity);
        u64::from_le_bytes(capacity)
    }

    /// Makes a request; says its status and how many bytes were written.
    fn request(&mut self, kind: u32, sector: u64, body: &[Buffer]) -> (u8, u32) {
        self.guest.put(HEADER, &kind.to_le_bytes());
        self.guest.put(HEADER + 8, &sector.to_le_bytes());
        self.guest.put(STATUS, &[0xff]);
        let (header, status) = (Buffer::Read(HEADER, 16), Buffer::Write(STATUS, 1));
        let mut buffers = vec![header];
        buffers.extend(body);
        buffers.push(status);
        self.ring.add(&buffers);
        self.guest.kick(&self.ring);
        let used = self.ring.used().expect("an answer");
        (self.guest.get(STATUS, 1)[0], used.1)
    }

    fn range(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        self.guest.put(BODY, &sector.to_le_bytes());
        self.guest.put(BODY + 8, &sectors.to_le_bytes());
        self.guest.put(BODY + 12, &flags.to_le_bytes());
        self.request(kind, 0, &[Buffer::Read(BODY, 16)]).0
    }

    fn on_disk(&self, sector: u64) -> [u8; 512] {
        let mut bytes = [0; 512];
        self.file.as_file().read_exact_at(&mut bytes, sector * 512).unwrap();
        bytes
    }
}

#[test]
fn capacity_is_the_whole_sectors_of_the_file() {
    assert_eq!(Disk::new(false).capacity(), 128);
}

#[test]
fn read_brings_sectors_in_pieces() {
    let mut disk = Disk::new(false);
    let body = [Buffer::Write(BODY, 100), Buffer::Write(BODY + 100, 924)];
    assert_eq!(disk.request(VIRTIO_BLK_T_IN, 126, &body), (OK, 1025));
    assert_eq!(disk.guest.get(BODY, 512), [126; 512]);
    assert_eq!(disk.guest.get(BODY + 512, 512), [127; 512]);
}

#[test]
fn header_and_status_may_share_buffers_with_data() {
    let mut disk = Disk::new(false);
    disk.guest.put(HEADER, &VIRTIO_BLK_T_OUT.to_le_bytes());
    disk.guest.put(HEADER + 8, &5u64.to_le_bytes());
    disk.guest.put(HEADER + 16, &[0x77; 512]);
    disk.ring.add(&[Buffer::Read(HEADER, 528), Buffer::Write(STATUS + 0x700, 1)]);
    disk.guest.kick(&disk.ring);
    assert_eq!(disk.on_disk(5), [0x77; 512]);
    disk.guest.put(HEADER, &VIRTIO_BLK_T_IN.to_le_bytes());
    let halves = [Buffer::Read(HEADER, 4), Buffer::Read(HEADER + 4, 12)];
    disk.ring.add(&[halves[0], halves[1], Buffer::Write(BODY, 513)]);
    disk.guest.kick(&disk.ring);
    assert_eq!(disk.guest.get(BODY, 512), [0x77; 512]);
    assert_eq!(disk.guest.get(BODY + 512, 1), [OK]);
}

#[test]
fn write_changes_the_file_and_nothing_beside() {
    let mut disk = Disk::new(false);
    disk.guest.put(BODY, &[0xab; 1024]);
    assert_eq!(disk.request(VIRTIO_BLK_T_OUT, 7, &[Buffer::Read(BODY, 1024)]), (OK, 1));
    assert_eq!(disk.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
    assert_eq!((disk.on_disk(6), disk.on_disk(7)), ([6; 512], [0xab; 512]));
    assert_eq!((disk.on_disk(8), disk.on_disk(9)), ([0xab; 512], [9; 512]));
}

#[test]
fn access_outside_the_disk_or_not_of_whole_sectors_is_an_error() {
    let mut disk = Disk::new(false);
    for (sector, length) in [(128, 512), (127, 1024), (u64::MAX, 512), (1 << 55, 512), (0, 100)] {
        for (kind, body) in [
            (VIRTIO_BLK_T_IN, Buffer::Write(BODY, length)),
            (VIRTIO_BLK_T_OUT, Buffer::Read(BODY, length)),
        ] {
            assert_eq!(disk.request(kind, sector, &[body]).0, IOERR, "{kind} {sector} {length}");
        }
    }
    // The guest asked for nonsense: nothing for the user to mend.
    assert!(disk.guest.said().is_empty());
    assert!(!disk.guest.needs_reset());
    assert_eq!(disk.file.as_file().metadata().unwrap().len(), 65636);
}

#[test]
fn read_only_disk_refuses_every_change() {
    let mut disk = Disk::new(true);
    let offered = disk.guest.offered();
    assert_ne!(offered & 1 << VIRTIO_BLK_F_RO, 0);
    assert_eq!(offered & (1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES), 0);
    assert_eq!(disk.request(VIRTIO_BLK_T_OUT, 7, &[Buffer::Read(BODY, 512)]).0, IOERR);
    assert_eq!(disk.range(VIRTIO_BLK_T_DISCARD, 0, 8, 0), IOERR);
    assert_eq!(disk.range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), IOERR);
    assert_eq!(disk.request(VIRTIO_BLK_T_IN, 7, &[Buffer::Write(BODY, 512)]).0, OK);
    assert_eq!(disk.request(VIRTIO_BLK_T_FLUSH, 0, &[]).0, OK);
    assert_eq!(disk.on_disk(7), [7; 512]);
}

#[test]
fn get_id_gives_the_files_name() {
    let mut disk = Disk::new(false);
    let body = [Buffer::Write(BODY, 20)];
    assert_eq!(disk.request(VIRTIO_BLK_T_GET_ID, 0, &body), (OK, 21));
    let name = disk.file.path().file_name().unwrap().to_str().unwrap().to_owned();
    assert!(disk.guest.get(BODY, 20).starts_with(name.as_bytes()));
}

#[test]
fn unknown_request_is_unsupported() {
    let mut disk = Disk::new(false);
    assert_eq!(disk.request(99, 0, &[]).0, UNSUPP);
    assert_eq!(disk.request(VIRTIO_BLK_T_SECURE_ERASE, 0, &[Buffer::Read(BODY, 16)]).0, UNSUPP);
}

#[test]
fn discard_gives_space_back_and_reads_as_zeros() {
    let mut disk = Disk::new(false);
    disk.file.as_file().sync_all().unwrap();
    let before = disk.file.as_file().metadata().unwrap();
    assert_eq!(disk.range(VIRTIO_BLK_T_DISCARD, 16, 64, 0), OK);
    let after = disk.file.as_file().metadata().unwrap();
    assert!(after.blocks() < before.blocks(), "{} {}", after.blocks(), before.blocks());
    assert_eq!(after.len(), before.len());
    assert_eq!((disk.on_disk(15), disk.on_disk(16)), ([15; 512], [0; 512]));
    assert_eq!((disk.on_disk(79), disk.on_disk(80)), ([0; 512], [80; 512]));
}

#[test]
fn write_zeroes_makes_zeros_with_and_without_holes() {
    for unmap in [0, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP] {
        let mut disk = Disk::new(false);
        assert_eq!(disk.range(VIRTIO_BLK_T_WRITE_ZEROES, 3, 10, unmap), OK);
        assert_eq!((disk.on_disk(2), disk.on_disk(3)), ([2; 512], [0; 512]));
        assert_eq!((disk.on_disk(12), disk.on_disk(13)), ([0; 512], [13; 512]));
        assert_eq!(disk.range(VIRTIO_BLK_T_WRITE_ZEROES, 3, 0, unmap), OK, "nothing to do");
    }
}

#[test]
fn bad_ranges_are_refused_whole() {
    let mut disk = Disk::new(false);
    assert_eq!(disk.range(VIRTIO_BLK_T_DISCARD, 0, 8, 1), UNSUPP);
    assert_eq!(disk.range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2), UNSUPP);
    assert_eq!(disk.range(VIRTIO_BLK_T_DISCARD, 120, 9, 0), IOERR);
    assert_eq!(disk.range(VIRTIO_BLK_T_DISCARD, u64::MAX, 1, 0), IOERR);
    assert_eq!(disk.range(VIRTIO_BLK_T_DISCARD, 0, u32::MAX, 0), IOERR);
    for length in [0, 15, 17, 16 * 33] {
        let body = [Buffer::Read(BODY, length)];
        assert_eq!(disk.request(VIRTIO_BLK_T_DISCARD, 0, &body).0, IOERR, "{length}");
    }
    // One right and one wrong range: neither is done.
    disk.guest.put(BODY, &[0; 64]);
    disk.guest.put(BODY + 8, &8u32.to_le_bytes());
    disk.guest.put(BODY + 16, &500u64.to_le_bytes());
    disk.guest.put(BODY + 24, &8u32.to_le_bytes());
    assert_eq!(disk.request(VIRTIO_BLK_T_DISCARD, 0, &[Buffer::Read(BODY, 32)]).0, IOERR);
    assert_eq!(disk.on_disk(3), [3; 512]);
}

#[test]
fn request_without_header_or_status_breaks_the_queue() {
    for buffers in [
        &[Buffer::Read(HEADER, 15), Buffer::Write(STATUS, 1)][..],
        &[Buffer::Write(STATUS, 1)],
        &[Buffer::Read(HEADER, 16)],
        &[Buffer::Read(HEADER, 16), Buffer::Write(STATUS, 0)],
    ] {
        let mut disk = Disk::new(false);
        disk.ring.add(buffers);
        disk.guest.kick(&disk.ring);
        assert!(disk.guest.needs_reset(), "{buffers:?}");
    }
}

#[test]
fn file_that_shrank_is_an_error_once_told() {
    let mut disk = Disk::new(false);
    disk.file.as_file().set_len(10 * 512).unwrap();
    for _ in 0..3 {
        let body = [Buffer::Write(BODY, 512)];
        assert_eq!(disk.request(VIRTIO_BLK_T_IN, 10, &body).0, IOERR);
    }
    let said = disk.guest.said();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("a read at sector 10 failed: the file is shorter"), "{said:?}");
    assert_eq!(disk.request(VIRTIO_BLK_T_IN, 9, &[Buffer::Write(BODY, 512)]).0, OK);
    assert_eq!(disk.request(VIRTIO_BLK_T_OUT, 100, &[Buffer::Read(BODY, 512)]).0, OK);
    assert_eq!(disk.request(VIRTIO_BLK_T_IN, 10, &[Buffer::Write(BODY, 512)]).0, OK);
}

#[test]
fn full_host_is_an_io_error_and_one_line() {
    // Writing to /dev/full fails with ENOSPC, but it has no size; a limit on the file's size has the
    // same path. The device keeps what the host says: here it is told directly.
    let report = std::sync::Arc::new(std::sync::Mutex::new(vec![]));
    let ear = report.clone();
    let say = Report::new(move |line: &str| ear.lock().unwrap().push(line.to_owned()));
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let full = File::options().read(true).write(true).open("/dev/full").unwrap();
    let mut guest = Guest::new(|_| {
        let mut block = Block::new(open(&file), file.path(), false, say).unwrap();
        block.replace_file(full);
        Box::new(block)
    });
    let ring = guest.start(0, 128).remove(0);
    let mut disk = Disk { file, guest, ring };
    for sector in 0..3 {
        assert_eq!(disk.request(VIRTIO_BLK_T_OUT, sector, &[Buffer::Read(BODY, 512)]).0, IOERR);
    }
    let said = report.lock().unwrap();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("a write at sector 0 failed: No space left"), "{said:?}");
    assert!(said[0].contains("free space on the host"), "{said:?}");
}

#[test]
fn file_in_use_or_too_small_is_refused_by_name() {
    let file = NamedTempFile::new().unwrap();
    let disk =
        |read_only| Block::new(open(&file), file.path(), read_only, Report::new(|_: &str| {}));
    assert!(matches!(disk(true), Err(Error::Small { size: 0, .. })));
    file.as_file().set_len(512).unwrap();
    let writer = disk(false).unwrap();
    assert!(matches!(disk(true), Err(Error::Busy(_))));
    drop(writer);
    let _reader = disk(true).unwrap();
    assert!(disk(true).is_ok());
    let busy = disk(false).err().unwrap().to_string();
    assert!(busy.contains(file.path().to_str().unwrap()), "{busy}");
}

//! Tests of files and folders in memory.

use super::memfd;
use crate::errno::Errno;
use crate::fs::namei::{LookupFlags, lookup};
use crate::fs::testing::{World, read, write};
use crate::fs::{DirSink, OpenFlags, Whence, verbs};
use crate::ns::Cred;
use crate::uapi;

#[test]
fn data_lands_where_it_was_written_and_holes_read_as_zeros() {
    let w = World::new();
    let file = w.create("/f", "");
    file.seek(10_000, Whence::Set).unwrap();
    assert_eq!(write(&file, b"end"), Ok(3));
    file.seek(4094, Whence::Set).unwrap();
    assert_eq!(write(&file, b"across"), Ok(6));
    assert_eq!(file.inode.size(), 10_003);
    assert_eq!(file.inode.attr().unwrap().blocks, 3 * 8);
    let mut all = vec![1; 20_000];
    assert_eq!(file.read_kernel(&mut all, 0), Ok(10_003));
    assert_eq!(&all[4094..4100], b"across");
    assert_eq!(&all[10_000..10_003], b"end");
    assert!(all[..4094].iter().all(|&b| b == 0));
    file.seek(0, Whence::Set).unwrap();
    assert_eq!(read(&file, 4).unwrap(), [0; 4]);
    assert_eq!(file.pos(), 4);
}

#[test]
fn data_and_holes_are_found() {
    let w = World::new();
    let file = w.create("/f", "");
    file.seek(3 * 4096 + 5, Whence::Set).unwrap();
    write(&file, b"x").unwrap();
    verbs::set_length(&file.inode, 8 * 4096).unwrap();
    assert_eq!(file.seek(0, Whence::Data), Ok(3 * 4096));
    assert_eq!(file.seek(3 * 4096 + 9, Whence::Data), Ok(3 * 4096 + 9));
    assert_eq!(file.seek(5 * 4096, Whence::Data), Err(Errno::ENXIO));
    assert_eq!(file.seek(0, Whence::Hole), Ok(0));
    assert_eq!(file.seek(3 * 4096, Whence::Hole), Ok(4 * 4096));
    assert_eq!(file.seek(8 * 4096, Whence::Hole), Err(Errno::ENXIO));
    assert_eq!(file.seek(-1, Whence::Set), Err(Errno::EINVAL));
    assert_eq!(file.seek(i64::MAX, Whence::End), Err(Errno::EINVAL));
}

#[test]
fn a_shortened_file_forgets_what_it_held() {
    let w = World::new();
    let file = w.create("/f", &"x".repeat(9000));
    verbs::set_length(&file.inode, 5).unwrap();
    verbs::set_length(&file.inode, 9000).unwrap();
    let mut all = vec![1; 9000];
    file.read_kernel(&mut all, 0).unwrap();
    assert_eq!(&all[..5], b"xxxxx");
    assert!(all[5..].iter().all(|&b| b == 0));
}

#[test]
fn a_full_file_system_says_so_and_room_comes_back() {
    let w = World::with_options(b"size=16k,nr_inodes=3");
    let file = w.create("/f", "");
    assert_eq!(write(&file, &[1; 5 * 4096]), Ok(4 * 4096), "as much as there is room for");
    assert_eq!(write(&file, &[1]), Err(Errno::ENOSPC));
    let statfs = || file.inode.sb.ops.statfs(&file.inode.sb).unwrap();
    assert_eq!((statfs().blocks, statfs().bfree), (4, 0));
    verbs::set_length(&file.inode, 4096).unwrap();
    assert_eq!(statfs().bfree, 3);
    file.ops().fallocate(&file, 0, 0, 2 * 4096).unwrap();
    assert_eq!(statfs().bfree, 2);
    assert_eq!(file.ops().fallocate(&file, 0, 0, 1 << 40), Err(Errno::ENOSPC));
    assert_eq!((statfs().bfree, file.inode.size()), (2, 2 * 4096), "nothing of it stays");
    let punch = uapi::FALLOC_FL_PUNCH_HOLE | uapi::FALLOC_FL_KEEP_SIZE;
    file.ops().fallocate(&file, punch, 0, 4096).unwrap();
    assert_eq!(statfs().bfree, 3);

    let second = w.create("/g", "");
    let create = OpenFlags::CREAT | OpenFlags::RDWR;
    assert_eq!(w.open("/h", create).err(), Some(Errno::ENOSPC), "no inode is left");
    drop(second);
    verbs::unlink(w.caller(), None, b"/g").unwrap();
    assert!(w.open("/h", create).is_ok());
    verbs::unlink(w.caller(), None, b"/f").unwrap();
    assert_eq!(statfs().bfree, 3, "the open file keeps its pages");
}

#[test]
fn an_unlinked_file_lives_until_it_is_closed() {
    let w = World::new();
    let file = w.create("/f", "still here");
    verbs::unlink(w.caller(), None, b"/f").unwrap();
    assert_eq!(file.inode.nlink(), 0);
    let mut buf = [0; 10];
    file.read_kernel(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"still here");
    let unnamed =
        w.open("/", OpenFlags::TMPFILE_BIT | OpenFlags::DIRECTORY | OpenFlags::RDWR).unwrap();
    write(&unnamed, b"found").unwrap();
    verbs::link(w.caller(), &unnamed.path, None, b"/named").unwrap();
    assert_eq!(w.read("/named").unwrap(), "found");
    assert_eq!(verbs::link(w.caller(), &file.path, None, b"/back"), Err(Errno::ENOENT));
}

#[test]
fn appending_writes_go_to_the_end_whatever_the_position() {
    let w = World::new();
    let a = w.create("/log", "one ");
    let b = w.open("/log", OpenFlags::WRONLY | OpenFlags::APPEND).unwrap();
    write(&b, b"two ").unwrap();
    write(&a, b"2").unwrap();
    b.seek(0, Whence::Set).unwrap();
    write(&b, b"three").unwrap();
    assert_eq!(w.read("/log").unwrap(), "one 2wo three");
    a.set_pos(1);
    a.append(&mut crate::fs::UserBuf::from_kernel(b"!"), false).unwrap();
    assert_eq!(a.pos(), 1);
    a.append(&mut crate::fs::UserBuf::from_kernel(b"!"), true).unwrap();
    assert_eq!(a.pos(), 15);
    assert_eq!(w.read("/log").unwrap(), "one 2wo three!!");
}

#[derive(Default)]
struct Names {
    names: Vec<String>,
    room: usize,
}

impl DirSink for Names {
    fn emit(&mut self, name: &[u8], _ino: u64, _mode: u32, _next: u64) -> bool {
        if self.names.len() == self.room {
            return false;
        }
        self.names.push(String::from_utf8(name.to_vec()).unwrap());
        true
    }
}

#[test]
fn listing_goes_on_where_it_stopped_while_names_come_and_go() {
    let w = World::new();
    for name in ["/a", "/b", "/c", "/d"] {
        w.create(name, "");
    }
    let dir = w.open("/", OpenFlags::DIRECTORY).unwrap();
    let list = |room: usize| {
        let mut sink = Names { room, ..Names::default() };
        dir.readdir(&mut sink).unwrap();
        sink.names
    };
    assert_eq!(list(4), [".", "..", "a", "b"]);
    verbs::unlink(w.caller(), None, b"/a").unwrap();
    verbs::unlink(w.caller(), None, b"/c").unwrap();
    w.create("/e", "");
    assert_eq!(list(9), ["d", "e"]);
    assert!(list(9).is_empty());
    dir.seek(0, Whence::Set).unwrap();
    assert_eq!(list(9), [".", "..", "b", "d", "e"]);
}

#[test]
fn link_counts_of_folders_count_their_folders() {
    let w = World::new();
    let nlink = |name: &str| {
        let at = lookup(w.caller(), None, name.as_bytes(), LookupFlags::empty()).unwrap();
        at.inode().unwrap().nlink()
    };
    verbs::mkdir(w.caller(), None, b"/a", 0o755).unwrap();
    verbs::mkdir(w.caller(), None, b"/a/b", 0o755).unwrap();
    verbs::mkdir(w.caller(), None, b"/c", 0o755).unwrap();
    assert_eq!((nlink("/"), nlink("/a"), nlink("/a/b")), (4, 3, 2));
    w.rename("/a/b", "/c/b", Default::default()).unwrap();
    assert_eq!((nlink("/a"), nlink("/c")), (2, 3));
    verbs::rmdir(w.caller(), None, b"/c/b").unwrap();
    assert_eq!(nlink("/c"), 2);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let cred = Cred::root();
    let request = |data: &'static [u8]| crate::fs::MountRequest {
        source: b"none",
        data,
        flags: Default::default(),
        cred: &cred,
        shows: None,
    };
    for bad in [&b"size=x"[..], b"mode=9", b"color=red", b"size=99999999999999999999g", b"size="] {
        assert!(super::Options::parse(&request(bad)).is_err(), "{}", bad.escape_ascii());
    }
    let good = super::Options::parse(&request(b"size=2k,mode=0700,nr_inodes=1k")).unwrap();
    assert_eq!((good.pages, good.mode, good.inodes), (Some(1), Some(0o700), Some(1024)));
}

#[test]
fn seals_hold() {
    crate::mm::testing::setup();
    let _ = memfd::init();
    let cred = Cred::root();
    let file = memfd::create(b"name", true, &cred).unwrap();
    write(&file, b"12345").unwrap();
    memfd::add_seals(&file, uapi::F_SEAL_SHRINK | uapi::F_SEAL_GROW).unwrap();
    assert_eq!(verbs::set_length(&file.inode, 4), Err(Errno::EPERM));
    assert_eq!(verbs::set_length(&file.inode, 6), Err(Errno::EPERM));
    assert_eq!(write(&file, b"6"), Err(Errno::EPERM));
    file.set_pos(0);
    assert_eq!(write(&file, b"x"), Ok(1));
    memfd::add_seals(&file, uapi::F_SEAL_WRITE | uapi::F_SEAL_SEAL).unwrap();
    file.set_pos(0);
    assert_eq!(write(&file, b"x"), Err(Errno::EPERM));
    assert_eq!(memfd::add_seals(&file, 0), Err(Errno::EPERM));
    let plain = memfd::create(b"", false, &cred).unwrap();
    assert_eq!(memfd::add_seals(&plain, uapi::F_SEAL_GROW), Err(Errno::EPERM));
    assert_eq!(file.path.to_vec().unwrap(), b"/memfd:name (deleted)");
}

//! Tests of the walk, of what names undergo, of mounts, and of the descriptor table.

use super::namei::{LookupFlags, lookup};
use super::superblock::MountRequest;
use super::testing::World;
use super::verbs::{self, RenameFlags};
use super::*;
use crate::errno::Errno;
use crate::kref::Ref;
use crate::ns::Cred;

fn ino(w: &World, name: &str, flags: LookupFlags) -> Result<u64, Errno> {
    lookup(w.caller(), None, name.as_bytes(), flags).map(|p| p.inode().unwrap().ino)
}

fn mkdir(w: &World, name: &str) {
    verbs::mkdir(w.caller(), None, name.as_bytes(), 0o777).unwrap();
}

fn symlink(w: &World, target: &str, name: &str) {
    verbs::symlink(w.caller(), target.as_bytes(), None, name.as_bytes()).unwrap();
}

fn text(w: &World, path: &Path) -> String {
    let mut buf = [0; PATH_MAX];
    String::from_utf8(path.text_in(&w.fs.root(), &mut buf).unwrap().0.to_vec()).unwrap()
}

const FOLLOW: LookupFlags = LookupFlags::FOLLOW;
const NONE: LookupFlags = LookupFlags::empty();

#[test]
fn a_walk_resolves_dots_slashes_and_links() {
    let w = World::new();
    mkdir(&w, "/a");
    mkdir(&w, "/a/b");
    w.create("/a/b/file", "x");
    symlink(&w, "b", "/a/rel");
    symlink(&w, "/a", "/abs");
    symlink(&w, "abs/rel/file", "/chain");
    let want = ino(&w, "/a/b/file", FOLLOW).unwrap();
    for name in [
        "a/b/file",
        "//a//b///file",
        "/a/./b/../b/file",
        "/../../a/b/file",
        "/a/rel/file",
        "/abs/rel/file",
        "/chain",
        "abs/b/../rel/./file",
    ] {
        assert_eq!(ino(&w, name, FOLLOW), Ok(want), "{name}");
    }
    assert_ne!(ino(&w, "/chain", NONE), Ok(want));
    // A slash at the end follows the link and wants a directory.
    assert_eq!(ino(&w, "/abs/", NONE), ino(&w, "/a", NONE));
    assert_eq!(ino(&w, "/chain/", NONE), Err(Errno::ENOTDIR));
    assert_eq!(ino(&w, "/a/b/file/x", FOLLOW), Err(Errno::ENOTDIR));
    assert_eq!(ino(&w, "/a/b/file/.", FOLLOW), Err(Errno::ENOTDIR));
    assert_eq!(ino(&w, "/a/none/../b", FOLLOW), Err(Errno::ENOENT));
    assert_eq!(ino(&w, "", FOLLOW), Err(Errno::ENOENT));
    let long = "x".repeat(256);
    assert_eq!(ino(&w, &long, FOLLOW), Err(Errno::ENAMETOOLONG));
}

#[test]
fn rings_of_links_end_in_eloop_and_forty_links_do_not() {
    let w = World::new();
    symlink(&w, "two", "/one");
    symlink(&w, "one", "/two");
    assert_eq!(ino(&w, "/one", FOLLOW), Err(Errno::ELOOP));
    w.create("/l0", "");
    for i in 1..=41 {
        symlink(&w, &format!("l{}", i - 1), &format!("/l{i}"));
    }
    assert!(ino(&w, "/l40", FOLLOW).is_ok());
    assert_eq!(ino(&w, "/l41", FOLLOW), Err(Errno::ELOOP));
    assert_eq!(w.open("/l1", OpenFlags::NOFOLLOW).err(), Some(Errno::ELOOP));
}

#[test]
fn a_scoped_walk_stays_where_it_started() {
    let w = World::new();
    mkdir(&w, "/jail");
    mkdir(&w, "/jail/in");
    w.create("/secret", "");
    symlink(&w, "/secret", "/jail/abs");
    symlink(&w, "../secret", "/jail/up");
    let jail = lookup(w.caller(), None, b"/jail", NONE).unwrap();
    let walk = |name: &str, flags| {
        lookup(w.caller(), Some(&jail), name.as_bytes(), flags | FOLLOW).map(|p| text(&w, &p))
    };
    for name in ["abs", "up", "../secret", "in/../../secret", "/secret"] {
        assert_eq!(walk(name, LookupFlags::BENEATH), Err(Errno::EXDEV), "{name}");
    }
    assert_eq!(walk("in/../in", LookupFlags::BENEATH), Ok("/jail/in".into()));
    assert_eq!(walk("../../in", LookupFlags::IN_ROOT), Ok("/jail/in".into()));
    assert_eq!(walk("/in", LookupFlags::IN_ROOT), Ok("/jail/in".into()));
    assert_eq!(walk("abs", LookupFlags::IN_ROOT), Err(Errno::ENOENT));
    assert_eq!(walk("abs", LookupFlags::NO_SYMLINKS), Err(Errno::ELOOP));
}

#[test]
fn absent_names_are_remembered_and_come_true() {
    let w = World::new();
    assert_eq!(ino(&w, "/later", FOLLOW), Err(Errno::ENOENT));
    let root = w.fs.root();
    let cached = dentry::lookup(&root.dentry, b"later").expect("the absence is cached");
    assert!(cached.inode().is_none());
    w.create("/later", "");
    assert!(cached.inode().is_some());
    verbs::unlink(w.caller(), None, b"/later").unwrap();
    assert!(cached.inode().is_some(), "who holds the name keeps the file");
    assert_eq!(ino(&w, "/later", FOLLOW), Err(Errno::ENOENT));
}

#[test]
fn creating_obeys_flags_and_follows_dangling_links() {
    let w = World::new();
    let create = OpenFlags::CREAT | OpenFlags::WRONLY;
    w.create("/f", "abc");
    assert_eq!(w.open("/f", create | OpenFlags::EXCL).err(), Some(Errno::EEXIST));
    symlink(&w, "made", "/dangling");
    assert_eq!(w.open("/dangling", create | OpenFlags::EXCL).err(), Some(Errno::EEXIST));
    w.open("/dangling", create).unwrap();
    assert!(ino(&w, "/made", NONE).is_ok());
    assert_eq!(w.open("/new/", create).err(), Some(Errno::EISDIR));
    assert_eq!(w.open("/", create).err(), Some(Errno::EISDIR));
    assert_eq!(w.open("/f", OpenFlags::DIRECTORY).err(), Some(Errno::ENOTDIR));
    mkdir(&w, "/d");
    assert_eq!(w.open("/d", OpenFlags::WRONLY).err(), Some(Errno::EISDIR));
    assert_eq!(w.open("/d", create).err(), Some(Errno::EISDIR));
    w.open("/f", OpenFlags::WRONLY | OpenFlags::TRUNC).unwrap();
    assert_eq!(w.read("/f").unwrap(), "");
    let place = w.open("/f", OpenFlags::PATH).unwrap();
    assert_eq!(testing::read(&place, 1), Err(Errno::EBADF));
}

#[test]
fn umask_setgid_folders_and_sticky_folders_count() {
    let mut w = World::new();
    w.create("/f", "");
    assert_eq!(
        lookup(w.caller(), None, b"/f", NONE).unwrap().inode().unwrap().mode() & 0o777,
        0o644
    );
    mkdir(&w, "/group");
    let group = lookup(w.caller(), None, b"/group", NONE).unwrap();
    verbs::chown(w.caller(), &group, None, Some(50)).unwrap();
    verbs::chmod(w.caller(), &group, 0o2777).unwrap();
    mkdir(&w, "/group/sub");
    let sub = lookup(w.caller(), None, b"/group/sub", NONE).unwrap();
    assert_eq!(sub.inode().unwrap().gid(), 50);
    assert_eq!(sub.inode().unwrap().mode() & 0o7000, 0o2000);

    mkdir(&w, "/closed");
    mkdir(&w, "/tmp");
    let tmp = lookup(w.caller(), None, b"/tmp", NONE).unwrap();
    verbs::chmod(w.caller(), &tmp, 0o1777).unwrap();
    w.create("/tmp/roots", "");
    w.cred = World::user(1000);
    assert_eq!(verbs::unlink(w.caller(), None, b"/tmp/roots"), Err(Errno::EPERM));
    assert_eq!(w.rename("/tmp/roots", "/tmp/mine", Default::default()), Err(Errno::EPERM));
    assert_eq!(w.open("/tmp/roots", OpenFlags::RDWR).err(), Some(Errno::EACCES));
    assert_eq!(
        w.open("/closed/mine", OpenFlags::CREAT | OpenFlags::RDWR).err(),
        Some(Errno::EACCES)
    );
    w.create("/tmp/mine", "");
    let mine = lookup(w.caller(), None, b"/tmp/mine", NONE).unwrap();
    assert_eq!(verbs::chown(w.caller(), &mine, Some(0), None), Err(Errno::EPERM));
    verbs::chmod(w.caller(), &mine, 0).unwrap();
    assert_eq!(w.open("/tmp/mine", OpenFlags::empty()).err(), Some(Errno::EACCES));
    w.cred = Cred::root();
    assert!(w.open("/tmp/mine", OpenFlags::RDWR).is_ok());
}

#[test]
fn rename_replaces_exchanges_and_refuses() {
    let w = World::new();
    let plain = RenameFlags::empty();
    w.create("/a", "a");
    w.create("/b", "b");
    w.rename("/a", "/b", plain).unwrap();
    assert_eq!(w.read("/b").unwrap(), "a");
    assert_eq!(ino(&w, "/a", NONE), Err(Errno::ENOENT));
    w.create("/a", "new");
    assert_eq!(w.rename("/a", "/b", RenameFlags::NOREPLACE), Err(Errno::EEXIST));
    w.rename("/a", "/b", RenameFlags::EXCHANGE).unwrap();
    assert_eq!((w.read("/a").unwrap(), w.read("/b").unwrap()), ("a".into(), "new".into()));
    assert_eq!(w.rename("/a", "/none", RenameFlags::EXCHANGE), Err(Errno::ENOENT));

    mkdir(&w, "/d");
    mkdir(&w, "/d/e");
    assert_eq!(w.rename("/d", "/d/e/f", plain), Err(Errno::EINVAL));
    assert_eq!(w.rename("/d/e", "/d", plain), Err(Errno::ENOTEMPTY));
    assert_eq!(w.rename("/a", "/d", plain), Err(Errno::EISDIR));
    assert_eq!(w.rename("/d", "/a", plain), Err(Errno::ENOTDIR));
    assert_eq!(w.rename("/a/", "/c", plain), Err(Errno::ENOTDIR));
    assert_eq!(w.rename("/d/.", "/c", plain), Err(Errno::EBUSY));
    assert_eq!(w.rename("/", "/c", plain), Err(Errno::EBUSY));
    mkdir(&w, "/full");
    w.create("/full/x", "");
    assert_eq!(w.rename("/d/e", "/full", plain), Err(Errno::ENOTEMPTY));
    mkdir(&w, "/empty");
    w.rename("/d/e", "/empty", plain).unwrap();
    let nlink = |name: &str| {
        lookup(w.caller(), None, name.as_bytes(), NONE).unwrap().inode().unwrap().nlink()
    };
    assert_eq!((nlink("/d"), nlink("/empty")), (2, 2));
    // Two names of one file: nothing happens.
    let a = lookup(w.caller(), None, b"/a", NONE).unwrap();
    verbs::link(w.caller(), &a, None, b"/a2").unwrap();
    assert_eq!(nlink("/a"), 2);
    w.rename("/a", "/a2", plain).unwrap();
    assert!(ino(&w, "/a", NONE).is_ok());
}

#[test]
fn a_moved_folder_keeps_its_open_place_and_its_text_follows() {
    let w = World::new();
    mkdir(&w, "/a");
    mkdir(&w, "/b");
    mkdir(&w, "/a/deep");
    let deep = lookup(w.caller(), None, b"/a/deep", NONE).unwrap();
    w.fs.set_cwd(deep.clone());
    w.create("file", "here");
    w.rename("/a", "/b/moved", RenameFlags::empty()).unwrap();
    assert_eq!(text(&w, &deep), "/b/moved/deep");
    assert_eq!(w.read("file").unwrap(), "here");
    assert_eq!(ino(&w, "../..", FOLLOW), ino(&w, "/b", FOLLOW));
    verbs::unlink(w.caller(), None, b"file").unwrap();
    verbs::rmdir(w.caller(), None, b"/b/moved/deep").unwrap();
    assert_eq!(text(&w, &deep), "/b/moved/deep (deleted)");
    assert_eq!(w.open("x", OpenFlags::CREAT | OpenFlags::RDWR).err(), Some(Errno::ENOENT));
}

#[test]
fn removing_obeys_kinds() {
    let w = World::new();
    mkdir(&w, "/d");
    w.create("/d/f", "");
    assert_eq!(verbs::rmdir(w.caller(), None, b"/d"), Err(Errno::ENOTEMPTY));
    assert_eq!(verbs::rmdir(w.caller(), None, b"/d/f"), Err(Errno::ENOTDIR));
    assert_eq!(verbs::rmdir(w.caller(), None, b"/d/."), Err(Errno::EINVAL));
    assert_eq!(verbs::rmdir(w.caller(), None, b"/d/.."), Err(Errno::ENOTEMPTY));
    assert_eq!(verbs::unlink(w.caller(), None, b"/d"), Err(Errno::EISDIR));
    assert_eq!(verbs::unlink(w.caller(), None, b"/d/f/"), Err(Errno::ENOTDIR));
    verbs::unlink(w.caller(), None, b"/d/f").unwrap();
    verbs::rmdir(w.caller(), None, b"/d/").unwrap();
}

#[test]
fn mounts_hide_stack_and_come_off() {
    let w = World::new();
    mkdir(&w, "/mnt");
    w.create("/mnt/below", "");
    let mount = |place: &str| {
        let at = lookup(w.caller(), None, place.as_bytes(), FOLLOW).unwrap();
        let flags = MountFlags::empty();
        let request =
            MountRequest { source: b"none", data: b"", flags, cred: &w.cred, shows: None };
        w.ns.mount(b"tmpfs", &request, &at)
    };
    register_filesystem(&tmpfs::TMPFS);
    mount("/mnt").unwrap();
    assert_eq!(ino(&w, "/mnt/below", NONE), Err(Errno::ENOENT));
    w.create("/mnt/first", "1");
    mount("/mnt").unwrap();
    mkdir(&w, "/mnt/sub");
    let sub = lookup(w.caller(), None, b"/mnt/sub", NONE).unwrap();
    assert_eq!(text(&w, &sub), "/mnt/sub");
    // `..` leaves both mounts.
    w.fs.set_cwd(sub.clone());
    assert_eq!(ino(&w, "../../mnt/sub/..", FOLLOW), ino(&w, "/mnt", FOLLOW));
    assert_eq!(w.rename("/mnt", "/else", RenameFlags::empty()), Err(Errno::EBUSY));
    assert_eq!(verbs::rmdir(w.caller(), None, b"/mnt"), Err(Errno::EBUSY));
    let umount = |detach| {
        let at = lookup(w.caller(), None, b"/mnt", FOLLOW).unwrap();
        w.ns.umount(&at, mntns::UmountFlags { detach, expire: false })
    };
    assert_eq!(umount(false), Err(Errno::EBUSY), "the working directory is in it");
    drop(sub);
    w.fs.set_cwd(w.fs.root());
    umount(false).unwrap();
    assert_eq!(w.read("/mnt/first").unwrap(), "1");
    let held = w.open("/mnt/first", OpenFlags::RDWR).unwrap();
    assert_eq!(umount(false), Err(Errno::EBUSY));
    umount(true).unwrap();
    assert!(ino(&w, "/mnt/below", NONE).is_ok());
    assert_eq!(testing::read(&held, 9).unwrap(), b"1");
    assert_eq!(umount(false), Err(Errno::EINVAL), "the bottom stays");
}

#[test]
fn a_bind_mount_shows_the_same_and_read_only_refuses() {
    let w = World::new();
    mkdir(&w, "/src");
    mkdir(&w, "/dst");
    w.create("/src/f", "same");
    let at = |name: &str| lookup(w.caller(), None, name.as_bytes(), FOLLOW).unwrap();
    w.ns.bind(&at("/src"), &at("/dst"), false, false).unwrap();
    assert_eq!(w.read("/dst/f").unwrap(), "same");
    w.ns.remount(&at("/dst"), MountFlags::RDONLY, b"", true, &w.cred).unwrap();
    assert_eq!(w.open("/dst/f", OpenFlags::RDWR).err(), Some(Errno::EROFS));
    assert_eq!(w.open("/dst/g", OpenFlags::CREAT | OpenFlags::RDWR).err(), Some(Errno::EROFS));
    assert!(w.open("/src/f", OpenFlags::RDWR).is_ok());
    assert_eq!(
        w.rename("/src/f", "/dst/f", RenameFlags::empty()),
        Err(Errno::EXDEV),
        "the same file system through two mounts"
    );
}

#[test]
fn chroot_is_a_barrier() {
    let w = World::new();
    mkdir(&w, "/jail");
    w.create("/outside", "");
    w.fs.set_root(lookup(w.caller(), None, b"/jail", NONE).unwrap());
    w.fs.set_cwd(w.fs.root());
    assert_eq!(ino(&w, "/../outside", FOLLOW), Err(Errno::ENOENT));
    assert_eq!(ino(&w, "../../outside", FOLLOW), Err(Errno::ENOENT));
}

#[test]
fn a_cloned_namespace_goes_its_own_way() {
    let w = World::new();
    mkdir(&w, "/mnt");
    let fs = w.fs.try_clone().unwrap();
    let ns = w.ns.try_clone(testing::common(), &fs).unwrap();
    let cred = Cred::root();
    let caller = Caller { fs: &fs, cred: &cred };
    let at = lookup(caller, None, b"/mnt", NONE).unwrap();
    register_filesystem(&tmpfs::TMPFS);
    let flags = MountFlags::empty();
    let request = MountRequest { source: b"none", data: b"", flags, cred: &cred, shows: None };
    ns.mount(b"tmpfs", &request, &at).unwrap();
    verbs::mkdir(caller, None, b"/mnt/only-here", 0o755).unwrap();
    assert_eq!(ino(&w, "/mnt/only-here", NONE), Err(Errno::ENOENT));
    verbs::mkdir(caller, None, b"/shared", 0o755).unwrap();
    assert!(ino(&w, "/shared", NONE).is_ok());
}

#[test]
fn deep_trees_go_without_deep_recursion() {
    let w = World::with_options(b"nr_inodes=0");
    let mut at = w.fs.root();
    for _ in 0..20_000 {
        at = verbs::mkdir(w.caller(), Some(&at), b"d", 0o755).unwrap();
    }
    // On a stack as small as the kernel's.
    let gone = std::thread::Builder::new().stack_size(64 << 10);
    struct Unchecked<T>(T);
    // SAFETY: moved to the thread as a whole, and this one waits for it.
    unsafe impl<T> Send for Unchecked<T> {}
    let moved = Unchecked((at, w));
    gone.spawn(move || {
        drop({
            let m = moved;
            m.0
        })
    })
    .unwrap()
    .join()
    .unwrap();
}

#[test]
fn descriptors_are_the_lowest_free_ones() {
    let w = World::new();
    let file = w.create("/f", "");
    let files = Files::new().unwrap();
    let install = |min| files.install(file.clone(), min, 100, false);
    assert_eq!((install(0), install(0), install(10), install(0)), (Ok(0), Ok(1), Ok(10), Ok(2)));
    files.close(1).unwrap();
    assert_eq!(files.close(1), Err(Errno::EBADF));
    let reserved = files.reserve(0, 100, true).unwrap();
    assert_eq!(reserved.fd(), 1);
    assert!(files.get(1).is_err(), "reserved, not open");
    assert_eq!(install(0), Ok(3));
    assert_eq!(files.replace(1, file.clone(), 100, false).err(), Some(Errno::EBUSY));
    reserved.install(file.clone());
    assert!(files.cloexec(1).unwrap());
    assert_eq!(install(99), Ok(99));
    assert_eq!(install(99), Err(Errno::EMFILE));
    assert!(matches!(files.replace(64, file.clone(), 100, true), Ok(None)));
    assert_eq!(files.replace(100, file.clone(), 100, true).err(), Some(Errno::EBADF));
    assert_eq!(files.get(-1).err(), Some(Errno::EBADF));

    let copy = files.try_clone().unwrap();
    copy.close_on_exec();
    let open = |files: &Files| {
        let mut out = vec![];
        let mut at = 0;
        while let Some((fd, _)) = files.next_open(at) {
            out.push(fd);
            at = fd + 1;
        }
        out
    };
    assert_eq!(open(&copy), [0, 2, 3, 10, 99]);
    assert_eq!(open(&files), [0, 1, 2, 3, 10, 64, 99]);
    files.close_range(3, 64);
    assert_eq!(open(&files), [0, 1, 2, 99]);
    let before = Ref::ref_count(&file);
    drop(copy);
    assert_eq!(Ref::ref_count(&file), before - 5);
}

#[test]
fn running_files_cannot_be_written_and_the_other_way_round() {
    let w = World::new();
    drop(w.create("/prog", "#!"));
    let exec = || open::open_exec(w.caller(), None, b"/prog", FOLLOW);
    assert_eq!(exec().err(), Some(Errno::EACCES), "nobody may run it, not even root");
    verbs::chmod(w.caller(), &lookup(w.caller(), None, b"/prog", NONE).unwrap(), 0o755).unwrap();
    let running = exec().unwrap();
    assert_eq!(w.open("/prog", OpenFlags::RDWR).err(), Some(Errno::ETXTBSY));
    drop(running);
    let writer = w.open("/prog", OpenFlags::RDWR).unwrap();
    assert_eq!(exec().err(), Some(Errno::ETXTBSY));
    drop(writer);
    assert!(exec().is_ok());
}

#[test]
fn links_that_others_left_in_shared_folders_are_not_followed() {
    let mut w = World::new();
    w.create("/secret", "");
    mkdir(&w, "/shared");
    let shared = lookup(w.caller(), None, b"/shared", NONE).unwrap();
    verbs::chmod(w.caller(), &shared, 0o1777).unwrap();
    verbs::chown(w.caller(), &shared, Some(5), None).unwrap();
    w.cred = World::user(1000);
    symlink(&w, "/secret", "/shared/trap");
    assert!(ino(&w, "/shared/trap", FOLLOW).is_ok(), "one's own");
    let secret = lookup(w.caller(), None, b"/secret", NONE).unwrap();
    let link = |w: &World| verbs::link(w.caller(), &secret, None, b"/shared/kept");
    assert_eq!(link(&w), Err(Errno::EPERM), "neither owned nor writable");
    w.cred = World::user(0);
    assert_eq!(ino(&w, "/shared/trap", FOLLOW), Err(Errno::EACCES));
    assert!(ino(&w, "/shared/trap", NONE).is_ok());
    assert_eq!(link(&w), Ok(()));
}

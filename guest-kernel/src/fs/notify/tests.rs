//! Tests of who is told what, and at whose expense.

use std::sync::Barrier;

use super::inotify::Inotify;
use super::{Events, inode, unmounted};
use crate::fs::testing::{World, write};
use crate::fs::verbs::{self, RenameFlags};
use crate::fs::{File, FileOps, namei};
use crate::mm::MemGroup;
use crate::uapi;

fn set(world: &World) -> Inotify {
    Inotify::new(&world.cred, None).unwrap()
}

fn watch(set: &Inotify, world: &World, name: &str, mask: u32) -> i32 {
    let flags = namei::LookupFlags::empty();
    let path = namei::lookup(world.caller(), None, name.as_bytes(), flags).unwrap();
    set.watch(path.inode().unwrap(), mask, &world.cred).unwrap()
}

/// All events that there are: number of the watch, mask and name.
fn events(set: &Inotify) -> Vec<(i32, u32, String)> {
    core::iter::from_fn(|| set.pop())
        .map(|record| {
            let bytes = record.bytes();
            let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
            let name = String::from_utf8_lossy(&bytes[16..]).trim_end_matches('\0').to_string();
            (word(0) as i32, word(4), name)
        })
        .collect()
}

fn told(wd: i32, mask: u32, name: &str) -> (i32, u32, String) {
    (wd, mask, name.to_string())
}

fn mkdir(world: &World, name: &str) {
    verbs::mkdir(world.caller(), None, name.as_bytes(), 0o755).unwrap();
}

fn close(set: &Inotify, file: &File) {
    set.release(file);
}

#[test]
fn a_watch_for_one_event_tells_one_though_several_come_at_once() {
    let world = World::new();
    let file = world.create("/a", "x");
    let set = set(&world);
    for _ in 0..500 {
        let wd = watch(&set, &world, "/a", uapi::IN_ALL_EVENTS | uapi::IN_ONESHOT);
        let start = Barrier::new(3);
        std::thread::scope(|scope| {
            for event in [Events::ACCESS, Events::MODIFY, Events::ATTRIB] {
                let (start, file) = (&start, &file);
                scope.spawn(move || {
                    start.wait();
                    inode(&file.inode, event);
                });
            }
        });
        let told = events(&set);
        assert_eq!(told.len(), 2, "{told:x?}");
        assert_eq!((told[0].0, told[1].1), (wd, uapi::IN_IGNORED));
    }
    close(&set, &file);
}

#[test]
fn a_directory_that_is_watched_later_is_told_of_what_was_open_before() {
    let world = World::new();
    mkdir(&world, "/d");
    mkdir(&world, "/e");
    let file = world.create("/d/a", "x");
    let set = set(&world);
    // Somebody watches something, so what is told is looked at.
    watch(&set, &world, "/e", uapi::IN_MODIFY);
    assert_eq!(write(&file, b"y"), Ok(1));
    let wd = watch(&set, &world, "/d", uapi::IN_MODIFY);
    assert_eq!(write(&file, b"y"), Ok(1));
    assert_eq!(events(&set), [told(wd, uapi::IN_MODIFY, "a")]);
    set.unwatch(wd).unwrap();
    assert_eq!(write(&file, b"y"), Ok(1));
    assert_eq!(events(&set), [told(wd, uapi::IN_IGNORED, "")]);
    close(&set, &file);
}

#[test]
fn a_name_that_moves_is_told_of_where_it_is_then() {
    let world = World::new();
    mkdir(&world, "/d");
    mkdir(&world, "/e");
    let (one, two) = (world.create("/a", "x"), world.create("/d/b", "x"));
    let set = set(&world);
    let wd = watch(&set, &world, "/d", uapi::IN_MODIFY);
    let writes = |expected: &[(&File, &str)]| {
        for file in [&one, &two] {
            assert_eq!(write(file, b"y"), Ok(1));
            let name = expected.iter().find(|(there, _)| core::ptr::eq(*there, &raw const **file));
            let expected: Vec<_> =
                name.map(|(_, name)| told(wd, uapi::IN_MODIFY, name)).into_iter().collect();
            assert_eq!(events(&set), expected);
        }
    };
    writes(&[(&two, "b")]);
    world.rename("/a", "/d/c", RenameFlags::empty()).unwrap();
    writes(&[(&one, "c"), (&two, "b")]);
    world.rename("/d/b", "/e/b", RenameFlags::empty()).unwrap();
    writes(&[(&one, "c")]);
    world.rename("/d/c", "/e/b", RenameFlags::EXCHANGE).unwrap();
    writes(&[(&two, "c")]);
    close(&set, &one);
}

#[test]
fn what_is_queued_counts_for_the_group_of_the_set_and_ends_with_its_limit() {
    let world = World::new();
    let file = world.create("/a", "x");
    let group = MemGroup::new(None).unwrap();
    group.set_max(4);
    let set = Inotify::new(&world.cred, Some(group.clone())).unwrap();
    assert_eq!((group.usage(), group.kinds().kernel), (1, 1));
    watch(&set, &world, "/a", uapi::IN_ACCESS | uapi::IN_MODIFY);
    let before = crate::mm::frame::NET.get();
    for _ in 0..2000 {
        inode(&file.inode, Events::ACCESS);
        inode(&file.inode, Events::MODIFY);
    }
    assert_eq!(group.usage(), 4);
    assert_eq!(crate::mm::frame::NET.get() - before, 3);
    let told = events(&set);
    assert_eq!(told.last(), Some(&(-1, uapi::IN_Q_OVERFLOW, String::new())));
    assert_eq!(told.len(), 4 * 4096 / 16 - 3);
    assert_eq!(group.usage(), 1);
    close(&set, &file);
    drop(set);
    assert_eq!(group.usage(), 0);
}

#[test]
fn the_end_of_a_file_system_is_told_of_what_is_watched_there() {
    let (world, other) = (World::new(), World::new());
    let file = world.create("/a", "x");
    other.create("/a", "x");
    let (here, there) = (set(&world), set(&world));
    let on = uapi::IN_MODIFY;
    let (a, root) = (watch(&here, &world, "/a", on), watch(&here, &world, "/", on));
    watch(&here, &other, "/a", on);
    let alone = watch(&there, &world, "/a", on);
    unmounted(&world.fs.root().mnt.sb);
    let end = |wd, isdir| [told(wd, uapi::IN_UNMOUNT | isdir, ""), told(wd, uapi::IN_IGNORED, "")];
    assert_eq!(events(&here), [end(a, 0), end(root, uapi::IN_ISDIR)].concat());
    assert_eq!(events(&there), end(alone, 0));
    assert!(world.fs.root().mnt.sb.watched.is_empty() && file.inode.watches.is_empty());
    assert!(!other.fs.root().mnt.sb.watched.is_empty());
    close(&here, &file);
    close(&there, &file);
    assert!(other.fs.root().mnt.sb.watched.is_empty());
}

#[test]
fn fdinfo_has_a_line_for_each_watch() {
    let world = World::new();
    let file = world.create("/a", "x");
    let set = set(&world);
    watch(&set, &world, "/a", uapi::IN_MODIFY | uapi::IN_ONESHOT);
    watch(&set, &world, "/", uapi::IN_CREATE);
    let mut text = String::new();
    set.show_fdinfo(&file, &mut text).unwrap();
    let masks: Vec<_> = text.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
    assert_eq!(masks, ["mask:80000002", "mask:100"]);
    close(&set, &file);
}

#[test]
fn sets_that_begin_to_watch_at_once_let_go_of_everything() {
    let world = World::new();
    let file = world.create("/a", "x");
    for _ in 0..500 {
        let sets = [set(&world), set(&world), set(&world)];
        let start = Barrier::new(sets.len());
        std::thread::scope(|scope| {
            for set in &sets {
                let (start, world) = (&start, &world);
                scope.spawn(move || {
                    start.wait();
                    watch(set, world, "/a", uapi::IN_MODIFY);
                });
            }
        });
        inode(&file.inode, Events::MODIFY);
        for set in &sets {
            assert_eq!(events(set).len(), 1);
            close(set, &file);
        }
        assert!(file.inode.watches.is_empty());
    }
}

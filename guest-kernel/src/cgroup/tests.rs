//! The tree's rules, without tasks: members that belong to nobody stand in for them.

use super::*;
use crate::cgroup::rules::GroupType;

fn tree() -> (TreeGuard, Ref<Cgroup>) {
    (lock_tree(), Cgroup::new(None, &[], (0, 0)).unwrap())
}

fn make(tree: &TreeGuard, parent: &Ref<Cgroup>, name: &[u8]) -> Ref<Cgroup> {
    let group = Cgroup::make(parent, tree, name, (0, 0)).unwrap();
    // SAFETY: the tree's lock is held, and no other test knows this tree.
    unsafe { Cgroup::insert(&group, tree) };
    group
}

fn join(group: &Cgroup) -> Box<Member> {
    let member = Box::new(Member::new());
    // SAFETY: no other test knows this tree.
    unsafe { member.join(group).unwrap() };
    member
}

fn release(member: &Member) {
    // SAFETY: as above.
    unsafe { member.release() };
}

fn remove(tree: &TreeGuard, group: &Ref<Cgroup>) -> Result<()> {
    // SAFETY: as above.
    unsafe { group.remove(tree).map(drop) }
}

fn path(group: &Cgroup, root: &Cgroup) -> String {
    let mut out = String::new();
    group.path_in(root, &mut out).unwrap();
    out
}

#[test]
fn paths_lead_from_the_namespaces_root_even_outwards() {
    let (tree, top) = tree();
    let a = make(&tree, &top, b"a");
    let b = make(&tree, &a, b"b");
    let c = make(&tree, &top, b"c");
    assert_eq!((path(&top, &top), path(&b, &top)), ("/".into(), "/a/b".into()));
    assert_eq!((path(&b, &b), path(&b, &a)), ("/".into(), "/b".into()));
    assert_eq!((path(&top, &b), path(&c, &b)), ("/../..".into(), "/../../c".into()));
    let all: Vec<_> = top.subtree(&tree).map(|group| path(group, &top)).collect();
    assert_eq!(all, ["/", "/a", "/a/b", "/c"]);
    assert!(a.subtree(&tree).count() == 2 && c.subtree(&tree).count() == 1);
}

#[test]
fn population_shows_in_every_group_around_and_forbids_removal() {
    let (tree, top) = tree();
    let a = make(&tree, &top, b"a");
    let b = make(&tree, &a, b"b");
    let (first, second) = (join(&b), join(&a));
    assert!(a.is_populated() && b.is_populated() && top.is_populated());
    assert_eq!(remove(&tree, &b), Err(Errno::EBUSY));
    assert_eq!((a.pids.current(), b.pids.current()), (2, 1));
    release(&first);
    assert!(a.is_populated() && !b.is_populated());
    release(&second);
    assert!(!a.is_populated() && !top.is_populated());
    assert_eq!(remove(&tree, &a), Err(Errno::EBUSY), "there is a group in it");
    remove(&tree, &b).unwrap();
    assert_eq!((top.nr_descendants(), top.nr_dying_descendants()), (1, 1));
    // Who was in it last knows it still, as a zombie does.
    drop((first, b));
    assert_eq!(top.nr_dying_descendants(), 0);
    remove(&tree, &a).unwrap();
}

#[test]
fn a_limit_of_tasks_holds_for_everything_below() {
    let (tree, top) = tree();
    let a = make(&tree, &top, b"a");
    let b = make(&tree, &a, b"b");
    a.pids.set_max(1);
    let one = join(&b);
    let two = Member::new();
    // SAFETY: no other test knows this tree.
    assert_eq!(unsafe { two.join(&b) }, Err(Errno::EAGAIN));
    assert_eq!((a.pids.current(), b.pids.current(), b.pids.peak()), (1, 1, 2));
    release(&one);
    assert_eq!((a.pids.current(), b.pids.current()), (0, 0));
}

#[test]
fn a_group_is_frozen_when_all_in_it_is() {
    let (tree, top) = tree();
    let a = make(&tree, &top, b"a");
    let b = make(&tree, &a, b"b");
    let member = join(&b);
    a.set_freezes(true);
    for group in a.subtree(&tree) {
        // SAFETY: no other test knows this tree.
        unsafe {
            assert!(group.update_wish());
            group.settle_frozen();
        }
    }
    assert!(!a.is_frozen() && !b.is_frozen());
    // SAFETY: as above.
    unsafe { member.set_frozen(true) };
    assert!(a.is_frozen() && b.is_frozen());
    let c = make(&tree, &a, b"c");
    assert!(c.is_frozen() && a.is_frozen());
    let late = join(&c);
    assert!(late.is_to_freeze() && !c.is_frozen() && !a.is_frozen());
    release(&late);
    assert!(a.is_frozen());
    release(&member);
}

#[test]
fn threaded_groups_share_their_domain() {
    let (tree, top) = tree();
    let a = make(&tree, &top, b"a");
    let b = make(&tree, &a, b"b");
    let c = make(&tree, &a, b"c");
    b.make_threaded(&tree).unwrap();
    assert_eq!(a.group_type(), GroupType::DomainThreaded);
    assert_eq!(b.group_type(), GroupType::Threaded);
    assert_eq!(c.group_type(), GroupType::DomainInvalid);
    assert!(core::ptr::eq(b.domain(), &*a));
    assert_eq!(c.may_host_tasks(), Err(Errno::EOPNOTSUPP));
    let none = Controllers::empty();
    top.set_enabled(&tree, Controllers::all());
    let memory = a.vet_control(&tree, Controllers::MEMORY, none);
    assert_eq!(memory, Err(Errno::EOPNOTSUPP));
    assert_eq!(a.vet_control(&tree, Controllers::PIDS, none), Ok(Controllers::PIDS));
    remove(&tree, &b).unwrap();
    assert_eq!(c.group_type(), GroupType::Domain);
}

#[test]
fn domain_controllers_and_tasks_exclude_each_other() {
    let (tree, top) = tree();
    top.set_enabled(&tree, Controllers::MEMORY | Controllers::PIDS);
    let a = make(&tree, &top, b"a");
    let none = Controllers::empty();
    let member = join(&a);
    assert_eq!(a.vet_control(&tree, Controllers::MEMORY, none), Err(Errno::EBUSY));
    assert_eq!(a.vet_control(&tree, Controllers::CPU, none), Err(Errno::ENOENT));
    release(&member);
    let enabled = a.vet_control(&tree, Controllers::MEMORY, none).unwrap();
    a.set_enabled(&tree, enabled);
    assert_eq!(a.may_host_tasks(), Err(Errno::EBUSY));
    assert_eq!(top.vet_control(&tree, none, Controllers::MEMORY), Err(Errno::EBUSY));
    assert_eq!(a.vet_control(&tree, none, Controllers::MEMORY), Ok(none));
}

#[test]
fn limits_of_the_hierarchy_bound_what_is_made() {
    let (tree, top) = tree();
    let a = make(&tree, &top, b"a");
    a.set_max_depth(0);
    assert_eq!(Cgroup::make(&a, &tree, b"b", (0, 0)).err(), Some(Errno::EAGAIN));
    a.set_max_depth(NO_LIMIT);
    top.set_max_descendants(1);
    assert_eq!(Cgroup::make(&a, &tree, b"b", (0, 0)).err(), Some(Errno::EAGAIN));
    remove(&tree, &a).unwrap();
    assert_eq!(Cgroup::make(&a, &tree, b"b", (0, 0)).err(), Some(Errno::ENODEV));
}

//! The walk from a path's text to a place (path_resolution(7)).
//!
//! A step costs one look into the dentry cache and one permission check; nothing is allocated while
//! all names are cached. A symbolic link does not recurse: its text becomes the current text, and what
//! was left of the old one waits on a stack.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::dentry::{self, Dentry};
use super::inode::{InodeFlags, Link};
use super::{Caller, Inode, MountFlags, NAME_MAX, Path, perm};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::uapi;

/// Most symbolic links in one walk.
const MAX_LINKS: u32 = 40;

bitflags::bitflags! {
    /// How to walk.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct LookupFlags: u32 {
        /// Follow a symbolic link at the end.
        const FOLLOW = 1 << 0;
        /// The place must be a directory.
        const DIRECTORY = 1 << 1;
        /// An empty text is the starting point itself (`AT_EMPTY_PATH`).
        const EMPTY = 1 << 2;
        /// Do not cross mounts (`RESOLVE_NO_XDEV`).
        const NO_XDEV = 1 << 3;
        /// Do not follow links that are no text (`RESOLVE_NO_MAGICLINKS`).
        const NO_MAGICLINKS = 1 << 4;
        /// Do not follow any symbolic link (`RESOLVE_NO_SYMLINKS`).
        const NO_SYMLINKS = 1 << 5;
        /// Leaving the starting point's tree is an error (`RESOLVE_BENEATH`).
        const BENEATH = 1 << 6;
        /// The starting point is the root (`RESOLVE_IN_ROOT`).
        const IN_ROOT = 1 << 7;
    }
}

impl LookupFlags {
    const SCOPED: Self = Self::BENEATH.union(Self::IN_ROOT);
}

/// What the last component is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LastKind {
    /// An ordinary name.
    Name,
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// There is none: the text was all slashes.
    Nothing,
}

/// The last component of a text: where it stands there.
#[derive(Clone, Copy, Debug)]
pub struct Last {
    /// What it is.
    pub kind: LastKind,
    /// A slash follows: it must be a directory.
    pub slash: bool,
    start: usize,
    end: usize,
}

/// The parent of a name that is to be made, removed or moved.
pub struct Parent<'a> {
    /// The directory.
    pub dir: Path,
    /// The name in it; meaningless unless `kind` is [`LastKind::Name`].
    pub name: &'a [u8],
    /// What the name is.
    pub kind: LastKind,
    /// A slash followed it.
    pub slash: bool,
}

#[derive(Clone)]
enum Text<'a> {
    Given(&'a [u8]),
    Link(Arc<[u8]>),
}

impl Text<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Given(text) => text,
            Self::Link(text) => text,
        }
    }
}

/// What a step came to.
enum Step {
    Done,
    Symlink(Path),
}

/// Where a walk is: the part that a step changes.
struct Position<'a> {
    caller: Caller<'a>,
    flags: LookupFlags,
    at: Path,
    /// Fetched when it is first needed.
    root: Option<Path>,
    links: u32,
}

/// A walk under way.
pub struct Walk<'a> {
    pos: Position<'a>,
    text: Text<'a>,
    offset: usize,
    pending: Vec<(Text<'a>, usize)>,
}

/// The dentry of `name` in `dir`, from the cache or the file system; absent names have one too.
#[inline]
pub fn lookup_child(dir: &Ref<Dentry>, name: &[u8]) -> Result<Ref<Dentry>> {
    match dentry::lookup(dir, name) {
        Some(found) if is_valid(&found) => Ok(found),
        _ => lookup_slow(dir, name),
    }
}

#[inline]
fn is_valid(dentry: &Dentry) -> bool {
    dentry.inode().is_none_or(|inode| {
        !inode.flags().contains(InodeFlags::REVALIDATE) || inode.ops().revalidate(inode)
    })
}

#[cold]
fn lookup_slow(dir: &Ref<Dentry>, name: &[u8]) -> Result<Ref<Dentry>> {
    let _guard = dir.require_inode()?.lock.lock();
    lookup_locked(dir, name)
}

/// [`lookup_child`] for callers that hold the lock of the directory's inode.
pub fn lookup_locked(dir: &Ref<Dentry>, name: &[u8]) -> Result<Ref<Dentry>> {
    if let Some(found) = dentry::lookup(dir, name) {
        if is_valid(&found) {
            return Ok(found);
        }
        dentry::unhash(&found);
    }
    let dir_inode = dir.require_inode()?;
    if dir_inode.flags().contains(InodeFlags::DEAD) {
        return Err(Errno::ENOENT);
    }
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let inode = dir_inode.ops().lookup(dir_inode, name)?;
    if inode.is_none() && dir_inode.flags().contains(InodeFlags::NO_NEGATIVE) {
        return Dentry::new_absent(dir, name);
    }
    dentry::insert(dir, name, inode)
}

impl Position<'_> {
    fn root(&mut self) -> &Path {
        let fs = self.caller.fs;
        self.root.get_or_insert_with(|| fs.root())
    }

    /// Moves down to what is mounted on `path`.
    #[inline]
    fn enter_mounts(&self, path: Path) -> Result<Path> {
        if !path.dentry.is_mountpoint() {
            return Ok(path);
        }
        let below = path.clone().follow_mounts();
        if self.flags.contains(LookupFlags::NO_XDEV) && !Ref::ptr_eq(&below.mnt, &path.mnt) {
            return Err(Errno::EXDEV);
        }
        Ok(below)
    }

    /// `..`: to the parent, out of mounts at their roots, never out of the root.
    fn dotdot(&mut self) -> Result<()> {
        let root = self.root().clone();
        loop {
            if self.at.same(&root) {
                if self.flags.contains(LookupFlags::BENEATH) {
                    return Err(Errno::EXDEV);
                }
                break;
            }
            if !Ref::ptr_eq(&self.at.dentry, &self.at.mnt.root) {
                if let Some(parent) = self.at.dentry.parent() {
                    self.at.dentry = parent;
                }
                break;
            }
            let Some(place) = self.at.mnt.place() else { break };
            if self.flags.contains(LookupFlags::NO_XDEV) {
                return Err(Errno::EXDEV);
            }
            self.at = place;
        }
        self.at = self.enter_mounts(self.at.clone())?;
        Ok(())
    }

    /// One component. A symbolic link is returned, not entered.
    #[inline]
    fn step(&mut self, name: &[u8]) -> Result<Step> {
        self.check_search()?;
        match name {
            b"." => return Ok(Step::Done),
            b".." => return self.dotdot().map(|()| Step::Done),
            _ => {}
        }
        let child = lookup_child(&self.at.dentry, name)?;
        self.enter(child)
    }

    /// Checks that the place is a directory that may be searched.
    #[inline]
    fn check_search(&self) -> Result<()> {
        let inode = self.at.inode()?;
        if !inode.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        perm::may_search(inode, self.caller.cred)
    }

    #[inline]
    fn enter(&mut self, child: Ref<Dentry>) -> Result<Step> {
        let is_link = child.require_inode()?.is_symlink();
        if is_link {
            return Ok(Step::Symlink(Path { mnt: self.at.mnt.clone(), dentry: child }));
        }
        if child.is_mountpoint() {
            let path = Path { mnt: self.at.mnt.clone(), dentry: child };
            self.at = self.enter_mounts(path)?;
        } else {
            self.at.dentry = child;
        }
        Ok(Step::Done)
    }

    /// In a sticky directory that all may write to, a link at the end of a path is followed only if it
    /// is the follower's own or the directory owner's: else whoever guesses a name in /tmp leads others
    /// where they did not mean to go (protected_symlinks of proc(5)).
    fn may_follow_last(&self, link: &Path) -> Result<()> {
        const SHARED: u32 = uapi::S_ISVTX | uapi::S_IWOTH;
        let (dir, link) = (self.at.inode()?, link.inode()?);
        let own = self.caller.cred.fsuid == link.uid() || dir.uid() == link.uid();
        if dir.mode() & SHARED == SHARED && !own { Err(Errno::EACCES) } else { Ok(()) }
    }

    /// Where `link` leads: its text, or nothing more to walk if it leads straight to a place.
    fn follow(&mut self, link: &Path) -> Result<Option<Arc<[u8]>>> {
        self.links += 1;
        let forbidden = self.flags.contains(LookupFlags::NO_SYMLINKS)
            || link.mnt.flags().contains(MountFlags::NOSYMFOLLOW);
        if self.links > MAX_LINKS || forbidden {
            return Err(Errno::ELOOP);
        }
        let inode = link.inode()?;
        inode.touch_read();
        match inode.ops().follow_link(inode, self.caller.cred)? {
            Link::Text(text) => {
                if text.is_empty() {
                    return Err(Errno::ENOENT);
                }
                if text[0] == b'/' {
                    if self.flags.contains(LookupFlags::BENEATH) {
                        return Err(Errno::EXDEV);
                    }
                    let root = self.root().clone();
                    if self.flags.contains(LookupFlags::NO_XDEV)
                        && !Ref::ptr_eq(&root.mnt, &self.at.mnt)
                    {
                        return Err(Errno::EXDEV);
                    }
                    self.at = root;
                }
                Ok(Some(text))
            }
            Link::Jump(place) => {
                if self.flags.contains(LookupFlags::NO_MAGICLINKS) {
                    return Err(Errno::ELOOP);
                }
                if self.flags.intersects(LookupFlags::SCOPED) {
                    return Err(Errno::EXDEV);
                }
                if self.flags.contains(LookupFlags::NO_XDEV)
                    && !Ref::ptr_eq(&place.mnt, &self.at.mnt)
                {
                    return Err(Errno::EXDEV);
                }
                self.at = place;
                Ok(None)
            }
        }
    }
}

impl<'a> Walk<'a> {
    /// Starts at `start` (the working directory if `None`), or at the root if `name` says so.
    pub fn start(
        caller: Caller<'a>,
        start: Option<&Path>,
        name: &'a [u8],
        flags: LookupFlags,
    ) -> Result<Self> {
        if name.is_empty() && !flags.contains(LookupFlags::EMPTY) {
            return Err(Errno::ENOENT);
        }
        let absolute = name.first() == Some(&b'/');
        if absolute && flags.contains(LookupFlags::BENEATH) {
            return Err(Errno::EXDEV);
        }
        let scoped = flags.intersects(LookupFlags::SCOPED);
        let (at, root) = if absolute && !flags.contains(LookupFlags::IN_ROOT) {
            let root = caller.fs.root();
            (root.clone(), Some(root))
        } else {
            let at = start.cloned().unwrap_or_else(|| caller.fs.cwd());
            let root = scoped.then(|| at.clone());
            (at, root)
        };
        let pos = Position { caller, flags, at, root, links: 0 };
        Ok(Self { pos, text: Text::Given(name), offset: 0, pending: Vec::new() })
    }

    /// The place that the walk has come to.
    pub fn at(&self) -> &Path {
        &self.pos.at
    }

    /// The last component's text.
    pub fn name(&self, last: &Last) -> &[u8] {
        &self.text.bytes()[last.start..last.end]
    }

    /// Walks until only the last component is left.
    pub fn to_last(&mut self) -> Result<Last> {
        loop {
            let text = self.text.bytes();
            let mut start = self.offset;
            while text.get(start) == Some(&b'/') {
                start += 1;
            }
            if start == text.len() {
                match self.pending.pop() {
                    Some((text, offset)) => {
                        (self.text, self.offset) = (text, offset);
                        continue;
                    }
                    None => {
                        let kind = LastKind::Nothing;
                        return Ok(Last { kind, slash: false, start, end: start });
                    }
                }
            }
            let mut end = start;
            while end < text.len() && text[end] != b'/' {
                end += 1;
            }
            let name = &text[start..end];
            let mut rest = end;
            while text.get(rest) == Some(&b'/') {
                rest += 1;
            }
            let ends = rest == text.len();
            if ends && self.pending.is_empty() {
                let kind = match name {
                    b"." => LastKind::Dot,
                    b".." => LastKind::DotDot,
                    _ => LastKind::Name,
                };
                return Ok(Last { kind, slash: rest != end, start, end });
            }
            let step = self.pos.step(name)?;
            self.offset = rest;
            if let Step::Symlink(link) = step {
                self.enter_link(&link)?;
            }
        }
    }

    /// Goes on with the text of a symbolic link, found in the directory that the walk is at; what is
    /// left of the current text waits. False if the link leads straight to a place: the current text
    /// goes on from there.
    fn enter_link(&mut self, link: &Path) -> Result<bool> {
        let Some(target) = self.pos.follow(link)? else { return Ok(false) };
        let old = core::mem::replace(&mut self.text, Text::Link(target));
        if self.offset < old.bytes().len() {
            self.pending.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            self.pending.push((old, self.offset));
        }
        self.offset = 0;
        Ok(true)
    }

    /// Takes the last component. A symbolic link is followed (and true returned: there is a new last
    /// component) if `follow` says so or a slash came after it.
    pub fn take_last(&mut self, last: &Last, follow: bool) -> Result<bool> {
        if last.kind == LastKind::Nothing {
            return Ok(false);
        }
        let name = &self.text.bytes()[last.start..last.end];
        let step = self.pos.step(name)?;
        self.finish_step(step, last, follow)
    }

    /// [`take_last`](Self::take_last) when the caller has looked the dentry up.
    pub fn take_dentry(&mut self, child: Ref<Dentry>, last: &Last, follow: bool) -> Result<bool> {
        let step = self.pos.enter(child)?;
        self.finish_step(step, last, follow)
    }

    fn finish_step(&mut self, step: Step, last: &Last, follow: bool) -> Result<bool> {
        self.offset = self.text.bytes().len();
        match step {
            Step::Done => Ok(false),
            Step::Symlink(link) if follow || last.slash => {
                self.pos.may_follow_last(&link)?;
                self.enter_link(&link)
            }
            Step::Symlink(link) => {
                self.pos.at = link;
                Ok(false)
            }
        }
    }

    /// Checks that the place is a directory in which `last` may be looked up. Slashes alone look nothing
    /// up.
    pub fn check_search(&self, last: &Last) -> Result<()> {
        if last.kind == LastKind::Nothing { Ok(()) } else { self.pos.check_search() }
    }

    /// The place.
    pub fn finish(self) -> Path {
        self.pos.at
    }
}

/// The place that `name` leads to from `start` (the working directory if `None`).
pub fn lookup(
    caller: Caller<'_>,
    start: Option<&Path>,
    name: &[u8],
    flags: LookupFlags,
) -> Result<Path> {
    let mut walk = Walk::start(caller, start, name, flags)?;
    let mut directory = flags.contains(LookupFlags::DIRECTORY);
    let mut follow = flags.contains(LookupFlags::FOLLOW);
    loop {
        let last = walk.to_last()?;
        // What a link leads to must then be a directory too, and is no link either.
        directory |= last.slash;
        follow |= last.slash;
        if !walk.take_last(&last, follow)? {
            break;
        }
    }
    let path = walk.finish();
    if directory && !path.inode()?.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    Ok(path)
}

/// The directory that `name` is to be changed in, and the name there.
pub fn parent<'a>(caller: Caller<'a>, start: Option<&Path>, name: &'a [u8]) -> Result<Parent<'a>> {
    let mut walk = Walk::start(caller, start, name, LookupFlags::empty())?;
    let last = walk.to_last()?;
    walk.check_search(&last)?;
    // Only a link before the end is entered, and what follows it is the text given.
    let name = name.get(last.start..last.end).unwrap_or_default();
    Ok(Parent { dir: walk.finish(), name, kind: last.kind, slash: last.slash })
}

impl Parent<'_> {
    /// The directory's inode.
    pub fn inode(&self) -> Result<&Ref<Inode>> {
        self.dir.inode()
    }
}

//! The devpts file system (pts(4)): a node for each pseudoterminal, and `ptmx`, which makes pairs.
//!
//! Each mount is an instance of its own, with its own numbers and settings. Opening `ptmx` makes a pair in
//! its own instance; /dev/ptmx, a device node elsewhere, does so in the one that is mounted on `pts` beside
//! it. A node is there while its master is open; it belongs to whoever opened that. Its number is taken until both
//! sides are closed.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use super::pty::{NR_PTYS, PTS_MAJOR};
use super::{Tty, job};
use crate::errno::{Errno, Result};
use crate::fs::notify::{self, Events};
use crate::fs::{
    Dentry, Dev, DirSink, File, FileOps, FileSystem, Inode, InodeFlags, InodeOps, MountRequest,
    OpenFlags, Path, SuperBlock, SuperOps, dentry, namei,
};
use crate::kref::Ref;
use crate::mm::try_box;
use crate::ns::UserNs;
use crate::sync::SpinLock;
use crate::uapi;

/// statfs(2) magic.
const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
/// Pairs at most, in all instances; /proc/sys/kernel/pty/max.
pub const PTY_MAX: usize = 4096;
/// What `max=` takes at most, and stands for no limit of the instance's own (Linux's minor numbers).
const INSTANCE_MAX: u32 = 1 << 20;
/// So many of them only instances that the machine's own user namespace mounted may have.
const PTY_RESERVE: u32 = 1024;
/// Inode numbers: the root, ptmx, then the nodes.
const ROOT_INO: u64 = 1;
const PTMX_INO: u64 = 2;
const FIRST_INO: u64 = 3;
/// Position in the directory of the first node: after `.`, `..` and ptmx.
const FIRST_POS: u64 = 3;

/// A number's state in an instance.
enum Slot {
    Free,
    /// A pair is being made, or its master was closed and the terminal side is still open.
    Reserved,
    /// The node of a pair.
    Used(Ref<Inode>),
}

/// Mount options.
#[derive(Clone, Copy)]
struct Options {
    /// Permission bits of nodes.
    mode: u32,
    /// Permission bits of ptmx.
    ptmxmode: u32,
    /// The nodes' owner and group, unless they are those of who opens ptmx.
    uid: Option<u32>,
    gid: Option<u32>,
    /// Pairs at most.
    max: u32,
}

impl Options {
    const DEFAULT: Self =
        Self { mode: 0o600, ptmxmode: 0, uid: None, gid: None, max: INSTANCE_MAX };

    /// With what `data` changes.
    fn with(mut self, data: &[u8], user_ns: &UserNs) -> Result<Self> {
        for option in data.split(|&b| b == b',').filter(|option| !option.is_empty()) {
            let at = option.iter().position(|&b| b == b'=').unwrap_or(option.len());
            let (name, value) = (&option[..at], option.get(at + 1..).unwrap_or_default());
            let value = core::str::from_utf8(value).map_err(|_| Errno::EINVAL)?;
            let octal = || u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL);
            let decimal = || value.parse::<u32>().map_err(|_| Errno::EINVAL);
            match name {
                b"mode" => self.mode = octal()? & 0o777,
                b"ptmxmode" => self.ptmxmode = octal()? & 0o777,
                b"uid" => {
                    self.uid = Some(user_ns.uids().to_kernel(decimal()?).ok_or(Errno::EINVAL)?);
                }
                b"gid" => {
                    self.gid = Some(user_ns.gids().to_kernel(decimal()?).ok_or(Errno::EINVAL)?);
                }
                b"max" => {
                    let max = Some(decimal()?).filter(|&max| max <= INSTANCE_MAX);
                    self.max = max.ok_or(Errno::EINVAL)?;
                }
                // Every mount is one.
                b"newinstance" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(self)
    }
}

/// One devpts.
struct Instance {
    slots: SpinLock<Vec<Slot>>,
    options: SpinLock<Options>,
    /// Pairs in this instance come out of the whole number, reserve included.
    is_machines: bool,
}

impl Instance {
    fn of(sb: &SuperBlock) -> Option<&Self> {
        sb.ops_as()
    }

    fn options(&self) -> Options {
        *self.options.lock()
    }

    /// Counts a pair, in all and here, and finds it a number, or gives it the `wanted` one; `EEXIST` if somebody
    /// has that.
    fn reserve(&self, wanted: Option<u32>) -> Result<usize> {
        let limit = if self.is_machines { PTY_MAX as u32 } else { PTY_MAX as u32 - PTY_RESERVE };
        let max = self.options().max as usize;
        let more = |n: u32| (n < limit).then_some(n + 1);
        let counted = NR_PTYS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.map_err(|_| Errno::ENOSPC)?;
        let mut slots = self.slots.lock();
        let is_free = |slot: &Slot| matches!(slot, Slot::Free);
        let index = match wanted {
            Some(wanted) => wanted as usize,
            None => slots.iter().position(is_free).unwrap_or(slots.len()),
        };
        let missing = (index + 1).saturating_sub(slots.len());
        let room = match slots.get(index) {
            _ if index >= max.min(PTY_MAX) => Err(Errno::ENOSPC),
            Some(slot) if !is_free(slot) => Err(Errno::EEXIST),
            _ => slots.try_reserve(missing).map_err(|_| Errno::ENOMEM),
        };
        if let Err(error) = room {
            NR_PTYS.fetch_sub(1, Ordering::Relaxed);
            return Err(error);
        }
        slots.extend((0..missing).map(|_| Slot::Free));
        slots[index] = Slot::Reserved;
        Ok(index)
    }

    /// The node goes; its number is still taken.
    fn remove(&self, index: usize) -> Option<Ref<Inode>> {
        match self.put(index, Slot::Reserved)? {
            Slot::Used(node) => {
                node.set_nlink(0);
                Some(node)
            }
            _ => None,
        }
    }

    /// The number is free again.
    fn release(&self, index: usize) {
        self.put(index, Slot::Free);
        NR_PTYS.fetch_sub(1, Ordering::Relaxed);
    }

    /// What a slot was until now.
    fn put(&self, index: usize, new: Slot) -> Option<Slot> {
        self.slots.lock().get_mut(index).map(|slot| core::mem::replace(slot, new))
    }

    fn node(&self, index: usize) -> Option<Ref<Inode>> {
        match self.slots.lock().get(index)? {
            Slot::Used(node) => Some(node.clone()),
            _ => None,
        }
    }
}

impl SuperOps for Instance {
    fn show_options(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let options = self.options();
        if let Some(uid) = options.uid {
            write!(out, ",uid={uid}")?;
        }
        if let Some(gid) = options.gid {
            write!(out, ",gid={gid}")?;
        }
        write!(out, ",mode={:03o},ptmxmode={:03o}", options.mode, options.ptmxmode)?;
        if options.max < INSTANCE_MAX {
            write!(out, ",max={}", options.max)?;
        }
        Ok(())
    }

    fn makes_its_devices(&self) -> bool {
        true
    }

    fn remount(&self, sb: &SuperBlock, data: &[u8]) -> Result<()> {
        let new = self.options().with(data, &sb.user_ns)?;
        *self.options.lock() = new;
        Ok(())
    }
}

/// Makes a pair in an instance: finds it a number, or takes the `wanted` one, `make`s the terminal and gives it
/// a node. `ENOSPC` if there are too many, `EEXIST` if the number is somebody else's.
pub(super) fn allocate(
    sb: &Ref<SuperBlock>,
    wanted: Option<u32>,
    make: impl FnOnce(u32) -> Result<Arc<Tty>>,
) -> Result<(Arc<Tty>, Ref<Inode>)> {
    let instance = Instance::of(sb).ok_or(Errno::ENODEV)?;
    let index = instance.reserve(wanted)?;
    let made = make(index as u32).and_then(|tty| {
        let options = instance.options();
        let node = Inode::with_rdev(
            sb,
            FIRST_INO + index as u64,
            uapi::S_IFCHR | options.mode,
            Dev::new(PTS_MAJOR, index as u32),
            try_box(Terminal(tty.clone()))?,
        )?;
        node.set_flags(InodeFlags::REVALIDATE);
        let (uid, gid) = job::file_ids();
        node.set_owner(options.uid.unwrap_or(uid), options.gid.unwrap_or(gid));
        Ok((tty, node))
    });
    match made {
        Ok((tty, node)) => {
            instance.slots.lock()[index] = Slot::Used(node.clone());
            tell(sb, index as u32, &node, Events::CREATE);
            Ok((tty, node))
        }
        Err(error) => {
            instance.release(index);
            Err(error)
        }
    }
}

/// The master of pair `index` was closed: its node goes.
pub(super) fn remove(sb: &SuperBlock, index: u32) {
    let Some(node) = Instance::of(sb).and_then(|instance| instance.remove(index as usize)) else {
        return;
    };
    let cached = sb.root().and_then(|root| dentry::lookup(&root, Digits::of(index).as_bytes()));
    let is_node = |cached: &Ref<Dentry>| cached.inode().is_some_and(|it| Ref::ptr_eq(it, &node));
    let cached = cached.filter(is_node);
    if let Some(cached) = &cached {
        dentry::unhash(cached);
    }
    tell(sb, index, &node, Events::DELETE);
    // A name that is cached tells of the node when it goes.
    if cached.is_none() {
        notify::forgotten(&node);
    }
}

/// Tells who watches the directory that a node came or went.
fn tell(sb: &SuperBlock, index: u32, node: &Inode, events: Events) {
    if notify::is_watched(sb)
        && let Some(root) = sb.root()
        && let Some(dir) = root.inode()
    {
        notify::entry(dir, Digits::of(index).as_bytes(), node, events);
    }
}

/// Both sides of pair `index` were closed: the number is free.
pub(super) fn release(sb: &SuperBlock, index: u32) {
    if let Some(instance) = Instance::of(sb) {
        instance.release(index as usize);
    }
}

/// The root of the devpts that a `ptmx` at `path` makes pairs in: its own, or the one that is mounted on
/// `pts` beside it. `ENOENT` if nothing is there, `ENODEV` if something else is.
pub(super) fn root_for(path: &Path) -> Result<Path> {
    let mnt = path.mnt.clone();
    if Instance::of(&mnt.sb).is_some() {
        return Ok(Path { dentry: mnt.root.clone(), mnt });
    }
    let dir = path.dentry.parent().ok_or(Errno::ENODEV)?;
    let dentry = namei::lookup_child(&dir, b"pts")?;
    dentry.require_inode()?;
    let root = Path { mnt, dentry }.follow_mounts();
    let is_root = Ref::ptr_eq(&root.dentry, &root.mnt.root);
    if !is_root || Instance::of(&root.mnt.sb).is_none() {
        return Err(Errno::ENODEV);
    }
    Ok(root)
}

/// The place of the node of pair `index`, whose master was opened at `master`; `EIO` if it can no more be
/// reached from there.
pub(super) fn place(master: &Path, index: u32) -> Result<Path> {
    let Path { mnt, .. } = root_for(master).map_err(|_| Errno::EIO)?;
    let is_root = mnt.root.require_inode()?.ino == ROOT_INO;
    // Where only `ptmx` is mounted, its tree has the root above.
    let root = if is_root { Some(mnt.root.clone()) } else { mnt.root.parent() };
    let dentry = namei::lookup_child(&root.ok_or(Errno::EIO)?, Digits::of(index).as_bytes())?;
    Ok(Path { mnt, dentry })
}

/// A number's name.
struct Digits {
    bytes: [u8; 10],
    from: usize,
}

impl Digits {
    fn of(mut n: u32) -> Self {
        let mut this = Self { bytes: [0; 10], from: 10 };
        loop {
            this.from -= 1;
            this.bytes[this.from] = b'0' + (n % 10) as u8;
            n /= 10;
            if n == 0 {
                return this;
            }
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.from..]
    }
}

/// The terminal that a node stands for; none if it is no node of a devpts.
pub(super) fn terminal_of(inode: &Inode) -> Option<Arc<Tty>> {
    inode.ops_as::<Terminal>().map(|node| node.0.clone())
}

/// The node of a terminal.
struct Terminal(Arc<Tty>);

impl InodeOps for Terminal {
    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        // Device nodes are opened through the registry of devices.
        Err(Errno::ENXIO)
    }

    fn revalidate(&self, inode: &Inode) -> bool {
        inode.nlink() != 0
    }
}

/// The node `ptmx`: its permissions follow `ptmxmode` when that changes.
struct Ptmx {
    mode: AtomicU32,
}

impl InodeOps for Ptmx {
    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Err(Errno::ENXIO)
    }

    fn revalidate(&self, inode: &Inode) -> bool {
        if let Some(instance) = Instance::of(&inode.sb) {
            let mode = instance.options().ptmxmode;
            if self.mode.swap(mode, Ordering::Relaxed) != mode {
                inode.set_permissions(mode);
            }
        }
        true
    }
}

/// The directory.
struct Root {
    ptmx: Ref<Inode>,
}

fn parse_index(name: &[u8]) -> Option<usize> {
    let text = core::str::from_utf8(name).ok()?;
    let index: usize = text.parse().ok()?;
    // Only the usual spelling: no sign, no leading zeros.
    let plain = name[0] != b'+' && (name[0] != b'0' || name.len() == 1);
    (plain && index < PTY_MAX).then_some(index)
}

impl InodeOps for Root {
    fn lookup(&self, dir: &Ref<Inode>, name: &[u8]) -> Result<Option<Ref<Inode>>> {
        if name == b"ptmx" {
            return Ok(Some(self.ptmx.clone()));
        }
        let instance = Instance::of(&dir.sb).ok_or(Errno::EIO)?;
        Ok(parse_index(name).and_then(|index| instance.node(index)))
    }

    fn open(&self, _: &Ref<Inode>, _: &Path, _: OpenFlags) -> Result<Box<dyn FileOps>> {
        Ok(try_box(RootFile)?)
    }
}

/// The open directory.
struct RootFile;

impl FileOps for RootFile {
    fn readdir(&self, file: &File, pos: &mut u64, sink: &mut dyn DirSink) -> Result<()> {
        let instance = Instance::of(&file.inode.sb).ok_or(Errno::ENOTDIR)?;
        let fixed = [(&b"."[..], ROOT_INO, uapi::S_IFDIR), (b"..", ROOT_INO, uapi::S_IFDIR)];
        let fixed = fixed.into_iter().chain([(&b"ptmx"[..], PTMX_INO, uapi::S_IFCHR)]);
        for (at, (name, ino, mode)) in fixed.enumerate().skip(*pos as usize) {
            if !sink.emit(name, ino, mode, at as u64 + 1) {
                return Ok(());
            }
            *pos = at as u64 + 1;
        }
        loop {
            let from = pos.saturating_sub(FIRST_POS) as usize;
            let next = {
                let slots = instance.slots.lock();
                (from..slots.len()).find(|&i| matches!(slots[i], Slot::Used(_)))
            };
            let Some(index) = next else { return Ok(()) };
            let after = FIRST_POS + index as u64 + 1;
            let name = Digits::of(index as u32);
            if !sink.emit(name.as_bytes(), FIRST_INO + index as u64, uapi::S_IFCHR, after) {
                return Ok(());
            }
            *pos = after;
        }
    }
}

/// The type, for mount(2).
pub struct DevPts;

impl FileSystem for DevPts {
    fn name(&self) -> &'static str {
        "devpts"
    }

    fn allows_user_ns(&self) -> bool {
        true
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Ref<Dentry>> {
        let user_ns = &request.cred.user_ns;
        let options = Options::DEFAULT.with(request.data, user_ns)?;
        let instance = try_box(Instance {
            slots: SpinLock::new(Vec::new()),
            options: SpinLock::new(options),
            is_machines: user_ns.level == 0,
        })?;
        let sb = SuperBlock::new_in(user_ns.clone(), "devpts", DEVPTS_SUPER_MAGIC, instance)?;
        let (uid, gid) = (request.cred.fsuid, request.cred.fsgid);
        let ops = try_box(Ptmx { mode: AtomicU32::new(options.ptmxmode) })?;
        let mode = uapi::S_IFCHR | options.ptmxmode;
        let ptmx = Inode::with_rdev(&sb, PTMX_INO, mode, super::console::PTMX, ops)?;
        ptmx.set_flags(InodeFlags::REVALIDATE);
        ptmx.set_owner(uid, gid);
        let root = Inode::new(&sb, ROOT_INO, uapi::S_IFDIR | 0o755, try_box(Root { ptmx })?)?;
        root.set_nlink(2);
        root.set_flags(InodeFlags::NO_NEGATIVE);
        root.set_owner(uid, gid);
        Dentry::new_root(root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spelled_plainly() {
        for n in [0, 7, 10, 4095, u32::MAX] {
            assert_eq!(Digits::of(n).as_bytes(), n.to_string().as_bytes());
        }
        assert_eq!(parse_index(b"10"), Some(10));
        for bad in ["", "+1", "01", "4096", "x"] {
            assert_eq!(parse_index(bad.as_bytes()), None, "{bad}");
        }
    }
}

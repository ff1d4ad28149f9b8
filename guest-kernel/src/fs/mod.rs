//! Files: what tasks open, and the tree that names lead through.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`inode`] | [`Inode`]: one object of a file system, and [`InodeOps`], what a file system makes of it |
//! | [`superblock`] | [`SuperBlock`]: one file system; [`FileSystem`]: a type that can be mounted, by name |
//! | [`dentry`] | [`Dentry`]: a name in a directory, cached, absent names too |
//! | [`mount`] | [`Mount`]: where a tree is attached |
//! | [`mntns`], `propagation` | [`MntNs`]: the mounts that a task sees; how changes spread |
//! | [`detached`], [`context`] | trees of mounts without a place yet; a file system being configured |
//! | [`path`], [`namei`] | [`Path`] (mount and dentry), its text, and the walk from text to path |
//! | [`verbs`], [`open`] | what names can undergo: create, link, unlink, rename, open |
//! | [`perm`] | who may |
//! | [`file`], [`files`], [`fs_struct`] | [`File`]: an open file; [`Files`]: the descriptor table; [`FsStruct`]: root, working directory, umask |
//! | [`userbuf`], [`poll`], [`poller`] | how data and readiness get out of a file, and waiting for several |
//! | [`pipe`], [`eventfd`], [`epoll`] | pipes and FIFOs, counters to wait for, sets of files to watch |
//! | [`fasync`] | signals that say when I/O is possible (SIGIO) |
//! | [`notify`] | who watches files, and telling them (inotify) |
//! | [`chrdev`], [`dev`] | the registry of character devices, /dev and the memory devices |
//! | [`tmpfs`], [`initramfs`], [`anon`] | the file system in memory, what fills it at boot, files without a name |
//!
//! Nothing here knows a task: who asks comes in as a [`Caller`].
//!
//! Lock order: `rename` mutex of the super block, inode locks (parents before children, else by
//! address), then the spin locks of dentries and mounts. User memory is never touched under a spin
//! lock.

pub mod anon;
pub mod block;
pub mod chrdev;
pub mod context;
pub mod dentry;
pub mod detached;
pub mod dev;
pub mod epoll;
pub mod eventfd;
pub mod fasync;
pub mod file;
pub mod files;
pub mod fs_struct;
pub mod init;
pub mod initramfs;
pub mod inode;
pub mod locks;
pub mod mntns;
pub mod mount;
mod mountlist;
pub mod namei;
pub mod notify;
pub mod open;
pub mod pagecache;
pub mod path;
pub mod perm;
pub mod pipe;
pub mod poll;
pub mod poller;
mod propagation;
pub mod superblock;
pub mod time;
pub mod timerfd;
pub mod tmpfs;
pub mod userbuf;
pub mod verbs;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use chrdev::{CharDevice, Dev, register_chrdev};
pub use dentry::Dentry;
pub use file::{DirSink, FMode, File, FileKind, FileOps, OpenFlags, Whence};
pub use files::Files;
pub use fs_struct::{Caller, FsStruct};
pub use init::{init, mount_defaults, names_in, remove_tree};
pub use inode::{Attr, Inode, InodeFlags, InodeOps, Link, NewNode, NodeKind, SetAttr};
pub use mntns::MntNs;
pub use mount::{Mount, MountFlags};
pub use path::Path;
pub use poll::{PollFlags, PollTable};
pub use superblock::{FileSystem, MountRequest, StatFs, SuperBlock, SuperOps, register_filesystem};
pub use time::Timestamp;
pub use userbuf::UserBuf;

pub use crate::sched::WaitQueue;
use crate::sync::Mutex;

/// Longest name of one component (`NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// Longest path with its closing NUL (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;

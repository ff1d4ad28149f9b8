//! [`FsContext`]: a file system that is being configured, option by option, before it is made or while it is
//! in use (fsopen(2), fspick(2), fsconfig(2), fsmount(2)).
//!
//! It goes through phases: options are taken, the file system is made, it is mounted once; from then on, as
//! after fspick(2), options are taken to change it. What went wrong can be read from the descriptor.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::anon::{self, prefixed};
use super::file::{FileOps, OpenFlags};
use super::{Dentry, File, FileSystem, MntNs, Mount, MountFlags, MountRequest, Mutex, Path};
use super::{SuperBlock, UserBuf};
use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::{Cap, Cred, Namespace};

/// Messages that are kept until they are read.
const MESSAGES: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Options for a new file system are taken.
    Create,
    /// It is there and waits to be mounted.
    AwaitingMount,
    /// Options to change it are taken.
    Reconfigure,
    /// Something went wrong: nothing more can be done with it.
    Failed,
}

struct State {
    phase: Phase,
    source: Option<Vec<u8>>,
    /// Comma separated, as mount(2) takes them.
    options: Vec<u8>,
    /// `ro` or `rw`, if one was said.
    read_only: Option<bool>,
    root: Option<Ref<Dentry>>,
    messages: VecDeque<Vec<u8>>,
}

/// A file system that is being configured.
pub struct FsContext {
    fs: &'static dyn FileSystem,
    /// Who opened it: it is made in his name.
    cred: Ref<Cred>,
    /// The namespace that it will show, of those that he had then.
    shows: Option<Namespace>,
    state: Mutex<State>,
}

impl State {
    fn new(phase: Phase, root: Option<Ref<Dentry>>) -> Self {
        let (options, messages) = (Vec::new(), VecDeque::new());
        Self { phase, source: None, options, read_only: None, root, messages }
    }

    /// Keeps a message for the program; the oldest one goes if there are too many.
    fn complain(&mut self, fs: &dyn FileSystem, parts: &[&[u8]]) {
        let mut text = Vec::new();
        for part in [&[b"e ", fs.name().as_bytes(), b": "][..], parts].into_iter().flatten() {
            if text.try_reserve(part.len()).is_err() {
                return;
            }
            text.extend_from_slice(part);
        }
        if self.messages.len() == MESSAGES {
            self.messages.pop_front();
        }
        if self.messages.try_reserve(1).is_ok() {
            self.messages.push_back(text);
        }
    }

    fn superblock(&self) -> Result<&Ref<SuperBlock>> {
        Ok(&self.root.as_ref().ok_or(Errno::EINVAL)?.require_inode()?.sb)
    }
}

impl FsContext {
    fn open(fs: &'static dyn FileSystem, cred: Ref<Cred>, state: State) -> Result<Ref<File>> {
        let this = Self { fs, cred, shows: fs.shows(), state: Mutex::new(state) };
        anon::new_file("[fscontext]", Box::new(this), OpenFlags::RDWR)
    }

    /// A file for a new file system of this type (fsopen(2)).
    pub fn create(fs: &'static dyn FileSystem, cred: Ref<Cred>) -> Result<Ref<File>> {
        Self::open(fs, cred, State::new(Phase::Create, None))
    }

    /// A file for the file system that is mounted at `at` (fspick(2)); `EINVAL` if nothing is.
    pub fn pick(at: &Path, cred: Ref<Cred>) -> Result<Ref<File>> {
        if !Ref::ptr_eq(&at.dentry, &at.mnt.root) {
            return Err(Errno::EINVAL);
        }
        let fs = super::superblock::find_filesystem(at.mnt.sb.fs_type.as_bytes())?;
        Self::open(fs, cred, State::new(Phase::Reconfigure, Some(at.mnt.root.clone())))
    }

    /// Takes an option, with a value unless it is a flag. `EBUSY` in a phase that takes none; `EINVAL` for
    /// one that the file system does not know.
    pub fn set(&self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Create | Phase::Reconfigure) {
            return Err(Errno::EBUSY);
        }
        match (key, value) {
            (b"ro" | b"rw", None) => {
                state.read_only = Some(key == b"ro");
                return Ok(());
            }
            // What mount(2) has flags for and has no effect on file systems in memory.
            (b"sync" | b"async" | b"dirsync" | b"lazytime" | b"nolazytime", None) => return Ok(()),
            (b"mand" | b"nomand", None) => return Ok(()),
            (b"source", Some(_)) if state.source.is_some() => {
                state.complain(self.fs, &[b"Multiple sources"]);
                return Err(Errno::EINVAL);
            }
            (b"source", Some(value)) => {
                state.source = Some(prefixed(value, b"")?);
                return Ok(());
            }
            _ => {}
        }
        let with_sign = value.map(|value| prefixed(b"=", value)).transpose()?;
        let option = prefixed(key, with_sign.as_deref().unwrap_or_default())?;
        // A comma would begin another option.
        let taken = !option.contains(&b',')
            && state.options.len() + option.len() + 2 <= PAGE_SIZE
            && self.fs.knows(&self.request(b"", &option, MountFlags::empty()));
        if !taken {
            state.complain(self.fs, &[b"Unknown parameter or bad value '", &option, b"'"]);
            return Err(Errno::EINVAL);
        }
        let comma: &[u8] = if state.options.is_empty() { b"" } else { b"," };
        let new = prefixed(comma, &option)?;
        state.options.try_reserve(new.len()).map_err(|_| Errno::ENOMEM)?;
        state.options.extend_from_slice(&new);
        Ok(())
    }

    fn request<'a>(
        &'a self,
        source: &'a [u8],
        data: &'a [u8],
        flags: MountFlags,
    ) -> MountRequest<'a> {
        MountRequest { source, data, flags, cred: &self.cred, shows: self.shows.as_ref() }
    }

    /// Makes the file system (`FSCONFIG_CMD_CREATE`), if `cred` may.
    pub fn make(&self, cred: &Cred) -> Result<()> {
        let mut state = self.state.lock();
        if state.phase != Phase::Create {
            return Err(Errno::EBUSY);
        }
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, state.read_only == Some(true));
        let source = state.source.as_deref().unwrap_or(b"none");
        match MntNs::new_super(self.fs, cred, &self.request(source, &state.options, flags)) {
            Ok(root) => {
                state.root = Some(root);
                state.phase = Phase::AwaitingMount;
                Ok(())
            }
            // Who lacks the right may still get it.
            Err(Errno::EPERM) => Err(Errno::EPERM),
            Err(error) => {
                state.phase = Phase::Failed;
                Err(error)
            }
        }
    }

    /// Changes the file system (`FSCONFIG_CMD_RECONFIGURE`), for `cred`.
    pub fn reconfigure(&self, cred: &Cred) -> Result<()> {
        let mut state = self.state.lock();
        if state.phase != Phase::Reconfigure {
            return Err(Errno::EBUSY);
        }
        let sb = state.superblock()?.clone();
        if !cred.ns_capable(&sb.user_ns, Cap::SysAdmin) {
            return Err(Errno::EPERM);
        }
        let read_only = state.read_only.unwrap_or(sb.is_read_only());
        if let Err(error) = sb.reconfigure(&state.options, read_only) {
            state.phase = Phase::Failed;
            return Err(error);
        }
        state.options.clear();
        Ok(())
    }

    /// The mount of what was made, at no place yet (fsmount(2)).
    pub fn mount(&self, ns: &MntNs, flags: MountFlags) -> Result<Ref<Mount>> {
        let mut state = self.state.lock();
        let root = state.root.clone().ok_or(Errno::EINVAL)?;
        if state.phase != Phase::AwaitingMount {
            return Err(Errno::EBUSY);
        }
        let source = state.source.as_deref().unwrap_or(b"none");
        let mount = ns.new_mount(self.fs, root, source, flags)?;
        state.phase = Phase::Reconfigure;
        state.options.clear();
        state.read_only = None;
        Ok(mount)
    }
}

impl FileOps for FsContext {
    /// The oldest message; `ENODATA` if there is none.
    fn read(&self, _file: &File, buf: &mut UserBuf<'_>, _pos: &mut u64) -> Result<usize> {
        let mut state = self.state.lock();
        let message = state.messages.front().ok_or(Errno::ENODATA)?;
        if message.len() > buf.remaining() {
            return Err(Errno::EMSGSIZE);
        }
        let n = buf.put(message)?;
        state.messages.pop_front();
        Ok(n)
    }

    fn is_pollable(&self) -> bool {
        false
    }

    fn abilities(&self) -> super::FMode {
        super::FMode::empty()
    }
}

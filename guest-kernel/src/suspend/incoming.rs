//! Cores that the VMM hands over, of processes that shall go on here.
//!
//! They come piece by piece through a window: memory that is set aside when the first one begins, into which
//! the VMM writes and out of which each piece is copied into a file in memory, which nobody in the guest sees. What
//! a core says is checked when it is read from there ([`crate::process::restore`]).

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::fs::tmpfs::memfd;
use crate::fs::{File, UserBuf};
use crate::kref::Ref;
use crate::mm::{AllocFlags, FrameRef, PageKind, alloc_pages};
use crate::process::restore;
use crate::task;

/// The window is a block of 2^this pages.
const WINDOW_ORDER: usize = 8;
const WINDOW: usize = PAGE_SIZE << WINDOW_ORDER;

/// What came so far.
#[derive(Default)]
pub(super) struct Incoming {
    window: Option<FrameRef>,
    cores: Vec<Ref<File>>,
}

impl Incoming {
    /// A core begins; where the window is, and its bytes.
    pub(super) fn start(&mut self) -> Result<(u64, u64)> {
        let window = match self.window.take() {
            Some(window) => window,
            None => alloc_pages(WINDOW_ORDER, PageKind::Kernel, AllocFlags::ZERO)?,
        };
        let place = (window.phys().0, WINDOW as u64);
        self.window = Some(window);
        self.cores.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let mut name = String::new();
        let _ = core::fmt::write(&mut name, format_args!("core-{}", self.cores.len()));
        self.cores.push(memfd::create(name.as_bytes(), false, task::current().cred())?);
        Ok(place)
    }

    /// The window holds the next bytes of the core.
    pub(super) fn piece(&mut self, len: u32) -> Result<(u64, u64)> {
        let (Some(window), Some(core)) = (&self.window, self.cores.last()) else {
            return Err(Errno::EINVAL);
        };
        let mut left = usize::try_from(len).ok().filter(|len| *len <= WINDOW);
        let mut at = 0;
        // What the VMM wrote before it told us.
        fence(Ordering::Acquire);
        let mut page = [0; 512];
        while let Some(rest) = left.filter(|rest| *rest > 0) {
            let n = rest.min(page.len());
            window.read(at, &mut page[..n]);
            if core.write(&mut UserBuf::from_kernel(&page[..n]))? != n {
                return Err(Errno::ENOSPC);
            }
            at += n;
            left = Some(rest - n);
        }
        left.map(|_| (window.phys().0, WINDOW as u64)).ok_or(Errno::EINVAL)
    }

    /// All cores are here: their processes go on. The number of the first.
    pub(super) fn resume(&mut self) -> core::result::Result<u32, String> {
        let Self { cores, .. } = core::mem::take(self);
        match restore::resume(cores, restore::Place::Child) {
            Ok(root) => Ok(root.pid()),
            Err(failure) => {
                let mut why = String::new();
                let _ = core::fmt::write(&mut why, format_args!("{failure}"));
                Err(why)
            }
        }
    }
}

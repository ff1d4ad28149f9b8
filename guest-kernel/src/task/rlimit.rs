//! Resource limits (getrlimit(2)): all sixteen, shared by a thread group.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::errno::{Errno, Result};

/// No limit.
pub const RLIM_INFINITY: u64 = u64::MAX;

macro_rules! limits {
    ($($name:ident = $n:literal, $title:literal, $unit:literal;)*) => {
        /// A resource.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        #[allow(missing_docs, reason = "the names are getrlimit(2)'s")]
        pub enum Resource { $($name = $n,)* }

        impl Resource {
            /// All of them, in order.
            pub const ALL: &[Resource] = &[$(Resource::$name,)*];

            /// Name and unit as /proc/PID/limits shows them.
            pub const fn title(self) -> (&'static str, &'static str) {
                match self { $(Resource::$name => ($title, $unit),)* }
            }
        }
    };
}

limits! {
    Cpu = 0, "Max cpu time", "seconds";
    Fsize = 1, "Max file size", "bytes";
    Data = 2, "Max data size", "bytes";
    Stack = 3, "Max stack size", "bytes";
    Core = 4, "Max core file size", "bytes";
    Rss = 5, "Max resident set", "bytes";
    Nproc = 6, "Max processes", "processes";
    Nofile = 7, "Max open files", "files";
    Memlock = 8, "Max locked memory", "bytes";
    As = 9, "Max address space", "bytes";
    Locks = 10, "Max file locks", "locks";
    Sigpending = 11, "Max pending signals", "signals";
    Msgqueue = 12, "Max msgqueue size", "bytes";
    Nice = 13, "Max nice priority", "";
    Rtprio = 14, "Max realtime priority", "";
    Rttime = 15, "Max realtime timeout", "us";
}

/// Number of resources.
pub const RLIM_NLIMITS: usize = 16;

/// A soft and a hard limit.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rlimit {
    /// What is enforced.
    pub soft: u64,
    /// How far `soft` may be raised.
    pub hard: u64,
}

/// The limits of a thread group. Read without a lock on every check.
#[repr(C)]
#[derive(belljar_abi::Described)]
pub struct Rlimits {
    soft: [AtomicU64; RLIM_NLIMITS],
    hard: [AtomicU64; RLIM_NLIMITS],
}

impl Rlimits {
    /// Init's limits; the counts that Linux derives from the size of memory are derived here too.
    pub fn initial(total_pages: u64) -> Self {
        let this = Self {
            soft: [const { AtomicU64::new(RLIM_INFINITY) }; RLIM_NLIMITS],
            hard: [const { AtomicU64::new(RLIM_INFINITY) }; RLIM_NLIMITS],
        };
        // Linux lets threads take at most an eighth of memory, and a process half of that.
        let nproc = (total_pages / (8 * 4) / 2).max(64);
        let set = |resource: Resource, soft, hard| this.set(resource, Rlimit { soft, hard });
        set(Resource::Stack, 8 << 20, RLIM_INFINITY);
        set(Resource::Core, 0, RLIM_INFINITY);
        set(Resource::Nproc, nproc, nproc);
        set(Resource::Nofile, 1024, 4096);
        set(Resource::Memlock, 8 << 20, 8 << 20);
        set(Resource::Sigpending, nproc, nproc);
        set(Resource::Msgqueue, 819_200, 819_200);
        set(Resource::Nice, 0, 0);
        set(Resource::Rtprio, 0, 0);
        this
    }

    /// A copy, for fork.
    pub fn copy(&self) -> Self {
        let copy = |from: &[AtomicU64; RLIM_NLIMITS]| {
            core::array::from_fn(|i| AtomicU64::new(from[i].load(Ordering::Relaxed)))
        };
        Self { soft: copy(&self.soft), hard: copy(&self.hard) }
    }

    /// The limit that is enforced.
    #[inline]
    pub fn soft(&self, resource: Resource) -> u64 {
        self.soft[resource as usize].load(Ordering::Relaxed)
    }

    /// Both limits.
    pub fn get(&self, resource: Resource) -> Rlimit {
        let hard = self.hard[resource as usize].load(Ordering::Relaxed);
        Rlimit { soft: self.soft(resource), hard }
    }

    /// Sets both limits; the caller has checked that it may.
    pub fn set(&self, resource: Resource, limit: Rlimit) {
        self.soft[resource as usize].store(limit.soft, Ordering::Relaxed);
        self.hard[resource as usize].store(limit.hard, Ordering::Relaxed);
    }
}

/// The resource with this number; `EINVAL` if there is none.
pub fn resource(number: u32) -> Result<Resource> {
    Resource::ALL.get(number as usize).copied().ok_or(Errno::EINVAL)
}

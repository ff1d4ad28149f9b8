//! The constants and structures of Linux's user-space interface, for AArch64.
//!
//! They come from `linux-raw-sys`. Where the value differs between architectures it is stated here,
//! so that a host build (x86-64, say) of the kernel sees AArch64's values too.

pub use linux_raw_sys::general::*;
pub use linux_raw_sys::net;

/// open(2) flags that differ between architectures: asm/fcntl.h of arm64.
pub const O_DIRECTORY: u32 = 0o40000;
/// Do not follow a final symbolic link.
pub const O_NOFOLLOW: u32 = 0o100000;
/// Direct I/O.
pub const O_DIRECT: u32 = 0o200000;
/// Large files are always allowed on 64-bit systems.
pub const O_LARGEFILE: u32 = 0o400000;
/// An unnamed file in the directory given.
pub const O_TMPFILE: u32 = 0o20000000 | O_DIRECTORY;

/// `struct stat` of the generic ABI (asm-generic/stat.h), which AArch64 uses.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
#[allow(missing_docs, reason = "the names are stat(2)'s")]
pub struct Stat {
    pub st_dev: u64,
    pub st_ino: u64,
    pub st_mode: u32,
    pub st_nlink: u32,
    pub st_uid: u32,
    pub st_gid: u32,
    pub st_rdev: u64,
    pub __pad1: u64,
    pub st_size: i64,
    pub st_blksize: i32,
    pub __pad2: i32,
    pub st_blocks: i64,
    pub st_atime: i64,
    pub st_atime_nsec: u64,
    pub st_mtime: i64,
    pub st_mtime_nsec: u64,
    pub st_ctime: i64,
    pub st_ctime_nsec: u64,
    pub __unused: [u32; 2],
}

const _: () = assert!(size_of::<Stat>() == 128, "struct stat of the generic ABI is 128 bytes");

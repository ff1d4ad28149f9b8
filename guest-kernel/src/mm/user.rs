//! The one way to the memory of the current program: checked, fault-safe copies.
//!
//! Nothing here trusts an address. The range must lie in user space (tags in the top byte are
//! allowed, as everywhere on AArch64), and a page that is not there ends the copy with `EFAULT`
//! instead of a kernel fault: the abort handler first tries to bring the page in, like for the
//! program itself. Copies may therefore sleep; no spin lock is held around one.
//!
//! [`UserPtr`] is for single values, [`UserSlice`] for buffers; [`IoDst`] and [`IoSrc`] are what files
//! read into and write from, be that user or kernel memory.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::mem::MaybeUninit;

use crate::arch::{access_ok, uaccess};
use crate::errno::{Errno, Result};

/// Types that user memory may hold: any bytes are a value, and a value is nothing but its bytes.
///
/// # Safety
/// Every bit pattern is valid, there are no references inside, and padding, if any, is initialised by
/// whoever writes such a value to a program.
pub unsafe trait Pod: Copy + 'static {}

/// `pod!(A, B)`: these types are plain old data; the caller vouches for it.
#[macro_export]
macro_rules! pod {
    ($($ty:ty),* $(,)?) => {
        $(
            // SAFETY: vouched for by whoever lists the type: plain numbers only.
            unsafe impl $crate::mm::user::Pod for $ty {}
        )*
    };
}

pod!(u8, i8, u16, i16, u32, i32, u64, i64, usize, isize, u128);
// SAFETY: an array of plain data is plain data.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// Copies from the current program; `EFAULT` unless all of it could be read.
#[inline]
pub fn copy_in(src: u64, dst: &mut [u8]) -> Result<()> {
    if !access_ok(src, dst.len()) {
        return Err(Errno::EFAULT);
    }
    // SAFETY: `dst` is a valid buffer of that length.
    match unsafe { uaccess::copy_from_user(dst.as_mut_ptr(), src, dst.len()) } {
        0 => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// Copies to the current program; `EFAULT` unless all of it could be written.
#[inline]
pub fn copy_out(dst: u64, src: &[u8]) -> Result<()> {
    if !access_ok(dst, src.len()) {
        return Err(Errno::EFAULT);
    }
    // SAFETY: `src` is a valid buffer of that length.
    match unsafe { uaccess::copy_to_user(dst, src.as_ptr(), src.len()) } {
        0 => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// Writes zeros to the current program.
#[inline]
pub fn clear(dst: u64, len: usize) -> Result<()> {
    if !access_ok(dst, len) || uaccess::clear_user(dst, len) != 0 {
        return Err(Errno::EFAULT);
    }
    Ok(())
}

/// Reads a NUL-terminated string without its NUL. `ENAMETOOLONG` if it has `max` bytes or more.
pub fn read_cstr(addr: u64, max: usize) -> Result<Vec<u8>> {
    const STEP: usize = 256;
    let mut string = Vec::new();
    loop {
        let want = STEP.min(max - string.len());
        if want == 0 {
            return Err(Errno::ENAMETOOLONG);
        }
        string.try_reserve(want).map_err(|_| Errno::ENOMEM)?;
        let at = addr.checked_add(string.len() as u64).ok_or(Errno::EFAULT)?;
        if !access_ok(at, 1) {
            return Err(Errno::EFAULT);
        }
        let room = string.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: room for `want` bytes was just reserved.
        let got =
            unsafe { uaccess::strncpy_from_user(room, at, want) }.map_err(|_| Errno::EFAULT)?;
        // SAFETY: `got` bytes, at most `want`, were written.
        unsafe { string.set_len(string.len() + got) };
        if got < want {
            return Ok(string);
        }
    }
}

/// The address of a `T` in the current program. Null and wild addresses are fine until used.
#[repr(transparent)]
pub struct UserPtr<T> {
    addr: u64,
    _to: PhantomData<*mut T>,
}

impl<T> Clone for UserPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for UserPtr<T> {}

// SAFETY: it is a number.
unsafe impl<T> Send for UserPtr<T> {}
// SAFETY: it is a number.
unsafe impl<T> Sync for UserPtr<T> {}
// SAFETY: it is a number.
unsafe impl<T: 'static> Pod for UserPtr<T> {}

impl<T> UserPtr<T> {
    /// An address as the program gave it.
    #[inline]
    pub const fn new(addr: u64) -> Self {
        Self { addr, _to: PhantomData }
    }

    /// The address.
    #[inline]
    pub const fn addr(self) -> u64 {
        self.addr
    }

    /// True for the null pointer.
    #[inline]
    pub const fn is_null(self) -> bool {
        self.addr == 0
    }

    /// The same pointer, or `None` for null.
    #[inline]
    pub const fn non_null(self) -> Option<Self> {
        if self.is_null() { None } else { Some(self) }
    }

    /// The same address as a pointer to something else.
    #[inline]
    pub const fn cast<U>(self) -> UserPtr<U> {
        UserPtr::new(self.addr)
    }

    /// The `n`th item of an array that starts here; an overflow gives an address that faults.
    #[inline]
    pub const fn add(self, n: usize) -> Self {
        match (n as u64).checked_mul(size_of::<T>() as u64) {
            Some(bytes) => match self.addr.checked_add(bytes) {
                Some(addr) => Self::new(addr),
                None => Self::new(u64::MAX),
            },
            None => Self::new(u64::MAX),
        }
    }

    /// The pointer moved by bytes, for fields of structures.
    #[inline]
    pub const fn byte_add(self, bytes: usize) -> Self {
        match self.addr.checked_add(bytes as u64) {
            Some(addr) => Self::new(addr),
            None => Self::new(u64::MAX),
        }
    }
}

impl<T: Pod> UserPtr<T> {
    /// Reads the value.
    #[inline]
    pub fn read(self) -> Result<T> {
        if !access_ok(self.addr, size_of::<T>()) {
            return Err(Errno::EFAULT);
        }
        let mut value = MaybeUninit::<T>::uninit();
        let to = value.as_mut_ptr().cast::<u8>();
        // SAFETY: `value` has room for a `T`.
        match unsafe { uaccess::copy_from_user(to, self.addr, size_of::<T>()) } {
            // SAFETY: all bytes were written, and any bytes are a value (`Pod`).
            0 => Ok(unsafe { value.assume_init() }),
            _ => Err(Errno::EFAULT),
        }
    }

    /// Writes a value.
    #[inline]
    pub fn write(self, value: T) -> Result<()> {
        self.write_ref(&value)
    }

    /// Writes a value that is too large to pass about.
    #[inline]
    pub fn write_ref(self, value: &T) -> Result<()> {
        if !access_ok(self.addr, size_of::<T>()) {
            return Err(Errno::EFAULT);
        }
        let from = core::ptr::from_ref(value).cast::<u8>();
        // SAFETY: `value` is that many bytes.
        match unsafe { uaccess::copy_to_user(self.addr, from, size_of::<T>()) } {
            0 => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }

    /// Reads an array of `n` values.
    pub fn read_array(self, n: usize) -> Result<Vec<T>> {
        let bytes = n.checked_mul(size_of::<T>()).ok_or(Errno::EFAULT)?;
        if !access_ok(self.addr, bytes) {
            return Err(Errno::EFAULT);
        }
        let mut values: Vec<T> = Vec::new();
        values.try_reserve_exact(n).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: room for `n` values was just reserved.
        match unsafe { uaccess::copy_from_user(values.as_mut_ptr().cast(), self.addr, bytes) } {
            // SAFETY: all were written, and any bytes are a value (`Pod`).
            0 => unsafe { values.set_len(n) },
            _ => return Err(Errno::EFAULT),
        }
        Ok(values)
    }

    /// Writes an array of values.
    pub fn write_array(self, values: &[T]) -> Result<()> {
        let from = values.as_ptr().cast::<u8>();
        // SAFETY: plain data, read as bytes.
        copy_out(self.addr, unsafe { core::slice::from_raw_parts(from, size_of_val(values)) })
    }
}

impl<T> core::fmt::Debug for UserPtr<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "user {:#x}", self.addr)
    }
}

/// A buffer in the current program, consumed from its start.
#[derive(Clone, Copy, Debug)]
pub struct UserSlice {
    addr: u64,
    len: usize,
}

impl UserSlice {
    /// A buffer as the program gave it.
    #[inline]
    pub const fn new(addr: u64, len: usize) -> Self {
        Self { addr, len }
    }

    /// Where what is left starts.
    pub const fn addr(&self) -> u64 {
        self.addr
    }

    /// Bytes left.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if nothing is left.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `EFAULT` unless all of it lies in user space; says nothing about what is mapped.
    #[inline]
    pub fn check(&self) -> Result<()> {
        if access_ok(self.addr, self.len) { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Shortens it.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Skips bytes.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        let n = n.min(self.len);
        self.addr = self.addr.wrapping_add(n as u64);
        self.len -= n;
    }

    /// What a copy that left `missed` of `n` bytes comes to: `EFAULT` only if nothing was copied.
    #[inline]
    fn done(&mut self, n: usize, missed: usize) -> Result<usize> {
        let copied = n - missed.min(n);
        if copied == 0 && n > 0 {
            return Err(Errno::EFAULT);
        }
        self.advance(copied);
        Ok(copied)
    }

    /// Copies the next bytes out of the program; less than asked if the buffer ends or faults.
    #[inline]
    pub fn copy_in(&mut self, buf: &mut [u8]) -> Result<usize> {
        let n = buf.len().min(self.len);
        if !access_ok(self.addr, n) {
            return Err(Errno::EFAULT);
        }
        // SAFETY: `buf` has room for `n` bytes.
        let missed = unsafe { uaccess::copy_from_user(buf.as_mut_ptr(), self.addr, n) };
        self.done(n, missed)
    }

    /// Copies bytes to the program; less than asked if the buffer ends or faults.
    #[inline]
    pub fn copy_out(&mut self, buf: &[u8]) -> Result<usize> {
        let n = buf.len().min(self.len);
        if !access_ok(self.addr, n) {
            return Err(Errno::EFAULT);
        }
        // SAFETY: `buf` has `n` bytes.
        let missed = unsafe { uaccess::copy_to_user(self.addr, buf.as_ptr(), n) };
        self.done(n, missed)
    }

    /// Writes up to `n` zeros to the program.
    pub fn zero(&mut self, n: usize) -> Result<usize> {
        let n = n.min(self.len);
        if !access_ok(self.addr, n) {
            return Err(Errno::EFAULT);
        }
        let missed = uaccess::clear_user(self.addr, n);
        self.done(n, missed)
    }

    /// Reads all that is left.
    pub fn read_to_vec(mut self) -> Result<Vec<u8>> {
        self.check()?;
        let mut buf = Vec::new();
        buf.try_reserve_exact(self.len).map_err(|_| Errno::ENOMEM)?;
        buf.resize(self.len, 0);
        if self.copy_in(&mut buf)? < buf.len() {
            return Err(Errno::EFAULT);
        }
        Ok(buf)
    }
}

/// Where a file's bytes go: the current program's memory or the kernel's. Consumed as it fills.
#[derive(Debug)]
pub enum IoDst<'a> {
    /// The program that made the system call.
    User(UserSlice),
    /// Kernel memory; what is left of it.
    Kernel(&'a mut [u8]),
}

impl IoDst<'_> {
    /// Bytes that still fit.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Self::User(slice) => slice.len(),
            Self::Kernel(buf) => buf.len(),
        }
    }

    /// True if nothing fits any more.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends bytes; returns how many fitted. `EFAULT` only if none could be stored.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        match self {
            Self::User(slice) => slice.copy_out(bytes),
            Self::Kernel(buf) => {
                let n = bytes.len().min(buf.len());
                let (head, tail) = core::mem::take(buf).split_at_mut(n);
                head.copy_from_slice(&bytes[..n]);
                *buf = tail;
                Ok(n)
            }
        }
    }

    /// Appends zeros.
    pub fn put_zeros(&mut self, n: usize) -> Result<usize> {
        match self {
            Self::User(slice) => slice.zero(n),
            Self::Kernel(buf) => {
                let n = n.min(buf.len());
                let (head, tail) = core::mem::take(buf).split_at_mut(n);
                head.fill(0);
                *buf = tail;
                Ok(n)
            }
        }
    }

    /// Forgets all room beyond `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        match self {
            Self::User(slice) => slice.truncate(len),
            Self::Kernel(buf) if len < buf.len() => {
                *buf = &mut core::mem::take(buf)[..len];
            }
            Self::Kernel(_) => {}
        }
    }
}

/// Where a file's bytes come from: the current program's memory or the kernel's. Consumed as it is read.
#[derive(Debug)]
pub enum IoSrc<'a> {
    /// The program that made the system call.
    User(UserSlice),
    /// Kernel memory; what is left of it.
    Kernel(&'a [u8]),
}

impl IoSrc<'_> {
    /// Bytes left.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Self::User(slice) => slice.len(),
            Self::Kernel(buf) => buf.len(),
        }
    }

    /// True if nothing is left.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes bytes; returns how many there were. `EFAULT` only if none could be read.
    #[inline]
    pub fn take(&mut self, bytes: &mut [u8]) -> Result<usize> {
        match self {
            Self::User(slice) => slice.copy_in(bytes),
            Self::Kernel(buf) => {
                let n = bytes.len().min(buf.len());
                bytes[..n].copy_from_slice(&buf[..n]);
                *buf = &buf[n..];
                Ok(n)
            }
        }
    }

    /// Forgets all beyond `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        match self {
            Self::User(slice) => slice.truncate(len),
            Self::Kernel(buf) => *buf = &buf[..len.min(buf.len())],
        }
    }
}

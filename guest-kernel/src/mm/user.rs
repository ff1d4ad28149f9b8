//! The one way to the memory of the current program: checked, fault-safe copies.
//!
//! Nothing here trusts an address. The range must lie in user space (tags in the top byte are
//! allowed, as everywhere on AArch64), and a page that is not there ends the copy with `EFAULT`
//! instead of a kernel fault: the abort handler first tries to bring the page in, like for the
//! program itself. Copies may therefore sleep; no spin lock is held around one.
//!
//! [`UserPtr`] is for values and arrays; what files read into and write from, be that user or kernel
//! memory, is [`fs::UserBuf`](crate::fs::UserBuf), which stands on the same primitives.

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

/// Reads a NUL-terminated string into `buf`; returns its length without the NUL, or `None` if it does
/// not end within `buf`.
#[inline]
pub fn copy_cstr(buf: &mut [u8], addr: u64) -> Result<Option<usize>> {
    if !access_ok(addr, 1) {
        return Err(Errno::EFAULT);
    }
    // SAFETY: `buf` is valid for writes of its length.
    let got = unsafe { uaccess::strncpy_from_user(buf.as_mut_ptr(), addr, buf.len()) };
    let got = got.map_err(|_| Errno::EFAULT)?;
    Ok((got < buf.len()).then_some(got))
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

//! [`Address`]: a socket address as programs hand it over, of whatever family: raw bytes that start with
//! the family's number (`struct sockaddr`).

use crate::errno::{Errno, Result};

/// Size of `struct sockaddr_storage`: no address is longer.
pub const ADDRESS_MAX: usize = 128;

/// An address.
#[derive(Clone, Copy)]
pub struct Address {
    len: usize,
    bytes: [u8; ADDRESS_MAX],
}

impl Address {
    /// No address at all.
    pub const EMPTY: Self = Self { len: 0, bytes: [0; ADDRESS_MAX] };

    /// An address with these bytes; `EINVAL` if there are too many.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        let mut this = Self { len: bytes.len(), ..Self::EMPTY };
        this.bytes.get_mut(..bytes.len()).ok_or(Errno::EINVAL)?.copy_from_slice(bytes);
        Ok(this)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The family that an address says it is of; `EINVAL` if it is too short to say.
pub fn family_of(bytes: &[u8]) -> Result<u16> {
    let family = bytes.first_chunk().ok_or(Errno::EINVAL)?;
    Ok(u16::from_ne_bytes(*family))
}

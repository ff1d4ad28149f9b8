//! A ring of bytes with a fixed capacity: what a terminal has received, echoes or sends.

use belljar_abi::Described;

use crate::array::Array;
use crate::errno::Result;

/// `len` zero bytes on the kernel heap.
pub fn try_zeroed(len: usize) -> Result<Array<u8>> {
    let mut bytes = Array::new();
    bytes.try_resize_with(len, || 0)?;
    Ok(bytes)
}

/// A ring buffer. Positions are counted without wrapping; the capacity is a power of two.
#[repr(C)]
#[derive(Described)]
#[described(name = "ByteRing")]
pub struct Ring {
    bytes: Array<u8>,
    head: usize,
    tail: usize,
}

impl Ring {
    /// A ring for `capacity` bytes, which is a power of two.
    pub fn try_new(capacity: usize) -> Result<Self> {
        debug_assert!(capacity.is_power_of_two());
        Ok(Self { bytes: try_zeroed(capacity)?, head: 0, tail: 0 })
    }

    /// Bytes in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.head - self.tail
    }

    /// True if nothing is in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Bytes that still fit.
    #[inline]
    pub fn room(&self) -> usize {
        self.bytes.len() - self.len()
    }

    /// Appends one byte; false if it is full.
    #[inline]
    pub fn push(&mut self, byte: u8) -> bool {
        if self.room() == 0 {
            return false;
        }
        let mask = self.bytes.len() - 1;
        self.bytes[self.head & mask] = byte;
        self.head += 1;
        true
    }

    /// Appends as much as fits and says how much that was.
    pub fn write(&mut self, src: &[u8]) -> usize {
        let n = src.len().min(self.room());
        let at = self.head & (self.bytes.len() - 1);
        let first = n.min(self.bytes.len() - at);
        self.bytes[at..at + first].copy_from_slice(&src[..first]);
        self.bytes[..n - first].copy_from_slice(&src[first..n]);
        self.head += n;
        n
    }

    /// Takes up to `dst.len()` bytes out and says how many.
    pub fn read(&mut self, dst: &mut [u8]) -> usize {
        let mut done = 0;
        while done < dst.len() {
            let part = self.front();
            let n = part.len().min(dst.len() - done);
            if n == 0 {
                break;
            }
            dst[done..done + n].copy_from_slice(&part[..n]);
            self.consume(n);
            done += n;
        }
        done
    }

    /// The oldest bytes, as far as they lie in one piece.
    pub fn front(&self) -> &[u8] {
        let at = self.tail & (self.bytes.len() - 1);
        let n = self.len().min(self.bytes.len() - at);
        &self.bytes[at..at + n]
    }

    /// Drops the `n` oldest bytes.
    pub fn consume(&mut self, n: usize) {
        self.tail += n.min(self.len());
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.tail = self.head;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_wraps_and_keeps_the_order() {
        let mut ring = Ring::try_new(8).unwrap();
        assert_eq!(ring.write(b"abcdef"), 6);
        let mut out = [0; 4];
        assert_eq!(ring.read(&mut out), 4);
        assert_eq!(ring.write(b"ghijklmn"), 6);
        assert!(!ring.push(b'x'));
        let mut out = [0; 9];
        assert_eq!(ring.read(&mut out), 8);
        assert_eq!(&out[..8], b"efghijkl");
    }
}

//! What travels behind the kernel in one `Image` file: its symbols, an initrd, a command line.
//!
//! The payload starts on the page behind the kernel's `.bss` (`__image_end`; the header's
//! [`crate::image::PAYLOAD`] word names it too) and is covered by the header's `image_size`, so every
//! boot loader puts it into RAM together with the kernel.
//!
//! ```text
//! 0   magic  8 bytes
//! 8   u32    number of records
//! 12  u32    0
//! 16  u64    length of the whole payload, this header included
//! 24  records, 24 bytes each: u32 kind, u32 0, u64 offset from the payload's start, u64 length
//! …   the data of each record, each on a page boundary
//! ```
//!
//! All numbers are little endian. A reader skips kinds that it does not know.

/// Marks a payload.
pub const MAGIC: [u8; 8] = *b"BJPAYLD1";
/// Length of the fixed part in front of the records.
pub const HEADER_LEN: usize = 24;
/// Length of one record.
pub const RECORD_LEN: usize = 24;
/// More records than this are not believed.
pub const MAX_RECORDS: usize = 64;
/// The payload and the data of each record start on such a boundary.
pub const ALIGN: usize = 4096;

/// The kernel's symbol table, see [`crate::symbols`].
pub const SYMBOLS: u32 = 1;
/// An initrd: cpio archives, plain or gzip, used when the boot loader brought none.
pub const INITRD: u32 = 2;
/// Text that is put in front of the boot loader's command line.
pub const CMDLINE: u32 = 3;

/// Why some bytes are not a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadError {
    /// No [`MAGIC`] at the start: nothing was appended to this kernel.
    Missing,
    /// The stated length is larger than what is there.
    Truncated,
    /// A record, or the record table, lies outside the payload.
    OutOfBounds,
}

impl core::fmt::Display for PayloadError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            PayloadError::Missing => "no payload behind the kernel",
            PayloadError::Truncated => "the payload behind the kernel is cut short",
            PayloadError::OutOfBounds => "a record of the payload lies outside it",
        })
    }
}

impl core::error::Error for PayloadError {}

/// A checked view of a payload.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    bytes: &'a [u8],
    records: &'a [u8],
}

/// One record: its kind and where its data lies in the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// [`SYMBOLS`], [`INITRD`], [`CMDLINE`] or a kind of a later version.
    pub kind: u32,
    /// Where the data starts, in bytes from the payload's start.
    pub offset: usize,
    /// The data.
    pub data: &'a [u8],
}

/// The length of the payload whose first [`HEADER_LEN`] bytes are `header`, so that the kernel can
/// find out how much memory to map before it reads the rest. `None` if that is no payload.
pub fn stated_len(header: &[u8]) -> Option<u64> {
    (header.get(..8)? == MAGIC).then_some(())?;
    u64_at(header, 16)
}

impl<'a> Payload<'a> {
    /// Checks the payload at the start of `bytes`, which may be longer than it.
    pub fn read(bytes: &'a [u8]) -> Result<Payload<'a>, PayloadError> {
        let len = stated_len(bytes).ok_or(PayloadError::Missing)?;
        let len = usize::try_from(len).map_err(|_| PayloadError::Truncated)?;
        let bytes = bytes.get(..len).ok_or(PayloadError::Truncated)?;
        let count = u32_at(bytes, 8).ok_or(PayloadError::OutOfBounds)? as usize;
        if count > MAX_RECORDS {
            return Err(PayloadError::OutOfBounds);
        }
        let end = HEADER_LEN + count * RECORD_LEN;
        let records = bytes.get(HEADER_LEN..end).ok_or(PayloadError::OutOfBounds)?;
        let payload = Payload { bytes, records };
        if payload.records().count() != count {
            return Err(PayloadError::OutOfBounds);
        }
        Ok(payload)
    }

    /// Length of the whole payload in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// All records in the order of the table.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let bytes = self.bytes;
        self.records.chunks_exact(RECORD_LEN).map_while(move |record| {
            let kind = u32_at(record, 0)?;
            let offset = usize::try_from(u64_at(record, 8)?).ok()?;
            let len = usize::try_from(u64_at(record, 16)?).ok()?;
            let data = bytes.get(offset..offset.checked_add(len)?)?;
            Some(Record { kind, offset, data })
        })
    }

    /// The data of the first record of `kind`.
    pub fn get(&self, kind: u32) -> Option<&'a [u8]> {
        self.records().find(|record| record.kind == kind).map(|record| record.data)
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

#[cfg(any(feature = "alloc", test))]
pub use writer::Builder;

#[cfg(any(feature = "alloc", test))]
mod writer {
    use super::*;
    use crate::image::{Header, HeaderError};
    use alloc::vec::Vec;

    /// Collects records and puts them behind an `Image`.
    #[derive(Clone, Debug, Default)]
    pub struct Builder {
        records: Vec<(u32, Vec<u8>)>,
    }

    impl Builder {
        /// A payload without records.
        pub fn new() -> Builder {
            Builder::default()
        }

        /// Starts from what `image` already carries, to add to it or to replace parts.
        pub fn of_image(image: &[u8]) -> Result<Builder, PayloadError> {
            let start = Header::read(image).map_or(0, |header| header.payload);
            let start = usize::try_from(start).map_err(|_| PayloadError::Truncated)?;
            if start == 0 {
                return Ok(Builder::new());
            }
            let payload = Payload::read(image.get(start..).ok_or(PayloadError::Truncated)?)?;
            let records =
                payload.records().map(|record| (record.kind, record.data.to_vec())).collect();
            Ok(Builder { records })
        }

        /// Sets the data of `kind`, replacing what was there.
        pub fn set(&mut self, kind: u32, data: Vec<u8>) -> &mut Builder {
            match self.records.iter_mut().find(|(other, _)| *other == kind) {
                Some(record) => record.1 = data,
                None => self.records.push((kind, data)),
            }
            self
        }

        /// The payload as bytes; its length is a multiple of [`ALIGN`].
        pub fn to_bytes(&self) -> Vec<u8> {
            let mut bytes = Vec::from(MAGIC);
            bytes.extend((self.records.len() as u32).to_le_bytes());
            bytes.extend([0; 12]);
            let mut offset = (HEADER_LEN + self.records.len() * RECORD_LEN).next_multiple_of(ALIGN);
            for (kind, data) in &self.records {
                bytes.extend(u64::from(*kind).to_le_bytes());
                bytes.extend((offset as u64).to_le_bytes());
                bytes.extend((data.len() as u64).to_le_bytes());
                offset = (offset + data.len()).next_multiple_of(ALIGN);
            }
            for (_, data) in &self.records {
                bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
                bytes.extend(data);
            }
            bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
            let len = bytes.len() as u64;
            bytes[16..24].copy_from_slice(&len.to_le_bytes());
            bytes
        }

        /// Puts the payload behind `image`, in place of one that is there, and corrects its header.
        ///
        /// An `image` without a payload is filled with zeros up to the size that its header states,
        /// its `.bss` included.
        pub fn attach(&self, image: &mut Vec<u8>) -> Result<(), HeaderError> {
            let header = Header::read(image)?;
            let start = match header.payload {
                0 => (header.image_size as usize).max(image.len()).next_multiple_of(ALIGN),
                start => start as usize,
            };
            image.resize(start, 0);
            image.extend(self.to_bytes());
            let size = image.len() as u64;
            Header::set_payload(image, start as u64, size)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image;

    fn kernel() -> Vec<u8> {
        let mut bytes = vec![0xaa; 5000];
        bytes[..image::HEADER_LEN].fill(0);
        bytes[image::IMAGE_SIZE..][..8].copy_from_slice(&9000u64.to_le_bytes());
        bytes[image::MAGIC_AT..][..4].copy_from_slice(&image::MAGIC);
        bytes
    }

    #[test]
    fn attach_is_read_back_behind_bss() {
        let mut file = kernel();
        Builder::new().set(SYMBOLS, vec![1; 10]).attach(&mut file).unwrap();
        let header = image::Header::read(&file).unwrap();
        assert_eq!(header.payload, 12288);
        assert_eq!(header.image_size as usize, file.len());
        assert!(file[5000..12288].iter().all(|byte| *byte == 0));
        let payload = Payload::read(&file[12288..]).unwrap();
        assert_eq!(payload.get(SYMBOLS), Some(&[1; 10][..]));
        assert_eq!(payload.get(INITRD), None);
    }

    #[test]
    fn attach_twice_keeps_the_kernel_and_replaces_records() {
        let mut file = kernel();
        Builder::new().set(SYMBOLS, vec![1; 10]).attach(&mut file).unwrap();
        let mut builder = Builder::of_image(&file).unwrap();
        builder.set(INITRD, vec![2; 9000]).set(SYMBOLS, vec![3; 5]).attach(&mut file).unwrap();
        let payload = Payload::read(&file[12288..]).unwrap();
        assert_eq!(payload.get(SYMBOLS), Some(&[3; 5][..]));
        assert_eq!(payload.get(INITRD), Some(&[2; 9000][..]));
        assert!(payload.records().all(|record| record.offset % ALIGN == 0));
        assert_eq!(payload.len() % ALIGN, 0);
    }

    #[test]
    fn read_of_any_cut_or_changed_payload_never_panics() {
        let good =
            Builder::new().set(SYMBOLS, vec![7; 3]).set(CMDLINE, b"quiet".to_vec()).to_bytes();
        for len in 0..good.len() {
            assert!(Payload::read(&good[..len]).is_err(), "{len} bytes were accepted");
        }
        for at in 0..HEADER_LEN + 2 * RECORD_LEN {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                if let Ok(payload) = Payload::read(&bad) {
                    payload.records().for_each(|record| assert!(record.data.len() <= bad.len()));
                }
            }
        }
    }
}

//! The header of an arm64 `Image`, and what Bell Jar keeps in its reserved words.
//!
//! The layout is Linux's (Documentation/arch/arm64/booting.rst): 64 bytes, little endian, at offset 0
//! of the file and of the loaded image. Boot loaders ignore the reserved words; Bell Jar's kernel
//! states in them where its root page and its payload stand, so that both are found in a file or in
//! raw RAM without symbols.

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 64;
/// The four bytes at offset 56 that mark an arm64 `Image`.
pub const MAGIC: [u8; 4] = *b"ARM\x64";
/// What our images hold in the last reserved word (offset 60, where an EFI image has its PE offset).
pub const BELLJAR_MARK: [u8; 4] = *b"BJR1";

/// Offset of `text_offset` in the header.
pub const TEXT_OFFSET: usize = 8;
/// Offset of `image_size` in the header.
pub const IMAGE_SIZE: usize = 16;
/// Offset of `flags` in the header.
pub const FLAGS: usize = 24;
/// Offset of `res2`: where the root page stands, in bytes from the image's start.
pub const ROOT_PAGE: usize = 32;
/// Offset of `res3`: where the payload stands, in bytes from the image's start; 0 means there is none.
pub const PAYLOAD: usize = 40;
/// Offset of `res4`, still unused.
pub const RESERVED: usize = 48;
/// Offset of [`MAGIC`] in the header.
pub const MAGIC_AT: usize = 56;
/// Offset of [`BELLJAR_MARK`] in the header.
pub const MARK_AT: usize = 60;

/// The fields of the header that Bell Jar uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the image wants to be, in bytes from a 2 MiB boundary.
    pub text_offset: u64,
    /// Memory that the image occupies from its start: text, data, `.bss` and payload.
    pub image_size: u64,
    /// Endianness, page size and placement bits.
    pub flags: u64,
    /// Where the root page stands, in bytes from the image's start; 0 in an image that is not ours.
    pub root_page: u64,
    /// Where the payload stands, in bytes from the image's start; 0 if there is none.
    pub payload: u64,
    /// Whether the image carries [`BELLJAR_MARK`], so that the two words above mean what they say.
    pub belljar: bool,
}

/// Why some bytes are not an arm64 `Image`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Fewer bytes than a header has.
    TooShort,
    /// No [`MAGIC`] at offset 56.
    NotAnImage,
}

impl core::fmt::Display for HeaderError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            HeaderError::TooShort => "shorter than an arm64 Image header",
            HeaderError::NotAnImage => "no arm64 Image magic at offset 56",
        })
    }
}

impl core::error::Error for HeaderError {}

impl Header {
    /// Reads the header at the start of `bytes`.
    pub fn read(bytes: &[u8]) -> Result<Header, HeaderError> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(HeaderError::TooShort)?;
        if header[MAGIC_AT..MAGIC_AT + 4] != MAGIC {
            return Err(HeaderError::NotAnImage);
        }
        let belljar = header[MARK_AT..MARK_AT + 4] == BELLJAR_MARK;
        let ours = |at| if belljar { word(header, at) } else { 0 };
        Ok(Header {
            text_offset: word(header, TEXT_OFFSET),
            image_size: word(header, IMAGE_SIZE),
            flags: word(header, FLAGS),
            root_page: ours(ROOT_PAGE),
            payload: ours(PAYLOAD),
            belljar,
        })
    }

    /// Writes `image_size` and `payload` into the header at the start of `bytes`; everything else
    /// stays as the linker left it.
    pub fn set_payload(bytes: &mut [u8], payload: u64, image_size: u64) -> Result<(), HeaderError> {
        Header::read(bytes)?;
        bytes[IMAGE_SIZE..IMAGE_SIZE + 8].copy_from_slice(&image_size.to_le_bytes());
        bytes[PAYLOAD..PAYLOAD + 8].copy_from_slice(&payload.to_le_bytes());
        bytes[MARK_AT..MARK_AT + 4].copy_from_slice(&BELLJAR_MARK);
        Ok(())
    }
}

fn word(header: &[u8; HEADER_LEN], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[IMAGE_SIZE..IMAGE_SIZE + 8].copy_from_slice(&0x1000u64.to_le_bytes());
        bytes[ROOT_PAGE..ROOT_PAGE + 8].copy_from_slice(&0x800u64.to_le_bytes());
        bytes[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(&MAGIC);
        bytes
    }

    #[test]
    fn read_short_or_foreign_bytes_is_refused() {
        assert_eq!(Header::read(&[0; 63]), Err(HeaderError::TooShort));
        assert_eq!(Header::read(&[0; 64]), Err(HeaderError::NotAnImage));
    }

    #[test]
    fn read_without_our_mark_ignores_reserved_words() {
        let header = Header::read(&image()).unwrap();
        assert_eq!((header.root_page, header.payload, header.belljar), (0, 0, false));
        assert_eq!(header.image_size, 0x1000);
    }

    #[test]
    fn set_payload_is_read_back() {
        let mut bytes = image();
        Header::set_payload(&mut bytes, 0x1000, 0x3000).unwrap();
        let header = Header::read(&bytes).unwrap();
        assert_eq!((header.payload, header.image_size), (0x1000, 0x3000));
        assert_eq!((header.root_page, header.belljar), (0x800, true));
    }
}

//! What KVM itself counts of a vCPU (`KVM_GET_STATS_FD`, Linux 5.14 and later): exits by cause, those that
//! never leave the host's kernel included.
//!
//! The file describes itself: a header, a descriptor for each figure, the figures. It can be had only while the vCPU
//! stands, so when the machine is built; header and descriptors are read when somebody asks for the first time.

use std::fs::File;
use std::mem::size_of;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use kvm_bindings::{KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_TYPE_MASK, kvm_stats_header};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

/// KVM's letter (Linux's uapi/linux/kvm.h).
const KVMIO: u32 = 0xae;
ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// A figure and where in the file it is.
#[derive(Debug)]
struct Figure {
    name: String,
    at: u64,
}

/// The figures of one vCPU.
#[derive(Debug)]
pub(super) struct Stats {
    file: File,
    figures: OnceLock<Vec<Figure>>,
}

impl Stats {
    /// Of `vcpu`; `None` if the host's KVM has none.
    pub(super) fn of(vcpu: &VcpuFd) -> Option<Self> {
        // SAFETY: the call takes no argument and gives back a descriptor, or an error.
        let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
        if fd < 0 {
            return None;
        }
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        Some(Self { file, figures: OnceLock::new() })
    }

    /// What the file says of itself.
    fn describe(&self) -> Option<Vec<Figure>> {
        let file = &self.file;
        let mut header = [0; size_of::<kvm_stats_header>()];
        file.read_exact_at(&mut header, 0).ok()?;
        let header = Header::read(&header);
        let mut descriptors = vec![0; header.stride().checked_mul(header.count)?];
        file.read_exact_at(&mut descriptors, header.descriptors).ok()?;
        Some(header.figures(&descriptors))
    }

    /// Every figure that counts something, with its name in KVM.
    pub(super) fn read(&self) -> Vec<(&str, u64)> {
        let value = |at| {
            let mut value = [0; size_of::<u64>()];
            self.file.read_exact_at(&mut value, at).ok().map(|()| u64::from_le_bytes(value))
        };
        let figures = self.figures.get_or_init(|| self.describe().unwrap_or_default()).iter();
        figures.filter_map(|figure| Some((figure.name.as_str(), value(figure.at)?))).collect()
    }
}

/// The words of a `kvm_stats_header` that matter.
struct Header {
    /// Bytes of a name, which follows its descriptor.
    name: usize,
    count: usize,
    /// Offsets of the descriptors and of the figures.
    descriptors: u64,
    data: u64,
}

/// Bytes of a `kvm_stats_desc` before its name.
const DESCRIPTOR: usize = 16;

impl Header {
    fn read(bytes: &[u8; size_of::<kvm_stats_header>()]) -> Self {
        let word = |index: usize| {
            let at = index * size_of::<u32>();
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Self {
            name: word(1) as usize,
            count: word(2) as usize,
            descriptors: word(4).into(),
            data: word(5).into(),
        }
    }

    fn stride(&self) -> usize {
        DESCRIPTOR + self.name
    }

    /// The counters among the figures that `descriptors` describe.
    fn figures(&self, descriptors: &[u8]) -> Vec<Figure> {
        let figure = |bytes: &[u8]| {
            let word =
                |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
            // flags, exponent and size, offset, bucket size
            let (flags, size, offset) = (word(0)?, word(4)? >> 16, word(8)?);
            let counts = flags & KVM_STATS_TYPE_MASK == KVM_STATS_TYPE_CUMULATIVE && size == 1;
            let name = bytes.get(DESCRIPTOR..)?.split(|byte| *byte == 0).next()?;
            let name = String::from_utf8_lossy(name).into_owned();
            counts.then(|| Figure { name, at: self.data + u64::from(offset) })
        };
        descriptors.chunks_exact(self.stride()).filter_map(figure).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_count_are_found_with_their_names() {
        let words = [0u32, 8, 2, 24, 100, 200];
        let header: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let header = Header::read(&header.try_into().unwrap());
        let mut descriptors = Vec::new();
        for (flags, size, offset, name) in
            [(0u32, 1u32, 16u32, b"exits\0\0\0"), (3, 32, 24, b"polls\0\0\0")]
        {
            for word in [flags, size << 16, offset, 0] {
                descriptors.extend(word.to_le_bytes());
            }
            descriptors.extend(name);
        }
        let figures = header.figures(&descriptors);
        assert_eq!(figures.len(), 1);
        assert_eq!((figures[0].name.as_str(), figures[0].at), ("exits", 216));
    }
}

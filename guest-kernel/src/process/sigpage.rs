//! The page that signal handlers return to: `mov x8, #139; svc #0` (rt_sigreturn). AArch64's libc
//! leaves it to the kernel to provide it; Linux keeps it in its vDSO.

use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::Ordering;

use belljar_abi::corenote::SIGRETURN_NAME;

use crate::addr::PAGE_SIZE;
use crate::errno::Result;
use crate::kref::Ref;
use crate::mm::{
    AllocFlags, Backing, Fault, FrameRef, MappedFile, Mm, MmapRequest, VmFlags, alloc_page,
};
use crate::sync::Once;
use crate::uapi::{MAP_PRIVATE, PROT_EXEC, PROT_READ};

/// `mov x8, #139`, `svc #0`. A NOP before it keeps unwinders, which look at the address before a
/// return address, inside the page.
const CODE: [u32; 3] = [0xd503_201f, 0xd280_1168, 0xd400_0001];
/// Offset of the first instruction to run.
const ENTRY: u64 = 4;

struct SigPage(FrameRef);

impl Backing for SigPage {
    fn page(&self, _index: u64, _write: bool) -> Result<FrameRef, Fault> {
        Ok(self.0.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

static PAGE: Once<Ref<MappedFile>> = Once::new();

/// Makes the page; boot order calls it once.
pub fn init() -> Result<()> {
    let frame = alloc_page(AllocFlags::ZERO)?;
    let code: [u8; 12] = {
        let mut bytes = [0; 12];
        for (i, insn) in CODE.iter().enumerate() {
            bytes[i * 4..][..4].copy_from_slice(&insn.to_le_bytes());
        }
        bytes
    };
    frame.write(0, &code);
    PAGE.set(MappedFile::new(Arc::new(SigPage(frame)), 0, 0, SIGRETURN_NAME)?);
    Ok(())
}

/// The page, to be mapped.
pub fn page() -> Ref<MappedFile> {
    PAGE.get().clone()
}

/// Maps the page into a new program.
pub fn map(mm: &Mm) -> Result<()> {
    let addr = mm.mmap(MmapRequest {
        addr: 0,
        len: PAGE_SIZE as u64,
        prot: PROT_READ | PROT_EXEC,
        flags: MAP_PRIVATE,
        file: Some(page()),
        pgoff: 0,
        may: VmFlags::MAYREAD | VmFlags::MAYEXEC,
    })?;
    mm.layout.sigreturn.store(addr + ENTRY, Ordering::Relaxed);
    Ok(())
}

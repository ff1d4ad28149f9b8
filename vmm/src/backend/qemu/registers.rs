//! The CPUs' registers, out of QEMU's own core dump: it has them as binary notes, exact and for all CPUs,
//! and of memory we ask for one page only.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::qmp::Qmp;
use super::{Error, memory_file};
use crate::backend::CpuRegisters;
use crate::elfcore::{self, regs};
use crate::machine::RAM_BASE;

/// Larger dumps are not believed: a page of memory and notes of a few KiB for each CPU.
const MAX_DUMP: u64 = 16 << 20;
/// The name under which QEMU knows the file that it writes to.
const FD_NAME: &str = "belljar-registers";

/// Asks QEMU; the CPUs stand still.
pub(super) fn read(qmp: &Qmp) -> Result<Vec<CpuRegisters>, Error> {
    let file = memory_file("belljar-registers")?;
    let getfd = qapi::qmp::getfd { fdname: FD_NAME.to_owned() };
    qmp.execute_with(getfd, Some(file.as_fd()))?;
    // QEMU takes the descriptor over and closes it at the end of the dump.
    qmp.execute(qapi::qmp::dump_guest_memory {
        paging: false,
        protocol: format!("fd:{FD_NAME}"),
        detach: None,
        begin: Some(RAM_BASE as i64),
        length: Some(4096),
        format: None,
    })?;
    parse(&file).map_err(|cause| Error::Refused { command: "dump-guest-memory", cause })
}

fn parse(file: &File) -> Result<Vec<CpuRegisters>, String> {
    let len = file.metadata().map_err(|e| e.to_string())?.len();
    if len > MAX_DUMP {
        return Err(format!("its dump of one page has {len} bytes"));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).map_err(|e| e.to_string())?;
    let core = elfcore::parse(bytes.as_slice()).map_err(|e| e.to_string())?;
    let general = core.notes(regs::CORE, regs::NT_PRSTATUS).filter_map(regs::General::read);
    let mut fp = core.notes(regs::CORE, regs::NT_FPREGSET).filter_map(regs::FpSimd::read);
    Ok(general
        .map(|general| CpuRegisters {
            general,
            fp: fp.next().unwrap_or_default(),
            ..CpuRegisters::default()
        })
        .collect())
}

//! `belljar build`: kernel, files and program in one bootable file.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use belljar_abi::payload::{Builder, CMDLINE, INITRD};

use super::{Error, Files, Image, Program, home::Home};

/// Writes a bootable Image to `out`: the kernel (the home's, or `kernel`) and behind it the image's
/// files with `program`'s arguments and environment, and `cmdline`. The file appears whole or not
/// at all. Returns its size in bytes.
pub fn build(
    image: Image,
    program: &Program,
    kernel: Option<&Path>,
    cmdline: &str,
    out: &Path,
) -> Result<u64, Error> {
    let kernel = match (kernel, &image.files) {
        (Some(path), _) => path.to_owned(),
        (None, Files::Built(path)) => path.clone(),
        (None, _) => Home::find()?.kernel()?,
    };
    super::kernel_header(&kernel)?;
    let read = |cause| Error::Read { path: kernel.clone(), cause };
    let mut bytes = std::fs::read(&kernel).map_err(read)?;

    let mut initrd = Vec::new();
    // No initrd: a built Image is rebuilt with what it carries.
    for mut file in image.initrd(program)?.into_iter().flatten() {
        file.seek(SeekFrom::Start(0)).map_err(Error::Memory)?;
        file.read_to_end(&mut initrd).map_err(Error::Memory)?;
    }
    let not_kernel = |cause: String| Error::NotKernel { path: kernel.clone(), cause };
    let mut payload = Builder::of_image(&bytes).map_err(|e| not_kernel(e.to_string()))?;
    if !initrd.is_empty() {
        payload.set(INITRD, initrd);
    }
    payload.set(CMDLINE, cmdline.as_bytes().to_vec());
    payload.attach(&mut bytes).map_err(|e| not_kernel(e.to_string()))?;
    write_whole(out, &bytes)?;
    Ok(bytes.len() as u64)
}

/// Writes beside `path` and renames.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |cause| Error::Write { path: path.to_owned(), cause };
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let written = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|cause| {
        // The error that matters is the first one.
        let _ = std::fs::remove_file(&beside);
        failed(cause)
    })
}

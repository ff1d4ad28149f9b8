//! Pages of the program's own file that it gives back (madvise(2), `MADV_DONTNEED`) come from the file again.
//! `file_pages [wait]`: then it stays, under another name and without its first page, until it is killed.

use std::fs::File;
use std::os::unix::fs::FileExt;

use belljar_guest_tests::{check, check_eq, err, ok};
use libc::{MADV_DONTNEED, PROT_EXEC, PROT_READ, PROT_WRITE};

const PAGE: usize = 4096;

fn give_back(page: *mut u8) {
    // SAFETY: the page of a file: it has the same content when it is looked at again.
    ok(unsafe { libc::madvise(page.cast(), PAGE, MADV_DONTNEED) });
}

/// A write of memory that cannot be read takes no page of the file.
fn nothing_is_written() {
    // SAFETY: plain calls; the address is nobody's.
    unsafe {
        let file = ok(libc::memfd_create(c"empty".as_ptr(), 0));
        let nowhere = std::ptr::without_provenance(PAGE - 8);
        check_eq!(err(libc::pwrite(file, nowhere, 1, 5 * PAGE as i64) as i64), libc::EFAULT);
        let mut stat: libc::stat = std::mem::zeroed();
        ok(libc::fstat(file, &raw mut stat));
        check_eq!((stat.st_size, stat.st_blocks), (0, 0));
        libc::close(file);
    }
}

fn main() {
    nothing_is_written();
    // The program headers follow the ELF header, in the first page.
    // SAFETY: a plain call.
    let headers = unsafe { libc::getauxval(libc::AT_PHDR) };
    let first = (headers & !(PAGE as u64 - 1)) as *mut u8;
    let mut stored = [0; PAGE];
    File::open("/proc/self/exe").unwrap().read_exact_at(&mut stored, 0).unwrap();
    // SAFETY: the first page of this program, which stays mapped, and which nothing else writes.
    let look = || unsafe { first.cast::<[u8; PAGE]>().read_volatile() };
    check!(look() == stored);
    give_back(first);
    check!(look() == stored);
    // SAFETY: as above; and what is written is in no instruction.
    unsafe {
        ok(libc::mprotect(first.cast(), PAGE, PROT_READ | PROT_WRITE));
        first.write_volatile(b'?');
        check_eq!(look()[0], b'?');
        ok(libc::mprotect(first.cast(), PAGE, PROT_READ | PROT_EXEC));
    }
    give_back(first);
    check!(look() == stored);
    println!("file pages");
    if std::env::args().nth(1).is_some() {
        // SAFETY: a string with its end.
        ok(unsafe { libc::prctl(libc::PR_SET_NAME, c"elsewhere".as_ptr()) });
        println!("waits");
        loop {
            // Whatever ran in between may have brought it back.
            give_back(first);
            // SAFETY: a plain call.
            unsafe { libc::usleep(10_000) };
        }
    }
}

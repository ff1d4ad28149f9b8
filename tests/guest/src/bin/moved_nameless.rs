//! Files without a name of processes that go on in another machine: memfds with what they hold and their seals,
//! mappings of them, a file that was removed. `moved_nameless [wait]`.

use std::ffi::CString;
use std::mem::zeroed;
use std::ptr::null_mut;

use belljar_guest_tests::moved::wait_to_be_moved;
use belljar_guest_tests::{check, check_eq, child, err, ok, wait_ok};
use libc::{
    EPERM, F_ADD_SEALS, F_GET_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE,
    MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE,
};

const PAGE: usize = 4096;
/// Where the last bytes of a file with holes are.
const FAR: i64 = 40 << 20;

fn memfd(name: &str, flags: u32) -> i32 {
    let name = CString::new(name).unwrap();
    // SAFETY: a valid name.
    ok(unsafe { libc::memfd_create(name.as_ptr(), flags) })
}

#[track_caller]
fn write_at(fd: i32, bytes: &[u8], at: i64) {
    // SAFETY: the slice is valid.
    let n = unsafe { libc::pwrite(fd, bytes.as_ptr().cast(), bytes.len(), at) };
    check_eq!(n, bytes.len() as isize);
}

#[track_caller]
fn read_at(fd: i32, len: usize, at: i64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    // SAFETY: the buffer is valid.
    let n = ok(unsafe { libc::pread(fd, bytes.as_mut_ptr().cast(), len, at) } as i64);
    bytes.truncate(n as usize);
    bytes
}

fn map(fd: i32, len: usize, prot: i32, flags: i32) -> *mut u8 {
    // SAFETY: a new mapping.
    let at = unsafe { libc::mmap(null_mut(), len, prot, flags, fd, 0) };
    check!(at != libc::MAP_FAILED);
    at.cast()
}

fn stat(fd: i32) -> libc::stat {
    // SAFETY: a valid place.
    unsafe {
        let mut stat = zeroed();
        ok(libc::fstat(fd, &raw mut stat));
        stat
    }
}

fn shown(fd: i32) -> String {
    std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().to_str().unwrap().to_owned()
}

fn main() {
    // Sealed, with a position, and open twice.
    let sealed = memfd("sealed", libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC);
    write_at(sealed, b"sealed content", 0);
    let seals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK;
    let path = CString::new(format!("/proc/self/fd/{sealed}")).unwrap();
    // SAFETY: our own descriptor.
    let reader = unsafe {
        ok(libc::fcntl(sealed, F_ADD_SEALS, seals));
        check_eq!(ok(libc::lseek(sealed, 7, libc::SEEK_SET)), 7);
        ok(libc::open(path.as_ptr(), libc::O_RDONLY))
    };

    // Mapped by two processes, which talk through it, and by one for itself.
    let shared = memfd("shared", 0);
    // SAFETY: our own descriptor.
    ok(unsafe { libc::ftruncate(shared, 3 * PAGE as i64) });
    let words = map(shared, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    let own = map(shared, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    // SAFETY: in the mappings.
    unsafe {
        words.add(PAGE).write_volatile(1);
        own.write_volatile(77);
    }
    let partner = child(|| {
        // SAFETY: in the mapping; a plain call.
        unsafe {
            while words.read_volatile() == 0 {
                libc::usleep(1000);
            }
            words.add(1).write_volatile(words.read_volatile() + 1);
        }
        0
    });

    // Only mapped, and removed after it was mapped.
    let lost = memfd("lost", 0);
    write_at(lost, b"only mapped", 0);
    let text = map(lost, PAGE, PROT_READ, MAP_SHARED);
    let path = CString::new(format!("/removed-{}", std::process::id())).unwrap();
    // SAFETY: valid paths, our own descriptors.
    let removed = unsafe {
        libc::close(lost);
        let removed = ok(libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o640));
        ok(libc::fchown(removed, 7, 8));
        ok(libc::unlink(path.as_ptr()));
        removed
    };
    write_at(removed, b"removed", 3);

    // Mostly holes; open for appending.
    let holes = memfd("holes", libc::MFD_ALLOW_SEALING);
    write_at(holes, b"far away", FAR);
    // SAFETY: our own descriptor.
    ok(unsafe { libc::fcntl(holes, libc::F_SETFL, libc::O_APPEND) });

    wait_to_be_moved();

    // SAFETY: our own descriptors.
    unsafe {
        check_eq!(ok(libc::fcntl(sealed, F_GET_SEALS)), seals);
        check_eq!(err(libc::write(sealed, c"x".as_ptr().cast(), 1) as i64), EPERM);
        check_eq!(err(libc::ftruncate(sealed, 0)), EPERM);
        check_eq!(ok(libc::lseek(sealed, 0, libc::SEEK_CUR)), 7);
        check_eq!(ok(libc::fcntl(sealed, libc::F_GETFD)), libc::FD_CLOEXEC);
        ok(libc::fcntl(sealed, F_ADD_SEALS, F_SEAL_SEAL));
        check_eq!(ok(libc::fcntl(reader, F_GET_SEALS)), seals | F_SEAL_SEAL);
        check_eq!(err(libc::fcntl(sealed, F_ADD_SEALS, F_SEAL_GROW)), EPERM);
    }
    check_eq!(read_at(reader, 100, 0), b"sealed content");
    check_eq!(stat(sealed).st_ino, stat(reader).st_ino);
    check_eq!(shown(sealed), "/memfd:sealed (deleted)");

    // SAFETY: in the mappings.
    unsafe {
        check_eq!(words.add(PAGE).read_volatile(), 1);
        check_eq!((own.read_volatile(), own.add(PAGE).read_volatile()), (77, 1));
        words.write_volatile(41);
        wait_ok(partner);
        check_eq!(words.add(1).read_volatile(), 42);
        check_eq!(own.read_volatile(), 77);
        words.add(PAGE).write_volatile(5);
        check_eq!(own.add(PAGE).read_volatile(), 5);
        check_eq!(std::slice::from_raw_parts(text, 12), b"only mapped\0");
    }
    check_eq!(read_at(shared, 2, 0), [41, 42]);
    write_at(shared, &[9], 2);
    // SAFETY: in the mapping.
    check_eq!(unsafe { words.add(2).read_volatile() }, 9);

    check_eq!(read_at(removed, 100, 0), b"\0\0\0removed");
    let about = stat(removed);
    check_eq!((about.st_mode & 0o7777, about.st_uid, about.st_gid), (0o640, 7, 8));
    check_eq!((about.st_nlink, about.st_size), (0, 10));
    check_eq!(shown(removed), format!("{} (deleted)", path.to_str().unwrap()));
    // SAFETY: our own descriptors.
    unsafe {
        check_eq!(err(libc::fcntl(removed, F_ADD_SEALS, F_SEAL_GROW)), EPERM);
        check_eq!(ok(libc::write(holes, c"!".as_ptr().cast(), 1) as i64), 1);
        check_eq!(ok(libc::lseek(holes, 0, libc::SEEK_DATA)), FAR);
    }
    check_eq!(read_at(holes, 100, FAR), b"far away!");
    check!(stat(holes).st_blocks <= 16);
    println!("files without a name are as they were");
}

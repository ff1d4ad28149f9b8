//! mmap(2), munmap(2), mprotect(2), mremap(2), brk(2), madvise(2): what is mapped, and errors.
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;

use belljar_guest_tests::{check, check_eq, child, map, ok, wait, wait_ok};

const P: usize = 4096;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn main() {
    // SAFETY: every access lies in a mapping made just before.
    unsafe {
        // A hole in a file takes a mapping that may be written to, though now it may not.
        let file = ok(libc::memfd_create(c"holes".as_ptr(), 0));
        ok(libc::ftruncate(file, P as i64));
        let null = std::ptr::null_mut();
        let shared = libc::mmap(null, P, RW, libc::MAP_SHARED, file, 0).cast::<u8>();
        *shared = 7;
        ok(libc::mprotect(shared.cast(), P, libc::PROT_READ));
        ok(libc::madvise(shared.cast(), P, libc::MADV_REMOVE));
        check_eq!(*shared, 0);
        ok(libc::munmap(shared.cast(), P));

        // A hole in the middle; the neighbours stay.
        let a = map(8 * P, RW, libc::MAP_PRIVATE);
        for i in 0..8 {
            *a.add(i * P) = i as u8;
        }
        check_eq!(libc::munmap(a.add(3 * P).cast(), 2 * P), 0);
        check_eq!((*a.add(2 * P), *a.add(5 * P)), (2, 5));
        let pid = child(|| {
            std::ptr::read_volatile(a.add(3 * P));
            0
        });
        check_eq!(wait(pid) & 0x7f, libc::SIGSEGV);
        let fixed = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let again = libc::mmap(a.add(3 * P).cast(), 2 * P, RW, fixed, -1, 0);
        check_eq!(again, a.add(3 * P).cast());
        check_eq!(libc::mmap(a.cast(), P, RW, fixed, -1, 0), libc::MAP_FAILED);
        check_eq!(*libc::__errno_location(), libc::EEXIST);
        check_eq!(*a.add(3 * P), 0);

        // Rights.
        check_eq!(libc::mprotect(a.cast(), P, libc::PROT_READ), 0);
        let pid = child(|| {
            a.write_volatile(1);
            0
        });
        check_eq!(wait(pid) & 0x7f, libc::SIGSEGV);
        check_eq!(libc::mprotect(a.add(1).cast(), P, RW), -1);
        check_eq!(*libc::__errno_location(), libc::EINVAL);

        // madvise forgets private memory.
        let b = map(4 * P, RW, libc::MAP_PRIVATE);
        *b = 7;
        check_eq!(libc::madvise(b.cast(), 4 * P, libc::MADV_DONTNEED), 0);
        check_eq!(*b, 0);

        // mremap grows, moving if it must, and keeps contents.
        *b = 9;
        *b.add(3 * P) = 11;
        let c: *mut u8 = libc::mremap(b.cast(), 4 * P, 64 * P, libc::MREMAP_MAYMOVE).cast();
        check!(c.cast() != libc::MAP_FAILED);
        check_eq!((*c, *c.add(3 * P), *c.add(63 * P)), (9, 11, 0));

        // Files: private changes stay private, shared ones reach the file; SIGBUS beyond the end.
        let path = "/tmp/mappings-test";
        let mut file =
            File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        file.write_all(&[5; 100]).unwrap();
        let fd = file.as_raw_fd();
        let private: *mut u8 =
            libc::mmap(std::ptr::null_mut(), 2 * P, RW, libc::MAP_PRIVATE, fd, 0).cast();
        let shared: *mut u8 =
            libc::mmap(std::ptr::null_mut(), P, RW, libc::MAP_SHARED, fd, 0).cast();
        check_eq!((*private, *private.add(99), *private.add(100)), (5, 5, 0));
        *private = 1;
        *shared.add(1) = 2;
        check_eq!(libc::msync(shared.cast(), P, libc::MS_SYNC), 0);
        check_eq!(fs::read(path).unwrap()[..3], [5, 2, 5]);
        check_eq!((*shared, *private), (5, 1));
        let pid = child(|| {
            std::ptr::read_volatile(private.add(P));
            0
        });
        check_eq!(wait(pid) & 0x7f, libc::SIGBUS);
        let pid = child(|| {
            *shared.add(2) = 42;
            0
        });
        wait_ok(pid);
        check_eq!(*shared.add(2), 42);
        fs::remove_file(path).unwrap();
        check_eq!(*shared.add(2), 42);

        // The heap.
        let end = libc::sbrk(0) as usize;
        check_eq!(libc::brk((end + 3 * P) as *mut _), 0);
        *(end as *mut u8).add(2 * P) = 3;
        check_eq!(libc::brk(end as *mut _), 0);

        // Errors.
        for (len, flags, want) in [
            (0, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::EINVAL),
            (P, libc::MAP_ANONYMOUS, libc::EINVAL),
            (P, libc::MAP_PRIVATE, libc::EBADF),
            (1 << 50, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::ENOMEM),
        ] {
            check_eq!(libc::mmap(std::ptr::null_mut(), len, RW, flags, -1, 0), libc::MAP_FAILED);
            check_eq!(*libc::__errno_location(), want);
        }

        // The stack grows by itself.
        fn deep(n: usize) -> usize {
            let page = std::hint::black_box([n as u8; 4096]);
            if n == 0 { 0 } else { deep(n - 1) + usize::from(page[n % 4096] != 0) }
        }
        check!(deep(500) > 400);
    }
}

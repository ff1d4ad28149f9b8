//! A file of /proc/PID about memory is about the memory that the process had when the file was opened: who may look
//! into a program does not thereby see the program with more rights that comes after it.
//!
//! PROCESS_MODEL.md, Identity: credentials; Creating, running, ending: execve (suid).

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use belljar_guest_tests::{check, check_eq, child, ok, wait, wait_ok};

const PROGRAM: &str = "/tmp/proc-memory-suid";
const USER: u32 = 1000;

fn pipe() -> [File; 2] {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which are new.
    unsafe {
        ok(libc::pipe(ends.as_mut_ptr()));
        ends.map(|end| File::from(OwnedFd::from_raw_fd(end)))
    }
}

fn byte(mut from: &File) {
    check_eq!(from.read(&mut [0]).unwrap(), 1);
}

fn tell(to: &File) {
    // SAFETY: one valid byte.
    check_eq!(unsafe { libc::write(to.as_raw_fd(), b"x".as_ptr().cast(), 1) }, 1);
}

fn text(file: &mut File) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map(|_| bytes)
}

fn become_user() {
    // SAFETY: plain calls.
    unsafe {
        ok(libc::setresgid(USER, USER, USER));
        ok(libc::setresuid(USER, USER, USER));
        // Changing ids closes a process to its like.
        ok(libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0));
    }
}

fn main() {
    // After exec: the one with more rights. It says so and stays until it is told to go.
    if std::env::args().count() > 1 {
        let [say, hear] = [3, 4];
        // SAFETY: valid bytes; the descriptors are inherited.
        unsafe {
            check_eq!(libc::geteuid(), 0);
            check_eq!(libc::write(say, b"x".as_ptr().cast(), 1), 1);
            check_eq!(libc::read(hear, [0_u8; 1].as_mut_ptr().cast(), 1), 1);
        }
        return;
    }

    let _ = fs::create_dir("/tmp");
    fs::copy("/proc/self/exe", PROGRAM).unwrap();
    fs::set_permissions(PROGRAM, fs::Permissions::from_mode(0o4755)).unwrap();
    let ([hears, to_program], [from_program, says]) = (pipe(), pipe());

    let program = child(|| {
        become_user();
        // SAFETY: valid descriptors and strings.
        unsafe {
            // What exec hands on, at numbers of its own.
            let (say, hear) = (ok(libc::fcntl(says.as_raw_fd(), libc::F_DUPFD, 20)), 21);
            ok(libc::dup2(hears.as_raw_fd(), hear));
            ok(libc::dup2(say, 3));
            ok(libc::dup2(hear, 4));
            check_eq!(libc::write(3, b"x".as_ptr().cast(), 1), 1);
            check_eq!(libc::read(4, [0_u8; 1].as_mut_ptr().cast(), 1), 1);
            let path = c"/tmp/proc-memory-suid".as_ptr();
            let (args, env) = ([path, c"x".as_ptr(), std::ptr::null()], [std::ptr::null()]);
            ok(libc::execve(path, args.as_ptr(), env.as_ptr()));
        }
        1
    });
    byte(&from_program);

    wait_ok(child(|| {
        become_user();
        let folder = format!("/proc/{program}");
        let open = |name: &str| File::open(format!("{folder}/{name}"));
        let of_memory = ["maps", "environ", "auxv", "smaps_rollup"];
        let mut before = of_memory.map(|name| open(name).unwrap());
        let mut checked = [("io", libc::EACCES), ("personality", libc::EPERM)]
            .map(|(name, error)| (open(name).unwrap(), error));
        let old = before.each_mut().map(|file| text(file).unwrap());
        check!(!old[0].is_empty() && !old[2].is_empty());
        for (file, _) in &mut checked {
            check!(!text(file).unwrap().is_empty());
        }

        tell(&to_program);
        byte(&from_program);
        // Its memory went with the old program; of the new one nothing is shown, and nothing can be opened.
        for ((file, name), old) in before.iter_mut().zip(of_memory).zip(old) {
            match (name, text(file)) {
                ("maps" | "environ", shown) => check_eq!(shown.unwrap(), b""),
                ("auxv", shown) => check_eq!(shown.unwrap(), old),
                (_, shown) => check_eq!(shown.unwrap_err().raw_os_error(), Some(libc::ESRCH)),
            }
            let refused = open(name).map(|_| ()).unwrap_err();
            check_eq!(refused.raw_os_error(), Some(libc::EACCES));
        }
        // These are asked for at each reading.
        for (file, error) in &mut checked {
            check_eq!(text(file).unwrap_err().raw_os_error(), Some(*error));
        }

        // Not even once it is a zombie, or gone.
        tell(&to_program);
        0
    }));

    let mut own =
        ["maps", "environ"].map(|name| File::open(format!("/proc/{program}/{name}")).unwrap());
    check_eq!(wait(program), 0);
    let [maps, environ] = &mut own;
    check_eq!(text(maps).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    check_eq!(text(environ).unwrap(), b"");
    let _ = fs::remove_file(PROGRAM);
}

//! Control groups for tests: a mount of the hierarchy, groups that remove themselves, and processes that
//! stand still or work in them.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::{check_eq, fail, ok};

/// Where the hierarchy is mounted; mounts it if it is not.
pub fn root() -> PathBuf {
    let place = PathBuf::from("/sys/fs/cgroup");
    if !place.join("cgroup.procs").exists() {
        let _ = fs::create_dir_all(&place);
        // SAFETY: the strings end with NUL.
        ok(unsafe {
            libc::mount(
                c"none".as_ptr(),
                c"/sys/fs/cgroup".as_ptr(),
                c"cgroup2".as_ptr(),
                0,
                std::ptr::null(),
            )
        });
    }
    place
}

/// The error number of an I/O result, or 0.
pub fn code<T>(result: std::io::Result<T>) -> i32 {
    result.err().map_or(0, |e| e.raw_os_error().unwrap_or(-1))
}

/// Writes to a file in one call; the error number, or 0.
pub fn put(path: impl AsRef<Path>, text: &str) -> i32 {
    let file = fs::OpenOptions::new().write(true).open(path);
    code(file.and_then(|mut file| file.write_all(text.as_bytes())))
}

/// The text of a file, trimmed.
#[track_caller]
pub fn get(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    match fs::read_to_string(path) {
        Ok(text) => text.trim().into(),
        Err(e) => fail(&format!("{}: {}: {e}", std::panic::Location::caller(), path.display())),
    }
}

/// The number behind a word in a file of such lines.
#[track_caller]
pub fn value(path: impl AsRef<Path>, word: &str) -> u64 {
    let text = get(path.as_ref());
    let line = text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
    match line.and_then(|number| number.parse().ok()) {
        Some(number) => number,
        None => fail(&format!("{}: no {word} in {text}", std::panic::Location::caller())),
    }
}

/// A group, which is removed with everything that lives in it when this goes.
pub struct Group(pub PathBuf);

impl Group {
    /// Makes a group of this name in the root, with controllers enabled for it.
    #[track_caller]
    pub fn new(name: &str, controllers: &str) -> Self {
        let root = root();
        for controller in controllers.split_whitespace() {
            check_eq!(put(root.join("cgroup.subtree_control"), &format!("+{controller}")), 0);
        }
        let path = root.join(name);
        match fs::create_dir(&path) {
            Ok(()) => Self(path),
            Err(e) => fail(&format!("{}: {name}: {e}", std::panic::Location::caller())),
        }
    }

    /// Makes a group in this one.
    #[track_caller]
    pub fn child(&self, name: &str) -> Self {
        let path = self.0.join(name);
        match fs::create_dir(&path) {
            Ok(()) => Self(path),
            Err(e) => fail(&format!("{}: {name}: {e}", std::panic::Location::caller())),
        }
    }

    /// A file of the group.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What a file says.
    #[track_caller]
    pub fn get(&self, name: &str) -> String {
        get(self.file(name))
    }

    /// A number from a file of words and numbers.
    #[track_caller]
    pub fn value(&self, name: &str, word: &str) -> u64 {
        value(self.file(name), word)
    }

    /// Writes to a file; the error number, or 0.
    pub fn put(&self, name: &str, text: &str) -> i32 {
        put(self.file(name), text)
    }

    /// Writes to a file, which must work.
    #[track_caller]
    pub fn set(&self, name: &str, text: &str) {
        let error = self.put(name, text);
        if error != 0 {
            let at = std::panic::Location::caller();
            fail(&format!("{at}: {text} to {}: errno {error}", self.file(name).display()));
        }
    }

    /// Moves a process into the group.
    #[track_caller]
    pub fn take(&self, pid: i32) {
        self.set("cgroup.procs", &pid.to_string());
    }

    /// Waits until a word in a file has this value.
    #[track_caller]
    pub fn wait_for(&self, name: &str, word: &str, wanted: u64) {
        while self.value(name, word) != wanted {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = put(self.file("cgroup.kill"), "1");
        // Those who were killed need a moment to go.
        while code(fs::remove_dir(&self.0)) == libc::EBUSY {
            // SAFETY: reaps what children there are.
            unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// A child that does nothing until it is told how to go on.
pub struct Idle {
    /// Its number.
    pub pid: i32,
    release: Option<fs::File>,
}

impl Idle {
    /// Forks a child that waits for [`go`](Self::go) and then runs `f`.
    pub fn new(f: impl FnOnce() -> i32) -> Self {
        use std::os::fd::FromRawFd;
        let mut ends = [0; 2];
        // SAFETY: two descriptors, which are nobody else's.
        let (mut reader, writer) = unsafe {
            ok(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC));
            (fs::File::from_raw_fd(ends[0]), fs::File::from_raw_fd(ends[1]))
        };
        let mut writer = Some(writer);
        let pid = crate::child(|| {
            drop(writer.take());
            let mut byte = [0];
            if reader.read(&mut byte).unwrap_or(0) == 0 { 77 } else { f() }
        });
        Self { pid, release: writer }
    }

    /// Lets it go on.
    pub fn go(&mut self) {
        if let Some(mut release) = self.release.take() {
            check_eq!(code(release.write_all(b"x")), 0);
        }
    }

    /// Lets it go on, and returns its wait status.
    #[track_caller]
    pub fn finish(mut self) -> i32 {
        self.go();
        crate::wait(self.pid)
    }
}

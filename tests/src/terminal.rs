//! A pseudo-terminal with a `belljar` on it, as a user at a terminal would have.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::sandbox::eventually;

/// A terminal and the program on it.
pub struct Terminal {
    user: File,
    /// Keeps the terminal alive after the program, so that its settings can be looked at.
    line: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
    /// The program.
    pub child: Child,
}

impl Terminal {
    /// Starts `command` as the leader of a session with a new terminal.
    pub fn start(mut command: Command) -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let name = ptsname(&user, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let line = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
        command.stdin(line.try_clone().unwrap());
        command.stdout(line.try_clone().unwrap());
        command.stderr(line.try_clone().unwrap());
        // SAFETY: the closure only makes system calls.
        unsafe {
            command.pre_exec(|| {
                // As at a login: whoever runs the tests may ignore them (nohup does, and a shell in what it
                // puts into the background), and that is inherited.
                for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(std::io::stdin())?;
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let user = File::from(user);
        let (mut reader, sink) = (user.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                sink.lock().unwrap().extend(&buffer[..n]);
            }
        });
        Self { user, line, shown, child }
    }

    /// Types `keys`.
    pub fn type_keys(&mut self, keys: &str) {
        self.user.write_all(keys.as_bytes()).unwrap();
    }

    /// Makes the window another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.user, size).unwrap();
    }

    /// Everything shown so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits until `text` is shown.
    pub fn wait_for(&self, text: &str) {
        eventually(&format!("the terminal shows {text:?}"), || self.shown().contains(text));
    }

    /// Whether the terminal is in raw mode.
    pub fn is_raw(&self) -> bool {
        let settings = tcgetattr(&self.line).unwrap();
        !settings.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Waits until the terminal is as it was.
    pub fn assert_restored(&self) {
        eventually("the terminal is restored", || !self.is_raw());
    }

    /// Waits for the program and returns its exit status.
    pub fn exit_code(&mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

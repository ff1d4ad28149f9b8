//! The console: where reports go, and the terminal of a command that runs on it.

use nix::sys::termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};
use std::fs::{File, OpenOptions};
use std::io::Write;

/// The open console.
pub struct Console {
    file: File,
}

/// Opens the virtio console, else the serial port, the console, standard output; with `raw`, bytes pass
/// unchanged.
pub fn open(raw: bool) -> Console {
    // On Linux /dev/console cannot become a controlling terminal, the device behind it can. At the serial
    // port each byte costs an exit: under emulated virtualisation a millisecond and more.
    let open = |path| OpenOptions::new().read(true).write(true).open(path).ok();
    let file = open("/dev/hvc0")
        .or_else(|| open("/dev/ttyAMA0"))
        .or_else(|| open("/dev/console"))
        .or_else(|| open("/proc/self/fd/1"))
        .expect("there is no console");
    if raw && let Ok(mut termios) = tcgetattr(&file) {
        cfmakeraw(&mut termios);
        let _ = tcsetattr(&file, SetArg::TCSANOW, &termios);
    }
    Console { file }
}

impl Console {
    /// Writes `text`.
    pub fn print(&self, text: &str) {
        self.write(text.as_bytes());
    }

    /// Writes `bytes`. There is nowhere to report an error to.
    pub fn write(&self, bytes: &[u8]) {
        let _ = (&self.file).write_all(bytes);
    }

    /// Waits until everything has left the machine.
    pub fn drain(&self) {
        let _ = tcdrain(&self.file);
    }

    /// The device.
    pub fn file(&self) -> &File {
        &self.file
    }
}

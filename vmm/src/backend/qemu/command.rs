//! QEMU's command line: where the program is, which options it gets, which descriptors it inherits.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use belljar_abi::control::{PORT_NAME, TERMINAL_NAME};
use command_fds::FdMapping;

use super::Error;
use crate::backend::{Boot, Config, Initrd, Network, Start, Thaw};
use crate::machine::PORTABLE_CPU;

/// Descriptor numbers in the child.
const QMP_FD: i32 = 3;
const SERIAL_FD: i32 = 4;
const RAM_FD: i32 = 5;
const CONSOLE_FD: i32 = 6;
const CONTROL_FD: i32 = 7;
const INITRD_FD: i32 = 8;
const NOTE_FD: i32 = 9;
/// That of the first card's tap, if it has one; those of the others follow.
const TAP_FD: i32 = 10;

/// The identifier of the terminal's port, in events.
pub(super) const CONSOLE_ID: &str = "console";

/// The default CPU: everything QEMU can emulate, except that pointer authentication uses a cheap
/// function of its own instead of QARMA, which is many times slower.
const CPU: &str = "max,pauth-impdef=on";

/// A program and its arguments.
pub(super) struct Command {
    /// The QEMU to run.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// What the child inherits.
pub(super) struct Files {
    pub qmp: OwnedFd,
    pub serial: OwnedFd,
    pub ram: OwnedFd,
    pub console: OwnedFd,
    pub control: OwnedFd,
    pub initrd: Option<OwnedFd>,
    pub note: Option<OwnedFd>,
    /// The cards' taps.
    pub taps: Vec<Option<OwnedFd>>,
}

impl Files {
    pub(super) fn mappings(self) -> Vec<FdMapping> {
        let fixed = [
            (self.qmp, QMP_FD),
            (self.serial, SERIAL_FD),
            (self.ram, RAM_FD),
            (self.console, CONSOLE_FD),
            (self.control, CONTROL_FD),
        ];
        fixed
            .into_iter()
            .chain(self.initrd.map(|fd| (fd, INITRD_FD)))
            .chain(self.note.map(|fd| (fd, NOTE_FD)))
            .chain(self.taps.into_iter().zip(TAP_FD..).filter_map(|(fd, at)| Some((fd?, at))))
            .map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd })
            .collect()
    }
}

/// The QEMU to use: `$BELLJAR_QEMU`, else `qemu-system-aarch64` in `$PATH`.
pub(super) fn find() -> Result<PathBuf, Error> {
    if let Some(named) = std::env::var_os("BELLJAR_QEMU") {
        let path = PathBuf::from(&named);
        return match path.is_file() {
            true => Ok(path),
            false => Err(Error::NotFound(named.to_string_lossy().into_owned())),
        };
    }
    let name = "qemu-system-aarch64";
    std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::NotFound(name.to_owned()))
}

impl Command {
    /// The command that builds `config`'s board.
    pub fn new(program: PathBuf, config: &Config) -> Self {
        let mib = config.memory >> 20;
        let share = match &config.start {
            Start::Boot(_) => "on",
            Start::Thaw(thaw) if is_writable(&thaw.memory) => "off",
            // Private RAM of a file that is opened for reading.
            Start::Thaw(_) => "off,readonly=on,rom=off",
        };
        let mut args: Vec<OsString> = [
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            // The CPUs stand still until `cont`; after power off the machine stays for a last look.
            "-S",
            "-no-reboot",
            "-no-shutdown",
            "-machine",
            "virt,gic-version=3,acpi=off,memory-backend=ram",
            "-accel",
            "tcg",
            "-cpu",
            match config.cpu.as_str() {
                PORTABLE_CPU => CPU,
                model => model,
            },
            "-smp",
            &config.cpus.to_string(),
            "-m",
            &format!("{mib}M"),
            "-object",
            &format!(
                "memory-backend-file,id=ram,size={mib}M,share={share},mem-path=/proc/self/fd/{RAM_FD}"
            ),
            "-chardev",
            &format!("socket,id=qmp,fd={QMP_FD}"),
            "-mon",
            "chardev=qmp,mode=control",
            "-chardev",
            &format!("socket,id=serial,fd={SERIAL_FD}"),
            "-serial",
            "chardev:serial",
            "-global",
            "virtio-mmio.force-legacy=false",
            "-device",
            "virtio-serial-device,max_ports=3",
            "-chardev",
            &format!("socket,id=port1,fd={CONTROL_FD}"),
            "-device",
            &format!("virtserialport,nr=1,chardev=port1,name={PORT_NAME}"),
            // Port 0 could only be a `virtconsole`, which drops what nobody reads in time.
            "-chardev",
            &format!("socket,id=port2,fd={CONSOLE_FD}"),
            "-device",
            &format!("virtserialport,nr=2,chardev=port2,name={TERMINAL_NAME},id={CONSOLE_ID}"),
            "-device",
            "virtio-rng-device",
        ]
        .map(OsString::from)
        .into();
        args.extend(device_args(config));
        match &config.start {
            Start::Boot(boot) => args.extend(boot_args(boot)),
            Start::Thaw(thaw) => args.extend(thaw_args(thaw)),
        }
        Self { program, args }
    }

    /// The version that the program states with `--version`.
    pub(super) fn version(&self) -> Option<(i64, i64)> {
        let output = std::process::Command::new(&self.program).arg("--version").output().ok()?;
        parse_version(&String::from_utf8_lossy(&output.stdout))
    }
}

/// Whether we, and so our child, may open the file for writing. QEMU before 8.2 does so also where it never
/// writes.
pub(super) fn is_writable(file: &File) -> bool {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().read(true).write(true).open(path).is_ok()
}

fn boot_args(boot: &Boot) -> Vec<OsString> {
    let mut args = vec!["-kernel".into(), boot.kernel.clone().into_os_string()];
    if !boot.cmdline.is_empty() {
        args.extend(["-append".into(), boot.cmdline.clone().into()]);
    }
    match &boot.initrd {
        None => {}
        Some(Initrd::Path(path)) => args.extend(["-initrd".into(), path.clone().into()]),
        Some(Initrd::Files(_)) => {
            args.extend(["-initrd".into(), format!("/proc/self/fd/{INITRD_FD}").into()]);
        }
    }
    args
}

/// Without a kernel QEMU puts its device tree at the start of RAM; its loader sets where CPU 0 starts, and
/// writes the note into the private RAM.
fn thaw_args(thaw: &Thaw) -> Vec<OsString> {
    let mut args: Vec<OsString> =
        vec!["-device".into(), format!("loader,addr={:#x},cpu-num=0", thaw.entry).into()];
    let at = thaw.note.0;
    args.push("-device".into());
    args.push(format!("loader,file=/proc/self/fd/{NOTE_FD},addr={at:#x},force-raw=on").into());
    args
}

/// Devices that not every machine has. QEMU fills the board's transports from the last to the first, and
/// guests find them from the first to the last: what the guest is to find first comes last.
fn device_args(config: &Config) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    let mut device = |backend: [OsString; 2], device: String| {
        args.extend(backend);
        args.extend(["-device".into(), device.into()]);
    };
    for (i, disk) in config.disks.iter().enumerate().rev() {
        let mut drive = OsString::from(format!("if=none,id=disk{i},format=raw,discard=unmap"));
        drive.push(if disk.read_only { ",readonly=on" } else { "" });
        drive.push(",file=");
        // A comma in a value is written twice.
        drive.push(disk.path.to_string_lossy().replace(',', ",,"));
        // What the host cannot store is the guest's error; by default the machine would stand still.
        let front = format!("virtio-blk-device,drive=disk{i},werror=report,rerror=report");
        device(["-drive".into(), drive], front);
    }
    for (i, card) in config.cards.iter().enumerate().rev() {
        let [a, b, c, d, e, f] = card.mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let mut front = format!("virtio-net-device,netdev=net{i},mac={mac}");
        let back = match &card.network {
            Network::User => format!("user,id=net{i}"),
            Network::Tap(tap) => {
                front.push_str(&format!(",host_mtu={}", tap.mtu()));
                format!("tap,id=net{i},fd={}", TAP_FD as usize + i)
            }
        };
        device(["-netdev".into(), back.into()], front);
    }
    args
}

/// One line that a shell reads back as the same words, and a comment that names the descriptors.
impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", quoted(&self.program.to_string_lossy()))?;
        for arg in &self.args {
            write!(f, " {}", quoted(&arg.to_string_lossy()))?;
        }
        write!(f, "  # descriptors: {QMP_FD} QMP, {SERIAL_FD} serial, {RAM_FD} RAM")?;
        write!(f, ", {CONSOLE_FD} console, {CONTROL_FD} control")?;
        if self.args.last().is_some_and(|a| a.to_string_lossy().starts_with("/proc/self/fd/")) {
            write!(f, ", {INITRD_FD} initrd")?;
        }
        Ok(())
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// `QEMU emulator version 7.2.13 (…)` as (7, 2).
fn parse_version(text: &str) -> Option<(i64, i64)> {
    let rest = text.split("version ").nth(1)?;
    let mut parts = rest.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Card, Disk};

    fn config() -> Config {
        Config {
            cpus: 2,
            cpu: PORTABLE_CPU.to_owned(),
            memory: 64 << 20,
            start: Start::Boot(Boot {
                kernel: "/k/Image".into(),
                initrd: Some(Initrd::Path("/k/it's.cpio".into())),
                cmdline: "quiet a=b".to_owned(),
            }),
            disks: vec![],
            cards: vec![],
        }
    }

    #[test]
    fn display_quotes_for_a_shell() {
        let text = Command::new("/usr/bin/qemu".into(), &config()).to_string();
        assert!(text.starts_with("/usr/bin/qemu -nodefaults "), "{text}");
        assert!(text.contains(" -append 'quiet a=b' "), "{text}");
        assert!(text.contains(r" -initrd '/k/it'\''s.cpio'  #"), "{text}");
    }

    #[test]
    fn ram_of_a_file_that_cannot_be_written_is_private_all_the_same() {
        let thaw = |memory| {
            let start = Start::Thaw(Thaw { memory, entry: 0x4020_0000, note: (0, vec![]) });
            Command::new("/usr/bin/qemu".into(), &Config { start, ..config() }).to_string()
        };
        let text = thaw(tempfile::tempfile().unwrap());
        assert!(text.contains("share=off,mem-path"), "{text}");
        // A folder can be opened for reading only, by whomever.
        let text = thaw(File::open("/").unwrap());
        assert!(text.contains("share=off,readonly=on,rom=off,mem-path"), "{text}");
    }

    #[test]
    fn the_first_disk_comes_last_and_commas_are_doubled() {
        let file = || std::fs::File::open("/dev/null").unwrap();
        let disks = vec![
            Disk { file: file(), path: "/d/a,b".into(), size: 512, read_only: false },
            Disk { file: file(), path: "/d/c".into(), size: 512, read_only: true },
        ];
        let config = Config { disks, ..config() };
        let text = Command::new("/usr/bin/qemu".into(), &config).to_string();
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} in {text}"));
        assert!(at("id=disk1,format=raw,discard=unmap,readonly=on,file=/d/c ") < at("drive=disk0"));
        at("id=disk0,format=raw,discard=unmap,file=/d/a,,b ");
    }

    #[test]
    fn the_first_card_comes_last_with_its_address() {
        let card = |last| Card { mac: [2, 0, 0, 0, 0, last], network: Network::User };
        let config = Config { cards: vec![card(1), card(0x2a)], ..config() };
        let text = Command::new("/usr/bin/qemu".into(), &config).to_string();
        let first =
            "-netdev user,id=net0 -device virtio-net-device,netdev=net0,mac=02:00:00:00:00:01";
        let second =
            "-netdev user,id=net1 -device virtio-net-device,netdev=net1,mac=02:00:00:00:00:2a";
        assert!(text.contains(&format!("{second} {first} ")), "{text}");
    }

    #[test]
    fn version_is_read_from_debian_and_upstream_banners() {
        assert_eq!(parse_version("QEMU emulator version 7.2.13 (Debian 1:7.2+dfsg)"), Some((7, 2)));
        assert_eq!(parse_version("QEMU emulator version 10.0.0"), Some((10, 0)));
        assert_eq!(parse_version("something else"), None);
    }
}

//! `--disk` and `--net`: what is given to the guest beside its board.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::PathBuf;
use std::str::FromStr;

use crate::backend::{Card, Disk, Network};
use crate::devices::virtio::net::{Mac, Tap};

/// Bytes of the smallest disk.
const SECTOR: u64 = 512;

/// Why a file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It cannot be opened.
    #[error("cannot open the disk {path}: {cause}{hint}")]
    Open {
        /// The file.
        path: String,
        /// What the host said.
        cause: io::Error,
        /// What helps, if that is known.
        hint: &'static str,
    },
    /// It is a folder or a terminal.
    #[error("the disk {0} is neither a file nor a block device: make one with truncate -s 1G FILE")]
    Kind(String),
    /// Less than a sector.
    #[error(
        "the disk {0} has {1} bytes, less than one sector of 512: make it larger (truncate -s 1G)"
    )]
    Small(String, u64),
}

/// `FILE`, or `FILE,ro` for one that the guest must not write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiskArg {
    path: PathBuf,
    read_only: bool,
}

impl FromStr for DiskArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, read_only) = match text.strip_suffix(",ro") {
            Some(path) => (path, true),
            None => (text, false),
        };
        match path.is_empty() {
            true => Err("no file is named: write FILE or FILE,ro".to_owned()),
            false => Ok(Self { path: path.into(), read_only }),
        }
    }
}

impl DiskArg {
    /// What is replaced by the number of a copy.
    pub(super) const NUMBER: &str = "{n}";

    /// The disk of the copy `number`.
    pub(super) fn of_copy(&self, number: u64) -> Self {
        let path = self.path.to_string_lossy();
        match path.contains(Self::NUMBER) {
            true => Self { path: path.replace(Self::NUMBER, &number.to_string()).into(), ..*self },
            false => self.clone(),
        }
    }

    /// Opens the file.
    pub(super) fn open(&self) -> Result<Disk, Error> {
        use std::os::unix::fs::FileTypeExt;
        let shown = || self.path.display().to_string();
        let failed = |cause: io::Error| {
            let hint = match cause.kind() {
                io::ErrorKind::NotFound => ": make one with truncate -s 1G FILE",
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                    if !self.read_only =>
                {
                    ": give it as FILE,ro if the guest need not write to it"
                }
                _ => "",
            };
            Error::Open { path: shown(), cause, hint }
        };
        let path = self.path.canonicalize().map_err(failed)?;
        let kind = std::fs::metadata(&path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::Kind(shown()));
        }
        let mut file: File =
            OpenOptions::new().read(true).write(!self.read_only).open(&path).map_err(failed)?;
        // Of a block device the metadata does not tell.
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if size < SECTOR {
            return Err(Error::Small(shown(), size));
        }
        Ok(Disk { file, path, size, read_only: self.read_only })
    }
}

/// The address of a card on a network that is the guest's alone: what QEMU calls its first.
const ALONE: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
/// What a guest of such a network is told: its address, its gateway, its netmask and its name server, as
/// QEMU hands them out.
const USER_ADDRESSES: [&str; 4] = ["10.0.2.15", "10.0.2.2", "255.255.255.0", "10.0.2.3"];

/// `user` or `tap=NAME`, and perhaps `,mac=ADDRESS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NetArg {
    /// The tap; none for `user`.
    tap: Option<String>,
    mac: Option<Mac>,
}

impl FromStr for NetArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const USAGE: &str = "write user or tap=NAME, and ,mac=02:00:00:00:00:01 for an address";
        let (network, mac) = match text.split_once(",mac=") {
            Some((network, mac)) => {
                let mac = parse_mac(mac);
                (network, Some(mac.ok_or("not the address of one card: write 02:00:00:00:00:01")?))
            }
            None => (text, None),
        };
        let tap = match network.split_once('=') {
            Some(("tap", name)) if !name.is_empty() => Some(name.to_owned()),
            None if network == "user" => None,
            _ => return Err(USAGE.to_owned()),
        };
        Ok(Self { tap, mac })
    }
}

/// The address of one card, not of a group.
fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

/// An address that one tap of one host always gets: nobody else is attached to it at the time.
fn mac_of(tap: &str) -> Mac {
    // machine-id(5); without one, hosts on the same network may need addresses given by hand.
    let mut hasher = blake3::Hasher::new_derive_key("belljar: the card on a tap");
    hasher.update(&std::fs::read("/etc/machine-id").unwrap_or_default()).update(tap.as_bytes());
    let mut mac = [0; 6];
    hasher.finalize_xof().fill(&mut mac);
    // Of one card, given by nobody (IEEE 802, 8.4).
    mac[0] = mac[0] & !1 | 2;
    mac
}

impl NetArg {
    /// Attaches to the tap.
    pub(super) fn open(&self) -> Result<Card, crate::devices::virtio::net::Error> {
        Ok(match &self.tap {
            Some(name) => Card {
                mac: self.mac.unwrap_or_else(|| mac_of(name)),
                network: Network::Tap(Tap::open(name)?),
            },
            None => Card { mac: self.mac.unwrap_or(ALONE), network: Network::User },
        })
    }
}

/// The word of the kernel's command line by which a card gets the address that its network has for it
/// (Linux, admin-guide/nfs/nfsroot). On a tap the addresses are the user's affair.
pub(super) fn ip_word(cards: &[Card]) -> Option<String> {
    let [client, gateway, netmask, name_server] = USER_ADDRESSES;
    let index = cards.iter().position(|card| matches!(card.network, Network::User))?;
    Some(format!("ip={client}::{gateway}:{netmask}::eth{index}:off:{name_server}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_file_and_perhaps_read_only() {
        let arg = |text: &str| text.parse::<DiskArg>();
        assert_eq!(arg("a,b"), Ok(DiskArg { path: "a,b".into(), read_only: false }));
        assert_eq!(arg("a.img,ro"), Ok(DiskArg { path: "a.img".into(), read_only: true }));
        assert!(arg("").is_err() && arg(",ro").is_err());
    }

    #[test]
    fn what_cannot_be_a_disk_is_refused_by_name() {
        let open = |text: &str| text.parse::<DiskArg>().unwrap().open().unwrap_err().to_string();
        assert!(open("/nonexistent/x").starts_with("cannot open the disk /nonexistent/x: "));
        assert!(open("/proc").contains("neither a file nor a block device"));
        let small = tempfile::NamedTempFile::new().unwrap();
        assert!(open(small.path().to_str().unwrap()).contains("has 0 bytes"));
    }

    #[test]
    fn a_network_is_a_tap_or_users_and_has_an_address() {
        let arg = |text: &str| text.parse::<NetArg>();
        assert_eq!(arg("user"), Ok(NetArg { tap: None, mac: None }));
        let mac = Some([2, 0, 0, 0, 0xab, 1]);
        assert_eq!(arg("tap=t0,mac=02:00:00:00:aB:01"), Ok(NetArg { tap: Some("t0".into()), mac }));
        for bad in [
            "",
            "tap",
            "tap=",
            "user=x",
            "bridge=b",
            "user,mac=",
            "user,mac=01:00:00:00:00:00",
            "user,mac=00:00:00:00:00:00",
            "user,mac=02:00:00:00:00",
            "user,mac=2:0:0:0:0:1",
        ] {
            assert!(arg(bad).is_err(), "{bad:?}");
        }
        let [a, b] = ["t0", "t1"].map(mac_of);
        assert!(a != b && a[0] & 3 == 2 && a == mac_of("t0"));
    }

    #[test]
    fn the_guest_is_told_the_address_of_its_first_user_network() {
        let card = |network| Card { mac: ALONE, network };
        assert_eq!(ip_word(&[]), None);
        let word = ip_word(&[card(Network::User)]).unwrap();
        assert_eq!(word, "ip=10.0.2.15::10.0.2.2:255.255.255.0::eth0:off:10.0.2.3");
    }
}

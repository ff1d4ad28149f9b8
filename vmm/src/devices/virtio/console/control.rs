//! What a console with several ports says about them to its driver, and the driver to it (virtio 1.2,
//! 5.3.6.2).
//!
//! What the device has yet to say is kept as one set of marks a port, not as a list of messages, so a
//! driver that asks again and again and never takes an answer costs nothing.

use bitflags::bitflags;

/// "The driver is ready to hear about ports."
pub(super) const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
/// "The driver is ready to use this port."
pub(super) const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const RESIZE: u16 = 5;
/// An end was opened or closed: both sides say it.
pub(super) const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

bitflags! {
    /// What the driver has yet to be told about a port; told from the lowest bit on.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Untold: u8 {
        /// It exists.
        const ADD = 1 << 0;
        /// It is a terminal.
        const CONSOLE = 1 << 1;
        /// What it is called.
        const NAME = 1 << 2;
        /// How large the terminal is.
        const SIZE = 1 << 3;
        /// Whether somebody is at the host's end.
        const OPEN = 1 << 4;
    }
}

/// A message: `le32 id, le16 event, le16 value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub port: u32,
    pub event: u16,
    pub value: u16,
}

impl Message {
    pub fn decode(bytes: [u8; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self {
            port: u32::from_le_bytes([a, b, c, d]),
            event: u16::from_le_bytes([e, f]),
            value: u16::from_le_bytes([g, h]),
        }
    }

    fn encode(self) -> Vec<u8> {
        let mut bytes = self.port.to_le_bytes().to_vec();
        bytes.extend(self.event.to_le_bytes());
        bytes.extend(self.value.to_le_bytes());
        bytes
    }
}

/// What there is to say about a port.
pub(super) struct About<'a> {
    pub port: u32,
    pub name: Option<&'a str>,
    pub open: bool,
    /// Columns and rows.
    pub size: (u16, u16),
}

impl About<'_> {
    /// The message that `what`, one mark, stands for.
    pub fn message(&self, what: Untold) -> Vec<u8> {
        let message = |event, value| Message { port: self.port, event, value }.encode();
        match what {
            Untold::ADD => message(PORT_ADD, 1),
            Untold::CONSOLE => message(CONSOLE_PORT, 1),
            Untold::NAME => {
                // With a NUL at the end, as QEMU's device sends it.
                let mut bytes = message(PORT_NAME, 1);
                bytes.extend(self.name.unwrap_or_default().bytes().chain([0]));
                bytes
            }
            Untold::SIZE => {
                let mut bytes = message(RESIZE, 0);
                bytes.extend(self.size.0.to_le_bytes());
                bytes.extend(self.size.1.to_le_bytes());
                bytes
            }
            _ => message(PORT_OPEN, self.open.into()),
        }
    }
}

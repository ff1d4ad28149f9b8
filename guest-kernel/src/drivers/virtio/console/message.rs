//! Messages of the control queues (virtio 1.2, 5.3.6.2): what happens to which port.

/// Bytes of a message without what follows it.
pub const LEN: usize = 8;

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The driver is ready for ports.
    DeviceReady,
    /// The device has this port.
    PortAdd,
    /// The device lost this port.
    PortRemove,
    /// The driver uses this port (value 1), or cannot.
    PortReady,
    /// The port is for a terminal.
    ConsolePort,
    /// The terminal's size: columns and rows follow.
    Resize,
    /// The other side opened (value 1) or closed the port.
    PortOpen,
    /// The port's name follows.
    PortName,
}

impl Event {
    const ALL: [Self; 8] = [
        Self::DeviceReady,
        Self::PortAdd,
        Self::PortRemove,
        Self::PortReady,
        Self::ConsolePort,
        Self::Resize,
        Self::PortOpen,
        Self::PortName,
    ];
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The port.
    pub port: u32,
    /// What happens.
    pub event: Event,
    /// What the event says further.
    pub value: u16,
}

impl Message {
    /// As it stands in memory.
    pub fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(&self.port.to_le_bytes());
        bytes[4..6].copy_from_slice(&(self.event as u16).to_le_bytes());
        bytes[6..].copy_from_slice(&self.value.to_le_bytes());
        bytes
    }

    /// Reads a message and what follows it; `None` if it is short or says something unknown.
    pub fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<LEN>()?;
        let [a, b, c, d, event_low, event_high, value_low, value_high] = *head;
        let event = u16::from_le_bytes([event_low, event_high]);
        let message = Self {
            port: u32::from_le_bytes([a, b, c, d]),
            event: *Event::ALL.get(usize::from(event))?,
            value: u16::from_le_bytes([value_low, value_high]),
        };
        Some((message, rest))
    }
}

/// Rows and columns of a [`Event::Resize`].
pub fn size(rest: &[u8]) -> Option<(u16, u16)> {
    let [columns_low, columns_high, rows_low, rows_high] = *rest.first_chunk::<4>()?;
    let columns = u16::from_le_bytes([columns_low, columns_high]);
    Some((u16::from_le_bytes([rows_low, rows_high]), columns))
}

/// The name of a [`Event::PortName`]: some devices end it with a NUL.
pub fn name(rest: &[u8]) -> &[u8] {
    rest.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_read_as_it_was_written() {
        for (number, event) in Event::ALL.into_iter().enumerate() {
            let message = Message { port: 0x0102_0304, event, value: 0x0506 };
            let bytes = message.encode();
            assert_eq!(bytes, [4, 3, 2, 1, number as u8, 0, 6, 5]);
            assert_eq!(Message::decode(&bytes), Some((message, &[][..])));
        }
    }

    #[test]
    fn short_and_unknown_messages_are_none() {
        assert_eq!(Message::decode(&[0; 7]), None);
        assert_eq!(Message::decode(&[0, 0, 0, 0, 8, 0, 0, 0]), None);
        assert_eq!(size(&[80, 0, 24]), None);
        assert_eq!(size(&[80, 0, 24, 0, 9]), Some((24, 80)));
        assert_eq!(name(b"org.belljar.control\0"), b"org.belljar.control");
        assert_eq!(name(b""), b"");
    }
}

//! The console device (virtio 1.2, 5.3): a terminal, and ports with names.
//!
//! Port 0 is the guest's terminal, the others are found by their names ([`Port`]). A driver that does not
//! speak VIRTIO_CONSOLE_F_MULTIPORT gets port 0 alone. Each port has two queues, and a pair of control
//! queues carries what both sides say about ports (`control.rs`).

mod control;
mod port;

use std::os::fd::RawFd;

use control::{About, DEVICE_READY, Message, PORT_OPEN, PORT_READY, Untold};
pub use port::Port;
use port::Queues;
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

use super::{Driver, Error, EventSet, Served, VirtioDevice, read_config};

/// VIRTIO_CONSOLE_F_SIZE: the device says how large the terminal is.
const F_SIZE: u32 = 0;
/// VIRTIO_CONSOLE_F_MULTIPORT: there are several ports, and control queues.
const F_MULTIPORT: u32 = 1;
/// Entries of every queue.
const QUEUE_SIZE: u16 = 64;
const CONTROL: Queues = Queues { receive: 2, transmit: 3 };

/// The device.
pub struct Console {
    ports: Vec<Port>,
    untold: Vec<Untold>,
    queues: Vec<u16>,
    /// Columns and rows of the terminal, if they are known.
    size: Option<(u16, u16)>,
    multiport: bool,
}

impl Console {
    /// A console with these ports, the terminal first; `size` is the terminal's, if known.
    pub fn new(ports: Vec<Port>, size: Option<(u16, u16)>) -> Self {
        let untold = ports.iter().map(|_| Untold::empty()).collect();
        // Two for each port and two for control.
        let queues = vec![QUEUE_SIZE; 2 * ports.len() + 2];
        Self { ports, untold, queues, size, multiport: false }
    }

    /// 5.3.2: the control queues come after port 0's.
    fn queues_of(port: usize) -> Queues {
        match port {
            0 => Queues { receive: 0, transmit: 1 },
            port => Queues { receive: 2 * port + 2, transmit: 2 * port + 3 },
        }
    }

    /// Hears what the driver says about ports.
    fn hear(&mut self, driver: &mut Driver) -> Result<(), Error> {
        driver
            .serve(CONTROL.transmit, |chain| {
                // A shorter message says nothing.
                if let Some(bytes) = chain.readable.read_array() {
                    self.heard(Message::decode(bytes));
                }
                Ok(Served::Done(0))
            })
            .map(drop)
    }

    fn heard(&mut self, message: Message) {
        let at = message.port as usize;
        match message.event {
            DEVICE_READY if message.value == 1 => {
                self.untold.iter_mut().for_each(|untold| untold.insert(Untold::ADD));
            }
            PORT_READY if message.value == 1 => {
                if let (Some(untold), Some(port)) = (self.untold.get_mut(at), self.ports.get(at)) {
                    let terminal = port.name.is_none();
                    untold.set(Untold::CONSOLE, terminal);
                    untold.set(Untold::NAME, !terminal);
                    untold.set(Untold::SIZE, terminal && self.size.is_some());
                    untold.insert(Untold::OPEN);
                }
            }
            PORT_OPEN => {
                if let Some(port) = self.ports.get_mut(at) {
                    port.open(message.value == 1);
                }
            }
            _ => {}
        }
    }

    /// Tells the driver what it does not know yet, as far as it gives room.
    fn tell(&mut self, driver: &mut Driver) -> Result<(), Error> {
        if self.untold.iter().all(|untold| untold.is_empty()) {
            return Ok(());
        }
        driver
            .serve(CONTROL.receive, |chain| {
                let next = self.untold.iter().position(|untold| !untold.is_empty());
                let Some(at) = next else { return Ok(Served::Later) };
                let Some(what) = self.untold[at].iter().next() else { return Ok(Served::Later) };
                let port = &self.ports[at];
                let about = About {
                    port: at as u32,
                    name: port.name,
                    open: port.host_open(),
                    size: self.size.unwrap_or_default(),
                };
                self.untold[at].remove(what);
                Ok(Served::Done(chain.writable.write(&about.message(what)) as u32))
            })
            .map(drop)
    }

    /// Moves bytes of one port; if its host's end closes, the driver hears of it.
    fn port(
        &mut self,
        at: usize,
        driver: &mut Driver,
        act: impl FnOnce(&mut Port, Queues, &mut Driver) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(port) = self.ports.get_mut(at) else { return Ok(()) };
        let was_open = port.host_open();
        act(port, Self::queues_of(at), driver)?;
        if was_open && !port.host_open() && self.multiport {
            self.untold[at].insert(Untold::OPEN);
            self.tell(driver)?;
        }
        Ok(())
    }

    /// How many ports the driver knows of.
    fn shown(&self) -> usize {
        if self.multiport { self.ports.len() } else { self.ports.len().min(1) }
    }
}

impl VirtioDevice for Console {
    fn id(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn name(&self) -> &str {
        "console"
    }

    fn features(&self) -> u64 {
        u64::from(self.size.is_some()) << F_SIZE | 1 << F_MULTIPORT
    }

    fn queues(&self) -> &[u16] {
        &self.queues
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // 5.3.4: cols, rows, max_nr_ports, emerg_wr.
        let (columns, rows) = self.size.unwrap_or_default();
        let mut config = [0; 12];
        config[..2].copy_from_slice(&columns.to_le_bytes());
        config[2..4].copy_from_slice(&rows.to_le_bytes());
        config[4..8].copy_from_slice(&(self.ports.len() as u32).to_le_bytes());
        read_config(&config, offset, data);
    }

    fn activate(&mut self, driver: &mut Driver) {
        self.multiport = driver.has(F_MULTIPORT);
        if !self.multiport {
            self.ports.iter_mut().take(1).for_each(|port| port.open(true));
        }
    }

    fn kicked(&mut self, driver: &mut Driver) -> Result<(), Error> {
        if self.multiport {
            self.hear(driver)?;
            self.tell(driver)?;
        }
        for at in 0..self.shown() {
            self.port(at, driver, Port::transmit)?;
        }
        Ok(())
    }

    fn sources(&self) -> Vec<RawFd> {
        self.ports.iter().map(Port::fd).collect()
    }

    fn interest(&self, source: usize, driver: &Driver) -> EventSet {
        match self.ports.get(source) {
            Some(port) if source < self.shown() => port.interest(Self::queues_of(source), driver),
            _ => EventSet::empty(),
        }
    }

    fn host_ready(&mut self, source: usize, driver: &mut Driver) -> Result<(), Error> {
        self.port(source, driver, Port::receive)?;
        self.port(source, driver, Port::transmit)
    }

    fn has_output(&self, driver: &Driver) -> bool {
        let mut shown = self.ports.iter().take(self.shown()).enumerate();
        shown.any(|(at, port)| port.has_output(Self::queues_of(at), driver))
    }

    fn reset(&mut self) {
        self.multiport = false;
        self.untold.fill(Untold::empty());
        self.ports.iter_mut().for_each(Port::reset);
    }
}

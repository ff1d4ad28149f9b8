//! The console device (virtio 1.2, 5.3): ports that carry bytes, one of them the terminal /dev/hvc0.
//!
//! Port 0 is the terminal, or else a port named `org.belljar.terminal` (QEMU drops what port 0 writes
//! faster than it is read, other ports wait); a port named `org.belljar.control` is for
//! [`control`](super::control); others are left alone. What is written before the device announced a port waits in the port's ring. All
//! state is under one lock that the interrupt takes too; listeners are called without it.

mod message;
mod port;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use core::sync::atomic::{AtomicUsize, Ordering};

use belljar_abi::control::{PORT_NAME, TERMINAL_NAME};
use virtio_drivers::Error;
use virtio_drivers::transport::Transport;

use self::message::{Event, Message};
use self::port::Port;
use super::queue::{Broken, Chain, Queue, Request};
use super::{Driver, Features, Mmio, control, negotiate, reset};
use crate::addr::PAGE_SIZE;
use crate::drivers::serial::{Line, SerialDevice};
use crate::mm::{AllocFlags, FrameRef, alloc_page, try_box};
use crate::sched::WaitQueue;
use crate::sched::clock::Deadline;
use crate::sync::{IrqLock, Once};
use crate::{kerr, wait_event_timeout};

/// Ports that are driven; a device may have more.
const PORTS: usize = 4;
/// The place of the terminal's port among [`State::ports`], whatever number the device gives it.
pub const TERMINAL: usize = 0;
/// Messages in flight, each way.
const MESSAGES: usize = 16;
/// Bytes of a message that are read: names beyond are not ours.
const MESSAGE_LEN: usize = 64;
/// How long the other side may take to read what was written, when the devices are to be quiet.
const PATIENCE: u64 = 1_000_000_000;

/// A place in the page of messages.
struct Slot {
    memory: *mut u8,
    /// Length of a message to the device; 0 for one that the device writes.
    len: usize,
}

// SAFETY: it points into the page of the control queues, and each slot is one piece of it.
unsafe impl Send for Slot {}

// SAFETY: see `Send`.
unsafe impl Request<1> for Slot {
    fn chain(&self) -> Chain<1> {
        match self.len {
            0 => Chain::new().write(self.memory, MESSAGE_LEN),
            len => Chain::new().read(self.memory, len),
        }
    }
}

/// The queues of messages, and the page where these stand: first those from the device.
struct Control {
    from_device: Queue<Slot, 1, MESSAGES>,
    to_device: Queue<Slot, 1, MESSAGES>,
    page: FrameRef,
    /// Places for messages to the device that were never used.
    unused: usize,
}

const _: () = assert!(2 * MESSAGES * MESSAGE_LEN <= PAGE_SIZE, "messages fit into one page");

impl Control {
    fn new<T: Transport>(transport: &mut T) -> Result<Self, Error> {
        let page = alloc_page(AllocFlags::ZERO).map_err(|_| Error::DmaError)?;
        let mut from_device = Queue::new(transport, 2)?;
        for i in 0..MESSAGES {
            let slot = Slot { memory: slot_at(&page, i), len: 0 };
            from_device.add(slot).map_err(|_| Error::QueueFull)?;
        }
        let to_device = Queue::new(transport, 3)?;
        Ok(Self { from_device, to_device, page, unused: MESSAGES })
    }

    /// Sends a message. A device that leaves so many unread that there is no place gets no more.
    fn send<T: Transport>(
        &mut self,
        transport: &mut T,
        port: usize,
        event: Event,
        value: u16,
    ) -> Result<(), Broken> {
        let slot = match self.to_device.pop()? {
            Some((slot, _)) => slot,
            None if self.unused > 0 => {
                self.unused -= 1;
                Slot { memory: slot_at(&self.page, MESSAGES + self.unused), len: message::LEN }
            }
            None => return Err(Broken),
        };
        let bytes = Message { port: port as u32, event, value }.encode();
        // SAFETY: the slot is ours while it is in no queue.
        unsafe { slot.memory.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        if self.to_device.add(slot).is_ok() {
            self.to_device.notify(transport);
        }
        Ok(())
    }

    /// Takes a message of the device.
    fn receive<T: Transport>(
        &mut self,
        transport: &mut T,
    ) -> Result<Option<([u8; MESSAGE_LEN], usize)>, Broken> {
        let Some((slot, len)) = self.from_device.pop()? else { return Ok(None) };
        let mut bytes = [0; MESSAGE_LEN];
        // SAFETY: as in `send`; the device wrote at most the slot's length.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(slot.memory, len) };
        if self.from_device.add(slot).is_ok() {
            self.from_device.notify(transport);
        }
        Ok(Some((bytes, len)))
    }
}

fn slot_at(page: &FrameRef, i: usize) -> *mut u8 {
    // SAFETY: within the page; see the assertion above.
    unsafe { page.as_ptr().add(i * MESSAGE_LEN) }
}

/// What an interrupt found, for those who wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct News {
    /// Ports with input, a bit each.
    input: u32,
    /// Ports whose output was taken.
    sent: u32,
    /// The terminal's size in rows and columns.
    size: Option<(u16, u16)>,
    /// The control port came or its other side opened or closed it.
    control: bool,
}

struct State<T: Transport> {
    transport: Option<T>,
    /// There is no device because the machine freezes.
    quiesced: bool,
    control: Option<Control>,
    features: Features,
    ports: [Port; PORTS],
}

/// A console device.
pub struct Console<T: Transport> {
    state: IrqLock<State<T>>,
    /// Which port is [`control`], or [`PORTS`].
    control_port: AtomicUsize,
    /// Who waits for output to be taken.
    sent: WaitQueue,
}

impl<T: Transport> State<T> {
    fn setup(&mut self, mut transport: T) -> Result<(), Error> {
        self.quiesced = false;
        let wanted = Features::VERSION_1 | Features::CONSOLE_MULTIPORT | Features::CONSOLE_SIZE;
        self.features = negotiate(&mut transport, wanted)?;
        let several = self.features.contains(Features::CONSOLE_MULTIPORT);
        let count = match several {
            true => transport.read_config_space::<u32>(4)? as usize,
            false => 1,
        };
        let t = &mut transport;
        for (i, port) in self.ports.iter_mut().enumerate().take(count) {
            // Queues 2 and 3 are the control queues.
            let first = if i == 0 { 0 } else { 2 * i as u16 + 2 };
            port.connect(t, first, first + 1)?;
        }
        self.control = match several {
            true => Some(Control::new(t)?),
            false => None,
        };
        t.finish_init();
        if let Some(control) = &mut self.control {
            control.from_device.notify(t);
            // An empty queue takes it.
            let _ = control.send(t, 0, Event::DeviceReady, 1);
        } else {
            self.ports[TERMINAL].present = true;
        }
        for port in &mut self.ports {
            port.go(t).map_err(|Broken| Error::IoError)?;
        }
        self.transport = Some(transport);
        Ok(())
    }

    /// Runs `f` with a port and the transport; gives the device up if it broke the rules.
    fn with<R: Default>(
        &mut self,
        port: usize,
        f: impl FnOnce(&mut Port, &mut T) -> Result<R, Broken>,
    ) -> R {
        let Some(transport) = &mut self.transport else { return R::default() };
        f(&mut self.ports[port], transport).unwrap_or_else(|Broken| {
            self.give_up();
            R::default()
        })
    }

    fn give_up(&mut self) {
        if let Some(mut transport) = self.transport.take() {
            kerr!("virtio console: the device broke the rules of its queues; it is given up");
            reset(&mut transport);
        }
        self.disconnect();
    }

    /// Lets go of a device until there is another.
    fn quiesce(&mut self) {
        if let Some(mut transport) = self.transport.take() {
            reset(&mut transport);
            self.quiesced = true;
        }
        self.disconnect();
    }

    fn disconnect(&mut self) {
        self.control = None;
        for (place, port) in self.ports.iter_mut().enumerate() {
            port.disconnect(place);
        }
    }

    fn service(&mut self, control_port: &AtomicUsize) -> Result<News, Broken> {
        let mut news = News::default();
        let Some(transport) = &mut self.transport else { return Ok(news) };
        let cause = transport.ack_interrupt();
        let changed = virtio_drivers::transport::InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT;
        if cause.contains(changed) && self.features.contains(Features::CONSOLE_SIZE) {
            let read = |at| transport.read_config_space::<u16>(at).unwrap_or(0);
            // The configuration has columns first (5.3.4).
            news.size =
                Some((read(2), read(0))).filter(|(rows, columns)| *rows != 0 && *columns != 0);
        }
        while let Some(control) = &mut self.control {
            let Some((bytes, len)) = control.receive(transport)? else { break };
            if let Some((message, rest)) = Message::decode(&bytes[..len]) {
                Self::obey(
                    &mut self.ports,
                    control,
                    transport,
                    message,
                    rest,
                    (&mut news, control_port),
                )?;
            }
        }
        for (i, port) in self.ports.iter_mut().enumerate() {
            news.input |= u32::from(port.fetch(transport)?) << i;
            news.sent |= u32::from(port.reclaim(transport)?) << i;
            if port.pending() == 0 {
                port.set_output_interrupts(false);
            }
        }
        Ok(news)
    }

    /// Does what a message asks.
    fn obey(
        ports: &mut [Port; PORTS],
        control: &mut Control,
        transport: &mut T,
        message: Message,
        rest: &[u8],
        (news, control_port): (&mut News, &AtomicUsize),
    ) -> Result<(), Broken> {
        let id = message.port as usize;
        let Some(place) = ports.iter().position(|port| port.number == id) else {
            // One that is not driven.
            return match message.event {
                Event::PortAdd => control.send(transport, id, Event::PortReady, 0),
                _ => Ok(()),
            };
        };
        let is_control = control_port.load(Ordering::Relaxed) == place;
        if message.event == Event::PortName
            && message::name(rest) == TERMINAL_NAME.as_bytes()
            && !is_control
            && let Ok([terminal, port]) = ports.get_disjoint_mut([TERMINAL, place])
            && terminal.take_over(port)
        {
            if terminal.open {
                control.send(transport, id, Event::PortOpen, 1)?;
            }
            return terminal.go(transport);
        }
        let port = &mut ports[place];
        match message.event {
            Event::PortAdd => {
                control.send(transport, id, Event::PortReady, 1)?;
                port.present = true;
                if port.open {
                    control.send(transport, id, Event::PortOpen, 1)?;
                }
                port.start(transport)?;
            }
            Event::PortRemove => (port.present, port.host_open) = (false, false),
            Event::PortName if message::name(rest) == PORT_NAME.as_bytes() => {
                control_port.store(place, Ordering::Release);
                port.open = true;
                control.send(transport, id, Event::PortOpen, 1)?;
                news.control = true;
            }
            Event::PortOpen => {
                port.host_open = message.value != 0;
                news.control |= is_control;
            }
            Event::Resize if place == TERMINAL => news.size = message::size(rest),
            _ => {}
        }
        Ok(())
    }
}

impl<T: Transport> Console<T> {
    /// A console with a device.
    pub fn try_new(transport: T) -> Result<Box<Self>, Error> {
        let no_memory = |_| Error::DmaError;
        let [a, b, c, d] = [0, 1, 2, 3].map(Port::try_new);
        let ports = [a, b, c, d].map(|port| port.map_err(no_memory));
        let [a, b, c, d] = ports;
        let state = IrqLock::new(State {
            transport: None,
            quiesced: false,
            control: None,
            features: Features::empty(),
            ports: [a?, b?, c?, d?],
        });
        let console = Self { state, control_port: AtomicUsize::new(PORTS), sent: WaitQueue::new() };
        let console = try_box(console).map_err(no_memory)?;
        console.state.lock().setup(transport)?;
        Ok(console)
    }

    /// Which port is the control port, if there is one.
    pub fn control_port(&self) -> Option<usize> {
        Some(self.control_port.load(Ordering::Acquire)).filter(|port| *port < PORTS)
    }

    /// Bytes of output that a port takes now.
    pub fn room(&self, port: usize) -> usize {
        let mut state = self.state.lock();
        if state.ports[port].room() < port::RING / 2 {
            state.with(port, |port, transport| port.reclaim(transport));
        }
        state.ports[port].room()
    }

    /// See [`SerialDevice::queue`].
    pub fn queue(&self, port: usize, bytes: &[u8]) -> usize {
        self.state.lock().ports[port].queue(bytes)
    }

    /// See [`SerialDevice::start`].
    pub fn start(&self, port: usize) {
        self.state.lock().with(port, |port, transport| port.start(transport));
    }

    /// See [`SerialDevice::pending`].
    pub fn pending(&self, port: usize) -> usize {
        let mut state = self.state.lock();
        if state.ports[port].pending() != 0 {
            state.with(port, |port, transport| port.reclaim(transport));
        }
        state.ports[port].pending()
    }

    /// See [`SerialDevice::watch`].
    pub fn watch(&self, port: usize) {
        self.state.lock().with(port, |port, transport| {
            port.set_output_interrupts(true);
            port.reclaim(transport)
        });
    }

    /// See [`SerialDevice::take`].
    pub fn take(&self, port: usize, buf: &mut [u8]) -> usize {
        self.state.lock().with(port, |port, transport| port.take(transport, buf))
    }

    /// True if a port has input.
    pub fn has_input(&self, port: usize) -> bool {
        self.state.lock().with(port, |port, transport| port.fetch(transport))
    }

    /// True if the device and the other side have the port.
    pub fn is_connected(&self, port: usize) -> bool {
        let state = self.state.lock();
        state.ports[port].present && state.ports[port].host_open
    }

    /// True if there is no device any more, and none to come: one that is quiesced goes on with what was queued.
    pub fn is_gone(&self) -> bool {
        let state = self.state.lock();
        state.transport.is_none() && !state.quiesced
    }

    /// See [`SerialDevice::open`].
    pub fn open(&self, port: usize) {
        let mut state = self.state.lock();
        let State { transport, control, ports, .. } = &mut *state;
        if !core::mem::replace(&mut ports[port].open, true)
            && ports[port].present
            && let (Some(transport), Some(control)) = (transport, control)
            && control.send(transport, ports[port].number, Event::PortOpen, 1).is_err()
        {
            state.give_up();
        }
    }

    /// Who waits for output to be taken.
    pub fn sent(&self) -> &WaitQueue {
        &self.sent
    }

    fn find_news(&self) -> News {
        let mut state = self.state.lock();
        state.service(&self.control_port).unwrap_or_else(|Broken| {
            state.give_up();
            News { input: !0, sent: !0, size: None, control: true }
        })
    }

    fn drain_and_reset(&self) {
        let deadline = Deadline::after(PATIENCE);
        for port in 0..PORTS {
            let is_drained = || {
                self.watch(port);
                self.pending(port) == 0 || !self.state.lock().ports[port].present
            };
            // What is not read in time goes to the next device.
            let _ = wait_event_timeout!(self.sent, is_drained(), deadline);
        }
        self.state.lock().quiesce();
    }
}

static DEVICE: Once<&'static Console<Mmio>> = Once::new();

/// The machine's console device, if it has one.
pub fn device() -> Option<&'static Console<Mmio>> {
    DEVICE.try_get().copied()
}

/// The line of the terminal /dev/hvc0.
pub static LINE: Line = Line::new(&Terminal);

/// Starts the driver of the first console device.
pub(super) fn start(transport: Mmio) -> Result<&'static dyn Driver, Error> {
    if device().is_some() {
        return Err(Error::AlreadyUsed);
    }
    Ok(*DEVICE.set(Box::leak(Console::try_new(transport)?)))
}

impl Driver for Console<Mmio> {
    fn interrupt(&self) {
        let news = self.find_news();
        if news.input & 1 << TERMINAL != 0 {
            LINE.pull();
        }
        if news.sent & 1 << TERMINAL != 0 {
            LINE.sent();
        }
        if news.sent != 0 {
            self.sent.wake_all();
        }
        if let Some((rows, columns)) = news.size {
            LINE.resized(rows, columns);
        }
        if news.control || self.control_port().is_some_and(|port| news.input & 1 << port != 0) {
            control::wake();
        }
    }

    fn quiesce(&self) {
        self.drain_and_reset();
    }

    fn reinit(&self, transport: Option<Mmio>) {
        {
            let mut state = self.state.lock();
            state.quiesced = false;
            if let Some(transport) = transport
                && let Err(error) = state.setup(transport)
            {
                kerr!("virtio console: {error}");
            }
        }
        // Whoever waited for the old device looks at the new one.
        LINE.pull();
        LINE.sent();
        self.sent.wake_all();
        control::wake();
    }
}

/// The terminal's port of the console device.
struct Terminal;

impl SerialDevice for Terminal {
    fn room(&self) -> usize {
        device().map_or(0, |device| device.room(TERMINAL))
    }

    fn queue(&self, bytes: &[u8]) -> usize {
        device().map_or(0, |device| device.queue(TERMINAL, bytes))
    }

    fn start(&self) {
        if let Some(device) = device() {
            device.start(TERMINAL);
        }
    }

    fn pending(&self) -> usize {
        // A device that is gone takes nothing any more.
        device().filter(|device| !device.is_gone()).map_or(0, |device| device.pending(TERMINAL))
    }

    fn watch(&self) {
        if let Some(device) = device() {
            device.watch(TERMINAL);
        }
    }

    fn take(&self, buf: &mut [u8]) -> usize {
        device().map_or(0, |device| device.take(TERMINAL, buf))
    }

    fn open(&self) {
        if let Some(device) = device() {
            device.open(TERMINAL);
        }
    }
}

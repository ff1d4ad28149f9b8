//! The network device (virtio 1.2, 5.1) under an interface of [`dev`](crate::net::dev): eth0 and so on.
//!
//! Frames come and go in pages of the driver's own, one a frame, behind the header that virtio puts before
//! each; checksums are computed here, so the header is empty. The device's interrupt does no more than
//! ask for the softirq, which takes frames until there are none, and meanwhile wants no interrupts. What
//! finds no room in the device's queue waits here, so many of it as an interface's queue usually holds.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use virtio_drivers::Error;
use virtio_drivers::transport::{InterruptStatus, Transport};

use super::queue::{Broken, Chain, Queue, Request};
use super::{Driver, Features, Mmio, negotiate, reset};
use crate::addr::PAGE_SIZE;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::mm::{AllocFlags, FrameRef, PageKind, alloc_pages, try_box};
use crate::net::dev::{self, Mac, NetDevice, Place, Transmit, random_mac};
use crate::net::message::try_zeroed;
use crate::sched::WaitQueue;
use crate::sched::clock::Deadline;
use crate::sched::softirq::{self, Softirq};
use crate::sync::{IrqLock, Once};
use crate::{kerr, wait_event_timeout};

/// Descriptors of each queue: a frame takes one.
const SIZE: usize = 64;
/// Bytes of memory for frames to come.
const RECEIVE_MEMORY: usize = 512 << 10;
/// Frames that wait for room in the queue.
const WAITING: usize = 256;
/// Pages of frames that were sent, kept for the next.
const SPARE: usize = SIZE;
/// Frames that one softirq takes before others have their turn.
const BUDGET: usize = 64;
/// The header of each frame (5.1.6), with its field `num_buffers`.
const HEADER: usize = 12;
/// What a frame has beside its packet: addresses, kind, and the tag of a virtual LAN.
const ETHERNET: usize = 18;
/// Packets of Ethernet, unless the device says otherwise.
const MTU: u32 = 1500;
/// The least that IP works with (RFC 791).
const MTU_MIN: u32 = 68;
/// Bit of the field `status` (5.1.4).
const LINK_UP: u16 = 1;
/// Where the fields `status` and `mtu` are.
const STATUS_FIELD: usize = 6;
const MTU_FIELD: usize = 10;
/// How long the device may take for the frames that it has when it is to be quiet, in ns. What it did not
/// send is given to the next.
const PATIENCE: u64 = 1_000_000_000;

/// Memory that the device fills with a frame.
struct Buffer(FrameRef);

// SAFETY: the memory is the buffer's own, the same each time.
unsafe impl Request<1> for Buffer {
    fn chain(&self) -> Chain<1> {
        Chain::new().write(self.0.as_ptr(), self.0.size())
    }
}

/// A frame to send, its header included.
struct Packet {
    memory: FrameRef,
    len: usize,
}

// SAFETY: as for buffers.
unsafe impl Request<1> for Packet {
    fn chain(&self) -> Chain<1> {
        Chain::new().read(self.memory.as_ptr(), self.len)
    }
}

/// What a device says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    mac: Mac,
    mtu: u32,
    /// The largest packet for whose frame there is room.
    most: u32,
    up: bool,
}

struct Live<T> {
    transport: T,
    incoming: Queue<Buffer, 1, SIZE>,
    outgoing: Queue<Packet, 1, SIZE>,
    has: Features,
}

struct State<T> {
    live: Option<Live<T>>,
    link: Link,
    /// The interface has yet to hear what [`link`](Self::link) says.
    news: bool,
    /// Frames that the device has no room for now, the oldest first.
    waiting: VecDeque<Packet>,
    in_flight: usize,
    /// Memory of frames that were sent.
    spare: Vec<FrameRef>,
    /// The devices are to be quiet: nothing is given to them.
    quiet: bool,
}

/// A network device.
pub struct Net<T> {
    state: IrqLock<State<T>>,
    /// Frames were sent, or the device went.
    sent: WaitQueue,
    interface: Once<Ref<NetDevice>>,
}

/// Memory for a frame with `payload` bytes.
fn memory(payload: usize) -> Result<FrameRef> {
    let pages = (HEADER + ETHERNET + payload).div_ceil(PAGE_SIZE);
    let order = pages.next_power_of_two().trailing_zeros() as usize;
    alloc_pages(order, PageKind::Kernel, AllocFlags::empty())
}

impl<T: Transport> Live<T> {
    /// Starts a device; one that does not say its address gets `mac`.
    fn new(mut transport: T, mac: Mac) -> core::result::Result<(Self, Link), Error> {
        let wanted =
            Features::VERSION_1 | Features::NET_MAC | Features::NET_STATUS | Features::NET_MTU;
        let has = negotiate(&mut transport, wanted)?;
        let mut link = Link { mac, mtu: MTU, most: 0, up: true };
        if has.contains(Features::NET_MAC) {
            for (at, byte) in link.mac.iter_mut().enumerate() {
                *byte = transport.read_config_space(at)?;
            }
        }
        if has.contains(Features::NET_MTU) {
            link.mtu = u32::from(transport.read_config_space::<u16>(MTU_FIELD)?).max(MTU_MIN);
        }
        let incoming = Queue::new(&mut transport, 0)?;
        let outgoing = Queue::new(&mut transport, 1)?;
        let mut live = Self { transport, incoming, outgoing, has };
        let size = live.offer_buffers(link.mtu)?;
        link.most = match has.contains(Features::NET_MTU) {
            true => link.mtu,
            false => (size - HEADER - ETHERNET) as u32,
        };
        live.outgoing.set_interrupts(false);
        live.transport.finish_init();
        link.up = live.is_up();
        live.incoming.notify(&mut live.transport);
        Ok((live, link))
    }

    /// Offers memory for frames of packets up to `mtu`; says how large a piece is. With less than wanted
    /// the device has to wait more often.
    fn offer_buffers(&mut self, mtu: u32) -> core::result::Result<usize, Error> {
        let first = memory(mtu as usize).map_err(|_| Error::DmaError)?;
        let size = first.size();
        let mut next = Some(first);
        for _ in 0..(RECEIVE_MEMORY / size).clamp(1, SIZE) {
            let Some(buffer) = next.take().or_else(|| memory(mtu as usize).ok()) else { break };
            let _ = self.incoming.add(Buffer(buffer));
        }
        Ok(size)
    }

    fn is_up(&self) -> bool {
        let status = || self.transport.read_config_space::<u16>(STATUS_FIELD);
        !self.has.contains(Features::NET_STATUS) || status().is_ok_and(|bits| bits & LINK_UP != 0)
    }
}

impl<T: Transport> State<T> {
    fn setup(&mut self, transport: T) -> core::result::Result<(), Error> {
        let (live, link) = Live::new(transport, self.link.mac)?;
        (self.live, self.link) = (Some(live), link);
        (self.quiet, self.in_flight, self.news) = (false, 0, true);
        self.pump();
        Ok(())
    }

    /// Takes back what was sent and gives the device what waits. A device that broke the rules is given up.
    fn pump(&mut self) {
        loop {
            if let Err(Broken) = self.reclaim().map(|()| self.offer()) {
                return self.give_up();
            }
            let Some(live) = &mut self.live else { return };
            // Only who waits has to hear that there is room.
            let waits = self.quiet && self.in_flight > 0 || !self.waiting.is_empty();
            if live.outgoing.set_interrupts(waits) && waits {
                // What came back before the device saw this does not interrupt.
                continue;
            }
            return;
        }
    }

    fn reclaim(&mut self) -> core::result::Result<(), Broken> {
        let Some(live) = &mut self.live else { return Ok(()) };
        while let Some((packet, _)) = live.outgoing.pop()? {
            self.in_flight -= 1;
            // No more than there is room for.
            if self.spare.len() < SPARE {
                self.spare.push(packet.memory);
            }
        }
        Ok(())
    }

    fn offer(&mut self) {
        let Some(live) = self.live.as_mut().filter(|_| !self.quiet) else { return };
        let before = self.in_flight;
        while let Some(packet) = self.waiting.pop_front() {
            if let Err(packet) = live.outgoing.add(packet) {
                self.waiting.push_front(packet);
                break;
            }
            self.in_flight += 1;
        }
        if self.in_flight > before {
            live.outgoing.notify(&mut live.transport);
        }
    }

    /// Sends a frame, or keeps it until there is room. `ENETDOWN` without a device, `ENOBUFS` if too
    /// many wait.
    fn send(&mut self, frame: &[u8]) -> Result<()> {
        if self.live.is_none() && !self.quiet {
            return Err(Errno::ENETDOWN);
        }
        if self.waiting.len() >= WAITING {
            return Err(Errno::ENOBUFS);
        }
        let len = HEADER + frame.len();
        let memory = match self.spare.pop().filter(|memory| memory.size() >= len) {
            Some(memory) => memory,
            None => memory(frame.len())?,
        };
        memory.write(0, &[0; HEADER]);
        memory.write(HEADER, frame);
        // There is room for as many as may wait.
        self.waiting.push_back(Packet { memory, len });
        self.pump();
        Ok(())
    }

    /// Takes a frame that came, and offers its buffer again.
    fn next_frame(&mut self) -> Option<Result<Vec<u8>>> {
        let popped = self.live.as_mut()?.incoming.pop();
        let Ok(popped) = popped else {
            self.give_up();
            return None;
        };
        let (buffer, len) = popped?;
        let frame = try_zeroed(len.saturating_sub(HEADER)).map(|mut frame| {
            buffer.0.read(HEADER, &mut frame);
            frame
        });
        let _ = self.live.as_mut()?.incoming.add(buffer);
        Some(frame)
    }

    /// The device is no more; the interface hears of it from the softirq.
    fn give_up(&mut self) {
        kerr!("virtio net: the device broke the rules of its queues; it is given up");
        self.disconnect();
        self.waiting.clear();
    }

    /// Lets go of the device. What it had not sent is for the next one.
    fn disconnect(&mut self) {
        let Some(mut live) = self.live.take() else { return };
        reset(&mut live.transport);
        // There is room for as many as the queue holds. Their order is not known any more.
        live.outgoing.take_live().for_each(|packet| self.waiting.push_front(packet));
        (self.in_flight, self.link.up, self.news) = (0, false, true);
    }
}

impl<T: Transport> Net<T> {
    /// Starts a device.
    pub fn try_new(transport: T) -> core::result::Result<Box<Self>, Error> {
        let (mut waiting, mut spare) = (VecDeque::new(), Vec::new());
        waiting.try_reserve_exact(WAITING + SIZE).map_err(|_| Error::DmaError)?;
        spare.try_reserve_exact(SPARE).map_err(|_| Error::DmaError)?;
        let net = Self {
            state: IrqLock::new(State {
                live: None,
                link: Link { mac: random_mac(), mtu: MTU, most: MTU, up: false },
                news: false,
                waiting,
                in_flight: 0,
                spare,
                quiet: false,
            }),
            sent: WaitQueue::new(),
            interface: Once::new(),
        };
        let net = try_box(net).map_err(|_| Error::DmaError)?;
        net.state.lock().setup(transport)?;
        Ok(net)
    }

    /// See [`State::send`].
    fn transmit(&self, frame: &[u8]) -> Result<()> {
        let (result, news) = {
            let mut state = self.state.lock();
            (state.send(frame), state.news)
        };
        if news {
            softirq::raise(Softirq::NetRx);
        }
        result
    }

    /// The device interrupts.
    fn service(&self) {
        let mut state = self.state.lock();
        let Some(live) = &mut state.live else { return };
        let cause = live.transport.ack_interrupt();
        live.incoming.set_interrupts(false);
        state.news |= cause.contains(InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT);
        drop(state);
        softirq::raise(Softirq::NetRx);
    }

    /// The softirq: sends what waits, hands on what came with `deliver`, up to [`BUDGET`] frames, and tells
    /// of the link. True if there may be more.
    fn poll(&self, mut deliver: impl FnMut(Result<Vec<u8>>)) -> bool {
        self.state.lock().pump();
        self.sent.wake_all();
        let mut taken = 0;
        while taken < BUDGET {
            let mut state = self.state.lock();
            let frame = state.next_frame();
            let Some(live) = &mut state.live else { break };
            match frame {
                Some(frame) => {
                    drop(state);
                    deliver(frame);
                    taken += 1;
                }
                // What came before the device saw this does not interrupt: one more look.
                None if live.incoming.set_interrupts(true) => {}
                None => break,
            }
        }
        if let Some(live) = &mut self.state.lock().live {
            live.incoming.notify(&mut live.transport);
        }
        self.tell();
        taken == BUDGET
    }

    /// Tells the interface what the device says of itself.
    fn tell(&self) {
        let Some(interface) = self.interface.try_get() else { return };
        let link = {
            let mut state = self.state.lock();
            if !core::mem::take(&mut state.news) {
                return;
            }
            state.link.up = state.live.as_ref().is_some_and(Live::is_up);
            state.link
        };
        interface.set_hardware(link.mac, link.most);
        interface.set_carrier(link.up);
    }

    /// Waits until the device has sent what it has, and resets it. From here on frames wait.
    fn stop(&self) {
        self.state.lock().quiet = true;
        let is_idle = || {
            let mut state = self.state.lock();
            state.pump();
            state.in_flight == 0
        };
        let _ = wait_event_timeout!(self.sent, is_idle(), Deadline::after(PATIENCE));
        self.state.lock().disconnect();
    }

    /// Goes on with another device, or with none.
    fn go_on(&self, transport: Option<T>) {
        {
            let mut state = self.state.lock();
            state.quiet = false;
            if let Some(Err(error)) = transport.map(|transport| state.setup(transport)) {
                kerr!("virtio net: {error}");
            }
            if state.live.is_none() {
                state.waiting.clear();
            }
        }
        softirq::raise(Softirq::NetRx);
    }
}

/// The devices of the board.
static CARDS: IrqLock<Vec<&'static Net<Mmio>>> = IrqLock::new(Vec::new());

/// The softirq.
fn receive() {
    for i in 0.. {
        let Some(card) = CARDS.lock().get(i).copied() else { break };
        let Some(interface) = card.interface.try_get() else { continue };
        let more = card.poll(|frame| match frame {
            Ok(frame) => dev::receive(interface, frame),
            Err(_) => drop(interface.stats.rx_dropped.fetch_add(1, Relaxed)),
        });
        if more {
            softirq::raise(Softirq::NetRx);
        }
    }
}

/// A device as its interface sends with it.
struct Card(&'static Net<Mmio>);

impl Transmit for Card {
    fn transmit(&self, frame: &[u8]) -> Result<()> {
        self.0.transmit(frame)
    }

    fn place(&self) -> Option<Place> {
        super::place_of(self.0)
    }
}

/// Starts the driver of a network device.
pub(super) fn start(transport: Mmio) -> core::result::Result<&'static dyn Driver, Error> {
    let no_memory = |_| Error::DmaError;
    let card: &'static Net<Mmio> = Box::leak(Net::try_new(transport)?);
    let link = card.state.lock().link;
    let handle = try_box(Card(card)).map_err(no_memory)?;
    let interface = dev::register_ethernet("eth%d", link.mac, link.mtu, handle);
    card.interface.set(interface.map_err(no_memory)?);
    CARDS.lock().push(card);
    softirq::register(Softirq::NetRx, receive);
    card.tell();
    Ok(card)
}

impl Driver for Net<Mmio> {
    fn interrupt(&self) {
        self.service();
    }

    fn quiesce(&self) {
        self.stop();
    }

    fn reinit(&self, transport: Option<Mmio>) {
        self.go_on(transport);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::virtio::testing::{Device, Fake, Offer};
    use crate::mm::testing::setup;
    use std::sync::{Arc, Mutex};
    use virtio_drivers::transport::DeviceType;

    const RX: usize = 0;
    const TX: usize = 1;

    type Shared = Arc<Mutex<Device>>;

    /// A device whose largest packet is `mtu`, if it says so.
    fn device(mtu: Option<u16>) -> Shared {
        let mut features = Features::VERSION_1 | Features::NET_MAC | Features::NET_STATUS;
        features.set(Features::NET_MTU, mtu.is_some());
        let [low, high] = mtu.unwrap_or(0).to_le_bytes();
        let config = vec![2, 0, 0, 0, 0, 7, 1, 0, 0, 0, low, high];
        Arc::new(Mutex::new(Device::new(features.bits(), config)))
    }

    fn transport(device: &Shared) -> Fake {
        Fake(device.clone(), DeviceType::Network)
    }

    fn started(mtu: Option<u16>) -> (Shared, Box<Net<Fake>>) {
        setup();
        let device = device(mtu);
        let net = Net::try_new(transport(&device)).unwrap();
        (device, net)
    }

    fn take(device: &Shared, queue: usize) -> Option<Offer> {
        device.lock().unwrap().take(queue)
    }

    fn received(net: &Net<Fake>) -> Vec<Vec<u8>> {
        let mut frames = vec![];
        while net.poll(|frame| frames.push(frame.unwrap())) {}
        frames
    }

    #[test]
    fn what_the_device_says_of_itself_is_known() {
        let (_device, net) = started(None);
        let link = net.state.lock().link;
        let room = (PAGE_SIZE - HEADER - ETHERNET) as u32;
        assert_eq!(link, Link { mac: [2, 0, 0, 0, 0, 7], mtu: 1500, most: room, up: true });
        let (_device, net) = started(Some(9000));
        let link = net.state.lock().link;
        assert_eq!((link.mtu, link.most), (9000, 9000));
        assert!(memory(9000).unwrap().size() >= 9000 + HEADER + ETHERNET);
    }

    #[test]
    fn frames_that_come_are_handed_on_and_their_buffers_offered_again() {
        let (device, net) = started(None);
        let mut offers: Vec<Offer> = vec![];
        while let Some(offer) = take(&device, RX) {
            offers.push(offer);
        }
        assert_eq!(offers.len(), SIZE);
        for (i, offer) in offers.iter().enumerate() {
            device.lock().unwrap().give(RX, offer, &[&[0; HEADER][..], &[i as u8; 60]].concat());
        }
        net.service();
        assert!(device.lock().unwrap().is_quiet(RX), "no interrupts while frames are taken");
        let frames = received(&net);
        assert!(frames.iter().enumerate().all(|(i, frame)| *frame == [i as u8; 60]));
        assert_eq!(frames.len(), SIZE);
        assert!(!device.lock().unwrap().is_quiet(RX));
        assert!(take(&device, RX).is_some());
    }

    #[test]
    fn frames_wait_for_room_and_leave_in_their_order() {
        let (device, net) = started(None);
        for i in 0..SIZE + 3 {
            net.transmit(&[i as u8; 60]).unwrap();
        }
        let mut next = 0;
        let mut leave = |device: &Shared| {
            let mut offers = vec![];
            while let Some(offer) = take(device, TX) {
                assert_eq!(offer.read, [&[0; HEADER][..], &[next as u8; 60]].concat());
                next += 1;
                offers.push(offer);
            }
            offers.iter().for_each(|offer| device.lock().unwrap().give(TX, offer, &[]));
            offers.len()
        };
        assert_eq!(leave(&device), SIZE);
        assert!(!device.lock().unwrap().is_quiet(TX), "who waits wants to hear of room");
        net.service();
        assert_eq!(received(&net), [[0; 0]; 0]);
        assert_eq!(leave(&device), 3);
        assert!(device.lock().unwrap().is_quiet(TX));
        // Without a device that takes any, there is an end to what waits.
        let refused = (0..2 * (SIZE + WAITING)).find_map(|_| net.transmit(&[1; 60]).err());
        assert_eq!(refused, Some(Errno::ENOBUFS));
    }

    #[test]
    fn a_device_that_breaks_the_rules_is_given_up() {
        for (queue, id, len) in [(RX, 64, 1), (RX, 0, 100_000), (TX, 0, 0), (TX, 0xffff, 1)] {
            let (device, net) = started(None);
            device.lock().unwrap().give_raw(queue, id, len);
            net.service();
            assert_eq!(received(&net), [[0; 0]; 0]);
            assert_eq!(device.lock().unwrap().status, 0);
            assert_eq!(net.transmit(&[0; 60]), Err(Errno::ENETDOWN));
            assert!(!net.state.lock().link.up);
        }
    }

    #[test]
    fn what_was_not_sent_is_sent_by_the_next_device() {
        let (first, net) = started(None);
        net.transmit(&[1; 60]).unwrap();
        assert!(take(&first, TX).is_some());
        // As `stop` does once it has waited long enough.
        net.state.lock().quiet = true;
        net.state.lock().disconnect();
        assert_eq!(first.lock().unwrap().status, 0);
        net.transmit(&[2; 60]).unwrap();
        let second = device(Some(1400));
        net.go_on(Some(transport(&second)));
        for i in 1..=2 {
            assert_eq!(take(&second, TX).unwrap().read[HEADER..], [i; 60]);
        }
        let link = net.state.lock().link;
        assert_eq!((link.most, link.up), (1400, true));
        // With none, there is no link.
        net.state.lock().disconnect();
        net.go_on(None);
        assert_eq!(net.transmit(&[3; 60]), Err(Errno::ENETDOWN));
    }
}

//! The virtio devices of the machine: each behind a transport of the board, with an interrupt and a
//! notification that pass this process's vCPU threads by.
//!
//! What the driver writes to QueueNotify KVM turns into an event that wakes the device loop (ioeventfd),
//! and what the device raises is an event that KVM turns into an interrupt (irqfd): a request costs one
//! exit, which does not even leave the host's kernel.
//!
//! KVM waits for all readers of its bus whenever it gets a further ioeventfd, which takes longer than all else
//! that makes a device. So it gets that after the driver's first notification, which goes through the bus: the
//! guest's start does not wait for it, and a device without a driver never needs it.

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use event_manager::{EventOps, Events, MutEventSubscriber};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use tracing::{debug, warn};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::io::{Drained, Subscriber};
use super::{Error, failed};
use crate::backend::GuestMemory;
use crate::devices::virtio::{
    self, Counters, Handle, QUEUE_NOTIFY, Report, VirtioDevice, transport,
};
use crate::devices::{Bus, Interrupt};
use crate::machine::{VIRTIO_TRANSPORTS, virtio_registers, virtio_spi};

/// An interrupt that KVM raises when the event is written.
struct IrqFd(EventFd);

impl Interrupt for IrqFd {
    fn trigger(&self) {
        // It fails only if the counter is at its end, and then the interrupt is on its way.
        let _ = self.0.write(1);
    }
}

/// A device in the loop, whose notifications KVM takes over once there are some.
struct Served {
    /// Who takes them over, and the address of the register; until it is asked.
    notify: Option<(Arc<VmFd>, u64)>,
    handle: Handle,
    subscriber: virtio::Subscriber,
}

impl MutEventSubscriber for Served {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let kick = self.handle.kick();
        let is_kick = events.fd() == kick.as_raw_fd();
        self.subscriber.process(events, ops);
        if let Some((vm, register)) = self.notify.take_if(|_| is_kick) {
            let register = IoEventAddress::Mmio(register);
            if let Err(error) = vm.register_ioevent(kick, &register, NoDatamatch) {
                // They keep coming through the bus.
                warn!(%error, "KVM does not take a device's notifications over");
            }
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        self.subscriber.init(ops);
    }
}

/// The devices as they are attached.
pub(super) struct Virtio<'a> {
    vm: &'a Arc<VmFd>,
    bus: &'a mut Bus,
    memory: &'a GuestMemory,
    /// The transports that have a device: what the device tree lists.
    pub transports: Vec<u32>,
    /// What the loop serves.
    pub subscribers: Vec<Subscriber>,
    /// What must have left the devices before the machine goes.
    pub drained: Vec<Drained>,
    /// What each device counts, by its name.
    pub counters: Vec<(String, Arc<Counters>)>,
}

impl<'a> Virtio<'a> {
    /// No device yet. The interrupt controller of `vm` exists.
    pub(super) fn new(vm: &'a Arc<VmFd>, bus: &'a mut Bus, memory: &'a GuestMemory) -> Self {
        let (transports, subscribers, drained, counters) = Default::default();
        Self { vm, bus, memory, transports, subscribers, drained, counters }
    }

    /// Where devices say what their user should know.
    pub(super) fn report() -> Report {
        // A terminal may be raw: a line starts where a line starts.
        Report::new(|line| eprint!("\rbelljar: {line}\r\n"))
    }

    /// Attaches what `make` makes of a place for its lines. As QEMU does, the first device gets the last
    /// transport.
    pub(super) fn attach(
        &mut self,
        make: impl FnOnce(Report) -> Result<Box<dyn VirtioDevice>, Error>,
    ) -> Result<(), Error> {
        let index = VIRTIO_TRANSPORTS.checked_sub(self.transports.len() as u32 + 1);
        let index = index.ok_or(Error::TooManyDevices(VIRTIO_TRANSPORTS))?;
        let registers = virtio_registers(index);
        let line = EventFd::new(EFD_NONBLOCK).map_err(Error::Host)?;
        // KVM's default routing numbers the shared interrupts from 0 on.
        self.vm.register_irqfd(&line, virtio_spi(index)).map_err(failed("wire an interrupt"))?;

        let report = Self::report();
        let device = make(report.clone())?;
        let name = device.name().to_owned();
        debug!(device = name, transport = index, spi = virtio_spi(index), "device attached");
        let (mmio, handle) = transport(device, self.memory.clone(), Arc::new(IrqFd(line)), report)
            .map_err(Error::Host)?;
        let notify = Some((Arc::clone(self.vm), registers.start + QUEUE_NOTIFY));
        self.bus.attach(registers, Arc::new(Mutex::new(mmio)))?;
        let counters = handle.counters();
        let subscriber = handle.subscriber();
        let served = Served { notify, handle: handle.clone(), subscriber };
        self.subscribers.push(Arc::new(Mutex::new(served)));
        self.drained.push(Box::new(move || handle.is_drained()));
        self.transports.push(index);
        self.counters.push((name, counters));
        Ok(())
    }
}

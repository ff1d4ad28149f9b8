//! The device loop: one thread in which everything that waits on descriptors is served.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::EventFd;

use crate::sandbox::{self, Role};
use crate::thread;

/// A device that is served in the loop.
pub(super) type Subscriber = Arc<Mutex<dyn MutEventSubscriber + Send>>;

/// A device's word whether what the guest sent has left it.
pub(super) type Drained = Box<dyn Fn() -> bool + Send>;

/// The running loop.
pub(super) struct Loop {
    /// Takes what is to be served.
    start: SyncSender<(EventManager<Subscriber>, Vec<Drained>)>,
    wake: Arc<EventFd>,
    finishing: Arc<AtomicBool>,
}

/// Wakes the loop, and does nothing else.
struct Alarm(Arc<EventFd>);

impl MutEventSubscriber for Alarm {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        // Only to be readable no more; a spurious call finds nothing to read.
        let _ = self.0.read();
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        // Without it, the loop ends with the process.
        let _ = ops.add(Events::new(&*self.0, EventSet::IN));
    }
}

impl Loop {
    /// Starts the thread, which confines itself and waits for devices.
    pub(super) fn start() -> io::Result<Self> {
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let finishing = Arc::new(AtomicBool::new(false));
        let finish = Arc::clone(&finishing);
        let (start, devices) = sync_channel::<(EventManager<Subscriber>, Vec<Drained>)>(1);
        thread::named("devices").spawn(move || {
            sandbox::enter(Role::Devices);
            let Ok((mut manager, drained)) = devices.recv() else { return };
            let is_done =
                || finish.load(Ordering::Acquire) && drained.iter().all(|drained| drained());
            while !is_done() {
                // Only a lack of memory for the host's kernel; nothing is lost by another try.
                let _ = manager.run();
            }
        })?;
        Ok(Self { start, wake, finishing })
    }

    /// Serves `devices` from here on; at its end the loop stays until all of `drained` say yes, and then drops
    /// the devices. To be called once.
    pub(super) fn serve(&self, devices: Vec<Subscriber>, drained: Vec<Drained>) -> io::Result<()> {
        let mut manager = EventManager::<Subscriber>::new().map_err(io::Error::other)?;
        manager.add_subscriber(Arc::new(Mutex::new(Alarm(Arc::clone(&self.wake)))));
        for device in devices {
            manager.add_subscriber(device);
        }
        self.start
            .send((manager, drained))
            .map_err(|_| io::Error::other("the device loop has ended"))
    }

    /// Ends the loop when the devices have nothing more to write. Does not wait for that: whoever
    /// reads their output decides how long it takes.
    pub(super) fn finish(&self) {
        self.finishing.store(true, Ordering::Release);
        // The counter can be full only if the loop is about to run anyway.
        let _ = self.wake.write(1);
    }
}

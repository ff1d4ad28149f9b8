//! The device loop: one thread in which everything that waits on descriptors is served.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::EventFd;

use crate::sandbox::{self, Role};
use crate::thread;

/// A device that is served in the loop.
pub(super) type Subscriber = Arc<Mutex<dyn MutEventSubscriber + Send>>;

/// A device's word whether what the guest sent has left it.
pub(super) type Drained = Box<dyn Fn() -> bool + Send>;

/// The loop.
pub(super) struct Loop {
    /// Set once its thread is confined.
    confined: Arc<OnceLock<()>>,
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
    /// A loop without a thread yet.
    pub(super) fn new() -> io::Result<Self> {
        let wake = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { confined: Arc::default(), wake: Arc::new(wake), finishing: Arc::default() })
    }

    /// Serves `devices` from here on, in a thread that confines itself first; at its end the loop stays until all of
    /// `drained` say yes, and then drops the devices. To be called once.
    pub(super) fn serve(&self, devices: Vec<Subscriber>, drained: Vec<Drained>) -> io::Result<()> {
        let mut manager = EventManager::<Subscriber>::new().map_err(io::Error::other)?;
        let (confined, finish) = (Arc::clone(&self.confined), Arc::clone(&self.finishing));
        let alarm = Alarm(Arc::clone(&self.wake));
        thread::named("devices").spawn(move || {
            sandbox::enter(Role::Devices);
            // It is set here alone.
            let _ = confined.set(());
            manager.add_subscriber(Arc::new(Mutex::new(alarm)));
            for device in devices {
                manager.add_subscriber(device);
            }
            let is_done =
                || finish.load(Ordering::Acquire) && drained.iter().all(|drained| drained());
            while !is_done() {
                // Only a lack of memory for the host's kernel; nothing is lost by another try.
                let _ = manager.run();
            }
        })?;
        Ok(())
    }

    /// Waits until the thread that [`serve`](Self::serve) started is confined.
    pub(super) fn until_confined(&self) {
        self.confined.wait();
    }

    /// Ends the loop when the devices have nothing more to write. Does not wait for that: whoever
    /// reads their output decides how long it takes.
    pub(super) fn finish(&self) {
        self.finishing.store(true, Ordering::Release);
        // The counter can be full only if the loop is about to run anyway.
        let _ = self.wake.write(1);
    }
}

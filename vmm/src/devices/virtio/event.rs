//! A device's place in an `event-manager` loop.
//!
//! The loop waits for the driver's notifications and for what the device waits for on the host's side.
//! The device says anew after each event what that is, so an end that cannot make progress costs
//! nothing: neither a console whose guest does not read, nor a peer that hung up, makes the loop spin.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Handle;

/// The mark of the kick among the device's events; host-side sources have their index plus one.
const KICK: u32 = 0;

/// Drives one device.
pub struct Subscriber {
    handle: Handle,
    /// What is registered for each source.
    registered: Vec<(RawFd, EventSet)>,
}

impl Subscriber {
    pub(super) fn new(handle: Handle) -> Self {
        Self { handle, registered: vec![] }
    }

    /// Brings what the loop waits for in line with what the device waits for.
    fn sync(&mut self, ops: &mut EventOps) {
        let wanted = self.handle.interests();
        for (source, (fd, wants)) in wanted.into_iter().enumerate() {
            let old = match self.registered.get(source) {
                Some(&(_, old)) => old,
                None => {
                    self.registered.push((fd, EventSet::empty()));
                    EventSet::empty()
                }
            };
            if wants == old {
                continue;
            }
            let events = Events::with_data_raw(fd, source as u32 + 1, wants);
            // epoll reports hang-ups even to those who wait for nothing: such a source is taken out.
            let result = match (old.is_empty(), wants.is_empty()) {
                (true, _) => ops.add(events),
                (_, true) => ops.remove(events),
                _ => ops.modify(events),
            };
            match result {
                Ok(()) => self.registered[source].1 = wants,
                Err(error) => self.handle.report(&format!("cannot wait for events: {error}")),
            }
        }
    }
}

impl MutEventSubscriber for Subscriber {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data().checked_sub(KICK + 1) {
            None => {
                match self.handle.kick().read() {
                    Ok(count) => {
                        let counters = self.handle.counters();
                        counters.notifications.fetch_add(count, Ordering::Relaxed);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => {
                        self.handle.report(&format!("cannot read notifications: {error}"));
                    }
                }
                self.handle.kicked();
            }
            Some(source) => self.handle.host_ready(source as usize),
        }
        self.sync(ops);
    }

    fn init(&mut self, ops: &mut EventOps) {
        let kick = Events::with_data(self.handle.kick(), KICK, EventSet::IN);
        if let Err(error) = ops.add(kick) {
            self.handle.report(&format!("cannot wait for notifications: {error}"));
        }
        self.sync(ops);
    }
}

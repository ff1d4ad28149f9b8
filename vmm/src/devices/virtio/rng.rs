//! The entropy device (virtio 1.2, 5.4): the host's random numbers, so that a guest has good ones
//! from its first moment.

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::{Chain, Driver, Error, Report, Served, VirtioDevice};
use crate::random;

const QUEUES: [u16; 1] = [64];
/// The most bytes of one answer: 5.4.6 lets the device give fewer than asked for, and a guest that asks
/// for gigabytes is not to keep the host busy.
const MAX_ANSWER: usize = 4096;

/// The device.
pub struct Rng {
    report: Report,
    failed: bool,
}

impl Rng {
    /// A device that reads the host kernel's generator.
    pub fn new(report: Report) -> Self {
        Self { report, failed: false }
    }

    fn answer(&mut self, chain: &mut Chain<'_>) -> Result<Served, Error> {
        if chain.writable.is_empty() {
            return Err(Error::Request("random bytes"));
        }
        let mut bytes = [0; MAX_ANSWER];
        let wanted = chain.writable.len().min(MAX_ANSWER);
        match random::fill(&mut bytes[..wanted]) {
            Ok(()) => Ok(Served::Done(chain.writable.write(&bytes[..wanted]) as u32)),
            Err(error) => {
                if !self.failed {
                    self.report
                        .line("rng", format_args!("the host gives no random numbers: {error}"));
                }
                self.failed = true;
                Ok(Served::Done(0))
            }
        }
    }
}

impl VirtioDevice for Rng {
    fn id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn name(&self) -> &str {
        "rng"
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &[u16] {
        &QUEUES
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, _driver: &mut Driver) {}

    fn kicked(&mut self, driver: &mut Driver) -> Result<(), Error> {
        driver.serve(0, |chain| self.answer(chain)).map(drop)
    }

    fn reset(&mut self) {
        self.failed = false;
    }
}

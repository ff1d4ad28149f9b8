//! The PL031 real-time clock (Arm DDI 0224): the host's time in seconds, by `vm-superio`.
//!
//! Its alarm is not implemented there, so the interrupt never comes; Linux and our kernel read the
//! time only.

use super::{MmioDevice, answer, value_of};

/// The clock.
#[derive(Debug, Default)]
pub struct Rtc(vm_superio::Rtc<vm_superio::rtc_pl031::NoEvents>);

impl MmioDevice for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let mut value = [0; 4];
        if let Ok(register) = u16::try_from(offset & !3) {
            self.0.read(register, &mut value);
        }
        answer(u32::from_le_bytes(value), offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Ok(register) = u16::try_from(offset) {
            self.0.write(register, &value_of(data).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn data_register_is_the_time_and_ids_are_arms() {
        let mut rtc = Rtc::default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut data = [0; 4];
        rtc.read(0, &mut data);
        assert!(u64::from(u32::from_le_bytes(data)) - now <= 5);
        let ids: Vec<u8> = (0..8)
            .map(|i| {
                rtc.read(0xfe0 + 4 * i, &mut data);
                data[0]
            })
            .collect();
        assert_eq!(ids, [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
    }

    #[test]
    fn narrow_and_far_accesses_are_harmless() {
        let mut rtc = Rtc::default();
        rtc.write(0x4, &0x1122_3344_u32.to_le_bytes());
        let mut byte = [0];
        rtc.read(0x6, &mut byte);
        assert_eq!(byte, [0x22]);
        rtc.write(u64::MAX, &[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut wide = [0xff; 8];
        rtc.read(u64::MAX, &mut wide);
        assert_eq!(wide, [0; 8]);
    }
}

//! Any sequence of accesses to the bus, the serial port and the clock.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| belljar::devices::hostile::fuzz_one(data));

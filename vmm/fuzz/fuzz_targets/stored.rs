//! Snapshots, cores and core notes that were tampered with, and hostile guests that are saved and dumped.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| belljar::snapshot::fuzz::fuzz_one(data));

//! Every virtio device behind its transport: registers, rings, buffers and the host's side do anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| belljar::devices::virtio::synthetic::fuzz::fuzz_one(data));

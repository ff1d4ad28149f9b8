//! Every view of a guest whose kernel structures, layout note and page tables were tampered with.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| belljar::introspect::synthetic::fuzz_one(data));

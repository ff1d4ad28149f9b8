//! Cores of processes that were tampered with, as the kernel's loader reads them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    belljar_kernel::process::restore::synthetic::fuzz_one(data);
});

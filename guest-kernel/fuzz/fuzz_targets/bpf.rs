//! Programs of the classic BPF machine, as seccomp and sockets take them, and the data that they look at.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    belljar_kernel::bpf::synthetic::fuzz_one(data);
});

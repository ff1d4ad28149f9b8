//! The fuzzer's steps from fixed seeds: `vmm/fuzz` runs the same without end, `BELLJAR_FUZZ_RUNS=20000`
//! more of them.

use crate::devices::virtio::synthetic::fuzz::{DEVICES, fuzz_one};

/// Marsaglia's xorshift64: the same bytes on every run.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn hold_out(device: u8) {
    assert!(device < DEVICES);
    let runs = std::env::var("BELLJAR_FUZZ_RUNS").ok().and_then(|n| n.parse().ok());
    for seed in 0..runs.unwrap_or(1500) {
        let mut input = bytes(seed, 40 + (seed as usize * 7) % 900);
        input[0] = device;
        // Half of them start with a device that is up.
        if seed % 2 == 0 {
            input[1..5].copy_from_slice(&[4, 0, 0, 6]);
        }
        fuzz_one(&input);
    }
}

#[test]
fn garbage_leaves_the_rng_working() {
    hold_out(0);
}

#[test]
fn garbage_leaves_the_disk_working() {
    hold_out(1);
}

#[test]
fn garbage_leaves_the_console_working() {
    hold_out(2);
}

#[test]
fn garbage_leaves_the_network_working() {
    hold_out(3);
}

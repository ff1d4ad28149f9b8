//! The random number generator: ChaCha20 with fast key erasure.
//!
//! Every request runs the cipher under the current key; the first bytes of the stream become the next
//! key at once, so what was handed out cannot be computed again from a later state. The key comes from
//! the boot loader's seed (`/chosen/rng-seed`), the CPU's random numbers if it has them, and the
//! counter; more can be stirred in at any time.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::arch;
use crate::sync::IrqLock;

const KEY: usize = 32;

static STATE: IrqLock<[u8; KEY]> = IrqLock::new([0; KEY]);
static SEEDED: AtomicBool = AtomicBool::new(false);

/// The cipher stream of a key that is replaced before anything of the stream is handed out.
fn next_stream(key: &mut [u8; KEY]) -> ChaCha20 {
    let mut stream = ChaCha20::new((&*key).into(), (&[0; 12]).into());
    key.fill(0);
    stream.apply_keystream(key);
    stream
}

/// Stirs `bytes` in. Nothing is lost if they are known to others: what was unknown before stays so.
pub fn mix(bytes: &[u8]) {
    let mut key = STATE.lock();
    for chunk in bytes.chunks(KEY) {
        for (k, b) in key.iter_mut().zip(chunk) {
            *k ^= b;
        }
        next_stream(&mut key);
    }
}

/// Stirs in the boot loader's seed and what the machine has. Boot order calls it once, and thawing a
/// clone again.
pub fn seed(seed: &[u8]) {
    mix(seed);
    for _ in 0..KEY / 8 {
        let number = arch::random_u64().unwrap_or_else(arch::counter);
        mix(&number.to_le_bytes());
    }
    if seed.len() >= KEY || arch::random_u64().is_some() {
        SEEDED.store(true, Ordering::Relaxed);
    }
}

/// Stirs in bytes of a device that others cannot guess.
pub fn seed_with(bytes: &[u8]) {
    mix(bytes);
    if bytes.len() >= KEY {
        SEEDED.store(true, Ordering::Relaxed);
    }
}

/// True if the generator had a seed that others cannot guess.
pub fn is_seeded() -> bool {
    SEEDED.load(Ordering::Relaxed)
}

/// Fills `out` with random bytes.
pub fn fill(out: &mut [u8]) {
    let mut stream = next_stream(&mut STATE.lock());
    out.fill(0);
    stream.apply_keystream(out);
}

/// A random number.
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// A number that looks random and costs little: for where nothing is kept from anybody with it, and a program may ask
/// as often as it likes. The generator is SplitMix64, which starts from a random number.
pub fn cheap_u32() -> u32 {
    static AT: AtomicU64 = AtomicU64::new(0);
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    if AT.load(Ordering::Relaxed) == 0 {
        let _ = AT.compare_exchange(0, random_u64() | 1, Ordering::Relaxed, Ordering::Relaxed);
    }
    let mut z = AT.fetch_add(STEP, Ordering::Relaxed);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ z >> 31) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_the_start_of_the_stream_and_output_the_rest() {
        // RFC 8439, A.1, test vector 1: key and nonce zero, counter 0.
        let mut key = [0; KEY];
        let mut stream = next_stream(&mut key);
        assert_eq!(key[..4], [0x76, 0xb8, 0xe0, 0xad]);
        let mut out = [0; 4];
        stream.apply_keystream(&mut out);
        assert_eq!(out, [0xda, 0x41, 0x59, 0x7c]);
    }

    #[test]
    fn cheap_numbers_differ_and_have_all_bits() {
        let numbers: Vec<u32> = (0..1000).map(|_| cheap_u32()).collect();
        let set: std::collections::HashSet<_> = numbers.iter().collect();
        assert!(set.len() > 990);
        for bit in 0..32 {
            let ones = numbers.iter().filter(|n| *n >> bit & 1 != 0).count();
            assert!((350..650).contains(&ones), "bit {bit}: {ones}");
        }
    }

    #[test]
    fn requests_differ_and_seeds_change_what_comes() {
        let (a, b) = (random_u64(), random_u64());
        assert_ne!(a, b);
        mix(b"something");
        assert_ne!(random_u64(), a);
        let mut long = [0; 100];
        fill(&mut long);
        assert!(long.iter().any(|&x| x != 0));
    }
}

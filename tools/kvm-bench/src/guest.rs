//! The guest whose start is measured, and how it tells of it.
//!
//! It reads the physical counter, writes it to the serial port in sixteen letters, `A` for 0 to `P` for 15, and
//! switches itself off. This machine's programs read the same counter as the virtual one: the offset between
//! the two is 0 outside of guests.

use std::arch::asm;

/// The guest's instructions.
pub const CODE: [u32; 12] = [
    0xd53b_e021, // mrs  x1, cntpct_el0
    0xd2a1_2002, // mov  x2, #0x9000000
    0xd280_0203, // mov  x3, #16
    0x93c1_f021, // ror  x1, x1, #60
    0x1200_0c24, // and  w4, w1, #0xf
    0x1101_0484, // add  w4, w4, #'A'
    0xb900_0044, // str  w4, [x2]
    0xf100_0463, // subs x3, x3, #1
    0x54ff_ff61, // b.ne -5
    0xd2b0_8000, // mov  x0, #0x84000000
    0xf280_0100, // movk x0, #8          PSCI SYSTEM_OFF
    0xd400_0002, // hvc  #0
];

/// An arm64 `Image` (Linux's arch/arm64/booting.rst) of [`CODE`].
pub fn image() -> Vec<u8> {
    let mut image = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0x1400_0010_u32.to_le_bytes()); // b 64
    put(16, &0x1000_u64.to_le_bytes()); // image_size
    put(24, &0xa_u64.to_le_bytes()); // little endian, 4 KiB pages, anywhere
    put(56, b"ARM\x64");
    CODE.iter().enumerate().for_each(|(i, word)| put(64 + 4 * i, &word.to_le_bytes()));
    image
}

/// The counter.
pub fn counter() -> u64 {
    let value;
    // SAFETY: reads a register that Linux lets programs read.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nomem, nostack)) };
    value
}

/// How often it counts in a second.
pub fn frequency() -> f64 {
    let value: u64;
    // SAFETY: as above.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) value, options(nomem, nostack)) };
    value as f64
}

/// A counter as the guest writes it.
pub fn letters(counter: u64) -> String {
    (0..16).rev().map(|digit| (b'A' + (counter >> (4 * digit) & 0xf) as u8) as char).collect()
}

/// The counter in what a program has printed.
pub fn read(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    let digit = |letter: &u8| matches!(letter, b'A'..=b'P').then(|| u64::from(letter - b'A'));
    (text.len() == 16).then_some(())?;
    text.iter().try_fold(0, |counter, letter| Some(counter << 4 | digit(letter)?))
}

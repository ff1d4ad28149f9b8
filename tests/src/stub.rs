//! A guest of a few instructions, so that the command line can be tested without the kernel.
//!
//! It prints `stub`, then echoes what it reads from the console. `0` to `9` end it with that exit
//! status, the end of input (or Ctrl-D) with 0, `p` with a panic, `r` with a reset; `n` reads two registers
//! of the UART at once, which KVM cannot take apart; `j` jumps to where there is no memory, with the vectors where they
//! are after reset, and `v` with those there, too; `h` takes an exception whose handler takes one. It leaves its end
//! in a root page, as the kernel does.

use std::fs;
use std::path::Path;

/// Where the code starts, behind the Image header.
const ENTRY: usize = 64;
/// Where the root page stands.
const ROOT: usize = 0x1000;
/// Where the vector table stands.
const VECTORS: usize = 0x2000;
/// Offset of the vector of a synchronous exception at EL1 with its own stack pointer (Arm ARM, D1.3.1.5).
const SYNCHRONOUS: usize = 0x200;

/// The code; `x19` is the UART, `x20` the root page.
#[rustfmt::skip]
const CODE: [u32; 53] = [
    0xd2a12013, // mov  x19, #0x9000000
    0x10007df4, // adr  x20, root
    0x10000661, // adr  x1, greeting
    0x38401420, // ldrb w0, [x1], #1
    0x34000060, // cbz  w0, read
    0xb9000260, // str  w0, [x19]
    0x17fffffd, // b    -3
    0xb9401a62, // read: ldr w2, [x19, #24]
    0x3727ffe2, // tbnz w2, #4, read
    0xb9400260, // ldr  w0, [x19]
    0x7100401f, // cmp  w0, #0x10         the escape of framed input
    0x54ffff80, // b.eq read
    0x7100101f, // cmp  w0, #4
    0x54000240, // b.eq zero
    0x7101c01f, // cmp  w0, #'p'
    0x540002a0, // b.eq panic
    0x7101c81f, // cmp  w0, #'r'
    0x54000300, // b.eq reset
    0x7101b81f, // cmp  w0, #'n'
    0x54000320, // b.eq fault
    0x7101a81f, // cmp  w0, #'j'
    0x540003c0, // b.eq jump
    0x7101d81f, // cmp  w0, #'v'
    0x54000340, // b.eq vectors
    0x7101a01f, // cmp  w0, #'h'
    0x540002a0, // b.eq handler
    0x5100c003, // sub  w3, w0, #'0'
    0x7100247f, // cmp  w3, #9
    0x54000089, // b.ls exit
    0xb9000260, // str  w0, [x19]
    0x17ffffe9, // b    read
    0x52800003, // zero: mov w3, #0
    0x53185c63, // exit: lsl w3, w3, #8
    0xb9011e83, // str  w3, [x20, #284]   exit_status
    0x52800024, // mov  w4, #1
    0x14000002, // b    +2
    0x52800044, // panic: mov w4, #2
    0xb9011a84, // str  w4, [x20, #280]   exit_state
    0x52b08000, // mov  w0, #0x84000000
    0x72800100, // movk w0, #8            SYSTEM_OFF
    0xd4000002, // hvc  #0
    0x52b08000, // reset: mov w0, #0x84000000
    0x72800120, // movk w0, #9            SYSTEM_RESET
    0xd4000002, // hvc  #0
    0xa9400660, // fault: ldp x0, x1, [x19]
    0x17ffffda, // b    read
    0x1000f840, // handler: adr x0, vector table
    0xd518c000, // msr  vbar_el1, x0
    0x00000000, // udf  #0
    0xd2c00400, // vectors: mov x0, #0x2000000000
    0xd518c000, // msr  vbar_el1, x0
    0xd2c00400, // jump: mov x0, #0x2000000000
    0xd61f0000, // br   x0
];

/// A handler that makes room on its stack and gets no further.
const HANDLER: [u32; 2] = [
    0xd10043ff, // sub  sp, sp, #16
    0x00000000, // udf  #0
];

/// The `Image`.
pub fn image() -> Vec<u8> {
    let mut image = vec![0; VECTORS + 0x800];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0x1400_0010_u32.to_le_bytes()); // b 64
    put(16, &0x3000_u64.to_le_bytes()); // image_size
    put(24, &0xa_u64.to_le_bytes()); // flags: little endian, 4 KiB pages, anywhere
    put(32, &(ROOT as u64).to_le_bytes());
    put(56, b"ARM\x64BJR1");
    for (i, word) in CODE.iter().enumerate() {
        put(ENTRY + 4 * i, &word.to_le_bytes());
    }
    put(ENTRY + 4 * CODE.len(), b"stub\n\0");
    for (i, word) in HANDLER.iter().enumerate() {
        put(VECTORS + SYNCHRONOUS + 4 * i, &word.to_le_bytes());
    }
    put(ROOT, b"BELLJAR1");
    put(ROOT + 8, &1_u32.to_le_bytes()); // version
    put(ROOT + 52, &1_u32.to_le_bytes()); // boot_state: it listens
    put(ROOT + 288, b"stub fell over\0");
    image
}

/// Writes a file that passes for a static program of `machine` (an ELF `e_machine`); the stub never
/// loads it.
pub fn write_program(path: &Path, machine: u16) {
    let mut bytes = vec![0; 64];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[16..18].copy_from_slice(&2_u16.to_le_bytes());
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    fs::write(path, bytes).unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// `e_machine` of AArch64.
pub const AARCH64: u16 = 183;
/// `e_machine` of x86-64.
pub const X86_64: u16 = 62;

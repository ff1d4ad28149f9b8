//! Where kernel messages go: the early console of the machine until a driver takes over.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::arch;

static SINK: AtomicUsize = AtomicUsize::new(0);

/// Sets the driver's function that writes bytes as they are.
pub fn set_sink(sink: fn(&[u8])) {
    SINK.store(sink as usize, Ordering::Release);
}

/// Writes text; a line end becomes CR LF.
pub fn put(text: &[u8]) {
    for line in text.split_inclusive(|&b| b == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(line) => {
                put_raw(line);
                put_raw(b"\r\n");
            }
            None => put_raw(line),
        }
    }
}

/// Writes bytes as they are.
pub fn put_raw(bytes: &[u8]) {
    match SINK.load(Ordering::Acquire) {
        0 => arch::early_put(bytes),
        sink => {
            // SAFETY: only `set_sink` stores here, a function of this type.
            let sink: fn(&[u8]) = unsafe { core::mem::transmute(sink) };
            sink(bytes);
        }
    }
}

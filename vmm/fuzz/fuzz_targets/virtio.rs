//! Every virtio device behind its transport: registers, rings, buffers and the host's side do anything.
#![no_main]

use belljar::devices::virtio::synthetic::fuzz::fuzz_one;

libfuzzer_sys::fuzz_target!(init: ignore_sigpipe(), |data: &[u8]| fuzz_one(data));

/// A host that closes its end of a console is an error of the write, as in `belljar` itself: there the
/// standard library's start-up does this, but here `main` is libFuzzer's.
fn ignore_sigpipe() {
    // SAFETY: before any other thread; ignoring a signal has no handler that could go wrong.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

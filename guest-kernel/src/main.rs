//! The boot order.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("the kernel runs on bare AArch64 only: use `cargo xtask build`");
    std::process::exit(2);
}

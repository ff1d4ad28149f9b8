//! Makes the program start at our own entry point, which notes the time before anything else.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if arch == "aarch64" {
        println!("cargo::rustc-link-arg-bins=-Wl,--entry=bench_start");
    }
}

//! Hands the linker script to the linker when the kernel binary is built for the bare machine.

fn main() {
    println!("cargo::rerun-if-changed=kernel.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    for arg in [
        &format!("-T{dir}/kernel.ld"),
        "--build-id=sha1",
        "--no-dynamic-linker",
        "-z",
        "max-page-size=4096",
    ] {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
}

//! Process 1 of `cargo xtask bench`: measures the kernel that it runs on, row by row.
//!
//! Times are read from the virtual counter. Under `-icount shift=0` it counts instructions (1,000 are
//! 1 us), so the figures repeat on a noisy host. For every row the console carries
//! `begin NAME`, the measuring, and `end NAME UNIT VALUE OPERATIONS`; the host adds wall time by
//! noting when the two lines arrive. `/.bench/rows`, if it is there, names the rows to run.

#[cfg(target_arch = "aarch64")]
mod clock;
#[cfg(target_arch = "aarch64")]
mod rows;

#[cfg(target_arch = "aarch64")]
fn main() {
    let first_instruction = clock::first_instruction();
    println!("belljar bench");
    let first_output = clock::now();
    mount_all();
    let wanted = std::fs::read_to_string("/.bench/rows").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split_whitespace().collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.contains(&name);
    for (name, ticks) in [("boot_el0", first_instruction), ("boot_init", first_output)] {
        if is_wanted(name) {
            println!("begin {name}\nend {name} us {:.3} 1", clock::microseconds(ticks));
        }
    }
    for row in rows::ROWS.iter().filter(|row| is_wanted(row.name)) {
        println!("begin {}", row.name);
        match (row.measure)() {
            Ok((ticks, operations)) => {
                let value = clock::microseconds(ticks) / operations as f64;
                println!("end {} {} {value:.3} {operations}", row.name, row.unit);
            }
            Err(error) => println!("failed {} {error}", row.name),
        }
    }
    println!("done");
    let version = std::fs::read_to_string("/proc/version").unwrap_or_default();
    if version.contains("Debian") {
        // Linux panics when process 1 exits; ours powers off.
        let _ = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
    }
}

/// Mounts what the rows use, where the kernel has not done so by itself.
#[cfg(target_arch = "aarch64")]
fn mount_all() {
    use nix::mount::{MsFlags, mount};
    let wanted = [("devtmpfs", "/dev", "/dev/zero"), ("proc", "/proc", "/proc/self")];
    for (kind, folder, sign) in wanted {
        if !std::path::Path::new(sign).exists() {
            // A kernel that cannot is found out by the rows that need it.
            let _ = mount(Some(kind), folder, Some(kind), MsFlags::empty(), None::<&str>);
        }
    }
}

#[cfg(not(target_arch = "aarch64"))]
fn main() {
    eprintln!("belljar-bench measures AArch64 kernels: use `cargo xtask bench`");
    std::process::exit(2);
}

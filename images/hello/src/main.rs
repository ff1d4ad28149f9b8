//! The program of the `hello` image: process 1 of a machine of its own.
#![forbid(unsafe_code)]

use std::fs;

fn main() {
    let mut words = std::env::args().skip(1).collect::<Vec<_>>();
    if words.is_empty() {
        words.push("world".to_string());
    }
    println!("Hello, {}, from process {}!", words.join(" "), std::process::id());
    if let Ok(version) = fs::read_to_string("/proc/version") {
        println!("{}", version.trim_end());
    }
    if let Ok(uptime) = fs::read_to_string("/proc/uptime")
        && let Some(seconds) = uptime.split(' ').next()
    {
        println!("up {seconds} s");
    }
}

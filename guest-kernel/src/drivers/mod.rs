//! Devices, and what the boot loader says about them.

pub mod cmdline;
pub mod console;
pub mod fdt;
pub mod irq;
pub mod klog;
pub mod pl011;
pub mod pl031;
pub mod random;
pub mod ring;
pub mod serial;
pub mod tty;
pub mod virtio;

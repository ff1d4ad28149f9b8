//! In place of `aarch64.rs` on hosts of another architecture, whose KVM cannot run the guest: the first
//! check says so, and nothing behind it is ever reached.

use std::fs::File;
use std::ops::Range;

use kvm_ioctls::{DeviceFd, Kvm, VcpuFd, VmFd};
use vmm_sys_util::errno::Error as Errno;

use super::load::Entry;
use crate::backend::{CpuRegisters, GuestMemory};

pub(super) fn check_host() -> Result<(), &'static str> {
    Err(std::env::consts::ARCH)
}

fn unsupported<T>() -> Result<T, Errno> {
    Err(Errno::new(libc::EOPNOTSUPP))
}

pub(super) fn check_gic(_vm: &VmFd) -> Result<(), Errno> {
    unsupported()
}

pub(super) fn create_gic(_vm: &VmFd) -> Result<DeviceFd, Errno> {
    unsupported()
}

pub(super) fn set_spi(_vm: &VmFd, _spi: u32, _high: bool) -> Result<(), Errno> {
    unsupported()
}

pub(super) fn init_vcpu(_kvm: &Kvm, _vm: &VmFd, _vcpu: &VcpuFd, _on: bool) -> Result<(), Errno> {
    unsupported()
}

pub(super) fn set_entry(_vcpu: &VcpuFd, _entry: Entry) -> Result<(), Errno> {
    unsupported()
}

pub(super) fn counter(_vcpu: &VcpuFd) -> Result<u64, Errno> {
    unsupported()
}

pub(super) fn set_counter(_vcpu: &VcpuFd, _value: u64) -> Result<(), Errno> {
    unsupported()
}

pub(super) fn pc(_vcpu: &VcpuFd) -> Option<u64> {
    None
}

pub(super) fn registers(_vcpu: &VcpuFd) -> Result<CpuRegisters, Errno> {
    unsupported()
}

pub(super) fn load_image(
    _memory: &GuestMemory,
    _file: &mut File,
    _base: u64,
) -> Result<Range<u64>, String> {
    Err("this host cannot load it".to_owned())
}

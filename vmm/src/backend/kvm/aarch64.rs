//! The AArch64 part of KVM's interface: interrupt controller, vCPU registers, `Image` loader.
//!
//! The crates offer all of this only when built for AArch64; everything else of the backend is the
//! same code on every host.

use std::fs::File;
use std::mem::offset_of;
use std::ops::Range;

use kvm_bindings::{
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_ARM_VCPU_PTRAUTH_ADDRESS,
    KVM_ARM_VCPU_PTRAUTH_GENERIC, KVM_CREATE_DEVICE_TEST, KVM_DEV_ARM_VGIC_CTRL_INIT,
    KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_NR_IRQS,
    KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_SHIFT, KVM_REG_SIZE_U64,
    KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, kvm_regs, kvm_vcpu_init, user_fpsimd_state,
    user_pt_regs,
};
use kvm_ioctls::{Cap, DeviceFd, Kvm, VcpuFd, VmFd};
use linux_loader::loader::{KernelLoader, PE};
use vm_memory::{Address, GuestAddress};
use vmm_sys_util::errno::Error as Errno;

use super::load::Entry;
use crate::backend::{CpuRegisters, GuestMemory};
use crate::machine::{GIC_DISTRIBUTOR, GIC_REDISTRIBUTORS, SPIS};

/// Interrupts before the shared ones: SGIs and PPIs.
const PRIVATE_INTERRUPTS: u32 = 32;
/// `KVM_ARM_IRQ_TYPE_SPI` at its place in the number that `KVM_IRQ_LINE` takes.
const IRQ_TYPE_SPI: u32 = 1 << 24;

/// This host's CPUs are the guest's.
pub(super) fn check_host() -> Result<(), &'static str> {
    Ok(())
}

/// Whether `vm` can have the interrupt controller.
pub(super) fn check_gic(vm: &VmFd) -> Result<(), Errno> {
    let mut test = kvm_create_device { flags: KVM_CREATE_DEVICE_TEST, ..GIC };
    // Nothing is made, so the descriptor in the answer is none.
    vm.create_device(&mut test).map(std::mem::forget)
}

const GIC: kvm_create_device =
    kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, fd: 0, flags: 0 };

/// The interrupt controller of a VM that has all of its vCPUs.
pub(super) fn create_gic(vm: &VmFd) -> Result<DeviceFd, Errno> {
    let gic = vm.create_device(&mut GIC.clone())?;
    let set = |group, attr: u32, value: Option<&u64>| {
        let addr = value.map_or(0, |value| std::ptr::from_ref(value) as u64);
        gic.set_device_attr(&kvm_device_attr { group, attr: attr.into(), addr, flags: 0 })
    };
    let interrupts = u64::from(PRIVATE_INTERRUPTS + SPIS);
    set(KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, Some(&interrupts))?;
    let distributor = GIC_DISTRIBUTOR.start;
    set(KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, Some(&distributor))?;
    let redistributors = GIC_REDISTRIBUTORS.start;
    set(KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST, Some(&redistributors))?;
    set(KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, None)?;
    Ok(gic)
}

/// Drives the shared interrupt `spi`.
pub(super) fn set_spi(vm: &VmFd, spi: u32, high: bool) -> Result<(), Errno> {
    vm.set_irq_line(IRQ_TYPE_SPI | (PRIVATE_INTERRUPTS + spi), high)
}

/// Resets a vCPU: on, or off until PSCI's CPU_ON.
pub(super) fn init_vcpu(kvm: &Kvm, vm: &VmFd, vcpu: &VcpuFd, on: bool) -> Result<(), Errno> {
    let mut init = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut init)?;
    let mut feature = |number: u32| init.features[0] |= 1 << number;
    feature(KVM_ARM_VCPU_PSCI_0_2);
    // As on the emulated board; KVM gives both or none.
    if [Cap::ArmPtrAuthAddress, Cap::ArmPtrAuthGeneric].into_iter().all(|c| kvm.check_extension(c))
    {
        feature(KVM_ARM_VCPU_PTRAUTH_ADDRESS);
        feature(KVM_ARM_VCPU_PTRAUTH_GENERIC);
    }
    if !on {
        feature(KVM_ARM_VCPU_POWER_OFF);
    }
    vcpu.vcpu_init(&init)
}

/// Lets a vCPU start at `entry`.
pub(super) fn set_entry(vcpu: &VcpuFd, entry: Entry) -> Result<(), Errno> {
    set(vcpu, register::<u64>(PC), entry.pc)?;
    set(vcpu, register::<u64>(X0), entry.fdt)
}

/// The virtual counter, which is the guest's clock. Any vCPU shows and sets it for all.
pub(super) fn counter(vcpu: &VcpuFd) -> Result<u64, Errno> {
    get(vcpu, TIMER_CNT)
}

/// Sets the virtual counter.
pub(super) fn set_counter(vcpu: &VcpuFd, value: u64) -> Result<(), Errno> {
    set(vcpu, TIMER_CNT, value)
}

/// Where the vCPU is.
pub(super) fn pc(vcpu: &VcpuFd) -> Option<u64> {
    get(vcpu, register::<u64>(PC)).ok()
}

/// The registers of a vCPU, of the exception level that it is at.
pub(super) fn registers(vcpu: &VcpuFd) -> Result<CpuRegisters, Errno> {
    /// PSTATE.M[3:0] of EL1 with its own stack pointer (Arm ARM, C5.2.19).
    const EL1H: u64 = 0b0101;
    const REGS: usize = offset_of!(kvm_regs, regs);
    const FP: usize = offset_of!(kvm_regs, fp_regs);
    let word = |offset| get(vcpu, register::<u64>(offset));
    let mut registers = CpuRegisters::default();
    let general = &mut registers.general;
    for (index, x) in general.x.iter_mut().enumerate() {
        *x = word(REGS + offset_of!(user_pt_regs, regs) + index * size_of::<u64>())?;
    }
    general.pc = word(REGS + offset_of!(user_pt_regs, pc))?;
    general.pstate = word(REGS + offset_of!(user_pt_regs, pstate))?;
    general.sp = match general.pstate & 0xf {
        EL1H => word(offset_of!(kvm_regs, sp_el1))?,
        _ => word(REGS + offset_of!(user_pt_regs, sp))?,
    };
    let fp = &mut registers.fp;
    for (index, v) in fp.v.iter_mut().enumerate() {
        let mut bytes = [0; size_of::<u128>()];
        let at = FP + offset_of!(user_fpsimd_state, vregs) + index * bytes.len();
        vcpu.get_one_reg(register::<u128>(at), &mut bytes)?;
        *v = u128::from_le_bytes(bytes);
    }
    for (value, at) in [
        (&mut fp.fpsr, offset_of!(user_fpsimd_state, fpsr)),
        (&mut fp.fpcr, offset_of!(user_fpsimd_state, fpcr)),
    ] {
        let mut bytes = [0; size_of::<u32>()];
        vcpu.get_one_reg(register::<u32>(FP + at), &mut bytes)?;
        *value = u32::from_le_bytes(bytes);
    }
    registers.tpidr_el0 = Some(get(vcpu, TPIDR_EL0)?);
    registers.vbar_el1 = Some(get(vcpu, VBAR_EL1)?);
    Ok(registers)
}

/// Copies the `Image` in `file` to `base` plus the offset that it asks for; gives back where it stands.
pub(super) fn load_image(
    memory: &GuestMemory,
    file: &mut File,
    base: u64,
) -> Result<Range<u64>, String> {
    let loaded =
        PE::load(memory, Some(GuestAddress(base)), file, None).map_err(|e| e.to_string())?;
    Ok(loaded.kernel_load.raw_value()..loaded.kernel_end)
}

/// The number of the core register of type `T` by its offset in `kvm_regs` (KVM's api.rst).
fn register<T>(offset: usize) -> u64 {
    let size = u64::from(size_of::<T>().ilog2()) << KVM_REG_SIZE_SHIFT;
    let words = (offset / size_of::<u32>()) as u64;
    KVM_REG_ARM64 | size | u64::from(KVM_REG_ARM_CORE) | words
}

/// The number of a 64-bit system register.
const fn system_register(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    let kind = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64;
    kind | (op0 << 14) | (op1 << 11) | (crn << 7) | (crm << 3) | op2
}

/// `KVM_REG_ARM_TIMER_CNT`: the virtual counter, under a name that is not that of CNTVCT_EL0 (KVM's
/// api.rst tells why).
const TIMER_CNT: u64 = system_register(3, 3, 14, 3, 2);
const TPIDR_EL0: u64 = system_register(3, 3, 13, 0, 2);
const VBAR_EL1: u64 = system_register(3, 0, 12, 0, 0);
const PC: usize = offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, pc);
const X0: usize = offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, regs);

fn get(vcpu: &VcpuFd, register: u64) -> Result<u64, Errno> {
    let mut value = [0; 8];
    vcpu.get_one_reg(register, &mut value)?;
    Ok(u64::from_le_bytes(value))
}

fn set(vcpu: &VcpuFd, register: u64, value: u64) -> Result<(), Errno> {
    vcpu.set_one_reg(register, &value.to_le_bytes()).map(drop)
}

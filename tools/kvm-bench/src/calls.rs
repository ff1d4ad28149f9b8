//! The least that a machine with this guest takes: KVM's calls, and nothing else. What the guest says is printed.

use kvm_bindings::{
    KVM_ARM_VCPU_PSCI_0_2, KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR,
    KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST,
    kvm_create_device, kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
    kvm_userspace_memory_region, kvm_vcpu_init,
};
use kvm_ioctls::{Kvm, VcpuExit};

use crate::guest::CODE;

const RAM: u64 = 0x4000_0000;
const SIZE: usize = 64 << 20;
/// `KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE_REG(regs.pc)`.
const PC: u64 = 0x6030_0000_0010_0040;

/// Builds the machine and runs it until it is off.
pub fn run() {
    let kvm = Kvm::new().expect("/dev/kvm");
    let vm = kvm.create_vm().expect("a VM");
    // SAFETY: fresh memory that nobody else uses and that lives as long as this process.
    let memory = unsafe {
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        libc::mmap(std::ptr::null_mut(), SIZE, access, kind, -1, 0)
    };
    assert_ne!(memory, libc::MAP_FAILED, "memory for the guest");
    let code: Vec<u8> = CODE.iter().flat_map(|word| word.to_le_bytes()).collect();
    // SAFETY: the memory is there, larger than the code, and nobody else's.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), memory.cast(), code.len()) };
    let region = kvm_userspace_memory_region {
        guest_phys_addr: RAM,
        memory_size: SIZE as u64,
        userspace_addr: memory as u64,
        ..Default::default()
    };
    // SAFETY: the memory stays mapped until this process ends.
    unsafe { vm.set_user_memory_region(region) }.expect("RAM");
    let mut vcpu = vm.create_vcpu(0).expect("a vCPU");
    let mut gic =
        kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, ..Default::default() };
    let gic = vm.create_device(&mut gic).expect("an interrupt controller");
    let set = |group, attr: u32, value: &u64| {
        let addr = std::ptr::from_ref(value) as u64;
        let attr = kvm_device_attr { group, attr: attr.into(), addr, flags: 0 };
        gic.set_device_attr(&attr).expect("the interrupt controller's place");
    };
    set(KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &0x0800_0000);
    set(KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST, &0x080a_0000);
    set(KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, &0);
    let mut init = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut init).expect("the CPU's model");
    init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    vcpu.vcpu_init(&init).expect("a CPU after reset");
    vcpu.set_one_reg(PC, &RAM.to_le_bytes()).expect("the program counter");
    let mut said = Vec::new();
    loop {
        match vcpu.run() {
            Ok(VcpuExit::MmioWrite(_, data)) => said.push(data[0]),
            Ok(VcpuExit::SystemEvent(..)) => break,
            other => panic!("the guest did not switch itself off: {other:?}"),
        }
    }
    println!("{}", String::from_utf8_lossy(&said));
}

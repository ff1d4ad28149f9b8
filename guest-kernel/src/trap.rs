//! The way in: what the exception entries call.

#[cfg(target_os = "none")]
mod entry {
    use crate::arch::PtRegs;
    use crate::arch::exception::Exception;

    /// A synchronous exception from EL0.
    #[unsafe(no_mangle)]
    extern "C" fn trap_el0_sync(regs: &mut PtRegs) {
        panic!("nothing runs at EL0 yet: {regs:?}");
    }

    /// An interrupt while EL0 ran.
    #[unsafe(no_mangle)]
    extern "C" fn trap_el0_irq(_regs: &mut PtRegs) {
        crate::drivers::irq::handle_pending();
    }

    /// A synchronous exception from the kernel itself.
    #[unsafe(no_mangle)]
    extern "C" fn trap_el1_sync(regs: &mut PtRegs) {
        let far = crate::arch::fault_address();
        crate::panic::die(&Exception::decode(regs.esr, far), far, regs)
    }

    /// An interrupt while the kernel ran.
    #[unsafe(no_mangle)]
    extern "C" fn trap_el1_irq(_regs: &mut PtRegs) {
        crate::drivers::irq::handle_pending();
    }

    /// One of the entries that are never taken on a machine in order.
    #[unsafe(no_mangle)]
    extern "C" fn trap_error(regs: &mut PtRegs, entry: crate::arch::exception::BadEntry) {
        crate::panic::die(&entry, crate::arch::fault_address(), regs)
    }

    /// Work on the way to EL0.
    #[unsafe(no_mangle)]
    extern "C" fn exit_to_user_work(_regs: &mut PtRegs) {}
}

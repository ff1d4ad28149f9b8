//! The AArch64 machine: QEMU's `virt` board and what looks like it.
//!
//! Every `unsafe` block that touches a system register is here. `current` is in TPIDR_EL1; the kernel is
//! built for `softfloat`, so the FP/SIMD registers always hold a program's values; kernel code runs with
//! PSTATE.D, A and F masked and PAN set.

pub mod irq;
pub mod tlb;
pub mod uaccess;

mod boot;
mod cache;
mod cpu;
mod debug;
mod features;
mod mmio;
mod mmu;
mod psci;
#[cfg(feature = "selftest")]
pub mod selftest;
mod suspend;
mod switch;
mod time;

pub use boot::{cpu_count, cpu_id, cpu_is_off, cpu_off, cpu_on, set_cpus};
pub use cache::{clear_page, copy_page, sync_icache};
pub use cpu::{
    IrqState, backtrace, cpu_relax, current_thread, detect_features, early_put, fault_address,
    frame_pointer, interrupted_user, irq_disable, irq_enable, irq_restore, irq_save, irqs_enabled,
    mpidr, set_current_thread, wait_for_interrupt,
};
pub use debug::{debug_slots, debug_version, drop_debug_regs, stop_single_step};
pub use features::{cache_registers, emulate_id_register, hwcaps, midr, random_u64};
pub use mmio::{mmio_read, mmio_write};
pub use mmu::{
    activate_user, build_id, deactivate_user, image_range, init as init_tables, kernel_root,
    map_devices, phys_to_virt, sync_tables, virt_to_phys,
};
pub use psci::{power_off, reset, set_conduit};
pub use suspend::{suspend, thaw_address};
pub use switch::{
    call_on_stack, fp_state, note_thread_pointer, replace_user_state, save_user_state,
    set_fp_state, setup_kernel_thread, setup_user_thread, switch_to,
};
pub use time::{TIMER_IRQ, counter, counter_frequency, set_timer, stop_timer};
pub use uaccess::{fixup_exception, is_user_access};

//! Fills the root page while the kernel boots, each part as soon as it can be read.
//!
//! Every address published here must stay what it says for as long as the machine runs.

use core::fmt::{self, Write};
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use belljar_abi::root::{BootState, Console, LogRing, PANIC_MESSAGE_SIZE};

use super::ROOT;
use crate::addr::{LINEAR_OFFSET, PAGE_SHIFT, PhysAddr};
use crate::drivers::tty::console::Kind;
use crate::ns::common::registry_address;
use crate::ns::pid;
use crate::sched::schedule::RUNQUEUES;
use crate::task::{Task, list};

/// Publishes the layout note. Called once, as early as possible in boot.
#[cfg(target_os = "none")]
pub fn publish_layout() {
    let note = super::layout();
    ROOT.layout.store(note.as_ptr() as u64, Relaxed);
    ROOT.layout_size.store(size_of_val(note) as u64, Relaxed);
}

/// Publishes where the image lies (it is mapped linearly), the payload behind it, if there is one, and
/// the kernel's translation tables and build id.
pub fn publish_image(
    image: Range<PhysAddr>,
    payload_len: usize,
    kernel_root: PhysAddr,
    build_id: &[u8],
) {
    ROOT.set_build_id(build_id);
    ROOT.image_phys.store(image.start.0, Relaxed);
    ROOT.image_virt.store(image.start.0.wrapping_add(LINEAR_OFFSET), Relaxed);
    ROOT.image_size.store(image.end.0 - image.start.0, Relaxed);
    ROOT.linear_offset.store(LINEAR_OFFSET, Relaxed);
    ROOT.kernel_pgd_phys.store(kernel_root.0, Relaxed);
    ROOT.va_bits.store(48, Relaxed);
    ROOT.page_shift.store(PAGE_SHIFT as u32, Relaxed);
    if payload_len != 0 {
        ROOT.payload_phys.store(image.end.0, Relaxed);
        ROOT.payload_size.store(payload_len as u64, Relaxed);
    }
}

/// Publishes which device is the console, now that it takes input.
pub fn publish_console(kind: Kind) {
    ROOT.set_console(match kind {
        Kind::Uart => Console::Uart,
        Kind::Virtio => Console::Virtio,
    });
}

/// Publishes the log.
pub fn publish_log<const N: usize>(ring: &'static LogRing<N>) {
    ROOT.log_size.store(N as u64, Relaxed);
    ROOT.log_ring.store(core::ptr::from_ref(ring) as u64, Relaxed);
}

/// Publishes RAM and the frame table: address of the first record, number of records, first frame.
/// From here on memory can be read from outside.
pub fn publish_frames(ram: Range<PhysAddr>, (table, count, base_pfn): (u64, u64, u64)) {
    ROOT.ram_phys.store(ram.start.0, Relaxed);
    ROOT.ram_size.store(ram.end.0 - ram.start.0, Relaxed);
    ROOT.frame_table.store(table, Relaxed);
    ROOT.frame_count.store(count, Relaxed);
    ROOT.frame_base_pfn.store(base_pfn, Relaxed);
    ROOT.set_boot_state(BootState::Memory);
}

/// Publishes the run queues of the first `cpus` CPUs. Called again when more CPUs are up.
pub fn publish_run_queues(cpus: usize) {
    let [first, second] = [0, 1].map(|cpu| RUNQUEUES.of(cpu).data_ptr() as u64);
    ROOT.run_queues.store(first, Relaxed);
    ROOT.run_queue_stride.store(second.wrapping_sub(first), Relaxed);
    ROOT.cpus.store(cpus as u64, Relaxed);
}

/// Publishes the task list, from when task 0 is on it, and the pid hash.
pub fn publish_tasks(init_task: &'static Task) {
    ROOT.task_list.store(list::head_address() as u64, Relaxed);
    ROOT.task_list_seq.store(&raw const list::TASK_LIST_SEQ as u64, Relaxed);
    ROOT.init_task.store(core::ptr::from_ref(init_task) as u64, Relaxed);
    ROOT.pid_hash.store(pid::pid_hash_address() as u64, Relaxed);
    ROOT.namespaces.store(registry_address() as u64, Relaxed);
    ROOT.pid_hash_len.store(pid::PID_HASH_SIZE as u64, Relaxed);
    ROOT.set_boot_state(BootState::Tasks);
}

/// Records that init runs at EL0.
pub fn publish_init_running() {
    ROOT.set_boot_state(BootState::Init);
}

/// Records how the machine ended: init's wait status.
pub fn set_exit(wait_status: i32) {
    ROOT.set_exited(wait_status);
}

/// Leaves the words in which the user is told of a panic that is about to come.
pub fn set_panic_message(message: fmt::Arguments<'_>) {
    let mut text = Text { bytes: [0; PANIC_MESSAGE_SIZE], len: 0 };
    // Full only means that the rest is cut.
    let _ = text.write_fmt(message);
    ROOT.set_panic_message(core::str::from_utf8(&text.bytes[..text.len]).unwrap_or_default());
}

/// Records that this machine cannot go on with memory that was frozen elsewhere, and why.
pub fn set_not_resumed(why: fmt::Arguments<'_>) {
    set_panic_message(why);
    ROOT.set_not_resumed();
}

/// Text in a buffer of fixed size.
struct Text {
    bytes: [u8; PANIC_MESSAGE_SIZE],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = self.bytes.len() - self.len;
        // Cut between characters.
        let n = (0..=s.len().min(room)).rev().find(|n| s.is_char_boundary(*n)).unwrap_or(0);
        self.bytes[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        if n == s.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let mut text = Text { bytes: [0; PANIC_MESSAGE_SIZE], len: 0 };
        let long = String::from("x") + &"\u{e4}".repeat(PANIC_MESSAGE_SIZE);
        assert!(text.write_str(&long).is_err());
        assert_eq!(text.len, PANIC_MESSAGE_SIZE - 1);
        assert!(core::str::from_utf8(&text.bytes[..text.len]).is_ok());
    }
}

//! The point of no return of execve(2).

use core::sync::atomic::Ordering;

use super::Binary;
use super::load::Entry;
use super::privilege::{may_read, memory_owner};
use crate::arch;
use crate::arch::{FpState, PtRegs};
use crate::kref::Ref;
use crate::mm::Mm;
use crate::process::creds::{commit_creds, suid_dumpable};
use crate::process::exit;
use crate::task::{AltStack, Task, TaskFlags};

/// The point of no return: the task lets go of the old program and becomes the new one.
#[inline(never)]
pub(super) fn commit(task: &Task, binary: &Binary, mm: Ref<Mm>, entry: Entry, regs: &mut PtRegs) {
    exit::mm_release(task);
    let set_id = entry.cred.euid != entry.cred.uid || entry.cred.egid != entry.cred.gid;
    let readable = may_read(task, &binary.file);
    if set_id || !readable {
        // Before anybody can find it at this task.
        mm.set_dumpable(suid_dumpable());
    }
    let owner = memory_owner(&entry.cred, &binary.file, readable);
    drop(task.mm_user_ns.replace(owner));
    if let Some(old) = task.mm() {
        mm.no_huge_pages.store(old.no_huge_pages.load(Ordering::Relaxed), Ordering::Relaxed);
        mm.dump_filter.store(old.dump_filter.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    let old = task.se.replace_mm(Some(mm));
    if let Some(old) = old {
        old.put_user();
    }
    exit::complete_vfork(task);
    unshare_files(task);
    unshare_sighand(task);
    task.signal.timers.delete_posix();
    task.set_restart(Default::default());
    // SAFETY: it belongs to the calling task itself, which has no program at this moment.
    unsafe { *task.altstack.get() = AltStack::default() };
    task.set_child_tid.store(0, Ordering::Relaxed);
    commit_creds(task, entry.cred);
    let name = binary.name.rsplit(|&b| b == b'/').next().unwrap_or(&binary.name);
    task.set_comm(name);
    task.clear_flags(TaskFlags::FORKNOEXEC | TaskFlags::KTHREAD);
    task.signal.did_exec.store(true, Ordering::Relaxed);
    arch::drop_debug_regs();
    arch::replace_user_state(&FpState::default(), 0);
    *regs = PtRegs {
        pc: entry.pc,
        sp: entry.sp,
        syscallno: PtRegs::NO_SYSCALL,
        stackframe: [0; 2],
        ..PtRegs::default()
    };
}

/// Descriptors become the task's own, and those marked close-on-exec go.
fn unshare_files(task: &Task) {
    if Ref::ref_count(task.files()) > 1
        && let Ok(own) = task.files().try_clone()
    {
        drop(task.files.replace(Some(own)));
    }
    task.files().close_on_exec();
}

fn unshare_sighand(task: &Task) {
    if Ref::ref_count(task.sighand.own()) > 1
        && let Ok(own) = task.sighand.own().try_clone()
    {
        drop(task.sighand.replace(own));
    }
    task.sighand.own().reset_for_exec();
    if task.is_kthread() {
        // Init starts with nothing blocked.
        task.sig.lock().blocked = crate::signal::SigSet::EMPTY;
    }
}

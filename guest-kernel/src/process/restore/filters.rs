//! Filters of system calls: made again, each behind the one before it.

use alloc::vec::Vec;

use super::Failure;
use super::plan::{Plan, ThreadPlan};
use crate::arch::ThreadFlags;
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::seccomp::SeccompFilter;
use crate::task::{SeccompMode, Task};

/// The filters of a process, in the order of its plan; who makes them counts among their users until this goes.
#[derive(Default)]
pub(super) struct Filters(Vec<Ref<SeccompFilter>>);

impl Drop for Filters {
    fn drop(&mut self) {
        self.0.iter().for_each(|filter| filter.drop_user());
    }
}

/// Makes them.
#[inline(never)]
pub(super) fn build(plan: &Plan<'_>) -> Result<Filters, Failure> {
    let failed = |errno| Failure::new(plan, errno, format_args!("its seccomp filters: {errno}"));
    let mut filters = Filters::default();
    filters.0.try_reserve_exact(plan.filters.len()).map_err(|_| failed(Errno::ENOMEM))?;
    for filter in &plan.filters {
        let mut insns = Array::new();
        for insn in filter.insns() {
            insns.try_push(insn.0).map_err(failed)?;
        }
        let (log, killable) = (filter.record.log != 0, filter.record.wait_killable != 0);
        let prev = filter.prev.and_then(|at| filters.0.get(at)).cloned();
        let new = SeccompFilter::new(insns).map_err(failed)?.with_flags(log, killable);
        let new = new.attach(prev).map_err(failed)?;
        if let Some(prev) = new.prev() {
            prev.add_user();
        }
        filters.0.push(new);
    }
    Ok(filters)
}

impl Filters {
    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Restricts a task that does not run as its record says.
    pub(super) fn apply(&self, task: &Task, plan: &Plan<'_>, thread: &ThreadPlan<'_>) {
        let record = &thread.record;
        if plan.process.no_new_privs | record.no_new_privs != 0 {
            task.set_no_new_privs();
        }
        let mode = SeccompMode::from_number(record.seccomp_mode as u32);
        let mode = mode.unwrap_or(SeccompMode::Dead);
        if mode == SeccompMode::Disabled {
            return;
        }
        let at = plan.filters.iter().position(|f| f.record.id == record.seccomp_filter);
        if let Some(filter) = at.and_then(|at| self.0.get(at)) {
            filter.add_user();
            let before = task.seccomp.set_filter(Some(filter.clone()));
            debug_assert!(before.is_none(), "who is restricted becomes no other process");
        }
        task.seccomp.set_mode(mode);
        task.se.thread.info.set(ThreadFlags::SECCOMP);
    }
}

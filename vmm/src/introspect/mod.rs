//! The introspection engine: what a guest's kernel looks like, read from its memory alone.
//!
//! [`Kernel`] is a guest whose root page and layout note were found and decoded; [`Object`] is one of
//! its structures, read by field name; each view (`ps`, `maps`, …) is one file that walks objects and
//! returns rows. [`view`] is the way in for everyone else: a [`Request`] in, an [`Answer`] out, the same
//! for a live machine, a snapshot and a core. The guest is hostile input throughout.

mod error;
mod freeframes;
mod note;
mod object;
mod path;
mod root;
mod symbols;
#[cfg(any(test, feature = "synthetic"))]
#[doc(hidden)]
pub mod synthetic;
#[cfg(test)]
mod tests;
pub mod views;

pub use error::{Error, Result, optional};
pub use freeframes::FreeFrames;
pub use note::{Field, Kind, Note, Type};
pub use object::{List, Object, Value};
pub use path::{Place, path_of};
pub use root::Root;
pub use symbols::{Location, SourceFrame, SourceMap, Symbols};
pub use views::{Answer, Frames, Process, Request, log_text, schemas, socket_kind, view};

use std::cell::{Cell, OnceCell};

use belljar_abi::root::BootState;

use crate::elfcore::regs::General;
use crate::render::Consistency;
use crate::target::{Ram, Space};

/// A guest kernel that can be looked at. It is made for one answer, while the guest stands still.
pub struct Kernel<'r> {
    root: Root,
    note: Note,
    space: Space<'r>,
    symbols: OnceCell<Symbols>,
    consistency: Cell<Consistency>,
    cpus: Vec<General>,
}

impl<'r> Kernel<'r> {
    /// Finds the kernel in `ram`. `still` says that nothing runs while it is looked at.
    pub fn open(ram: &'r dyn Ram, still: bool) -> Result<Self> {
        let root = Root::find(ram)?;
        if !root.has_reached(BootState::Memory) {
            return Err(Error::TooEarly { what: "the kernel's memory" });
        }
        let space = Space::with_linear_map(ram, root.kernel_pgd_phys(), root.linear_offset());
        let note = Note::read(&space, &root)?;
        let consistency = if still { Consistency::Quiesced } else { Consistency::Torn };
        Ok(Self {
            root,
            note,
            space,
            symbols: OnceCell::new(),
            consistency: Cell::new(consistency),
            cpus: vec![],
        })
    }

    /// The same kernel with the registers of its CPUs, in their order: those of a task that is on a CPU are
    /// nowhere else.
    #[must_use]
    pub fn with_cpus(self, cpus: impl IntoIterator<Item = General>) -> Self {
        Self { cpus: cpus.into_iter().collect(), ..self }
    }

    /// The registers of CPU `index`, if they are known.
    pub fn cpu(&self, index: u64) -> Option<&General> {
        self.cpus.get(usize::try_from(index).ok()?)
    }

    /// The root page.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The layout note.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// The kernel's virtual memory.
    pub fn space(&self) -> &Space<'r> {
        &self.space
    }

    /// The kernel's symbols, read when they are first asked for.
    pub fn symbols(&self) -> &Symbols {
        self.symbols.get_or_init(|| Symbols::read(self.space.ram(), &self.root))
    }

    /// How far what was read so far belongs together.
    pub fn consistency(&self) -> Consistency {
        self.consistency.get()
    }

    /// Records that the answer is at most this consistent.
    pub fn degrade(&self, to: Consistency) {
        self.consistency.set(self.consistency.get().max(to));
    }

    /// Looks at a sequence count: an odd one says that a change was under way.
    pub fn check_seq(&self, count: u64) {
        if count & 1 == 1 {
            self.degrade(Consistency::Paused);
        }
    }

    /// Looks at the sequence count in a field, if this kernel has it.
    pub fn check_seq_of(&self, object: &Object<'_>, path: &str) -> Result<()> {
        if let Some(count) = optional(object.uint(path))? {
            self.check_seq(count);
        }
        Ok(())
    }

    /// Keeps what a bounded walk returns and records its end in damage instead of failing.
    pub fn keep<T>(&self, items: impl Iterator<Item = Result<T>>) -> Vec<T> {
        items
            .map_while(|item| match item {
                Ok(item) => Some(item),
                Err(_) => {
                    self.degrade(Consistency::Torn);
                    None
                }
            })
            .collect()
    }

    /// The run queues, by CPU.
    pub fn run_queues(&self) -> Result<Vec<Object<'_>>> {
        /// More than any board has.
        const MAX_CPUS: u64 = 512;
        let (first, stride) = (self.root.run_queues(), self.root.run_queue_stride());
        (0..self.root.cpus().min(MAX_CPUS))
            .map(|cpu| Object::new(self, "RunQueue", first.wrapping_add(cpu.wrapping_mul(stride))))
            .collect()
    }

    /// Every namespace, by what all kinds have in common.
    pub fn namespaces(&self) -> Result<Vec<Object<'_>>> {
        if !self.root.has_reached(BootState::Tasks) || self.root.namespaces() == 0 {
            return Err(Error::TooEarly { what: "the list of namespaces" });
        }
        let list = List::new(self, self.root.namespaces(), "NsCommon", "all")?;
        Ok(self.keep(list))
    }

    /// The tasks of the task list: every thread group's leader, the idle tasks not among them.
    pub fn processes(&self) -> Result<Vec<Object<'_>>> {
        if !self.root.has_reached(BootState::Tasks) {
            return Err(Error::TooEarly { what: "the task list" });
        }
        if self.root.task_list_seq() != 0 {
            let mut count = [0; 4];
            self.space.read(self.root.task_list_seq(), &mut count)?;
            self.check_seq(u32::from_le_bytes(count).into());
        }
        let list = List::new(self, self.root.task_list(), "Task", "tasks")?;
        Ok(self.keep(list))
    }
}

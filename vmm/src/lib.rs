//! Bell Jar: a VMM that runs unmodified AArch64 Linux programs and shows, snapshots and copies
//! every process of the guest from outside.
//!
//! The floors, from below: each module uses only those listed before it.
//!
//! - [`render`]: a view (schema, consistency, rows) as a table, JSON or CSV; knows no VM at all.
//! - [`thread`]: how threads are made.
//! - [`random`]: random bytes of the host.
//! - [`file`]: files that appear whole or not at all.
//! - [`elfcore`]: ELF core files, of a machine or of a process.
//! - [`metrics`]: figures of a running VM as text.
//! - [`machine`]: the board that every backend builds.
//! - [`sandbox`]: what the threads of a VM may ask of the host's kernel.
//! - [`devices`]: the device models and the bus for a machine that this process builds itself.
//! - [`target`]: guest memory to read, live or stored, and the stage-1 walk over it.
//! - [`backend`]: what runs the guest's CPUs.
//! - [`introspect`]: what the guest's kernel looks like, read from its memory alone.
//! - [`snapshot`]: a whole VM as a folder: saved, opened, checked.
//! - [`dump`]: a machine in any state as an ELF core.
//! - [`checkpoint`]: processes as ELF cores.
//! - [`image`]: from the IMAGE argument to a kernel, an initrd and a first program.
//! - [`runtime`]: a VM from start to end, and where other commands find it.
//! - [`api`]: what a running VM serves, and its clients.
//! - [`cli`]: the command line.

pub mod api;
pub mod backend;
pub mod checkpoint;
pub mod cli;
pub mod devices;
pub mod dump;
pub mod elfcore;
pub mod file;
pub mod image;
pub mod introspect;
pub mod machine;
pub mod metrics;
pub mod random;
pub mod render;
pub mod runtime;
pub mod sandbox;
pub mod snapshot;
pub mod target;
pub mod thread;

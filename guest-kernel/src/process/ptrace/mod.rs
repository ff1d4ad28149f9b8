//! Tracing (ptrace(2)): one process looks into another and controls it.
//!
//! | file | what |
//! | --- | --- |
//! | [`vm`] | `process_vm_readv`, `process_vm_writev` |

pub mod vm;

//! Whom a view looks at: a running VM, a snapshot, a core.

use std::path::{Path, PathBuf};

use super::{Error, complain};
use crate::api::client::Client;
use crate::backend::CpuRegisters;
use crate::image::Home;
use crate::introspect::{self, Kernel, Request, Root, SourceMap};
use crate::render::Envelope;
use crate::snapshot::{Snapshot, Trust};
use crate::target::{Ram, VmCore};

/// Something stored to look at instead of a running VM.
#[derive(Debug, clap::Args)]
pub(super) struct Stored {
    /// Look at a snapshot instead of a running VM
    #[arg(long, value_name = "DIR", conflicts_with = "core")]
    pub snapshot: Option<PathBuf>,
    /// Do not check whether the snapshot's memory is what was saved
    #[arg(long, requires = "snapshot")]
    pub trust: bool,
    /// Look at the ELF core of a machine, as `belljar dump` writes it
    #[arg(long, value_name = "FILE")]
    pub core: Option<PathBuf>,
}

impl Stored {
    /// Whether there is one.
    pub(super) fn is_given(&self) -> bool {
        self.snapshot.is_some() || self.core.is_some()
    }

    fn trust(&self) -> Trust {
        if self.trust {
            complain("the snapshot's memory was not checked (--trust)");
            return Trust::Trust;
        }
        Trust::Verify
    }

    /// Opens the snapshot or core; `None` if neither was asked for.
    pub(super) fn open(&self) -> Result<Option<StoredRam>, Error> {
        Ok(match (&self.snapshot, &self.core) {
            (Some(dir), _) => {
                let ram = Snapshot::open(dir, self.trust())?.ram()?;
                Some(StoredRam { path: dir.clone(), ram: Box::new(ram), cpus: vec![] })
            }
            (None, Some(file)) => {
                let core = VmCore::open(file)?;
                let cpus = core.cpus().iter().map(|(general, fp)| CpuRegisters {
                    general: *general,
                    fp: *fp,
                    ..CpuRegisters::default()
                });
                let cpus = cpus.collect();
                Some(StoredRam { path: file.clone(), ram: Box::new(core), cpus })
            }
            (None, None) => None,
        })
    }
}

/// Memory of a machine that is not running.
pub(super) struct StoredRam {
    path: PathBuf,
    /// The memory.
    pub ram: Box<dyn Ram>,
    /// The registers of the CPUs, where they are stored as well.
    pub cpus: Vec<CpuRegisters>,
}

impl StoredRam {
    /// Where it is stored.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn view(&self, request: &Request) -> Result<Envelope, Error> {
        let source = match request {
            Request::Bt { .. } => Root::find(&*self.ram).ok().and_then(|root| {
                SourceMap::open(&Home::find().ok()?.kernel_elf(), root.build_id())
            }),
            _ => None,
        };
        let cpus = self.cpus.iter().map(|cpu| cpu.general);
        let kernel = Kernel::open(&*self.ram, true)?.with_cpus(cpus);
        let answer = introspect::view(&kernel, request, source.as_ref())?;
        Ok(answer.envelope(self.path.display().to_string()))
    }
}

/// Makes the view of the VM `vm`, or of what is stored.
pub(super) fn view(
    vm: Option<&str>,
    stored: &Stored,
    request: &Request,
) -> Result<Envelope, Error> {
    match (stored.open()?, vm) {
        (Some(stored), None) => stored.view(request),
        (None, Some(vm)) => Ok(Client::open(vm)?.view(request)?),
        (Some(stored), Some(vm)) => {
            Err(format!("VM {vm} and {}: name one of them", stored.path().display()).into())
        }
        (None, None) => Err("name a VM, or --snapshot DIR, or --core FILE".into()),
    }
}

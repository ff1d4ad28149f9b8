//! Cgroup namespaces (cgroup_namespaces(7)): the group that their members see as the root.

use belljar_abi::Described;

use crate::cgroup::Cgroup;
use crate::errno::Result;
use crate::kref::Ref;
use crate::ns::common::{HasCommon, NsCommon, publish};

/// A cgroup namespace.
#[repr(C)]
#[derive(Described)]
pub struct CgroupNs {
    /// Identity and owner.
    #[described(as = "struct NsCommon")]
    pub common: NsCommon,
    /// What its members see as the root: the group that its creator was in.
    pub root: Ref<Cgroup>,
}

impl HasCommon for CgroupNs {
    fn common(&self) -> &NsCommon {
        &self.common
    }
}

impl CgroupNs {
    /// A namespace.
    pub fn new(common: NsCommon, root: Ref<Cgroup>) -> Result<Ref<Self>> {
        publish(Self { common, root })
    }
}

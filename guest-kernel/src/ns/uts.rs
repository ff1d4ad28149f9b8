//! UTS namespaces (uts_namespaces(7)): host name and domain name.

use belljar_abi::Described;

use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::ns::common::{HasCommon, NsCommon, publish};
use crate::sync::SpinLock;

/// Longest name, without the closing NUL (`__NEW_UTS_LEN`).
pub const UTS_LEN: usize = 64;

/// A NUL-padded name as `uname` returns it.
pub type UtsName = [u8; UTS_LEN + 1];

/// The names of a namespace.
#[repr(C)]
#[derive(Described, Clone, Copy)]
pub struct UtsNames {
    /// Host name.
    pub nodename: UtsName,
    /// NIS domain name.
    pub domainname: UtsName,
}

/// A UTS namespace.
#[repr(C)]
#[derive(Described)]
pub struct UtsNs {
    /// Identity and owner.
    #[described(as = "struct NsCommon")]
    pub common: NsCommon,
    /// Its names.
    pub names: SpinLock<UtsNames>,
}

/// A name as `uname` returns it; `EINVAL` if it is too long (sethostname(2)).
pub fn uts_name(name: &[u8]) -> Result<UtsName> {
    let mut padded = [0; UTS_LEN + 1];
    padded
        .get_mut(..name.len())
        .filter(|_| name.len() <= UTS_LEN)
        .ok_or(Errno::EINVAL)?
        .copy_from_slice(name);
    Ok(padded)
}

impl HasCommon for UtsNs {
    fn common(&self) -> &NsCommon {
        &self.common
    }
}

impl UtsNs {
    /// A namespace with these names.
    pub fn new(common: NsCommon, names: UtsNames) -> Result<Ref<Self>> {
        publish(Self { common, names: SpinLock::new(names) })
    }
}

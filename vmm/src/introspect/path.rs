//! Where a file is: names and mounts, followed from the file up to the root of all mounts.

use super::{Error, Object, Result};

/// Most directories of a path, and mounts on its way.
const MAX_DEPTH: usize = 4096;
/// Longest name of one.
const MAX_NAME: u64 = 4096;

/// Where something is in the tree of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its path from the root of all mounts.
    pub path: Vec<u8>,
    /// The name is gone; it was the last one.
    pub deleted: bool,
}

/// Follows a `Path` (a name and the mount that shows it). `None` for what stands in no tree.
pub fn path_of(place: &Object<'_>) -> Result<Option<Place>> {
    let (mut mount, mut dentry) = match (place.ptr("mnt")?, place.ptr("dentry")?) {
        (Some(mount), Some(dentry)) => (mount, dentry),
        _ => return Ok(None),
    };
    let mut names: Vec<Vec<u8>> = vec![];
    let mut deleted = false;
    for _ in 0..MAX_DEPTH {
        if mount.uint("root")? == dentry.addr() {
            let above = mount.embedded("tree.place")?;
            match (above.ptr("mnt")?, above.ptr("dentry")?) {
                (Some(m), Some(d)) => (mount, dentry) = (m, d),
                _ if mount.bool("pseudo")? => return Ok(None),
                _ => {
                    let mut path = vec![];
                    for name in names.iter().rev() {
                        path.push(b'/');
                        path.extend(name);
                    }
                    if path.is_empty() {
                        path.push(b'/');
                    }
                    return Ok(Some(Place { path, deleted }));
                }
            }
            continue;
        }
        let Some(parent) = dentry.ptr("parent")? else { return Ok(None) };
        if names.is_empty() {
            deleted = !dentry.bool("hashed")?;
        }
        names.push(name_of(&dentry)?);
        dentry = parent;
    }
    Err(Error::Damaged { what: "a path".into() })
}

fn name_of(dentry: &Object<'_>) -> Result<Vec<u8>> {
    let space = dentry.kernel().space();
    let at = dentry.addr_of("name")?;
    let start = space.read_u64(at)?;
    let len = space.read_u64(at.wrapping_add(8))?.min(MAX_NAME);
    let mut name = vec![0; len as usize];
    space.read(start, &mut name)?;
    Ok(name)
}

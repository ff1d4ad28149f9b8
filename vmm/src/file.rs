//! Files that appear whole or not at all.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes the file `path` with what `write` puts into it: beside it first, under a name of its own,
/// synced, then moved into its place. If anything fails, nothing of it is left, and what had the name
/// before still has it.
pub fn write_beside(path: &Path, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    let partial =
        tempfile::Builder::new().prefix(&prefix).suffix(".partial").tempfile_in(parent)?;
    write(partial.as_file())?;
    partial.as_file().sync_all()?;
    partial.persist(path)?;
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn file_is_whole_or_as_before() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("f");
        write_beside(&path, |mut file| file.write_all(b"one")).unwrap();
        let failed = write_beside(&path, |mut file| {
            file.write_all(b"tw")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }
}

//! The files of an image by path: which are there, of what kind, and where in the archive their
//! bytes lie. Answers "which program would the guest run" without starting it.

use std::collections::BTreeMap;

/// One path of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A regular file: permission bits, and where its bytes lie in the archive.
    File { mode: u32, offset: u64, len: u64 },
    /// A symbolic link and its target.
    Symlink(String),
    /// A folder.
    Dir,
    /// A device, a pipe or a socket.
    Other,
}

/// All paths of an image, without leading slash.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// Adds a path as it stands in an archive: `./bin/sh`, `/bin/sh` and `bin/sh` are the same.
    pub(super) fn insert(&mut self, name: &str, node: Node) {
        self.nodes.insert(normal(name), node);
    }

    /// Whether the archive named `name` itself.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.nodes.contains_key(&normal(name))
    }

    /// The file or folder that `path` leads to inside the image, symbolic links followed as in a
    /// chroot.
    pub(super) fn lookup(&self, path: &str) -> Option<&Node> {
        /// As many links as Linux follows before it says ELOOP.
        const MAX_LINKS: usize = 40;
        let mut rest: Vec<String> = parts(path).rev().collect();
        let mut at: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            at.push(part);
            match self.nodes.get(&at.join("/")) {
                Some(Node::Symlink(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return None;
                    }
                    at.pop();
                    if target.starts_with('/') {
                        at.clear();
                    }
                    rest.extend(parts(target).rev());
                }
                // A folder above may be missing from the archive; only the last part must be there.
                Some(Node::Dir) | None => {}
                Some(Node::File { .. } | Node::Other) if rest.is_empty() => {}
                Some(_) => return None,
            }
        }
        self.nodes.get(&at.join("/"))
    }
}

/// The parts of a path except `.` and empty ones, from the front.
fn parts(path: &str) -> impl DoubleEndedIterator<Item = String> + '_ {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned)
}

fn normal(name: &str) -> String {
    parts(name).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SH: Node = Node::File { mode: 0o755, offset: 0, len: 1 };

    fn merged_usr() -> Tree {
        let mut tree = Tree::default();
        tree.insert(".", Node::Dir);
        tree.insert("./bin", Node::Symlink("usr/bin".into()));
        tree.insert("/usr/bin/busybox", SH);
        tree.insert("usr/bin/sh", Node::Symlink("/bin/busybox".into()));
        tree.insert("usr/bin/up", Node::Symlink("../../../bin/sh".into()));
        tree.insert("loop", Node::Symlink("loop".into()));
        tree
    }

    #[test]
    fn lookup_follows_links_inside_the_image() {
        let tree = merged_usr();
        for path in ["/bin/sh", "bin/./sh", "/usr/bin/up", "/bin/busybox"] {
            assert_eq!(tree.lookup(path), Some(&SH), "{path}");
        }
    }

    #[test]
    fn lookup_of_loops_and_of_files_as_folders_finds_nothing() {
        let tree = merged_usr();
        for path in ["/loop", "/loop/x", "/bin/sh/x", "/nowhere"] {
            assert_eq!(tree.lookup(path), None, "{path}");
        }
    }
}

//! All descriptors of a program on a host. There, no linker script collects them; constructors link
//! them into a list before `main`, for the tests of the kernel and of the VMM.

use super::TypeDesc;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// One registered descriptor.
pub struct Node {
    desc: &'static TypeDesc,
    next: AtomicPtr<Node>,
}

static HEAD: AtomicPtr<Node> = AtomicPtr::new(ptr::null_mut());

impl Node {
    /// A descriptor that is not on the list yet.
    pub const fn new(desc: &'static TypeDesc) -> Self {
        Self { desc, next: AtomicPtr::new(ptr::null_mut()) }
    }
}

/// Puts a node on the list; each one once. Constructors run one after the other.
pub fn add(node: &'static Node) {
    node.next.store(HEAD.load(Ordering::Relaxed), Ordering::Relaxed);
    HEAD.store(ptr::from_ref(node).cast_mut(), Ordering::Release);
}

/// Every descriptor in this program.
pub fn all() -> impl Iterator<Item = &'static TypeDesc> {
    let mut next = HEAD.load(Ordering::Acquire);
    core::iter::from_fn(move || {
        // SAFETY: only `add` stores here, and it stores null or a `&'static Node`.
        let node: &'static Node = unsafe { next.as_ref() }?;
        next = node.next.load(Ordering::Relaxed);
        Some(node.desc)
    })
}

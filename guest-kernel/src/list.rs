//! Intrusive doubly linked lists: a node is a [`Link`] inside the structure that it links.
//!
//! Circular, like Linux's `list_head`, so that a reader outside the machine follows plain pointers:
//! a head is a [`Link`] too, and an unlinked link is null. A list does not own its items; whoever
//! links one keeps it alive and at its address until it is unlinked. Which lock guards a list is the
//! owner's business and is stated beside the field.

use core::cell::Cell;
use core::marker::PhantomData;
use core::ptr;

/// A node, or the head, of a list. Null pointers mean "not linked".
#[repr(C)]
pub struct Link {
    next: Cell<*const Link>,
    prev: Cell<*const Link>,
}

// SAFETY: a link is only touched under the lock of the list that it is on (module documentation).
unsafe impl Send for Link {}
// SAFETY: as above.
unsafe impl Sync for Link {}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

impl Link {
    /// An unlinked link.
    pub const fn new() -> Self {
        Self { next: Cell::new(ptr::null()), prev: Cell::new(ptr::null()) }
    }

    /// True if it is on a list.
    pub fn is_linked(&self) -> bool {
        !self.next.get().is_null()
    }

    /// Takes the link off its list; nothing happens if it is on none.
    ///
    /// # Safety
    /// The caller holds the lock that guards the list.
    pub unsafe fn unlink(&self) {
        if self.is_linked() {
            // SAFETY: neighbours of a linked link are alive (module documentation).
            let (next, prev) = unsafe { (&*self.next.get(), &*self.prev.get()) };
            prev.next.set(next);
            next.prev.set(prev);
            self.next.set(ptr::null());
            self.prev.set(ptr::null());
        }
    }

    /// Links `new` between `self` and its successor.
    fn insert_after(&self, new: &Link) {
        debug_assert!(!new.is_linked(), "a link is on one list at a time");
        // SAFETY: neighbours of a linked link are alive (module documentation).
        let next = unsafe { &*self.next.get() };
        new.next.set(next);
        new.prev.set(self);
        next.prev.set(new);
        self.next.set(new);
    }
}

/// Says where in `Self` the link named `Tag` is.
///
/// # Safety
/// `OFFSET` is the offset of a [`Link`] field. Use [`list_link!`](crate::list_link).
pub unsafe trait Linked<Tag> {
    /// Offset of the link in bytes.
    const OFFSET: usize;
    /// The link's field, for the layout note.
    const FIELD: &'static str;
}

/// `list_link!(Task, sibling: SiblingLink)`: declares the tag type and its [`Linked`] implementation.
#[macro_export]
macro_rules! list_link {
    ($(#[$doc:meta])* $type:ty, $($field:tt).+ : $tag:ident) => {
        $(#[$doc])*
        pub enum $tag {}
        // SAFETY: the offset is that of the named field, whose type the assertion checks.
        unsafe impl $crate::list::Linked<$tag> for $type {
            const OFFSET: usize = {
                const fn assert_link(t: *const $type) -> *const $crate::list::Link {
                    // SAFETY: `addr_of!` computes an address without reading.
                    unsafe { core::ptr::addr_of!((*t).$($field).+) }
                }
                let _ = assert_link as fn(*const $type) -> *const $crate::list::Link;
                core::mem::offset_of!($type, $($field).+)
            };
            const FIELD: &'static str = stringify!($($field).+);
        }
    };
}

/// The head of a list of `T`s linked by `Tag`.
#[repr(C)]
pub struct List<T, Tag> {
    head: Link,
    _items: PhantomData<(*const T, *const Tag)>,
}

// SAFETY: as for `Link`: the owner's lock guards the list.
unsafe impl<T: Sync, Tag> Send for List<T, Tag> {}
// SAFETY: as above.
unsafe impl<T: Sync, Tag> Sync for List<T, Tag> {}

impl<T: Linked<Tag>, Tag> Default for List<T, Tag> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Linked<Tag>, Tag> List<T, Tag> {
    /// An empty list. It must not move once something was linked.
    pub const fn new() -> Self {
        Self { head: Link::new(), _items: PhantomData }
    }

    fn ready(&self) {
        if self.head.next.get().is_null() {
            self.head.next.set(&self.head);
            self.head.prev.set(&self.head);
        }
    }

    fn link_of(item: &T) -> &Link {
        // SAFETY: `Linked` promises a `Link` at that offset.
        unsafe { &*(ptr::from_ref(item).byte_add(T::OFFSET).cast::<Link>()) }
    }

    /// # Safety
    /// `link` is on this list and not its head, so it lies inside a live `T`.
    unsafe fn item_of<'a>(link: *const Link) -> &'a T {
        // SAFETY: the caller's promise; `OFFSET` is where the link lies in `T`.
        unsafe { &*link.byte_sub(T::OFFSET).cast::<T>() }
    }

    /// True if nothing is linked.
    pub fn is_empty(&self) -> bool {
        let next = self.head.next.get();
        next.is_null() || ptr::eq(next, &self.head)
    }

    /// Links `item` at the end.
    ///
    /// # Safety
    /// The caller holds the list's lock; `item` stays alive and in place until it is unlinked.
    pub unsafe fn push_back(&self, item: &T) {
        self.ready();
        // SAFETY: `ready` linked the head to itself at least.
        unsafe { &*self.head.prev.get() }.insert_after(Self::link_of(item));
    }

    /// Links `item` at the front.
    ///
    /// # Safety
    /// As for [`push_back`](Self::push_back).
    pub unsafe fn push_front(&self, item: &T) {
        self.ready();
        self.head.insert_after(Self::link_of(item));
    }

    /// Unlinks `item`, which is on this list or on none.
    ///
    /// # Safety
    /// The caller holds the list's lock.
    pub unsafe fn remove(&self, item: &T) {
        // SAFETY: the caller's promise.
        unsafe { Self::link_of(item).unlink() }
    }

    /// The first item.
    pub fn first(&self) -> Option<&T> {
        // SAFETY: a non-empty list's next link lies in an item.
        (!self.is_empty()).then(|| unsafe { Self::item_of(self.head.next.get()) })
    }

    /// The last item.
    pub fn last(&self) -> Option<&T> {
        // SAFETY: a non-empty list's last link lies in an item.
        (!self.is_empty()).then(|| unsafe { Self::item_of(self.head.prev.get()) })
    }

    /// The item after `item`, which is on this list.
    pub fn next(&self, item: &T) -> Option<&T> {
        let next = Self::link_of(item).next.get();
        // SAFETY: a link that is neither null nor the head lies in an item.
        (!next.is_null() && !ptr::eq(next, &self.head)).then(|| unsafe { Self::item_of(next) })
    }

    /// Unlinks and returns the first item.
    ///
    /// # Safety
    /// The caller holds the list's lock.
    pub unsafe fn pop_front<'a>(&self) -> Option<&'a T> {
        if self.is_empty() {
            return None;
        }
        // SAFETY: a non-empty list's next link lies in an item.
        let item: &'a T = unsafe { Self::item_of(self.head.next.get()) };
        // SAFETY: the caller's promise.
        unsafe { Self::link_of(item).unlink() };
        Some(item)
    }

    /// Walks the list from the front. The item just returned may be unlinked meanwhile.
    pub fn iter(&self) -> Iter<'_, T, Tag> {
        let next = self.head.next.get();
        Iter {
            head: &self.head,
            next: if next.is_null() { &self.head } else { next },
            _list: PhantomData,
        }
    }
}

/// Iterator over a [`List`].
pub struct Iter<'a, T, Tag> {
    head: *const Link,
    next: *const Link,
    _list: PhantomData<&'a List<T, Tag>>,
}

impl<'a, T: Linked<Tag>, Tag> Iterator for Iter<'a, T, Tag> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        if ptr::eq(self.next, self.head) {
            return None;
        }
        // SAFETY: a link that is not the head lies in a live item; the lock is the caller's.
        let item: &'a T = unsafe { List::<T, Tag>::item_of(self.next) };
        self.next = List::<T, Tag>::link_of(item).next.get();
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Item {
        value: u32,
        link: Link,
    }
    list_link!(Item, link: ItemLink);

    fn values(list: &List<Item, ItemLink>) -> Vec<u32> {
        list.iter().map(|i| i.value).collect()
    }

    #[test]
    fn push_remove_and_walk_keep_order() {
        let items: Vec<_> = (0..5).map(|value| Item { value, link: Link::new() }).collect();
        let list = Box::new(List::<Item, ItemLink>::new());
        assert!(list.is_empty() && list.first().is_none());
        // SAFETY: the items outlive the list's use of them; one thread.
        unsafe {
            for item in &items[..4] {
                list.push_back(item);
            }
            list.push_front(&items[4]);
            assert_eq!(values(&list), [4, 0, 1, 2, 3]);
            list.remove(&items[1]);
            assert!(!items[1].link.is_linked());
            assert_eq!(values(&list), [4, 0, 2, 3]);
            assert_eq!(list.next(&items[0]).unwrap().value, 2);
            assert_eq!(list.pop_front().unwrap().value, 4);
            assert_eq!(list.last().unwrap().value, 3);
            while list.pop_front().is_some() {}
            assert!(list.is_empty());
            list.push_back(&items[1]);
            assert_eq!(values(&list), [1]);
        }
    }
}

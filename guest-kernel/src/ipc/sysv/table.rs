//! [`Table`]: the objects of one kind in a namespace.
//!
//! An object's number is its place in the table, in the low 15 bits, and above them a sequence number that
//! counts the table's rounds: a number that was given up is not soon another's. Places are given out in
//! a circle for the same reason (ipc/util.c of Linux does both, and programs show the numbers).

use alloc::vec::Vec;

use super::abi::{IPC_CREAT, IPC_EXCL, IPC_PRIVATE};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::sync::Mutex;

/// Bits of a number that are the place.
const INDEX_BITS: u32 = 15;
/// Places at most.
pub const MAX_OBJECTS: usize = 1 << INDEX_BITS;
const _: () = assert!(i32::MAX >> INDEX_BITS == u16::MAX as i32, "a sequence number is an `u16`");
/// A circle of places is no shorter than this.
const MIN_CYCLE: usize = 64;

/// An object's number, whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Id(pub i32);

impl Id {
    fn new(index: usize, seq: u16) -> Self {
        Self(i32::from(seq) << INDEX_BITS | index as i32)
    }

    /// The place in the table.
    pub fn index(self) -> usize {
        self.0 as usize & (MAX_OBJECTS - 1)
    }

    /// The sequence number.
    pub fn seq(self) -> u16 {
        (self.0 >> INDEX_BITS) as u16
    }
}

/// What a table holds.
pub trait Object {
    /// Its number.
    fn id(&self) -> Id;
}

/// The objects of one kind in a namespace.
pub struct Table<T> {
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    slots: Vec<Option<Ref<T>>>,
    /// Keys with the places of their objects, sorted.
    keys: Vec<(i32, u16)>,
    in_use: usize,
    /// The place that was given out last, unless none was.
    last: Option<usize>,
    seq: u16,
}

impl<T> Inner<T> {
    const fn new() -> Self {
        Self { slots: Vec::new(), keys: Vec::new(), in_use: 0, last: None, seq: 0 }
    }

    fn find_key(&self, key: i32) -> Result<usize, usize> {
        self.keys.binary_search_by_key(&key, |&(key, _)| key)
    }

    fn is_free(&self, index: usize) -> bool {
        self.slots.get(index).is_none_or(Option::is_none)
    }

    /// The next free place among the first `max` ones, and its number.
    fn next_id(&self, max: usize) -> Result<Id> {
        if self.in_use >= max.min(MAX_OBJECTS) {
            return Err(Errno::ENOSPC);
        }
        let end = (self.in_use * 3 / 2).max(MIN_CYCLE).min(max).min(MAX_OBJECTS);
        let from = self.last.map_or(0, |last| last + 1);
        let index = (from..end).chain(0..from.min(end)).find(|&index| self.is_free(index));
        let index = index.ok_or(Errno::ENOSPC)?;
        let mut seq = self.seq;
        if self.last.is_some_and(|last| index <= last) {
            seq = seq.wrapping_add(1);
        }
        Ok(Id::new(index, seq))
    }

    fn forget_key(&mut self, key: i32, index: usize) {
        if let Ok(at) = self.find_key(key)
            && usize::from(self.keys[at].1) == index
        {
            self.keys.remove(at);
        }
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Table<T> {
    /// Without objects.
    pub const fn new() -> Self {
        Self { inner: Mutex::new(Inner::new()) }
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.inner.lock().in_use
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The highest place in use; 0 if there is none.
    pub fn highest(&self) -> usize {
        self.inner.lock().slots.iter().rposition(Option::is_some).unwrap_or(0)
    }

    /// The object at a place (`SHM_STAT` and its kin).
    pub fn at(&self, index: i32) -> Result<Ref<T>> {
        let index = usize::try_from(index).map_err(|_| Errno::EINVAL)?;
        // Like Linux, only the place in a whole number counts.
        let slot = self.inner.lock().slots.get(index & (MAX_OBJECTS - 1)).cloned();
        slot.flatten().ok_or(Errno::EINVAL)
    }

    /// The first object at `index` or behind it, with its place.
    pub fn next(&self, index: usize) -> Option<(usize, Ref<T>)> {
        let inner = self.inner.lock();
        let rest = inner.slots.get(index..)?;
        let at = rest.iter().position(Option::is_some)?;
        rest[at].clone().map(|object| (index + at, object))
    }

    /// All objects, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = Ref<T>> {
        let mut from = 0;
        core::iter::from_fn(move || {
            let (index, object) = self.next(from)?;
            from = index + 1;
            Some(object)
        })
    }

    /// Takes all objects out.
    pub fn clear(&self) {
        let gone = core::mem::replace(&mut *self.inner.lock(), Inner::new());
        drop(gone);
    }
}

impl<T: Object> Table<T> {
    /// The object with this number; `EINVAL` if there is none.
    pub fn get(&self, id: i32) -> Result<Ref<T>> {
        let index = usize::try_from(id).map_err(|_| Errno::EINVAL)? & (MAX_OBJECTS - 1);
        let object = self.inner.lock().slots.get(index).cloned().flatten().ok_or(Errno::EINVAL)?;
        if object.id().0 == id { Ok(object) } else { Err(Errno::EINVAL) }
    }

    /// What the `*get` calls do: the number of the object of this key if `check` accepts it, or of a new
    /// one that `make` makes of its number. `max` objects there may be.
    pub fn get_or_make(
        &self,
        key: i32,
        flags: u32,
        max: usize,
        check: impl FnOnce(&T) -> Result<()>,
        make: impl FnOnce(Id) -> Result<Ref<T>>,
    ) -> Result<i32> {
        let mut inner = self.inner.lock();
        let private = key == IPC_PRIVATE;
        let mut at = 0;
        if !private {
            match inner.find_key(key) {
                Ok(found) => {
                    if flags & (IPC_CREAT | IPC_EXCL) == IPC_CREAT | IPC_EXCL {
                        return Err(Errno::EEXIST);
                    }
                    let index = usize::from(inner.keys[found].1);
                    let object = inner.slots[index].as_ref().ok_or(Errno::ENOENT)?;
                    check(object)?;
                    return Ok(object.id().0);
                }
                Err(_) if flags & IPC_CREAT == 0 => return Err(Errno::ENOENT),
                Err(place) => at = place,
            }
        }
        // The object's own limits come before those on their number.
        let id = inner.next_id(max);
        let object = make(id.unwrap_or(Id(0)))?;
        let id = id?;
        let index = id.index();
        let missing = (index + 1).saturating_sub(inner.slots.len());
        inner.slots.try_reserve(missing).map_err(|_| Errno::ENOMEM)?;
        if !private {
            inner.keys.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            inner.keys.insert(at, (key, index as u16));
        }
        if missing > 0 {
            inner.slots.resize(index + 1, None);
        }
        inner.slots[index] = Some(object);
        inner.in_use += 1;
        (inner.last, inner.seq) = (Some(index), id.seq());
        Ok(id.0)
    }

    /// Takes an object out, whose key is this one; false if somebody else has.
    pub fn remove(&self, object: &T, key: i32) -> bool {
        let mut inner = self.inner.lock();
        let index = object.id().index();
        let there = inner.slots.get(index).and_then(Option::as_deref);
        if !there.is_some_and(|there| core::ptr::eq(there, object)) {
            return false;
        }
        inner.forget_key(key, index);
        let gone = inner.slots[index].take();
        inner.in_use -= 1;
        drop(inner);
        drop(gone);
        true
    }

    /// The object is found by its key no more.
    pub fn forget_key(&self, object: &T, key: i32) {
        self.inner.lock().forget_key(key, object.id().index());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(Id);

    impl Object for Thing {
        fn id(&self) -> Id {
            self.0
        }
    }

    fn make(table: &Table<Thing>, key: i32, flags: u32) -> Result<i32> {
        table.get_or_make(key, flags, 100, |_| Ok(()), |id| Ref::try_new(Thing(id)))
    }

    #[test]
    fn keys_find_objects_until_they_are_removed() {
        let table = Table::new();
        assert_eq!(make(&table, 7, 0), Err(Errno::ENOENT));
        let id = make(&table, 7, IPC_CREAT).unwrap();
        assert_eq!(make(&table, 7, IPC_CREAT), Ok(id));
        assert_eq!(make(&table, 7, IPC_CREAT | IPC_EXCL), Err(Errno::EEXIST));
        assert_ne!(make(&table, 0, 0).unwrap(), make(&table, 0, 0).unwrap());
        let object = table.get(id).unwrap();
        assert!(table.remove(&object, 7));
        assert!(!table.remove(&object, 7));
        assert_eq!(make(&table, 7, 0), Err(Errno::ENOENT));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_number_is_not_given_out_again_soon() {
        let table = Table::new();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            let id = make(&table, 0, 0).unwrap();
            assert!(seen.insert(id), "{id} came twice");
            table.remove(&table.get(id).unwrap(), 0);
            assert_eq!(table.get(id).err(), Some(Errno::EINVAL));
        }
    }

    #[test]
    fn no_more_objects_than_may_be() {
        let table = Table::new();
        for _ in 0..100 {
            make(&table, 0, 0).unwrap();
        }
        assert_eq!(make(&table, 0, 0), Err(Errno::ENOSPC));
        assert_eq!(table.highest(), 99);
        table.clear();
        assert!(table.is_empty());
    }
}

//! [`OrdMap`]: an ordered map whose growth reports `ENOMEM`. The standard library's `BTreeMap` has no such
//! way to grow, and in the kernel it is mostly a program that decides how much is put into a map.
//!
//! It is a sorted list in chunks of at most [`CHUNK`] entries: a look-up is two binary searches, an insertion
//! moves a part of one chunk, and a full chunk is cut in two. All that is needed is allocated before
//! anything changes.

use alloc::vec::Vec;
use core::borrow::Borrow;

use crate::errno::{Errno, Result};

/// The most entries of a chunk.
const CHUNK: usize = 64;

/// An ordered map.
pub struct OrdMap<K, V> {
    /// None is empty; all keys of one are less than those of the next.
    chunks: Vec<Vec<(K, V)>>,
    len: usize,
}

impl<K, V> Default for OrdMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

/// Where an entry is: its chunk, and its place there.
type Place = (usize, usize);

impl<K, V> OrdMap<K, V> {
    /// An empty map; nothing is allocated.
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flatten().map(|(key, value)| (key, value))
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.chunks.iter().flatten().map(|(_, value)| value)
    }

    /// The first entry.
    pub fn first_key_value(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }

    /// Takes the first entry out.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        (!self.is_empty()).then(|| self.take((0, 0)))
    }

    /// Keeps the entries for which `f` says so.
    pub fn retain(&mut self, mut f: impl FnMut(&K, &mut V) -> bool) {
        for chunk in &mut self.chunks {
            chunk.retain_mut(|(key, value)| f(key, value));
        }
        self.chunks.retain(|chunk| !chunk.is_empty());
        self.len = self.chunks.iter().map(Vec::len).sum();
    }

    fn take(&mut self, (chunk, at): Place) -> (K, V) {
        let entry = self.chunks[chunk].remove(at);
        self.len -= 1;
        if self.chunks[chunk].is_empty() {
            self.chunks.remove(chunk);
        } else {
            self.join(chunk);
        }
        if let Some(before) = chunk.checked_sub(1) {
            self.join(before);
        }
        entry
    }

    /// Puts a chunk and the next one together if they fill half of one; without memory they stay two.
    fn join(&mut self, chunk: usize) {
        let Some(more) = self.chunks.get(chunk + 1).map(Vec::len) else { return };
        let first = &mut self.chunks[chunk];
        if first.len() + more <= CHUNK / 2 && first.try_reserve(more).is_ok() {
            let next = self.chunks.remove(chunk + 1);
            self.chunks[chunk].extend(next);
        }
    }
}

impl<K: Ord, V> OrdMap<K, V> {
    /// Where the key is, or where it would be put.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> core::result::Result<Place, Place>
    where
        K: Borrow<Q>,
    {
        let after = self.chunks.partition_point(|chunk| chunk[0].0.borrow() <= key);
        let chunk = after.saturating_sub(1);
        let Some(entries) = self.chunks.get(chunk) else { return Err((0, 0)) };
        match entries.binary_search_by(|(there, _)| there.borrow().cmp(key)) {
            Ok(at) => Ok((chunk, at)),
            Err(at) => Err((chunk, at)),
        }
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (chunk, at) = self.find(key).ok()?;
        Some(&self.chunks[chunk][at].1)
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (chunk, at) = self.find(key).ok()?;
        Some(&mut self.chunks[chunk][at].1)
    }

    /// True if the key has a value.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_ok()
    }

    /// The entries from a key on, in order.
    pub fn range_from<Q: Ord + ?Sized>(&self, key: &Q) -> impl Iterator<Item = (&K, &V)>
    where
        K: Borrow<Q>,
    {
        let (chunk, at) = self.find(key).unwrap_or_else(|place| place);
        let (first, rest) = match self.chunks.get(chunk..) {
            Some([first, rest @ ..]) => (&first[at..], rest),
            _ => (&[][..], &[][..]),
        };
        first.iter().chain(rest.iter().flatten()).map(|(key, value)| (key, value))
    }

    /// Takes a key out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let place = self.find(key).ok()?;
        Some(self.take(place).1)
    }

    /// Gives a key a value; the one that it had before is returned. Without memory (`ENOMEM`) nothing
    /// changes.
    pub fn try_insert(&mut self, key: K, value: V) -> Result<Option<V>> {
        match self.find(&key) {
            Ok((chunk, at)) => Ok(Some(core::mem::replace(&mut self.chunks[chunk][at].1, value))),
            Err(place) => {
                self.put(place, key, value)?;
                Ok(None)
            }
        }
    }

    /// The value of a key, which is `make`'s if it had none.
    pub fn get_or_try_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> Result<&mut V> {
        let (chunk, at) = match self.find(&key) {
            Ok(place) => place,
            Err(place) => self.put(place, key, make())?,
        };
        Ok(&mut self.chunks[chunk][at].1)
    }

    /// Puts an entry where [`find`](Self::find) said; says where it is.
    fn put(&mut self, (mut chunk, mut at): Place, key: K, value: V) -> Result<Place> {
        let no_memory = |_| Errno::ENOMEM;
        if self.chunks.is_empty() {
            self.chunks.try_reserve(1).map_err(no_memory)?;
            self.chunks.push(Vec::new());
            // An empty chunk must not stay.
            if self.chunks[0].try_reserve(1).is_err() {
                self.chunks.clear();
                return Err(Errno::ENOMEM);
            }
        }
        if self.chunks[chunk].len() == CHUNK {
            // What is put in order at the end leaves full chunks behind it.
            let last = chunk + 1 == self.chunks.len() && at == CHUNK;
            let cut = if last { CHUNK } else { CHUNK / 2 };
            let mut second = Vec::new();
            second.try_reserve(CHUNK - cut + 1).map_err(no_memory)?;
            self.chunks.try_reserve(1).map_err(no_memory)?;
            second.extend(self.chunks[chunk].drain(cut..));
            self.chunks.insert(chunk + 1, second);
            if at >= cut {
                (chunk, at) = (chunk + 1, at - cut);
            }
        }
        let entries = &mut self.chunks[chunk];
        // Where a chunk was cut there is room.
        entries.try_reserve(1).map_err(no_memory)?;
        entries.insert(at, (key, value));
        self.len += 1;
        Ok((chunk, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn check(map: &OrdMap<u16, u32>, model: &BTreeMap<u16, u32>) {
        assert_eq!(map.len(), model.len());
        assert!(map.iter().eq(model.iter()));
        assert!(map.chunks.iter().all(|chunk| (1..=CHUNK).contains(&chunk.len())));
    }

    proptest! {
        #[test]
        fn it_does_what_a_btree_map_does(
            ops in prop::collection::vec((0..6_u8, 0..500_u16, any::<u32>()), 1..2000),
        ) {
            let (mut map, mut model) = (OrdMap::new(), BTreeMap::new());
            for (op, key, value) in ops {
                match op {
                    0..=2 => {
                        assert_eq!(map.try_insert(key, value).unwrap(), model.insert(key, value));
                    }
                    3 => assert_eq!(map.remove(&key), model.remove(&key)),
                    4 => {
                        *map.get_or_try_insert_with(key, || 1).unwrap() ^= value;
                        *model.entry(key).or_insert(1) ^= value;
                    }
                    _ => assert_eq!(map.pop_first(), model.pop_first()),
                }
                assert_eq!(map.get(&key), model.get(&key));
                assert!(map.range_from(&key).take(3).eq(model.range(key..).take(3)));
            }
            check(&map, &model);
            map.retain(|key, _| key % 7 < 3);
            model.retain(|key, _| key % 7 < 3);
            check(&map, &model);
        }
    }

    #[test]
    fn chunks_that_empty_are_put_together() {
        let mut map = OrdMap::new();
        for key in 0..10_000 {
            map.try_insert(key, key).unwrap();
        }
        assert_eq!(map.chunks.len(), 10_000_usize.div_ceil(CHUNK));
        for key in (0..10_000).filter(|key| key % 64 != 0) {
            map.remove(&key);
        }
        assert!(map.chunks.len() < 20, "{}", map.chunks.len());
    }
}

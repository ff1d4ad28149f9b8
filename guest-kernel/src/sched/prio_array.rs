//! A priority array: 140 queues and a bitmap of those that hold something.
//!
//! Adding, removing and finding the first entity of the best level take the same few instructions
//! however many entities there are: the best level is a find-first-set over three words.

use belljar_abi::Described;

use super::entity::{Entity, RunLink};
use super::prio::MAX_PRIO;
use crate::list::List;

const WORDS: usize = MAX_PRIO.div_ceil(64);

/// The queues of one array. It must not move once something was queued; the run queue's lock guards it.
#[repr(C)]
#[derive(Described)]
pub struct PrioArray {
    nr_active: u32,
    bitmap: [u64; WORDS],
    queue: [List<Entity, RunLink>; MAX_PRIO],
}

impl Default for PrioArray {
    fn default() -> Self {
        Self::new()
    }
}

impl PrioArray {
    /// An empty array.
    pub const fn new() -> Self {
        Self { nr_active: 0, bitmap: [0; WORDS], queue: [const { List::new() }; MAX_PRIO] }
    }

    /// How many entities are queued.
    pub fn len(&self) -> u32 {
        self.nr_active
    }

    /// True if none is.
    pub fn is_empty(&self) -> bool {
        self.nr_active == 0
    }

    fn note_added(&mut self, prio: usize) {
        self.bitmap[prio / 64] |= 1 << (prio % 64);
        self.nr_active += 1;
    }

    /// Queues `entity` behind the others of level `prio`.
    ///
    /// # Safety
    /// The run queue's lock is held, the entity is queued nowhere and stays alive until it is dequeued
    /// with the same `prio`.
    pub unsafe fn enqueue(&mut self, entity: &Entity, prio: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.queue[prio].push_back(entity) };
        self.note_added(prio);
    }

    /// Queues `entity` before the others of level `prio`.
    ///
    /// # Safety
    /// As for [`enqueue`](Self::enqueue).
    pub unsafe fn enqueue_head(&mut self, entity: &Entity, prio: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.queue[prio].push_front(entity) };
        self.note_added(prio);
    }

    /// Takes `entity` off level `prio`.
    ///
    /// # Safety
    /// The run queue's lock is held, and the entity is queued here on that level.
    pub unsafe fn dequeue(&mut self, entity: &Entity, prio: usize) {
        let queue = &self.queue[prio];
        // SAFETY: the caller's promise.
        unsafe { queue.remove(entity) };
        if queue.is_empty() {
            self.bitmap[prio / 64] &= !(1 << (prio % 64));
        }
        self.nr_active -= 1;
    }

    /// Moves `entity` behind the others of its level.
    ///
    /// # Safety
    /// As for [`dequeue`](Self::dequeue).
    pub unsafe fn requeue(&mut self, entity: &Entity, prio: usize) {
        let queue = &self.queue[prio];
        // SAFETY: the caller's promise; it is off the list when it is pushed.
        unsafe {
            queue.remove(entity);
            queue.push_back(entity);
        }
    }

    /// The best level that holds something.
    #[inline]
    pub fn first_level(&self) -> Option<usize> {
        let word = self.bitmap.iter().position(|w| *w != 0)?;
        Some(word * 64 + self.bitmap[word].trailing_zeros() as usize)
    }

    /// The first entity of the best level.
    #[inline]
    pub fn first(&self) -> Option<&Entity> {
        self.queue[self.first_level()?].first()
    }

    /// All entities, best level first.
    pub fn iter(&self) -> impl Iterator<Item = &Entity> {
        self.queue.iter().flat_map(List::iter)
    }
}

#[cfg(test)]
mod tests {
    use super::super::entity::BARE_OPS;
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Enqueue(usize, usize),
        EnqueueHead(usize, usize),
        Dequeue(usize),
        Requeue(usize),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            (0..12_usize, 0..MAX_PRIO).prop_map(|(e, p)| Op::Enqueue(e, p)),
            (0..12_usize, 0..MAX_PRIO).prop_map(|(e, p)| Op::EnqueueHead(e, p)),
            (0..12_usize).prop_map(Op::Dequeue),
            (0..12_usize).prop_map(Op::Requeue),
        ];
        prop::collection::vec(op, 0..200)
    }

    proptest! {
        /// The array behaves like a map from level to a plain queue.
        #[test]
        fn it_picks_what_a_model_picks(ops in ops()) {
            let entities: Vec<_> = (0..12).map(|_| Entity::new(&BARE_OPS)).collect();
            let mut array = Box::new(PrioArray::new());
            let mut model: Vec<Vec<usize>> = vec![Vec::new(); MAX_PRIO];
            let mut level: [Option<usize>; 12] = [None; 12];
            for op in ops {
                // SAFETY: one thread; `level` tells what is queued where.
                unsafe {
                    match op {
                        Op::Enqueue(e, p) if level[e].is_none() => {
                            array.enqueue(&entities[e], p);
                            model[p].push(e);
                            level[e] = Some(p);
                        }
                        Op::EnqueueHead(e, p) if level[e].is_none() => {
                            array.enqueue_head(&entities[e], p);
                            model[p].insert(0, e);
                            level[e] = Some(p);
                        }
                        Op::Dequeue(e) => if let Some(p) = level[e].take() {
                            array.dequeue(&entities[e], p);
                            model[p].retain(|x| *x != e);
                        },
                        Op::Requeue(e) => if let Some(p) = level[e] {
                            array.requeue(&entities[e], p);
                            model[p].retain(|x| *x != e);
                            model[p].push(e);
                        },
                        _ => {}
                    }
                }
                let want = model.iter().flatten().next().map(|e| &raw const entities[*e]);
                prop_assert_eq!(array.first().map(|e| e as *const _), want);
                prop_assert_eq!(array.len() as usize, model.iter().flatten().count());
                prop_assert_eq!(array.first_level(), model.iter().position(|q| !q.is_empty()));
            }
            let got: Vec<_> = array.iter().map(|e| e as *const Entity).collect();
            let want: Vec<_> = model.iter().flatten().map(|e| &raw const entities[*e]).collect();
            prop_assert_eq!(got, want);
        }
    }
}

//! The slice's entries as the guest wrote them, where each one leads, and the way back: bus frame to entries.
//!
//! The entries of one bus frame form a list through the entries themselves, so that adding, removing and finding
//! cost the same with ten mappings as with a million. No entry leads to a bus frame that the way back lacks.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;

use xen_ioreq::Bfn;

const NONE: u32 = u32::MAX;

/// One entry.
#[derive(Debug)]
struct Slot<T> {
    /// As the guest wrote it.
    guest: u64,
    /// Where it leads, and what keeps it leading there; without one, scratch.
    target: Option<(Bfn, T)>,
    next: u32,
    prev: u32,
}

/// The entries of a slice, by their position in it. `T` is a reference to a mapping.
#[derive(Debug)]
pub(super) struct ReverseMap<T> {
    slots: Vec<Slot<T>>,
    /// First entry and number of entries of every bus frame that any leads to.
    heads: HashMap<Bfn, Head>,
    linked: usize,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    first: u32,
    count: u32,
}

impl<T> ReverseMap<T> {
    pub(super) fn new(entries: usize) -> Self {
        let empty = || Slot { guest: 0, target: None, next: NONE, prev: NONE };
        Self { slots: (0..entries).map(|_| empty()).collect(), heads: HashMap::new(), linked: 0 }
    }

    /// The entry as the guest wrote it; 0 outside.
    pub(super) fn guest(&self, at: usize) -> u64 {
        self.slots.get(at).map_or(0, |s| s.guest)
    }

    pub(super) fn set_guest(&mut self, at: usize, value: u64) {
        if let Some(slot) = self.slots.get_mut(at) {
            slot.guest = value;
        }
    }

    /// Forgets what the guest wrote.
    pub(super) fn clear_guest(&mut self) {
        self.slots.iter_mut().for_each(|s| s.guest = 0);
    }

    /// Where the entry leads.
    pub(super) fn target(&self, at: usize) -> Option<Bfn> {
        self.slots.get(at)?.target.as_ref().map(|(bfn, _)| *bfn)
    }

    /// Entries that lead somewhere.
    pub(super) fn linked(&self) -> usize {
        self.linked
    }

    /// How many entries lead to a bus frame.
    pub(super) fn count(&self, bfn: Bfn) -> u32 {
        self.heads.get(&bfn).map_or(0, |h| h.count)
    }

    /// Entries that lead to `bfn`, in no order.
    pub(super) fn entries(&self, bfn: Bfn) -> Vec<usize> {
        let Some(head) = self.heads.get(&bfn) else { return Vec::new() };
        let mut found = Vec::with_capacity(head.count as usize);
        let mut at = head.first;
        while let Some(slot) = self.slots.get(at as usize) {
            found.push(at as usize);
            at = slot.next;
        }
        found
    }

    /// All entries that lead somewhere.
    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|at| self.target(*at).is_some()).collect()
    }

    /// Makes an entry lead to `bfn`, instead of where it led: returns that.
    pub(super) fn link(&mut self, at: usize, bfn: Bfn, reference: T) -> Option<T> {
        let old = self.unlink(at);
        let Ok(index) = u32::try_from(at) else { return Some(reference) };
        let Some(slot) = self.slots.get_mut(at) else { return Some(reference) };
        let next = match self.heads.entry(bfn) {
            MapEntry::Occupied(mut e) => {
                let head = e.get_mut();
                let next = head.first;
                *head = Head { first: index, count: head.count + 1 };
                next
            }
            MapEntry::Vacant(e) => {
                e.insert(Head { first: index, count: 1 });
                NONE
            }
        };
        slot.target = Some((bfn, reference));
        (slot.next, slot.prev) = (next, NONE);
        if let Some(after) = self.slots.get_mut(next as usize) {
            after.prev = index;
        }
        self.linked += 1;
        old
    }

    /// Makes an entry lead nowhere. Returns what kept it.
    pub(super) fn unlink(&mut self, at: usize) -> Option<T> {
        let slot = self.slots.get_mut(at)?;
        let (bfn, reference) = slot.target.take()?;
        let (next, prev) = (slot.next, slot.prev);
        (slot.next, slot.prev) = (NONE, NONE);
        if let Some(after) = self.slots.get_mut(next as usize) {
            after.prev = prev;
        }
        if let Some(before) = self.slots.get_mut(prev as usize) {
            before.next = next;
        }
        if let MapEntry::Occupied(mut e) = self.heads.entry(bfn) {
            let head = e.get_mut();
            head.count -= 1;
            if head.count == 0 {
                e.remove();
            } else if prev == NONE {
                head.first = next;
            }
        }
        self.linked -= 1;
        Some(reference)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_map_of_sets(ops in prop::collection::vec((0usize..24, prop::option::of(0u64..6)), 0..400)) {
            let mut map = ReverseMap::new(24);
            let mut model: BTreeMap<usize, (u64, usize)> = BTreeMap::new();
            for (serial, (at, to)) in ops.into_iter().enumerate() {
                let before = model.remove(&at).map(|(_, serial)| serial);
                let old = match to {
                    Some(bfn) => {
                        model.insert(at, (bfn, serial));
                        map.link(at, Bfn(bfn), serial)
                    }
                    None => map.unlink(at),
                };
                prop_assert_eq!(old, before);
                prop_assert_eq!(map.linked(), model.len());
            }
            for bfn in 0..6 {
                let found = map.entries(Bfn(bfn));
                let expected: BTreeSet<_> =
                    model.iter().filter(|(_, (b, _))| *b == bfn).map(|(at, _)| *at).collect();
                prop_assert_eq!(found.len(), expected.len());
                prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
            }
            prop_assert_eq!(map.all(), model.keys().copied().collect::<Vec<_>>());
            prop_assert_eq!(map.heads.len(), model.values().map(|(b, _)| b).collect::<BTreeSet<_>>().len());
        }
    }

    #[test]
    fn positions_outside_lead_nowhere_and_take_nothing() {
        let mut map = ReverseMap::new(2);
        assert_eq!(map.link(2, Bfn(1), 'x'), Some('x'), "the reference comes back");
        map.set_guest(7, 1);
        assert_eq!((map.target(2), map.unlink(9), map.guest(7), map.linked()), (None, None, 0, 0));
        assert_eq!(map.entries(Bfn(1)), Vec::<usize>::new());
    }
}

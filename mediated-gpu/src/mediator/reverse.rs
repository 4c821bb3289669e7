//! The slice's entries as the guest wrote them, where each one leads, and the way back: bus frame to entries.
//!
//! The entries of one bus frame form a list through the entries themselves, so that adding, removing and finding cost the same
//! with ten mappings as with a million; all of them share one reference, since a driver points most of its slice at one page.
//! No entry leads to a bus frame that the way back lacks. What was never written takes no memory.

use std::ops::Range;

use slab::Slab;
use xen_ioreq::Bfn;

use super::by_bfn::ByBfn;

/// A position or a frame's key plus one; 0 is none, so that tables begin as memory that the kernel has not given yet.
type Link = u32;
const NONE: Link = 0;

fn link_of(index: usize) -> Option<Link> {
    u32::try_from(index).ok()?.checked_add(1)
}

fn index_of(link: Link) -> Option<usize> {
    link.checked_sub(1).map(|index| index as usize)
}

/// A bus frame that entries lead to.
#[derive(Debug)]
struct Frame<T> {
    bfn: Bfn,
    /// What keeps all of them leading there.
    reference: T,
    first: Link,
    entries: u32,
}

/// The entries of a slice, by their position in it. `T` is a reference to a mapping.
#[derive(Debug)]
pub(super) struct ReverseMap<T> {
    /// As the guest wrote them.
    guest: Vec<u64>,
    /// Which frame each leads to; [`NONE`]: scratch.
    leads: Vec<Link>,
    next: Vec<Link>,
    prev: Vec<Link>,
    frames: Slab<Frame<T>>,
    by_bfn: ByBfn,
    linked: usize,
}

impl<T> ReverseMap<T> {
    pub(super) fn new(entries: usize) -> Self {
        let mut map = Self::of_places();
        map.guest = vec![0; entries];
        map.grow(entries);
        map
    }

    /// One that does not know what a guest wrote, and has no places yet.
    pub(super) fn of_places() -> Self {
        Self {
            guest: Vec::new(),
            leads: Vec::new(),
            next: Vec::new(),
            prev: Vec::new(),
            frames: Slab::new(),
            by_bfn: ByBfn::new(),
            linked: 0,
        }
    }

    /// Sees to it that there are so many places.
    pub(super) fn grow(&mut self, places: usize) {
        for links in [&mut self.leads, &mut self.next, &mut self.prev] {
            links.resize(places.max(links.len()), NONE);
        }
    }

    /// The entry as the guest wrote it; 0 outside.
    pub(super) fn guest(&self, at: usize) -> u64 {
        self.guest.get(at).copied().unwrap_or(0)
    }

    /// The entries of a range, as the guest wrote them; none if it is not all inside.
    pub(super) fn guests(&self, range: Range<usize>) -> &[u64] {
        self.guest.get(range).unwrap_or_default()
    }

    pub(super) fn set_guest(&mut self, at: usize, value: u64) {
        if let Some(guest) = self.guest.get_mut(at) {
            *guest = value;
        }
    }

    /// Forgets what the guest wrote.
    pub(super) fn clear_guest(&mut self) {
        self.guest.fill(0);
    }

    fn frame(&self, at: usize) -> Option<&Frame<T>> {
        self.frames.get(index_of(*self.leads.get(at)?)?)
    }

    /// Where the entry leads.
    pub(super) fn target(&self, at: usize) -> Option<Bfn> {
        self.frame(at).map(|f| f.bfn)
    }

    /// Whether the entry leads somewhere.
    pub(super) fn is_linked(&self, at: usize) -> bool {
        self.leads.get(at).is_some_and(|frame| *frame != NONE)
    }

    /// Entries that lead somewhere.
    pub(super) fn linked(&self) -> usize {
        self.linked
    }

    fn frame_of(&self, bfn: Bfn) -> Option<&Frame<T>> {
        self.frames.get(self.by_bfn.get(bfn)?)
    }

    /// How many entries lead to a bus frame.
    pub(super) fn count(&self, bfn: Bfn) -> u32 {
        self.frame_of(bfn).map_or(0, |f| f.entries)
    }

    /// Entries that lead to `bfn`, in no order.
    pub(super) fn entries(&self, bfn: Bfn) -> Vec<usize> {
        let mut found = Vec::with_capacity(self.count(bfn) as usize);
        found.extend(self.leading(bfn));
        found
    }

    /// The same, one after the other.
    pub(super) fn leading(&self, bfn: Bfn) -> impl Iterator<Item = usize> {
        let first = self.frame_of(bfn).and_then(|frame| index_of(frame.first));
        std::iter::successors(first, |at| index_of(*self.next.get(*at)?))
    }

    /// What keeps all that entries lead to. They lead nowhere then.
    pub(super) fn into_references(self) -> impl Iterator<Item = T> {
        self.frames.into_iter().map(|(_, frame)| frame.reference)
    }

    /// All entries that lead somewhere.
    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.leads.len()).filter(|at| self.is_linked(*at)).collect()
    }

    /// Makes entries lead to `bfn`, instead of where they led. References that nothing needs any more are added to `spare`:
    /// those of frames to which no entry leads now, and this one, if there was one already.
    pub(super) fn link(
        &mut self,
        entries: impl IntoIterator<Item = usize>,
        bfn: Bfn,
        reference: T,
        spare: &mut impl Extend<T>,
    ) {
        let key = match self.by_bfn.find(bfn) {
            Some(key) => {
                spare.extend([reference]);
                key
            }
            None => {
                let key = self.frames.insert(Frame { bfn, reference, first: NONE, entries: 0 });
                self.by_bfn.insert(bfn, key);
                key
            }
        };
        for at in entries {
            if self.leads.get(at).copied() != link_of(key) {
                spare.extend(self.unlink(at));
                self.push(at, key);
            }
        }
        spare.extend(self.drop_unused(key));
    }

    /// Makes an entry that leads nowhere the first of a frame's.
    fn push(&mut self, at: usize, key: usize) {
        let (Some(link), Some(frame)) = (link_of(at), self.frames.get_mut(key)) else { return };
        let (Some(leads), Some(next), Some(key)) =
            (self.leads.get_mut(at), self.next.get_mut(at), link_of(key))
        else {
            return;
        };
        (*leads, *next) = (key, frame.first);
        if let Some(after) = index_of(frame.first).and_then(|after| self.prev.get_mut(after)) {
            *after = link;
        }
        frame.first = link;
        frame.entries += 1;
        self.linked += 1;
    }

    /// Makes an entry lead nowhere. Returns what kept it, if it was the last that needed it.
    pub(super) fn unlink(&mut self, at: usize) -> Option<T> {
        let key = index_of(std::mem::replace(self.leads.get_mut(at)?, NONE))?;
        let take = |links: &mut Vec<Link>| links.get_mut(at).map_or(NONE, std::mem::take);
        let (next, prev) = (take(&mut self.next), take(&mut self.prev));
        if let Some(after) = index_of(next).and_then(|after| self.prev.get_mut(after)) {
            *after = prev;
        }
        let frame = self.frames.get_mut(key)?;
        match index_of(prev).and_then(|before| self.next.get_mut(before)) {
            Some(before) => *before = next,
            None => frame.first = next,
        }
        frame.entries -= 1;
        self.linked -= 1;
        self.drop_unused(key)
    }

    /// Forgets a frame that no entry leads to.
    fn drop_unused(&mut self, key: usize) -> Option<T> {
        if self.frames.get(key)?.entries != 0 {
            return None;
        }
        let frame = self.frames.try_remove(key)?;
        self.by_bfn.remove(frame.bfn);
        Some(frame.reference)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_map_of_sets(
            ops in prop::collection::vec((0usize..24, 1usize..6, prop::option::of(0u64..6)), 0..400),
        ) {
            let mut map = ReverseMap::new(24);
            let mut model: BTreeMap<usize, u64> = BTreeMap::new();
            // By serial numbers: which reference keeps each frame, and which have come back.
            let mut keeps: BTreeMap<u64, usize> = BTreeMap::new();
            let mut back = Vec::new();
            for (serial, (first, count, to)) in ops.into_iter().enumerate() {
                let range = first..(first + count).min(24);
                match to {
                    Some(bfn) => {
                        map.link(range.clone(), Bfn(bfn), serial, &mut back);
                        keeps.entry(bfn).or_insert(serial);
                        range.for_each(|at| { model.insert(at, bfn); });
                    }
                    None => {
                        back.extend(range.clone().filter_map(|at| map.unlink(at)));
                        range.for_each(|at| { model.remove(&at); });
                    }
                }
                let used: BTreeSet<u64> = model.values().copied().collect();
                keeps.retain(|bfn, _| used.contains(bfn));
                let kept: BTreeSet<usize> = keeps.values().copied().collect();
                prop_assert!(back.iter().all(|serial| !kept.contains(serial)), "{:?} of {:?}", back, keeps);
                prop_assert_eq!(map.linked(), model.len());
                prop_assert_eq!(map.frames.len(), used.len());
            }
            for bfn in 0..6 {
                let found = map.entries(Bfn(bfn));
                let expected: BTreeSet<_> = model.iter().filter(|(_, b)| **b == bfn).map(|(at, _)| *at).collect();
                prop_assert_eq!((found.len(), map.count(Bfn(bfn)) as usize), (expected.len(), expected.len()));
                prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
            }
            prop_assert_eq!(map.all(), model.keys().copied().collect::<Vec<_>>());
            // No reference is lost, and none comes back twice.
            let left: Vec<_> = map.all().into_iter().filter_map(|at| map.unlink(at)).collect();
            prop_assert_eq!(left.iter().copied().collect::<BTreeSet<_>>(), keeps.values().copied().collect());
            back.extend(left);
            back.sort_unstable();
            let unique = back.iter().copied().collect::<BTreeSet<_>>();
            prop_assert_eq!(unique.len(), back.len());
            prop_assert!(map.by_bfn.is_empty() && map.frames.is_empty());
        }
    }

    #[test]
    fn positions_outside_lead_nowhere_and_take_nothing() {
        let mut map = ReverseMap::new(2);
        let mut spare = Vec::new();
        map.link([2, usize::MAX], Bfn(1), 'x', &mut spare);
        assert_eq!(spare, ['x'], "the reference comes back");
        map.set_guest(7, 1);
        assert_eq!((map.target(2), map.unlink(9), map.guest(7), map.linked()), (None, None, 0, 0));
        assert_eq!((map.entries(Bfn(1)), map.guests(1..3)), (vec![], &[][..]));
    }
}

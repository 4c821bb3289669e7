//! Numbers by bus frame, for frames that come in runs: neighbours stand side by side, so that one look into a hash table is for
//! eight of them, and what comes next lies in the line that was just used.

use foldhash::{HashMap, HashMapExt};
use slab::Slab;
use xen_ioreq::Bfn;

/// Bus frames of a run.
const RUN: usize = 8;

/// Neighbours.
#[derive(Debug, Default)]
struct Run {
    /// Plus one each; 0 is none.
    numbers: [u32; RUN],
    used: u32,
}

/// A map from bus frames to numbers.
#[derive(Debug)]
pub(super) struct ByBfn {
    runs: Slab<Run>,
    /// Where a run is, by the quotient of its frames' numbers.
    by_quotient: HashMap<u64, usize>,
    /// The run in which something was last looked for or entered, and the one from which something was last removed. In what
    /// is mapped anew these take turns.
    found: Option<(u64, usize)>,
    removed: Option<(u64, usize)>,
}

/// Of which run a bus frame is, and its place there.
fn split(bfn: Bfn) -> (u64, usize) {
    (bfn.0 / RUN as u64, usize::try_from(bfn.0 % RUN as u64).unwrap_or(0))
}

impl ByBfn {
    /// Without numbers.
    pub(super) fn new() -> Self {
        Self { runs: Slab::new(), by_quotient: HashMap::new(), found: None, removed: None }
    }

    /// Whether no frame has a number, and nothing is left of those that had.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.by_quotient.is_empty()
    }

    /// The number of a bus frame.
    pub(super) fn get(&self, bfn: Bfn) -> Option<usize> {
        let (run, at) = split(bfn);
        self.number(*self.by_quotient.get(&run)?, at)
    }

    /// The same, for who is about to enter its neighbours.
    pub(super) fn find(&mut self, bfn: Bfn) -> Option<usize> {
        let (run, at) = split(bfn);
        if self.found.is_none_or(|(last, _)| last != run) {
            self.found = Some((run, *self.by_quotient.get(&run)?));
        }
        self.number(self.found?.1, at)
    }

    fn number(&self, run: usize, at: usize) -> Option<usize> {
        let number = *self.runs.get(run)?.numbers.get(at)?;
        number.checked_sub(1).map(|number| number as usize)
    }

    /// Gives a bus frame a number, if it has none. `false`: it has one, or this one is above all that there can be.
    pub(super) fn insert(&mut self, bfn: Bfn, number: usize) -> bool {
        let Some(link) = u32::try_from(number).ok().and_then(|number| number.checked_add(1)) else {
            return false;
        };
        let (run, at) = split(bfn);
        let place = match self.found {
            Some((last, place)) if last == run => place,
            _ => *self.by_quotient.entry(run).or_insert_with(|| self.runs.insert(Run::default())),
        };
        self.found = Some((run, place));
        let Some(run) = self.runs.get_mut(place) else { return false };
        match run.numbers.get_mut(at) {
            Some(free @ 0) => *free = link,
            _ => return false,
        }
        run.used += 1;
        true
    }

    /// Takes a bus frame's number away.
    pub(super) fn remove(&mut self, bfn: Bfn) {
        let (quotient, at) = split(bfn);
        if self.removed.is_none_or(|(last, _)| last != quotient) {
            self.removed = self.by_quotient.get(&quotient).map(|place| (quotient, *place));
        }
        let Some((_, place)) = self.removed else { return };
        let Some(run) = self.runs.get_mut(place) else { return };
        let before = run.numbers.get_mut(at).map_or(0, std::mem::take);
        run.used -= u32::from(before != 0);
        if run.used == 0 {
            self.runs.try_remove(place);
            self.by_quotient.remove(&quotient);
            self.removed = None;
            self.found.take_if(|(found, _)| *found == quotient);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_map(ops in prop::collection::vec((0u8..4, 0u64..40, 0usize..100), 0..600)) {
            let mut ours = ByBfn::new();
            let mut model = BTreeMap::new();
            for (what, bfn, number) in ops {
                match what {
                    0 | 1 => {
                        let free = !model.contains_key(&bfn);
                        prop_assert_eq!(ours.insert(Bfn(bfn), number), free);
                        model.entry(bfn).or_insert(number);
                    }
                    2 => {
                        ours.remove(Bfn(bfn));
                        model.remove(&bfn);
                    }
                    _ => prop_assert_eq!(ours.find(Bfn(bfn)), model.get(&bfn).copied()),
                }
                prop_assert!((0..41).all(|bfn| ours.get(Bfn(bfn)) == model.get(&bfn).copied()));
            }
            model.into_keys().for_each(|bfn| ours.remove(Bfn(bfn)));
            prop_assert!(ours.is_empty());
        }
    }

    #[test]
    fn a_number_that_is_too_large_is_not_entered() {
        let mut ours = ByBfn::new();
        assert!(!ours.insert(Bfn(3), u32::MAX as usize));
        assert!(ours.insert(Bfn(3), u32::MAX as usize - 1));
        assert_eq!((ours.get(Bfn(3)), ours.get(Bfn(u64::MAX))), (Some(u32::MAX as usize - 1), None));
    }
}

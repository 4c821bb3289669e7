//! Frame numbers of a translated domain at which grants are mapped: which of a range are taken.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xen_ioreq::{Errno, Gfn};

/// The range.
#[derive(Debug)]
pub(super) struct Window {
    all: Range<u64>,
    /// First and end of each run that is taken.
    taken: Mutex<BTreeMap<u64, u64>>,
}

impl Window {
    pub(super) fn new(gfns: Range<Gfn>) -> Self {
        Self { all: gfns.start.0..gfns.end.0, taken: Mutex::default() }
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        // What a panic left is whole: nothing here panics half way.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first run of so many that is free. EINVAL: none asked for. ENOSPC: there is no such run.
    pub(super) fn take(self: &Arc<Self>, pages: usize) -> Result<Taken, Errno> {
        let pages = u64::try_from(pages).map_err(|_| Errno::ENOSPC)?;
        if pages == 0 {
            return Err(Errno::EINVAL);
        }
        let mut taken = self.taken();
        let starts = std::iter::once(self.all.start).chain(taken.values().copied());
        let ends = taken.keys().copied().chain([self.all.end]);
        let free = starts.zip(ends).find(|(start, end)| end.saturating_sub(*start) >= pages);
        let (first, _) = free.ok_or(Errno::ENOSPC)?;
        taken.insert(first, first + pages);
        Ok(Taken { window: self.clone(), first })
    }
}

/// A run, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    window: Arc<Window>,
    first: u64,
}

impl Taken {
    pub(super) fn first(&self) -> Gfn {
        Gfn(self.first)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.window.taken().remove(&self.first);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_run_is_the_first_that_is_free_as_a_list_of_pages_has_it(
            len in 0u64..40, steps in vec((0usize..12, any::<prop::sample::Index>(), any::<bool>()), 1..60),
        ) {
            let window = Arc::new(Window::new(Gfn(100)..Gfn(100 + len)));
            let (mut pages, mut held) = (vec![false; usize::try_from(len).expect("few")], Vec::new());
            for (count, which, give_back) in steps {
                if give_back && !held.is_empty() {
                    let (taken, count): (Taken, usize) = held.swap_remove(which.index(held.len()));
                    let first = usize::try_from(taken.first().0 - 100).expect("inside");
                    pages[first..first + count].fill(false);
                    continue;
                }
                let free = (0..pages.len()).find(|at| {
                    pages.get(*at..at + count).is_some_and(|run| run.iter().all(|taken| !taken))
                });
                match window.take(count) {
                    Err(Errno::EINVAL) => prop_assert_eq!(count, 0),
                    Err(e) => prop_assert_eq!((e, free), (Errno::ENOSPC, None)),
                    Ok(taken) => {
                        prop_assert_eq!(Some(taken.first().0), free.map(|at| 100 + at as u64));
                        pages[free.expect("just so")..][..count].fill(true);
                        held.push((taken, count));
                    }
                }
            }
        }
    }
}

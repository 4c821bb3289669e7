//! Where in a sorted list of starts to look for an address: a directory, so that a search takes the same time however many
//! ranges there are and wherever they lie.
//!
//! The span of the starts is cut into equal parts, about two for each start. A part says which starts come before its
//! end; one in which many lie close together is cut again.

/// A part with more starts than this is cut again; fewer are looked at one by one.
const FEW: usize = 4;

#[derive(Clone, Debug)]
enum Part {
    /// No start from this index on lies in the part, and at most [`FEW`] before it do.
    Below(u32),
    Cut(Box<Cut>),
}

#[derive(Clone, Debug)]
struct Cut {
    /// The first start, and its index.
    base: u64,
    first: u32,
    /// log2 of a part's length.
    shift: u32,
    parts: Vec<Part>,
}

/// The directory of a list of starts.
#[derive(Clone, Debug, Default)]
pub(super) struct Index(Option<Cut>);

impl Cut {
    /// Of `starts`, at least one and sorted, the first of which is the list's `first`th.
    fn new(starts: &[u64], first: u32) -> Option<Self> {
        let (&base, &end) = (starts.first()?, starts.last()?);
        let span = end - base;
        let fine = |shift: &u32| span >> shift < 2 * starts.len() as u64;
        let shift = (0..u64::BITS).find(fine)?;
        let (mut rest, mut at, mut parts) = (starts, first, Vec::new());
        for part in 0..=span >> shift {
            let (here, later) = rest.split_at(rest.partition_point(|s| (s - base) >> shift <= part));
            let next = at + u32::try_from(here.len()).ok()?;
            // The first and the last start are in different parts if there are several, so this comes to an end.
            let cut = if here.len() > FEW { Self::new(here, at) } else { None };
            parts.push(cut.map_or(Part::Below(next), |cut| Part::Cut(Box::new(cut))));
            (rest, at) = (later, next);
        }
        Some(Self { base, first, shift, parts })
    }
}

impl Index {
    /// Of a sorted list without equal starts.
    pub(super) fn new(starts: &[u64]) -> Self {
        Self(Cut::new(starts, 0))
    }

    /// The index of the last of `starts`, the list that it was made of, that is not above `addr`.
    #[inline]
    pub(super) fn last_not_above(&self, starts: &[u64], addr: u64) -> Option<usize> {
        let mut cut = self.0.as_ref()?;
        let below = loop {
            let part = (addr.checked_sub(cut.base)? >> cut.shift).min(cut.parts.len() as u64 - 1);
            #[expect(clippy::cast_possible_truncation, reason = "below the number of parts")]
            match cut.parts.get(part as usize)? {
                Part::Below(below) => break *below as usize,
                Part::Cut(finer) if addr < finer.base => break finer.first as usize,
                Part::Cut(finer) => cut = finer,
            }
        };
        starts.get(..below)?.iter().rposition(|start| *start <= addr)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Starts in clusters, as BARs lie: below 4 GiB, above it, and single ones anywhere.
    fn starts() -> impl Strategy<Value = Vec<u64>> {
        let cluster = (any::<u64>(), 0u32..64, 1u64..40, 0u32..20).prop_map(|(base, high, n, step)| {
            (0..n).map(|i| (base >> high).wrapping_add(i << step)).collect::<Vec<_>>()
        });
        prop::collection::vec(cluster, 0..8).prop_map(|clusters| {
            let mut all = clusters.concat();
            all.sort_unstable();
            all.dedup();
            all
        })
    }

    /// A look at every start, from the first on.
    fn naive(starts: &[u64], addr: u64) -> Option<usize> {
        (0..starts.len()).fold(None, |found, i| if starts[i] <= addr { Some(i) } else { found })
    }

    proptest! {
        #[test]
        fn it_finds_what_a_look_at_every_start_finds(starts in starts(), elsewhere in any::<[u64; 8]>()) {
            let index = Index::new(&starts);
            let near = starts.iter().flat_map(|s| [s.wrapping_sub(1), *s, s.wrapping_add(1), s ^ 0xfff]);
            for addr in near.chain(elsewhere).chain([0, u64::MAX]) {
                prop_assert_eq!(index.last_not_above(&starts, addr), naive(&starts, addr), "{:#x}", addr);
            }
        }
    }

    #[test]
    fn starts_that_double_are_cut_no_deeper_than_they_have_bits() {
        let starts: Vec<u64> = (0..64).map(|bit| 1 << bit).collect();
        fn depth(cut: &Cut) -> usize {
            let finer = |p: &Part| if let Part::Cut(c) = p { depth(c) } else { 0 };
            1 + cut.parts.iter().map(finer).max().unwrap_or(0)
        }
        let index = Index::new(&starts);
        assert!(index.0.is_some_and(|cut| depth(&cut) <= 16));
    }
}

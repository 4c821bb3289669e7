//! Which bus frames may be used: ranges, minus what must be left alone.

use std::ops::Range;

use xen_ioreq::Bfn;

/// The bus frames that we may choose from: a range minus reserved memory regions (RMRRs), a 1:1 map, the domain's own
/// mappings. Numbers of frames, not bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BfnSpace {
    /// Free ranges in ascending order, not empty, not touching.
    ranges: Vec<Range<u64>>,
}

impl BfnSpace {
    /// Frames `range.start .. range.end`.
    pub fn new(range: Range<Bfn>) -> Self {
        let range = range.start.0..range.end.0;
        Self { ranges: if range.is_empty() { Vec::new() } else { vec![range] } }
    }

    /// Leaves out `range`, which may lie anywhere.
    #[must_use]
    pub fn without(self, range: Range<Bfn>) -> Self {
        let (start, end) = (range.start.0, range.end.0);
        if start >= end {
            return self;
        }
        let ranges = self
            .ranges
            .into_iter()
            .flat_map(|r| [r.start..r.end.min(start), r.start.max(end)..r.end])
            .filter(|r| !r.is_empty())
            .collect();
        Self { ranges }
    }

    /// The ranges that are left, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = Range<Bfn>> + '_ {
        self.ranges.iter().map(|r| Bfn(r.start)..Bfn(r.end))
    }

    /// Number of frames.
    pub fn frames(&self) -> u64 {
        self.ranges.iter().map(|r| r.end - r.start).sum()
    }

    /// First frame and the one past the last, if there is any.
    pub fn bounds(&self) -> Option<Range<Bfn>> {
        Some(Bfn(self.ranges.first()?.start)..Bfn(self.ranges.last()?.end))
    }
}

impl Default for BfnSpace {
    /// 4 GiB to 64 GiB: above what 32-bit windows and the reserved regions below 4 GiB use, and inside the 39 address
    /// bits of a gen8 GPU.
    fn default() -> Self {
        Self::new(Bfn(1 << 20)..Bfn(1 << 24))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(s: &BfnSpace) -> Vec<(u64, u64)> {
        s.ranges().map(|r| (r.start.0, r.end.0)).collect()
    }

    #[test]
    fn what_is_left_out_splits_trims_and_swallows() {
        let s = BfnSpace::new(Bfn(10)..Bfn(100));
        assert_eq!(ranges(&s.clone().without(Bfn(20)..Bfn(30))), [(10, 20), (30, 100)]);
        assert_eq!(ranges(&s.clone().without(Bfn(0)..Bfn(11))), [(11, 100)]);
        assert_eq!(ranges(&s.clone().without(Bfn(99)..Bfn(u64::MAX))), [(10, 99)]);
        assert_eq!(ranges(&s.clone().without(Bfn(5)..Bfn(200))), []);
        assert_eq!(ranges(&s.clone().without(Bfn(20)..Bfn(20))), [(10, 100)]);
        assert_eq!(s.without(Bfn(20)..Bfn(30)).frames(), 80);
    }

    #[test]
    fn an_empty_range_has_no_bounds() {
        assert_eq!(BfnSpace::new(Bfn(5)..Bfn(5)).bounds(), None);
    }
}

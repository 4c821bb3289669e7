//! A set of ranges, ends included, as Xen's rangesets: neighbours merge, and their number is limited.

use std::collections::BTreeMap;

use xen_ioreq::Errno;

/// Ranges of one type that a server may have.
pub(crate) const MAX_RANGES: usize = 256;

/// The set; each entry is first → last.
#[derive(Default, Debug)]
pub(crate) struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    /// The range that begins at or before `at`.
    fn before(&self, at: u64) -> Option<(u64, u64)> {
        self.0.range(..=at).next_back().map(|(s, e)| (*s, *e))
    }

    pub(crate) fn contains(&self, start: u64, end: u64) -> bool {
        start <= end && self.before(start).is_some_and(|(_, e)| end <= e)
    }

    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.before(end).is_some_and(|(_, e)| start <= e)
    }

    /// EEXIST: overlaps one that is there. ENOMEM: too many ranges.
    pub(crate) fn insert(&mut self, start: u64, end: u64) -> Result<(), Errno> {
        if self.overlaps(start, end) {
            return Err(Errno::EEXIST);
        }
        let left = self.before(start).filter(|(_, e)| e.checked_add(1) == Some(start));
        let right = end.checked_add(1).and_then(|next| self.0.get_key_value(&next)).map(|(s, e)| (*s, *e));
        if left.is_none() && right.is_none() && self.0.len() >= MAX_RANGES {
            return Err(Errno::ENOMEM);
        }
        if let Some((s, _)) = right {
            self.0.remove(&s);
        }
        self.0.insert(left.map_or(start, |l| l.0), right.map_or(end, |r| r.1));
        Ok(())
    }

    /// ENOENT: not wholly inside the set. ENOMEM: would leave too many ranges.
    pub(crate) fn remove(&mut self, start: u64, end: u64) -> Result<(), Errno> {
        if !self.contains(start, end) {
            return Err(Errno::ENOENT);
        }
        let (s, e) = self.before(start).ok_or(Errno::ENOENT)?;
        if s < start && end < e && self.0.len() >= MAX_RANGES {
            return Err(Errno::ENOMEM);
        }
        self.0.remove(&s);
        if s < start {
            self.0.insert(s, start - 1);
        }
        if end < e {
            self.0.insert(end + 1, e);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_overlapping_another_is_eexist() {
        let mut r = RangeSet::default();
        r.insert(10, 19).unwrap();
        for (s, e) in [(10, 19), (0, 10), (19, 30), (12, 13), (0, 100)] {
            assert_eq!(r.insert(s, e), Err(Errno::EEXIST), "{s}..={e}");
        }
    }

    #[test]
    fn neighbours_merge_and_an_access_across_them_is_inside() {
        let mut r = RangeSet::default();
        r.insert(10, 19).unwrap();
        r.insert(30, 39).unwrap();
        r.insert(20, 29).unwrap();
        assert!(r.contains(10, 39) && r.contains(19, 20));
        assert!(!r.contains(9, 10) && !r.contains(39, 40));
        assert_eq!(r.0.len(), 1);
        r.insert(u64::MAX, u64::MAX).unwrap();
        assert!(r.contains(u64::MAX, u64::MAX));
    }

    #[test]
    fn the_257th_separate_range_is_enomem_but_a_neighbour_still_fits() {
        let mut r = RangeSet::default();
        for i in 0..MAX_RANGES as u64 {
            r.insert(i * 10, i * 10).unwrap();
        }
        assert_eq!(r.insert(5000, 5000), Err(Errno::ENOMEM));
        r.insert(1, 1).unwrap();
    }

    #[test]
    fn removing_takes_the_middle_and_what_is_not_inside_is_enoent() {
        let mut r = RangeSet::default();
        r.insert(10, 19).unwrap();
        assert_eq!(r.remove(5, 12), Err(Errno::ENOENT));
        r.remove(12, 14).unwrap();
        assert!(r.contains(10, 11) && r.contains(15, 19) && !r.contains(12, 12));
        assert_eq!(r.remove(10, 19), Err(Errno::ENOENT));
    }
}

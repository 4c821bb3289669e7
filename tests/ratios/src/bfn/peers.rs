//! The allocators that are compared: ours, a plain one over a `BTreeMap`, and the one of the VMMs.

use std::collections::BTreeMap;

use pviommu::{BfnAllocator, BfnBlock, BfnSpace};
use vm_allocator::{AddressAllocator, AllocPolicy, RangeInclusive};
use xen_ioreq::Bfn;

/// First bus frame of every space.
const BASE: u64 = 1 << 20;
/// The peer of the VMMs counts bytes: a range of one frame would be too short for it.
const PAGE: u64 = 4096;

/// Hands out aligned ranges of 2^order frames.
pub(super) trait Allocator {
    /// A range, owned.
    type Range;
    /// Takes one; `None`: there is none.
    fn alloc(&mut self, order: u32) -> Option<Self::Range>;
    /// Takes it back.
    fn free(&mut self, range: Self::Range);
}

/// Ours.
pub(super) fn ours(frames: u64) -> BfnAllocator {
    BfnAllocator::new(&BfnSpace::new(Bfn(BASE)..Bfn(BASE + frames)))
}

impl Allocator for BfnAllocator {
    type Range = BfnBlock;

    fn alloc(&mut self, order: u32) -> Option<BfnBlock> {
        BfnAllocator::alloc(self, order)
    }

    fn free(&mut self, range: BfnBlock) {
        BfnAllocator::free(self, range);
    }
}

/// First fit over a map of the free ranges, start to end: obviously right.
pub(super) struct FirstFit {
    free: BTreeMap<u64, u64>,
}

impl FirstFit {
    pub(super) fn new(frames: u64) -> Self {
        Self { free: BTreeMap::from([(BASE, BASE + frames)]) }
    }
}

impl Allocator for FirstFit {
    /// First frame and the one past the last.
    type Range = (u64, u64);

    fn alloc(&mut self, order: u32) -> Option<(u64, u64)> {
        let len = 1 << order;
        let fits = |(&start, &end): (&u64, &u64)| {
            let at = start.next_multiple_of(len);
            (at + len <= end).then_some((start, at, end))
        };
        let (start, at, end) = self.free.iter().find_map(fits)?;
        self.free.remove(&start);
        if start < at {
            self.free.insert(start, at);
        }
        if at + len < end {
            self.free.insert(at + len, end);
        }
        Some((at, at + len))
    }

    fn free(&mut self, (mut start, mut end): (u64, u64)) {
        if let Some((&before, &touches)) = self.free.range(..start).next_back()
            && touches == start
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(after) = self.free.remove(&end) {
            end = after;
        }
        self.free.insert(start, end);
    }
}

/// `vm-allocator`, which VMMs of the rust-vmm family use.
pub(super) struct VmAllocator(AddressAllocator);

impl VmAllocator {
    /// One that has allocated exactly `held`, as if it had found these by itself: its own search for each would take hours
    /// where there are many.
    pub(super) fn holding(frames: u64, held: &[(u64, u64)]) -> Result<(Self, Vec<RangeInclusive>), String> {
        let say = |e: vm_allocator::Error| e.to_string();
        let mut allocator = AddressAllocator::new(BASE * PAGE, frames * PAGE).map_err(say)?;
        let mut exact = |&(start, end): &(u64, u64)| {
            let policy = AllocPolicy::ExactMatch(start * PAGE);
            allocator.allocate((end - start) * PAGE, PAGE, policy).map_err(say)
        };
        let held = held.iter().map(&mut exact).collect::<Result<_, _>>()?;
        Ok((Self(allocator), held))
    }
}

impl Allocator for VmAllocator {
    type Range = RangeInclusive;

    fn alloc(&mut self, order: u32) -> Option<RangeInclusive> {
        let bytes = PAGE << order;
        self.0.allocate(bytes, bytes, AllocPolicy::FirstMatch).ok()
    }

    fn free(&mut self, range: RangeInclusive) {
        self.0.free(&range).expect("a range that it gave");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks do not overlap, are aligned, and are refused only when none is free.
    #[test]
    fn first_fit_gives_the_lowest_range_that_fits() {
        let mut a = FirstFit::new(2048);
        let mut taken = vec![false; 2048];
        let mut live: Vec<(u64, u64)> = Vec::new();
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            if rng.bool() {
                let order = [0, 3, 9][rng.usize(0..3)];
                let len = 1 << order;
                let lowest = (BASE..BASE + 2048).step_by(len).find(|f| {
                    let f = usize::try_from(f - BASE).unwrap();
                    taken[f..f + len].iter().all(|t| !t)
                });
                let got = a.alloc(order);
                assert_eq!(got.map(|r| r.0), lowest);
                live.extend(got);
                if let Some((s, e)) = got {
                    (s..e).for_each(|f| taken[usize::try_from(f - BASE).unwrap()] = true);
                }
            } else if !live.is_empty() {
                let (s, e) = live.swap_remove(rng.usize(0..live.len()));
                a.free((s, e));
                (s..e).for_each(|f| taken[usize::try_from(f - BASE).unwrap()] = false);
            }
        }
    }

    #[test]
    fn the_vmms_allocator_takes_over_what_another_held() {
        let mut plain = FirstFit::new(4096);
        let held: Vec<_> = [0, 9, 0, 0, 9].into_iter().filter_map(|o| plain.alloc(o)).collect();
        let (mut vm, mut ranges) = VmAllocator::holding(4096, &held).unwrap();
        assert_eq!(ranges.len(), 5);
        plain.free(held[1]);
        vm.free(ranges.swap_remove(1));
        for order in [9, 0, 0, 9] {
            let (a, b) = (plain.alloc(order).unwrap(), vm.alloc(order).unwrap());
            assert_eq!((a.0 * PAGE, a.1 * PAGE), (b.start(), b.end() + 1));
        }
    }
}

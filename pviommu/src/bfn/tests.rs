#![allow(clippy::cast_possible_truncation, reason = "test values are small")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn space() -> BfnSpace {
    // Odd bounds, a hole, and a piece that cannot hold a block of order 9.
    BfnSpace::new(Bfn(1_000_003)..Bfn(1_006_001))
        .without(Bfn(1_002_500)..Bfn(1_002_777))
        .without(Bfn(1_003_000)..Bfn(1_003_100))
}

/// Obviously right: what is taken, frame by frame of the space.
struct Naive {
    taken: BTreeMap<u64, u64>,
    space: BfnSpace,
}

impl Naive {
    fn is_free(&self, first: u64, len: u64) -> bool {
        self.space.ranges().any(|r| r.start.0 <= first && first + len <= r.end.0)
            && self.taken.range(..first + len).next_back().is_none_or(|(s, l)| s + l <= first)
    }

    fn has(&self, order: u32) -> bool {
        let len = 1u64 << order;
        let bounds = self.space.bounds().unwrap();
        (bounds.start.0.next_multiple_of(len)..bounds.end.0)
            .step_by(len as usize)
            .any(|f| self.is_free(f, len))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn blocks_never_overlap_and_a_refusal_means_there_is_none(
        ops in prop::collection::vec((0u8..8, 0usize..1000), 1..600),
    ) {
        let a = BfnAllocator::new(&space());
        let mut naive = Naive { taken: BTreeMap::new(), space: space() };
        let mut live: Vec<BfnBlock> = Vec::new();
        for (what, pick) in ops {
            if what < 5 {
                let order = [0, 0, 3, 9, 11][usize::from(what)];
                match a.alloc(order) {
                    Some(b) => {
                        prop_assert_eq!(b.order(), order);
                        prop_assert_eq!(b.first().0 % (1 << order), 0);
                        prop_assert!(naive.is_free(b.first().0, 1 << order), "{:?}", b);
                        naive.taken.insert(b.first().0, 1 << order);
                        live.push(b);
                    }
                    None => prop_assert!(!naive.has(order), "order {} is free but was refused", order),
                }
            } else if !live.is_empty() {
                let b = live.swap_remove(pick % live.len());
                naive.taken.remove(&b.first().0);
                a.free(b);
            }
            let taken: u64 = naive.taken.values().sum();
            prop_assert_eq!(a.free_frames() as u64, space().frames() - taken);
        }
    }
}

#[test]
fn every_frame_is_handed_out_once_and_comes_back() {
    let a = BfnAllocator::new(&space());
    let mut all: Vec<BfnBlock> = std::iter::from_fn(|| a.alloc(0)).collect();
    assert_eq!(all.len() as u64, space().frames());
    all.sort_by_key(|b| b.first());
    assert!(all.windows(2).all(|w| w[0].first() < w[1].first()));
    all.into_iter().for_each(|b| a.free(b));
    // Merged again as far as they go, although some lay in the cache.
    assert!(a.alloc(11).is_some());
}

#[test]
fn an_order_beyond_the_largest_is_refused() {
    let a = BfnAllocator::new(&BfnSpace::default());
    assert!(a.alloc(MAX_ORDER).is_some());
    assert!(a.alloc(MAX_ORDER + 1).is_none());
    assert!(a.alloc(u32::MAX).is_none());
}

#[test]
fn an_empty_space_has_nothing() {
    let a = BfnAllocator::new(&BfnSpace::new(Bfn(7)..Bfn(7)));
    assert!(a.alloc(0).is_none());
    assert_eq!(a.free_frames(), 0);
}

#[test]
fn threads_never_get_the_same_frame() {
    let a = BfnAllocator::new(&space());
    let seen = Mutex::new(Vec::new());
    std::thread::scope(|s| {
        for t in 0..4 {
            let (a, seen) = (&a, &seen);
            s.spawn(move || {
                let mut mine: Vec<BfnBlock> = Vec::new();
                for i in 0..4000 {
                    if (i + t) % 3 == 0 {
                        if let Some(b) = mine.pop() {
                            a.free(b);
                        }
                    } else {
                        mine.extend(a.alloc(0));
                    }
                }
                seen.lock().extend(mine);
            });
        }
    });
    let mut firsts: Vec<u64> = seen.into_inner().iter().map(|b| b.first().0).collect();
    let n = firsts.len();
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts.len(), n);
}

/// How many blocks of order 9 there are; they are given back.
fn large_blocks(a: &BfnAllocator) -> usize {
    let all: Vec<BfnBlock> = std::iter::from_fn(|| a.alloc(9)).collect();
    let n = all.len();
    all.into_iter().for_each(|b| a.free(b));
    n
}

#[test]
fn after_a_long_random_life_large_blocks_are_there_as_in_an_allocator_without_a_past() {
    const FRAMES: u64 = 1 << 17;
    let space = BfnSpace::new(Bfn(1 << 20)..Bfn((1 << 20) + FRAMES));
    let a = BfnAllocator::new(&space);
    let all = large_blocks(&a);
    let mut rng = fastrand::Rng::with_seed(41);
    let mut live: Vec<BfnBlock> = Vec::new();
    let mut used = 0;
    // Nearly full, then nearly empty, a million steps each time; mostly single frames, as a guest's pages are.
    for percent in [90, 10, 90, 5, 60] {
        let wanted = FRAMES * percent / 100;
        for _ in 0..1_000_000 {
            if used < wanted || (used < wanted + wanted / 20 && rng.bool()) {
                let order = if rng.u8(0..50) == 0 { 9 } else { 0 };
                if let Some(b) = a.alloc(order) {
                    used += 1 << b.order();
                    live.push(b);
                }
            } else {
                let b = live.swap_remove(rng.usize(0..live.len()));
                used -= 1 << b.order();
                a.free(b);
            }
        }
        let other = BfnAllocator::new(&space);
        let held: Vec<BfnBlock> = live.iter().filter_map(|b| other.alloc(b.order())).collect();
        assert_eq!(held.len(), live.len());
        let (old, fresh) = (large_blocks(&a), large_blocks(&other));
        let share = if percent < 90 { 90 } else { 50 };
        assert!(
            old * 100 >= fresh * share,
            "{old} large blocks at {percent} % in use, {fresh} without a past"
        );
    }
    live.into_iter().for_each(|b| a.free(b));
    assert_eq!(large_blocks(&a), all);
}

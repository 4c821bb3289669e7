//! Allocation of bus frame numbers, for the modes in which this program owns the bus address space.
//!
//! Promises: blocks never overlap, lie in the [`BfnSpace`], are aligned to their size. A [`BfnBlock`] is a value that
//! cannot be copied, and the client parts with one only after the hypervisor has confirmed the unmap, flush included;
//! so a frame whose flush is not done is never handed out.

mod bits;
mod buddy;
mod space;

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use xen_ioreq::Bfn;

pub use space::BfnSpace;

use buddy::{Buddy, MAX_ORDER};

use crate::sync::{Mutex, MutexGuard};

/// Caches; threads share one when there are more threads than that.
const CACHES: usize = 16;
/// Frames in a cache at most.
const CACHE_LEN: usize = 128;
/// Frames that come from the tree at once, at least.
const REFILL: usize = CACHE_LEN / 4;
/// log2 of the frames that come from the tree in one piece, at most.
const REFILL_ORDER: u32 = 5;

/// 2^order bus frames, owned. Dropping one loses the frames for good, which is safe: nobody gets them again.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a block that is dropped is never handed out again"]
pub struct BfnBlock {
    first: Bfn,
    order: u8,
}

impl BfnBlock {
    /// The first frame, a multiple of the size.
    pub fn first(&self) -> Bfn {
        self.first
    }

    /// log2 of the number of frames.
    pub fn order(&self) -> u32 {
        u32::from(self.order)
    }

    /// Ownership of a single frame that was taken apart into its number; the caller vouches that nobody else has it.
    pub(crate) fn single(first: Bfn) -> Self {
        Self { first, order: 0 }
    }
}

/// Hands out blocks of bus frames. Shared by threads; single frames come from a cache of the thread's own.
pub struct BfnAllocator {
    /// Frame of index 0; a multiple of the largest block, so that indices and frames are aligned alike.
    base: u64,
    /// Lock order: a cache, then the tree.
    tree: Mutex<Buddy>,
    caches: Vec<Cache>,
}

/// On a cache line of its own, so that threads do not meet in it.
#[repr(align(64))]
struct Cache(Mutex<Vec<u64>>);

impl BfnAllocator {
    /// An allocator of `space`. Address space is reserved for two bits a frame between its bounds; memory is used as it
    /// is touched.
    pub fn new(space: &BfnSpace) -> Self {
        let align = (1u64 << MAX_ORDER) - 1;
        let bounds = space.bounds().unwrap_or(Bfn(0)..Bfn(0));
        let base = bounds.start.0 & !align;
        let mut tree = Buddy::new(index(bounds.end.0 - base));
        for range in space.ranges() {
            let (mut at, end) = (range.start.0 - base, range.end.0 - base);
            while at < end {
                let fits = 63 - (end - at).leading_zeros();
                let order = at.trailing_zeros().min(fits).min(MAX_ORDER);
                tree.free(index(at), order);
                at += 1 << order;
            }
        }
        let caches = (0..CACHES).map(|_| Cache(Mutex::new(Vec::with_capacity(CACHE_LEN)))).collect();
        Self { base, tree: Mutex::new(tree), caches }
    }

    /// Takes 2^order frames, aligned to that, the lowest that are free. `None`: there is no such block.
    pub fn alloc(&self, order: u32) -> Option<BfnBlock> {
        let found =
            if order == 0 { self.alloc_single() } else { self.tree.lock().alloc(order).map(|i| i as u64) };
        let i = found.or_else(|| self.alloc_hard(order))?;
        Some(BfnBlock { first: Bfn(self.base + i), order: u8::try_from(order).ok()? })
    }

    /// Takes a block back. Whoever calls this vouches that no device can reach it any more.
    pub fn free(&self, block: BfnBlock) {
        let i = block.first.0 - self.base;
        if block.order != 0 {
            return self.tree.lock().free(index(i), block.order());
        }
        let mut cache = self.cache();
        if cache.len() >= CACHE_LEN {
            let mut tree = self.tree.lock();
            for i in cache.drain(..CACHE_LEN / 2) {
                tree.free(index(i), 0);
            }
        }
        cache.push(i);
    }

    /// Frames that are free, those in caches included.
    pub fn free_frames(&self) -> usize {
        // Cache before tree, as everywhere; a frame on its way between the two may be missed.
        let cached: usize = self.caches.iter().map(|c| c.0.lock().len()).sum();
        cached + self.tree.lock().free_frames()
    }

    fn alloc_single(&self) -> Option<u64> {
        let mut cache = self.cache();
        if let Some(i) = cache.pop() {
            return Some(i);
        }
        let mut tree = self.tree.lock();
        while cache.len() < REFILL {
            let Some((first, order)) = tree.alloc_smallest(REFILL_ORDER) else { break };
            let first = first as u64;
            cache.extend((first..first + (1 << order)).rev());
        }
        cache.pop()
    }

    /// The last resort: what the caches hold goes back to the tree, where it merges.
    fn alloc_hard(&self, order: u32) -> Option<u64> {
        for cache in &self.caches {
            let mut cache = cache.0.lock();
            let mut tree = self.tree.lock();
            for i in cache.drain(..) {
                tree.free(index(i), 0);
            }
        }
        self.tree.lock().alloc(order).map(|i| i as u64)
    }

    fn cache(&self) -> MutexGuard<'_, Vec<u64>> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static MINE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed)));
        self.caches[MINE.get() % CACHES].0.lock()
    }
}

impl std::fmt::Debug for BfnAllocator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BfnAllocator").field("free_frames", &self.free_frames()).finish_non_exhaustive()
    }
}

/// Indices are below the size of an array in memory; on 64-bit hosts nothing is lost.
#[expect(clippy::cast_possible_truncation, reason = "u64 and usize are the same on every host of Xen's")]
const fn index(i: u64) -> usize {
    i as usize
}

#[cfg(test)]
mod tests;

//! Buddy allocation over [`Bits`]: blocks of 2^order frames at multiples of their size, lowest address first.
//!
//! Free blocks are always merged as far as they go, so a request fails only if no aligned block is free. Knows
//! indices only; [`super::BfnAllocator`] makes frame numbers of them.

use super::bits::Bits;

/// log2 of the largest block: 1 GiB in frames of 4 KiB, the largest superpage there is.
pub(super) const MAX_ORDER: u32 = 18;

pub(super) struct Buddy {
    /// Free blocks of each order, by index >> order.
    free: Vec<Bits>,
    /// Bit k: there are free blocks of order k.
    orders: u32,
    /// Frames that are free.
    frames: usize,
}

impl Buddy {
    /// Room for `len` frames, all taken.
    pub(super) fn new(len: usize) -> Self {
        let free = (0..=MAX_ORDER).map(|k| Bits::new((len >> k) + 1)).collect();
        Self { free, orders: 0, frames: 0 }
    }

    pub(super) fn free_frames(&self) -> usize {
        self.frames
    }

    /// Takes a block of 2^order frames; its first index.
    pub(super) fn alloc(&mut self, order: u32) -> Option<usize> {
        if order > MAX_ORDER {
            return None;
        }
        let candidates = self.orders >> order;
        if candidates == 0 {
            return None;
        }
        let found = order + candidates.trailing_zeros();
        let mut block = self.level(found)?.first()?;
        self.take(found, block);
        for k in (order..found).rev() {
            block *= 2;
            self.give(k, block + 1);
        }
        self.frames -= 1 << order;
        Some(block << order)
    }

    /// Takes the smallest block there is, but no more than 2^`most` frames of it: what is left over between others is used
    /// before anything large is broken. Its first index and its order.
    pub(super) fn alloc_smallest(&mut self, most: u32) -> Option<(usize, u32)> {
        let order = self.orders.trailing_zeros().min(most);
        self.alloc(order).map(|first| (first, order))
    }

    /// Gives a block back that [`alloc`](Self::alloc) gave, or adds a new one. `index` is a multiple of the size.
    pub(super) fn free(&mut self, index: usize, order: u32) {
        self.frames += 1 << order;
        let (mut block, mut k) = (index >> order, order);
        while k < MAX_ORDER && self.level(k).is_some_and(|l| l.contains(block ^ 1)) {
            self.take(k, block ^ 1);
            block /= 2;
            k += 1;
        }
        self.give(k, block);
    }

    fn level(&self, k: u32) -> Option<&Bits> {
        self.free.get(k as usize)
    }

    fn take(&mut self, k: u32, block: usize) {
        if let Some(l) = self.free.get_mut(k as usize) {
            l.remove(block);
            if l.is_empty() {
                self.orders &= !(1 << k);
            }
        }
    }

    fn give(&mut self, k: u32, block: usize) {
        if let Some(l) = self.free.get_mut(k as usize) {
            l.insert(block);
            self.orders |= 1 << k;
        }
    }
}

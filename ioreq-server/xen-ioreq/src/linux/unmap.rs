//! Giving back pages of a mapping of privcmd, one by one or as a whole.
#![expect(unsafe_code, reason = "munmap, and the promise of MappingOwner")]

use std::collections::BTreeMap;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::seam::MappingOwner;
use crate::{Errno, PAGE_SIZE};

/// A range of our address space with frames of others behind it.
#[derive(Debug)]
pub(super) struct Range {
    base: NonNull<u8>,
    how: How,
    /// Runs (first page, count) whose unmapping failed and that are tried again later. No two touch each other.
    pending: Mutex<BTreeMap<usize, usize>>,
}

/// How a range may be unmapped.
#[derive(Debug)]
enum How {
    /// Any page at any time.
    Pagewise,
    /// All at once only, when the last page was released: this many of `pages` are left.
    Whole { left: AtomicUsize, pages: usize },
}

// SAFETY: an address range that is only ever unmapped.
unsafe impl Send for Range {}
// SAFETY: as above.
unsafe impl Sync for Range {}

impl Range {
    /// # Safety
    /// The mapping that starts at `base` must be the new owner's alone, and each page in it one that may be unmapped
    /// without the others.
    pub(super) unsafe fn pagewise(base: NonNull<u8>) -> Self {
        Self { base, how: How::Pagewise, pending: Mutex::default() }
    }

    /// # Safety
    /// The `pages` pages mapped from `base` must be the new owner's alone.
    pub(super) unsafe fn whole(base: NonNull<u8>, pages: usize) -> Self {
        Self { base, how: How::Whole { left: AtomicUsize::new(pages), pages }, pending: Mutex::default() }
    }

    fn unmap(&self, first: usize, count: usize) -> Result<(), Errno> {
        let start = self.base.as_ptr().wrapping_add(first * PAGE_SIZE);
        // SAFETY: pages that this owner was told to release, each once, so nobody else uses the addresses.
        unsafe { rustix::mm::munmap(start.cast(), count * PAGE_SIZE) }?;
        Ok(())
    }

    /// Unmapping in the middle splits a mapping, and the kernel limits their number (ENOMEM). A frame that cannot be
    /// let go yet is remembered, and goes with a neighbour or as soon as there is room: held longer, never forgotten.
    fn unmap_or_remember(&self, first: usize, count: usize) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut first, mut count) = (first, count);
        if let Some((&before, &n)) = pending.range(..first).next_back()
            && before + n == first
        {
            pending.remove(&before);
            (first, count) = (before, n + count);
        }
        count += pending.remove(&(first + count)).unwrap_or(0);
        if self.unmap(first, count).is_err() {
            pending.insert(first, count);
            return;
        }
        while let Some((&first, &count)) = pending.first_key_value() {
            if self.unmap(first, count).is_err() {
                break;
            }
            pending.pop_first();
        }
    }
}

// SAFETY: pages are unmapped in `release` (or later) and nowhere else.
unsafe impl MappingOwner for Range {
    fn release(&self, first: usize, count: usize) {
        match &self.how {
            How::Pagewise => self.unmap_or_remember(first, count),
            How::Whole { left, pages } => {
                if left.fetch_sub(count, Ordering::AcqRel) == count {
                    self.unmap_or_remember(0, *pages);
                }
            }
        }
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        let pending = std::mem::take(self.pending.get_mut().unwrap_or_else(PoisonError::into_inner));
        for (first, count) in pending {
            let _ = self.unmap(first, count);
        }
    }
}

/// Maps `pages` pages of nothing and returns their start: addresses to map over.
pub(super) fn reserve(pages: usize) -> Result<NonNull<u8>, Errno> {
    let len = pages.checked_mul(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
    let (prot, flags) = (rustix::mm::ProtFlags::empty(), rustix::mm::MapFlags::PRIVATE);
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let base = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len, prot, flags) }?;
    NonNull::new(base.cast()).ok_or(Errno::ENOMEM)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::seam::Mapping;

    fn mapped(base: NonNull<u8>, page: usize) -> bool {
        let addr = base.as_ptr().wrapping_add(page * PAGE_SIZE).addr();
        std::fs::read_to_string("/proc/self/maps").expect("readable").lines().any(|line| {
            let (start, end) = line.split(' ').next().and_then(|r| r.split_once('-')).expect("a range");
            let parse = |s| usize::from_str_radix(s, 16).expect("hexadecimal");
            (parse(start)..parse(end)).contains(&addr)
        })
    }

    /// Other threads of this process may map something where a page has just gone. Not every time.
    #[track_caller]
    fn but_for_chance(gone: impl Fn() -> bool) {
        assert!((0..50).any(|_| gone()), "it stays mapped");
    }

    #[test]
    fn pagewise_a_dropped_page_is_unmapped_at_once_and_its_neighbours_stay() {
        but_for_chance(|| {
            let base = reserve(3).expect("addresses");
            // SAFETY: the mapping just made.
            let owner = unsafe { Range::pagewise(base) };
            let mut pages = Mapping::new(base, 3, Arc::new(owner)).into_pages();
            drop(pages.remove(1));
            assert!(mapped(base, 0) && mapped(base, 2));
            let one = !mapped(base, 1);
            drop(pages);
            one && !mapped(base, 0) && !mapped(base, 2)
        });
    }

    #[test]
    fn whole_nothing_is_unmapped_before_the_last_page_was_dropped() {
        but_for_chance(|| {
            let base = reserve(2).expect("addresses");
            // SAFETY: the mapping just made.
            let owner = unsafe { Range::whole(base, 2) };
            let mut pages = Mapping::new(base, 2, Arc::new(owner)).into_pages();
            drop(pages.pop());
            assert!(mapped(base, 0) && mapped(base, 1));
            drop(pages);
            !mapped(base, 0) && !mapped(base, 1)
        });
    }
}

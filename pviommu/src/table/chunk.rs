//! Memory for many things of a kind. A large chunk asks for huge pages: at a random one of a million the processor would
//! else wait for its address to be translated nearly as long as for the thing, even where it was fetched ahead.
#![expect(unsafe_code, reason = "memory of an alignment that no standard container gives")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use rustix::mm::{Advice, madvise};

/// Size of a huge page, in bytes.
const HUGE: usize = 2 << 20;
const LINE: usize = 64;

/// A slice that stays where it is.
pub(super) struct Chunk<T> {
    first: NonNull<T>,
    len: usize,
}

// SAFETY: it owns what is in it, as a boxed slice does.
unsafe impl<T: Send> Send for Chunk<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Chunk<T> {}

impl<T: Default> Chunk<T> {
    /// `len` default values.
    pub(super) fn new(len: usize) -> Self {
        let layout = layout::<T>(len);
        if layout.size() == 0 {
            return Self::default();
        }
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc(layout) };
        let Some(first) = NonNull::new(memory.cast::<T>()) else { handle_alloc_error(layout) };
        if layout.align() == HUGE {
            // Before the first touch. Memory that the heap had lent before has its small pages still: without them it gets a huge
            // one like any other. If there is none, small ones do.
            for advice in [Advice::LinuxHugepage, Advice::LinuxDontNeed] {
                // SAFETY: whole pages of our own, in which nothing has been written yet.
                let _ = unsafe { madvise(memory.cast(), layout.size(), advice) };
            }
        }
        for i in 0..len {
            // SAFETY: within the allocation, aligned for a `T`.
            unsafe { first.add(i).write(T::default()) };
        }
        Self { first, len }
    }
}

impl<T> Default for Chunk<T> {
    /// An empty one.
    fn default() -> Self {
        Self { first: NonNull::dangling(), len: 0 }
    }
}

impl<T> Deref for Chunk<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: all values were written by `new` and live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Chunk<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<T> Drop for Chunk<T> {
    fn drop(&mut self) {
        let layout = layout::<T>(self.len);
        // SAFETY: the values are ours, and nobody has a reference to them any more.
        unsafe { std::ptr::from_mut::<[T]>(self).drop_in_place() };
        if layout.size() != 0 {
            // SAFETY: allocated in `new` with this layout.
            unsafe { dealloc(self.first.as_ptr().cast(), layout) };
        }
    }
}

/// Whole huge pages are aligned as such, everything else as cache lines.
fn layout<T>(len: usize) -> Layout {
    let size = len.checked_mul(size_of::<T>()).expect("a chunk is much smaller than the address space");
    let align = if size != 0 && size.is_multiple_of(HUGE) { HUGE } else { LINE };
    Layout::from_size_align(size, align.max(align_of::<T>())).expect("a size far below the limit")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_chunk_holds_defaults_on_whole_lines_and_drops_each_value_once() {
        for len in [0, 1, 100, HUGE / 8, HUGE / 4] {
            let mut chunk = Chunk::<Option<Arc<()>>>::new(len);
            assert_eq!(chunk.len(), len);
            assert!(chunk.iter().all(Option::is_none));
            if len > 0 {
                assert_eq!(chunk.as_ptr().addr() % if len > 100 { HUGE } else { LINE }, 0);
            }
            let counted = Arc::new(());
            chunk.iter_mut().step_by(7).for_each(|v| *v = Some(counted.clone()));
            assert_eq!(Arc::strong_count(&counted), 1 + len.div_ceil(7));
            drop(chunk);
            assert_eq!(Arc::strong_count(&counted), 1);
        }
    }
}

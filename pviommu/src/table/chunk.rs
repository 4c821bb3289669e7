//! Memory for many records. A large chunk asks for a huge page: at a random record of a million the processor would else
//! wait for its address to be translated nearly as long as for the record.
#![expect(unsafe_code, reason = "memory of an alignment that no standard container gives")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::Deref;
use std::ptr::NonNull;

use rustix::mm::{Advice, madvise};

use super::records::Record;

/// Size of a huge page, in bytes.
const HUGE: usize = 2 << 20;
const LINE: usize = 64;

/// Records that stay where they are.
pub(super) struct Chunk {
    first: NonNull<Record>,
    len: usize,
}

// SAFETY: it owns its records, and gives only shared references to them.
unsafe impl Send for Chunk where Record: Send {}
// SAFETY: as above.
unsafe impl Sync for Chunk where Record: Sync {}

impl Chunk {
    /// `len` free records, at least one.
    pub(super) fn new(len: usize) -> Self {
        let len = len.max(1);
        let layout = layout(len);
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc(layout) };
        let Some(first) = NonNull::new(memory.cast::<Record>()) else { handle_alloc_error(layout) };
        if layout.align() == HUGE {
            // Before the first touch. If there is no huge page, small ones do.
            // SAFETY: whole pages of our own; the advice changes nothing that is in them.
            let _ = unsafe { madvise(memory.cast(), layout.size(), Advice::LinuxHugepage) };
        }
        for i in 0..len {
            // SAFETY: within the allocation, aligned for a record.
            unsafe { first.add(i).write(Record::default()) };
        }
        Self { first, len }
    }
}

impl Deref for Chunk {
    type Target = [Record];

    fn deref(&self) -> &[Record] {
        // SAFETY: all records were written by `new` and live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: the records are ours, and nobody has a reference to them any more.
        unsafe { std::ptr::slice_from_raw_parts_mut(self.first.as_ptr(), self.len).drop_in_place() };
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.first.as_ptr().cast(), layout(self.len)) };
    }
}

/// Whole huge pages are aligned as such.
fn layout(len: usize) -> Layout {
    let size = len.saturating_mul(size_of::<Record>());
    let align = if size.is_multiple_of(HUGE) { HUGE } else { LINE };
    Layout::from_size_align(size, align).unwrap_or_else(|_| Layout::new::<Record>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_free_and_none_lies_on_two_cache_lines() {
        for len in [1, 100, HUGE / size_of::<Record>()] {
            let chunk = Chunk::new(len);
            assert_eq!(chunk.len(), len);
            assert!(chunk.iter().all(|r| std::ptr::from_ref(r).addr() % 32 == 0 && r.gfn().0 == 0));
            assert_eq!(chunk.as_ptr().addr() % if len > 100 { HUGE } else { LINE }, 0);
        }
    }
}

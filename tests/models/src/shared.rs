//! What stubdom's shared bytes are to its rings: pages of the checker's.
#![expect(unsafe_code, reason = "atomics at addresses of the checker's memory")]

use std::ops::Range;
use std::ptr::NonNull;

use crate::checker::{Memory, Words};
use crate::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// A part of a memory that two domains share.
#[derive(Clone, Debug)]
pub(crate) struct SharedBytes {
    memory: Memory,
    from: usize,
    len: usize,
}

// SAFETY: addresses, behind which are atomics.
unsafe impl Send for SharedBytes {}
// SAFETY: as above.
unsafe impl Sync for SharedBytes {}

impl SharedBytes {
    /// One page of zeros.
    pub(crate) fn page() -> Self {
        Self { memory: Memory::new(1, Words::Apart), from: 0, len: xen_ioreq::PAGE_SIZE }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "a part of the shared bytes");
        Self { memory: self.memory, from: self.from + range.start, len: range.end - range.start }
    }

    fn at(&self, at: usize) -> NonNull<u8> {
        assert!(at < self.len, "inside the shared bytes");
        let page = self.memory.page(0).expect("one page");
        NonNull::new(page.as_ptr().wrapping_add(self.from + at)).expect("an address")
    }

    /// Byte by byte: a copy is not one access.
    pub(crate) fn read(&self, at: usize, out: &mut [u8]) {
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = self.u8(at + i).load(Ordering::Relaxed);
        }
    }

    pub(crate) fn write(&self, at: usize, data: &[u8]) {
        for (i, byte) in data.iter().enumerate() {
            self.u8(at + i).store(*byte, Ordering::Relaxed);
        }
    }

    pub(crate) fn u8(&self, at: usize) -> &AtomicU8 {
        // SAFETY: inside the memory, which lasts as long as the execution.
        unsafe { AtomicU8::from_ptr(self.at(at).as_ptr()) }
    }

    pub(crate) fn u32(&self, at: usize) -> &AtomicU32 {
        // SAFETY: as above; offsets of words are multiples of four, which the checker looks at.
        unsafe { AtomicU32::from_ptr(self.at(at).as_ptr().cast()) }
    }
}

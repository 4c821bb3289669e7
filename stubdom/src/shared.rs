//! Bytes that another domain can change at any time.
//!
//! Gives copies and atomics, never a reference: two reads of the same byte may differ, so whoever checks a value uses the copy
//! that was checked. Offsets are this program's own, never a peer's.
#![expect(unsafe_code, reason = "shared pages are touched through raw pointers and atomics")]

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use xen_ioreq::PAGE_SIZE;
use xen_ioreq::seam::Mapping;

use crate::sync::atomic::{AtomicU8, AtomicU16, AtomicU32};

/// A part of a mapping, which lives as long as any part of it.
#[derive(Clone)]
pub(crate) struct SharedBytes {
    base: NonNull<u8>,
    len: usize,
    mapping: Arc<Mapping>,
}

// SAFETY: an address range; every access through it is a copy or an atomic, from whatever thread.
unsafe impl Send for SharedBytes {}
// SAFETY: as above.
unsafe impl Sync for SharedBytes {}

impl SharedBytes {
    /// All of it.
    pub(crate) fn new(mapping: Mapping) -> Self {
        Self { base: mapping.base(), len: mapping.pages() * PAGE_SIZE, mapping: Arc::new(mapping) }
    }

    /// The mapping, if this is the last of its parts.
    pub(crate) fn into_mapping(self) -> Option<Mapping> {
        Arc::into_inner(self.mapping)
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The bytes at `range`. Panics if it does not lie inside, as everything below.
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "a part of the shared bytes");
        // SAFETY: inside the range, or one past its end for an empty part.
        let base = unsafe { self.base.add(range.start) };
        Self { base, len: range.end - range.start, mapping: self.mapping.clone() }
    }

    /// Address of the first byte; valid while `self` lives.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Copies out. What is written meanwhile may be in the copy in part.
    pub(crate) fn read(&self, at: usize, out: &mut [u8]) {
        assert!(at <= self.len && out.len() <= self.len - at, "a copy inside the shared bytes");
        // SAFETY: inside the range; `out` is private memory, so the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(self.base.as_ptr().add(at), out.as_mut_ptr(), out.len()) }
    }

    /// Copies in. The mapping must be writable.
    pub(crate) fn write(&self, at: usize, data: &[u8]) {
        assert!(at <= self.len && data.len() <= self.len - at, "a copy inside the shared bytes");
        // SAFETY: inside the range; `data` is private memory, so the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.base.as_ptr().add(at), data.len()) }
    }

    pub(crate) fn u8(&self, at: usize) -> &AtomicU8 {
        assert!(at < self.len, "inside the shared bytes");
        // SAFETY: inside the range, which outlives the borrow of `self`.
        unsafe { AtomicU8::from_ptr(self.base.as_ptr().add(at)) }
    }

    pub(crate) fn u16(&self, at: usize) -> &AtomicU16 {
        let ptr = self.base.as_ptr().wrapping_add(at).cast::<u16>();
        assert!(ptr.is_aligned() && self.len >= 2 && at <= self.len - 2, "a half word of the shared bytes");
        // SAFETY: inside the range and aligned, as just checked; as for `u8`.
        unsafe { AtomicU16::from_ptr(ptr) }
    }

    pub(crate) fn u32(&self, at: usize) -> &AtomicU32 {
        let ptr = self.base.as_ptr().wrapping_add(at).cast::<u32>();
        assert!(ptr.is_aligned() && self.len >= 4 && at <= self.len - 4, "a word of the shared bytes");
        // SAFETY: inside the range and aligned, as just checked; as for `u8`.
        unsafe { AtomicU32::from_ptr(ptr) }
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBytes")
            .field("base", &self.base)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

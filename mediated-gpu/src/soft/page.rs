//! A page of memory while a translation to it is held: bounded reads, writes and copies.
//!
//! Others write there at any time, so nothing here makes a reference into it. Words that others wait for are
//! atomic: a store releases what was written before it. Offsets are checked; a wrong one is a bug and panics.
#![expect(unsafe_code, reason = "a pinned page is a raw pointer")]

use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use xen_ioreq::PAGE_SIZE;

/// Bytes that [`Page::prefetch`] asks for: what the hardware's own prefetch needs to notice a stream.
const PREFETCH: usize = 512;

/// 4096 bytes that stay reachable for `'t`, the time for which the holder of the pin is borrowed.
pub(super) struct Page<'t> {
    ptr: NonNull<u8>,
    held: PhantomData<&'t ()>,
}

impl Page<'_> {
    /// # Safety
    /// `ptr` is aligned to a page and 4096 bytes from it are readable (writable, if a writing method is to be
    /// called) for the page's lifetime.
    pub(super) unsafe fn new(ptr: NonNull<u8>) -> Self {
        Self { ptr, held: PhantomData }
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset <= PAGE_SIZE && len <= PAGE_SIZE - offset,
            "span {offset:#x}+{len:#x} leaves its page"
        );
        // SAFETY: the offset is within the page's 4096 bytes.
        unsafe { self.ptr.as_ptr().add(offset) }
    }

    /// Tells the CPU's cache that the bytes from `offset` on are wanted soon.
    pub(super) fn prefetch(&self, offset: usize) {
        let end = PAGE_SIZE.min(offset + PREFETCH);
        for at in (offset..end).step_by(64) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a prefetch has no effect that a program could see; the CPU has SSE.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(self.at(at, 1).cast());
            }
        }
    }

    /// Loads the dword at a byte offset that is a multiple of 4.
    pub(super) fn load32(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4), "dword at {offset:#x}");
        // SAFETY: in the page, aligned; whoever shares it is outside Rust's memory model or uses atomics.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }.load(Ordering::Acquire)
    }

    /// Loads the quadword at a byte offset that is a multiple of 8.
    pub(super) fn load64(&self, offset: usize) -> u64 {
        assert!(offset.is_multiple_of(8), "quadword at {offset:#x}");
        // SAFETY: as in `load32`.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }.load(Ordering::Acquire)
    }

    /// Stores a dword at a byte offset that is a multiple of 4.
    pub(super) fn store32(&self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4), "dword at {offset:#x}");
        // SAFETY: as in `load32`, and the page is writable.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }.store(value, Ordering::Release);
    }

    /// Stores a quadword at a byte offset that is a multiple of 8.
    pub(super) fn store64(&self, offset: usize, value: u64) {
        assert!(offset.is_multiple_of(8), "quadword at {offset:#x}");
        // SAFETY: as in `store32`.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }.store(value, Ordering::Release);
    }

    /// Copies bytes out.
    pub(super) fn read(&self, offset: usize, to: &mut [u8]) {
        let from = self.at(offset, to.len());
        // SAFETY: both spans hold `to.len()` bytes, and a private buffer lies in no pinned page.
        unsafe { ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) }
    }

    /// Copies bytes in.
    pub(super) fn write(&self, offset: usize, from: &[u8]) {
        let to = self.at(offset, from.len());
        // SAFETY: as in `read`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) }
    }

    /// Copies bytes from a page, which may be this one: as if all were read first.
    pub(super) fn copy_from(&self, offset: usize, src: &Page<'_>, src_offset: usize, len: usize) {
        let (to, from) = (self.at(offset, len), src.at(src_offset, len));
        // SAFETY: both spans hold `len` bytes; `copy` allows that they overlap, which they do also where two
        // translations lead to one frame.
        unsafe { ptr::copy(from, to, len) }
    }
}

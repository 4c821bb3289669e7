//! A page of memory while a translation to it is held: bounded reads, writes and copies.
//!
//! Others write there at any time, so nothing here makes a reference into it. Words that others wait for are
//! atomic: a store releases what was written before it. Offsets are checked; a wrong one is a bug and panics.
#![expect(unsafe_code, reason = "a pinned page is a raw pointer")]

use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use xen_ioreq::PAGE_SIZE;

use crate::gen8::tiling::{COLUMN_BYTES, COLUMN_STEP};

/// Bytes of a column's line.
const COLUMN: usize = COLUMN_BYTES as usize;
/// Bytes from a column to the next.
const STEP: usize = COLUMN_STEP as usize;

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

    /// Changes the dword at a byte offset that is a multiple of 4, in one step for all who use atomics. Gives what it was.
    pub(super) fn update32(&self, offset: usize, f: impl Fn(u32) -> u32) -> u32 {
        assert!(offset.is_multiple_of(4), "dword at {offset:#x}");
        // SAFETY: as in `store32`.
        let word = unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) };
        word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |v| Some(f(v))).unwrap_or_else(|v| v)
    }

    /// Changes the quadword at a byte offset that is a multiple of 8, likewise.
    pub(super) fn update64(&self, offset: usize, f: impl Fn(u64) -> u64) -> u64 {
        assert!(offset.is_multiple_of(8), "quadword at {offset:#x}");
        // SAFETY: as in `store32`.
        let word = unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) };
        word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |v| Some(f(v))).unwrap_or_else(|v| v)
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

    /// Copies bytes out of the columns of a Y-major tile: from `offset` to the end of that column, then from the next.
    pub(super) fn read_columns(&self, offset: usize, to: &mut [u8]) {
        let base = self.columns(offset, to.len());
        let mut at = offset % COLUMN;
        let mut to = to;
        let mut column = base;
        while !to.is_empty() {
            let (piece, rest) = to.split_at_mut(to.len().min(COLUMN - at));
            // SAFETY: `columns` has checked that each piece is in the page; a private buffer is in none.
            unsafe { copy_short(column.add(at), piece.as_mut_ptr(), piece.len()) };
            (to, at, column) = (rest, 0, column.wrapping_add(STEP));
        }
    }

    /// Copies bytes into the columns of a Y-major tile, as [`read_columns`](Self::read_columns) takes them out.
    pub(super) fn write_columns(&self, offset: usize, from: &[u8]) {
        let base = self.columns(offset, from.len());
        let mut at = offset % COLUMN;
        let mut from = from;
        let mut column = base;
        while !from.is_empty() {
            let (piece, rest) = from.split_at(from.len().min(COLUMN - at));
            // SAFETY: as in `read_columns`.
            unsafe { copy_short(piece.as_ptr(), column.add(at), piece.len()) };
            (from, at, column) = (rest, 0, column.wrapping_add(STEP));
        }
    }

    /// The first byte of the line in the column that holds `offset`, if `len` bytes from `offset` on stay in the tile.
    fn columns(&self, offset: usize, len: usize) -> *mut u8 {
        let at = offset % COLUMN;
        let columns = (at + len).div_ceil(COLUMN).max(1);
        self.at(offset - at, (columns - 1) * STEP + COLUMN)
    }

    /// Copies bytes from a page, which may be this one: as if all were read first.
    pub(super) fn copy_from(&self, offset: usize, src: &Page<'_>, src_offset: usize, len: usize) {
        let (to, from) = (self.at(offset, len), src.at(src_offset, len));
        // SAFETY: both spans hold `len` bytes; `copy` allows that they overlap, which they do also where two
        // translations lead to one frame.
        unsafe { ptr::copy(from, to, len) }
    }
}

/// Copies at most 16 bytes between places that do not overlap; whole columns by one load and one store.
///
/// # Safety
/// `len` bytes can be read at `from` and written at `to`, in different allocations.
unsafe fn copy_short(from: *const u8, to: *mut u8, len: usize) {
    if len == COLUMN {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<u128>().write_unaligned(from.cast::<u128>().read_unaligned()) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { ptr::copy_nonoverlapping(from, to, len) }
    }
}

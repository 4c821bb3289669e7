//! A page of memory while a translation to it is held: bounded reads, writes and copies.
//!
//! Others write there at any time, so nothing here makes a reference into it. Words that others wait for are
//! atomic: a store releases what was written before it. Offsets are checked; a wrong one is a bug and panics.
#![expect(unsafe_code, reason = "a pinned page is a raw pointer")]

use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use xen_ioreq::PAGE_SIZE;

use super::stream::{self, Ahead};
use crate::gen8::tiling::{COLUMN_BYTES, COLUMN_STEP};

/// Bytes of a column's line.
pub(super) const COLUMN: usize = COLUMN_BYTES as usize;
/// Bytes of a Y-major tile's line.
pub(super) const LINE: usize = 128;
/// Bytes from a column to the next.
pub(super) const STEP: usize = COLUMN_STEP as usize;

/// 4096 bytes that stay reachable for `'t`, the time for which the holder of the pin is borrowed.
#[repr(transparent)]
pub(super) struct Page<'t> {
    ptr: NonNull<u8>,
    held: PhantomData<&'t ()>,
}

// SAFETY: several threads may reach the page, as others do anyway: whoever gives them a `Page` has them stop before the pin
// goes, which its lifetime says.
unsafe impl Sync for Page<'_> {}

impl Page<'_> {
    /// # Safety
    /// `ptr` is aligned to a page and 4096 bytes from it are readable (writable, if a writing method is to be
    /// called) for the page's lifetime.
    pub(super) unsafe fn new(ptr: NonNull<u8>) -> Self {
        Self { ptr, held: PhantomData }
    }

    /// # Safety
    /// As for [`new`](Self::new), of each.
    pub(super) unsafe fn all(ptrs: &[NonNull<u8>]) -> &[Self] {
        // SAFETY: a page is such a pointer and nothing else.
        unsafe { std::slice::from_raw_parts(ptrs.as_ptr().cast(), ptrs.len()) }
    }

    /// The first of some bytes that lie in the page.
    #[inline]
    pub(super) fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset <= PAGE_SIZE && len <= PAGE_SIZE - offset,
            "span {offset:#x}+{len:#x} leaves its page"
        );
        // SAFETY: the offset is within the page's 4096 bytes.
        unsafe { self.ptr.as_ptr().add(offset) }
    }

    /// What lies at `offset`, to be fetched ahead.
    #[inline]
    pub(super) fn ahead(&self, offset: usize) -> Ahead {
        Ahead::new(self.at(offset, 1))
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
        if let (0, Ok(line)) = (offset % COLUMN, <&mut [u8; LINE]>::try_from(&mut *to)) {
            for (n, piece) in line.as_chunks_mut::<COLUMN>().0.iter_mut().enumerate() {
                // SAFETY: `columns` has checked the whole line.
                *piece = unsafe { base.add(n * STEP).cast::<[u8; COLUMN]>().read() };
            }
            return;
        }
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
        if let (0, Ok(line)) = (offset % COLUMN, <&[u8; LINE]>::try_from(from)) {
            for (n, piece) in line.as_chunks::<COLUMN>().0.iter().enumerate() {
                // SAFETY: `columns` has checked the whole line.
                unsafe { base.add(n * STEP).cast::<[u8; COLUMN]>().write(*piece) };
            }
            return;
        }
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

    /// Fills bytes with a colour's four, its first one first. `ahead`: what will be filled next.
    #[inline]
    pub(super) fn fill(&self, offset: usize, len: usize, color: u32, ahead: Option<Ahead>) {
        // SAFETY: `at` has checked the span.
        unsafe { stream::fill(self.at(offset, len), len, color, ahead) }
    }

    /// Copies bytes from a page, which may be this one: as if all were read first.
    #[inline]
    pub(super) fn copy_from(&self, offset: usize, src: &Page<'_>, src_offset: usize, len: usize) {
        let (to, from) = (self.at(offset, len), src.at(src_offset, len));
        // SAFETY: both spans hold `len` bytes; `copy` allows that they overlap, which they do also where two
        // translations lead to one frame.
        unsafe { ptr::copy(from, to, len) }
    }

    /// The same for many bytes, where it pays to say what will be written and read next.
    #[inline]
    pub(super) fn stream_from(
        &self,
        offset: usize,
        src: &Page<'_>,
        src_offset: usize,
        len: usize,
        ahead: [Option<Ahead>; 2],
    ) {
        let (to, from) = (self.at(offset, len), src.at(src_offset, len));
        // SAFETY: both spans hold `len` bytes. They may overlap, as above.
        unsafe { stream::copy(to, from, len, ahead) }
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

//! What mock-xen's memory is to its frames, ring and slots: pages of the checker's.
#![expect(unsafe_code, reason = "atomics at addresses of the checker's memory")]

use std::marker::PhantomData;
use std::ptr::NonNull;

use xen_ioreq::seam::Mapping;
use xen_ioreq::{Mfn, PAGE_SIZE};

use crate::checker::{Memory, Words};
use crate::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Frames.
pub(crate) struct HostMemory(Memory);

// SAFETY: addresses, behind which are atomics.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    pub(crate) fn new(frames: usize) -> Self {
        Self(Memory::new(frames, Words::Apart))
    }

    /// Memory in which accesses of different widths meet.
    pub(crate) fn mixed(frames: usize) -> Self {
        Self(Memory::new(frames, Words::Mixed))
    }

    pub(crate) fn page(&self, mfn: Mfn) -> Option<Page<'_>> {
        let ptr = self.0.page(usize::try_from(mfn.0).ok()?)?;
        Some(Page { ptr, memory: PhantomData })
    }

    /// The same frames, mapped by an emulator.
    pub(crate) fn mapping(&self) -> Mapping {
        self.0.mapping()
    }
}

/// One frame's bytes.
#[derive(Clone, Copy)]
pub(crate) struct Page<'m> {
    ptr: NonNull<u8>,
    memory: PhantomData<&'m HostMemory>,
}

impl<'m> Page<'m> {
    pub(crate) fn ptr(self) -> NonNull<u8> {
        self.ptr
    }

    /// Copies in by four bytes at a time: a copy is not one access.
    pub(crate) fn write(self, offset: usize, data: &[u8]) {
        assert!(offset <= PAGE_SIZE && data.len() <= PAGE_SIZE - offset, "copy inside a page");
        let (words, rest) = data.as_chunks();
        assert!(rest.is_empty(), "whole words");
        for (i, word) in words.iter().enumerate() {
            self.u32(offset + i * 4).store(u32::from_le_bytes(*word), Ordering::Relaxed);
        }
    }

    /// What a frame holds when it is given to a domain is in no model.
    pub(crate) fn clear(self) {}

    pub(crate) fn u8(self, offset: usize) -> &'m AtomicU8 {
        assert!(offset < PAGE_SIZE);
        // SAFETY: inside the page.
        unsafe { AtomicU8::from_ptr(self.ptr.as_ptr().wrapping_add(offset)) }
    }

    pub(crate) fn u16(self, offset: usize) -> &'m AtomicU16 {
        assert!(offset.is_multiple_of(2) && offset < PAGE_SIZE);
        // SAFETY: inside the page and aligned.
        unsafe { AtomicU16::from_ptr(self.ptr.as_ptr().wrapping_add(offset).cast()) }
    }

    pub(crate) fn u32(self, offset: usize) -> &'m AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset < PAGE_SIZE);
        // SAFETY: inside the page and aligned.
        unsafe { AtomicU32::from_ptr(self.ptr.as_ptr().wrapping_add(offset).cast()) }
    }

    pub(crate) fn u64(self, offset: usize) -> &'m AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < PAGE_SIZE);
        // SAFETY: inside the page and aligned.
        unsafe { AtomicU64::from_ptr(self.ptr.as_ptr().wrapping_add(offset).cast()) }
    }
}

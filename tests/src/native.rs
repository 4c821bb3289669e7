//! A GPU without a mediator, and memory that it and the process that drives it share.
#![expect(unsafe_code, reason = "memory that a device writes to is touched through atomics only")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mediated_gpu::physical::PhysicalGpu;
use mediated_gpu::soft::SoftGpu;
use pviommu::{Client, DeviceFlush, OwnPages};
use xen_ioreq::{Bfn, PAGE_SIZE};

/// Both.
#[derive(Debug)]
pub struct Native {
    /// The GPU. Its table is empty.
    pub gpu: Arc<SoftGpu>,
    pub(crate) client: Client,
    pub(crate) pages: OwnPages,
}

impl Native {
    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.pages.pages()
    }

    /// Where the GPU reaches a page. Panics if there is none.
    pub fn bfn(&self, page: usize) -> Bfn {
        self.pages.bfn(page).expect("a page")
    }

    /// A dword of a page, which lies in it.
    fn dword(&self, page: usize, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at < PAGE_SIZE, "{at} is no dword of a page");
        let page = self.pages.ptr(page).expect("a page");
        // SAFETY: within a page that is ours as long as `self` is, aligned, and touched atomically by all.
        unsafe { AtomicU32::from_ptr(page.as_ptr().add(at).cast()) }
    }

    /// The processor writes whole dwords of a page.
    pub fn write(&self, page: usize, offset: usize, bytes: &[u8]) {
        for (at, dword) in (offset..).step_by(4).zip(bytes.as_chunks().0) {
            self.dword(page, at).store(u32::from_le_bytes(*dword), Ordering::Release);
        }
    }

    /// The processor reads whole dwords of a page.
    pub fn read(&self, page: usize, offset: usize, bytes: &mut [u8]) {
        for (at, dword) in (offset..).step_by(4).zip(bytes.as_chunks_mut().0) {
            *dword = self.dword(page, at).load(Ordering::Acquire).to_le_bytes();
        }
    }

    /// Gives the pages back. The GPU does nothing any more.
    pub fn end(self) {
        (0..self.gpu.ggtt_entries()).for_each(|index| self.gpu.ggtt_write(index, None));
        self.client.release_own(self.pages, &Flush(&self.gpu)).expect("pages go back");
    }
}

struct Flush<'a>(&'a SoftGpu);

impl DeviceFlush for Flush<'_> {
    fn flush(&self) {
        self.0.ggtt_flush();
    }
}

//! The device model's own memory within the device's reach: rings, contexts, scratch.
//!
//! Where the memory comes from is the caller's ([`OwnFrames`]), how a device reaches it the mode's. It leaves the
//! device's reach before it is freed: after a flush, or, where pins are counted, when there are none.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::mem;
use std::ptr::NonNull;
use std::sync::Arc;

use xen_ioreq::seam::{Mapping, MappingOwner};
use xen_ioreq::{Bfn, Errno, Gfn, PAGE_SIZE};

use crate::client::{Client, ClientInner};
use crate::error::OwnError;
use crate::mapping::DeviceFlush;

/// What is known of an own page besides its address here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnFrame {
    /// Nothing: only a device inside this process can reach it.
    Private,
    /// Its number as `IOMMUOP_map_page` takes it: the caller's GFN, for a PV domain the MFN.
    Frame(Gfn),
    /// A device reaches it at this bus frame without our doing (a 1:1 map).
    Reachable(Bfn),
}

/// Where own memory comes from.
pub trait OwnFrames {
    /// `pages` zeroed pages in a row, as addresses of this process.
    fn take(&self, pages: usize) -> Result<OwnMemory, Errno>;
}

/// Memory of this process.
#[derive(Debug)]
pub struct OwnMemory {
    mapping: Mapping,
    frames: Vec<OwnFrame>,
}

impl OwnMemory {
    /// `frames` has an entry for each page of `mapping`; more are ignored, missing ones are private.
    pub fn new(mapping: Mapping, mut frames: Vec<OwnFrame>) -> Self {
        frames.resize(mapping.pages(), OwnFrame::Private);
        Self { mapping, frames }
    }

    /// The same memory, with more known about its pages.
    #[must_use]
    pub fn with_frames(self, frames: Vec<OwnFrame>) -> Self {
        Self::new(self.mapping, frames)
    }

    pub(crate) fn frames(&self) -> &[OwnFrame] {
        &self.frames
    }

    pub(crate) fn pages(&self) -> usize {
        self.frames.len()
    }

    pub(crate) fn page(&self, index: usize) -> Option<NonNull<u8>> {
        self.mapping.page(index)
    }
}

/// A bus frame of an own page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnBfn {
    pub(crate) bfn: Bfn,
    /// Whether we have put it there, and must take it away.
    pub(crate) installed: bool,
}

/// Own pages that a device can reach. Give them back with [`Client::release_own`]; if dropped instead, they are freed
/// where it is known that no device uses them (the soft IOMMU counts pins), and else lost for good.
#[derive(Debug)]
pub struct OwnPages {
    client: Arc<ClientInner>,
    /// `None` only once taken out.
    memory: Option<OwnMemory>,
    bfns: Vec<OwnBfn>,
}

impl OwnPages {
    /// How many.
    pub fn pages(&self) -> usize {
        self.bfns.len()
    }

    /// First byte of page `index`. The device writes there at any time: raw pointers only.
    pub fn ptr(&self, index: usize) -> Option<NonNull<u8>> {
        self.memory.as_ref()?.page(index)
    }

    /// The bus frame of page `index`. Neighbouring pages need not have neighbouring bus frames.
    pub fn bfn(&self, index: usize) -> Option<Bfn> {
        self.bfns.get(index).map(|b| b.bfn)
    }

    fn release(&mut self) -> Result<(), OwnError> {
        if let Some(memory) = self.memory.take()
            && let Err(e) = self.client.backend.remove_own(&self.bfns)
        {
            // A device may still write there, so it must stay memory of nobody else.
            mem::forget(memory);
            return Err(e);
        }
        Ok(())
    }
}

impl Drop for OwnPages {
    fn drop(&mut self) {
        if self.client.counts_pins() {
            if let Err(e) = self.release() {
                log::warn!("{e}: the memory is lost");
            }
        } else if let Some(memory) = self.memory.take() {
            log::warn!("{} own pages were dropped while a device can reach them: lost", memory.pages());
            mem::forget(memory);
        }
    }
}

impl Client {
    /// Takes `pages` pages from `source` and brings them within the device's reach.
    pub fn own(&self, pages: usize, source: &dyn OwnFrames) -> Result<OwnPages, OwnError> {
        let memory = source.take(pages).map_err(|errno| OwnError::NoMemory { pages, errno })?;
        let bfns = self.inner.backend.install_own(&memory)?;
        Ok(OwnPages { client: self.inner.clone(), memory: Some(memory), bfns })
    }

    /// Flushes the device and gives own pages back. PTEs that hold their bus frames must have been removed before.
    /// After an error the memory is lost rather than used by somebody else.
    pub fn release_own(
        &self,
        mut pages: OwnPages,
        device: &(impl DeviceFlush + ?Sized),
    ) -> Result<(), OwnError> {
        device.flush();
        pages.release()
    }
}

/// Anonymous memory, for the soft IOMMU.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessMemory;

#[expect(unsafe_code, reason = "page-aligned memory that a device writes to: no Rust type owns such")]
mod process {
    use super::{Arc, Layout, Mapping, MappingOwner, NonNull, OwnFrames, OwnMemory, PAGE_SIZE};
    use super::{Errno, ProcessMemory, alloc_zeroed, dealloc};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Frees the whole when its last page is released.
    struct Pages {
        base: usize,
        layout: Layout,
        left: AtomicUsize,
    }

    // SAFETY: the memory is freed only after every page was released, each exactly once, as the trait says.
    unsafe impl MappingOwner for Pages {
        fn release(&self, _first: usize, count: usize) {
            if self.left.fetch_sub(count, Ordering::AcqRel) == count {
                // SAFETY: allocated below with this layout, and nobody has a page of it any more.
                unsafe { dealloc(std::ptr::with_exposed_provenance_mut(self.base), self.layout) };
            }
        }
    }

    impl OwnFrames for ProcessMemory {
        fn take(&self, pages: usize) -> Result<OwnMemory, Errno> {
            let size = pages.checked_mul(PAGE_SIZE).filter(|s| *s != 0).ok_or(Errno::EINVAL)?;
            let layout = Layout::from_size_align(size, PAGE_SIZE).map_err(|_| Errno::EINVAL)?;
            // SAFETY: the size is not zero.
            let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(Errno::ENOMEM)?;
            let base_address = base.as_ptr().expose_provenance();
            let owner = Pages { base: base_address, layout, left: AtomicUsize::new(pages) };
            Ok(OwnMemory::new(Mapping::new(base, pages, Arc::new(owner)), Vec::new()))
        }
    }
}

//! Pages of a domain's own whose frames are known, taken all at once and handed out in runs.
//!
//! For a program that must have taken them before it gives up what that needs. A run that a device may still reach is never handed out
//! again, since its owner does not give it back.
#![expect(unsafe_code, reason = "memory that a device writes to: no Rust type owns such")]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use xen_ioreq::seam::{Mapping, MappingOwner};
use xen_ioreq::{Bfn, Errno, Gfn, PAGE_SIZE};

use crate::mode::Mode;
use crate::own::{OwnFrame, OwnFrames, OwnMemory};

impl OwnFrame {
    /// A frame of the calling domain's own, as a hypervisor of this mode takes or tells it.
    pub fn of(gfn: Gfn, mode: &Mode) -> Self {
        match mode {
            // A PV domain's frames have their machine numbers, and the 1:1 map of all machine frames begins at its offset.
            Mode::Lookup { offset, .. } => Self::Reachable(Bfn(gfn.0.saturating_add(*offset))),
            Mode::Map { .. } | Mode::Soft { .. } => Self::Frame(gfn),
        }
    }
}

/// A pool of pages. Cheap to clone.
#[derive(Clone)]
pub struct OwnPool(Arc<Inner>);

struct Inner {
    mapping: Mapping,
    frames: Vec<OwnFrame>,
    /// Runs (first page, count) that are free. No two touch each other.
    free: Mutex<BTreeMap<usize, usize>>,
}

impl OwnPool {
    /// A pool of the pages of `mapping`, whose frames are `gfns`: one each, as [`OwnFrame::of`] takes them.
    pub fn new(mapping: Mapping, gfns: &[Gfn], mode: &Mode) -> Self {
        let frames: Vec<_> = gfns.iter().map(|gfn| OwnFrame::of(*gfn, mode)).take(mapping.pages()).collect();
        let free = Mutex::new(BTreeMap::from_iter((!frames.is_empty()).then_some((0, frames.len()))));
        Self(Arc::new(Inner { mapping, frames, free }))
    }

    /// Pages that are not handed out.
    pub fn free_pages(&self) -> usize {
        self.0.free.lock().values().sum()
    }
}

impl Inner {
    /// The first run that is long enough.
    fn take(&self, pages: usize) -> Option<usize> {
        let mut free = self.free.lock();
        let (first, count) = free.iter().find(|(_, count)| **count >= pages).map(|(f, c)| (*f, *c))?;
        free.remove(&first);
        if count > pages {
            free.insert(first + pages, count - pages);
        }
        Some(first)
    }

    fn give_back(&self, first: usize, count: usize) {
        let mut free = self.free.lock();
        let (mut first, mut count) = (first, count);
        if let Some((&before, &n)) = free.range(..first).next_back()
            && before + n == first
        {
            free.remove(&before);
            (first, count) = (before, n + count);
        }
        count += free.remove(&(first + count)).unwrap_or(0);
        free.insert(first, count);
    }
}

/// A run that is handed out: back in the pool when its last page is released.
struct Run {
    pool: Arc<Inner>,
    first: usize,
    count: usize,
    left: AtomicUsize,
}

// SAFETY: the pages are those of the pool's mapping, which lives as long as the pool, and the run goes back to it only after every
// page was released, each exactly once, as the trait says.
unsafe impl MappingOwner for Run {
    fn release(&self, _first: usize, count: usize) {
        if self.left.fetch_sub(count, Ordering::AcqRel) == count {
            self.pool.give_back(self.first, self.count);
        }
    }
}

impl OwnFrames for OwnPool {
    /// EINVAL: none asked for. ENOMEM: no run of so many is free.
    fn take(&self, pages: usize) -> Result<OwnMemory, Errno> {
        if pages == 0 {
            return Err(Errno::EINVAL);
        }
        let first = self.0.take(pages).ok_or(Errno::ENOMEM)?;
        let run = Run { pool: self.0.clone(), first, count: pages, left: AtomicUsize::new(pages) };
        let base = self.0.mapping.page(first).ok_or(Errno::EFAULT)?;
        // SAFETY: pages of the mapping that are in no other run, and within no device's reach: who had them before has given
        // them back.
        unsafe { base.as_ptr().write_bytes(0, pages * PAGE_SIZE) };
        let frames = self.0.frames.get(first..first + pages).unwrap_or_default().to_vec();
        Ok(OwnMemory::new(Mapping::new(base, pages, Arc::new(run)), frames))
    }
}

impl fmt::Debug for OwnPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pages, free) = (self.0.frames.len(), self.free_pages());
        f.debug_struct("OwnPool").field("pages", &pages).field("free", &free).finish()
    }
}

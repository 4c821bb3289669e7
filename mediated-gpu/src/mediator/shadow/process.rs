//! The guest's per-process tables, under the same lock as its slice's entries: a notice that was carried out is gone
//! from both.

use std::sync::Arc;

use pviommu::Mapped;
use xen_ioreq::{PAGE_MASK, PAGE_SIZE};

use super::memory::to_page_end;
use super::{NotMapped, ShadowGgtt, Writers};
use crate::gen8::ppgtt::Root;
use crate::mediator::ppgtt::TablesError;
use crate::mediator::tracker::PageTracker;
use std::sync::atomic::Ordering;

/// Tables that a context is about to use, or using. Its end lets them go.
pub(crate) struct Tables<'a> {
    ggtt: &'a ShadowGgtt,
    /// As the guest names them.
    guest: Root,
    /// As the GPU is told.
    shadow: Root,
}

impl ShadowGgtt {
    /// Brings the shadows of the tables that begin at the guest's `root` up to date.
    pub(crate) fn tables(&self, root: Root) -> Result<Tables<'_>, TablesError> {
        let mut writers = self.lock_after_notices();
        if writers.closed {
            return Err(TablesError::Closed);
        }
        let reached = |bfn| self.table.read().count(bfn) > 0;
        let entered = writers.ppgtt.enter(root, &reached);
        self.settle_tables(&mut writers);
        Ok(Tables { ggtt: self, guest: root, shadow: entered? })
    }

    /// From now on tables whose writes `tracker` tells of are not compared, once they have been quiet for so many uses.
    pub(crate) fn track_tables(&self, tracker: Arc<dyn PageTracker>, quiet: u32) {
        let mut writers = self.writers.lock();
        if !writers.closed {
            writers.ppgtt.track(tracker, quiet);
        }
    }

    /// No table is tracked until it is used again, and all are plain memory.
    pub(crate) fn let_tables_go(&self) {
        let tracker = {
            let mut writers = self.writers.lock();
            writers.ppgtt.watch_none();
            writers.ppgtt.tracker()
        };
        if let Some(tracker) = tracker {
            tracker.settle();
        }
    }

    /// The guest says that a root goes.
    pub(crate) fn tables_destroyed(&self, root: Root) {
        let mut writers = self.writers.lock();
        writers.ppgtt.destroyed(root);
        self.settle_tables(&mut writers);
    }

    /// The root of the guest's, of those that map memory from `first` to `last`, with which a context began last.
    pub(crate) fn latest_process(&self, first: u64, last: u64) -> Option<Root> {
        self.writers.lock().ppgtt.latest(first, last)
    }

    /// Copies from the memory of a process, as its tables were when it last gave the GPU work. Calls `missing` with the address
    /// of each page that is not there.
    pub(crate) fn read_process(&self, root: Root, addr: u64, buf: &mut [u8], mut missing: impl FnMut(u64)) {
        let writers = self.writers.lock();
        let (mut at, mut rest) = (addr, buf);
        while !rest.is_empty() {
            let (now, later) = rest.split_at_mut(to_page_end(at).min(rest.len()));
            let count = now.len() as u64;
            let bfn = writers.ppgtt.translate(root, at);
            let read = bfn.map(|bfn| self.parts.own.memory.read(bfn, PAGE_SIZE - to_page_end(at), now));
            if !matches!(read, Some(Ok(()))) {
                missing(at & !PAGE_MASK);
            }
            (at, rest) = (at.saturating_add(count), later);
        }
    }

    /// Keeps references that no table needs any more for the next release, after the flush.
    pub(super) fn settle_tables(&self, writers: &mut Writers) {
        if std::mem::take(&mut writers.ppgtt.changed) {
            self.dirty.store(true, Ordering::Release);
        }
        if std::mem::take(&mut writers.ppgtt.moved) {
            self.moved.store(true, Ordering::Release);
        }
        let gone = std::mem::take(&mut writers.ppgtt.put);
        writers.stale.extend(gone.into_iter().filter_map(Mapped::put));
        self.count(writers);
    }
}

impl Tables<'_> {
    /// What the GPU is to use.
    pub(crate) fn shadow(&self) -> Root {
        self.shadow
    }

    /// Copies from the process's memory, up to the first page that is not there.
    pub(crate) fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), NotMapped> {
        // While the lock is held no entry changes, so what is copied is still the guest's.
        let writers = self.ggtt.writers.lock();
        let (mut at, mut rest) = (addr, buf);
        while !rest.is_empty() {
            let (now, later) = rest.split_at_mut(to_page_end(at).min(rest.len()));
            let count = now.len() as u64;
            let bfn = writers.ppgtt.translate(self.guest, at).ok_or(NotMapped(at))?;
            self.ggtt.parts.own.memory.read(bfn, PAGE_SIZE - to_page_end(at), now).map_err(|e| {
                log::warn!("a mapped frame is out of reach: {e}");
                NotMapped(at)
            })?;
            (at, rest) = (at.saturating_add(count), later);
        }
        Ok(())
    }
}

impl Drop for Tables<'_> {
    fn drop(&mut self) {
        // A panic has not stopped the engine yet: they stay for the vGPU's life.
        if std::thread::panicking() {
            return;
        }
        let mut writers = self.ggtt.writers.lock();
        writers.ppgtt.leave(self.guest);
        self.ggtt.settle_tables(&mut writers);
    }
}

impl std::fmt::Debug for Tables<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables")
            .field("guest", &self.guest)
            .field("shadow", &self.shadow)
            .finish_non_exhaustive()
    }
}

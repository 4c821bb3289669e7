//! The mediator's own graphics memory: pages of its own, mapped at the end of the physical table.
//!
//! Each engine has an area for one context, one ring and the batches of one submission. Pages are taken when a
//! submission first needs them, and stay.

use std::sync::Arc;

use pviommu::{Client, DeviceFlush, OwnError, OwnFrames, OwnPages};
use xen_ioreq::{Bfn, PAGE_SIZE};

use super::memory::Memory;
use crate::physical::PhysicalGpu;
use crate::vgpu::slice::{GmRange, index_of};

/// Where the mediator's own pages come from, and how it and the GPU reach them.
#[derive(Clone)]
pub(super) struct Own {
    pub(super) gpu: Arc<dyn PhysicalGpu>,
    pub(super) client: Client,
    pub(super) source: Arc<dyn OwnFrames + Send + Sync>,
    pub(super) memory: Memory,
}

impl Own {
    /// Takes pages, zeroed.
    pub(super) fn take(&self, count: usize) -> Result<OwnPages, OwnError> {
        self.client.own(count, &*self.source)
    }

    /// Gives pages back that no entry leads to any more.
    pub(super) fn give_back(&self, pages: OwnPages) {
        if let Err(e) = self.client.release_own(pages, self) {
            log::error!("pages of the mediator's own are lost: {e}");
        }
    }

    /// The entries in a page of a table of the guest's, all 512: `None` if it cannot be read.
    pub(super) fn entries(&self, page: Bfn) -> Option<Vec<u64>> {
        let mut bytes = vec![0; PAGE_SIZE];
        if let Err(e) = self.memory.read(page, 0, &mut bytes) {
            log::warn!("a page of a guest's table is out of reach: {e}");
            return None;
        }
        let (entries, _) = bytes.as_chunks();
        Some(entries.iter().map(|e| u64::from_le_bytes(*e)).collect())
    }
}

impl DeviceFlush for Own {
    fn flush(&self) {
        self.gpu.ggtt_flush();
    }
}

/// A stretch of graphics memory that fills up with pages.
pub(super) struct Area {
    own: Own,
    range: GmRange,
    pages: Vec<Bfn>,
    taken: Vec<OwnPages>,
}

impl Area {
    /// An area without pages. Its entries lead to `scratch`, for what an engine fetches ahead.
    pub(super) fn new(own: Own, range: GmRange, scratch: Bfn) -> Self {
        for index in index_of(range.base)..index_of(range.end()) {
            own.gpu.ggtt_write(index, Some(scratch));
        }
        Self { own, range, pages: Vec::new(), taken: Vec::new() }
    }

    /// GM address of the first byte.
    pub(super) fn base(&self) -> u64 {
        self.range.base
    }

    /// Bytes that can be had at most.
    pub(super) fn limit(&self) -> usize {
        usize::try_from(self.range.size).unwrap_or(usize::MAX)
    }

    /// Takes pages until there are `bytes`.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), OwnError> {
        let wanted = bytes.min(self.limit()).div_ceil(PAGE_SIZE);
        let Some(missing) = wanted.checked_sub(self.pages.len()).filter(|n| *n > 0) else { return Ok(()) };
        let first = index_of(self.range.base);
        let taken = self.own.take(missing)?;
        for bfn in (0..taken.pages()).filter_map(|i| taken.bfn(i)) {
            let index = first.saturating_add(u32::try_from(self.pages.len()).unwrap_or(u32::MAX));
            self.own.gpu.ggtt_write(index, Some(bfn));
            self.pages.push(bfn);
        }
        self.taken.push(taken);
        self.own.gpu.ggtt_flush();
        Ok(())
    }

    /// Writes dwords at a byte offset. Beyond the pages taken nothing is written.
    pub(super) fn write(&self, offset: usize, dwords: &[u32]) {
        let mut bytes = Vec::with_capacity(4 * dwords.len());
        dwords.iter().for_each(|d| bytes.extend(d.to_le_bytes()));
        let (mut at, mut rest) = (offset, bytes.as_slice());
        while let Some(page) = self.pages.get(at / PAGE_SIZE).filter(|_| !rest.is_empty()) {
            let (now, later) = rest.split_at((PAGE_SIZE - at % PAGE_SIZE).min(rest.len()));
            if let Err(e) = self.own.memory.write(*page, at % PAGE_SIZE, now) {
                log::error!("a page of the mediator's own is out of reach: {e}");
            }
            at += now.len();
            rest = later;
        }
    }

    /// Reads the dword at a byte offset; 0 beyond the pages taken.
    pub(super) fn read32(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        if let Some(page) = self.pages.get(offset / PAGE_SIZE)
            && let Err(e) = self.own.memory.read(*page, offset % PAGE_SIZE, &mut bytes)
        {
            log::error!("a page of the mediator's own is out of reach: {e}");
        }
        u32::from_le_bytes(bytes)
    }
}

impl Drop for Area {
    /// The engine that used the area has stopped for good.
    fn drop(&mut self) {
        for index in index_of(self.range.base)..index_of(self.range.end()) {
            self.own.gpu.ggtt_write(index, None);
        }
        self.taken.drain(..).for_each(|pages| self.own.give_back(pages));
    }
}

impl std::fmt::Debug for Area {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Area").field("range", &self.range).field("pages", &self.pages.len()).finish()
    }
}

//! What a vGPU uses of its guest's memory besides what the guest's entries lead to at work: a translation table, page tables
//! that are tracked, frames in which registers are shown, and pictures, which are copied while the guest goes on.

use std::collections::BTreeSet;
use std::sync::Arc;

use pviommu::{Draining, Mapped};
use xen_ioreq::{Gfn, PAGE_SIZE};

use super::Vgpu;
use crate::gen8::gtt::PTE_SIZE;
use crate::mediator::tracker::PageTracker;
use crate::vgpu::display::{MAX_SIDE, PIXEL_BYTES, Scanout, Surface, SurfaceError};
use crate::vgpu::slice::Slice;

impl Vgpu {
    /// From now on the guest's translation table is memory of its own, from this frame on: writes there do not trap, and are
    /// looked at when the guest flushes (`GFX_FLSH_CNTL`), as hardware does. For tables at another place this is called again.
    pub fn lend_table(&self, first: Gfn) {
        self.ggtt.lend_table(first);
    }

    /// From now on page tables of its contexts are not compared at each use once they have not changed for `quiet` uses
    /// ([`TRACK_AFTER`](crate::mediator::TRACK_AFTER), unless there is a reason): `tracker` tells when one is written. Without one, and
    /// where it cannot track a page, they are compared.
    pub fn track_tables(&self, tracker: Arc<dyn PageTracker>, quiet: u32) {
        self.ggtt.track_tables(tracker, quiet);
    }

    /// From now on a page of registers ([`PAGES`](crate::vgpu::shown::PAGES)) is this frame of the guest's too, and holds what they
    /// read as. `false`: the frame is not there.
    pub(in crate::mediator) fn show_registers(&self, page: usize, at: Gfn) -> bool {
        let Some(mapped) = self.ggtt.map_shown(at) else { return false };
        self.let_go(self.state.show(page, mapped));
        true
    }

    /// Whether there is such a frame of the guest's.
    pub(in crate::mediator) fn has_frame(&self, gfn: Gfn) -> bool {
        let mapped = self.ggtt.map_shown(gfn);
        let found = mapped.is_some();
        self.let_go(mapped.and_then(Mapped::put));
        found
    }

    /// Whether none of its entries lies behind the table's first `frames` frames.
    pub(in crate::mediator) fn leaves_room_behind(&self, frames: u32) -> bool {
        let entries = u64::from(frames) * (PAGE_SIZE as u64 / u64::from(PTE_SIZE));
        let Slice { low, high, .. } = self.slice();
        low.end().max(high.end()) <= entries * PAGE_SIZE as u64
    }

    /// From now on it is not.
    pub(in crate::mediator) fn hide_registers(&self, page: usize) {
        self.let_go(self.state.hide(page));
    }

    fn let_go(&self, draining: Option<Draining>) {
        self.maintenance.drain(draining.into_iter().collect());
    }

    pub(in crate::mediator) fn has_lent_table(&self) -> bool {
        self.ggtt.is_lent()
    }

    pub(in crate::mediator) fn compare_table(&self) {
        self.ggtt.compare_table();
        self.maintenance.drain(self.ggtt.take_stale());
    }

    /// Copies what the guest shows. The copy takes as long as it takes; the guest is not stopped for it.
    pub fn surface(&self) -> Result<Surface, SurfaceError> {
        let scanout = self.state.lock().scanout()?;
        Ok(copied(scanout, |at, row, missing| self.ggtt.read_present(at, row, missing)))
    }

    /// Copies a picture from the memory of a process of the guest's: of those that have memory there, the one that last gave the
    /// GPU work. It is in the pages that the GPU reached then, or in what has taken their place. At most [`MAX_SIDE`] pixels a
    /// side; `None` if there is no such process.
    pub fn process_surface(&self, picture: Scanout) -> Option<Surface> {
        let Scanout { width, height, stride, address } = picture;
        let lines = u64::from(height.saturating_sub(1)) * u64::from(stride);
        let bytes = lines.saturating_add(u64::from(width) * u64::from(PIXEL_BYTES));
        let last = address.saturating_add(bytes.saturating_sub(1));
        let root = self.ggtt.latest_process(address, last)?;
        Some(copied(picture, |at, row, missing| self.ggtt.read_process(root, at, row, missing)))
    }
}

/// A picture, read line by line with `read(address, line, missing page)`.
fn copied(picture: Scanout, read: impl Fn(u64, &mut [u8], &mut dyn FnMut(u64))) -> Surface {
    let Scanout { width, height, stride, address } = picture;
    let line = width.min(MAX_SIDE) as usize * PIXEL_BYTES as usize;
    let mut bgrx = vec![0; line * height.min(MAX_SIDE) as usize];
    let mut missing = BTreeSet::new();
    for (y, row) in (0u64..).zip(bgrx.chunks_exact_mut(line.max(1))) {
        let start = address.saturating_add(y * u64::from(stride));
        read(start, row, &mut |page| {
            missing.insert(page);
        });
    }
    let missing_pages = u32::try_from(missing.len()).unwrap_or(u32::MAX);
    Surface { width, height, bgrx, missing_pages }
}

//! The shadow GGTT of one slice: what the guest wrote, with every guest frame replaced by the bus frame behind it.
//!
//! An entry is a function of the guest's entry alone: the frame's bus address if it is present and there is such a
//! frame, the scratch page otherwise. Order of a change: new mapping, way back, physical entry, old reference put;
//! the flush and the release are for the caller.

mod entries;
mod lent;
mod memory;
mod process;
mod release;
mod saved;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Mutex, RwLock};
use pviommu::{Draining, Guest, Mapped};
use xen_ioreq::Bfn;

use self::lent::Lent;
pub(crate) use self::memory::NotMapped;
pub(crate) use self::process::Tables;
use super::ppgtt::Ppgtt;
use super::reserve::Own;
use super::reverse::ReverseMap;
use super::shown::ShownPages;
use super::stats::Stats;
use crate::vgpu::slice::Slice;

/// What a slice's entries are made of.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) slice: Slice,
    /// Where entries lead that lead nowhere.
    pub(super) scratch: Bfn,
    pub(super) own: Own,
    pub(super) frames: Guest,
    pub(super) stats: Arc<Stats>,
    pub(super) shown: Arc<ShownPages>,
}

/// Who changes entries.
struct Writers {
    /// The slice is about to be somebody else's: entries are not changed any more.
    closed: bool,
    /// What notices have ended, out of every table.
    stale: Vec<Draining>,
    /// The tables of the guest's processes.
    ppgtt: Ppgtt,
    /// The slice's table, if it is memory of the guest's.
    lent: Option<Lent>,
}

/// The shadow. Its locks are taken in this order: `releasing`, `writers`, `table`.
pub(crate) struct ShadowGgtt {
    parts: Parts,
    /// Physical entries have changed since the last flush began.
    dirty: AtomicBool,
    /// Entries of the guest's processes have, that led to one page and lead to another now.
    moved: AtomicBool,
    /// Held during a flush: who finds nothing dirty has waited for the flush that made it so. Nothing else is locked under it.
    flushing: Mutex<()>,
    /// One release at a time.
    releasing: Mutex<()>,
    /// What a notice announced is gone before the next reference is taken, and no reference is entered that was taken before.
    writers: Mutex<Writers>,
    /// Held for reading while a page is copied, so that after a change nobody still copies.
    table: RwLock<ReverseMap<Mapped>>,
}

impl ShadowGgtt {
    /// Points the whole slice at scratch. The caller flushes.
    pub(super) fn new(parts: Parts) -> Self {
        for index in parts.slice.indexes() {
            parts.own.gpu.ggtt_write(index, Some(parts.scratch));
        }
        let table = RwLock::new(ReverseMap::new(parts.slice.entries()));
        let Parts { own, frames, stats, scratch, .. } = parts.clone();
        let ppgtt = Ppgtt::new(own, frames, stats, scratch);
        let writers = Mutex::new(Writers { closed: false, stale: Vec::new(), ppgtt, lent: None });
        Self {
            parts,
            dirty: AtomicBool::new(true),
            moved: AtomicBool::new(false),
            flushing: Mutex::default(),
            releasing: Mutex::default(),
            writers,
            table,
        }
    }

    /// The slice.
    pub(crate) fn slice(&self) -> &Slice {
        &self.parts.slice
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> parking_lot::RwLockReadGuard<'_, ReverseMap<Mapped>> {
        self.table.read()
    }
}

impl std::fmt::Debug for ShadowGgtt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShadowGgtt")
            .field("slice", &self.parts.slice)
            .field("scratch", &self.parts.scratch)
            .finish_non_exhaustive()
    }
}

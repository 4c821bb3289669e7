//! A vGPU as a file holds it, and made anew from that.
//!
//! What is saved: registers and engines, what the guest wrote to its translation table, where the table is if it is the
//! guest's memory. Shadows are not: they are made from that and from the guest's memory, in whatever frames it is by then.
//! The slice stays where it was, since addresses in the guest's commands say so.

use std::sync::Arc;

use pviommu::Guest;
use serde::{Deserialize, Serialize};
use xen_ioreq::Gfn;

use super::guest::{MsiSink, Vgpu};
use super::{Mediator, MediatorError};
use crate::vgpu::State;
use crate::vgpu::saved::{SavedState, StateError};
use crate::vgpu::slice::{GmRange, Slice, SliceSize, VgpuType};

/// A vGPU, saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedVgpu {
    /// Low and high part, base and size in bytes; fences.
    slice: [(u64, u64); 2],
    fences: u32,
    state: SavedState,
    table: Vec<SavedEntries>,
    /// The first frame of a table that is memory of the guest's, and comes with its memory.
    lent: Option<u64>,
    share: (u32, u32, Option<std::time::Duration>),
}

/// Neighbours in the slice's part of the table that are not 0, as the guest wrote them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedEntries {
    /// Their place among the slice's entries, low part first.
    pub(super) first: u32,
    pub(super) entries: Vec<u64>,
}

/// A vGPU cannot be saved, or made from what was.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// It is at work.
    #[error("a vGPU is saved when it is paused")]
    NotPaused,
    /// It needs another one.
    #[error("the saved vGPU has an aperture of {saved:#x} bytes, this mediator has {here:#x}")]
    Aperture {
        /// Bytes.
        saved: u64,
        /// Bytes.
        here: u64,
    },
    /// Its state.
    #[error("the saved state: {0}")]
    State(#[from] StateError),
    /// More entries than its slice has.
    #[error("the saved table goes on beyond its slice, at entry {0}")]
    Table(u64),
    /// It cannot be made.
    #[error(transparent)]
    Mediator(#[from] MediatorError),
}

impl Vgpu {
    /// What makes the same vGPU anew, elsewhere and later. It is paused, and its guest makes no access meanwhile.
    pub fn save(&self) -> Result<SavedVgpu, SavedError> {
        if !self.is_paused() {
            return Err(SavedError::NotPaused);
        }
        let (slice, share) = (self.slice(), self.share());
        let (table, lent) = self.ggtt().save();
        Ok(SavedVgpu {
            slice: [slice.low, slice.high].map(|part| (part.base, part.size)),
            fences: slice.fences,
            state: self.save_state(),
            table,
            lent: lent.map(|gfn| gfn.0),
            share: (share.weight, share.cap, share.deadline),
        })
    }
}

impl SavedVgpu {
    fn slice(&self) -> Slice {
        let [low, high] = self.slice.map(|(base, size)| GmRange { base, size });
        Slice { low, high, fences: self.fences }
    }

    /// The size of its slice.
    pub(crate) fn size(&self) -> SliceSize {
        let [low, high] = self.slice.map(|(_, size)| size);
        SliceSize { low, high, fences: self.fences }
    }

    /// The first frame of its table, if that is memory of the guest's.
    pub fn table(&self) -> Option<Gfn> {
        self.lent.map(Gfn)
    }
}

impl Mediator {
    /// Makes a saved vGPU anew, with the slice that it had, for a guest whose memory is what it was
    /// then. Its work goes on at once.
    pub fn restore(
        &self,
        saved: &SavedVgpu,
        frames: Guest,
        msi: Box<dyn MsiSink>,
    ) -> Result<Arc<Vgpu>, SavedError> {
        let (slice, kind) = (saved.slice(), VgpuType::of_size(saved.size()));
        let entries = slice.entries() as u64;
        let end = |run: &SavedEntries| u64::from(run.first).saturating_add(run.entries.len() as u64);
        if let Some(run) = saved.table.iter().find(|run| end(run) > entries) {
            return Err(SavedError::Table(end(run)));
        }
        let vgpu = self.make(kind, Some(slice), frames, msi, |id, slice| {
            State::restore(id, slice, &saved.state).map_err(SavedError::from)
        })?;
        let (weight, cap, deadline) = saved.share;
        vgpu.set_share(super::Share { weight, cap, deadline });
        vgpu.load(&saved.table, saved.lent.map(Gfn));
        Ok(vgpu)
    }
}

//! The slot of a guest's bus for its vGPU: made, taken away and made anew while the guest runs.
//!
//! For the guest a vGPU that goes is unplugged: its registers read as ones, its table and aperture as nothing. All its
//! frames have been released by then.

use std::sync::Arc;

use ioreq_server::dm::Dm;
use ioreq_server::{Bus, WriteTraps};
use parking_lot::Mutex;

use crate::mediator::{
    Mediator, MediatorError, Place, PlugError, Plugged, SavedError, Snapshot, Trapping, Vgpu,
};
use crate::saved::SavedGuest;
use crate::vgpu::slice::VgpuType;

/// A vGPU could not be made, or taken away.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// There is one.
    #[error("the guest has a vGPU already")]
    Taken,
    /// There is none.
    #[error("the guest has no vGPU")]
    Empty,
    /// It cannot be made.
    #[error(transparent)]
    Plug(#[from] PlugError),
    /// It cannot be saved.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// It cannot be destroyed.
    #[error(transparent)]
    Mediator(#[from] MediatorError),
}

/// What a vGPU of the guest's is made of.
pub(super) struct Parts {
    pub(super) mediator: Arc<Mediator>,
    pub(super) frames: pviommu::Guest,
    pub(super) bus: Arc<Bus>,
    pub(super) dm: Dm,
    /// Where it is.
    pub(super) place: Arc<Place>,
    /// Where writes to its page tables may be trapped, and after how many uses without one.
    pub(super) traps: Option<(Arc<WriteTraps>, u32)>,
}

/// What the first vGPU is like.
pub(super) enum First<'a> {
    /// A new one, with what the guest wrote to the configuration space of another before.
    New(VgpuType, Option<&'a [u8; 256]>),
    /// As it was saved.
    Saved(&'a SavedGuest),
}

/// The slot.
pub struct Slot {
    parts: Parts,
    /// Locked while a vGPU is made or destroyed.
    seat: Mutex<Seat>,
}

struct Seat {
    kind: VgpuType,
    /// `None`: nothing is plugged in.
    plugged: Option<Plugged>,
    /// The vGPU, or the last there was.
    last: Arc<Vgpu>,
}

impl Slot {
    /// Makes the first vGPU.
    pub(super) fn new(parts: Parts, first: First<'_>) -> Result<Self, PlugError> {
        let (plugged, kind) = match first {
            First::Saved(saved) => (parts.plug_saved(saved)?, saved.kind()),
            First::New(kind, config) => (parts.plug(kind, config)?, kind),
        };
        let last = plugged.vgpu.clone();
        Ok(Self { parts, seat: Mutex::new(Seat { kind, plugged: Some(plugged), last }) })
    }

    /// The guest's vGPU; if it has been taken away, the last there was, which does nothing any more.
    pub fn vgpu(&self) -> Arc<Vgpu> {
        self.seat.lock().last.clone()
    }

    /// The type of the vGPU, or of the last there was.
    pub fn kind(&self) -> VgpuType {
        self.seat.lock().kind
    }

    /// Whether the guest has no vGPU.
    pub fn is_empty(&self) -> bool {
        self.seat.lock().plugged.is_none()
    }

    /// How many more vGPUs of a type there could be now.
    pub fn available(&self, kind: VgpuType) -> u32 {
        self.parts.mediator.available(kind)
    }

    /// Plugs a new vGPU in, with its type's share, for a guest that has none.
    pub fn create(&self, kind: VgpuType) -> Result<(), SlotError> {
        let mut seat = self.seat.lock();
        if seat.plugged.is_some() {
            return Err(SlotError::Taken);
        }
        let plugged = self.parts.plug(kind, None)?;
        *seat = Seat { kind, last: plugged.vgpu.clone(), plugged: Some(plugged) };
        Ok(())
    }

    /// Pauses the vGPU and takes down all that makes it anew elsewhere. It stays paused: what the guest does to it from here
    /// on would not be in the file. The guest should not run, and its memory is to be saved as it is then.
    pub fn save(&self) -> Result<SavedGuest, SlotError> {
        let seat = self.seat.lock();
        let Plugged { vgpu, endpoint } = seat.plugged.as_ref().ok_or(SlotError::Empty)?;
        vgpu.pause();
        let saved = vgpu.save()?;
        let aperture = self.parts.mediator.aperture();
        Ok(endpoint.with_config(|config| SavedGuest::new(aperture, config, saved)))
    }

    /// Registers are not shown in memory of the guest's any more.
    pub(super) fn hide_registers(&self) {
        if let Some(Plugged { vgpu, .. }) = &self.seat.lock().plugged {
            self.parts.place.end(vgpu, &self.parts.dm);
        }
    }

    /// Takes the vGPU away, whatever it is doing, and releases its frames. Says what it did in its life.
    pub fn destroy(&self) -> Result<Snapshot, SlotError> {
        let mut seat = self.seat.lock();
        let Plugged { vgpu, endpoint } = seat.plugged.take().ok_or(SlotError::Empty)?;
        if let Err(e) = endpoint.detach() {
            log::error!("{}: {e}", vgpu.id());
        }
        self.parts.place.end(&vgpu, &self.parts.dm);
        Ok(self.parts.mediator.destroy(vgpu.id())?)
    }
}

impl Parts {
    fn plug_saved(&self, saved: &SavedGuest) -> Result<Plugged, PlugError> {
        let (frames, dm, place) = (self.frames.clone(), self.dm.clone(), self.place.clone());
        self.mediator.plug_saved(saved, frames, &self.bus, dm, place).inspect(|p| self.track(p))
    }

    fn plug(&self, kind: VgpuType, config: Option<&[u8; 256]>) -> Result<Plugged, PlugError> {
        let (frames, dm, place) = (self.frames.clone(), self.dm.clone(), self.place.clone());
        self.mediator.plug_with(kind, frames, &self.bus, dm, config, place).inspect(|p| self.track(p))
    }

    fn track(&self, plugged: &Plugged) {
        if let Some((traps, quiet)) = &self.traps {
            plugged.vgpu.track_tables(Arc::new(Trapping::new(traps.clone())), *quiet);
        }
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("vgpu", &self.vgpu().id()).finish_non_exhaustive()
    }
}

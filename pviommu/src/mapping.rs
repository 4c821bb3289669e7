//! The life of a mapping as types: [`Mapped`] (a counted reference) → [`Draining`] (no new references, holders let go) →
//! [`Quiesced`] (no device can reach it: only a flush gives one) → released.
//!
//! None of them can be copied. Dropping one on the way loses nothing: the mapping comes back with the next
//! [`Guest::take_draining`](crate::Guest::take_draining).

use std::fmt;
use std::sync::Arc;

use xen_ioreq::{Bfn, DomId, Gfn};

use crate::error::ReleaseError;
use crate::guest::GuestInner;
use crate::table::{Slot, Status};

/// A reference to a live mapping: as long as it is held, the bus frame reaches the guest's frame. Give it back with
/// [`put`](Self::put) after the device's PTE is gone.
#[must_use = "a device may use the bus frame only while this is held"]
pub struct Mapped {
    /// `None` only within `put` and `drop`.
    guest: Option<Arc<GuestInner>>,
    slot: Slot,
    bfn: Bfn,
}

impl Mapped {
    pub(crate) fn new(guest: Arc<GuestInner>, slot: Slot, bfn: Bfn) -> Self {
        Self { guest: Some(guest), slot, bfn }
    }

    /// The bus frame, for a PTE.
    pub fn bfn(&self) -> Bfn {
        self.bfn
    }

    /// Gives the reference back. If it was the last one, the mapping stays until it is quiesced and released, or is
    /// mapped again before that.
    pub fn put(mut self) -> Option<Draining> {
        let guest = self.guest.take()?;
        guest.put(self.slot, self.bfn)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Some(guest) = self.guest.take() {
            // A mapping that comes to its end here goes to the guest's list when this is dropped.
            drop(guest.put(self.slot, self.bfn));
        }
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").field("bfn", &self.bfn).finish_non_exhaustive()
    }
}

/// Why a mapping is draining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its last reference was given back.
    LastPut,
    /// The guest's frame is no longer the one that is mapped.
    Invalidated,
    /// Its domain is dead.
    Death,
    /// The frame was mapped afresh behind the same bus frame. Holders keep what they have; only a flush is needed.
    Replaced,
    /// An earlier release failed.
    Again,
}

/// What is draining, without the guest it belongs to.
#[derive(Debug)]
pub(crate) struct Drained {
    pub(crate) what: What,
    pub(crate) gfn: Gfn,
    pub(crate) bfn: Bfn,
    pub(crate) cause: Cause,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Mapping {
        slot: Slot,
        epoch: u32,
    },
    /// The page that was replaced behind a mapping.
    Page,
}

/// A mapping that takes no new references, on its way out. Find who refers to its bus frame, drop their
/// PTEs, put their references, then [quiesce](crate::Client::quiesce).
#[must_use = "what is draining keeps the guest's frame until it is released"]
pub struct Draining {
    pub(crate) guest: Arc<GuestInner>,
    /// `None` only once it was taken out.
    drained: Option<Drained>,
    bfn: Bfn,
    gfn: Gfn,
    cause: Cause,
}

impl Draining {
    pub(crate) fn new(guest: Arc<GuestInner>, drained: Drained) -> Self {
        let Drained { gfn, bfn, cause, .. } = drained;
        Self { guest, drained: Some(drained), bfn, gfn, cause }
    }

    /// The bus frame that PTEs may still hold.
    pub fn bfn(&self) -> Bfn {
        self.bfn
    }

    /// The guest frame for which it was mapped.
    pub fn gfn(&self) -> Gfn {
        self.gfn
    }

    /// The guest.
    pub fn domid(&self) -> DomId {
        self.guest.domid()
    }

    /// Why.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Whether PTEs that hold the bus frame must go before the flush. Not so for a page that was replaced.
    pub fn ends_use(&self) -> bool {
        self.cause != Cause::Replaced
    }

    /// Whether references are still held, so that it cannot be quiesced yet.
    pub fn is_held(&self) -> bool {
        self.mapping().is_some_and(|(slot, epoch)| self.guest.is_held(slot, epoch))
    }

    /// Whether there is nothing to be done any more, since the mapping was taken into use again.
    pub fn is_void(&self) -> bool {
        self.mapping().is_some_and(|(slot, epoch)| !self.guest.rests(slot, epoch))
    }

    fn mapping(&self) -> Option<(Slot, u32)> {
        match self.drained.as_ref()?.what {
            What::Mapping { slot, epoch } => Some((slot, epoch)),
            What::Page => None,
        }
    }

    /// Takes it apart; dropping what is left does nothing.
    pub(crate) fn take(mut self) -> Option<Drained> {
        self.drained.take()
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        if let Some(drained) = self.drained.take() {
            self.guest.adopt(drained);
        }
    }
}

impl fmt::Debug for Draining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draining")
            .field("domid", &self.domid())
            .field("gfn", &self.gfn)
            .field("bfn", &self.bfn)
            .field("cause", &self.cause)
            .finish()
    }
}

/// A device that translates bus frames.
pub trait DeviceFlush {
    /// Drops the device's cached translations. When it returns, no access through a PTE that was removed before the call is
    /// in flight or will ever happen.
    fn flush(&self);
}

impl<T: DeviceFlush + ?Sized> DeviceFlush for &T {
    fn flush(&self) {
        (**self).flush();
    }
}

impl<T: DeviceFlush + ?Sized> DeviceFlush for Arc<T> {
    fn flush(&self) {
        (**self).flush();
    }
}

/// Mappings that no device can reach: nobody refers to them, and the device has been flushed since. Only
/// [`Client::quiesce`](crate::Client::quiesce) makes one, and only [`Client::release`](crate::Client::release) takes it.
#[derive(Debug)]
#[must_use = "what is quiesced still keeps the guest's frame: release it"]
pub struct Quiesced {
    pub(crate) items: Vec<Draining>,
}

impl Quiesced {
    /// How many mappings and replaced pages.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is nothing to release.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// What a release did.
#[derive(Debug, Default)]
#[must_use = "what failed is still mapped"]
pub struct Released {
    /// Mappings that are gone: the hypervisor has its frames back, the bus frames are free.
    pub mappings: usize,
    /// Replaced pages that are gone.
    pub pages: usize,
    /// Mappings that were taken into use again meanwhile and stay.
    pub revived: usize,
    /// What is still mapped, and why: to be drained once more. Dropped, it comes back with the guest's next
    /// [`take_draining`](crate::Guest::take_draining).
    pub failed: Vec<(Draining, ReleaseError)>,
}

/// Whether a mapping in this state has come to a stand.
pub(crate) fn rests(status: Status) -> bool {
    matches!(status, Status::Idle | Status::Stale)
}

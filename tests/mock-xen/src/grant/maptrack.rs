//! What a domain has mapped by grants: a slot for each mapping, whose number is its handle.

use xen_ioreq::{Bfn, DomId, Mfn};

/// Slots in a frame of Xen's.
const PER_FRAME: usize = 256;

/// A mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tracked {
    pub(crate) granter: DomId,
    pub(crate) reference: u32,
    pub(crate) readonly: bool,
    /// What is mapped: the granted frame, or after its revocation the stand-in.
    pub(crate) frame: Mfn,
    /// Where for the CPU, if it still is.
    pub(crate) host: Option<u64>,
    /// Where for devices, if it still is.
    pub(crate) device: Option<Bfn>,
    /// The address for devices that the mapper was told.
    pub(crate) bus_addr: u64,
    /// The frame of the mapper's own that comes when the grant is revoked.
    pub(crate) stand_in: Option<Mfn>,
    /// It has been: the granter has nothing to do with it any more.
    pub(crate) revoked: bool,
}

#[derive(Debug)]
enum Slot {
    Free,
    /// Taken by a mapping that is being made.
    Making,
    Live(Tracked),
}

/// All mappings of a domain.
#[derive(Debug)]
pub(crate) struct Maptrack {
    slots: Vec<Slot>,
    free: Vec<u32>,
    limit: usize,
}

impl Maptrack {
    /// Room for so many frames of slots.
    pub(crate) fn new(frames: u32) -> Self {
        let limit = usize::try_from(frames).unwrap_or(0).saturating_mul(PER_FRAME);
        Self { slots: Vec::new(), free: Vec::new(), limit }
    }

    fn slot(&mut self, handle: u32) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(handle).ok()?)
    }

    /// A handle for a mapping to be made; `None`: there are no more but one, which Xen keeps.
    pub(crate) fn reserve(&mut self) -> Option<u32> {
        let handle = match self.free.pop() {
            Some(handle) => handle,
            None if self.slots.len() + 1 < self.limit => {
                self.slots.push(Slot::Free);
                u32::try_from(self.slots.len() - 1).ok()?
            }
            None => return None,
        };
        *self.slot(handle)? = Slot::Making;
        Some(handle)
    }

    /// The mapping has been made, or what is known of it changes.
    pub(crate) fn set(&mut self, handle: u32, tracked: Tracked) {
        if let Some(slot) = self.slot(handle) {
            *slot = Slot::Live(tracked);
        }
    }

    /// The handle may be used again.
    pub(crate) fn free(&mut self, handle: u32) {
        if let Some(slot) = self.slot(handle) {
            *slot = Slot::Free;
            self.free.push(handle);
        }
    }

    /// The mapping with this handle.
    pub(crate) fn get(&self, handle: u32) -> Option<Tracked> {
        match self.slots.get(usize::try_from(handle).ok()?)? {
            Slot::Live(tracked) => Some(*tracked),
            Slot::Free | Slot::Making => None,
        }
    }

    /// Every mapping.
    pub(crate) fn live(&self) -> Vec<(u32, Tracked)> {
        let all = (0u32..).zip(&self.slots);
        all.filter_map(|(handle, slot)| match slot {
            Slot::Live(tracked) => Some((handle, *tracked)),
            Slot::Free | Slot::Making => None,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_come_back_and_their_number_is_limited() {
        let mut m = Maptrack::new(1);
        let all: Vec<_> = std::iter::from_fn(|| m.reserve()).collect();
        assert_eq!(all.len(), 255);
        assert_eq!(m.get(7), None, "it is still being made");
        m.free(7);
        assert_eq!((m.reserve(), m.reserve()), (Some(7), None));
    }
}

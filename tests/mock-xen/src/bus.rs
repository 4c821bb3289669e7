//! A device's port to memory, with the oracle at the gate.
//!
//! A pin is what a device's translation cache holds: taking one is a walk and a compare-and-swap, no lock.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use xen_ioreq::{Bfn, DomId, Mfn};

use crate::domain::Domain;
use crate::frames::{Owner, Watch};
use crate::iommu::{BusTable, Kind, Lingering, Translation};
use crate::machine::Machine;
use crate::oracle::ViolationKind;

/// What a device wants to do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusAccess {
    /// Read only.
    Read,
    /// Read and write.
    Write,
}

/// The IOMMU let nothing through: nothing is mapped there, or not for this access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("IOMMU fault: {access:?} at bfn {bfn}")]
pub struct BusFault {
    /// The bus frame.
    pub bfn: Bfn,
    /// The access.
    pub access: BusAccess,
}

/// A translation in use: 4096 bytes at `ptr`, to be touched through raw pointers only, until it is given back.
#[must_use = "a pin that is lost looks like a device that never lets go"]
#[derive(Debug)]
pub struct BusPin {
    /// First byte of the page. Valid as long as the port lives.
    pub ptr: NonNull<u8>,
    /// The bus frame that was asked for.
    pub bfn: Bfn,
    /// What [`BusPort::unpin`] needs to find the translation again.
    pub token: u64,
}

// A token: the frame, whether the frame counts the pin, and 28 bits of the entry's generation.
const FRAME: u64 = u32::MAX as u64;
const COUNTED: u64 = 1 << 32;
const NO_GENERATION: u64 = (1 << 31) - 1;

/// A port for the devices of one domain.
pub struct BusPort {
    machine: Arc<Machine>,
    watch: Arc<Watch>,
    table: Arc<BusTable>,
    lingering: Arc<Lingering>,
    domain: DomId,
    device: String,
}

impl BusPort {
    /// For devices of `domain`, which has `table`.
    pub(crate) fn new(machine: Arc<Machine>, table: Arc<BusTable>, domain: &Domain, device: String) -> Self {
        let watch = machine.frames(|t| t.watch());
        let lingering = domain.pv_iommu.lingering.clone();
        Self { machine, watch, table, lingering, domain: domain.id, device }
    }

    /// Translates a bus frame and holds the translation. What the oracle has against it is written down; the device
    /// gets its way all the same, as a real one would.
    pub fn pin(&self, bfn: Bfn, access: BusAccess) -> Result<BusPin, BusFault> {
        let fault = BusFault { bfn, access };
        let Some(pinned) = self.table.pin(bfn, access == BusAccess::Write) else {
            if let Some(pin) = self.pin_lingering(bfn, access) {
                return Ok(pin);
            }
            self.machine.oracle().count_fault();
            log::warn!("{}: {fault}", self.device);
            return Err(fault);
        };
        let t = pinned.translation;
        // The entry counts the pin. Where it holds no reference, the frame has to count it too.
        let owner = if t.kind == Kind::OneToOne { self.watch.pin(t.mfn) } else { self.watch.owner(t.mfn) };
        let (Some(owner), Some(page)) = (owner, self.machine.memory().page(t.mfn)) else {
            self.table.unpin(bfn, pinned.generation);
            return Err(fault);
        };
        let counted = if t.kind == Kind::OneToOne { COUNTED } else { 0 };
        let token = u64::from(pinned.generation) << 33 | counted | t.mfn.0;
        let expected = t.domain == owner_domain(owner) || owner == Owner::Dom(self.domain);
        if !expected || !matches!(owner, Owner::Dom(_)) {
            self.accuse(bfn, &t, owner);
        }
        Ok(BusPin { ptr: page.ptr(), bfn, token })
    }

    /// Translates by what the IOTLB still knows: nothing is mapped there, but a flush was late. The frame counts the pin.
    fn pin_lingering(&self, bfn: Bfn, access: BusAccess) -> Option<BusPin> {
        if self.table.lookup(bfn).is_some() {
            return None;
        }
        self.lingering.find(bfn, access == BusAccess::Write, |mfn| {
            self.watch.pin(mfn)?;
            // No entry has this generation, so only the frame is looked at when it is given back.
            let token = NO_GENERATION << 33 | COUNTED | mfn.0;
            Some(BusPin { ptr: self.machine.memory().page(mfn)?.ptr(), bfn, token })
        })?
    }

    /// Gives a translation back.
    pub fn unpin(&self, pin: BusPin) {
        self.unpin_token(pin.bfn, pin.token);
    }

    /// Gives back the translation of `bfn` that was taken under `token`.
    pub fn unpin_token(&self, bfn: Bfn, token: u64) {
        let mfn = Mfn(token & FRAME);
        // The frame first: while the entry still counts this pin, an unmap would be reported as too early.
        if token & COUNTED != 0 {
            self.watch.unpin(mfn);
        }
        let same = self.table.unpin(bfn, u32::try_from(token >> 32).unwrap_or(0) >> 1);
        // An unmap has moved the entry's pins to the frame.
        if !same && token & COUNTED == 0 {
            self.watch.unpin(mfn);
        }
    }

    #[cold]
    fn accuse(&self, bfn: Bfn, t: &Translation, owner: Owner) {
        let kind = match owner {
            Owner::Free => ViolationKind::DmaToFreeFrame,
            Owner::Xen => ViolationKind::DmaToXenFrame,
            Owner::Dom(owner) => ViolationKind::DmaToForeignFrame { owner, expected: t.domain },
        };
        self.machine.frames(|f| f.violation(kind, self.device.clone(), Some(bfn), t.mfn));
    }
}

fn owner_domain(owner: Owner) -> Option<DomId> {
    match owner {
        Owner::Dom(d) => Some(d),
        Owner::Free | Owner::Xen => None,
    }
}

impl fmt::Debug for BusPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusPort")
            .field("device", &self.device)
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

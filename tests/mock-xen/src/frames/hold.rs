//! What holds a frame: every reference has a reason, and the last one to go frees the frame.
//!
//! As Xen counts a page's type beside its references, the uses that may write are counted here: a frame is written by grants or is
//! one of its owner's page tables, never both.

use xen_ioreq::{Bfn, DomId, Errno, Mfn};

use super::{FrameTable, Owner};
use crate::history::Event;

/// An entry of the M2B table: who reaches the frame at which BFN on behalf of which IOREQ server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct M2b {
    pub(crate) bfn: Bfn,
    pub(crate) by: DomId,
    pub(crate) ioserver: u16,
}

/// What keeps a frame from being freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The owner's allocation; gone when it is ballooned out.
    Allocation,
    /// A CPU mapping of some domain.
    HostMap(DomId),
    /// A mapping of the owner's own devices (`map_page`).
    BusMap(DomId, Bfn),
    /// An M2B entry.
    M2b(M2b),
    /// A lookup on the hypervisor that has one flag a frame in place of the M2B table (`_PGC_foreign_map`).
    Lookup(DomId, Bfn),
    /// It was unmapped, and the flush of the IOTLB is still to come.
    Flush(DomId, Bfn),
    /// A grant is used by this domain.
    Grant(GrantUse, DomId, Access),
    /// It is one of its owner's page tables.
    Table,
}

/// What may be done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// As in Xen each such use also counts as one of a writable page (`PGT_writable_page`), which no page table may be.
    Write,
}

impl Access {
    pub(crate) fn of(readonly: bool) -> Self {
        if readonly { Self::Read } else { Self::Write }
    }
}

/// Uses of a frame by grants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uses {
    /// For the CPU, for devices, as a stand-in, by copies.
    pub(crate) kinds: [u32; 4],
    /// How many of them may write.
    pub(crate) writing: u32,
}

impl Uses {
    /// One more.
    pub(crate) fn count(&mut self, kind: GrantUse, access: Access) {
        *self.kind(kind) += 1;
        self.writing += u32::from(access == Access::Write);
    }

    fn kind(&mut self, kind: GrantUse) -> &mut u32 {
        let [host, device, stand_in, copy] = &mut self.kinds;
        match kind {
            GrantUse::Host => host,
            GrantUse::Device => device,
            GrantUse::StandIn => stand_in,
            GrantUse::Copy => copy,
        }
    }
}

/// What a grant of a frame is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrantUse {
    /// It is mapped for the CPU.
    Host,
    /// It is mapped for devices.
    Device,
    /// It is the frame of the mapper's own that takes the granted one's place, when that is revoked.
    StandIn,
    /// Bytes are being copied.
    Copy,
}

impl FrameTable {
    /// Takes a reference. EINVAL: the frame belongs to nobody who could give one (free, Xen's, no RAM). EBUSY: it is a page table
    /// and would be written, or the other way round.
    pub(crate) fn hold(&mut self, mfn: Mfn, hold: Hold) -> Result<(), Errno> {
        let f = self.frame_mut(mfn).ok_or(Errno::EINVAL)?;
        if !matches!(f.owner, Owner::Dom(_)) {
            return Err(Errno::EINVAL);
        }
        let event = match hold {
            Hold::Allocation => return Err(Errno::EINVAL),
            Hold::HostMap(by) => {
                f.host_maps += 1;
                Event::HostMapped { by }
            }
            Hold::BusMap(by, bfn) => {
                f.bus_maps += 1;
                Event::BusMapped { by, bfn }
            }
            Hold::M2b(e) => {
                f.m2b.push(e);
                Event::Registered { by: e.by, bfn: e.bfn, ioserver: e.ioserver }
            }
            Hold::Lookup(..) if f.looked_up => return Err(Errno::EINVAL),
            Hold::Lookup(by, bfn) => {
                f.looked_up = true;
                Event::LookedUp { by, bfn }
            }
            Hold::Flush(by, bfn) => {
                f.flushes += 1;
                Event::FlushDue { by, bfn }
            }
            Hold::Grant(_, _, Access::Write) if f.table => return Err(Errno::EBUSY),
            Hold::Grant(kind, by, access) => {
                f.grants.count(kind, access);
                Event::Granted { by, kind }
            }
            Hold::Table if f.table || f.grants.writing > 0 => return Err(Errno::EBUSY),
            Hold::Table => {
                f.table = true;
                Event::TablePinned
            }
        };
        f.refs += 1;
        self.note(mfn, event);
        Ok(())
    }

    /// Takes all of these references or none. Errors as [`hold`](Self::hold).
    pub(crate) fn hold_all(&mut self, holds: impl Iterator<Item = (Mfn, Hold)> + Clone) -> Result<(), Errno> {
        for (done, (mfn, hold)) in holds.clone().enumerate() {
            if let Err(e) = self.hold(mfn, hold) {
                self.release_all(holds.take(done));
                return Err(e);
            }
        }
        Ok(())
    }

    /// Drops all of these references.
    pub(crate) fn release_all(&mut self, holds: impl Iterator<Item = (Mfn, Hold)>) {
        for (mfn, hold) in holds {
            self.release(mfn, hold);
        }
    }

    /// Drops a reference; the last one frees the frame. `false` if there was no such reference.
    pub(crate) fn release(&mut self, mfn: Mfn, hold: Hold) -> bool {
        let Some(f) = self.frame_mut(mfn) else { return false };
        let owner = match f.owner {
            Owner::Dom(d) => d,
            Owner::Free | Owner::Xen => return false,
        };
        let event = match hold {
            Hold::Allocation if f.allocated => {
                f.allocated = false;
                Event::AllocationDropped { owner }
            }
            Hold::HostMap(by) if f.host_maps > 0 => {
                f.host_maps -= 1;
                Event::HostUnmapped { by }
            }
            Hold::BusMap(by, bfn) if f.bus_maps > 0 => {
                f.bus_maps -= 1;
                Event::BusUnmapped { by, bfn }
            }
            Hold::M2b(e) => {
                let Some(i) = f.m2b.iter().position(|x| *x == e) else { return false };
                f.m2b.swap_remove(i);
                f.swap.retain(|x| *x != e);
                Event::Deregistered { by: e.by, bfn: e.bfn, ioserver: e.ioserver }
            }
            Hold::Lookup(by, bfn) if f.looked_up => {
                f.looked_up = false;
                Event::LookupEnded { by, bfn }
            }
            Hold::Flush(by, bfn) if f.flushes > 0 => {
                f.flushes -= 1;
                Event::Flushed { by, bfn }
            }
            Hold::Grant(kind, by, access) if *f.grants.kind(kind) > 0 => {
                *f.grants.kind(kind) -= 1;
                f.grants.writing -= u32::from(access == Access::Write);
                Event::GrantEnded { by, kind }
            }
            Hold::Table if f.table => {
                f.table = false;
                Event::TableUnpinned
            }
            _ => return false,
        };
        f.refs -= 1;
        let last = f.refs == 0;
        self.note(mfn, event);
        if last {
            self.free_frame(mfn, owner);
        }
        true
    }
}

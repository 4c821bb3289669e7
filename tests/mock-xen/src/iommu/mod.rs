//! PV-IOMMU: the hypercall, the M2B table (kept with each frame), and the tables that devices walk.

mod ops;
mod table;
#[cfg(test)]
mod tests;
mod unmap;

pub(crate) use ops::{iommu_op, release_all};
pub(crate) use table::{BFN_BITS_MAX, BusTable, Kind, Translation};

use unmap::unmap;
use xen_ioreq::{Bfn, Mfn};

/// A table in which every frame of `frames` has its own number, as devices see memory without an IOMMU.
pub(crate) fn identity(frames: std::ops::Range<u64>) -> BusTable {
    let table = BusTable::default();
    for mfn in frames {
        let t = Translation { mfn: Mfn(mfn), domain: None, kind: Kind::OneToOne, read: true, write: true };
        // A fresh table has no entry, and frame numbers fit.
        let _ = table.map(Bfn(mfn), &t);
    }
    table
}

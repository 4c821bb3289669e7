//! PV-IOMMU: the hypercall, the M2B table (kept with each frame), and the tables that devices walk.

mod ops;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use ops::{iommu_op, release_all};
pub(crate) use table::{BFN_BITS_MAX, BusTable, Kind, Translation};

use xen_ioreq::{Bfn, DomId, Mfn};

use crate::frames::FrameTable;
use crate::oracle::ViolationKind;

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

/// Takes an entry away and tells the oracle if a device still held a translation of it.
fn unmap(frames: &mut FrameTable, table: &BusTable, by: DomId, bfn: Bfn) -> Option<Translation> {
    let (t, pins) = table.unmap(bfn)?;
    if pins > 0 {
        // Whoever still uses the translation uses the frame: should that be freed now, it is told as well. Pins of
        // one-to-one entries are counted there already.
        if t.kind != Kind::OneToOne {
            frames.adopt_pins(t.mfn, pins);
        }
        frames.violation(
            ViolationKind::UnmappedWhilePinned { pins },
            format!("iommu_op of {by}"),
            Some(bfn),
            t.mfn,
        );
    }
    Some(t)
}

//! The end of an entry, and what it means for translations that devices hold: they move from the entry's count to the
//! frame's.

use xen_ioreq::{Bfn, DomId};

use super::{BusTable, Kind, Translation};
use crate::frames::FrameTable;
use crate::oracle::ViolationKind;

/// Takes an entry away and tells the oracle if a device still held a translation of it.
pub(crate) fn unmap(frames: &mut FrameTable, table: &BusTable, by: DomId, bfn: Bfn) -> Option<Translation> {
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

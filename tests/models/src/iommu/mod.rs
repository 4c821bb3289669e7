//! mock-xen's IOMMU without the sub-operations: the table that devices walk, and the end of an entry.

#[path = "../../../mock-xen/src/iommu/lingering.rs"]
#[rustfmt::skip]
mod lingering;
#[path = "../../../mock-xen/src/iommu/table.rs"]
#[rustfmt::skip]
mod table;
#[path = "../../../mock-xen/src/iommu/unmap.rs"]
#[rustfmt::skip]
mod unmap;

pub(crate) use lingering::Lingering;
pub(crate) use table::{BusTable, Kind, Pinned, Translation};
use xen_ioreq::{Bfn, DomId};

use crate::frames::FrameTable;

/// As a sub-operation does it, with the frame table locked.
pub(crate) fn unmap(frames: &mut FrameTable, table: &BusTable, by: DomId, bfn: Bfn) -> Option<Translation> {
    unmap::unmap(frames, table, by, bfn)
}

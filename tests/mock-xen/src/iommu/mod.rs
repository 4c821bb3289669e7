//! PV-IOMMU: the hypercall in its two shapes, the M2B table (kept with each frame), and the tables that devices walk.

mod array;
mod batch;
mod draft;
mod lingering;
mod swap;
mod table;
#[cfg(test)]
mod tests;
mod unmap;
mod xs;

pub use array::OpArray;
pub(crate) use array::Ops;
pub(crate) use batch::{PvIommu, iommu_op};
pub(crate) use draft::release_all;
pub(crate) use lingering::Lingering;
#[cfg(test)]
pub(crate) use swap::scratch_of;
pub(crate) use swap::{swap_all, swap_out};
pub(crate) use table::{BFN_BITS_MAX, BusTable, Kind, Translation};
pub(crate) use unmap::unmap;
pub(crate) use xs::forget_lookups;

use std::ops::Range;

use xen_ioreq::{Bfn, Errno, Mfn};

use crate::config::RmrrRange;
use crate::domain::Domain;

/// A table in which every frame of `frames` has its own number plus `offset`.
pub(crate) fn one_to_one(frames: Range<u64>, offset: u64) -> BusTable {
    let table = BusTable::default();
    for mfn in frames {
        let t = Translation { mfn: Mfn(mfn), domain: None, kind: Kind::OneToOne, read: true, write: true };
        // A fresh table has no entry, and frame numbers fit.
        let _ = table.map(Bfn(mfn + offset), &t);
    }
    table
}

/// The caller's table, if it may change it.
fn control(caller: &Domain) -> Option<&BusTable> {
    if caller.controls_bus { caller.bus.as_deref() } else { None }
}

/// EPERM: the caller is being destroyed. Asked with the frame table's lock held, under which its mappings are removed.
fn alive(caller: &Domain) -> Result<(), Errno> {
    if caller.dying() { Err(Errno::EPERM) } else { Ok(()) }
}

fn reserved(rmrrs: &[RmrrRange], bfns: &Range<u64>) -> bool {
    rmrrs.iter().any(|r| r.first.0 < bfns.end && bfns.start <= r.last.0)
}

//! The frames of a guest's that become its translation table: given to it before it runs, far from what it uses.

use mediated_gpu::mediator::TABLE_FRAMES;
use xen_ioreq::abi::memory::{XENMEM_populate_physmap, xen_memory_reservation};
use xen_ioreq::linux::Privcmd;
use xen_ioreq::seam::MemoryOp as _;
use xen_ioreq::{DomId, Gfn};
use zerocopy::IntoBytes as _;

use crate::Error;

/// Where they wait until the guest has placed its BAR: beyond the memory that a guest of up to 60 GiB has, below a hole of PCI's.
pub(crate) const PARKED: Gfn = Gfn(0xf0_0000);
/// Frames of a page of 2 MiB: order.
const LARGE: u32 = 9;

/// Gives a guest, which may have `most` frames then, those of its table.
pub(crate) fn give(raw: &Privcmd, domid: DomId, most: u64) -> Result<Gfn, Error> {
    raw.set_max_frames(domid, most)?;
    let mut next = 0;
    for order in [LARGE, 0] {
        let mut list: Vec<u64> =
            (next..TABLE_FRAMES).step_by(1 << order).map(|i| PARKED.0 + u64::from(i)).collect();
        let nr_extents = list.len() as u64;
        let mut reservation =
            xen_memory_reservation { nr_extents, extent_order: order, domid: domid.0, ..Default::default() };
        let done = raw.memory_op(XENMEM_populate_physmap, reservation.as_mut_bytes(), &mut list)?;
        next += u32::try_from(done)? << order;
        if next == TABLE_FRAMES {
            return Ok(PARKED);
        }
    }
    Err(format!("Xen has only {next} of {TABLE_FRAMES} frames").into())
}

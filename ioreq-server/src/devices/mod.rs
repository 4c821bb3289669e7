//! Devices that stock guests have drivers for, and that more than one device model wants.

mod bochs;

pub use bochs::{BochsDisplay, Picture, PictureError};

use xen_ioreq::abi::memory::{XENMEM_populate_physmap, xen_memory_reservation};
use xen_ioreq::seam::MemoryOp;
use xen_ioreq::{DomId, Errno, Gfn};
use zerocopy::IntoBytes as _;

/// A guest did not get frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PopulateError {
    /// The hypervisor refused.
    #[error("{domid}: frames from {first} on: {errno}")]
    Refused {
        /// The guest.
        domid: DomId,
        /// The first of them.
        first: Gfn,
        /// What the hypervisor said.
        errno: Errno,
    },
    /// It has fewer, or the guest may have fewer.
    #[error("{domid}: Xen gives it only {got} of {wanted} frames")]
    TooFew {
        /// The guest.
        domid: DomId,
        /// Frames that it has got. They stay.
        got: u64,
        /// Frames that it was to get.
        wanted: u64,
    },
}

/// Order of a page of 2 MiB.
const LARGE: u32 = 9;

/// Gives a guest `count` frames from `first` on, in pages of 2 MiB as far as the host has some; both are multiples of 512 then.
/// The guest's limit has to have room for them.
///
/// # Errors
/// See [`PopulateError`].
pub fn populate(xen: &dyn MemoryOp, domid: DomId, first: Gfn, count: u32) -> Result<(), PopulateError> {
    let wanted = u64::from(count);
    let mut got = 0;
    for order in [LARGE, 0] {
        let mut list: Vec<u64> = (got..wanted).step_by(1 << order).map(|i| first.0 + i).collect();
        let nr_extents = list.len() as u64;
        let mut reservation =
            xen_memory_reservation { nr_extents, extent_order: order, domid: domid.0, ..Default::default() };
        let done = xen
            .memory_op(XENMEM_populate_physmap, reservation.as_mut_bytes(), &mut list)
            .map_err(|errno| PopulateError::Refused { domid, first, errno })?;
        got += u64::try_from(done).unwrap_or(0) << order;
        if got == wanted {
            return Ok(());
        }
    }
    Err(PopulateError::TooFew { domid, got, wanted })
}

//! The frames of a guest's that become its translation table: given to it before it runs, far from what it uses, and besides
//! what its toolstack lets it have.

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

/// How many frames a guest may have: its table's are not among those that a toolstack counts, so each time that one says how
/// many there may be, as `xl mem-set` does, they are added. Without them the guest's last balloon-in would fail for ever.
#[derive(Debug)]
pub(crate) struct Limit {
    domid: DomId,
    /// As it was set here.
    ours: u64,
}

impl Limit {
    /// There is room for the table already.
    pub(crate) fn found(domid: DomId, ours: u64) -> Self {
        Self { domid, ours }
    }

    /// Makes room for a table, beside `most` frames.
    fn new(raw: &Privcmd, domid: DomId, most: u64) -> Result<Self, Error> {
        let ours = with_table(most);
        raw.set_max_frames(domid, ours)?;
        Ok(Self { domid, ours })
    }

    /// The guest may have `now` frames. If that is another's word, it gets those of its table besides.
    pub(crate) fn keep(&mut self, raw: &Privcmd, now: u64) {
        if now == self.ours {
            return;
        }
        let most = with_table(now);
        match raw.set_max_frames(self.domid, most) {
            Ok(()) => self.ours = most,
            Err(e) => {
                log::warn!("{}: there is no room for its table beside {now} frames: {e}", self.domid);
                self.ours = now;
            }
        }
    }
}

fn with_table(frames: u64) -> u64 {
    frames.saturating_add(TABLE_FRAMES.into())
}

/// Gives a guest, which may have `most` frames, those of its table besides: the first of them, and what keeps room for them.
pub(crate) fn give(raw: &Privcmd, domid: DomId, most: u64) -> Result<(Gfn, Limit), Error> {
    let limit = Limit::new(raw, domid, most)?;
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
            return Ok((PARKED, limit));
        }
    }
    Err(format!("Xen has only {next} of {TABLE_FRAMES} frames").into())
}

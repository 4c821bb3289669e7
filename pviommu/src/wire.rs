//! `iommu_op` as batches: what is written into an operation, and what may be believed of one afterwards.
//!
//! The operation is zeroed, its bfn preset to no frame, its status to a value that the hypervisor never writes: after a
//! call that failed in the middle, this tells what was done from what was not.

use std::sync::Arc;

use xen_ioreq::abi::iommu_op::{
    IOMMUOP_lookup_foreign_page, IOMMUOP_map_foreign_page, IOMMUOP_map_page, IOMMUOP_query_caps,
    IOMMUOP_readable, IOMMUOP_swap_mfn, IOMMUOP_unmap_foreign_page, IOMMUOP_unmap_page, IOMMUOP_writeable,
    pv_iommu_op,
};
use xen_ioreq::seam::IommuOp;
use xen_ioreq::{Bfn, DomId, Errno, Gfn, IoServerId};

/// Operations in one hypercall. Its fixed cost is that of about 30 operations, so more gain nothing, and the
/// hypervisor may preempt between them.
pub(crate) const BATCH: usize = 1024;

/// No status is positive.
pub(crate) const NOT_DONE: i32 = 1;
const NO_BFN: u64 = u64::MAX;
/// Device access: both. A PTE of the GGTT has no other.
const ACCESS: u16 = IOMMUOP_readable | IOMMUOP_writeable;

/// The domain that mappings are of, and the IOREQ server that hears of their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) domid: DomId,
    pub(crate) ioserver: IoServerId,
}

/// What became of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done; the bfn field.
    Done(Bfn),
    /// Refused, nothing changed.
    Refused(Errno),
    /// Done, but the call failed after it: perhaps in the flush that makes an unmap certain.
    Unsure(Bfn, Errno),
    /// The call failed before it, or while it was at it.
    NotDone(Errno),
}

impl Answer {
    /// Whether an unmap with this answer leaves nothing mapped.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Unsure(..) | Self::Refused(Errno::ENOENT))
    }
}

/// How often the hypervisor is asked once more about a frame of which its answer says nothing.
const ASKED_AGAIN: usize = 3;

/// Asks again where the hypervisor refused for a reason that says nothing of the frame (a unit that failed, no memory). `ask`
/// asks about the questions of these numbers; what it answers then is what counts.
pub(crate) fn settle(mut answers: Vec<Answer>, ask: impl Fn(&[usize]) -> Vec<Answer>) -> Vec<Answer> {
    let says_nothing = |a: &Answer| {
        matches!(a, Answer::Refused(Errno::EIO | Errno::ENOMEM | Errno::EAGAIN | Errno::EBUSY | Errno::EINTR))
    };
    for _ in 0..ASKED_AGAIN {
        let open: Vec<usize> =
            answers.iter().enumerate().filter(|(_, a)| says_nothing(a)).map(|(i, _)| i).collect();
        if open.is_empty() {
            break;
        }
        for (&i, again) in open.iter().zip(ask(&open)) {
            if let Some(answer) = answers.get_mut(i) {
                *answer = again;
            }
        }
    }
    answers
}

pub(crate) struct Wire(pub(crate) Arc<dyn IommuOp>);

/// Answer to query_caps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caps {
    /// `IOMMU_QUERY_*` and the largest page order.
    pub(crate) flags: u16,
    /// Where machine frames lie in the 1:1 map, in frames; 0 if it was not written.
    pub(crate) offset: u64,
}

impl Wire {
    /// Asks for the caps. `None`: the hypervisor has no iommu_op.
    pub(crate) fn query_caps(&self) -> Result<Option<Caps>, Errno> {
        let mut op = [pv_iommu_op { status: NOT_DONE, ..pv_iommu_op::new(IOMMUOP_query_caps, 0) }];
        match self.0.iommu_op(&mut op) {
            Err(Errno::ENOSYS) => return Ok(None),
            Err(e) => return Err(e),
            Ok(()) => {}
        }
        match answer(&op[0], Ok(())) {
            Answer::Done(_) => Ok(Some(Caps { flags: op[0].flags, offset: op[0].bfn })),
            Answer::Refused(e) | Answer::Unsure(_, e) | Answer::NotDone(e) => Err(e),
        }
    }

    /// The answer to a sub-operation that nobody defines: the hypervisor that was shipped says ENODEV.
    pub(crate) fn unknown_subop(&self) -> Result<(), Errno> {
        let mut op = [pv_iommu_op { status: NOT_DONE, ..pv_iommu_op::new(u16::MAX, 0) }];
        self.0.iommu_op(&mut op)?;
        match answer(&op[0], Ok(())) {
            Answer::Done(_) => Ok(()),
            Answer::Refused(e) | Answer::Unsure(_, e) | Answer::NotDone(e) => Err(e),
        }
    }

    /// map_foreign_page of each frame at the bus frame beside it. `swap`: the hypervisor may put a scratch frame there when
    /// the guest gives the frame away.
    pub(crate) fn map_foreign(
        &self,
        peer: Peer,
        swap: bool,
        pairs: impl Iterator<Item = (Gfn, Bfn)>,
    ) -> Vec<Answer> {
        let op = |(gfn, bfn): (Gfn, Bfn)| {
            let mut op = foreign(IOMMUOP_map_foreign_page, peer, gfn, bfn.0);
            if swap {
                op.flags |= IOMMUOP_swap_mfn;
            }
            op
        };
        self.run(pairs.map(op).collect())
    }

    /// lookup_foreign_page of each frame.
    pub(crate) fn lookup_foreign(&self, peer: Peer, gfns: impl Iterator<Item = Gfn>) -> Vec<Answer> {
        self.run(gfns.map(|gfn| foreign(IOMMUOP_lookup_foreign_page, peer, gfn, NO_BFN)).collect())
    }

    /// unmap_foreign_page of each bus frame.
    pub(crate) fn unmap_foreign(&self, peer: Peer, bfns: impl Iterator<Item = Bfn>) -> Vec<Answer> {
        self.run(
            bfns.map(|bfn| {
                let mut op = pv_iommu_op { bfn: bfn.0, ..pv_iommu_op::new(IOMMUOP_unmap_foreign_page, 0) };
                op.set_unmap_ioserver(peer.ioserver.0);
                op
            })
            .collect(),
        )
    }

    /// map_page of each own frame at the bus frame beside it.
    pub(crate) fn map_own(&self, pairs: impl Iterator<Item = (Gfn, Bfn)>) -> Vec<Answer> {
        let op = |(gfn, bfn): (Gfn, Bfn)| pv_iommu_op {
            bfn: bfn.0,
            gfn: gfn.0,
            ..pv_iommu_op::new(IOMMUOP_map_page, ACCESS)
        };
        self.run(pairs.map(op).collect())
    }

    /// unmap_page of each bus frame.
    pub(crate) fn unmap_own(&self, bfns: impl Iterator<Item = Bfn>) -> Vec<Answer> {
        self.run(
            bfns.map(|bfn| pv_iommu_op { bfn: bfn.0, ..pv_iommu_op::new(IOMMUOP_unmap_page, 0) }).collect(),
        )
    }

    fn run(&self, mut ops: Vec<pv_iommu_op>) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(ops.len());
        for batch in ops.chunks_mut(BATCH) {
            batch.iter_mut().for_each(|op| op.status = NOT_DONE);
            let rc = self.0.iommu_op(batch);
            answers.extend(batch.iter().map(|op| answer(op, rc)));
        }
        answers
    }
}

fn foreign(subop: u16, peer: Peer, gfn: Gfn, bfn: u64) -> pv_iommu_op {
    let op = pv_iommu_op::new(subop, ACCESS);
    pv_iommu_op { bfn, gfn: gfn.0, domid: peer.domid.0, ioserver: peer.ioserver.0, ..op }
}

/// What `op` says after a call that returned `rc`.
pub(crate) fn answer(op: &pv_iommu_op, rc: Result<(), Errno>) -> Answer {
    match (Errno::from_rc(i64::from(op.status)), rc) {
        (Some(errno), _) => Answer::Refused(errno),
        (None, Ok(())) if op.status == 0 => Answer::Done(Bfn(op.bfn)),
        (None, Err(errno)) if op.status == 0 => Answer::Unsure(Bfn(op.bfn), errno),
        (None, Err(errno)) => Answer::NotDone(errno),
        // A call that succeeded and left an operation alone, or wrote what is no status.
        (None, Ok(())) => Answer::NotDone(Errno::EIO),
    }
}

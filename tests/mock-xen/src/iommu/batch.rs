//! The hypercall: an array of operations, done one by one, with one flush of the IOTLB at its end.
//!
//! What an operation unmapped stays held until that flush, so that no frame is free while the IOTLB still knows it. A flush
//! that is late (an injected fault) leaves it held, and within reach, until the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use xen_ioreq::abi::iommu_op::pv_iommu_op;
use xen_ioreq::{Bfn, DomId, Errno, Mfn};

use super::lingering::Lingering;
use super::swap::Scratch;
use super::unmap::unmap;
use super::{BusTable, Kind, Ops, Translation, draft, xs};
use crate::config::Profile;
use crate::domain::Domain;
use crate::faults::Site;
use crate::frames::{FrameTable, Hold};
use crate::machine::Machine;
use crate::oracle::ViolationKind;
use crate::sync::Mutex;

/// What a domain's PV-IOMMU keeps beside its table.
#[derive(Default)]
pub(crate) struct PvIommu {
    /// Unmapped by calls whose flush was late.
    late: Mutex<Vec<Gone>>,
    /// What devices still reach of it.
    pub(crate) lingering: Arc<Lingering>,
    /// Frames that stand where others were swapped out, by the guest for whose sake.
    pub(super) scratch: Mutex<BTreeMap<DomId, Scratch>>,
}

/// A frame that was unmapped and is held until the flush.
#[derive(Clone, Copy, Debug)]
struct Gone {
    bfn: Bfn,
    was: Translation,
}

/// A hypercall under way.
pub(super) struct Batch<'m> {
    pub(super) machine: &'m Machine,
    pub(super) caller: &'m Domain,
    gone: Vec<Gone>,
    dirty: bool,
}

/// Performs the first `count` operations in order, as far as `end_after` lets it. ENOSYS: this hypervisor has no PV-IOMMU, or
/// not for this domain. EINVAL: a negative count. EFAULT: an operation could not be read or written back; those before
/// it are done, and one that could only not be written back is, too. Else what a late flush says.
pub(crate) fn iommu_op(
    machine: &Machine,
    caller: &Domain,
    ops: &mut (impl Ops + ?Sized),
    count: u64,
    end_after: Option<u64>,
) -> Result<(), Errno> {
    let one: fn(&mut Batch<'_>, &mut pv_iommu_op) -> Result<(), Errno> = match machine.config().profile {
        Profile::Draft if !caller.hvm => draft::one,
        Profile::Xs if !caller.hvm && caller.privileged => xs::one,
        Profile::Draft | Profile::Xs | Profile::Stock => return Err(Errno::ENOSYS),
    };
    // The upper half of the register is not looked at, and the lower one is signed.
    #[expect(clippy::cast_possible_truncation, reason = "as the hypercall does")]
    let count = usize::try_from(count as i32).map_err(|_| Errno::EINVAL)?;
    let mut batch = Batch::new(machine, caller);
    let preempt_after = machine.config().preempt_after.max(1);
    for i in 0..count {
        if end_after.is_some_and(|n| i as u64 >= n) {
            break;
        }
        if i > 0 && i.is_multiple_of(preempt_after) {
            batch.flush()?;
            crate::sync::yield_now();
        }
        let done = ops.read(i).and_then(|mut op| {
            let sites = [Site::IommuOp(None), Site::IommuOp(Some(op.subop_id))];
            let done = machine.faults.check(&sites).and_then(|()| one(&mut batch, &mut op));
            op.status = done.map_or_else(Errno::status, |()| 0);
            ops.write(i, &op)
        });
        if let Err(e) = done {
            batch.flush()?;
            return Err(e);
        }
    }
    batch.flush()
}

impl<'m> Batch<'m> {
    pub(super) fn new(machine: &'m Machine, caller: &'m Domain) -> Self {
        Self { machine, caller, gone: Vec::new(), dirty: false }
    }

    /// Takes an entry out of the caller's table and tells the oracle if a device still held a translation of it. Its frame is
    /// held until the flush, unless Xen itself had mapped it. With `hold`, the frame's reference of that name goes.
    pub(super) fn unmap(
        &mut self,
        t: &mut FrameTable,
        table: &BusTable,
        bfn: Bfn,
        hold: Option<Hold>,
    ) -> Option<Translation> {
        let translation = unmap(t, table, self.caller.id, bfn)?;
        let mfn = translation.mfn;
        self.dirty = true;
        if translation.kind != Kind::OneToOne {
            self.hold_until_flush(t, bfn, translation);
        }
        if let Some(hold) = hold {
            t.release(mfn, hold);
        }
        Some(translation)
    }

    /// Leads an entry to another frame than `old`, which is held until the flush.
    pub(super) fn replace(
        &mut self,
        t: &mut FrameTable,
        table: &BusTable,
        bfn: Bfn,
        old: &Translation,
        new: &Translation,
    ) {
        if let Some(pins @ 1..) = table.repoint(bfn, new, true) {
            // Whoever has a translation of the old frame goes on using that one.
            t.adopt_pins(old.mfn, pins);
        }
        self.dirty = true;
        self.hold_until_flush(t, bfn, *old);
    }

    fn hold_until_flush(&mut self, t: &mut FrameTable, bfn: Bfn, was: Translation) {
        // Of a frame that has an owner, since it was held.
        if t.hold(was.mfn, Hold::Flush(self.caller.id, bfn)).is_ok() {
            self.gone.push(Gone { bfn, was });
        }
    }

    /// Tells the oracle if a bus frame that is being mapped is still known to the IOTLB from what was there before.
    pub(super) fn check_flushed(&self, t: &FrameTable, bfn: Bfn, mfn: Mfn) {
        if self.caller.pv_iommu.late.lock().iter().any(|g| g.bfn == bfn) {
            self.accuse(t, ViolationKind::MappedBeforeFlush, bfn, mfn);
        }
    }

    pub(super) fn accuse(&self, t: &FrameTable, kind: ViolationKind, bfn: Bfn, mfn: Mfn) {
        t.violation(kind, format!("iommu_op of {}", self.caller.id), Some(bfn), mfn);
    }

    /// Flushes the IOTLB, if there is something to be flushed, and lets go of what was unmapped. An injected error: it is
    /// late.
    fn flush(&mut self) -> Result<(), Errno> {
        let nothing_late = self.caller.pv_iommu.late.lock().is_empty();
        if !self.dirty && nothing_late {
            return Ok(());
        }
        if let Err(e) = self.machine.faults.check(&[Site::IotlbFlush]) {
            let gone = std::mem::take(&mut self.gone);
            gone.iter().for_each(|g| self.caller.pv_iommu.lingering.keep(g.bfn, g.was));
            self.caller.pv_iommu.late.lock().extend(gone);
            self.dirty = false;
            return Err(e);
        }
        self.flush_now();
        Ok(())
    }

    /// As [`flush`](Self::flush), without fail.
    pub(super) fn flush_now(&mut self) {
        self.machine.counters.iotlb_flushes.fetch_add(1, Ordering::Relaxed);
        let late = std::mem::take(&mut *self.caller.pv_iommu.late.lock());
        self.caller.pv_iommu.lingering.flush();
        let by = self.caller.id;
        let gone = std::mem::take(&mut self.gone);
        self.machine.frames(|t| {
            for Gone { bfn, was } in late.into_iter().chain(gone) {
                t.release(was.mfn, Hold::Flush(by, bfn));
            }
        });
        self.dirty = false;
    }
}

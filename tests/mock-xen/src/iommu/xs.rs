//! `iommu_op` as a shipped hypervisor answers (XenServer 8, Xen 4.17): lookups and their undoing work, the rest as seen.
//!
//! One flag and one reference a frame, however often it is looked up and by whom; servers are not looked at. Where that
//! hypervisor does not survive a call, the oracle says so and the call is refused.

use xen_ioreq::abi::iommu_op::{
    IOMMU_MAP_OP_no_ref_cnt, IOMMU_QUERY_map_all_mfns, IOMMU_QUERY_map_cap, IOMMU_page_order_mask_xs,
    IOMMUOP_lookup_foreign_page, IOMMUOP_map_foreign_page, IOMMUOP_map_page, IOMMUOP_query_caps,
    IOMMUOP_readable, IOMMUOP_unmap_foreign_page, IOMMUOP_unmap_page, IOMMUOP_writeable, pv_iommu_op,
};
use xen_ioreq::{Bfn, DomId, Errno, Gfn, Mfn};

use super::batch::Batch;
use super::table::BFN_BITS_MAX;
use super::{Kind, Translation, alive, control, reserved};
use crate::domain::Domain;
use crate::frames::{FrameTable, Hold, Owner};
use crate::machine::Machine;
use crate::oracle::ViolationKind;

const NO_SUCH_FRAME: &str = "unmap_foreign_page of a bus frame beyond the frame table";
const NO_FOREIGN_MAP: &str = "map_foreign_page of ordinary guest memory";
const NO_REFERENCE: &str =
    "unmap_page drops a reference that nobody took: the page is freed under its owner, whose end panics";

pub(super) fn one(b: &mut Batch<'_>, op: &mut pv_iommu_op) -> Result<(), Errno> {
    // Bits 11 to 13 are lost, so that orders 2, 4, … 14 pass for 0.
    if op.flags & IOMMU_page_order_mask_xs != 0 {
        return Err(Errno::ENOSPC);
    }
    match op.subop_id {
        IOMMUOP_query_caps => {
            query_caps(b, op);
            Ok(())
        }
        IOMMUOP_map_page => map_page(b, op),
        IOMMUOP_unmap_page => unmap_page(b, op),
        IOMMUOP_map_foreign_page => map_foreign(b, op),
        IOMMUOP_lookup_foreign_page => lookup_foreign(b, op),
        IOMMUOP_unmap_foreign_page => unmap_foreign(b, op),
        _ => Err(Errno::ENODEV),
    }
}

/// The offset is written only together with the caps.
fn query_caps(b: &Batch<'_>, op: &mut pv_iommu_op) {
    op.flags = 0;
    if control(b.caller).is_some() {
        op.flags = IOMMU_QUERY_map_cap | IOMMU_QUERY_map_all_mfns;
        op.bfn = b.machine.config().foreign_offset;
    }
}

fn map_page(b: &Batch<'_>, op: &pv_iommu_op) -> Result<(), Errno> {
    let table = control(b.caller).ok_or(Errno::EPERM)?;
    let counted = op.flags & IOMMU_MAP_OP_no_ref_cnt == 0;
    // A PV domain's frames have their machine numbers.
    let mfn = Mfn(op.gfn);
    b.machine.frames(|t| {
        alive(b.caller)?;
        let id = b.caller.id;
        if counted && t.owner(mfn) != Some(Owner::Dom(id)) {
            return Err(Errno::EPERM);
        }
        if op.bfn == u64::MAX {
            return Err(Errno::EIO);
        }
        // 48 bits of address; what is above is dropped in silence.
        let bfn = Bfn(op.bfn & ((1 << BFN_BITS_MAX) - 1));
        if bfn.0 >> b.machine.config().bfn_bits != 0 {
            return Err(Errno::EIO);
        }
        // The firmware's own regions are identity-mapped.
        let taken = table.lookup(bfn).is_some() || reserved(&b.caller.rmrrs, &(bfn.0..bfn.0 + 1));
        if taken {
            return Err(Errno::EPERM);
        }
        let (read, write) = (op.flags & IOMMUOP_readable != 0, op.flags & IOMMUOP_writeable != 0);
        if read || write {
            let kind = if counted { Kind::Own } else { Kind::OneToOne };
            b.check_flushed(t, bfn, mfn);
            if !table.map(bfn, &Translation { mfn, domain: counted.then_some(id), kind, read, write }) {
                return Err(Errno::EIO);
            }
        }
        // With neither permission nothing is mapped, and the reference is lost all the same.
        if counted { t.hold(mfn, Hold::BusMap(id, bfn)) } else { Ok(()) }
    })
}

/// Without a check of privilege; whether a reference is dropped is what the caller's flag says.
fn unmap_page(b: &mut Batch<'_>, op: &pv_iommu_op) -> Result<(), Errno> {
    let (machine, caller) = (b.machine, b.caller);
    if op.bfn == u64::MAX && control(caller).is_some() {
        return Err(Errno::EIO);
    }
    let table = control(caller).ok_or(Errno::ENOENT)?;
    let bfn = Bfn(op.bfn);
    let counted = op.flags & IOMMU_MAP_OP_no_ref_cnt == 0;
    machine.frames(|t| {
        let old = table.lookup(bfn).ok_or(Errno::ENOENT)?;
        let hold = (old.kind == Kind::Own && counted).then_some(Hold::BusMap(caller.id, bfn));
        if counted && hold.is_none() {
            b.accuse(t, ViolationKind::HostPanic { why: NO_REFERENCE }, bfn, old.mfn);
        }
        b.unmap(t, table, bfn, hold);
        Ok(())
    })
}

/// What a foreign operation names. EPERM: the caller itself, or a PV domain. ENXIO: no such domain, no frame. `then` runs
/// while the frame cannot leave the guest's address space.
fn foreign<R>(
    b: &Batch<'_>,
    op: &pv_iommu_op,
    then: impl FnOnce(&mut FrameTable, Mfn, DomId) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let domid = DomId(op.domid);
    if domid == DomId::SELF || domid == b.caller.id {
        return Err(Errno::EPERM);
    }
    let d = b.machine.domain(domid).filter(|d| !d.dying()).ok_or(Errno::ENXIO)?;
    if !d.hvm {
        return Err(Errno::EPERM);
    }
    let p2m = d.p2m.read();
    let (mfn, _) = p2m.ram(Gfn(op.gfn)).ok_or(Errno::ENXIO)?;
    b.machine.frames(|t| {
        alive(b.caller)?;
        then(t, mfn, domid)
    })
}

/// Never maps anything: fails, or says that it has for a frame that was looked up, or ends the host.
fn map_foreign(b: &Batch<'_>, op: &pv_iommu_op) -> Result<(), Errno> {
    control(b.caller).ok_or(Errno::EPERM)?;
    foreign(b, op, |t, mfn, _| {
        if t.looked_up(mfn) {
            return Ok(());
        }
        b.accuse(t, ViolationKind::HostPanic { why: NO_FOREIGN_MAP }, Bfn(op.bfn), mfn);
        Err(Errno::EPERM)
    })
}

/// Where all RAM begins in the caller's bus address space.
fn offset(machine: &Machine, caller: &Domain) -> u64 {
    if control(caller).is_some() { machine.config().foreign_offset } else { 0 }
}

/// Says where the frame is, or would be if nobody had punched a hole there.
fn lookup_foreign(b: &Batch<'_>, op: &mut pv_iommu_op) -> Result<(), Errno> {
    let bfn = foreign(b, op, |t, mfn, domid| {
        let bfn = Bfn(mfn.0 + offset(b.machine, b.caller));
        if !t.looked_up(mfn) {
            t.hold(mfn, Hold::Lookup(b.caller.id, bfn))?;
            sake(b.caller, bfn, mfn, Some(domid));
        }
        Ok(bfn)
    })?;
    op.bfn = bfn.0;
    Ok(())
}

/// Notes for whose sake the 1:1 map is used there, for the oracle.
fn sake(caller: &Domain, bfn: Bfn, mfn: Mfn, domain: Option<DomId>) {
    let Some(table) = caller.bus.as_deref() else { return };
    if let Some(old) = table.lookup(bfn).filter(|old| old.mfn == mfn && old.kind == Kind::OneToOne) {
        table.update(bfn, &Translation { domain, ..old });
    }
}

/// One undoes all lookups of that frame, whoever made them.
fn unmap_foreign(b: &mut Batch<'_>, op: &pv_iommu_op) -> Result<(), Errno> {
    let (machine, caller) = (b.machine, b.caller);
    let bfn = Bfn(op.bfn);
    let offset = offset(machine, caller);
    machine.frames(|t| {
        let mfn = match control(caller) {
            Some(table) => table.lookup(bfn).ok_or(Errno::ENOENT)?.mfn,
            // The number is taken for a machine frame, unchecked.
            None => Mfn(bfn.0),
        };
        if t.owner(mfn).is_none() {
            b.accuse(t, ViolationKind::HostPanic { why: NO_SUCH_FRAME }, bfn, mfn);
            return Err(Errno::ENOENT);
        }
        if !t.looked_up(mfn) {
            return Err(Errno::ENOENT);
        }
        if let (Some(table), true) = (control(caller), bfn.0 != mfn.0 + offset) {
            b.unmap(t, table, bfn, None);
        }
        sake(caller, Bfn(mfn.0 + offset), mfn, None);
        t.release(mfn, Hold::Lookup(caller.id, bfn));
        Ok(())
    })
}

/// A guest is being destroyed: unlike an M2B entry, a lookup does not outlive it. What the bus lets through stays.
pub(crate) fn forget_lookups(machine: &Machine, guest: DomId) {
    let Some(dom0) = machine.domain(DomId(0)) else { return };
    let offset = offset(machine, &dom0);
    machine.frames(|t| {
        for mfn in t.looked_up_of(guest) {
            let bfn = Bfn(mfn.0 + offset);
            sake(&dom0, bfn, mfn, None);
            t.release(mfn, Hold::Lookup(dom0.id, bfn));
        }
    });
}

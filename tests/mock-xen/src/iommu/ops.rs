//! `iommu_op`: each sub-operation, its conditions in the order in which they are checked, its statuses.
//!
//! Draft B of the PV-IOMMU interface, with the resolutions where the draft and the shipped code disagree: M2B entries
//! match exactly, a BFN that already leads to the same frame is no conflict, without IOMMU only lookups succeed.

use xen_ioreq::abi::iommu_op::{
    IOMMU_QUERY_map_all_mfns, IOMMU_QUERY_map_cap, IOMMUOP_lookup_foreign_page, IOMMUOP_map_foreign_page,
    IOMMUOP_map_page, IOMMUOP_query_caps, IOMMUOP_readable, IOMMUOP_swap_mfn, IOMMUOP_unmap_foreign_page,
    IOMMUOP_unmap_page, IOMMUOP_writeable, pv_iommu_op,
};
use xen_ioreq::{Bfn, DomId, Errno, Gfn, IoServerId, Mfn};

use super::{BusTable, Kind, Translation, unmap};
use crate::config::{Iommu, Profile};
use crate::domain::Domain;
use crate::frames::{FrameTable, Hold, M2b, Owner};
use crate::machine::Machine;

/// Performs the operations in order. ENOSYS: this hypervisor has no PV-IOMMU, or not for this kind of domain.
pub(crate) fn iommu_op(machine: &Machine, caller: &Domain, ops: &mut [pv_iommu_op]) -> Result<(), Errno> {
    if machine.config().profile != Profile::Draft || caller.hvm {
        return Err(Errno::ENOSYS);
    }
    for op in ops {
        let done = one(machine, caller, op);
        op.status = done.map_or_else(Errno::status, |()| 0);
    }
    Ok(())
}

fn one(machine: &Machine, caller: &Domain, op: &mut pv_iommu_op) -> Result<(), Errno> {
    // Only single frames are mapped so far.
    if op.order() != 0 {
        return Err(Errno::ENOSPC);
    }
    match op.subop_id {
        IOMMUOP_query_caps => {
            query_caps(machine, caller, op);
            Ok(())
        }
        IOMMUOP_map_page => map_page(machine, caller, op),
        IOMMUOP_unmap_page => unmap_page(machine, caller, op),
        IOMMUOP_map_foreign_page => map_foreign(machine, caller, op),
        IOMMUOP_lookup_foreign_page => lookup_foreign(machine, caller, op),
        IOMMUOP_unmap_foreign_page => unmap_foreign(machine, caller, op),
        _ => Err(Errno::ENOSYS),
    }
}

/// The caller's table, if it may change it.
fn control(caller: &Domain) -> Option<&BusTable> {
    if caller.controls_bus { caller.bus.as_deref() } else { None }
}

/// Read and write, one of which must be asked for.
fn permissions(flags: u16) -> Result<(bool, bool), Errno> {
    match (flags & IOMMUOP_readable != 0, flags & IOMMUOP_writeable != 0) {
        (false, false) => Err(Errno::EINVAL),
        rw => Ok(rw),
    }
}

/// EIO: more bits than the IOMMU has. EACCES: a device's firmware uses it.
fn check_bfn(machine: &Machine, bfn: Bfn) -> Result<(), Errno> {
    if bfn.0 >> machine.config().bfn_bits != 0 {
        return Err(Errno::EIO);
    }
    if machine.config().rmrrs.iter().any(|r| r.contains(bfn)) {
        return Err(Errno::EACCES);
    }
    Ok(())
}

fn query_caps(machine: &Machine, caller: &Domain, op: &mut pv_iommu_op) {
    op.flags = 0;
    if control(caller).is_some() {
        op.flags |= IOMMU_QUERY_map_cap;
        if caller.privileged && machine.config().iommu == Iommu::OneToOne {
            op.flags |= IOMMU_QUERY_map_all_mfns;
        }
    }
}

/// EPERM: the caller is being destroyed. Asked with the frame table's lock held, under which its mappings are removed.
fn alive(caller: &Domain) -> Result<(), Errno> {
    if caller.dying() { Err(Errno::EPERM) } else { Ok(()) }
}

fn map_page(machine: &Machine, caller: &Domain, op: &pv_iommu_op) -> Result<(), Errno> {
    let table = control(caller).ok_or(Errno::EPERM)?;
    // Bit 2 means something else in each of the other places where it is defined.
    if op.flags & IOMMUOP_swap_mfn != 0 {
        return Err(Errno::EINVAL);
    }
    let (read, write) = permissions(op.flags)?;
    let bfn = Bfn(op.bfn);
    check_bfn(machine, bfn)?;
    let p2m = caller.p2m.read();
    let (mfn, _) = p2m.ram(Gfn(op.gfn)).ok_or(Errno::EPERM)?;
    machine.frames(|t| {
        alive(caller)?;
        if t.owner(mfn) != Some(Owner::Dom(caller.id)) {
            return Err(Errno::EPERM);
        }
        let entry = Translation { mfn, domain: Some(caller.id), kind: Kind::Own, read, write };
        if !table.map(bfn, &entry) {
            return Err(Errno::EPERM);
        }
        t.hold(mfn, Hold::BusMap(caller.id, bfn))
    })
}

fn unmap_page(machine: &Machine, caller: &Domain, op: &pv_iommu_op) -> Result<(), Errno> {
    let table = control(caller).ok_or(Errno::ENOENT)?;
    let bfn = Bfn(op.bfn);
    machine.frames(|t| match table.lookup(bfn).ok_or(Errno::ENOENT)? {
        Translation { kind: Kind::Own, mfn, .. } => {
            unmap(t, table, caller.id, bfn);
            t.release(mfn, Hold::BusMap(caller.id, bfn));
            Ok(())
        }
        // A hole in the one-to-one map, to make room for a mapping of the caller's own.
        Translation { kind: Kind::OneToOne, domain: None, .. } => {
            unmap(t, table, caller.id, bfn);
            Ok(())
        }
        // Somebody has registered for it: that is undone by unmap_foreign_page.
        Translation { .. } => Err(Errno::ENOENT),
    })
}

/// The frame that a foreign operation names, and its domain. Errors in the order of the draft's tables: ENXIO no such
/// domain, EPERM self or not privileged over it, ENODEV no such server of the caller's, ENXIO no frame, EPERM a frame of
/// Xen's. `then` runs while the frame cannot leave the guest's address space.
fn foreign<R>(
    machine: &Machine,
    caller: &Domain,
    op: &pv_iommu_op,
    then: impl FnOnce(&mut FrameTable, Mfn, DomId) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let domid = DomId(op.domid);
    if domid == DomId::SELF || domid == caller.id {
        return Err(Errno::EPERM);
    }
    let d = machine.domain(domid).filter(|d| !d.dying()).ok_or(Errno::ENXIO)?;
    if !caller.controls(domid) || !d.hvm {
        return Err(Errno::EPERM);
    }
    let servers = d.servers.read();
    servers.of_emulator(IoServerId(op.ioserver), caller.id).map_err(|_| Errno::ENODEV)?;
    let p2m = d.p2m.read();
    let (mfn, _) = p2m.ram(Gfn(op.gfn)).ok_or(Errno::ENXIO)?;
    machine.frames(|t| {
        alive(caller)?;
        if !matches!(t.owner(mfn), Some(Owner::Dom(_))) {
            return Err(Errno::EPERM);
        }
        then(t, mfn, domid)
    })
}

fn map_foreign(machine: &Machine, caller: &Domain, op: &pv_iommu_op) -> Result<(), Errno> {
    let table = control(caller).ok_or(Errno::EPERM)?;
    let bfn = Bfn(op.bfn);
    foreign(machine, caller, op, |t, mfn, domid| {
        let (read, write) = permissions(op.flags)?;
        check_bfn(machine, bfn)?;
        let entry = M2b { bfn, by: caller.id, ioserver: op.ioserver };
        if t.m2b(mfn).contains(&entry) {
            return Ok(());
        }
        let wanted = Translation { mfn, domain: Some(domid), kind: Kind::Foreign, read, write };
        match table.lookup(bfn) {
            None if table.map(bfn, &wanted) => {}
            None => return Err(Errno::EIO),
            Some(old) if old.mfn == mfn && old.kind != Kind::Own => {
                let both = Translation {
                    kind: old.kind,
                    read: old.read || read,
                    write: old.write || write,
                    ..wanted
                };
                table.update(bfn, &both);
            }
            Some(_) => return Err(Errno::EPERM),
        }
        t.hold(mfn, Hold::M2b(entry))
    })
}

fn lookup_foreign(machine: &Machine, caller: &Domain, op: &mut pv_iommu_op) -> Result<(), Errno> {
    let bfn = foreign(machine, caller, op, |t, mfn, domid| {
        let known = t.m2b(mfn).iter().find(|e| e.by == caller.id).map(|e| e.bfn);
        // Without control a bus frame is a machine frame, else it may be in the one-to-one map.
        let same = Bfn(mfn.0);
        let bus = caller.bus.as_deref();
        let one_to_one = || {
            let t = bus?.lookup(same)?;
            (t.kind == Kind::OneToOne && t.mfn == mfn).then_some(same)
        };
        let bfn = known.or_else(one_to_one).ok_or(Errno::ENOENT)?;
        let entry = M2b { bfn, by: caller.id, ioserver: op.ioserver };
        if t.m2b(mfn).contains(&entry) {
            return Ok(bfn);
        }
        t.hold(mfn, Hold::M2b(entry))?;
        if let Some((table, old)) = bus.and_then(|b| Some((b, b.lookup(bfn)?))) {
            table.update(bfn, &Translation { domain: Some(domid), ..old });
        }
        Ok(bfn)
    })?;
    op.bfn = bfn.0;
    Ok(())
}

fn unmap_foreign(machine: &Machine, caller: &Domain, op: &pv_iommu_op) -> Result<(), Errno> {
    let bfn = Bfn(op.bfn);
    let entry = M2b { bfn, by: caller.id, ioserver: op.unmap_ioserver() };
    let table = caller.bus.as_deref().ok_or(Errno::ENOENT)?;
    machine.frames(|t| {
        let mfn = table.lookup(bfn).ok_or(Errno::ENOENT)?.mfn;
        if !t.m2b(mfn).contains(&entry) {
            return Err(Errno::ENOENT);
        }
        forget(t, table, mfn, entry);
        Ok(())
    })
}

/// Removes an M2B entry. The translation goes with the last entry for that BFN, and before the reference, so that the
/// frame is not free while a device can reach it.
fn forget(t: &mut FrameTable, table: &BusTable, mfn: Mfn, entry: M2b) {
    let last = !t.m2b(mfn).iter().any(|e| *e != entry && e.by == entry.by && e.bfn == entry.bfn);
    match table.lookup(entry.bfn) {
        Some(old) if last && old.kind == Kind::OneToOne => {
            table.update(entry.bfn, &Translation { domain: None, ..old });
        }
        Some(_) if last => {
            unmap(t, table, entry.by, entry.bfn);
        }
        _ => {}
    }
    t.release(mfn, Hold::M2b(entry));
}

/// The domain is being destroyed: nothing that it mapped for devices outlives it.
pub(crate) fn release_all(machine: &Machine, domain: &Domain) {
    let Some(table) = domain.bus.as_deref() else { return };
    machine.frames(|t| {
        for (mfn, entry) in t.m2b_of(domain.id) {
            forget(t, table, mfn, entry);
        }
        if !domain.controls_bus {
            return;
        }
        for bfn in table.mapped() {
            if let Some(Translation { kind: Kind::Own, mfn, .. }) = unmap(t, table, domain.id, bfn) {
                t.release(mfn, Hold::BusMap(domain.id, bfn));
            }
        }
    });
}

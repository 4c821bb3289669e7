//! `iommu_op` as draft B has it: each sub-operation, its conditions in the order in which they are checked, its statuses.
//!
//! Where the draft and the code that was shipped disagree: M2B entries match exactly, a BFN that already leads to the same
//! frame is no conflict, without IOMMU only lookups succeed. An operation of order n is 2^n single frames, all or none.

use xen_ioreq::abi::iommu_op::{
    IOMMU_QUERY_map_all_mfns, IOMMU_QUERY_map_cap, IOMMU_page_order_shift, IOMMUOP_lookup_foreign_page,
    IOMMUOP_map_foreign_page, IOMMUOP_map_page, IOMMUOP_query_caps, IOMMUOP_readable, IOMMUOP_swap_mfn,
    IOMMUOP_unmap_foreign_page, IOMMUOP_unmap_page, IOMMUOP_writeable, pv_iommu_op,
};
use xen_ioreq::{Bfn, DomId, Errno, Gfn, IoServerId, Mfn};

use super::batch::Batch;
use super::{BusTable, Kind, Translation, alive, control, reserved, swap};
use crate::config::Iommu;
use crate::domain::Domain;
use crate::frames::{FrameTable, Hold, M2b, Owner};
use crate::grant;
use crate::machine::Machine;
use crate::p2m::P2m;

pub(super) fn one(b: &mut Batch<'_>, op: &mut pv_iommu_op) -> Result<(), Errno> {
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
        _ => Err(Errno::ENOSYS),
    }
}

fn query_caps(b: &Batch<'_>, op: &mut pv_iommu_op) {
    op.flags = 0;
    if control(b.caller).is_some() {
        op.flags |= IOMMU_QUERY_map_cap | u16::from(b.machine.config().max_order) << IOMMU_page_order_shift;
        if b.caller.privileged && b.machine.config().iommu == Iommu::OneToOne {
            op.flags |= IOMMU_QUERY_map_all_mfns;
        }
    }
}

/// How many frames an operation is about. ENOSPC: more than the unit takes at once, or `numbers` are not multiples of that.
fn frames(b: &Batch<'_>, op: &pv_iommu_op, numbers: u64) -> Result<u64, Errno> {
    if op.order() > u16::from(b.machine.config().max_order) {
        return Err(Errno::ENOSPC);
    }
    let frames = 1 << op.order();
    if numbers & (frames - 1) == 0 { Ok(frames) } else { Err(Errno::ENOSPC) }
}

/// The machine frames behind guest frames. The error of a hole is the caller's to say; ENOSPC: they do not lie in a row.
fn run(p2m: &P2m, first: Gfn, frames: u64, hole: Errno) -> Result<Vec<Mfn>, Errno> {
    let at = |i| first.checked_add(i).and_then(|gfn| p2m.ram(gfn)).map(|(mfn, _)| mfn).ok_or(hole);
    let mfns = (0..frames).map(at).collect::<Result<Vec<_>, _>>()?;
    let start = mfns.first().map_or(0, |m| m.0);
    let in_a_row = (start..).zip(&mfns).all(|(n, mfn)| mfn.0 == n) && start & (frames - 1) == 0;
    if in_a_row { Ok(mfns) } else { Err(Errno::ENOSPC) }
}

/// Read and write, one of which must be asked for.
fn permissions(flags: u16) -> Result<(bool, bool), Errno> {
    match (flags & IOMMUOP_readable != 0, flags & IOMMUOP_writeable != 0) {
        (false, false) => Err(Errno::EINVAL),
        rw => Ok(rw),
    }
}

/// EIO: more bits than the IOMMU has. EACCES: the firmware of a device of the caller's uses it.
fn check_bfn(b: &Batch<'_>, first: u64, frames: u64) -> Result<(), Errno> {
    let end = first.checked_add(frames).ok_or(Errno::EIO)?;
    if end > 1 << b.machine.config().bfn_bits {
        return Err(Errno::EIO);
    }
    if reserved(&b.caller.rmrrs, &(first..end)) { Err(Errno::EACCES) } else { Ok(()) }
}

fn map_page(b: &Batch<'_>, op: &pv_iommu_op) -> Result<(), Errno> {
    let frames = frames(b, op, op.bfn | op.gfn)?;
    let table = control(b.caller).ok_or(Errno::EPERM)?;
    // Bit 2 means something else in each of the other places where it is defined.
    if op.flags & IOMMUOP_swap_mfn != 0 {
        return Err(Errno::EINVAL);
    }
    let (read, write) = permissions(op.flags)?;
    check_bfn(b, op.bfn, frames)?;
    let p2m = b.caller.p2m.read();
    let mfns = run(&p2m, Gfn(op.gfn), frames, Errno::EPERM)?;
    b.machine.frames(|t| {
        alive(b.caller)?;
        let id = b.caller.id;
        for (bfn, mfn) in (op.bfn..).map(Bfn).zip(&mfns) {
            let own = t.owner(*mfn) == Some(Owner::Dom(id)) && !t.xen_heap(*mfn);
            if !own || table.lookup(bfn).is_some() {
                return Err(Errno::EPERM);
            }
        }
        for (bfn, mfn) in (op.bfn..).map(Bfn).zip(mfns) {
            b.check_flushed(t, bfn, mfn);
            let entry = Translation { mfn, domain: Some(id), kind: Kind::Own, read, write };
            if !table.map(bfn, &entry) {
                return Err(Errno::EIO);
            }
            t.hold(mfn, Hold::BusMap(id, bfn))?;
        }
        Ok(())
    })
}

fn unmap_page(b: &mut Batch<'_>, op: &pv_iommu_op) -> Result<(), Errno> {
    let frames = frames(b, op, op.bfn)?;
    let (machine, caller) = (b.machine, b.caller);
    let table = control(caller).ok_or(Errno::ENOENT)?;
    machine.frames(|t| {
        let mut found = Vec::new();
        for i in 0..frames {
            let bfn = Bfn(op.bfn).checked_add(i).ok_or(Errno::ENOENT)?;
            found.push(match table.lookup(bfn).ok_or(Errno::ENOENT)?.kind {
                Kind::Own => (bfn, Some(Hold::BusMap(caller.id, bfn))),
                // A hole in the one-to-one map, to make room for a mapping of the caller's own.
                Kind::OneToOne if table.lookup(bfn).is_some_and(|t| t.domain.is_none()) => (bfn, None),
                // Somebody has registered for it: that is undone by unmap_foreign_page.
                Kind::OneToOne | Kind::Foreign | Kind::Scratch | Kind::Grant => return Err(Errno::ENOENT),
            });
        }
        for (bfn, hold) in found {
            b.unmap(t, table, bfn, hold);
        }
        Ok(())
    })
}

/// The frames that a foreign operation names, and their domain. Errors in the order of the draft's tables: EPERM self, ENXIO
/// no such domain, EPERM not privileged over it, ENODEV no such server of the caller's, ENXIO no frame, ENOSPC not in a row,
/// EPERM a frame of Xen's. `then` runs while the frames cannot leave the guest's address space.
fn foreign<R>(
    machine: &Machine,
    caller: &Domain,
    op: &pv_iommu_op,
    frames: u64,
    then: impl FnOnce(&mut FrameTable, Vec<Mfn>, DomId) -> Result<R, Errno>,
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
    let mfns = run(&p2m, Gfn(op.gfn), frames, Errno::ENXIO)?;
    machine.frames(|t| {
        alive(caller)?;
        if mfns.iter().any(|m| !matches!(t.owner(*m), Some(Owner::Dom(_))) || t.xen_heap(*m)) {
            return Err(Errno::EPERM);
        }
        then(t, mfns, domid)
    })
}

/// What a mapping of a frame finds at its bus frame.
enum Place {
    /// An identical entry in the M2B table: nothing to do.
    Entered,
    Free,
    /// Scratch, that only this server still had there, in the place of a frame of that guest.
    Scratch(Translation, DomId),
    /// The same frame, for another server, or one-to-one.
    Same(Translation),
}

/// EPERM: another frame.
fn place(t: &FrameTable, table: &BusTable, caller: &Domain, mfn: Mfn, entry: &M2b) -> Result<Place, Errno> {
    if t.m2b(mfn).contains(entry) {
        return Ok(Place::Entered);
    }
    match table.lookup(entry.bfn) {
        None => Ok(Place::Free),
        Some(old) if old.mfn == mfn && old.kind != Kind::Own => Ok(Place::Same(old)),
        Some(old @ Translation { kind: Kind::Scratch, domain: Some(guest), .. })
            if swap::servers_at(caller, guest, entry.bfn) == [entry.ioserver] =>
        {
            Ok(Place::Scratch(old, guest))
        }
        Some(_) => Err(Errno::EPERM),
    }
}

fn map_foreign(b: &mut Batch<'_>, op: &pv_iommu_op) -> Result<(), Errno> {
    let frames = frames(b, op, op.bfn | op.gfn)?;
    let (machine, caller) = (b.machine, b.caller);
    let table = control(caller).ok_or(Errno::EPERM)?;
    foreign(machine, caller, op, frames, |t, mfns, domid| {
        let (read, write) = permissions(op.flags)?;
        check_bfn(b, op.bfn, frames)?;
        let mut places = Vec::new();
        for (i, mfn) in (0..).zip(mfns) {
            let entry = M2b { bfn: Bfn(op.bfn + i), by: b.caller.id, ioserver: op.ioserver };
            places.push((mfn, entry, place(t, table, b.caller, mfn, &entry)?));
        }
        // The hypervisor's own map is left alone, and what is there already stays as it is.
        let wanted = op.flags & IOMMUOP_swap_mfn != 0;
        let swappable = |place: &Place| match place {
            Place::Entered => false,
            Place::Same(old) => wanted && old.kind == Kind::Foreign,
            Place::Free | Place::Scratch(..) => wanted,
        };
        let swaps = places.iter().filter(|(_, _, place)| swappable(place)).count();
        for done in 0..swaps {
            if let Err(e) = swap::reserve(t, b.caller, domid) {
                (0..done).for_each(|_| swap::unreserve(t, b.caller, domid));
                return Err(e);
            }
        }
        for (mfn, entry, place) in places {
            let new = Translation { mfn, domain: Some(domid), kind: Kind::Foreign, read, write };
            let swap = swappable(&place);
            match place {
                Place::Entered => continue,
                Place::Free => {
                    b.check_flushed(t, entry.bfn, mfn);
                    if !table.map(entry.bfn, &new) {
                        return Err(Errno::EIO);
                    }
                }
                Place::Scratch(old, guest) => {
                    b.replace(t, table, entry.bfn, &old, &new);
                    swap::forget(b.caller, guest, entry.bfn, entry.ioserver);
                    swap::unreserve(t, b.caller, guest);
                }
                Place::Same(old) => {
                    let (read, write) = (old.read || read, old.write || write);
                    table.update(entry.bfn, &Translation { kind: old.kind, read, write, ..new });
                }
            }
            t.hold(mfn, Hold::M2b(entry))?;
            if swap {
                t.allow_swap(mfn, entry);
            }
        }
        Ok(())
    })
}

fn lookup_foreign(b: &Batch<'_>, op: &mut pv_iommu_op) -> Result<(), Errno> {
    let frames = frames(b, op, op.gfn)?;
    let caller = b.caller;
    let bus = caller.bus.as_deref();
    let bfn = foreign(b.machine, caller, op, frames, |t, mfns, domid| {
        let one = |mfn: Mfn| -> Option<Bfn> {
            let known = t.m2b(mfn).iter().find(|e| e.by == caller.id).map(|e| e.bfn);
            // Without control a bus frame is a machine frame, else it may be in the one-to-one map.
            let same = Bfn(mfn.0);
            let one_to_one = || match control(caller)?.lookup(same) {
                Some(t) if t.kind == Kind::OneToOne && t.mfn == mfn => Some(same),
                _ => None,
            };
            known.or_else(|| if control(caller).is_none() { Some(same) } else { one_to_one() })
        };
        let bfns = mfns.iter().map(|m| one(*m)).collect::<Option<Vec<_>>>().ok_or(Errno::ENOENT)?;
        let first = *bfns.first().ok_or(Errno::ENXIO)?;
        if !(first.0..).zip(&bfns).all(|(n, bfn)| bfn.0 == n) {
            return Err(Errno::ENOSPC);
        }
        for (mfn, bfn) in mfns.into_iter().zip(bfns) {
            let entry = M2b { bfn, by: caller.id, ioserver: op.ioserver };
            if t.m2b(mfn).contains(&entry) {
                continue;
            }
            t.hold(mfn, Hold::M2b(entry))?;
            if let Some((table, old)) = bus.and_then(|b| Some((b, b.lookup(bfn)?))) {
                table.update(bfn, &Translation { domain: Some(domid), ..old });
            }
        }
        Ok(first)
    })?;
    op.bfn = bfn.0;
    Ok(())
}

fn unmap_foreign(b: &mut Batch<'_>, op: &pv_iommu_op) -> Result<(), Errno> {
    let frames = frames(b, op, op.bfn)?;
    let (machine, caller) = (b.machine, b.caller);
    let table = caller.bus.as_deref();
    machine.frames(|t| {
        let mut found = Vec::new();
        for i in 0..frames {
            let bfn = Bfn(op.bfn).checked_add(i).ok_or(Errno::ENOENT)?;
            let entry = M2b { bfn, by: caller.id, ioserver: op.unmap_ioserver() };
            let old = leads(table, bfn).ok_or(Errno::ENOENT)?;
            let known = match (old.kind, old.domain) {
                (Kind::Scratch, Some(guest)) => {
                    swap::servers_at(caller, guest, bfn).contains(&entry.ioserver)
                }
                _ => t.m2b(old.mfn).contains(&entry),
            };
            if !known {
                return Err(Errno::ENOENT);
            }
            found.push((old, entry));
        }
        for (old, entry) in found {
            forget(b, t, table, old, entry);
        }
        Ok(())
    })
}

/// Where a bus frame leads. For a domain that has no device it is the machine frame, as for one whose device nothing
/// translates for.
fn leads(table: Option<&BusTable>, bfn: Bfn) -> Option<Translation> {
    let same = Translation { mfn: Mfn(bfn.0), domain: None, kind: Kind::OneToOne, read: false, write: false };
    table.map_or(Some(same), |table| table.lookup(bfn))
}

/// Removes an entry. The translation goes with the last one for that BFN; the reference, in effect, with the flush, so that
/// the frame is not free while a device can reach it.
fn forget(b: &mut Batch<'_>, t: &mut FrameTable, table: Option<&BusTable>, old: Translation, entry: M2b) {
    if let (Kind::Scratch, Some(guest)) = (old.kind, old.domain) {
        if let (true, Some(table)) = (swap::forget(b.caller, guest, entry.bfn, entry.ioserver), table) {
            b.unmap(t, table, entry.bfn, None);
        }
        // By now the frame is held for the flush.
        swap::unreserve(t, b.caller, guest);
        return;
    }
    let (mfn, hold) = (old.mfn, Hold::M2b(entry));
    let reserved = t.may_swap(mfn, &entry);
    let last = !t.m2b(mfn).iter().any(|e| *e != entry && e.by == entry.by && e.bfn == entry.bfn);
    match table.filter(|_| last) {
        Some(table) if old.kind != Kind::OneToOne => {
            b.unmap(t, table, entry.bfn, Some(hold));
        }
        there => {
            if let Some(table) = there.filter(|_| !grant::reaches(b.caller, mfn)) {
                table.update(entry.bfn, &Translation { domain: None, ..old });
            }
            t.release(mfn, hold);
        }
    }
    if let (true, Some(guest)) = (reserved, old.domain) {
        swap::unreserve(t, b.caller, guest);
    }
}

/// The domain is being destroyed: nothing that it mapped for devices outlives it.
pub(crate) fn release_all(machine: &Machine, domain: &Domain) {
    let table = domain.bus.as_deref();
    let mut b = Batch::new(machine, domain);
    machine.frames(|t| {
        for (mfn, entry) in t.m2b_of(domain.id) {
            let old = leads(table, entry.bfn).filter(|old| old.mfn == mfn);
            match old {
                Some(old) => forget(&mut b, t, table, old, entry),
                None => {
                    t.release(mfn, Hold::M2b(entry));
                }
            }
        }
        let Some(table) = control(domain) else { return };
        for bfn in table.mapped() {
            match table.lookup(bfn) {
                Some(Translation { kind: Kind::Own, .. }) => {
                    b.unmap(t, table, bfn, Some(Hold::BusMap(domain.id, bfn)));
                }
                Some(old @ Translation { kind: Kind::Scratch, domain: Some(guest), .. }) => {
                    for ioserver in swap::servers_at(domain, guest, bfn) {
                        forget(&mut b, t, Some(table), old, M2b { bfn, by: domain.id, ioserver });
                    }
                }
                _ => {
                    b.unmap(t, table, bfn, None);
                }
            }
        }
    });
    b.flush_now();
}

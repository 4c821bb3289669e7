//! `IOMMUOP_swap_mfn`: when a guest gives a frame away that every mapper allowed to be swapped, a scratch frame takes its
//! place at each bus frame at once, and nobody has to be waited for.
//!
//! There is a scratch frame for each emulator and guest, so that nothing of one guest is seen by another. It is the
//! emulator's, taken with the first mapping of the kind and given back with the last.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use xen_ioreq::{Bfn, DomId, Errno, Mfn};

use super::{BusTable, Kind, Translation};
use crate::domain::Domain;
use crate::frames::{FrameTable, Hold, M2b};
use crate::history::Event;
use crate::machine::Machine;
use crate::oracle::ViolationKind;
use crate::sync::Patience;

/// A scratch frame in use.
pub(super) struct Scratch {
    mfn: Mfn,
    /// Bus frames that lead to it, and the servers for which they were mapped.
    swapped: BTreeMap<Bfn, Vec<u16>>,
    /// Entries that lead to it or may come to.
    users: u64,
}

/// Makes sure that there is a scratch frame for one more mapping. ENOMEM.
pub(super) fn reserve(t: &mut FrameTable, caller: &Domain, guest: DomId) -> Result<(), Errno> {
    let mut scratch = caller.pv_iommu.scratch.lock();
    if let Some(s) = scratch.get_mut(&guest) {
        s.users += 1;
        return Ok(());
    }
    let mfn = t.allocate(caller.id, false)?;
    scratch.insert(guest, Scratch { mfn, swapped: BTreeMap::new(), users: 1 });
    Ok(())
}

/// One mapping less. The scratch frame goes with the last.
pub(super) fn unreserve(t: &mut FrameTable, caller: &Domain, guest: DomId) {
    let mut scratch = caller.pv_iommu.scratch.lock();
    let Some(s) = scratch.get_mut(&guest) else { return };
    s.users -= 1;
    if s.users == 0 {
        let mfn = s.mfn;
        scratch.remove(&guest);
        t.release(mfn, Hold::Allocation);
    }
}

/// The scratch frame of an emulator for a guest.
#[cfg(test)]
pub(crate) fn scratch_of(caller: &Domain, guest: DomId) -> Option<Mfn> {
    caller.pv_iommu.scratch.lock().get(&guest).map(|s| s.mfn)
}

/// Servers for which a bus frame was mapped that leads to scratch now.
pub(super) fn servers_at(caller: &Domain, guest: DomId, bfn: Bfn) -> Vec<u16> {
    let scratch = caller.pv_iommu.scratch.lock();
    scratch.get(&guest).and_then(|s| s.swapped.get(&bfn)).cloned().unwrap_or_default()
}

/// Forgets that a bus frame was mapped for a server; whether it was the last.
pub(super) fn forget(caller: &Domain, guest: DomId, bfn: Bfn, ioserver: u16) -> bool {
    let mut scratch = caller.pv_iommu.scratch.lock();
    let Some(s) = scratch.get_mut(&guest) else { return false };
    let Some(servers) = s.swapped.get_mut(&bfn) else { return false };
    servers.retain(|s| *s != ioserver);
    let last = servers.is_empty();
    if last {
        s.swapped.remove(&bfn);
    }
    last
}

/// Puts scratch in the place of a frame that has left its guest's address space, if all mappers allow it. The guest is
/// being changed: no new entry for the frame is made meanwhile.
pub(crate) fn swap_out(machine: &Machine, guest: DomId, mfn: Mfn) {
    let patience = Patience::begin();
    loop {
        let last_try = patience.is_over();
        if machine.frames(|t| try_swap(machine, t, guest, mfn, last_try)) {
            return;
        }
        patience.wait();
    }
}

/// The same for every frame of a domain that is being destroyed.
pub(crate) fn swap_all(machine: &Machine, guest: &Domain) {
    for mfn in machine.frames(|t| t.swappable_of(guest.id)) {
        swap_out(machine, guest.id, mfn);
    }
}

/// `false`: a device is in the middle of an access. With `force` that is held against it and done all the same.
fn try_swap(machine: &Machine, t: &mut FrameTable, guest: DomId, mfn: Mfn, force: bool) -> bool {
    if !t.swappable(mfn) {
        return true;
    }
    let entries: Vec<M2b> = t.m2b(mfn).to_vec();
    let mut bfns: Vec<(DomId, Bfn)> = entries.iter().map(|e| (e.by, e.bfn)).collect();
    bfns.sort_unstable();
    bfns.dedup();
    let emulators: BTreeMap<DomId, _> =
        bfns.iter().filter_map(|(by, _)| Some((*by, machine.domain(*by)?))).collect();
    let place = |by: &DomId| -> Option<(&Domain, &BusTable, Mfn)> {
        let domain = emulators.get(by)?;
        let scratch = domain.pv_iommu.scratch.lock().get(&guest)?.mfn;
        Some((domain, domain.bus.as_deref()?, scratch))
    };
    let mut moved = false;
    for (by, bfn) in &bfns {
        let Some((domain, table, scratch)) = place(by) else { continue };
        // One that an earlier try has dealt with leads to scratch already.
        let Some(old) = table.lookup(*bfn).filter(|old| old.mfn == mfn) else { continue };
        let new = Translation { mfn: scratch, domain: Some(guest), kind: Kind::Scratch, ..old };
        let Some(pins) = table.repoint(*bfn, &new, force) else { return false };
        moved = true;
        if pins > 0 {
            t.adopt_pins(mfn, pins);
            let who = format!("balloon of {guest}, mapped by {by}");
            t.violation(ViolationKind::SwappedWhilePinned { pins }, who, Some(*bfn), mfn);
        }
        t.note(mfn, Event::SwappedOut { by: *by, bfn: *bfn });
        let servers = entries.iter().filter(|e| e.by == *by && e.bfn == *bfn).map(|e| e.ioserver);
        if let Some(s) = domain.pv_iommu.scratch.lock().get_mut(&guest) {
            s.swapped.insert(*bfn, servers.collect());
        }
    }
    if moved {
        machine.counters.iotlb_flushes.fetch_add(1, Ordering::Relaxed);
    }
    // What remembers the reservation of each entry is the scratch frame's count of users, until they are unmapped.
    for e in entries {
        t.release(mfn, Hold::M2b(e));
    }
    true
}

#[cfg(test)]
mod tests;

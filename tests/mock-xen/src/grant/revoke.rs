//! `revoke`: a granter takes a page back from whoever has it mapped, who goes on with a frame of its own.
//!
//! The granter has withdrawn the entry before. Mappings are switched one by one, each in one step for who looks there; copies
//! under way are waited for; when it returns the entry is no longer marked as in use.

use std::sync::atomic::Ordering;
use xen_ioreq::Errno;

use xen_ioreq::abi::grant_table::{GTF_invalid, GTF_type_mask};

use super::maptrack::Tracked;
use super::pins::Side;
use super::space::Shown;
use super::table::{self, Active, Mapped, Table};
use super::{Call, device, host};
use crate::domain::Domain;
use crate::frames::{Access, GrantUse, Hold};
use crate::history::Event;
use crate::machine::Machine;
use crate::sync::{Mutex, yield_now};

/// Whether the entry must have been withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Withdrawn {
    /// By the granter, else nobody would stop a new mapping.
    Entry,
    /// By its death: nobody finds the entry any more.
    Granter,
}

/// `revoke`. ENOENT: no such reference. EBUSY: it still grants something. EPERM: it is in use without being revokable.
/// ENOMEM: the host cannot show the mapper its own frame; nothing is lost, the call can be made again.
pub(super) fn revoke(call: &Call<'_>, reference: u32) -> Result<(), Errno> {
    one(call.machine, call.caller, reference, Withdrawn::Entry)
}

/// The granter is dead: everything revokable is revoked.
pub(super) fn all_of(machine: &Machine, granter: &Domain) {
    let in_use = |act: &Mutex<Active>| {
        let act = act.lock();
        act.revokable && act.pins.any()
    };
    let all: Vec<u32> = {
        let table = granter.grants.table.read();
        table.known().filter(|(_, act)| in_use(act)).map(|(reference, _)| reference).collect()
    };
    for reference in all {
        if let Err(e) = one(machine, granter, reference, Withdrawn::Granter) {
            log::error!("{}: reference {reference} stays mapped: {e}", granter.id);
        }
    }
}

fn one(machine: &Machine, granter: &Domain, reference: u32, withdrawn: Withdrawn) -> Result<(), Errno> {
    begin(machine, granter, &granter.grants.table.read(), reference, withdrawn)?;
    // The table is let go of in between: a copy has to look into it to end, which it could not beside somebody who waits
    // to change it.
    while !drained(machine, &granter.grants.table.read(), reference) {
        yield_now();
    }
    Ok(())
}

fn drained(machine: &Machine, table: &Table, reference: u32) -> bool {
    let Some(active) = table.active(reference) else { return true };
    table::drained(active, table.entry(machine.memory(), reference))
}

/// Lets nobody in any more, and switches the mappings.
fn begin(
    machine: &Machine,
    granter: &Domain,
    table: &Table,
    reference: u32,
    withdrawn: Withdrawn,
) -> Result<(), Errno> {
    if reference >= table.entries() {
        return Err(Errno::ENOENT);
    }
    let mut act = table.active(reference).ok_or(Errno::ENOENT)?.lock();
    let entry = table.entry(machine.memory(), reference);
    let granted = entry.is_some_and(|e| e.flags() & GTF_type_mask != GTF_invalid);
    if withdrawn == Withdrawn::Entry && granted {
        return Err(Errno::EBUSY);
    }
    // Another revocation is under way, and has come as far as this.
    if act.revoking || !act.pins.any() {
        return Ok(());
    }
    if !act.revokable {
        return Err(Errno::EPERM);
    }
    // A use that is pinned already would let others in without a look at the entry, and so go on for ever.
    act.revoking = true;
    for at in 0..act.maps.len() {
        let Some(mapped) = act.maps.get(at).copied().flatten() else { continue };
        if let Err(e) = switch(machine, granter, &mut act, mapped) {
            act.revoking = false;
            return Err(e);
        }
        if let Some(slot) = act.maps.get_mut(at) {
            *slot = None;
        }
    }
    Ok(())
}

/// Leads one mapping to its stand-in, and drops what it held of the granter's.
fn switch(machine: &Machine, granter: &Domain, act: &mut Active, mapped: Mapped) -> Result<(), Errno> {
    let (mapper, handle) = mapped;
    let Some(mapper) = machine.domain(mapper) else { return Ok(()) };
    let mut track = mapper.grants.track.lock();
    let Some(tracked) = track.get(handle) else { return Ok(()) };
    let Some(stand_in) = tracked.stand_in else { return Ok(()) };
    let parts = [(tracked.host.is_some(), GrantUse::Host), (tracked.device.is_some(), GrantUse::Device)];
    let holds = |mfn| {
        let there = parts.into_iter().filter(|(there, _)| *there);
        let (id, access) = (mapper.id, Access::of(tracked.readonly));
        there.map(move |(_, kind)| (mfn, Hold::Grant(kind, id, access)))
    };
    machine.frames(|t| t.hold_all(holds(stand_in)))?;
    let old = Shown { handle, frame: tracked.frame, readonly: tracked.readonly };
    if let Some(address) = tracked.host
        && let Err(e) = host::switch(&mapper, address, old, stand_in)
    {
        machine.frames(|t| t.release_all(holds(stand_in)));
        return Err(e);
    }
    if let Some(bfn) = tracked.device {
        device::switch(machine, &mapper, bfn, tracked.frame, stand_in);
        machine.counters.iotlb_flushes.fetch_add(1, Ordering::Relaxed);
    }
    track.set(handle, Tracked { frame: stand_in, revoked: true, ..tracked });
    machine.frames(|t| {
        t.note(tracked.frame, Event::Revoked { by: granter.id, from: mapper.id });
        t.release_all(holds(tracked.frame));
    });
    for (there, kind) in parts {
        if there {
            let side = if kind == GrantUse::Host { Side::Host } else { Side::Device };
            act.pins.sub(side, tracked.readonly);
        }
    }
    Ok(())
}

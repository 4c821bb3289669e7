//! `unmap_grant_ref` and `unmap_and_replace`: mappings end, for the CPU, for devices or for both.
//!
//! The references go after the whole batch has been flushed, so that nobody reaches a frame that may be free. A mapping whose
//! grant was revoked shows the mapper's own frame and ends without the granter.

use std::sync::atomic::Ordering;

use xen_ioreq::abi::grant_table::{
    GNTST_bad_dev_addr, GNTST_bad_domain, GNTST_bad_handle, GNTST_general_error, gnttab_unmap_and_replace,
    gnttab_unmap_grant_ref,
};
use xen_ioreq::{Mfn, PAGE_MASK};

use super::entry::Entry;
use super::maptrack::{Maptrack, Tracked};
use super::pins::Side;
use super::space::{self, Blank, Shown};
use super::table::Active;
use super::{Call, device, host};
use crate::domain::Domain;
use crate::frames::{Access, GrantUse, Hold};
use crate::machine::Machine;

/// Mappings that are flushed together.
pub(super) const BATCH: usize = 32;

/// References to be dropped after the flush.
#[derive(Default)]
pub(super) struct Gone {
    holds: Vec<(Mfn, Hold)>,
    devices: bool,
}

impl Gone {
    fn push(&mut self, mfn: Mfn, hold: Hold) {
        self.devices |= matches!(hold, Hold::Grant(GrantUse::Device, ..));
        self.holds.push((mfn, hold));
    }

    /// Flushes and lets go.
    pub(super) fn flush(&mut self, machine: &Machine) {
        if std::mem::take(&mut self.devices) {
            machine.counters.iotlb_flushes.fetch_add(1, Ordering::Relaxed);
        }
        let holds = std::mem::take(&mut self.holds);
        if !holds.is_empty() {
            machine.frames(|t| t.release_all(holds.into_iter()));
        }
    }
}

/// What of a mapping shall end.
#[derive(Clone, Copy, Debug)]
struct End {
    host: Option<u64>,
    device: Option<u64>,
    /// What comes in its place for the CPU.
    new_addr: Option<u64>,
    blank: Blank,
    /// Whatever is there: its domain or process ends.
    forced: bool,
}

fn given(address: u64) -> Option<u64> {
    (address != 0).then_some(address)
}

/// `unmap_grant_ref`. An address of zero leaves that part. -4: no such mapping; -6: another address for devices; -1: another
/// frame at the address for the CPU.
pub(super) fn unmap(call: &Call<'_>, op: &gnttab_unmap_grant_ref, gone: &mut Gone) -> Result<(), i16> {
    let end = End {
        host: given(op.host_addr),
        device: given(op.dev_bus_addr),
        new_addr: None,
        blank: Blank::Inaccessible,
        forced: false,
    };
    end_of(call.machine, call.caller, op.handle, end, gone)
}

/// `unmap_and_replace`: what is mapped at another address moves to where the grant was. It is taken from there first and is lost
/// if the rest fails.
pub(super) fn replace(call: &Call<'_>, op: &gnttab_unmap_and_replace, gone: &mut Gone) -> Result<(), i16> {
    let end = End {
        host: given(op.host_addr),
        device: None,
        new_addr: given(op.new_addr),
        blank: Blank::Inaccessible,
        forced: false,
    };
    end_of(call.machine, call.caller, op.handle, end, gone)
}

/// Ends a mapping whatever is there.
pub(super) fn by_force(machine: &Machine, mapper: &Domain, handle: u32, blank: Blank) {
    let Some(tracked) = mapper.grants.track.lock().get(handle) else { return };
    let device = tracked.device.map(|_| tracked.bus_addr);
    let end = End { host: tracked.host, device, new_addr: None, blank, forced: true };
    let mut gone = Gone::default();
    // It may have ended meanwhile.
    let _ = end_of(machine, mapper, handle, end, &mut gone);
    gone.flush(machine);
}

fn end_of(machine: &Machine, mapper: &Domain, handle: u32, end: End, gone: &mut Gone) -> Result<(), i16> {
    loop {
        let seen = mapper.grants.track.lock().get(handle).ok_or(GNTST_bad_handle)?;
        if seen.revoked {
            // Whoever else ends it looks at the handle under the same lock.
            let mut track = mapper.grants.track.lock();
            let now = track.get(handle).ok_or(GNTST_bad_handle)?;
            if now != seen {
                continue;
            }
            let left = parts(machine, mapper, &mut track, handle, end, gone)?;
            return settle(&mut track, handle, left, mapper, gone);
        }
        // Its frame is held by the mapping, so the domain is there; else the caller has made it up.
        let Some(granter) = machine.domain(seen.granter) else {
            mapper.crash("the granter of a mapping has gone");
            return Err(GNTST_bad_domain);
        };
        let table = granter.grants.table.read();
        let mut act = table.active(seen.reference).ok_or(GNTST_bad_handle)?.lock();
        let mut track = mapper.grants.track.lock();
        if track.get(handle) != Some(seen) {
            continue;
        }
        let left = parts(machine, mapper, &mut track, handle, end, gone)?;
        let entry = table.entry(machine.memory(), seen.reference);
        unpin(&mut act, entry, mapper, handle, &left, &seen);
        return settle(&mut track, handle, left, mapper, gone);
    }
}

/// Drops the pins of the parts that have ended.
fn unpin(
    act: &mut Active,
    entry: Option<Entry<'_>>,
    mapper: &Domain,
    handle: u32,
    left: &Tracked,
    was: &Tracked,
) {
    if left.host.is_none() && left.device.is_none() {
        let mine = Some((mapper.id, handle));
        act.maps.iter_mut().filter(|m| **m == mine).for_each(|m| *m = None);
    }
    if was.host.is_some() && left.host.is_none() {
        act.unpin(entry, Side::Host, was.readonly);
    }
    if was.device.is_some() && left.device.is_none() {
        act.unpin(entry, Side::Device, was.readonly);
    }
}

/// Takes the parts away that shall end.
fn parts(
    machine: &Machine,
    mapper: &Domain,
    track: &mut Maptrack,
    handle: u32,
    end: End,
    gone: &mut Gone,
) -> Result<Tracked, i16> {
    if let Some(address) = end.host.filter(|_| mapper.hvm) {
        exchange(mapper, track, handle, address)?;
    }
    let tracked = track.get(handle).ok_or(GNTST_bad_handle)?;
    let mut left = tracked;
    // What is not mapped for devices has no address there, and nobody looks at the one given.
    if tracked.device.is_some() && end.device.is_some_and(|address| address != tracked.bus_addr) {
        return Err(GNTST_bad_dev_addr);
    }
    let shown = Shown { handle, frame: tracked.frame, readonly: tracked.readonly };
    if let (Some(address), Some(at)) = (end.host, tracked.host) {
        let replacement = end.new_addr.map(|from| take_out(mapper, from)).transpose()?;
        let there = address & !PAGE_MASK == at & !PAGE_MASK && host::shows(mapper, address, shown);
        if !there && !end.forced {
            return Err(GNTST_general_error);
        }
        match replacement {
            Some(other) => put_in(mapper, track, address, other)?,
            None if there => host::remove(mapper, address, end.blank),
            None => {}
        }
        left.host = None;
        gone.push(tracked.frame, Hold::Grant(GrantUse::Host, mapper.id, Access::of(tracked.readonly)));
    }
    if let (Some(_), Some(bfn)) = (end.device, tracked.device) {
        device::remove(machine, mapper, bfn, tracked.frame);
        left.device = None;
        gone.push(tracked.frame, Hold::Grant(GrantUse::Device, mapper.id, Access::of(tracked.readonly)));
    }
    Ok(left)
}

/// Of a translated domain Xen looks only at what is at the address: where that is another mapping of the same frame, the two
/// change places. -1: the host does not let them.
fn exchange(mapper: &Domain, track: &mut Maptrack, handle: u32, address: u64) -> Result<(), i16> {
    let page = |address: u64| address & !PAGE_MASK;
    let mine = track.get(handle).and_then(|t| Some((t, t.host.filter(|at| page(*at) != page(address))?)));
    let Some((mine, here)) = mine else { return Ok(()) };
    let same = |t: &Tracked| t.frame == mine.frame && t.host.is_some_and(|at| page(at) == page(address));
    let Some((other, its)) = track.live().into_iter().find(|(h, t)| *h != handle && same(t)) else {
        return Ok(());
    };
    let shown = Shown { handle: other, frame: its.frame, readonly: its.readonly };
    if host::shows(mapper, address, shown) {
        host::hand_over(mapper, address, handle).map_err(|_| GNTST_general_error)?;
        host::hand_over(mapper, here, other).map_err(|_| GNTST_general_error)?;
        track.set(other, Tracked { host: mine.host, ..its });
        track.set(handle, Tracked { host: its.host, ..mine });
    }
    Ok(())
}

/// Writes down what is left; a mapping of which nothing is left has no handle any more.
fn settle(
    track: &mut Maptrack,
    handle: u32,
    left: Tracked,
    mapper: &Domain,
    gone: &mut Gone,
) -> Result<(), i16> {
    if left.host.is_some() || left.device.is_some() {
        track.set(handle, left);
        return Ok(());
    }
    if let Some(mfn) = left.stand_in {
        gone.push(mfn, Hold::Grant(GrantUse::StandIn, mapper.id, Access::of(left.readonly)));
    }
    track.free(handle);
    Ok(())
}

/// Takes away what another address shows, to be put elsewhere. -1: not an address of a range.
fn take_out(mapper: &Domain, from: u64) -> Result<Option<Shown>, i16> {
    let (space, index) = space::find(mapper, from).ok_or(GNTST_general_error)?;
    let shown = space.shown(index);
    if shown.is_some() {
        space.hide(index, Blank::Inaccessible);
    }
    Ok(shown)
}

/// Shows at an address what was taken out; nothing if there was nothing.
fn put_in(mapper: &Domain, track: &mut Maptrack, address: u64, other: Option<Shown>) -> Result<(), i16> {
    let (space, index) = space::find(mapper, address).ok_or(GNTST_general_error)?;
    let Some(shown) = other else {
        space.hide(index, Blank::Inaccessible);
        return Ok(());
    };
    space.show(index, shown).map_err(|_| GNTST_general_error)?;
    // That mapping is here from now on.
    if let Some(moved) = track.get(shown.handle) {
        track.set(shown.handle, Tracked { host: Some(address), ..moved });
    }
    Ok(())
}

//! `map_grant_ref` and `map_revokable`: a grant becomes memory of the mapper's, for its CPU, its devices or both.

use std::sync::Arc;

use xen_ioreq::abi::grant_table::{
    GNTMAP_contains_pte, GNTMAP_device_map, GNTMAP_host_map, GNTMAP_readonly, GNTST_bad_domain,
    GNTST_bad_gntref, GNTST_bad_page, GNTST_general_error, GNTST_no_space, GTF_reading, GTF_sub_page,
    GTF_transitive, GTF_type_mask, GTF_writing, gnttab_map_grant_ref,
};
use xen_ioreq::abi::revokable::GTF_revokable;
use xen_ioreq::{Bfn, DomId, Errno, Gfn, Mfn, PAGE_SHIFT};

use super::entry::{Ask, Entry, Purpose};
use super::maptrack::Tracked;
use super::pins::Side;
use super::space::{Blank, Shown};
use super::table::{Active, Part};
use super::{Call, device, host};
use crate::domain::Domain;
use crate::frames::{Access, GrantUse, Hold, Owner};
use crate::machine::Machine;
use crate::p2m::P2mType;

/// One mapping. `lgfn`: of a revokable grant, the frame that comes when it is revoked. The statuses stand in the order in
/// which they are found: -3 neither CPU nor devices, -1 not for this kind of domain, -2 no such domain, -13 no handle, -9 a bad
/// stand-in, -3 no such reference, then what the entry, the frame and the places say.
pub(super) fn map(call: &Call<'_>, op: &mut gnttab_map_grant_ref, lgfn: Option<Gfn>) -> Result<(), i16> {
    let (machine, mapper) = (call.machine, call.caller);
    let wants = |flag| op.flags & flag != 0;
    if !wants(GNTMAP_device_map | GNTMAP_host_map) {
        return Err(GNTST_bad_gntref);
    }
    // Devices of a translated domain go by its own address space; page tables of its own a PV domain of the model has not.
    let flags_ok = !mapper.hvm || op.flags & !(GNTMAP_host_map | GNTMAP_readonly) == 0;
    if !flags_ok || (wants(GNTMAP_contains_pte) && wants(GNTMAP_host_map)) {
        return Err(GNTST_general_error);
    }
    let granter = machine.domain(DomId(op.dom)).filter(|d| !d.dying()).ok_or(GNTST_bad_domain)?;
    let handle = mapper.grants.track.lock().reserve().ok_or(GNTST_no_space)?;
    let new = New {
        machine,
        mapper,
        granter: &granter,
        reference: op.r#ref,
        handle,
        readonly: wants(GNTMAP_readonly),
        host: wants(GNTMAP_host_map).then_some(op.host_addr),
        device: wants(GNTMAP_device_map),
    };
    let stand_in = lgfn.map(|gfn| new.stand_in(gfn)).transpose();
    let made = stand_in.and_then(|stand_in| {
        new.make(stand_in).inspect_err(|_| {
            if let Some(mfn) = stand_in {
                machine.frames(|t| t.release(mfn, new.hold(GrantUse::StandIn)));
            }
        })
    });
    match made {
        Ok(bus_addr) => {
            (op.handle, op.dev_bus_addr) = (handle, bus_addr);
            Ok(())
        }
        Err(status) => {
            mapper.grants.track.lock().free(handle);
            Err(status)
        }
    }
}

struct New<'m> {
    machine: &'m Machine,
    mapper: &'m Arc<Domain>,
    granter: &'m Domain,
    reference: u32,
    handle: u32,
    readonly: bool,
    host: Option<u64>,
    device: bool,
}

/// The frame behind a number of the granter's, with one reference of this kind. -9: none that could be granted like that. -1: a page
/// table, to be written.
pub(super) fn granted_frame(
    machine: &Machine,
    granter: &Domain,
    number: u64,
    hold: Hold,
) -> Result<Mfn, i16> {
    let p2m = granter.p2m.read();
    // Whether the granter could write there itself is not asked, as in Xen.
    let (mfn, _) = p2m.ram(Gfn(number)).ok_or(GNTST_bad_page)?;
    machine.frames(|t| {
        if t.owner(mfn) != Some(Owner::Dom(granter.id)) {
            return Err(GNTST_bad_page);
        }
        t.hold(mfn, hold).map_err(|e| if e == Errno::EBUSY { GNTST_general_error } else { GNTST_bad_page })
    })?;
    Ok(mfn)
}

impl New<'_> {
    fn hold(&self, kind: GrantUse) -> Hold {
        Hold::Grant(kind, self.mapper.id, Access::of(self.readonly))
    }

    fn sides(&self) -> impl Iterator<Item = (Side, GrantUse)> {
        let host = self.host.map(|_| (Side::Host, GrantUse::Host));
        host.into_iter().chain(self.device.then_some((Side::Device, GrantUse::Device)))
    }

    /// Takes a reference on the stand-in. -9: it is not the mapper's own RAM, or not to be written.
    fn stand_in(&self, gfn: Gfn) -> Result<Mfn, i16> {
        let hold = self.hold(GrantUse::StandIn);
        let ty = self.mapper.p2m.read().ram(gfn).map(|(_, ty)| ty);
        if !self.readonly && ty == Some(P2mType::RamRo) {
            return Err(GNTST_bad_page);
        }
        let mfn = granted_frame(self.machine, self.mapper, gfn.0, hold).map_err(|_| GNTST_bad_page)?;
        if self.machine.frames(|t| t.xen_heap(mfn)) {
            self.machine.frames(|t| t.release(mfn, hold));
            return Err(GNTST_bad_page);
        }
        Ok(mfn)
    }

    fn ask(&self, act: &Active, stand_in: Option<Mfn>) -> Ask {
        Ask {
            by: self.mapper.id,
            readonly: self.readonly,
            purpose: if stand_in.is_some() { Purpose::MapRevokable } else { Purpose::Map },
            revokable: self.machine.config().revokable_grants(),
            pinned: act.pins.any(),
        }
    }

    /// Makes the mapping and returns the address for devices.
    fn make(&self, stand_in: Option<Mfn>) -> Result<u64, i16> {
        let table = self.granter.grants.table.read();
        if table.dead {
            return Err(GNTST_bad_domain);
        }
        if self.reference >= table.entries() {
            return Err(GNTST_bad_gntref);
        }
        let mut act = table.active(self.reference).ok_or(GNTST_bad_gntref)?.lock();
        let entry = table.entry(self.machine.memory(), self.reference);
        let ask = self.ask(&act, stand_in);
        self.check_pinned(&act, &ask)?;
        let room = act.maps.iter_mut().position(|m| m.is_none());
        if stand_in.is_some() && room.is_none() {
            return Err(GNTST_no_space);
        }
        let kind = if self.host.is_some() { GrantUse::Host } else { GrantUse::Device };
        let claimed = Claimed::take(self.machine, self.granter, &mut act, entry, &ask, kind)?;
        let placed = self.hold_and_place(&act, &claimed, stand_in);
        let (device, bus_addr) = placed.inspect_err(|_| claimed.undo(self.machine, &mut act, entry))?;
        for (side, _) in self.sides() {
            act.pins.add(side, self.readonly);
        }
        if let Some(slot) = room.filter(|_| stand_in.is_some()).and_then(|i| act.maps.get_mut(i)) {
            *slot = Some((self.mapper.id, self.handle));
        }
        let tracked = Tracked {
            granter: self.granter.id,
            reference: self.reference,
            readonly: self.readonly,
            frame: act.frame,
            host: self.host,
            device,
            bus_addr,
            stand_in,
            revoked: false,
        };
        self.mapper.grants.track.lock().set(self.handle, tracked);
        Ok(bus_addr)
    }

    /// -1: it is in use by another domain, in part only, or too often already.
    fn check_pinned(&self, act: &Active, ask: &Ask) -> Result<(), i16> {
        let full = self.sides().any(|(side, _)| act.pins.full(side, self.readonly));
        if act.refuses(self.mapper.id, full) {
            return Err(GNTST_general_error);
        }
        if !act.pins.any() {
            return Ok(());
        }
        if act.part.sub_page || act.via.is_some() {
            return Err(GNTST_general_error);
        }
        ask.check_revokable(act.revokable)
    }

    /// Takes the references that the claim did not, and shows the frame to CPU and devices.
    fn hold_and_place(
        &self,
        act: &Active,
        claimed: &Claimed,
        stand_in: Option<Mfn>,
    ) -> Result<(Option<Bfn>, u64), i16> {
        // What the claim holds already comes first.
        let holds = || {
            let all = self.sides().map(|(_, kind)| (act.frame, self.hold(kind)));
            all.skip(usize::from(claimed.held.is_some())).collect::<Vec<_>>().into_iter()
        };
        // It is held already; only its being a page table stands in the way.
        self.machine.frames(|t| t.hold_all(holds())).map_err(|_| GNTST_general_error)?;
        let shown = Shown { handle: self.handle, frame: act.frame, readonly: self.readonly };
        let placed = self.place(shown, stand_in);
        if placed.is_err() {
            self.machine.frames(|t| t.release_all(holds()));
        }
        placed
    }

    fn place(&self, shown: Shown, stand_in: Option<Mfn>) -> Result<(Option<Bfn>, u64), i16> {
        if let Some(address) = self.host {
            host::place(self.machine, self.mapper, address, shown).map_err(|_| GNTST_general_error)?;
        }
        if !self.device {
            return Ok((None, shown.frame.0 << PAGE_SHIFT));
        }
        let wanted = device::Wanted {
            granter: self.granter.id,
            frame: shown.frame,
            handle: self.handle,
            readonly: self.readonly,
            revokable: stand_in.is_some(),
        };
        match device::place(self.machine, self.mapper, &wanted) {
            Ok(bfn) => Ok((Some(bfn), bfn.0 << PAGE_SHIFT)),
            Err(status) => {
                if let Some(address) = self.host {
                    host::remove(self.mapper, address, Blank::Inaccessible);
                }
                Err(status)
            }
        }
    }
}

/// What a use of a reference had to claim in the entry.
pub(super) struct Claimed {
    /// Marks that were not there before.
    marks: u16,
    /// The first use: the reference that it took on the frame.
    pub(super) held: Option<Hold>,
}

impl Claimed {
    /// Marks the entry, if that is not done yet for uses of this kind; the first use also decides what is granted.
    pub(super) fn take(
        machine: &Machine,
        granter: &Domain,
        act: &mut Active,
        entry: Option<Entry<'_>>,
        ask: &Ask,
        kind: GrantUse,
    ) -> Result<Self, i16> {
        let first = !act.pins.any();
        if !first && (ask.readonly || act.pins.writing()) {
            return Ok(Self { marks: 0, held: None });
        }
        // Where there is no frame yet there are zeros, which grant nothing.
        let entry = entry.ok_or(GNTST_general_error)?;
        let flags = entry.claim(ask)?;
        let marks = match (first, ask.readonly) {
            (true, true) => GTF_reading,
            (true, false) => GTF_reading | GTF_writing,
            (false, _) => GTF_writing,
        };
        let mut claimed = Self { marks, held: None };
        if !first {
            return Ok(claimed);
        }
        let revokable = ask.revokable && flags & GTF_revokable != 0;
        let mut new = Active { domid: ask.by, revokable, ..Active::default() };
        if flags & GTF_type_mask == GTF_transitive {
            new.via = Some(entry.via());
        } else {
            let hold = Hold::Grant(kind, ask.by, Access::of(ask.readonly));
            new.frame =
                granted_frame(machine, granter, entry.frame(), hold).inspect_err(|_| entry.clear(marks))?;
            claimed.held = Some(hold);
            if let Some((first, length)) = entry.part().filter(|_| flags & GTF_sub_page != 0) {
                new.part = Part { first, length, sub_page: true };
            }
        }
        *act = new;
        Ok(claimed)
    }

    /// Undoes it: the use has not come about.
    pub(super) fn undo(&self, machine: &Machine, act: &mut Active, entry: Option<Entry<'_>>) {
        if let Some(hold) = self.held {
            machine.frames(|t| t.release(act.frame, hold));
        }
        if !act.pins.any() {
            *act = Active { revoking: act.revoking, ..Active::default() };
        }
        if let Some(entry) = entry.filter(|_| self.marks != 0) {
            entry.clear(self.marks);
        }
    }
}

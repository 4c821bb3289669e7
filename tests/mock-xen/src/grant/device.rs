//! Grants mapped for devices: an entry in the mapper's IOMMU table for each mapping.
//!
//! Xen puts them where bus frame and machine frame are one number. Here each mapping has a bus frame of its own, beyond those that
//! a domain may choose: else a revoked one would stand in the way of whatever is mapped of the same frame later. Where nothing
//! translates the address is the machine's, and the frame cannot be taken away from under a device.

use std::collections::BTreeMap;

use xen_ioreq::abi::grant_table::GNTST_no_device_space;
use xen_ioreq::{Bfn, DomId, Mfn};

use crate::domain::Domain;
use crate::iommu::{self, BFN_BITS_MAX, Kind, Translation};
use crate::machine::Machine;
use crate::oracle::ViolationKind;
use crate::sync::{Mutex, Patience};

/// Machine frames that devices reach untranslated by a grant, with the number of mappings.
pub(crate) type Untranslated = Mutex<BTreeMap<Mfn, u32>>;

/// A mapping to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) granter: DomId,
    pub(super) frame: Mfn,
    pub(super) handle: u32,
    pub(super) readonly: bool,
    pub(super) revokable: bool,
}

/// Lets the mapper's devices reach a frame, and says where. -7: no bus frame for it, or not one that could be led elsewhere.
pub(super) fn place(machine: &Machine, mapper: &Domain, wanted: &Wanted) -> Result<Bfn, i16> {
    let same = Bfn(wanted.frame.0);
    let Some(table) = mapper.bus.as_deref() else { return Ok(same) };
    if !mapper.controls_bus {
        if wanted.revokable {
            return Err(GNTST_no_device_space);
        }
        return machine.frames(|_| {
            *mapper.grants.untranslated.lock().entry(wanted.frame).or_default() += 1;
            if let Some(old) = table.lookup(same) {
                table.update(same, &Translation { domain: Some(wanted.granter), ..old });
            }
            Ok(same)
        });
    }
    let bfn = Bfn((1 << machine.config().bfn_bits) + u64::from(wanted.handle));
    if bfn.0 >> BFN_BITS_MAX != 0 {
        return Err(GNTST_no_device_space);
    }
    let entry = Translation {
        mfn: wanted.frame,
        domain: Some(wanted.granter),
        kind: Kind::Grant,
        read: true,
        write: !wanted.readonly,
    };
    let mapped = machine.frames(|_| table.map(bfn, &entry));
    if mapped { Ok(bfn) } else { Err(GNTST_no_device_space) }
}

/// Ends a mapping; a device that still holds a translation is told of. The caller flushes before it lets go of the frame.
pub(super) fn remove(machine: &Machine, mapper: &Domain, bfn: Bfn, frame: Mfn) {
    let Some(table) = mapper.bus.as_deref() else { return };
    machine.frames(|t| {
        if mapper.controls_bus {
            iommu::unmap(t, table, mapper.id, bfn);
            return;
        }
        let mut reached = mapper.grants.untranslated.lock();
        let Some(left) = reached.get_mut(&frame) else { return };
        *left -= 1;
        if *left > 0 {
            return;
        }
        reached.remove(&frame);
        let looked_up = t.m2b(frame).iter().any(|e| e.by == mapper.id);
        if let Some(old) = table.lookup(bfn).filter(|_| !looked_up) {
            table.update(bfn, &Translation { domain: None, ..old });
        }
    });
}

/// Whether the mapper's devices reach a frame untranslated by a grant.
pub(crate) fn reaches(mapper: &Domain, frame: Mfn) -> bool {
    mapper.grants.untranslated.lock().contains_key(&frame)
}

/// Leads a mapping to another frame, in one step for devices. Whoever is in the middle of an access is waited for.
pub(super) fn switch(machine: &Machine, mapper: &Domain, bfn: Bfn, from: Mfn, to: Mfn) {
    let Some(table) = mapper.bus.as_deref().filter(|_| mapper.controls_bus) else { return };
    let patience = Patience::begin();
    loop {
        let force = patience.is_over();
        let done = machine.frames(|t| {
            let Some(old) = table.lookup(bfn).filter(|old| old.mfn == from) else { return true };
            let new = Translation { mfn: to, domain: Some(mapper.id), ..old };
            let Some(pins) = table.repoint(bfn, &new, force) else { return false };
            if pins > 0 {
                t.adopt_pins(from, pins);
                let who = format!("a grant that {} has mapped is revoked", mapper.id);
                t.violation(ViolationKind::RevokedWhilePinned { pins }, who, Some(bfn), from);
            }
            true
        });
        if done {
            return;
        }
        patience.wait();
    }
}

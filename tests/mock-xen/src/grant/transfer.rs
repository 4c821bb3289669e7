//! `transfer`: a frame changes its owner for good. The receiver has put up an entry that accepts one from this domain.

use xen_ioreq::abi::grant_table::{GNTST_bad_domain, GNTST_bad_page, GNTST_general_error, gnttab_transfer};
use xen_ioreq::{DomId, Gfn, Mfn};

use super::Call;
use crate::domain::Domain;
use crate::frames::{Hold, Owner};
use crate::history::Event;
use crate::p2m::P2m;

/// One transfer. -9 (the frame is not the caller's, or somebody else holds it) leaves the frame to the caller; any other failure
/// loses it, as the header warns.
pub(super) fn transfer(call: &Call<'_>, op: &gnttab_transfer) -> Result<(), i16> {
    let (machine, giver) = (call.machine, call.caller);
    let mfn = {
        let mut p2m = giver.p2m.write();
        let (mfn, _) = p2m.ram(Gfn(op.mfn)).ok_or(GNTST_bad_page)?;
        let alone = machine
            .frames(|t| t.owner(mfn) == Some(Owner::Dom(giver.id)) && t.refs(mfn) == 1 && !t.xen_heap(mfn));
        if !alone {
            return Err(GNTST_bad_page);
        }
        p2m.remove(Gfn(op.mfn));
        mfn
    };
    machine.frames(|t| t.note(mfn, Event::BalloonedOut { owner: giver.id, gfn: Gfn(op.mfn) }));
    give(call, op, mfn).inspect_err(|_| {
        machine.frames(|t| t.release(mfn, Hold::Allocation));
    })
}

/// -2 no such domain; -1 it accepts no frame by that reference, or may have no more.
fn give(call: &Call<'_>, op: &gnttab_transfer, mfn: Mfn) -> Result<(), i16> {
    let (machine, giver) = (call.machine, call.caller);
    let receiver = machine.domain(DomId(op.domid)).filter(|d| !d.dying()).ok_or(GNTST_bad_domain)?;
    let table = receiver.grants.table.read();
    if table.dead || op.r#ref >= table.entries() {
        return Err(GNTST_general_error);
    }
    let _alone = table.active(op.r#ref).ok_or(GNTST_general_error)?.lock();
    let entry = table.entry(machine.memory(), op.r#ref).ok_or(GNTST_general_error)?;
    let room = machine.frames(|t| t.account(receiver.id).is_some_and(|a| !a.ending && a.charged < a.max));
    if !room || !entry.commit_transfer(giver.id) {
        return Err(GNTST_general_error);
    }
    if !machine.frames(|t| t.transfer(mfn, giver.id, receiver.id)) {
        entry.retract_transfer();
        return Err(GNTST_general_error);
    }
    // A translated receiver has said where it wants the frame; another is told the frame's own number.
    let gfn = if receiver.hvm { Gfn(entry.frame()) } else { Gfn(mfn.0) };
    put(call, &receiver, gfn, mfn);
    entry.complete_transfer((!receiver.hvm).then_some(mfn.0));
    Ok(())
}

/// Where the frame cannot be put it is the receiver's all the same, out of its reach.
fn put(call: &Call<'_>, receiver: &Domain, gfn: Gfn, mfn: Mfn) {
    if !P2m::addressable(gfn) {
        return;
    }
    let put = receiver.put(gfn, mfn);
    call.machine.frames(|t| {
        if put.is_ok() {
            t.note(mfn, Event::Populated { owner: receiver.id, gfn });
        }
        if let Ok(Some(old)) = put {
            t.note(old, Event::Replaced { owner: receiver.id, gfn });
        }
    });
}

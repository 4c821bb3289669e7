//! `copy`: bytes from a page to a page, each the caller's own or granted, also in part, also by a grant handed on.
//!
//! A grant is pinned while its page is copied, so that it ends only after that; a revocation waits for these pins.

use std::sync::Arc;

use xen_ioreq::abi::grant_table::{
    GNTCOPY_dest_gref, GNTCOPY_source_gref, GNTST_bad_copy_arg, GNTST_bad_domain, GNTST_bad_gntref,
    GNTST_bad_page, GNTST_general_error, GNTST_permission_denied, GTF_transitive, GTF_type_mask, gnttab_copy,
    gnttab_copy_ptr,
};
use xen_ioreq::{DomId, Mfn, PAGE_SIZE};

use super::Call;
use super::entry::{Ask, Entry, Purpose};
use super::map::{Claimed, granted_frame};
use super::pins::Side;
use super::table::Part;
use crate::domain::Domain;
use crate::frames::{Access, GrantUse, Hold};
use crate::machine::Machine;

/// One end of a copy, held until it is done.
pub(super) struct End {
    frame: Mfn,
    part: Part,
    hold: Hold,
    /// Pins, the outermost grant first; none for a page of the caller's own.
    pins: Vec<Pin>,
}

struct Pin {
    granter: Arc<Domain>,
    reference: u32,
    readonly: bool,
}

/// One copy, of no bytes as of any. The source is claimed before the destination, and bounds are looked at after that, as in Xen.
pub(super) fn copy(call: &Call<'_>, op: &gnttab_copy) -> Result<(), i16> {
    let from = domain_of(call, &op.source, op.flags & GNTCOPY_source_gref != 0)?;
    let to = domain_of(call, &op.dest, op.flags & GNTCOPY_dest_gref != 0)?;
    let source = end(call, &from, &op.source, op.flags & GNTCOPY_source_gref != 0, true)?;
    let dest = match end(call, &to, &op.dest, op.flags & GNTCOPY_dest_gref != 0, false) {
        Ok(dest) => dest,
        Err(status) => {
            source.release(call.machine);
            return Err(status);
        }
    };
    let done = copy_between(call.machine, op, &source, &dest);
    source.release(call.machine);
    dest.release(call.machine);
    done
}

/// Whose page it is. -8: only grants of others can be copied. -2: no such domain.
fn domain_of(call: &Call<'_>, ptr: &gnttab_copy_ptr, by_grant: bool) -> Result<Arc<Domain>, i16> {
    match DomId(ptr.domid) {
        DomId::SELF => Ok(call.caller.clone()),
        _ if !by_grant => Err(GNTST_permission_denied),
        id => call.machine.domain(id).filter(|d| !d.dying()).ok_or(GNTST_bad_domain),
    }
}

fn end(
    call: &Call<'_>,
    domain: &Arc<Domain>,
    ptr: &gnttab_copy_ptr,
    by_grant: bool,
    readonly: bool,
) -> Result<End, i16> {
    let by = call.caller.id;
    if by_grant {
        // The low half of the union.
        let [a, b, c, d, ..] = ptr.u.to_le_bytes();
        let reference = u32::from_le_bytes([a, b, c, d]);
        return acquire(call.machine, domain, reference, by, readonly, true);
    }
    let hold = Hold::Grant(GrantUse::Copy, by, Access::of(readonly));
    let frame = granted_frame(call.machine, domain, ptr.u, hold)?;
    Ok(End { frame, part: Part::WHOLE, hold, pins: Vec::new() })
}

/// Pins a grant for `by`. `transitive`: it may be somebody else's that is handed on. -3: no such reference. -1: it does not
/// grant this, or is pinned too often.
fn acquire(
    machine: &Machine,
    granter: &Arc<Domain>,
    reference: u32,
    by: DomId,
    readonly: bool,
    transitive: bool,
) -> Result<End, i16> {
    let kind = GrantUse::Copy;
    let hold = Hold::Grant(kind, by, Access::of(readonly));
    let (frame, part, via) = {
        let table = granter.grants.table.read();
        if table.dead {
            return Err(GNTST_bad_domain);
        }
        if reference >= table.entries() {
            return Err(GNTST_bad_gntref);
        }
        let mut act = table.active(reference).ok_or(GNTST_bad_gntref)?.lock();
        let in_use = act.pins.any();
        if act.refuses(by, act.pins.full(Side::Host, readonly)) {
            return Err(GNTST_general_error);
        }
        let ask = Ask {
            by,
            readonly,
            purpose: Purpose::Copy { transitive },
            revokable: machine.config().revokable_grants(),
            pinned: in_use,
        };
        let entry = table.entry(machine.memory(), reference);
        let by_frame = |e: Entry<'_>| act.via.is_none() && e.whole().flags & GTF_type_mask != GTF_transitive;
        let raises = in_use && !readonly && !act.pins.writing() && entry.is_some_and(by_frame);
        let claimed = Claimed::take(machine, granter, &mut act, entry, &ask, kind)?;
        // Who begins to write looks where the frame is once more, as Xen does, which then writes to the first all the same.
        let still = |e: Entry<'_>| granted_frame(machine, granter, e.frame(), hold);
        match entry.filter(|_| raises).map(still) {
            None => {}
            Some(Ok(mfn)) => {
                machine.frames(|t| t.release(mfn, hold));
            }
            Some(Err(status)) => {
                claimed.undo(machine, &mut act, entry);
                return Err(status);
            }
        }
        if act.via.is_some() && !transitive {
            claimed.undo(machine, &mut act, entry);
            return Err(GNTST_general_error);
        }
        if claimed.held.is_none() && act.via.is_none() {
            let held = machine.frames(|t| t.hold(act.frame, hold));
            if held.is_err() {
                claimed.undo(machine, &mut act, entry);
                // A page table by now, which nobody may write.
                return Err(GNTST_general_error);
            }
        }
        act.begin_copy(readonly);
        (act.frame, act.part, act.via)
    };
    let mine = Pin { granter: granter.clone(), reference, readonly };
    let Some((domid, inner)) = via else { return Ok(End { frame, part, hold, pins: vec![mine] }) };
    match handed_on(machine, granter, domid, inner, readonly) {
        Ok(mut end) => {
            end.pins.insert(0, mine);
            Ok(end)
        }
        Err(status) => {
            mine.release(machine, None);
            Err(status)
        }
    }
}

/// Pins the grant behind one that is handed on, as if by its granter. -1: not allowed, to itself, or of nobody.
fn handed_on(
    machine: &Machine,
    granter: &Domain,
    domid: DomId,
    reference: u32,
    readonly: bool,
) -> Result<End, i16> {
    if !machine.config().transitive_grants || domid == granter.id {
        return Err(GNTST_general_error);
    }
    let first = machine.domain(domid).filter(|d| !d.dying()).ok_or(GNTST_general_error)?;
    acquire(machine, &first, reference, granter.id, readonly, false)
}

impl Pin {
    /// `frame`: what is held of the frame, if this is the pin beside which it is. It goes under the lock of the reference: to
    /// whoever finds a pin there the frame is held.
    fn release(&self, machine: &Machine, frame: Option<(Mfn, Hold)>) {
        let table = self.granter.grants.table.read();
        let Some(act) = table.active(self.reference) else { return };
        let mut act = act.lock();
        if let Some((mfn, hold)) = frame {
            machine.frames(|t| t.release(mfn, hold));
        }
        act.end_copy(table.entry(machine.memory(), self.reference), self.readonly);
    }
}

impl End {
    fn release(self, machine: &Machine) {
        let held = (self.frame, self.hold);
        match self.pins.split_last() {
            Some((root, others)) => {
                root.release(machine, Some(held));
                others.iter().for_each(|pin| pin.release(machine, None));
            }
            None => {
                machine.frames(|t| t.release(held.0, held.1));
            }
        }
    }
}

/// -10: beyond a page. -1: beyond what is granted of it.
fn copy_between(machine: &Machine, op: &gnttab_copy, source: &End, dest: &End) -> Result<(), i16> {
    let len = usize::from(op.len);
    let within = |offset: u16, part: &Part| {
        let (first, end) = (usize::from(part.first), usize::from(part.first) + usize::from(part.length));
        let at = usize::from(offset);
        if at + len > PAGE_SIZE {
            Err(GNTST_bad_copy_arg)
        } else if at < first || at + len > end {
            Err(GNTST_general_error)
        } else {
            Ok(at)
        }
    };
    let from = within(op.source.offset, &source.part)?;
    let to = within(op.dest.offset, &dest.part)?;
    let page = |mfn| machine.memory().page(mfn).ok_or(GNTST_bad_page);
    page(source.frame)?.copy_to(from, page(dest.frame)?, to, len);
    Ok(())
}

//! Where a grant is mapped for the CPU: a guest physical address of a translated domain, a virtual one of a PV domain's. What a
//! translated domain has mapped in a range that its kernel reserved is seen there, too.

use xen_ioreq::{Errno, Gfn, Mfn};

use super::space::{self, Blank, Shown};
use crate::domain::Domain;
use crate::frames::Owner;
use crate::history::Event;
use crate::machine::Machine;
use crate::p2m::{P2m, P2mType};

fn ty(readonly: bool) -> P2mType {
    if readonly { P2mType::GrantRo } else { P2mType::GrantRw }
}

/// Shows a frame at an address. EINVAL: nothing can be mapped there. ENOMEM: the host does not map it. EPERM: another grant
/// is there, and the domain crashes for it, as in Xen. ESRCH: the domain is dying.
pub(super) fn place(machine: &Machine, mapper: &Domain, address: u64, shown: Shown) -> Result<(), Errno> {
    if !mapper.hvm {
        let (space, index) = space::find(mapper, address).ok_or(Errno::EINVAL)?;
        return space.show(index, shown);
    }
    let gfn = Gfn::of_addr(address);
    if !P2m::addressable(gfn) {
        return Err(Errno::EINVAL);
    }
    // A domain knows a frame of its own by one number: the newer.
    if machine.frames(|t| t.owner(shown.frame)) == Some(Owner::Dom(mapper.id)) {
        let mut p2m = mapper.p2m.write();
        if let Some(old) = p2m.find_ram(shown.frame).filter(|old| *old != gfn) {
            p2m.remove(old);
        }
    }
    // A frame that was there stays the domain's, out of its reach.
    if let Some(old) = mapper.put_as(gfn, shown.frame, ty(shown.readonly))? {
        machine.frames(|t| t.note(old, Event::Replaced { owner: mapper.id, gfn }));
    }
    match space::find(mapper, address) {
        Some((space, index)) => space.show(index, shown).inspect_err(|_| {
            mapper.p2m.write().remove(gfn);
        }),
        None => Ok(()),
    }
}

/// Whether what is shown at an address is this; for reading or for writing is nothing that Xen asks of a translated domain.
pub(super) fn shows(mapper: &Domain, address: u64, shown: Shown) -> bool {
    let window = space::find(mapper, address).map(|(space, index)| space.shown(index));
    if !mapper.hvm {
        return window == Some(Some(shown));
    }
    let same = |s: Shown| (s.handle, s.frame) == (shown.handle, shown.frame);
    if !window.is_none_or(|there| there.is_some_and(same)) {
        return false;
    }
    let there = mapper.p2m.read().get(Gfn::of_addr(address));
    there.is_some_and(|(mfn, ty)| mfn == shown.frame && ty.granted())
}

/// What is shown at an address is this mapping's from here on. ENOMEM: the host does not map it.
pub(super) fn hand_over(mapper: &Domain, address: u64, handle: u32) -> Result<(), Errno> {
    let Some((space, index)) = space::find(mapper, address) else { return Ok(()) };
    match space.shown(index) {
        Some(there) => space.show(index, Shown { handle, ..there }),
        None => Ok(()),
    }
}

/// Takes away what is shown at an address.
pub(super) fn remove(mapper: &Domain, address: u64, blank: Blank) {
    if mapper.hvm {
        mapper.p2m.write().remove(Gfn::of_addr(address));
    }
    if let Some((space, index)) = space::find(mapper, address) {
        space.hide(index, blank);
    }
}

/// Shows another frame in the place of this one, in one step for who looks there. ENOMEM: the host does not map it.
pub(super) fn switch(mapper: &Domain, address: u64, from: Shown, to: Mfn) -> Result<(), Errno> {
    if let Some((space, index)) = space::find(mapper, address)
        && let Some(there) = space.shown(index)
        && (there.handle, there.frame) == (from.handle, from.frame)
    {
        space.show(index, Shown { frame: to, ..there })?;
    }
    if mapper.hvm {
        let (gfn, mut p2m) = (Gfn::of_addr(address), mapper.p2m.write());
        // Only what is still mapped there is switched.
        if let Some((_, ty)) = p2m.get(gfn).filter(|(mfn, ty)| *mfn == from.frame && ty.granted()) {
            p2m.set(gfn, to, ty);
        }
    }
    Ok(())
}

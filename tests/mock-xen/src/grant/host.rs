//! Where a grant is mapped for the CPU: a guest physical address of a translated domain, a virtual one of a PV domain's.

use xen_ioreq::{Errno, Gfn, Mfn};

use super::space::{self, Blank, Shown};
use crate::domain::Domain;
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
    // A frame that was there stays the domain's, out of its reach.
    if let Some(old) = mapper.put_as(gfn, shown.frame, ty(shown.readonly))? {
        machine.frames(|t| t.note(old, Event::Replaced { owner: mapper.id, gfn }));
    }
    Ok(())
}

/// Whether what is shown at an address is this.
pub(super) fn shows(mapper: &Domain, address: u64, shown: Shown) -> bool {
    if mapper.hvm {
        mapper.p2m.read().get(Gfn::of_addr(address)) == Some((shown.frame, ty(shown.readonly)))
    } else {
        space::find(mapper, address).and_then(|(space, index)| space.shown(index)) == Some(shown)
    }
}

/// Takes away what is shown at an address.
pub(super) fn remove(mapper: &Domain, address: u64, blank: Blank) {
    if mapper.hvm {
        mapper.p2m.write().remove(Gfn::of_addr(address));
    } else if let Some((space, index)) = space::find(mapper, address) {
        space.hide(index, blank);
    }
}

/// Shows another frame in the place of this one, in one step for who looks there. ENOMEM: the host does not map it.
pub(super) fn switch(mapper: &Domain, address: u64, from: Shown, to: Mfn) -> Result<(), Errno> {
    if !mapper.hvm {
        let Some((space, index)) = space::find(mapper, address) else { return Ok(()) };
        return if space.shown(index) == Some(from) {
            space.show(index, Shown { frame: to, ..from })
        } else {
            Ok(())
        };
    }
    let (gfn, mut p2m) = (Gfn::of_addr(address), mapper.p2m.write());
    // Only what is still mapped there is switched.
    if p2m.get(gfn) == Some((from.frame, ty(from.readonly))) {
        p2m.set(gfn, to, ty(from.readonly));
    }
    Ok(())
}

//! What a mapper does with a grant, once each: what it sees is the granter's while that is granted, or its own.

use xen_ioreq::Errno;
use xen_ioreq::abi::grant_table::{GNTST_bad_domain, GNTST_bad_handle, GNTST_bad_page, GNTST_general_error};

use super::guest::{Dom, End, Mapped, Refused};
use super::seat::{By, Seat};
use super::world::{COPIES, OWN, PUBLIC, REF, SECRET, STAND_IN, WRITTEN, World};

/// What a granter does wrong, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granter {
    /// Nothing.
    Right,
    /// It believes its page to be its own while others still use it.
    Hasty,
}

/// How a mapper maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// For good, to read only or to write as well.
    Plain { readonly: bool },
    /// With a frame that comes in the grant's place.
    Revokable,
}

impl How {
    fn readonly(self) -> bool {
        self == Self::Plain { readonly: true }
    }

    fn stand_in(self) -> Option<u64> {
        (self == Self::Revokable).then_some(STAND_IN)
    }
}

/// Maps, looks, writes and unmaps; whether it was let in.
pub(crate) fn use_once(g: &Dom, m: &Dom, by: By, how: How) -> bool {
    let seat = Seat::new(m, by);
    let map = seat.map(g.id, REF, how.readonly(), how.stand_in());
    let Ok(mapped) = map.inspect_err(refused) else { return false };
    for _ in 0..2 {
        look(&seat, &mapped);
        if !how.readonly() {
            seat.write(&mapped, WRITTEN);
        }
    }
    match seat.unmap(&mapped) {
        Ok(()) | Err(Refused::Call(Errno::ESRCH)) => true,
        Err(e) => panic!("unmap: {e:?}"),
    }
}

/// The same without a look, for who may be dead on the way and then looks at nothing.
pub(crate) fn use_until_death(g: &Dom, m: &Dom, by: By, how: How) {
    let Ok(seat) = Seat::try_new(m, by) else { return };
    let map = seat.map(g.id, REF, how.readonly(), how.stand_in());
    let Ok(mapped) = map.inspect_err(refused) else { return };
    match seat.unmap(&mapped) {
        // Or its end came first.
        Ok(()) | Err(Refused::Call(Errno::ESRCH) | Refused::Status(GNTST_bad_handle)) => {}
        Err(e) => panic!("unmap: {e:?}"),
    }
}

/// The granter has it no more, or is dead; or the caller is.
pub(crate) fn refused(why: &Refused) {
    let statuses = [GNTST_general_error, GNTST_bad_domain, GNTST_bad_page];
    let known = statuses.map(Refused::Status).contains(why) || *why == Refused::Call(Errno::ESRCH);
    assert!(known, "{why:?}");
}

/// The first byte that a mapper sees. `None`: it is dead.
pub(crate) fn look(seat: &Seat<'_>, mapped: &Mapped) -> Option<u8> {
    let byte = seat.read(mapped)?;
    assert_ne!(byte, SECRET, "a mapper sees what is the granter's again");
    assert!(byte == PUBLIC || byte == OWN, "{byte} is nobody's");
    Some(byte)
}

/// Copies out of the page, and into it.
pub(crate) fn copy_once(w: &World, g: &Dom, m: &Dom) {
    let grant = End::Grant(g.id, REF);
    if m.copy(grant, End::Own(COPIES), 1).inspect_err(refused).is_ok() {
        let byte = w.byte(m, COPIES << 12);
        assert_ne!(byte, Some(SECRET), "a copy has what is the granter's again");
    }
    let _refused = m.copy(End::Own(COPIES), grant, 2).inspect_err(refused);
}

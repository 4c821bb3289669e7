//! `cache_flush`: checked as Xen does, and nothing to do: caches are coherent, for devices too.

use xen_ioreq::abi::grant_table::{
    GNTTAB_CACHE_CLEAN, GNTTAB_CACHE_INVAL, GNTTAB_CACHE_SOURCE_GREF, gnttab_cache_flush,
};
use xen_ioreq::{Errno, Mfn, PAGE_SHIFT, PAGE_SIZE};

use super::{Call, each};
use crate::frames::Owner;

/// EINVAL: beyond a page, or no RAM. EOPNOTSUPP: by a reference, or to invalidate alone, which x86 cannot. EPERM: a frame that is
/// neither the caller's nor granted to it. The first that fails ends the call.
pub(super) fn flush_each(call: &Call<'_>, args: &mut [u8], count: u32) -> Result<i64, Errno> {
    let mut done = Ok(());
    each(call, args, count, |op: &mut gnttab_cache_flush| {
        if done.is_ok() {
            done = flush(call, op);
        }
    })?;
    done.map(|()| 0)
}

fn flush(call: &Call<'_>, op: &gnttab_cache_flush) -> Result<(), Errno> {
    if usize::from(op.offset) + usize::from(op.length) > PAGE_SIZE || usize::from(op.offset) >= PAGE_SIZE {
        return Err(Errno::EINVAL);
    }
    if op.length == 0 || op.op == 0 {
        return Ok(());
    }
    let known = GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_INVAL | GNTTAB_CACHE_SOURCE_GREF;
    if op.op & GNTTAB_CACHE_SOURCE_GREF != 0 || op.op & !known != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let mfn = Mfn(op.a >> PAGE_SHIFT);
    let owner = call.machine.frames(|t| t.owner(mfn)).ok_or(Errno::EINVAL)?;
    let mapped = || call.caller.grants.track.lock().live().iter().any(|(_, tracked)| tracked.frame == mfn);
    match owner {
        Owner::Dom(d) if d == call.caller.id || mapped() => {}
        Owner::Dom(_) | Owner::Xen | Owner::Free => return Err(Errno::EPERM),
    }
    if op.op & GNTTAB_CACHE_CLEAN == 0 { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
}

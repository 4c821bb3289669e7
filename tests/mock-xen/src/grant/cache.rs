//! `cache_flush`: checked as Xen does, and nothing to do: caches are coherent, for devices too.

use xen_ioreq::abi::grant_table::{GNTTAB_CACHE_CLEAN, GNTTAB_CACHE_INVAL, gnttab_cache_flush};
use xen_ioreq::{Errno, Mfn, PAGE_SHIFT, PAGE_SIZE};

use super::{Call, each};
use crate::frames::Owner;

/// EINVAL: beyond a page, another operation (also one by a reference, which the header knows and no Xen does), no RAM, or somebody
/// else's frame that the caller has not in use. EPERM: a frame that belongs to no domain. EOPNOTSUPP: to invalidate alone, which
/// x86 cannot. The first that fails ends the call.
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
    if usize::from(op.offset) + usize::from(op.length) > PAGE_SIZE
        || usize::from(op.offset) >= PAGE_SIZE
        || op.op & !(GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_INVAL) != 0
    {
        return Err(Errno::EINVAL);
    }
    if op.length == 0 || op.op == 0 {
        return Ok(());
    }
    let mfn = Mfn(op.a >> PAGE_SHIFT);
    let owner = call.machine.frames(|t| t.owner(mfn)).ok_or(Errno::EINVAL)?;
    let mapped = || call.caller.grants.track.lock().live().iter().any(|(_, tracked)| tracked.frame == mfn);
    match owner {
        Owner::Dom(d) if d == call.caller.id || mapped() => {}
        Owner::Dom(_) => return Err(Errno::EINVAL),
        Owner::Xen | Owner::Free => return Err(Errno::EPERM),
    }
    if op.op & GNTTAB_CACHE_CLEAN == 0 { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
}

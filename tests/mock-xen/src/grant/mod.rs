//! Grant tables: the hypercall, what a domain grants and what it has mapped, and the end of both.
//!
//! Locks, in the order in which they may be taken: a mapper's `life`, a granter's `table`, one reference in it, a mapper's `track`,
//! then address spaces (`spaces` and p2m), then the machine's frame table. Nobody holds two tables or two references.

mod audit;
mod cache;
mod copy;
mod device;
mod entry;
mod host;
mod map;
mod maptrack;
mod pins;
#[cfg(test)]
mod property;
mod revoke;
mod size;
mod space;
mod table;
#[cfg(test)]
mod tests;
mod transfer;
mod unmap;

use std::sync::Arc;

use xen_ioreq::abi::grant_table::*;
use xen_ioreq::abi::revokable::{
    GNTTABOP_map_revokable, GNTTABOP_revoke, gnttab_map_revokable, gnttab_revoke,
};
use xen_ioreq::{Errno, Gfn};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) use self::audit::audit;
pub(crate) use self::device::reaches;
use self::maptrack::Maptrack;
pub(crate) use self::size::{frame_at, own_frames};
use self::space::{Blank, Spaces};
pub(crate) use self::space::{put_anywhere, reserve};
pub(crate) use self::table::Table;
use self::unmap::Gone;
use crate::config::{Config, DomainConfig};
use crate::domain::Domain;
use crate::machine::Machine;
use crate::sync::{Mutex, RwLock};

/// A domain's part in grants.
pub(crate) struct Grants {
    /// Read-locked by its operations; `true` once it maps no more.
    ended: RwLock<bool>,
    /// What it grants.
    pub(crate) table: RwLock<Table>,
    /// Frames that the table may have.
    pub(crate) max_frames: u32,
    /// What it has mapped.
    track: Mutex<Maptrack>,
    /// Where, if it is a PV domain.
    spaces: Spaces,
    /// What of it its devices reach untranslated.
    untranslated: device::Untranslated,
}

impl Grants {
    pub(crate) fn new(machine: &Config, domain: &DomainConfig) -> Self {
        let max_frames = domain.max_grant_frames.unwrap_or(machine.max_grant_frames);
        let handles = domain.max_maptrack_frames.unwrap_or(machine.max_maptrack_frames);
        Self {
            ended: RwLock::new(false),
            table: RwLock::new(Table::new(max_frames)),
            max_frames,
            track: Mutex::new(Maptrack::new(handles)),
            spaces: Spaces::default(),
            untranslated: device::Untranslated::default(),
        }
    }
}

/// Bits of a command that say which; the others are Xen's, for a call that was interrupted.
const CMD_BITS: u32 = 12;

/// A hypercall under way.
struct Call<'m> {
    machine: &'m Machine,
    caller: &'m Arc<Domain>,
}

/// `grant_table_op`: `count` operations in `args`; `list` is what a struct's handle leads to. EINVAL: a negative count, or not
/// one of an operation that comes alone. ENOSYS: no such operation here, or not for a translated caller. EFAULT: `args` ends too early; those before are done.
/// ESRCH: the caller is being destroyed.
pub(crate) fn grant_table_op(
    machine: &Machine,
    caller: &Arc<Domain>,
    cmd: u32,
    args: &mut [u8],
    count: u32,
    list: Option<&mut [u64]>,
) -> Result<i64, Errno> {
    let revokable = machine.config().revokable_grants();
    if caller.hvm && !for_translated(cmd, revokable) {
        return Err(Errno::ENOSYS);
    }
    // Where Xen keeps its progress, nobody else's bits belong.
    let progress = cmd >> CMD_BITS != 0 && cmd & ((1 << CMD_BITS) - 1) != GNTTABOP_cache_flush;
    if i32::try_from(count).is_err() || progress {
        return Err(Errno::EINVAL);
    }
    let ended = caller.grants.ended.read();
    if *ended {
        return Err(Errno::ESRCH);
    }
    let call = &Call { machine, caller };
    match cmd {
        GNTTABOP_map_grant_ref => each(call, args, count, |op: &mut gnttab_map_grant_ref| {
            op.status = status(map::map(call, op, None))
        }),
        GNTTABOP_map_revokable if revokable => each(call, args, count, |op: &mut gnttab_map_revokable| {
            op.map.status = status(map::map(call, &mut op.map, Some(Gfn(op.lgfn))));
        }),
        GNTTABOP_unmap_grant_ref => batched(call, args, count, |op: &mut gnttab_unmap_grant_ref, gone| {
            op.status = status(unmap::unmap(call, op, gone));
        }),
        GNTTABOP_unmap_and_replace => {
            batched(call, args, count, |op: &mut gnttab_unmap_and_replace, gone| {
                op.status = status(unmap::replace(call, op, gone));
            })
        }
        GNTTABOP_copy => {
            each(call, args, count, |op: &mut gnttab_copy| op.status = status(copy::copy(call, op)))
        }
        GNTTABOP_transfer => each(call, args, count, |op: &mut gnttab_transfer| {
            op.status = status(transfer::transfer(call, op))
        }),
        GNTTABOP_swap_grant_ref => {
            each(call, args, count, |op: &mut gnttab_swap_grant_ref| op.status = status(size::swap(call, op)))
        }
        GNTTABOP_setup_table => alone(args, count, |op: &mut gnttab_setup_table| {
            op.status = status(size::setup(call, op, list));
            Ok(())
        }),
        GNTTABOP_get_status_frames => alone(args, count, |op: &mut gnttab_get_status_frames| {
            op.status = status(size::status_frames(call, op, list));
            Ok(())
        }),
        GNTTABOP_query_size => alone(args, count, |op: &mut gnttab_query_size| {
            op.status = status(size::query(call, op));
            Ok(())
        }),
        GNTTABOP_set_version => alone(args, count, |op: &mut gnttab_set_version| size::set_version(call, op)),
        GNTTABOP_get_version => alone(args, count, |op: &mut gnttab_get_version| size::get_version(call, op)),
        GNTTABOP_cache_flush => cache::flush_each(call, args, count),
        GNTTABOP_revoke if revokable => {
            alone(args, count, |op: &mut gnttab_revoke| revoke::revoke(call, op.r#ref))
        }
        // dump_table among them, as in Xen.
        _ => Err(Errno::ENOSYS),
    }
}

/// The operations that Xen lets a translated domain have.
fn for_translated(cmd: u32, revokable: bool) -> bool {
    match cmd {
        GNTTABOP_map_grant_ref
        | GNTTABOP_unmap_grant_ref
        | GNTTABOP_copy
        | GNTTABOP_swap_grant_ref
        | GNTTABOP_setup_table
        | GNTTABOP_query_size
        | GNTTABOP_set_version
        | GNTTABOP_get_version => true,
        GNTTABOP_map_revokable | GNTTABOP_revoke => revokable,
        _ => false,
    }
}

fn status(done: Result<(), i16>) -> i16 {
    done.err().unwrap_or(GNTST_okay)
}

/// The struct at `index`. EFAULT: not all of it is there.
fn slot<T>(args: &mut [u8], index: u32) -> Result<&mut [u8], Errno> {
    let at = usize::try_from(index).ok().and_then(|i| i.checked_mul(size_of::<T>())).ok_or(Errno::EFAULT)?;
    args.get_mut(at..).and_then(|rest| rest.get_mut(..size_of::<T>())).ok_or(Errno::EFAULT)
}

/// Does one struct after another, each read once.
fn each<T: FromBytes + IntoBytes + Immutable>(
    call: &Call<'_>,
    args: &mut [u8],
    count: u32,
    mut one: impl FnMut(&mut T),
) -> Result<i64, Errno> {
    let preempt_after = u32::try_from(call.machine.config().preempt_after.max(1)).unwrap_or(u32::MAX);
    for i in 0..count {
        if i > 0 && i.is_multiple_of(preempt_after) {
            crate::sync::yield_now();
        }
        let slot = slot::<T>(args, i)?;
        let mut op = T::read_from_bytes(slot).map_err(|_| Errno::EFAULT)?;
        one(&mut op);
        op.write_to(slot).map_err(|_| Errno::EFAULT)?;
    }
    Ok(0)
}

/// The same, with a flush after so many and at the end.
fn batched<T: FromBytes + IntoBytes + Immutable>(
    call: &Call<'_>,
    args: &mut [u8],
    count: u32,
    mut one: impl FnMut(&mut T, &mut Gone),
) -> Result<i64, Errno> {
    let (mut gone, mut done) = (Gone::default(), 0usize);
    let all = each(call, args, count, |op| {
        one(op, &mut gone);
        done += 1;
        if done.is_multiple_of(unmap::BATCH) {
            gone.flush(call.machine);
        }
    });
    gone.flush(call.machine);
    all
}

/// Does the one struct of an operation that takes no more.
fn alone<T: FromBytes + IntoBytes + Immutable>(
    args: &mut [u8],
    count: u32,
    one: impl FnOnce(&mut T) -> Result<(), Errno>,
) -> Result<i64, Errno> {
    if count != 1 {
        return Err(Errno::EINVAL);
    }
    let slot = slot::<T>(args, 0)?;
    let mut op = T::read_from_bytes(slot).map_err(|_| Errno::EFAULT)?;
    let done = one(&mut op);
    op.write_to(slot).map_err(|_| Errno::EFAULT)?;
    done.map(|()| 0)
}

/// A domain is being destroyed, and marked as such: nobody gets at its grants any more, and what is revokable of them is
/// revoked; what it has mapped itself is unmapped. What others have mapped otherwise stays until they let go.
pub(crate) fn end(machine: &Machine, domain: &Domain) {
    // Who is in the middle of using the table is waited for.
    let frames_gone = {
        let mut table = domain.grants.table.write();
        table.dead = true;
        (std::mem::take(&mut table.frames), std::mem::take(&mut table.status))
    };
    drop(frames_gone);
    revoke::all_of(machine, domain);
    *domain.grants.ended.write() = true;
    let live = domain.grants.track.lock().live();
    for (handle, _) in live {
        unmap::by_force(machine, domain, handle, Blank::Zeros);
    }
}

//! Operations on the table itself: its frames, their number, the version of its entries, two entries that change places.

use std::sync::Arc;

use xen_ioreq::abi::grant_table::{
    GNTST_bad_domain, GNTST_bad_gntref, GNTST_bad_virt_addr, GNTST_eagain, GNTST_general_error,
    GNTST_permission_denied, GNTTAB_NR_RESERVED_ENTRIES, GTF_transitive, GTF_type_mask,
    gnttab_get_status_frames, gnttab_get_version, gnttab_query_size, gnttab_set_version, gnttab_setup_table,
    gnttab_swap_grant_ref,
};
use xen_ioreq::{DomId, Errno, Gfn, Mfn};

use super::Call;
use super::entry::Whole;
use super::table::Table;
use crate::domain::Domain;
use crate::frames::Hold;
use crate::machine::Machine;

/// The domain that an operation names, which the caller must be or control. -2; -8.
fn subject(call: &Call<'_>, domid: u16) -> Result<Arc<Domain>, i16> {
    let d = match DomId(domid) {
        DomId::SELF => call.caller.clone(),
        id if id == call.caller.id => call.caller.clone(),
        id => call.machine.domain(id).ok_or(GNTST_bad_domain)?,
    };
    if d.id == call.caller.id || call.caller.controls(d.id) { Ok(d) } else { Err(GNTST_permission_denied) }
}

/// Gives a table so many frames of entries, and of status words what belongs to them. ENOMEM, and nothing has changed. EINVAL:
/// more than it may have. ESRCH: its domain is being destroyed.
pub(crate) fn grow(machine: &Machine, domain: &Domain, table: &mut Table, frames: u32) -> Result<(), Errno> {
    if table.dead {
        return Err(Errno::ESRCH);
    }
    if frames > domain.grants.max_frames {
        return Err(Errno::EINVAL);
    }
    let status = if table.version == 2 { Table::status_for(frames.max(table.nr_frames())) } else { 0 };
    let lacking = |have: &[Mfn], want: u32| usize::try_from(want).unwrap_or(0).saturating_sub(have.len());
    let (more, more_status) = (lacking(&table.frames, frames), lacking(&table.status, status));
    let mut fresh = Vec::with_capacity(more + more_status);
    machine.frames(|t| {
        for _ in 0..more + more_status {
            match t.allocate_shared(domain.id) {
                Ok(mfn) => fresh.push(mfn),
                Err(e) => {
                    t.release_all(fresh.iter().map(|mfn| (*mfn, Hold::Allocation)));
                    return Err(e);
                }
            }
        }
        Ok(())
    })?;
    table.status.extend(fresh.split_off(more));
    table.frames.extend(fresh);
    Ok(())
}

/// The numbers by which their domain knows these frames: of a translated one where it put them, all-ones if nowhere.
fn numbers(domain: &Domain, frames: &[Mfn]) -> Vec<u64> {
    let known = |mfn: &Mfn| {
        if domain.hvm { domain.p2m.read().find(*mfn).map_or(u64::MAX, |gfn| gfn.0) } else { mfn.0 }
    };
    frames.iter().map(known).collect()
}

/// -5: the list is too short for them.
fn fill(list: Option<&mut [u64]>, numbers: &[u64]) -> Result<(), i16> {
    let room = list.unwrap_or_default().get_mut(..numbers.len()).ok_or(GNTST_bad_virt_addr)?;
    room.copy_from_slice(numbers);
    Ok(())
}

fn first(frames: &[Mfn], count: u32) -> &[Mfn] {
    frames.get(..usize::try_from(count).unwrap_or(usize::MAX)).unwrap_or(frames)
}

/// `setup_table`. -2, -8 the domain; -1 more frames than it may have, or none left; -5 the list.
pub(super) fn setup(call: &Call<'_>, op: &gnttab_setup_table, list: Option<&mut [u64]>) -> Result<(), i16> {
    let d = subject(call, op.dom)?;
    let mut table = d.grants.table.write();
    let wanted = if op.nr_frames == 0 { 0 } else { op.nr_frames.max(table.nr_frames()) };
    grow(call.machine, &d, &mut table, wanted).map_err(|_| GNTST_general_error)?;
    fill(list, &numbers(&d, first(&table.frames, op.nr_frames)))
}

/// `get_status_frames`. -2, -8 the domain; -1 more than there are, in version 1 any; -5 the list.
pub(super) fn status_frames(
    call: &Call<'_>,
    op: &gnttab_get_status_frames,
    list: Option<&mut [u64]>,
) -> Result<(), i16> {
    let d = subject(call, op.dom)?;
    let table = d.grants.table.read();
    if u64::from(op.nr_frames) > table.status.len() as u64 {
        return Err(GNTST_general_error);
    }
    fill(list, &numbers(&d, first(&table.status, op.nr_frames)))
}

/// `query_size`. -2, -8.
pub(super) fn query(call: &Call<'_>, op: &mut gnttab_query_size) -> Result<(), i16> {
    let d = subject(call, op.dom)?;
    op.nr_frames = d.grants.table.read().nr_frames();
    op.max_nr_frames = d.grants.max_frames;
    Ok(())
}

/// `get_version`. ESRCH, EPERM.
pub(super) fn get_version(call: &Call<'_>, op: &mut gnttab_get_version) -> Result<(), Errno> {
    let d = subject(call, op.dom)
        .map_err(|status| if status == GNTST_bad_domain { Errno::ESRCH } else { Errno::EPERM })?;
    op.version = d.grants.table.read().version;
    Ok(())
}

/// `set_version`, at any time and both ways. EINVAL: no such version. ENOSYS: no version 2 here. EBUSY: an entry that would not
/// be kept is in use, or a status frame is. ERANGE: a reserved entry that version 1 cannot say. The version in use is told
/// either way.
pub(super) fn set_version(call: &Call<'_>, op: &mut gnttab_set_version) -> Result<(), Errno> {
    let mut table = call.caller.grants.table.write();
    let done = match op.version {
        1 | 2 if table.version == op.version => Ok(()),
        2 if !call.machine.config().grant_table_v2 => Err(Errno::ENOSYS),
        1 | 2 => change_version(call, &mut table, op.version),
        _ => Err(Errno::EINVAL),
    };
    op.version = table.version;
    done
}

fn change_version(call: &Call<'_>, table: &mut Table, version: u32) -> Result<(), Errno> {
    if table.dead {
        return Err(Errno::ESRCH);
    }
    let busy = table.known().any(|(r, act)| r >= GNTTAB_NR_RESERVED_ENTRIES && act.lock().pins.any());
    if busy {
        return Err(Errno::EBUSY);
    }
    let memory = call.machine.memory();
    let kept: Vec<_> = (0..GNTTAB_NR_RESERVED_ENTRIES)
        .filter_map(|r| {
            let entry = table.entry(memory, r)?;
            Some((r, entry.whole()))
        })
        .collect();
    if version == 1 {
        let cannot = |(_, e): &(u32, Whole)| {
            e.flags & GTF_type_mask == GTF_transitive || u32::try_from(e.frame).is_err()
        };
        if kept.iter().any(cannot) {
            return Err(Errno::ERANGE);
        }
        give_back_status(call, table)?;
        table.version = 1;
    } else {
        table.version = 2;
        let frames = u32::try_from(table.frames.len()).unwrap_or(0);
        if let Err(e) = grow(call.machine, call.caller, table, frames) {
            table.version = 1;
            return Err(e);
        }
    }
    for mfn in table.frames.iter().chain(&table.status) {
        if let Some(page) = memory.page(*mfn) {
            page.clear();
        }
    }
    for (r, whole) in kept {
        if let Some(entry) = table.entry(memory, r) {
            entry.write(&whole);
        }
    }
    Ok(())
}

/// EBUSY: somebody has one mapped.
fn give_back_status(call: &Call<'_>, table: &mut Table) -> Result<(), Errno> {
    let d = call.caller;
    call.machine.frames(|t| {
        if table.status.iter().any(|mfn| t.refs(*mfn) > 1) { Err(Errno::EBUSY) } else { Ok(()) }
    })?;
    for mfn in std::mem::take(&mut table.status) {
        let gfn = d.p2m.read().find(mfn).filter(|_| d.hvm);
        if let Some(gfn) = gfn {
            d.p2m.write().remove(gfn);
        }
        call.machine.frames(|t| t.release(mfn, Hold::Allocation));
    }
    Ok(())
}

/// `swap_grant_ref`. -3 no such reference; -12 one is in use.
pub(super) fn swap(call: &Call<'_>, op: &gnttab_swap_grant_ref) -> Result<(), i16> {
    let table = call.caller.grants.table.write();
    if op.ref_a.max(op.ref_b) >= table.entries() {
        return Err(GNTST_bad_gntref);
    }
    if op.ref_a == op.ref_b {
        return Ok(());
    }
    let in_use = |r| table.active(r).is_some_and(|act| act.lock().pins.any());
    if in_use(op.ref_a) || in_use(op.ref_b) {
        return Err(GNTST_eagain);
    }
    let memory = call.machine.memory();
    // Without frames both are zeros.
    if let (Some(a), Some(b)) = (table.entry(memory, op.ref_a), table.entry(memory, op.ref_b)) {
        a.swap(&b);
    }
    Ok(())
}

/// The frame of a space of `XENMEM_add_to_physmap`: index of a frame of entries, or of status words. The table grows for it.
/// EINVAL: more than it may have, or no status words in version 1.
pub(crate) fn frame_at(machine: &Machine, domain: &Domain, index: u32, status: bool) -> Result<Mfn, Errno> {
    let mut table = domain.grants.table.write();
    let wanted = if status {
        if table.version != 2 {
            return Err(Errno::EINVAL);
        }
        index.checked_mul(8).and_then(|n| n.checked_add(1)).ok_or(Errno::EINVAL)?
    } else {
        index.checked_add(1).ok_or(Errno::EINVAL)?
    };
    grow(machine, domain, &mut table, wanted)?;
    let all = if status { &table.status } else { &table.frames };
    all.get(usize::try_from(index).map_err(|_| Errno::EINVAL)?).copied().ok_or(Errno::EINVAL)
}

/// The frames of the domain's own table behind these numbers. EINVAL: one is none.
pub(crate) fn own_frames(domain: &Domain, numbers: &[u64]) -> Result<Vec<Mfn>, Errno> {
    let table = domain.grants.table.read();
    let find = |n: &u64| {
        let mfn = if domain.hvm { domain.p2m.read().get(Gfn(*n)).map(|(mfn, _)| mfn) } else { Some(Mfn(*n)) };
        mfn.filter(|mfn| table.frames.contains(mfn) || table.status.contains(mfn)).ok_or(Errno::EINVAL)
    };
    numbers.iter().map(find).collect()
}

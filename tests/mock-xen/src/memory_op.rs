//! `memory_op`: ballooning and the counts of a domain's memory.
//!
//! A frame leaves the guest's address space first; the notices to those who still reach it come after, as in Xen. What
//! keeps the frame alive meanwhile is the reference that their mappings hold.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use xen_ioreq::abi::memory::{
    XENMAPIDX_grant_table_status, XENMAPSPACE_grant_table, XENMAPSPACE_shared_info, XENMEM_add_to_physmap,
    XENMEM_current_reservation, XENMEM_decrease_reservation, XENMEM_maximum_gpfn, XENMEM_maximum_ram_page,
    XENMEM_maximum_reservation, XENMEM_populate_physmap, XENMEM_remove_from_physmap, xen_add_to_physmap,
    xen_memory_domain, xen_memory_reservation, xen_remove_from_physmap,
};
use xen_ioreq::{DomId, Errno, Gfn, IoServerId, Mfn};
use zerocopy::FromBytes;

use crate::config::Profile;
use crate::domain::Domain;
use crate::faults::Site;
use crate::frames::Hold;
use crate::grant;
use crate::history::Event;
use crate::iommu;
use crate::ioreq::request::Request;
use crate::machine::Machine;
use crate::p2m::P2m;
use crate::vcpu::Notice;

/// Largest extent order of an ordinary domain and of dom0 (Xen's `memop-max-order`).
const MAX_ORDER: u32 = 9;
const MAX_ORDER_PRIVILEGED: u32 = 18;
/// Xen keeps its progress in the upper bits of the command, so counts have a limit.
const MAX_EXTENTS: u64 = (u32::MAX >> 6) as u64;

/// What an operation did, and what the calling vCPU has still to do before its guest goes on.
pub(crate) struct Done {
    pub(crate) value: i64,
    pub(crate) notices: Vec<Notice>,
    pub(crate) invalidate_all: bool,
    /// So many extents are done, the others are to be done by another call from there on.
    pub(crate) preempted_at: Option<usize>,
}

/// Performs an operation for `caller`, a reservation from extent `from` on. With `on_vcpu` the caller is a guest's vCPU,
/// which delivers what is in [`Done`] itself; otherwise that is queued for the target's vCPUs here.
pub(crate) fn memory_op(
    machine: &Machine,
    caller: &Arc<Domain>,
    on_vcpu: bool,
    cmd: u32,
    arg: &mut [u8],
    list: &mut [u64],
    from: usize,
) -> Result<Done, Errno> {
    let mut work = Work { machine, notices: Vec::new(), changed: false, preempted_at: None };
    let mut target = None;
    let value = match cmd {
        XENMEM_decrease_reservation | XENMEM_populate_physmap => {
            // A reservation that cannot be read or is not allowed has simply nothing done.
            let d = reservation(machine, caller, arg);
            let done = d.as_ref().map_or(0, |(d, r)| work.extents(caller, d, r, cmd, list, from));
            target = d.map(|(d, _)| d);
            i64::try_from(done).map_err(|_| Errno::EINVAL)?
        }
        XENMEM_remove_from_physmap => {
            let (r, _) = xen_remove_from_physmap::read_from_prefix(arg).map_err(|_| Errno::EFAULT)?;
            let d = resolve(machine, caller, DomId(r.domid)).ok_or(Errno::ESRCH)?;
            allowed(caller, &d)?;
            // The frame stays allocated: it is still the domain's, only out of its reach.
            let mfn = {
                let mut p2m = d.p2m.write();
                if p2m.get(Gfn(r.gpfn)).is_some_and(|(_, t)| t.granted()) {
                    return Err(Errno::EPERM);
                }
                p2m.remove(Gfn(r.gpfn)).ok_or(Errno::ENOENT)?
            };
            work.removed(&d, mfn);
            target = Some(d);
            0
        }
        XENMEM_add_to_physmap => {
            let (r, _) = xen_add_to_physmap::read_from_prefix(arg).map_err(|_| Errno::EFAULT)?;
            let d = resolve(machine, caller, DomId(r.domid)).ok_or(Errno::ESRCH)?;
            allowed(caller, &d)?;
            work.add_shared(&d, &r)?;
            target = Some(d);
            0
        }
        XENMEM_maximum_ram_page => {
            i64::try_from(machine.config().frames).map_or(Err(Errno::ERANGE), |n| Ok(n - 1))?
        }
        XENMEM_current_reservation | XENMEM_maximum_reservation | XENMEM_maximum_gpfn => {
            let (r, _) = xen_memory_domain::read_from_prefix(arg).map_err(|_| Errno::EFAULT)?;
            let d = resolve(machine, caller, DomId(r.domid)).ok_or(Errno::ESRCH)?;
            allowed(caller, &d)?;
            let account = machine.frames(|t| t.account(d.id)).ok_or(Errno::ESRCH)?;
            let value = match cmd {
                XENMEM_current_reservation => account.charged,
                XENMEM_maximum_reservation => account.max,
                _ => d.p2m.read().max_gfn().map_or(0, |g| g.0),
            };
            i64::try_from(value).map_err(|_| Errno::ERANGE)?
        }
        _ => return Err(Errno::ENOSYS),
    };
    Ok(work.finish(caller, on_vcpu, target, value))
}

/// Moves `count` frames of `d` from `from` on to `to` on, one after another, as the `dm_op` of that name: what was at the new
/// place is given back first. EINVAL at the first hole; those before it have moved.
pub(crate) fn relocate(
    machine: &Machine,
    caller: &Domain,
    d: &Arc<Domain>,
    [from, to]: [Gfn; 2],
    count: u64,
) -> Result<(), Errno> {
    let mut work = Work { machine, notices: Vec::new(), changed: false, preempted_at: None };
    let moved = (0..count).try_for_each(|i| {
        let from = from.checked_add(i).ok_or(Errno::EINVAL)?;
        let to = to.checked_add(i).filter(|to| P2m::addressable(*to)).ok_or(Errno::EINVAL)?;
        work.relocate_one(d, from, to)
    });
    // It is no vCPU of the guest that asks.
    work.finish(caller, false, Some(d.clone()), 0);
    moved
}

fn resolve(machine: &Machine, caller: &Arc<Domain>, id: DomId) -> Option<Arc<Domain>> {
    if id == DomId::SELF || id == caller.id { Some(caller.clone()) } else { machine.domain(id) }
}

fn allowed(caller: &Domain, d: &Domain) -> Result<(), Errno> {
    if d.id == caller.id || caller.controls(d.id) { Ok(()) } else { Err(Errno::EPERM) }
}

fn reservation(
    machine: &Machine,
    caller: &Arc<Domain>,
    arg: &[u8],
) -> Option<(Arc<Domain>, xen_memory_reservation)> {
    let (r, _) = xen_memory_reservation::read_from_prefix(arg).ok()?;
    let limit = if caller.privileged { MAX_ORDER_PRIVILEGED } else { MAX_ORDER };
    let d = resolve(machine, caller, DomId(r.domid))?;
    allowed(caller, &d).ok()?;
    (r.nr_extents <= MAX_EXTENTS && r.extent_order <= limit).then_some((d, r))
}

struct Work<'m> {
    machine: &'m Machine,
    notices: Vec<Notice>,
    changed: bool,
    preempted_at: Option<usize>,
}

impl Work<'_> {
    /// Has who must know told.
    fn finish(self, caller: &Domain, on_vcpu: bool, target: Option<Arc<Domain>>, value: i64) -> Done {
        let Work { machine, notices, changed, preempted_at } = self;
        // Released Xen knows only that something has changed, draft B names the frame.
        let names = machine.config().profile == Profile::Draft;
        let invalidate_all = changed && (!names || machine.config().wildcard);
        let own = target.as_ref().is_some_and(|d| d.id == caller.id);
        if on_vcpu && own {
            return Done { value, notices, invalidate_all, preempted_at };
        }
        if let Some(d) = target {
            // A guest that has never run knows nothing that could have become wrong, and Xen keeps nothing for it.
            if invalidate_all && d.has_run() {
                d.vcpus.iter().for_each(|v| v.request_invalidate_all());
            }
            if let Some(v) = d.vcpus.first() {
                notices.into_iter().for_each(|n| v.queue_notice(n));
            }
        }
        Done { value, notices: Vec::new(), invalidate_all: false, preempted_at }
    }

    fn relocate_one(&mut self, d: &Domain, from: Gfn, to: Gfn) -> Result<(), Errno> {
        if from == to {
            return d.p2m.read().get(from).map(drop).ok_or(Errno::EINVAL);
        }
        let mfn = self.take_out(d, from).ok_or(Errno::EINVAL)?;
        self.decrease(d, to, 1);
        self.changed = true;
        if let Err(errno) = d.put(to, mfn) {
            // The domain is being destroyed: the frame goes with it.
            self.machine.frames(|t| t.release(mfn, Hold::Allocation));
            return Err(errno);
        }
        self.machine.frames(|t| t.note(mfn, Event::Populated { owner: d.id, gfn: to }));
        Ok(())
    }

    /// Extents done, up to the first that fails or to a preemption.
    fn extents(
        &mut self,
        caller: &Domain,
        d: &Arc<Domain>,
        r: &xen_memory_reservation,
        cmd: u32,
        list: &mut [u64],
        from: usize,
    ) -> usize {
        let wanted = usize::try_from(r.nr_extents).unwrap_or(usize::MAX);
        let until = from.saturating_add(self.machine.config().preempt_after.max(1));
        for (done, gfn) in list.iter().take(wanted).enumerate().skip(from) {
            if done == until {
                self.preempted_at = Some(done);
                return done;
            }
            let ok = match cmd {
                XENMEM_decrease_reservation => self.decrease(d, Gfn(*gfn), 1 << r.extent_order),
                _ => self.populate(d, Gfn(*gfn), r.extent_order),
            };
            if !ok {
                log::debug!(
                    "{}: memory_op {cmd} of {}: extent {done} at gfn {gfn:#x} fails",
                    caller.id,
                    d.id
                );
                return done;
            }
        }
        wanted.min(list.len())
    }

    fn decrease(&mut self, d: &Domain, first: Gfn, frames: u64) -> bool {
        for i in 0..frames {
            let Some(gfn) = first.checked_add(i) else { return false };
            let Some(mfn) = self.take_out(d, gfn) else { return false };
            self.machine.frames(|t| t.note(mfn, Event::BalloonedOut { owner: d.id, gfn }));
            self.removed(d, mfn);
            self.machine.frames(|t| t.release(mfn, Hold::Allocation));
        }
        true
    }

    /// Removes a frame that is the domain's to give away.
    fn take_out(&self, d: &Domain, gfn: Gfn) -> Option<Mfn> {
        let mut p2m = d.p2m.write();
        // A granted frame is another domain's, and goes by unmapping the grant.
        let (mfn, _) = p2m.get(gfn).filter(|(_, t)| !t.granted())?;
        if self.machine.frames(|t| t.xen_heap(mfn)) { None } else { p2m.remove(gfn) }
    }

    /// Puts a frame that Xen shares with the domain at `gpfn`, from where it was; what is there is given back first. ENOSYS:
    /// another space. EINVAL: no such frame, or frame number. ENOMEM.
    fn add_shared(&mut self, d: &Arc<Domain>, r: &xen_add_to_physmap) -> Result<(), Errno> {
        let gfn = Gfn(r.gpfn);
        let mfn = match r.space {
            _ if !P2m::addressable(gfn) => return Err(Errno::EINVAL),
            XENMAPSPACE_shared_info if r.idx == 0 => {
                let mut shared = d.shared_info.lock();
                match *shared {
                    Some(mfn) => mfn,
                    None => *shared.insert(self.machine.frames(|t| t.allocate_shared(d.id))?),
                }
            }
            XENMAPSPACE_shared_info => return Err(Errno::EINVAL),
            XENMAPSPACE_grant_table => {
                let index = u32::try_from(r.idx).map_err(|_| Errno::EINVAL)?;
                let status = index & XENMAPIDX_grant_table_status != 0;
                grant::frame_at(self.machine, d, index & !XENMAPIDX_grant_table_status, status)?
            }
            _ => return Err(Errno::ENOSYS),
        };
        self.decrease(d, gfn, 1);
        let old = d.p2m.read().find(mfn);
        if let Some(old) = old {
            d.p2m.write().remove(old);
            self.changed = true;
        }
        d.put(gfn, mfn)?;
        self.machine.frames(|t| t.note(mfn, Event::Populated { owner: d.id, gfn }));
        Ok(())
    }

    fn populate(&mut self, d: &Domain, first: Gfn, order: u32) -> bool {
        let frames = 1u64 << order;
        let Some(last) = first.checked_add(frames - 1) else { return false };
        if !P2m::addressable(last) {
            return false;
        }
        let Ok(fresh) = self.machine.frames(|t| t.allocate_run(d.id, order)) else { return false };
        let mut all = true;
        for (i, mfn) in (0..frames).zip(fresh) {
            // A frame that was there stays the domain's, out of its reach, and nobody is told.
            let gfn = Gfn(first.0 + i);
            let put = d.put(gfn, mfn);
            self.machine.frames(|t| match put {
                Ok(old) => {
                    t.note(mfn, Event::Populated { owner: d.id, gfn });
                    if let Some(old) = old {
                        t.note(old, Event::Replaced { owner: d.id, gfn });
                    }
                }
                Err(_) => {
                    t.release(mfn, Hold::Allocation);
                    all = false;
                }
            });
        }
        all
    }

    /// A frame has left the address space of `d`: tells each server that reaches it by a BFN, once for each BFN.
    fn removed(&mut self, d: &Domain, mfn: Mfn) {
        self.changed = true;
        let entries = self.machine.frames(|t| t.m2b(mfn).to_vec());
        // Its mappers hear of it all the same; they have nothing to do.
        iommu::swap_out(self.machine, d.id, mfn);
        for e in entries {
            let server = d.servers.read().get(IoServerId(e.ioserver)).cloned();
            // The number may have come to another emulator's.
            let Some(server) = server.filter(|s| s.emulator == e.by) else { continue };
            let owner = d.id;
            self.machine.frames(|t| t.note(mfn, Event::Notified { owner, bfn: e.bfn, ioserver: e.ioserver }));
            self.machine.counters.notices.fetch_add(1, Ordering::Relaxed);
            let in_the_way = self.machine.faults.check(&[Site::Notice]).is_err();
            if in_the_way || server.send_buffered(self.machine, d, &Request::invalidate_bfn(e.bfn.0)).is_err()
            {
                self.machine.counters.sync_notices.fetch_add(1, Ordering::Relaxed);
                self.notices.push(Notice { server: Arc::downgrade(&server), bfn: e.bfn.0 });
            }
        }
    }
}

#[cfg(test)]
mod tests;

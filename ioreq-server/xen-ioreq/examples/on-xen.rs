//! Tries every descriptor of `xen_ioreq::linux` on the Xen it runs on: `on-xen DOMID`, in dom0, as root.
//!
//! DOMID is a guest with memory at frames 0x10 to 0x12, room for one more frame, and nobody who minds. One line a
//! fact, then `N passed, N failed`; exit status 1 if any failed.

mod judge;

use std::os::fd::AsFd;
use std::process::ExitCode;

use judge::Judge;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xen_ioreq::abi::dm_op::*;
use xen_ioreq::abi::grant_table::{GNTTABOP_query_size, gnttab_query_size};
use xen_ioreq::abi::iommu_op::{IOMMUOP_query_caps, pv_iommu_op};
use xen_ioreq::abi::ioreq::{BUF_SLOTS_OFFSET, HVM_IOREQSRV_BUFIOREQ_ATOMIC, ioreq};
use xen_ioreq::abi::memory::*;
use xen_ioreq::linux::{Evtchn, Privcmd};
use xen_ioreq::seam::*;
use xen_ioreq::{DomId, Errno, Gfn, PAGE_SIZE, Port};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A domain number that no domain has.
const NOBODY: DomId = DomId(0x6000);
/// A frame number far above any guest's memory.
const HOLE: Gfn = Gfn(1 << 30);

fn main() -> ExitCode {
    let Some(domid) = std::env::args().nth(1).and_then(|a| a.parse().ok()).map(DomId) else {
        eprintln!("usage: on-xen DOMID");
        return ExitCode::FAILURE;
    };
    let (privcmd, evtchn) = match (Privcmd::open(), Evtchn::open()) {
        (Ok(p), Ok(e)) => (p, e),
        (Err(e), _) | (_, Err(e)) => {
            eprintln!("on-xen: {e}");
            return ExitCode::FAILURE;
        }
    };
    let mut judge = Judge::default();
    let outcome = host(&mut judge, &privcmd, domid)
        .and_then(|()| foreign(&mut judge, &privcmd, domid))
        .and_then(|()| balloon(&mut judge, &privcmd, domid))
        .and_then(|()| ports(&mut judge, &evtchn))
        .and_then(|()| server(&mut judge, &privcmd, &evtchn, domid))
        .and_then(|()| eventfds(&mut judge, &privcmd, domid))
        .and_then(|()| restricted(&mut judge, privcmd, evtchn, domid));
    judge.is("all steps were made", outcome, Ok(()));
    judge.verdict()
}

fn host(j: &mut Judge, p: &Privcmd, domid: DomId) -> Result<(), Errno> {
    let info = p.physinfo()?;
    j.that(
        "physinfo: some frames are free, not more than there are",
        (1..=info.total_pages).contains(&info.free_pages),
    );
    let same = (0..5000).filter(|_| p.physinfo().is_ok_and(|i| i.total_pages == info.total_pages)).count();
    j.is("physinfo 5000 times: none fails", same, 5000);
    let domains: Vec<u16> = p.domains(DomId(0), 16)?.iter().map(|d| d.domain).collect();
    j.that("the list of domains has dom0 and the guest", domains.contains(&0) && domains.contains(&domid.0));
    j.is("a list cut at 1 has 1", p.domains(DomId(0), 1)?.len(), 1);
    let mut q = gnttab_query_size { dom: DomId::SELF.0, ..Default::default() };
    let rc = p.grant_table_op(GNTTABOP_query_size, q.as_mut_bytes(), 1);
    j.is("grant_table_op query_size", (rc, q.status), (Ok(0), 0));
    j.that("it has frames, not more than it may have", (1..=q.max_nr_frames).contains(&q.nr_frames));
    let mut op = pv_iommu_op::new(IOMMUOP_query_caps, 0);
    j.is("iommu_op on stock Xen", p.iommu_op(std::slice::from_mut(&mut op)), Err(Errno::ENOSYS));
    let mut d = xen_memory_domain { domid: domid.0 };
    j.that(
        "maximum_gpfn",
        p.memory_op(XENMEM_maximum_gpfn, d.as_mut_bytes(), &mut []).is_ok_and(|n| n >= 0x12),
    );
    d.domid = NOBODY.0;
    let rc = p.memory_op(XENMEM_maximum_gpfn, d.as_mut_bytes(), &mut []);
    j.is("maximum_gpfn of nobody", rc, Err(Errno::ESRCH));
    Ok(())
}

/// Linux 6.6 has irqfds and 6.7 ioeventfds, if they were built in; what an older one lacks must be said, not tried.
fn eventfds(j: &mut Judge, p: &Privcmd, domid: DomId) -> Result<(), Errno> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim_end();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let sorted = |answer: &Result<(), EventFdError>, since| match answer {
        Ok(()) => version >= since,
        Err(EventFdError::Unsupported(_)) => true,
        Err(EventFdError::Refused(_)) => false,
    };
    let (irqfd, ioeventfd) = (p.has_irqfd(), p.has_ioeventfd());
    j.that(&format!("Linux {release} says of irqfds: {irqfd:?}"), sorted(&irqfd, (6, 6)));
    j.that(&format!("Linux {release} says of ioeventfds: {ioeventfd:?}"), sorted(&ioeventfd, (6, 7)));
    let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
    // An operation that changes nothing: it asks for the number of vCPUs.
    let mut op = [XEN_DMOP_nr_vcpus, 0, 0, 0];
    let tied = p.assign_irqfd(domid, op.as_mut_bytes(), fd.as_fd());
    j.is("an irqfd is assigned if they are supported", tied, irqfd);
    let back = p.deassign_irqfd(domid, fd.as_fd());
    j.is("and taken back", back, irqfd);
    Ok(())
}

#[expect(unsafe_code, reason = "access to mapped pages")]
fn foreign(j: &mut Judge, p: &Privcmd, domid: DomId) -> Result<(), Errno> {
    let gfns = [Gfn(0x10), HOLE, Gfn(0x11)];
    let written = p.map_foreign(domid, &gfns, Prot::ReadWrite)?;
    j.is("map_foreign with a hole: pages", written.mapping.pages(), 3);
    j.is("its first page", written.error(0), None);
    j.is("its hole", written.error(1), Some(Errno::EINVAL));
    j.is("its last page", written.error(2), None);
    let read = p.map_foreign(domid, &[Gfn(0x11), Gfn(0x10)], Prot::Read)?;
    for (w, r) in [(0, 1), (2, 0)] {
        let (w, r) =
            (written.mapping.page(w).ok_or(Errno::EFAULT)?, read.mapping.page(r).ok_or(Errno::EFAULT)?);
        let at_end = PAGE_SIZE - 8;
        let mark = 0x5eed_0000 + w.as_ptr().addr() as u64;
        // SAFETY: mapped pages of the guest, the first for writing; both addresses lie within their page.
        let seen = unsafe {
            w.as_ptr().wrapping_add(at_end).cast::<u64>().write_volatile(mark);
            r.as_ptr().wrapping_add(at_end).cast::<u64>().read_volatile()
        };
        j.that("what is written through one mapping is read through another", seen == mark);
    }
    j.is("map_foreign of nobody", p.map_foreign(NOBODY, &gfns, Prot::Read).err(), Some(Errno::ESRCH));
    j.is("map_foreign of nothing", p.map_foreign(domid, &[], Prot::Read).err(), Some(Errno::EINVAL));
    let maps = || std::fs::read_to_string("/proc/self/maps").map(|m| m.lines().count()).unwrap_or(0);
    let before = maps();
    for _ in 0..100 {
        let _ = p.map_foreign(NOBODY, &gfns, Prot::Read);
        let _ = p.map_resource(domid, XENMEM_resource_ioreq_server, 7, 0, 2);
    }
    j.is("failed calls leave no mapping behind", maps(), before);
    Ok(())
}

fn reserve(p: &Privcmd, cmd: u32, domid: DomId, gfn: Gfn) -> Result<i64, Errno> {
    let mut list = [gfn.0];
    let mut r = xen_memory_reservation { nr_extents: 1, domid: domid.0, ..Default::default() };
    p.memory_op(cmd, r.as_mut_bytes(), &mut list)
}

fn balloon(j: &mut Judge, p: &Privcmd, domid: DomId) -> Result<(), Errno> {
    let gfn = Gfn(0x12);
    let free = || p.physinfo().map(|i| i.free_pages);
    // In the middle of a mapping, so that letting go of it splits one.
    let pages = p.map_foreign(domid, &[Gfn(0x10), gfn, Gfn(0x11)], Prot::ReadWrite)?.into_pages();
    let [first, held, last] = <[_; 3]>::try_from(pages).map_err(|_| Errno::EIO)?;
    let start = free()?;
    j.is("decrease_reservation of a held frame", reserve(p, XENMEM_decrease_reservation, domid, gfn), Ok(1));
    j.is("the frame is not free while it is held", free()?, start);
    j.is(
        "the frame is gone from the guest",
        p.map_foreign(domid, &[gfn], Prot::Read)?.error(0),
        Some(Errno::EINVAL),
    );
    drop(held?);
    j.is("it is free once the one page is dropped", free()?, start + 1);
    j.is("populate_physmap", reserve(p, XENMEM_populate_physmap, domid, gfn), Ok(1));
    j.is("which takes a frame", free()?, start);
    j.is("decrease_reservation of a hole", reserve(p, XENMEM_decrease_reservation, domid, HOLE), Ok(0));
    j.is(
        "decrease of nobody's: no extent done, no error",
        reserve(p, XENMEM_decrease_reservation, NOBODY, gfn),
        Ok(0),
    );
    j.that("the pages beside it are still mapped", first.is_ok() && last.is_ok());
    Ok(())
}

fn readable(e: &Evtchn) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(e.pollable(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).is_ok_and(|n| n == 1)
}

fn ports(j: &mut Judge, e: &Evtchn) -> Result<(), Errno> {
    let mut out = [Port(0); 4];
    j.is("no port is pending at first", e.pending(&mut out), Ok(0));
    let a = e.bind_unbound(DomId::SELF)?;
    let b = e.bind_interdomain(DomId::SELF, a)?;
    // Binding sets the new port pending once.
    while e.pending(&mut out)? > 0 {
        e.unmask(&[a, b])?;
    }
    e.notify(b)?;
    j.that("an event makes the descriptor readable", readable(e));
    j.is("and its port pending", (e.pending(&mut out), out[0]), (Ok(1), a));
    e.notify(b)?;
    j.is("a port stays quiet until it is unmasked", e.pending(&mut out), Ok(0));
    e.unmask(&[a])?;
    j.is("and is pending then", (readable(e), e.pending(&mut out), out[0]), (true, Ok(1), a));
    e.reset_ring()?;
    e.unbind(b)?;
    e.unbind(a)?;
    j.that("a closed port cannot be notified", e.notify(a).is_err());
    j.that("nor nobody's port be bound", e.bind_interdomain(NOBODY, Port(1)).is_err());
    Ok(())
}

fn call<T>(p: &impl DmOp, domid: DomId, op: u32, arg: &mut T) -> Result<(), Errno>
where
    T: IntoBytes + FromBytes + Immutable,
{
    let mut whole = xen_dm_op { op, ..Default::default() };
    arg.write_to_prefix(whole.u.as_mut_bytes()).map_err(|_| Errno::EINVAL)?;
    p.dm_op(domid, &mut [whole.as_mut_bytes()])?;
    *arg = T::read_from_prefix(whole.u.as_bytes()).map_err(|_| Errno::EINVAL)?.0;
    Ok(())
}

#[expect(unsafe_code, reason = "access to mapped pages")]
fn server(j: &mut Judge, p: &Privcmd, e: &Evtchn, domid: DomId) -> Result<(), Errno> {
    let mut create =
        xen_dm_op_create_ioreq_server { handle_bufioreq: HVM_IOREQSRV_BUFIOREQ_ATOMIC, ..Default::default() };
    call(p, domid, XEN_DMOP_create_ioreq_server, &mut create)?;
    let id = create.id;
    let kind = XENMEM_resource_ioreq_server;
    j.is("size of a server's resource", p.resource_size(domid, kind, u32::from(id)), Ok(2));
    let pages = p.map_resource(domid, kind, u32::from(id), 0, 2)?;
    let mut state = xen_dm_op_set_ioreq_server_state { id, enabled: 1, pad: 0 };
    call(p, domid, XEN_DMOP_set_ioreq_server_state, &mut state)?;
    let (ring, slots) = (pages.page(0).ok_or(Errno::EFAULT)?, pages.page(1).ok_or(Errno::EFAULT)?);
    // SAFETY: mapped pages; the reads lie within them and are aligned.
    let (pointers, slot) = unsafe {
        (
            ring.as_ptr().cast::<[u32; BUF_SLOTS_OFFSET / 4]>().read_volatile(),
            slots.as_ptr().cast::<ioreq>().read_volatile(),
        )
    };
    j.is("the buffered ring is empty", pointers, [0, 0]);
    j.that("the first slot has a port", slot.vp_eport != 0);
    let port = e.bind_interdomain(domid, Port(slot.vp_eport))?;
    j.is("which can be bound and notified", e.notify(port), Ok(()));
    e.unbind(port)?;
    let missing = p.map_resource(domid, kind, 7, 0, 2);
    j.is("resource of a missing server", missing.err(), Some(Errno::ENOENT));
    j.is("resource of nobody", p.map_resource(NOBODY, kind, 0, 0, 2).err(), Some(Errno::ESRCH));
    let beyond = p.map_resource(domid, kind, u32::from(id), 2, 1);
    j.is("a frame that it has not", beyond.err(), Some(Errno::EINVAL));
    let mut destroy = xen_dm_op_destroy_ioreq_server { id, pad: 0 };
    j.is("destroy", call(p, domid, XEN_DMOP_destroy_ioreq_server, &mut destroy), Ok(()));
    let mut vcpus = xen_dm_op_nr_vcpus::default();
    j.is("nr_vcpus", call(p, domid, XEN_DMOP_nr_vcpus, &mut vcpus), Ok(()));
    j.that("there is one or more", vcpus.vcpus > 0);
    j.is("unknown operation", call(p, domid, 99, &mut vcpus), Err(Errno::EOPNOTSUPP));
    j.is("operation on nobody", call(p, NOBODY, XEN_DMOP_nr_vcpus, &mut vcpus), Err(Errno::ESRCH));
    j.is(
        "17 buffers",
        p.dm_op(domid, &mut std::array::from_fn::<_, 17, _>(|_| &mut [][..])),
        Err(Errno::E2BIG),
    );
    Ok(())
}

fn restricted(j: &mut Judge, p: Privcmd, e: Evtchn, domid: DomId) -> Result<(), Errno> {
    let held = p.map_foreign(domid, &[Gfn(0x10)], Prot::Read)?;
    let p = p.restrict(domid).map_err(|(_, e)| e)?;
    let mut vcpus = xen_dm_op_nr_vcpus::default();
    j.is("restricted: dm_op on the guest", call(&p, domid, XEN_DMOP_nr_vcpus, &mut vcpus), Ok(()));
    j.is("restricted: on dom0", call(&p, DomId(0), XEN_DMOP_nr_vcpus, &mut vcpus), Err(Errno::EPERM));
    j.is(
        "restricted: map_foreign of the guest",
        p.map_foreign(domid, &[Gfn(0x10)], Prot::Read)?.error(0),
        None,
    );
    j.is("restricted: of dom0", p.map_foreign(DomId(0), &[Gfn(0x10)], Prot::Read).err(), Some(Errno::EPERM));
    drop(held);
    let e = e.restrict(domid).map_err(|(_, e)| e)?;
    j.is("restricted: a port of another domain", e.bind_unbound(DomId(0)).err(), Some(Errno::EACCES));
    j.is("restricted again: another domain", e.restrict(DomId(0)).err().map(|(_, e)| e), Some(Errno::EACCES));
    Ok(())
}

//! Rows of a server's shared pages, of event channels, of a restricted handle, and of the guest's frames.

use xen_ioreq::abi::dm_op::{XEN_DMOP_no_gfns, XEN_DMOP_nr_vcpus, xen_dm_op};
use xen_ioreq::abi::ioreq::HVM_IOREQSRV_BUFIOREQ_OFF as OFF;
use xen_ioreq::abi::memory::*;
use xen_ioreq::seam::Prot;
use xen_ioreq::{DomId, Errno, Gfn, Port};
use zerocopy::IntoBytes;

use super::stage::Stage;
use crate::bench::{HOLE, NOBODY, RAM, Restricted};
use crate::case::{Answer, Case, cases};

/// A port number that no domain here has.
const NO_PORT: Port = Port(900);

/// Shared pages.
#[rustfmt::skip]
pub(super) const RESOURCES: &[Case<Stage>] = cases! { Stage;
    "size_of_a_servers_pages" ["memory.c: the ring and one page of slots"] => Ok(2), |s| { let id = s.server()?; s.size(s.guest(), id) };
    "size_without_a_ring_is_the_same" ["memory.c"] => Ok(2), |s| { let id = s.server_with(OFF)?; s.size(s.guest(), id) };
    "size_of_an_unknown_servers_pages_is_the_same" ["memory.c: the server is not looked at"] => Ok(2), |s| s.size(s.guest(), 5);
    "size_of_nobodys_is_esrch" ["memory.c"] => Err(Errno::ESRCH), |s| s.size(NOBODY, 0);
    "size_of_ones_own_is_eperm" ["memory.c"] => Err(Errno::EPERM), |s| s.size(DomId(0), 0);
    "size_of_domid_selfs_is_esrch" ["seen: MMAP_RESOURCE with DOMID_SELF"] => Err(Errno::ESRCH), |s| s.size(DomId::SELF, 0);
    "size_of_an_unknown_resource_is_an_error_taken_for_a_size" ["seen: -EOPNOTSUPP as a number"] => Ok(0xffff_ffa1), |s| s.bench.hypervisor.resource_size(s.guest(), 99, 0).map(u64::from);
    "map_of_an_unknown_resource_is_eopnotsupp" ["memory.c"] => Err(Errno::EOPNOTSUPP), |s| s.bench.hypervisor.map_resource(s.guest(), 99, 0, 0, 1).map(|_| 0);
    "map_ring_and_slots" ["memory.c"] => Ok(2), |s| { let id = s.server()?; s.pages(s.guest(), id, 0, 2).map(|m| m.pages() as u64) };
    "map_the_ring" ["memory.c"] => Ok(1), |s| { let id = s.server()?; s.pages(s.guest(), id, 0, 1).map(|m| m.pages() as u64) };
    "map_the_slots" ["memory.c"] => Ok(1), |s| { let id = s.server()?; s.pages(s.guest(), id, 1, 1).map(|m| m.pages() as u64) };
    "map_the_slots_of_a_server_without_a_ring" ["memory.c"] => Ok(1), |s| { let id = s.server_with(OFF)?; s.pages(s.guest(), id, 1, 1).map(|m| m.pages() as u64) };
    "map_the_ring_of_a_server_without_one_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| { let id = s.server_with(OFF)?; s.pages(s.guest(), id, 0, 1).map(|_| 0) };
    "map_both_of_a_server_without_a_ring_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| { let id = s.server_with(OFF)?; s.pages(s.guest(), id, 0, 2).map(|_| 0) };
    "map_a_second_page_of_slots_is_einval" ["ioreq.c"] => Err(Errno::EINVAL), |s| { let id = s.server()?; s.pages(s.guest(), id, 2, 1).map(|_| 0) };
    "map_beyond_the_last_page_is_einval" ["ioreq.c"] => Err(Errno::EINVAL), |s| { let id = s.server()?; s.pages(s.guest(), id, 1, 2).map(|_| 0) };
    "map_of_an_unknown_server_is_enoent" ["seen: MMAP_RESOURCE of a missing server"] => Err(Errno::ENOENT), |s| s.pages(s.guest(), 3, 0, 2).map(|_| 0);
    "map_of_a_server_number_out_of_range_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| s.pages(s.guest(), 8, 0, 2).map(|_| 0);
    "map_of_server_number_0x10000_is_einval" ["memory.c: numbers have 16 bits"] => Err(Errno::EINVAL), |s| s.bench.hypervisor.map_resource(s.guest(), XENMEM_resource_ioreq_server, 0x1_0000, 0, 1).map(|_| 0);
    "map_of_nobodys_is_esrch" ["memory.c"] => Err(Errno::ESRCH), |s| s.pages(NOBODY, 0, 0, 2).map(|_| 0);
    "map_of_ones_own_is_eperm" ["memory.c"] => Err(Errno::EPERM), |s| s.pages(DomId(0), 0, 0, 2).map(|_| 0);
    "map_of_domid_selfs_is_esrch" ["seen: MMAP_RESOURCE with DOMID_SELF"] => Err(Errno::ESRCH), |s| s.pages(DomId::SELF, 0, 0, 2).map(|_| 0);
    "map_twice" ["memory.c"] => Ok(2), |s| { let id = s.server()?; let _first = s.pages(s.guest(), id, 0, 2)?; s.pages(s.guest(), id, 0, 2).map(|m| m.pages() as u64) };
    "slot_of_a_server_that_is_not_enabled_has_no_port" ["ioreq.c: written when it is enabled"] => Ok(0), |s| { let id = s.server()?; let m = s.pages(s.guest(), id, 1, 1)?; s.slot_port(&m).map(|p| p.0.into()).map_err(|u| u.0) };
    "slot_of_an_enabled_server_has_a_port" ["ioreq.c"] => Ok(1), |s| s.enabled().map(|(_, p)| u64::from(p.0 != 0)).map_err(|u| u.0);
    "slot_mapped_after_the_server_was_enabled_has_no_port" ["ioreq.c: there was no page to write it to"] => Ok(0), |s| { let id = s.server()?; s.set_state(id, 1)?; let m = s.pages(s.guest(), id, 1, 1)?; s.slot_port(&m).map(|p| p.0.into()).map_err(|u| u.0) };
};

/// Event channels.
#[rustfmt::skip]
pub(super) const EVENTS: &[Case<Stage>] = cases! { Stage;
    "bind_a_vcpus_port" ["event_channel.c"] => Ok(0), |s| { let (_, port) = s.enabled()?; s.bind(s.guest(), port).map(|_| 0) };
    "bind_it_twice_is_einval" ["event_channel.c: it is bound"] => Err(Errno::EINVAL), |s| { let (_, port) = s.enabled()?; s.bind(s.guest(), port)?; s.bind(s.guest(), port).map(|_| 0) };
    "bind_it_again_after_unbind" ["event_channel.c: it waits again"] => Ok(0), |s| { let (_, port) = s.enabled()?; let local = s.bind(s.guest(), port)?; s.bench.events.unbind(local)?; s.bind(s.guest(), port).map(|_| 0) };
    "bind_the_rings_port" ["event_channel.c"] => Ok(0), |s| { let id = s.server()?; let port = Port(s.info(id, XEN_DMOP_no_gfns)?.bufioreq_port); s.bind(s.guest(), port).map(|_| 0) };
    "bind_the_port_of_a_destroyed_server_is_einval" ["event_channel.c"] => Err(Errno::EINVAL), |s| { let (id, port) = s.enabled()?; s.destroy(id)?; s.bind(s.guest(), port).map(|_| 0) };
    "bind_port_0_is_einval" ["event_channel.c"] => Err(Errno::EINVAL), |s| s.bind(s.guest(), Port(0)).map(|_| 0);
    "bind_a_port_that_is_not_there_is_einval" ["event_channel.c"] => Err(Errno::EINVAL), |s| s.bind(s.guest(), NO_PORT).map(|_| 0);
    "bind_port_0xffffffff_is_einval" ["event_channel.c"] => Err(Errno::EINVAL), |s| s.bind(s.guest(), Port(u32::MAX)).map(|_| 0);
    "bind_a_port_of_nobody_is_esrch" ["event_channel.c"] => Err(Errno::ESRCH), |s| s.bind(NOBODY, Port(1)).map(|_| 0);
    "a_bound_port_is_pending_at_once" ["event_channel.c: events may have been lost before"] => Ok(1), |s| { let (_, port) = s.enabled()?; let local = s.bind(s.guest(), port)?; let mut out = [Port(0); 4]; s.bench.events.pending(&mut out).map(|n| u64::from(n == 1 && out[0] == local)) };
    "notify_a_bound_port" ["event_channel.c"] => Ok(0), |s| { let (_, port) = s.enabled()?; let local = s.bind(s.guest(), port)?; s.bench.events.notify(local).map(|()| 0) };
    "notify_a_port_of_a_destroyed_server" ["event_channel.c: unbound at the other end, the event is lost"] => Ok(0), |s| { let (id, port) = s.enabled()?; let local = s.bind(s.guest(), port)?; s.destroy(id)?; s.bench.events.notify(local).map(|()| 0) };
    "notify_a_closed_port_is_enotconn" ["Linux evtchn"] => Err(Errno::ENOTCONN), |s| { let (_, port) = s.enabled()?; let local = s.bind(s.guest(), port)?; s.bench.events.unbind(local)?; s.bench.events.notify(local).map(|()| 0) };
    "notify_a_port_that_was_never_bound_is_enotconn" ["Linux evtchn"] => Err(Errno::ENOTCONN), |s| s.bench.events.notify(NO_PORT).map(|()| 0);
    "unbind_a_port_that_was_never_bound_is_enotconn" ["Linux evtchn"] => Err(Errno::ENOTCONN), |s| s.bench.events.unbind(NO_PORT).map(|()| 0);
    "unbind_a_port_number_too_large_is_einval" ["Linux evtchn"] => Err(Errno::EINVAL), |s| s.bench.events.unbind(Port(u32::MAX)).map(|()| 0);
    "unbind_twice_is_enotconn" ["Linux evtchn"] => Err(Errno::ENOTCONN), |s| { let (_, port) = s.enabled()?; let local = s.bind(s.guest(), port)?; s.bench.events.unbind(local)?; s.bench.events.unbind(local).map(|()| 0) };
    "a_port_for_ones_own_domain_and_its_other_end" ["event_channel.c"] => Ok(0), |s| { let a = s.unbound(DomId::SELF)?; s.bind(DomId::SELF, a).map(|_| 0) };
    "an_event_through_it_arrives_once_until_it_is_unmasked" ["Linux evtchn"] => Ok(1), |s| {
        let a = s.unbound(DomId::SELF)?;
        let b = s.bind(DomId::SELF, a)?;
        let mut out = [Port(0); 4];
        while s.bench.events.pending(&mut out)? > 0 { s.bench.events.unmask(&[a, b])?; }
        s.bench.events.notify(b)?;
        s.bench.events.notify(b)?;
        s.bench.events.pending(&mut out).map(|n| u64::from(n == 1 && out[0] == a))
    };
    "and_the_second_when_it_is" ["Linux evtchn"] => Ok(1), |s| {
        let a = s.unbound(DomId::SELF)?;
        let b = s.bind(DomId::SELF, a)?;
        let mut out = [Port(0); 4];
        while s.bench.events.pending(&mut out)? > 0 { s.bench.events.unmask(&[a, b])?; }
        s.bench.events.notify(b)?;
        s.bench.events.pending(&mut out)?;
        s.bench.events.notify(b)?;
        s.bench.events.unmask(&[a])?;
        s.bench.events.pending(&mut out).map(|n| u64::from(n == 1 && out[0] == a))
    };
    "nothing_is_pending_of_itself" ["Linux evtchn"] => Ok(0), |s| s.bench.events.pending(&mut [Port(0); 4]).map(|n| n as u64);
    "bind_a_port_that_waits_for_another_domain_is_einval" ["event_channel.c"] => Err(Errno::EINVAL), |s| { let a = s.unbound(s.guest())?; s.bind(DomId::SELF, a).map(|_| 0) };
    "a_port_for_nobody" ["event_channel.c: the other end is not looked at"] => Ok(0), |s| s.unbound(NOBODY).map(|_| 0);
};

fn nr_vcpus(handle: &dyn Restricted, domid: DomId) -> Answer {
    let mut whole = xen_dm_op { op: XEN_DMOP_nr_vcpus, ..Default::default() };
    handle.dm_op(domid, &mut [whole.as_mut_bytes()]).map(|()| whole.u[0])
}

/// A handle that was restricted to the guest.
#[rustfmt::skip]
pub(super) const RESTRICTED: &[Case<Stage>] = cases! { Stage;
    "dm_op_on_the_guest" ["seen: after RESTRICT"] => Ok(1), |s| nr_vcpus(&*s.bench.restricted(s.guest())?, s.guest());
    "dm_op_on_dom0_is_eperm" ["seen: after RESTRICT"] => Err(Errno::EPERM), |s| nr_vcpus(&*s.bench.restricted(s.guest())?, DomId(0));
    "dm_op_on_nobody_is_eperm" ["seen: after RESTRICT"] => Err(Errno::EPERM), |s| nr_vcpus(&*s.bench.restricted(s.guest())?, NOBODY);
    "map_the_guests_frames" ["seen: after RESTRICT"] => Ok(1), |s| s.bench.restricted(s.guest())?.map_foreign(s.guest(), &[RAM], Prot::Read).map(|p| p.mapping.pages() as u64);
    "map_dom0s_frames_is_eperm" ["seen: after RESTRICT"] => Err(Errno::EPERM), |s| s.bench.restricted(s.guest())?.map_foreign(DomId(0), &[RAM], Prot::Read).map(|_| 0);
    "map_the_guests_resource" ["seen: after RESTRICT"] => Ok(2), |s| { let id = s.server()?; s.bench.restricted(s.guest())?.map_resource(s.guest(), XENMEM_resource_ioreq_server, id.into(), 0, 2).map(|m| m.pages() as u64) };
    "size_of_the_guests_resource" ["seen: after RESTRICT"] => Ok(2), |s| s.bench.restricted(s.guest())?.resource_size(s.guest(), XENMEM_resource_ioreq_server, 0).map(u64::from);
    "map_dom0s_resource_is_eperm" ["seen: after RESTRICT"] => Err(Errno::EPERM), |s| s.bench.restricted(s.guest())?.map_resource(DomId(0), XENMEM_resource_ioreq_server, 0, 0, 1).map(|_| 0);
    "restrict_to_nobody_and_ask_about_the_guest_is_eperm" ["Linux privcmd"] => Err(Errno::EPERM), |s| nr_vcpus(&*s.bench.restricted(NOBODY)?, s.guest());
};

fn errors(s: &Stage, domid: DomId, gfns: &[Gfn]) -> Answer {
    // One bit for each page that could not be mapped.
    s.foreign(domid, gfns)
        .map(|p| (0..gfns.len()).fold(0, |bits, i| bits | u64::from(p.error(i).is_some()) << i))
}

const SECOND: Gfn = Gfn(RAM.0 + 1);
const DECREASE: u32 = XENMEM_decrease_reservation;
const POPULATE: u32 = XENMEM_populate_physmap;

/// The guest's frames in the hands of a device model and of the toolstack, on a hypervisor without PV-IOMMU.
#[rustfmt::skip]
pub(crate) const FRAMES: &[Case<Stage>] = cases! { Stage;
    "map_frames" ["Linux privcmd"] => Ok(0), |s| errors(s, s.guest(), &[RAM, SECOND]);
    "map_a_hole_between_frames_fails_that_page_only" ["Linux privcmd"] => Ok(0b010), |s| errors(s, s.guest(), &[RAM, HOLE, SECOND]);
    "the_error_of_a_hole_is_einval" ["seen: foreign map of a ballooned frame"] => Err(Errno::EINVAL), |s| { let p = s.foreign(s.guest(), &[HOLE])?; p.error(0).map_or(Ok(0), Err) };
    "map_frames_of_nobody_is_esrch" ["Linux privcmd"] => Err(Errno::ESRCH), |s| errors(s, NOBODY, &[RAM]);
    "map_no_frame_is_einval" ["Linux privcmd"] => Err(Errno::EINVAL), |s| errors(s, s.guest(), &[]);
    "decrease_of_a_frame" ["memory.c"] => Ok(1), |s| s.reserve(DECREASE, s.guest(), &[RAM]);
    "decrease_of_a_hole_does_nothing" ["seen: 0 extents"] => Ok(0), |s| s.reserve(DECREASE, s.guest(), &[HOLE]);
    "decrease_stops_at_the_first_hole" ["memory.c"] => Ok(1), |s| s.reserve(DECREASE, s.guest(), &[RAM, HOLE, SECOND]);
    "decrease_of_nobody_does_nothing" ["memory.c: 0 extents, no error"] => Ok(0), |s| s.reserve(DECREASE, NOBODY, &[RAM]);
    "populate_of_nobody_does_nothing" ["memory.c: 0 extents, no error"] => Ok(0), |s| s.reserve(POPULATE, NOBODY, &[RAM]);
    "populate_of_a_hole" ["memory.c"] => Ok(1), |s| { s.reserve(DECREASE, s.guest(), &[RAM])?; s.reserve(POPULATE, s.guest(), &[RAM]) };
    "maximum_gpfn_of_nobody_is_esrch" ["memory.c"] => Err(Errno::ESRCH), |s| s.ask(XENMEM_maximum_gpfn, NOBODY);
    "current_reservation_counts_the_frames" ["memory.c"] => Ok(1), |s| { let a = s.ask(XENMEM_current_reservation, s.guest())?; s.reserve(DECREASE, s.guest(), &[RAM])?; s.ask(XENMEM_current_reservation, s.guest()).map(|b| a - b) };
    "a_frame_that_nobody_holds_is_free_at_once" ["seen: balloon without hold"] => Ok(1), |s| s.freed(|| { s.reserve(DECREASE, s.guest(), &[RAM])?; Ok(()) }).map_err(|u| u.0);
    "a_held_frame_is_not_free" ["seen: decrease of a mapped frame"] => Ok(0), |s| { let _held = s.foreign(s.guest(), &[RAM])?; s.freed(|| { s.reserve(DECREASE, s.guest(), &[RAM])?; Ok(()) }).map_err(|u| u.0) };
    "a_held_frame_stays_charged_to_its_guest" ["seen: nr_pages"] => Ok(0), |s| { let a = s.ask(XENMEM_current_reservation, s.guest())?; let _held = s.foreign(s.guest(), &[RAM])?; s.reserve(DECREASE, s.guest(), &[RAM])?; s.ask(XENMEM_current_reservation, s.guest()).map(|b| a - b) };
    "a_held_frame_is_free_once_it_is_let_go" ["seen: munmap"] => Ok(1), |s| { let held = s.foreign(s.guest(), &[RAM])?; s.reserve(DECREASE, s.guest(), &[RAM])?; s.freed(|| { drop(held); Ok(()) }).map_err(|u| u.0) };
    "a_frame_held_twice_is_free_after_the_second" ["seen: references"] => Ok(0), |s| { let first = s.foreign(s.guest(), &[RAM])?; let _second = s.foreign(s.guest(), &[RAM])?; s.reserve(DECREASE, s.guest(), &[RAM])?; s.freed(|| { drop(first); Ok(()) }).map_err(|u| u.0) };
    "one_page_of_a_mapping_is_let_go_alone" ["seen: munmap of a part"] => Ok(1), |s| {
        let mut pages = s.foreign(s.guest(), &[RAM, SECOND])?.into_pages();
        s.reserve(DECREASE, s.guest(), &[RAM, SECOND])?;
        s.freed(|| { drop(pages.pop()); Ok(()) }).map_err(|u| u.0)
    };
    "a_frame_number_without_frame_cannot_be_mapped" ["seen: foreign map of a ballooned frame"] => Ok(1), |s| { s.reserve(DECREASE, s.guest(), &[RAM])?; errors(s, s.guest(), &[RAM]) };
    "a_new_frame_takes_one_from_the_host_while_the_old_is_held" ["seen: populate after decrease"] => Ok(1), |s| {
        let _held = s.foreign(s.guest(), &[RAM])?;
        s.reserve(DECREASE, s.guest(), &[RAM])?;
        s.freed(|| { s.reserve(POPULATE, s.guest(), &[RAM])?; Ok(()) }).map(u64::wrapping_neg).map_err(|u| u.0)
    };
};

//! Rows of mapping and of DMA through what is mapped: who is served how, batches, holes, references, own pages.

use std::collections::BTreeSet;

use pviommu::{
    AttachError, Client, Config, Device, DeviceFlush, MapError, Mapped, Mode, OwnError, ProcessMemory,
    StartError,
};
use xen_ioreq::{DomId, Errno, IoServerId};

use super::lab::{Lab, ram, rams};
use crate::bench::{HOLE, NOBODY};
use crate::story::Fact::{Frames, Is};
use crate::story::stories;

/// Most frames of one foreign mapping that the client makes.
const BATCH: u64 = 512;
/// Frames of more than one.
const MANY: u64 = 600;
/// A permutation of 0 to 15 without a fixed order: frames of a surface lie anywhere.
const SCATTERED: [u64; 16] = [7, 0, 13, 4, 10, 1, 15, 8, 2, 11, 5, 14, 3, 9, 12, 6];

stories! {
#[rustfmt::skip]
MAP: Lab;

the_client_knows_stock_xen_and_serves_it_by_foreign_mappings ["seen: stock Xen has no iommu_op"] => [Is("soft", 1)], |l| {
    let soft = matches!(l.client.mode(), Mode::Soft { .. });
    l.is("soft", soft);
}
a_physical_device_is_refused ["the promise: nothing keeps a frame for it"] => [Is("refused", 1)], |l| {
    let config = Config { device: Device::Physical, ..Config::default() };
    let started = Client::start(l.ports(), config);
    l.is("refused", started.is_err_and(|e| e == StartError::PhysicalNeedsIommu));
}
a_domain_is_attached_once_and_a_reserved_number_not_at_all ["pviommu: one Guest a domain"] => [Is("again refused", 1), Is("reserved refused", 1)], |l| {
    let domid = l.guest.domid();
    let again = l.client.attach(domid, IoServerId(1));
    l.is("again refused", again.is_err_and(|e| e == AttachError::Already { domid }));
    let reserved = l.client.attach(DomId::SELF, IoServerId(0));
    l.is("reserved refused", reserved.is_err_and(|e| e == AttachError::NoGuest { domid: DomId::SELF }));
}
what_the_gpu_stores_is_in_the_guests_memory ["MI_STORE_DATA_IMM; seen: a foreign mapping costs no frame"] => [Frames("map", 0), Frames("store", 0), Is("the guest has", 0x5a5a_0001), Frames("release", 0)], |l| {
    let m = l.guest.map_one(ram(0))?;
    l.frames("map")?;
    l.gpu.point(0, Some(m.bfn()));
    l.gpu.store(0, 5, 0x5a5a_0001)?;
    l.frames("store")?;
    l.is("the guest has", l.read(ram(0), 5)?);
    l.let_go([m])?;
    l.frames("release")?;
}
what_the_guest_has_is_what_the_gpu_copies ["XY_SRC_COPY_BLT to an own page"] => [Is("the GPU read", 0x0bad_cafe), Frames("release", 0)], |l| {
    l.write(ram(3), 1023, 0x0bad_cafe)?;
    let m = l.show(&[ram(3)])?;
    let read = l.gpu.load(0, 1023)?;
    l.is("the GPU read", read);
    l.let_go(m)?;
    l.frames("release")?;
}
blits_over_scattered_frames_draw_what_they_say ["XY_COLOR_BLT, XY_SRC_COPY_BLT"] => [Frames("map", 0), Is("right pages", 16), Frames("release", 0)], |l| {
    let gfns = SCATTERED.map(ram);
    let mapped = l.show(&gfns)?;
    l.frames("map")?;
    // Places 0 to 7 are filled, 8 to 15 copied from them, with a mark in the fourth on the way.
    l.gpu.fill(0, 8, 0x1111_2222)?;
    l.gpu.store(4, 7, 0x3333_4444)?;
    l.gpu.copy(0, 8, 8)?;
    let mut right = 0;
    for (place, gfn) in gfns.into_iter().enumerate() {
        let mark = if place % 8 == 4 { 0x3333_4444 } else { 0x1111_2222 };
        right += usize::from([l.read(gfn, 0)?, l.read(gfn, 7)?, l.read(gfn, 1023)?] == [0x1111_2222, mark, 0x1111_2222]);
    }
    l.count("right pages", right);
    l.let_go(mapped)?;
    l.frames("release")?;
}
a_batch_of_more_than_one_foreign_mapping_is_mapped_whole ["pviommu: 512 frames a foreign mapping"] => [Frames("map", 0), Is("bus frames", 600), Is("stores seen", 4), Is("released", 600), Frames("release", 0)], |l| {
    let mapped = l.show(&rams(MANY))?;
    l.frames("map")?;
    l.count("bus frames", mapped.iter().map(Mapped::bfn).collect::<BTreeSet<_>>().len());
    let mut seen = 0;
    for n in [0, BATCH - 1, BATCH, MANY - 1] {
        let (place, value) = (u32::try_from(n)?, 0x6000_0000 | u32::try_from(n)?);
        l.gpu.store(place, 9, value)?;
        seen += usize::from(l.read(ram(n), 9)? == value);
    }
    l.count("stores seen", seen);
    let (released, _) = l.let_go(mapped)?;
    l.count("released", released);
    l.frames("release")?;
}
holes_of_a_batch_fail_alone ["seen: EINVAL of that page only"] => [Frames("decrease", 1), Is("mapped", 3), Is("holes", 2), Frames("map", 1), Is("the GPU read", 77), Frames("release", 1)], |l| {
    l.decrease(&[ram(1)])?;
    l.frames("decrease")?;
    l.write(ram(3), 0, 77)?;
    let answers = l.guest.map(&[ram(0), HOLE, ram(2), ram(1), ram(3)]);
    let holes = answers.iter().filter(|r| r.as_ref().is_err_and(MapError::is_hole)).count();
    let mapped: Vec<Mapped> = answers.into_iter().flatten().collect();
    l.count("mapped", mapped.len());
    l.count("holes", holes);
    l.frames("map")?;
    l.gpu.point(0, mapped.last().map(Mapped::bfn));
    let read = l.gpu.load(0, 0)?;
    l.is("the GPU read", read);
    l.let_go(mapped)?;
    l.frames("release")?;
}
holes_at_the_edge_of_a_foreign_mapping_fail_alone ["seen: EINVAL of that page only"] => [Frames("decrease", 2), Is("mapped", 598), Is("holes", 2), Is("in their places", 1), Frames("release", 2)], |l| {
    let holes = [ram(BATCH - 1), ram(BATCH)];
    l.decrease(&holes)?;
    l.frames("decrease")?;
    let answers = l.guest.map(&rams(MANY));
    let failed: Vec<u64> = (0..MANY).zip(&answers).filter(|(_, r)| r.as_ref().is_err_and(MapError::is_hole)).map(|(n, _)| n).collect();
    let mapped: Vec<Mapped> = answers.into_iter().flatten().collect();
    l.count("mapped", mapped.len());
    l.count("holes", failed.len());
    l.is("in their places", failed == [BATCH - 1, BATCH]);
    l.let_go(mapped)?;
    l.frames("release")?;
}
a_gfn_twice_in_a_batch_is_one_mapping_with_two_references ["pviommu: reference-counted"] => [Is("mappings", 2), Is("one bus frame", 1), Is("drains at the first put", 0), Is("drains at the second put", 1), Is("released", 2), Frames("release", 0)], |l| {
    let [a, b, again] = <[Mapped; 3]>::try_from(l.map(&[ram(0), ram(1), ram(0)])?).map_err(|_| "not three")?;
    l.is("mappings", l.guest.stats().mappings);
    l.is("one bus frame", a.bfn() == again.bfn() && a.bfn() != b.bfn());
    let first = a.put();
    l.is("drains at the first put", first.is_some());
    let second = again.put();
    l.is("drains at the second put", second.is_some());
    let (released, _) = l.release(first.into_iter().chain(second).chain(b.put()))?;
    l.count("released", released);
    l.frames("release")?;
}
a_frame_that_is_mapped_is_not_mapped_again ["pviommu: a hit"] => [Is("hits", 1), Is("misses", 1), Is("one bus frame", 1)], |l| {
    let (a, b) = (l.guest.map_one(ram(0))?, l.guest.map_one(ram(0))?);
    let stats = l.guest.stats();
    l.is("hits", stats.hits);
    l.is("misses", stats.misses);
    l.is("one bus frame", a.bfn() == b.bfn());
}
frames_of_nobody_are_esrch ["Linux privcmd"] => [Is("refused with ESRCH", 3), Is("mappings", 0)], |l| {
    let nobody = l.client.attach(NOBODY, IoServerId(0))?;
    let esrch = |r: &Result<Mapped, MapError>| matches!(r, Err(MapError::Call { errno: Errno::ESRCH, .. }));
    l.count("refused with ESRCH", nobody.map(&rams(3)).iter().filter(|r| esrch(r)).count());
    l.is("mappings", nobody.stats().mappings);
}
a_quota_refuses_what_is_beyond_it_until_there_is_room ["pviommu: max_per_guest"] => [Is("mapped", 2), Is("refused", 1), Is("refused while it drains", 1), Is("mapped after the release", 1), Frames("end", 0)], |l| {
    let client = Client::start(l.ports(), Config { max_per_guest: 2, ..Config::default() })?;
    let guest = client.attach(l.guest.domid(), IoServerId(0))?;
    let refused = |r: &Result<Mapped, MapError>| matches!(r, Err(MapError::Quota { quota: 2, .. }));
    let answers = guest.map(&rams(3));
    l.count("mapped", answers.iter().filter(|r| r.is_ok()).count());
    l.count("refused", answers.iter().filter(|r| refused(r)).count());
    let mut mapped: Vec<Mapped> = answers.into_iter().flatten().collect();
    let draining = mapped.pop().and_then(Mapped::put);
    l.is("refused while it drains", refused(&guest.map_one(ram(2))));
    let released = client.release(client.quiesce(draining, &l.gpu).0);
    mapped.extend(guest.map(&[ram(2)]).into_iter().flatten());
    l.count("mapped after the release", released.mappings * (mapped.len() - 1));
    let rest = mapped.into_iter().filter_map(Mapped::put);
    let _ = client.release(client.quiesce(rest, &l.gpu).0);
    l.frames("end")?;
}
a_frame_taken_into_use_again_is_not_released ["pviommu: revived"] => [Is("void before the flush", 1), Is("revived after the flush", 1), Is("released", 0), Is("the guest has", 0x77), Frames("end", 0)], |l| {
    let m = l.show(&[ram(0)])?;
    let draining: Vec<_> = m.into_iter().filter_map(Mapped::put).collect();
    let m = l.guest.map_one(ram(0))?;
    l.is("void before the flush", draining.iter().all(pviommu::Draining::is_void));
    let (mut released, _) = l.release(draining)?;
    let (quiesced, _) = l.client.quiesce(m.put(), &l.gpu);
    let m = l.guest.map_one(ram(0))?;
    let late = l.client.release(quiesced);
    released += late.mappings;
    l.count("revived after the flush", late.revived);
    l.count("released", released);
    l.gpu.point(0, Some(m.bfn()));
    l.gpu.store(0, 0, 0x77)?;
    l.is("the guest has", l.read(ram(0), 0)?);
    l.frames("end")?;
}
a_bus_frame_that_was_released_leads_the_gpu_nowhere ["pviommu: a fault"] => [Is("stopped", 1)], |l| {
    let mapped = l.show(&[ram(0)])?;
    l.let_go(mapped)?;
    // The entry is still in the GPU's table: what a mediator must not do, and what the soft IOMMU catches.
    let stored = l.gpu.store(0, 0, 1);
    l.is("stopped", stored.is_err());
}
own_pages_are_reached_by_the_gpu_and_cost_the_host_nothing ["pviommu: ProcessMemory"] => [Frames("own", 0), Is("copied between own pages", 0x1234_5678), Is("copied to the guest", 0x1234_5678), Frames("release", 0)], |l| {
    let own = l.client.own(2, &ProcessMemory)?;
    l.frames("own")?;
    let m = l.guest.map_one(ram(0))?;
    for (n, bfn) in [own.bfn(0), own.bfn(1), Some(m.bfn())].into_iter().enumerate() {
        l.gpu.point(u32::try_from(n)?, bfn);
    }
    l.gpu.store(0, 3, 0x1234_5678)?;
    l.gpu.copy(0, 1, 1)?;
    let read = l.gpu.load(1, 3)?;
    l.is("copied between own pages", read);
    l.gpu.copy(1, 2, 1)?;
    l.is("copied to the guest", l.read(ram(0), 3)?);
    l.gpu.point(0, None);
    l.gpu.point(1, None);
    l.client.release_own(own, &l.gpu)?;
    l.let_go([m])?;
    l.frames("release")?;
}
an_own_page_that_is_pinned_is_not_given_back ["pviommu: OwnError::Pinned"] => [Is("refused", 1), Is("after the unpin", 1)], |l| {
    let own = l.client.own(1, &ProcessMemory)?;
    let bfn = own.bfn(0).ok_or("no bus frame")?;
    let soft = l.client.soft().ok_or("no soft IOMMU")?.clone();
    let pin = soft.pin(bfn)?;
    let refused = l.client.release_own(own, &l.gpu);
    l.is("refused", refused == Err(OwnError::Pinned { bfn }));
    soft.unpin(pin.token);
    let own = l.client.own(1, &ProcessMemory)?;
    l.gpu.flush();
    l.is("after the unpin", l.client.release_own(own, &l.gpu).is_ok());
}
}

//! Rows of frames that the toolstack takes from the guest while the GPU can reach them, with a notice and without one.
//!
//! `~0` is the only notice of stock Xen. Taking it, the client maps everything of the guest afresh, so what has stayed
//! is *replaced* by another mapping of the same frame, and each row says how many.

use pviommu::{Cause, Client, Config, DeviceFlush, Draining, EVERYTHING, MapError, Mapped, ReleaseError};
use xen_ioreq::IoServerId;

use super::lab::{Lab, ram, rams};
use crate::story::Fact::{Frames, Is};
use crate::story::{Failed, stories};

/// A device that promises and does nothing.
struct Careless;

impl DeviceFlush for Careless {
    fn flush(&self) {}
}

fn ends(draining: &[Draining]) -> usize {
    draining.iter().filter(|d| d.ends_use()).count()
}

/// A frame mapped and shown to the GPU at place 0, which has stored 1 in its dword 0 and so has it in its cache.
fn reached(l: &mut Lab) -> Result<Mapped, Failed> {
    let m = l.guest.map_one(ram(0))?;
    l.gpu.point(0, Some(m.bfn()));
    l.gpu.store(0, 0, 1)?;
    Ok(m)
}

/// After a populate over a populated frame: what the client found, until the GPU is at the new frame.
fn found(l: &mut Lab, m: Mapped, draining: Vec<Draining>) -> Result<(), Failed> {
    l.count("replaced", draining.iter().filter(|d| d.cause() == Cause::Replaced).count());
    l.count("withdrawn", ends(&draining));
    let (_, pages) = l.release(draining)?;
    l.count("pages released", pages);
    l.frames("release")?;
    l.gpu.store(0, 0, 3)?;
    l.is("the guest has", l.read(ram(0), 0)?);
    l.let_go([m])?;
    Ok(())
}

/// The state before that: the frame is shown, another is put over it, the GPU still stores to the old one.
fn populated_over(l: &mut Lab) -> Result<Mapped, Failed> {
    let m = reached(l)?;
    l.populate_over(ram(0))?;
    l.frames("populate")?;
    // Xen does not clear a frame that was ballooned out, and this may be one.
    l.write(ram(0), 0, 0)?;
    l.gpu.store(0, 0, 2)?;
    l.is("the guest had", l.read(ram(0), 0)?);
    Ok(m)
}

stories! {
#[rustfmt::skip]
BALLOON: Lab;

a_ballooned_frame_is_the_hosts_when_it_is_released_and_not_before ["the promise; seen: decrease of a held frame"] => [Frames("map", 0), Frames("decrease", 0), Frames("DMA to it", 0), Frames("notice", 0), Is("withdrawn", 1), Frames("flush", 0), Is("released", 1), Frames("release", 1)], |l| {
    let m = reached(l)?;
    l.frames("map")?;
    l.decrease(&[ram(0)])?;
    l.frames("decrease")?;
    l.gpu.store(0, 0, 2)?;
    l.frames("DMA to it")?;
    l.guest.notice(EVERYTHING);
    let draining = l.guest.take_draining()?;
    l.frames("notice")?;
    l.count("withdrawn", ends(&draining));
    l.gpu.point(0, None);
    let last = m.put();
    let (quiesced, _) = l.client.quiesce(draining.into_iter().chain(last), &l.gpu);
    l.frames("flush")?;
    let released = l.client.release(quiesced);
    l.count("released", released.mappings);
    l.frames("release")?;
}
a_frame_that_nobody_mapped_is_free_at_once_and_its_neighbour_is_not ["seen: balloon without hold"] => [Frames("decrease of both", 1), Frames("release", 2)], |l| {
    let m = reached(l)?;
    l.decrease(&[ram(0), ram(1)])?;
    l.frames("decrease of both")?;
    l.let_go([m])?;
    l.frames("release")?;
}
the_old_frame_keeps_its_contents_for_the_gpu_until_it_is_released ["seen: old mapping still shows the old page"] => [Frames("decrease", 0), Frames("populate", -1), Is("the GPU reads", 1), Is("after a store of its own", 5), Is("the guest has", 0), Frames("release", 0)], |l| {
    l.write(ram(0), 1, 0)?;
    let m = reached(l)?;
    l.decrease(&[ram(0)])?;
    l.frames("decrease")?;
    l.populate(&[ram(0)])?;
    l.frames("populate")?;
    let read = l.gpu.load(0, 0)?;
    l.is("the GPU reads", read);
    l.gpu.store(0, 1, 5)?;
    let read = l.gpu.load(0, 1)?;
    l.is("after a store of its own", read);
    l.write(ram(0), 0, 0)?;
    l.write(ram(0), 1, 0)?;
    l.gpu.store(0, 1, 6)?;
    l.is("the guest has", l.read(ram(0), 1)?);
    l.gpu.point(0, None);
    l.let_go([m])?;
    l.frames("release")?;
}
of_many_those_that_went_come_back_and_no_other ["the promise; pviommu: batches of 512"] => [Frames("map", 0), Frames("decrease", 0), Frames("notice", 0), Is("withdrawn", 5), Is("replaced", 595), Is("released", 5), Is("pages released", 595), Frames("release", 5), Is("the guest has", 9)], |l| {
    let mapped = l.show(&rams(600))?;
    l.frames("map")?;
    let gone = [0, 300, 511, 512, 599].map(ram);
    l.decrease(&gone)?;
    l.frames("decrease")?;
    l.guest.notice(EVERYTHING);
    let draining = l.guest.take_draining()?;
    l.frames("notice")?;
    l.count("withdrawn", ends(&draining));
    l.count("replaced", draining.len() - ends(&draining));
    let mut kept = Vec::new();
    for (n, m) in (0..).zip(mapped) {
        if gone.contains(&ram(n)) {
            l.gpu.point(u32::try_from(n)?, None);
            drop(m);
        } else {
            kept.push(m);
        }
    }
    let (mappings, pages) = l.release(draining)?;
    l.count("released", mappings);
    l.count("pages released", pages);
    l.frames("release")?;
    l.gpu.store(510, 0, 9)?;
    l.is("the guest has", l.read(ram(510), 0)?);
}
two_notices_and_more_frames_between_them_are_one_round ["pviommu: `~0` is one flag"] => [Frames("decrease", 0), Is("withdrawn", 3), Frames("release", 3), Is("more", 0)], |l| {
    let mapped = l.show(&rams(4))?;
    l.decrease(&[ram(0)])?;
    l.guest.notice(EVERYTHING);
    l.decrease(&[ram(1), ram(2)])?;
    l.guest.notice(EVERYTHING);
    l.frames("decrease")?;
    let draining = l.guest.take_draining()?;
    l.count("withdrawn", ends(&draining));
    drop(mapped);
    l.release(draining)?;
    l.frames("release")?;
    // The fourth was dropped without being released: that is what is left to do.
    let more = l.guest.take_draining()?;
    l.count("more", ends(&more) - 1);
}
a_frame_that_came_back_before_the_notice_was_taken_is_reached_afresh ["seen: populate gives another frame"] => [Frames("decrease", 0), Frames("populate", -1), Is("replaced", 1), Is("withdrawn", 0), Is("pages released", 1), Frames("release", 0), Is("the guest has", 3)], |l| {
    let m = reached(l)?;
    l.decrease(&[ram(0)])?;
    l.frames("decrease")?;
    l.populate(&[ram(0)])?;
    l.frames("populate")?;
    l.guest.notice(EVERYTHING);
    let draining = l.guest.take_draining()?;
    found(l, m, draining)?;
}
a_frame_populated_over_is_found_by_a_notice_of_something_else ["seen: no notice of its own; the old frame stays the guest's"] => [Frames("populate", -1), Is("the guest had", 0), Is("replaced", 1), Is("withdrawn", 0), Is("pages released", 1), Frames("release", -1), Is("the guest has", 3)], |l| {
    let m = populated_over(l)?;
    l.guest.notice(EVERYTHING);
    let draining = l.guest.take_draining()?;
    found(l, m, draining)?;
}
a_frame_populated_over_is_found_by_doubt ["pviommu: a PTE is written again"] => [Frames("populate", -1), Is("the guest had", 0), Is("replaced", 1), Is("withdrawn", 0), Is("pages released", 1), Frames("release", -1), Is("the guest has", 3)], |l| {
    let m = populated_over(l)?;
    l.guest.doubt(m.bfn());
    let draining = l.guest.take_draining()?;
    found(l, m, draining)?;
}
a_frame_populated_over_is_found_by_the_sweep ["pviommu: rounds over all mappings"] => [Frames("populate", -1), Is("the guest had", 0), Is("replaced", 1), Is("withdrawn", 0), Is("pages released", 1), Frames("release", -1), Is("the guest has", 3)], |l| {
    let m = populated_over(l)?;
    let draining = l.guest.sweep(8)?;
    found(l, m, draining)?;
}
without_a_notice_nothing_is_found ["pviommu: the hypervisor is asked when there is a reason"] => [Is("work", 0), Is("found", 0), Frames("release", 1)], |l| {
    let m = reached(l)?;
    l.decrease(&[ram(0)])?;
    l.is("work", l.guest.has_work());
    let found = l.guest.take_draining()?.len();
    l.count("found", found);
    l.let_go([m])?;
    l.frames("release")?;
}
a_ballooned_frame_is_found_by_doubt_alone ["pviommu: doubt"] => [Is("asked about", 1), Is("withdrawn", 1), Frames("release", 1)], |l| {
    let mapped = l.show_each(&rams(3))?;
    l.decrease(&[ram(1)])?;
    let bfn = l.guest.bus_frame(ram(1)).ok_or("not mapped")?;
    l.guest.doubt(bfn);
    let draining = l.guest.take_draining()?;
    l.count("asked about", draining.len());
    l.count("withdrawn", ends(&draining));
    drop(mapped);
    l.release(draining)?;
    l.frames("release")?;
}
a_ballooned_frame_is_found_by_the_sweep_within_one_round ["pviommu: rounds over all mappings"] => [Is("found", 1), Is("seen in all", 10), Frames("release", 1)], |l| {
    let mapped = l.show(&rams(10))?;
    l.decrease(&[ram(6)])?;
    let mut draining = Vec::new();
    for _ in 0..4 {
        draining.extend(l.guest.sweep(3)?);
    }
    l.count("found", ends(&draining));
    l.count("seen in all", draining.len());
    drop(mapped);
    l.release(draining)?;
    l.frames("release")?;
}
a_pinned_page_is_not_released_before_the_unpin ["pviommu: ReleaseError::Pinned"] => [Is("refused", 1), Frames("release of a pinned page", 0), Is("comes back", 1), Is("released", 1), Frames("release after the unpin", 1)], |l| {
    let m = l.guest.map_one(ram(0))?;
    let soft = l.client.soft().ok_or("no soft IOMMU")?.clone();
    let pin = soft.pin(m.bfn())?;
    l.decrease(&[ram(0)])?;
    let (quiesced, _) = l.client.quiesce(m.put(), &l.gpu);
    let refused = l.client.release(quiesced);
    l.count("refused", refused.failed.iter().filter(|(_, e)| matches!(e, ReleaseError::Pinned { .. })).count());
    l.frames("release of a pinned page")?;
    soft.unpin(pin.token);
    // What failed is dropped here, and so is the guest's to drain once more.
    drop(refused);
    let draining = l.guest.take_draining()?;
    l.count("comes back", draining.len());
    let (released, _) = l.release(draining)?;
    l.count("released", released);
    l.frames("release after the unpin")?;
}
a_pinned_page_that_was_replaced_waits_for_its_own_pin ["pviommu: a page waits for its own pins only"] => [Is("refused", 1), Frames("release of a pinned page", -1), Is("comes back", 1), Is("pages released", 1), Frames("release after the unpin", 0)], |l| {
    let m = l.guest.map_one(ram(0))?;
    let soft = l.client.soft().ok_or("no soft IOMMU")?.clone();
    let pin = soft.pin(m.bfn())?;
    l.decrease(&[ram(0)])?;
    l.populate(&[ram(0)])?;
    l.guest.notice(EVERYTHING);
    let refused = l.try_release(l.guest.take_draining()?)?;
    l.count("refused", refused.failed.iter().filter(|(_, e)| matches!(e, ReleaseError::Pinned { .. })).count());
    l.frames("release of a pinned page")?;
    soft.unpin(pin.token);
    drop(refused);
    let draining = l.guest.take_draining()?;
    l.count("comes back", draining.len());
    let (_, pages) = l.release(draining)?;
    l.count("pages released", pages);
    l.frames("release after the unpin")?;
    drop(m);
}
a_gpu_that_was_not_flushed_keeps_its_frame ["pviommu: the flush is what frees"] => [Is("refused", 1), Frames("release without a flush", 0), Frames("release after one", 1)], |l| {
    let m = reached(l)?;
    l.decrease(&[ram(0)])?;
    l.gpu.point(0, None);
    let (quiesced, _) = l.client.quiesce(m.put(), &Careless);
    let refused = l.client.release(quiesced);
    l.count("refused", refused.failed.len());
    l.frames("release without a flush")?;
    l.release(refused.failed.into_iter().map(|(d, _)| d))?;
    l.frames("release after one")?;
}
a_frame_with_two_references_waits_for_the_second ["pviommu: a mapping with references is not released"] => [Is("held", 1), Frames("release with one put", 0), Frames("release with both put", 1)], |l| {
    let first = reached(l)?;
    let second = l.guest.map_one(ram(0))?;
    l.decrease(&[ram(0)])?;
    l.guest.notice(EVERYTHING);
    let draining = l.guest.take_draining()?;
    drop(first);
    let (quiesced, held) = l.client.quiesce(draining, &l.gpu);
    let released = l.client.release(quiesced);
    l.count("held", held.len() - released.mappings);
    l.frames("release with one put")?;
    drop(second);
    l.release(held)?;
    l.frames("release with both put")?;
}
what_is_dropped_on_its_way_out_comes_back ["pviommu: nothing is lost"] => [Frames("dropped", 0), Is("comes back", 1), Frames("release", 1)], |l| {
    let m = reached(l)?;
    l.decrease(&[ram(0)])?;
    l.gpu.point(0, None);
    drop(m.put());
    l.frames("dropped")?;
    let draining = l.guest.take_draining()?;
    l.count("comes back", draining.len());
    l.release(draining)?;
    l.frames("release")?;
}
held_frames_keep_the_guest_from_ballooning_in ["seen: 0 extents at max_mem"] => [Is("populated while it is held", 0), Is("populated after the release", 1), Frames("end", 0)], |l| {
    let m = reached(l)?;
    let extra = l.fill_up()?;
    l.decrease(&[ram(0)])?;
    let held = l.try_populate(&[ram(0)])?;
    l.let_go([m])?;
    let released = l.try_populate(&[ram(0)])?;
    l.empty(&extra)?;
    l.count("populated while it is held", held);
    l.count("populated after the release", released);
    l.frames("end")?;
}
death_releases_everything_and_maps_nothing_more ["pviommu: Guest::die"] => [Frames("decrease", 0), Is("draining", 40), Is("refused as dead", 1), Is("released", 40), Is("empty", 1), Frames("release", 5)], |l| {
    let mapped = l.show(&rams(40))?;
    l.gpu.fill(0, 40, 0)?;
    l.decrease(&rams(5))?;
    l.frames("decrease")?;
    let draining = l.guest.die();
    l.count("draining", draining.len());
    l.is("refused as dead", l.guest.map_one(ram(50)).is_err_and(|e| matches!(e, MapError::Dead { .. })));
    drop(mapped);
    let (released, _) = l.release(draining)?;
    l.count("released", released);
    l.is("empty", l.guest.is_empty());
    l.frames("release")?;
}
what_a_client_leaves_when_it_goes_is_given_back_by_its_mappings ["seen: munmap"] => [Frames("decrease", 0), Frames("client gone", 2)], |l| {
    let client = Client::start(l.ports(), Config::default())?;
    let guest = client.attach(l.guest.domid(), IoServerId(0))?;
    let mapped: Vec<Mapped> = guest.map(&rams(3)).into_iter().flatten().collect();
    l.decrease(&rams(2))?;
    l.frames("decrease")?;
    drop((mapped, guest, client));
    l.frames("client gone")?;
}
}

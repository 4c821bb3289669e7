//! What calls of `iommu_op` bring about, and what a guest's ballooning does to what they mapped: rows on the model.
//!
//! Statuses, M2B entries and references are in the sheets; here is who reaches what, who is told, when a frame is free.

use mock_xen::{Config, Fault, FaultPlan, Iommu, OpArray, Site, When};
use xen_ioreq::abi::iommu_op::*;
use xen_ioreq::abi::ioreq::ioreq;
use xen_ioreq::abi::memory::XENMEM_populate_physmap;
use xen_ioreq::{Errno, Gfn};

use super::call::RW;
use super::world::{BFN, BFN2, GFN, GFN2, LARGE, Profile, World};
use crate::bench::HOLE;
use crate::case::{Answer, Case, Unmade, cases};

const MAP: u16 = IOMMUOP_map_foreign_page;
const LOOKUP: u16 = IOMMUOP_lookup_foreign_page;
const SWAP: u16 = RW | IOMMUOP_swap_mfn;

/// Rows with the machine that they run on.
pub(super) struct Table {
    pub(super) title: &'static str,
    pub(super) profile: Profile,
    pub(super) iommu: Iommu,
    /// How the machine differs from the usual one.
    change: fn(&mut Config),
    pub(super) cases: &'static [Case<World>],
}

impl Table {
    pub(super) fn world(&self) -> Result<World, crate::bench::BenchError> {
        World::with(self.profile, self.iommu, self.change)
    }
}

const fn table(title: &'static str, profile: Profile, iommu: Iommu, cases: &'static [Case<World>]) -> Table {
    Table { title, profile, iommu, change: |_| {}, cases }
}

pub(super) const TABLES: &[Table] = &[
    table("draft, IOMMU on", Profile::Draft, Iommu::On, ON),
    table("draft, ballooning", Profile::Draft, Iommu::On, BALLOON),
    table("draft, swap_mfn", Profile::Draft, Iommu::On, SWAPPED),
    table("draft, no IOMMU", Profile::Draft, Iommu::Absent, UNCONTROLLED),
    table("draft, dom0-passthrough", Profile::Draft, Iommu::Passthrough, UNCONTROLLED),
    table("draft, 1:1 map", Profile::Draft, Iommu::OneToOne, ONE_TO_ONE),
    Table { change: |c| c.wildcard = true, ..table("draft, wildcard", Profile::Draft, Iommu::On, WILDCARD) },
    Table { change: |c| c.preempt_after = 16, ..table("draft, batches", Profile::Draft, Iommu::On, BATCHES) },
    table("draft, the array", Profile::Draft, Iommu::Absent, ARRAY),
    table("xs, the array", Profile::Xs, Iommu::Absent, ARRAY),
    table("xs, 1:1 map", Profile::Xs, Iommu::OneToOne, XS),
    table("xs, no IOMMU", Profile::Xs, Iommu::Absent, XS),
    Table {
        change: |c| c.preempt_after = 2,
        ..table("xs, preempted", Profile::Xs, Iommu::OneToOne, XS_PREEMPTED)
    },
];

/// An IOMMU with an empty table.
#[rustfmt::skip]
const ON: &[Case<World>] = cases! { World;
    "no_ops_are_no_error" ["draft B"] => Ok(0), |w| { w.batch(&mut [])?; Ok(0) };
    "a_failing_op_does_not_stop_the_batch" ["draft B; seen: batches"] => Ok(0b101), |w| {
        let mut ops = [w.foreign(MAP, 0, BFN, GFN), w.foreign(MAP, 0, BFN2, HOLE.0), w.foreign(MAP, 0, BFN2, GFN2)];
        w.batch(&mut ops)?;
        Ok(ops.iter().enumerate().fold(0, |done, (i, op)| done | u64::from(op.status == 0) << i))
    };
    "128_ops_in_one_call" ["seen: batches"] => Ok(128), |w| {
        let mut ops: Vec<_> = (0..128).map(|i| w.foreign(MAP, 0, BFN + i, GFN)).collect();
        w.batch(&mut ops)?;
        Ok(ops.iter().filter(|op| op.status == 0).count() as u64)
    };

    "map_reaches_the_guests_frame" ["draft B: map_foreign_page"] => Ok(1), |w| { w.map(BFN, GFN)??; w.reaches(BFN, GFN)? };
    "map_that_was_refused_leaves_the_bfn" ["shipped code; draft B does not say"] => Ok(1), |w| { w.map(BFN, GFN)??; let _ = w.map(BFN, GFN2)?; w.reaches(BFN, GFN)? };
    "map_leaves_its_fields" ["draft B: bfn is in"] => Ok(1), |w| { let mut op = w.foreign(MAP, 0, BFN, GFN); w.op(&mut op)??; Ok(u64::from(op.bfn == BFN && op.gfn == GFN && op.flags == RW)) };
    "map_read_only_lets_the_device_read" ["draft B: IOMMUOP_readable"] => Ok(1), |w| { w.op(&mut pv_iommu_op { flags: IOMMUOP_readable, ..w.foreign(MAP, 0, BFN, GFN) })??; w.reaches(BFN, GFN)? };
    "map_read_only_keeps_the_device_from_writing" ["draft B: IOMMUOP_writeable"] => Err(Errno::EFAULT), |w| { w.op(&mut pv_iommu_op { flags: IOMMUOP_readable, ..w.foreign(MAP, 0, BFN, GFN) })??; w.writes(BFN) };
    "map_writable_lets_the_device_write" ["draft B: IOMMUOP_writeable"] => Ok(0), |w| { w.map(BFN, GFN)??; w.writes(BFN) };
    "unmap_ends_the_devices_access" ["draft B: unmap_foreign_page"] => Err(Errno::EFAULT), |w| { w.map(BFN, GFN)??; w.unmap(0, BFN)??; w.read(BFN) };
    "unmap_by_another_server_leaves_the_mapping" ["draft B: (BFN, domid, ioserver), all of it"] => Ok(1), |w| { w.map(BFN, GFN)??; let _ = w.unmap(1, BFN)?; w.reaches(BFN, GFN)? };
    "unmap_by_one_of_two_servers_leaves_the_mapping" ["shipped code: no entry under any ioserver remains"] => Ok(1), |w| { w.map(BFN, GFN)??; w.map_for(1, BFN, GFN)??; w.unmap(0, BFN)??; w.reaches(BFN, GFN)? };
    "unmap_by_both_servers_ends_it" ["shipped code: no entry under any ioserver remains"] => Err(Errno::EFAULT), |w| { w.map(BFN, GFN)??; w.map_for(1, BFN, GFN)??; w.unmap(0, BFN)??; w.unmap(1, BFN)??; w.read(BFN) };
    "unmap_at_one_of_two_bfns_leaves_the_other" ["draft B: (BFN, domid, ioserver)"] => Ok(1), |w| { w.map(BFN, GFN)??; w.map(BFN2, GFN)??; w.unmap(0, BFN)??; w.reaches(BFN2, GFN)? };
    "unmap_frees_the_bfn_for_another_frame" ["draft B: unmap_foreign_page"] => Ok(1), |w| { w.map(BFN, GFN)??; w.unmap(0, BFN)??; w.map(BFN, GFN2)??; w.reaches(BFN, GFN2)? };

    "lookup_by_another_server_keeps_the_mapping_past_the_first_ones_unmap" ["draft B: M2B"] => Ok(1), |w| { w.map(BFN, GFN)??; w.lookup(1, GFN)??; w.unmap(0, BFN)??; w.reaches(BFN, GFN)? };
    "map_page_lets_the_device_write" ["draft: map_page"] => Ok(0), |w| { w.map_own(BFN, w.own(0))??; w.writes(BFN) };
    "unmap_page_ends_the_devices_access" ["draft: unmap_page"] => Err(Errno::EFAULT), |w| { w.map_own(BFN, w.own(0))??; w.unmap_own(BFN)??; w.read(BFN) };
};

/// Frames that the guest gives up while they are mapped.
#[rustfmt::skip]
const BALLOON: &[Case<World>] = cases! { World;
    "a_frame_that_is_not_mapped_is_free_at_once" ["draft B: ballooning"] => Ok(1), |w| Ok(w.balloon(GFN)?);
    "a_frame_that_is_not_mapped_sends_no_notice" ["draft B: the affected IOREQ servers"] => Ok(0), |w| { w.balloon(GFN)?; Ok(w.notices()?.len() as u64) };
    "a_mapped_frame_is_not_free" ["draft B: the MFN stays"] => Ok(0), |w| { w.map(BFN, GFN)??; Ok(w.balloon(GFN)?) };
    "a_mapped_frame_is_free_after_unmap" ["draft B: unmap_foreign_page frees it"] => Ok(1), |w| { w.map(BFN, GFN)??; w.balloon(GFN)?; Ok(w.stage.freed(|| { w.unmap(0, BFN)??; Ok(()) })?) };
    "unmap_after_ballooning_succeeds" ["draft B: the BFN is the key"] => Ok(0), |w| { w.map(BFN, GFN)??; w.balloon(GFN)?; w.unmap(0, BFN)? };
    "a_frame_of_two_servers_is_not_free_after_one_unmap" ["draft B: M2B"] => Ok(0), |w| { w.map(BFN, GFN)??; w.map_for(1, BFN2, GFN)??; w.balloon(GFN)?; Ok(w.stage.freed(|| { w.unmap(0, BFN)??; Ok(()) })?) };
    "the_device_still_reaches_a_withdrawn_frame" ["draft B: not unmapped at the balloon hypercall"] => Ok(0x77), |w| {
        w.machine.write_guest(w.guest(), Gfn(GFN).addr(), &0x77u64.to_le_bytes())?;
        w.map(BFN, GFN)??;
        w.balloon(GFN)?;
        w.read(BFN)
    };
    "the_notice_names_the_bfn_in_the_ring" ["draft B: buffered INVALIDATE, BFN in data"] => Ok(BFN), |w| { w.map(BFN, GFN)??; w.balloon(GFN)?; w.notices()?.first().copied().ok_or(Errno::ENODATA) };
    "one_mapping_is_one_notice" ["draft B: ballooning"] => Ok(1), |w| { w.map(BFN, GFN)??; w.balloon(GFN)?; Ok(w.notices()?.len() as u64) };
    "two_bfns_are_two_notices" ["decision: once for each (bfn, ioserver)"] => Ok(2), |w| { w.map(BFN, GFN)??; w.map(BFN2, GFN)??; w.balloon(GFN)?; Ok(w.notices()?.len() as u64) };
    "a_bfn_above_32_bits_is_whole" ["decision: 8 bytes, two slots"] => Ok(LARGE), |w| { w.map(LARGE, GFN)??; w.balloon(GFN)?; w.notices()?.first().copied().ok_or(Errno::ENODATA) };
    "frames_of_others_send_no_notice" ["draft B: the affected IOREQ servers"] => Ok(0), |w| { w.map(BFN, GFN)??; w.balloon(GFN2)?; Ok(w.notices()?.len() as u64) };
    "an_unmapped_frame_sends_no_notice" ["draft B: the affected IOREQ servers"] => Ok(0), |w| { w.map(BFN, GFN)??; w.unmap(0, BFN)??; w.balloon(GFN)?; Ok(w.notices()?.len() as u64) };
    "with_room_in_the_ring_the_guest_does_not_wait" ["draft B: buffered"] => Ok(0), |w| { w.map(BFN, GFN)??; Ok(w.balloon_with_answers(0, GFN)?.len() as u64) };
    "with_a_full_ring_the_notice_comes_by_the_slot" ["draft B: a standard request"] => Ok(BFN), |w| { w.map(BFN, GFN)??; w.fill_ring()?; w.balloon_with_answers(0, GFN)?.first().copied().ok_or(Errno::ENODATA) };
    "with_a_full_ring_two_bfns_come_one_by_one" ["decision: BFN by BFN"] => Ok(2), |w| { w.map(BFN, GFN)??; w.map(BFN2, GFN)??; w.fill_ring()?; Ok(w.balloon_with_answers(0, GFN)?.len() as u64) };
    "a_server_without_a_ring_gets_it_by_the_slot" ["decision: straight to sync"] => Ok(BFN), |w| { w.map_for(1, BFN, GFN)??; w.balloon_with_answers(1, GFN)?.first().copied().ok_or(Errno::ENODATA) };
    "a_new_frame_under_the_number_is_not_what_is_mapped" ["draft B: the MFN stays"] => Ok(0), |w| {
        w.map(BFN, GFN)??;
        w.balloon(GFN)?;
        w.stage.reserve(XENMEM_populate_physmap, w.guest(), &[Gfn(GFN)])?;
        w.reaches(BFN, GFN)?
    };
    "a_destroyed_guests_mapped_frame_is_free_after_unmap" ["draft B: references"] => Ok(1), |w| { w.map(BFN, GFN)??; w.machine.destroy_domain(w.guest())?; Ok(w.stage.freed(|| { w.unmap(0, BFN)??; Ok(()) })?) };
    "nothing_of_it_is_seen_by_the_oracle" ["no frame is given back while a device reaches it"] => Ok(0), |w| { w.map(BFN, GFN)??; w.balloon(GFN)?; let _ = w.read(BFN)?; w.unmap(0, BFN)??; Ok(w.machine.violation_count() + w.machine.audit().len() as u64) };
};

/// No IOMMU, or one that lets dom0's devices through: a BFN is an MFN, and only lookups make sense.
#[rustfmt::skip]
const UNCONTROLLED: &[Case<World>] = cases! { World;
    "lookup_reaches_the_guests_frame" ["draft B: the MFN is the bus address"] => Ok(1), |w| { let bfn = w.lookup(0, GFN)??; w.reaches(bfn, GFN)? };
    "lookup_again_gives_the_same" ["draft B: M2B"] => Ok(0), |w| { let a = w.lookup(0, GFN)??; w.lookup(0, GFN)?.map(|b| a ^ b) };
    "lookup_of_two_frames_gives_two" ["draft B: the MFN"] => Ok(1), |w| { let a = w.lookup(0, GFN)??; w.lookup(0, GFN2)?.map(|b| u64::from(a != b)) };
    "lookup_ignores_the_bfn_that_came_in" ["decision: bfn is out only"] => Ok(1), |w| { let mut op = w.foreign(LOOKUP, 0, BFN, GFN); w.op(&mut op)??; w.reaches(op.bfn, GFN)? };
    "a_looked_up_frame_is_not_free" ["draft B: no IOMMU, the emulator must unmap"] => Ok(0), |w| { w.lookup(0, GFN)??; Ok(w.balloon(GFN)?) };
    "a_looked_up_frame_is_free_after_unmap" ["draft B: no IOMMU, the emulator must unmap"] => Ok(1), |w| { let bfn = w.lookup(0, GFN)??; w.balloon(GFN)?; Ok(w.stage.freed(|| { w.unmap(0, bfn)??; Ok(()) })?) };
    "the_notice_names_the_mfn" ["draft B: BFN in data"] => Ok(0), |w| { let bfn = w.lookup(0, GFN)??; w.balloon(GFN)?; w.notices()?.first().map(|n| n ^ bfn).ok_or(Errno::ENODATA) };
    "a_frame_that_nobody_looked_up_is_free_at_once" ["draft B: ballooning"] => Ok(1), |w| Ok(w.balloon(GFN)?);
};

/// Every frame of the host mapped at its own number, without references.
#[rustfmt::skip]
const ONE_TO_ONE: &[Case<World>] = cases! { World;
    "the_map_itself_holds_no_frame" ["Crossley: no reference to the MFN"] => Ok(1), |w| Ok(w.balloon(GFN)?);
    "lookup_reaches_the_guests_frame" ["Crossley: the BFN that is 1:1 mapped"] => Ok(1), |w| { let bfn = w.lookup(0, GFN)??; w.reaches(bfn, GFN)? };
    "a_looked_up_frame_is_free_after_unmap" ["draft B: ballooning"] => Ok(1), |w| { let bfn = w.lookup(0, GFN)??; w.balloon(GFN)?; Ok(w.stage.freed(|| { w.unmap(0, bfn)??; Ok(()) })?) };
    "unmap_leaves_the_1_to_1_mapping" ["the entry was not made by the lookup"] => Ok(0), |w| { let bfn = w.lookup(0, GFN)??; w.unmap(0, bfn)??; w.lookup(0, GFN)?.map(|b| b ^ bfn) };
    "into_the_hole_another_frame_is_mapped" ["Crossley: unmap_page for what conflicts"] => Ok(1), |w| { let bfn = w.lookup(0, GFN)??; w.unmap(0, bfn)??; w.unmap_own(bfn)??; w.map(bfn, GFN2)??; w.reaches(bfn, GFN2)? };
    "map_outside_the_map" ["draft B: map_foreign_page"] => Ok(1), |w| { w.map(BFN, GFN)??; w.reaches(BFN, GFN)? };
};

/// Frames that every mapper allows to be swapped.
#[rustfmt::skip]
const SWAPPED: &[Case<World>] = cases! { World;
    "a_swapped_frame_is_free_at_once" ["draft B: IOMMUOP_swap_mfn; Xen drops its reference"] => Ok(1), |w| { swappable(w, 0)?; Ok(w.balloon(GFN)?) };
    "its_mappers_are_told_all_the_same" ["decision: informational, no unmap required"] => Ok(BFN), |w| { swappable(w, 0)?; w.balloon(GFN)?; w.notices()?.first().copied().ok_or(Errno::ENODATA) };
    "the_device_reads_scratch" ["draft B: swapped to scratch page"] => Ok(0), |w| {
        w.machine.write_guest(w.guest(), Gfn(GFN).addr(), &0x77u64.to_le_bytes())?;
        swappable(w, 0)?;
        w.balloon(GFN)?;
        w.read(BFN)
    };
    "the_device_does_not_write_to_the_frames_next_owner" ["draft B: swapped to scratch page"] => Ok(0), |w| {
        swappable(w, 0)?;
        w.balloon(GFN)?;
        w.populate(GFN)?;
        w.write(BFN, 0x66)?;
        w.guest_has(GFN)
    };
    "one_mapper_who_does_not_allow_it_keeps_the_frame" ["decision: by all mappers of the frame"] => Ok(0), |w| { swappable(w, 0)?; w.map_for(1, BFN2, GFN)??; Ok(w.balloon(GFN)?) };
    "two_mappers_who_allow_it_do_not" ["decision: by all mappers of the frame"] => Ok(1), |w| { swappable(w, 0)?; swappable(w, 1)?; Ok(w.balloon(GFN)?) };
    "the_last_unmap_gives_the_scratch_frame_back" ["decision: a scratch frame for each emulator and guest"] => Ok(1), |w| { swappable(w, 0)?; w.balloon(GFN)?; Ok(w.stage.freed(|| { w.unmap(0, BFN)??; Ok(()) })?) };
    "a_destroyed_guests_swapped_frame_is_free_without_an_unmap" ["draft B: IOMMUOP_swap_mfn"] => Ok(0), |w| {
        swappable(w, 0)?;
        let mfn = w.machine.mfn(w.guest(), Gfn(GFN))?;
        w.machine.destroy_domain(w.guest())?;
        Ok(w.machine.frame(mfn).map_or(u64::MAX, |f| f.references.into()))
    };
    "nothing_of_it_is_seen_by_the_oracle" ["no frame is given back while a device reaches it"] => Ok(0), |w| { swappable(w, 0)?; w.balloon(GFN)?; w.write(BFN, 1)?; w.unmap(0, BFN)??; Ok(w.machine.violation_count() + w.machine.audit().len() as u64) };
    "a_device_that_keeps_its_translation_is_told_of" ["decision: not for devices that translate ahead"] => Ok(1), |w| { swappable(w, 0)?; let pin = w.pin(BFN)?; w.balloon(GFN)?; drop(pin); Ok(w.machine.violation_count().min(1)) };
};

fn swappable(w: &World, server: usize) -> Result<(), Errno> {
    let bfn = BFN + server as u64;
    let mut op = pv_iommu_op { flags: SWAP, ..w.foreign(MAP, server, bfn, GFN) };
    w.op(&mut op).map_err(|Unmade(e)| e)?.map(|_| ())
}

/// A hypervisor that also words its notices as released Xen does.
#[rustfmt::skip]
const WILDCARD: &[Case<World>] = cases! { World;
    "the_named_notice_comes_by_the_ring" ["draft B: buffered INVALIDATE"] => Ok(BFN), |w| { w.map(BFN, GFN)??; w.served(|v| v.decrease_reservation(&[Gfn(GFN)]).is_ok())?; w.notices()?.first().copied().ok_or(Errno::ENODATA) };
    "and_every_server_hears_that_something_has_changed" ["released Xen: mapcache_invalidate"] => Ok(2), |w| { w.map(BFN, GFN)??; whole(w, |w| Ok(w.served(|v| v.decrease_reservation(&[Gfn(GFN)]).is_ok())?.1)) };
    "also_of_a_frame_that_nobody_has_mapped" ["released Xen: mapcache_invalidate"] => Ok(2), |w| whole(w, |w| Ok(w.served(|v| v.decrease_reservation(&[Gfn(GFN)]).is_ok())?.1));
};

/// One hypercall with many operations; the hypervisor lets others run after 16.
#[rustfmt::skip]
const BATCHES: &[Case<World>] = cases! { World;
    "maps_need_no_flush" ["draft B: a batch"] => Ok(0), |w| flushes(w, |w| many(w, MAP, 16));
    "a_batch_of_unmaps_is_one_flush" ["shipped code: one flush at the end"] => Ok(1), |w| { many(w, MAP, 16)?; flushes(w, |w| many(w, IOMMUOP_unmap_foreign_page, 16)) };
    "a_preempted_batch_is_a_flush_each_time" ["shipped code: flushed before a continuation"] => Ok(4), |w| { many(w, MAP, 64)?; flushes(w, |w| many(w, IOMMUOP_unmap_foreign_page, 64)) };
    "a_preempted_batch_is_done_whole" ["seen 2: 65536 ops in one call"] => Ok(64), |w| Ok(many(w, MAP, 64)?);
    "frames_are_free_only_after_the_flush" ["a device may still know them"] => Ok(0), |w| {
        w.map(BFN, GFN)??;
        w.balloon(GFN)?;
        late(w);
        Ok(w.stage.freed(|| { let _late = w.unmap(0, BFN); Ok(()) })?)
    };
    "a_late_flush_is_the_error_of_the_call" ["shipped code: a flush error becomes the rc"] => Err(Errno::EIO), |w| {
        w.map(BFN, GFN)??;
        late(w);
        w.unmap(0, BFN).unwrap_or_else(|Unmade(e)| Err(e))
    };
    "what_a_late_flush_left_goes_with_the_next" ["a device may still know it"] => Ok(1), |w| {
        w.map(BFN, GFN)??;
        w.map(BFN2, GFN2)??;
        w.balloon(GFN)?;
        late(w);
        let _late = w.unmap(0, BFN);
        Ok(w.stage.freed(|| { w.unmap(0, BFN2)??; Ok(()) })?)
    };
    "until_then_the_device_reaches_it" ["a device may still know it"] => Ok(1), |w| {
        w.map(BFN, GFN)??;
        late(w);
        let _late = w.unmap(0, BFN);
        w.reaches(BFN, GFN)?
    };
};

fn late(w: &World) {
    w.machine.inject(FaultPlan::one(Site::IotlbFlush, When::Nth(1), Fault::Error(Errno::EIO)));
}

fn flushes(w: &World, f: impl FnOnce(&World) -> Result<u64, Errno>) -> Answer {
    let before = w.machine.iotlb_flushes();
    f(w)?;
    Ok(w.machine.iotlb_flushes() - before)
}

/// So many operations in one call, at neighbouring bus frames; how many were done.
fn many(w: &World, subop: u16, count: u64) -> Result<u64, Errno> {
    let mut ops: Vec<_> = (0..count)
        .map(|i| {
            let mut op = w.foreign(subop, 0, BFN + i, GFN + i % 8);
            if subop == IOMMUOP_unmap_foreign_page {
                op.set_unmap_ioserver(w.server(0));
            }
            op
        })
        .collect();
    w.batch(&mut ops).map_err(|Unmade(e)| e)?;
    Ok(ops.iter().filter(|op| op.status == 0).count() as u64)
}

/// The array and its count as no honest caller would give them; the operations are lookups without an IOMMU.
#[rustfmt::skip]
const ARRAY: &[Case<World>] = cases! { World;
    "count_0_with_no_array" ["seen 2: any pointer, NULL included"] => Ok(0), |w| array(w, 0, 0, 0);
    "count_0_leaves_the_array" ["seen 2: untouched"] => Ok(0), |w| array(w, 2, 64, 0);
    "count_minus_1_is_einval" ["seen 2"] => Err(Errno::EINVAL), |w| array(w, 2, 64, u64::MAX);
    "count_0xffffffff_is_einval" ["seen 2"] => Err(Errno::EINVAL), |w| array(w, 2, 64, 0xffff_ffff);
    "count_0x80000000_is_einval" ["seen 2"] => Err(Errno::EINVAL), |w| array(w, 2, 64, 0x8000_0000);
    "count_0x100000000_is_0" ["seen 2: upper 32 bits dropped"] => Ok(0), |w| array(w, 2, 64, 0x1_0000_0000);
    "count_0x100000001_is_1" ["seen 2: upper 32 bits dropped"] => Ok(1), |w| array(w, 2, 64, 0x1_0000_0001);
    "count_1_with_no_array_is_efault" ["seen 2: NULL"] => Err(Errno::EFAULT), |w| array(w, 0, 0, 1);
    "an_array_that_ends_in_its_third_op_is_efault" ["seen 2: 3rd op in an unmapped page"] => Err(Errno::EFAULT), |w| array(w, 3, 64, 3);
    "and_its_first_two_are_done" ["seen 2: the first two are done and have status 0"] => Ok(0b11), |w| { let mut a = filled(w, 3, 64); let _efault = w.raw(&mut a, 3); Ok(done(&a)) };
    "half_an_op_is_efault" ["seen 2: always 32 bytes"] => Err(Errno::EFAULT), |w| array(w, 1, 16, 1);
    "of_half_an_op_nothing_is_done" ["seen 2: always 32 bytes"] => Ok(0), |w| w.refs_taken(GFN, || { let _efault = w.raw(&mut filled(w, 1, 16), 1); Ok(Ok(0)) })?;
    "an_op_that_cannot_be_written_is_efault" ["seen 2: a read-only page"] => Err(Errno::EFAULT), |w| { let mut a = OpArray { read_only: 32, ..filled(w, 1, 32) }; w.raw(&mut a, 1).map(|()| 0) };
    "and_has_been_done" ["seen 2: reference taken, bfn never reported"] => Ok(1), |w| w.refs_taken(GFN, || { let _efault = w.raw(&mut OpArray { read_only: 32, ..filled(w, 1, 32) }, 1); Ok(Ok(0)) })?;
    "65536_ops_are_all_done" ["seen 2: none skipped or doubled"] => Ok(65536), |w| {
        let mut ops = vec![pv_iommu_op { status: 1, ..pv_iommu_op::new(IOMMUOP_query_caps, 0) }; 65536];
        w.batch(&mut ops)?;
        Ok(ops.iter().filter(|op| op.status == 0).count() as u64)
    };
    "128_lookups_of_which_every_4th_is_of_nobody" ["seen 3: batches"] => Ok(96), |w| {
        let mut ops: Vec<_> = (0..128).map(|i| w.foreign(LOOKUP, 0, 0, GFN + i % 8)).collect();
        ops.iter_mut().step_by(4).for_each(|op| op.domid = crate::bench::NOBODY.0);
        w.batch(&mut ops)?;
        Ok(ops.iter().filter(|op| op.status == 0).count() as u64)
    };
};

/// `ops` lookups, of which `bytes` bytes are mapped.
fn filled(w: &World, ops: usize, bytes: usize) -> OpArray {
    let ops: Vec<_> =
        (0..ops as u64).map(|i| pv_iommu_op { status: 1, ..w.foreign(LOOKUP, 0, 0, GFN + i) }).collect();
    let mut array = OpArray::new(&ops);
    array.bytes.truncate(bytes);
    array
}

/// A bit for each operation that was done.
fn done(array: &OpArray) -> u64 {
    (0..64).filter(|i| array.op(*i).is_some_and(|op| op.status == 0)).fold(0, |bits, i| bits | 1 << i)
}

/// The call; which operations are done after it.
fn array(w: &World, ops: usize, bytes: usize, count: u64) -> Answer {
    let mut array = filled(w, ops, bytes);
    w.raw(&mut array, count)?;
    Ok(done(&array))
}

/// Lookups and ballooning on the hypervisor that shipped, with control or without.
#[rustfmt::skip]
const XS: &[Case<World>] = cases! { World;
    "lookup_reaches_the_guests_frame" ["seen 3: bfn = mfn + offset, or mfn"] => Ok(1), |w| { let bfn = w.lookup(0, GFN)??; w.reaches(bfn, GFN)? };
    "a_frame_that_is_not_held_is_free_at_once" ["seen 4: no hold"] => Ok(1), |w| Ok(w.balloon(GFN)?);
    "a_looked_up_frame_is_not_free" ["seen 4: stays charged to the guest"] => Ok(0), |w| { w.lookup(0, GFN)??; Ok(w.balloon(GFN)?) };
    "a_looked_up_frame_stays_charged_to_the_guest" ["seen 4: nr_pages"] => Ok(0), |w| { w.lookup(0, GFN)??; let before = pages(w)?; w.balloon(GFN)?; Ok(before - pages(w)?) };
    "a_looked_up_frame_is_free_after_unmap" ["seen 4: page freed exactly here"] => Ok(1), |w| { let bfn = w.lookup(0, GFN)??; w.balloon(GFN)?; Ok(w.stage.freed(|| { w.unmap(0, bfn)??; Ok(()) })?) };
    "held_frames_count_against_the_guests_limit" ["seen 4: populates 0 extents until the hold is released"] => Ok(0), |w| {
        w.machine.set_max_pages(w.guest(), pages(w)?)?;
        w.lookup(0, GFN)??;
        w.balloon(GFN)?;
        w.stage.reserve(XENMEM_populate_physmap, w.guest(), &[Gfn(GFN)])
    };
    "after_the_unmap_there_is_room" ["seen 4: until the hold is released"] => Ok(1), |w| {
        w.machine.set_max_pages(w.guest(), pages(w)?)?;
        let bfn = w.lookup(0, GFN)??;
        w.balloon(GFN)?;
        w.unmap(0, bfn)??;
        w.stage.reserve(XENMEM_populate_physmap, w.guest(), &[Gfn(GFN)])
    };
    "a_guest_destroyed_while_a_lookup_is_live_is_no_zombie" ["seen 4: all pages freed"] => Ok(0), |w| {
        w.lookup(0, GFN)??;
        let mfn = w.machine.mfn(w.guest(), Gfn(GFN))?;
        w.machine.destroy_domain(w.guest())?;
        Ok(w.machine.frame(mfn).map_or(u64::MAX, |f| f.references.into()))
    };
    "the_guests_decrease_is_told_to_every_server" ["seen 5: held or not, ranges or not"] => Ok(2), |w| whole(w, |w| Ok(w.served(|v| v.decrease_reservation(&[Gfn(GFN)]).is_ok())?.1));
    "of_several_extents_once" ["seen 5: one broadcast per call"] => Ok(2), |w| whole(w, |w| Ok(w.served(|v| v.decrease_reservation(&[Gfn(GFN), Gfn(GFN2)]).is_ok())?.1));
    "nothing_of_it_comes_by_the_ring" ["seen 5: never buffered"] => Ok(0), |w| { w.lookup(0, GFN)??; w.served(|v| v.decrease_reservation(&[Gfn(GFN)]).is_ok())?; Ok(w.notices()?.len() as u64) };
    "the_frame_is_free_when_the_notice_comes" ["seen 5: after the page was freed"] => Ok(1), |w| Ok(w.stage.freed(|| w.served(|v| v.decrease_reservation(&[Gfn(GFN)]).is_ok()).map(|_| ()))?);
    "populate_is_told_to_nobody" ["seen 5: no"] => Ok(0), |w| { w.balloon(GFN)?; w.served(|v| v.mmio_read(Gfn(GFN2).addr(), 8).is_ok())?; whole(w, |w| Ok(w.served(|v| v.populate_physmap(&[Gfn(GFN)]).is_ok())?.1)) };
    "populate_over_a_frame_is_told_to_nobody" ["seen 4: no INVALIDATE at all"] => Ok(0), |w| whole(w, |w| Ok(w.served(|v| v.populate_physmap(&[Gfn(GFN)]).is_ok())?.1));
    "decrease_of_a_hole_is_told_to_nobody" ["seen 5: no"] => Ok(0), |w| whole(w, |w| Ok(w.served(|v| v.decrease_reservation(&[HOLE]).is_ok())?.1));
    "the_toolstacks_decreases_before_the_guest_has_run_are_told_to_nobody" ["seen 5"] => Ok(0), |w| { w.balloon(GFN)?; whole(w, |w| Ok(w.served(|v| v.mmio_read(0, 1).is_ok())?.1)) };
    "the_toolstacks_decreases_are_told_at_the_vcpus_next_resume_once" ["seen 5: coalesced into one round"] => Ok(2), |w| { w.served(|v| v.mmio_read(0, 1).is_ok())?; w.balloon(GFN)?; w.balloon(GFN2)?; whole(w, |w| Ok(w.served(|v| v.ram_read(0, &mut [0; 1]).is_ok() && v.mmio_read(0, 1).is_ok())?.1)) };
};

/// The same hypervisor, which lets others run after 2 extents.
#[rustfmt::skip]
const XS_PREEMPTED: &[Case<World>] = cases! { World;
    "a_preempted_decrease_is_told_once_more_each_time" ["seen 5: one per preemption"] => Ok(4), |w| whole(w, |w| Ok(w.served(|v| v.decrease_reservation(&[0, 1, 2, 3].map(|i| Gfn(GFN + i))).is_ok())?.1));
    "and_is_done_whole" ["seen 5: part of the extents already gone"] => Ok(4), |w| Ok(w.served(|v| v.decrease_reservation(&[0, 1, 2, 3].map(|i| Gfn(GFN + i))))?.0.map_or(0, |n| n as u64));
};

fn pages(w: &World) -> Result<u64, Errno> {
    Ok(w.machine.domain_info(w.guest()).ok_or(Errno::ESRCH)?.tot_pages)
}

/// How many requests came, all of which must say no more than that something has changed.
fn whole(w: &World, f: impl FnOnce(&World) -> Result<Vec<(usize, ioreq)>, Unmade>) -> Answer {
    let seen = f(w).map_err(|Unmade(e)| e)?;
    let right = |r: &ioreq| {
        let type_and_flags = (r.r#type, r.bits & 0x70);
        (type_and_flags, r.size, r.count, r.addr, r.data) == ((8, 0), 4, 0, 0, u64::MAX)
    };
    if seen.iter().all(|(_, r)| right(r)) { Ok(seen.len() as u64) } else { Err(Errno::EBADMSG) }
}

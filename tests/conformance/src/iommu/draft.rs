//! Rows of `iommu_op` as draft B of the PV-IOMMU interface has it, on the model.
//!
//! Each names who says so: the draft, the one hypervisor that shipped code of it (read, or seen to answer), or, where
//! those contradict each other or themselves, a decision of this project.

use mock_xen::Iommu;
use xen_ioreq::abi::iommu_op::*;
use xen_ioreq::{DomId, Errno, Gfn};

use super::world::{BFN, BFN2, GFN, GFN2, LARGE, RESERVED, RW, TOO_HIGH, World};
use crate::bench::{HOLE, NOBODY};
use crate::case::{Case, cases};

/// Page orders beyond the unit's, in the flags.
const ORDER_10: u16 = 10 << IOMMU_page_order_shift;
/// The shipped code loses these bits.
const ORDER_14: u16 = 14 << IOMMU_page_order_shift;
/// What query_caps says.
const CAN_MAP: u64 = (IOMMU_QUERY_map_cap | 9 << IOMMU_page_order_shift) as u64;
const HAS_ALL: u64 = IOMMU_QUERY_map_all_mfns as u64;
const MAP: u16 = IOMMUOP_map_foreign_page;
const LOOKUP: u16 = IOMMUOP_lookup_foreign_page;

/// Tables, each with the machine that it runs on.
pub(super) const TABLES: &[(&str, Iommu, &[Case<World>])] = &[
    ("iommu on", Iommu::On, ON),
    ("iommu on", Iommu::On, BALLOON),
    ("no iommu", Iommu::Absent, UNCONTROLLED),
    ("dom0-passthrough", Iommu::Passthrough, UNCONTROLLED),
    ("1:1", Iommu::OneToOne, ONE_TO_ONE),
];

/// An IOMMU with an empty table.
#[rustfmt::skip]
const ON: &[Case<World>] = cases! { World;
    "query_caps_says_map" ["draft B: query_caps"] => Ok(CAN_MAP), |w| w.caps()?;
    "query_caps_overwrites_the_flags" ["draft B: query_caps"] => Ok(CAN_MAP), |w| { let mut op = pv_iommu_op::new(IOMMUOP_query_caps, 0x3fe); w.op(&mut op)?.map(|_| op.flags.into()) };
    "no_ops_are_no_error" ["draft B"] => Ok(0), |w| { w.batch(&mut [])?; Ok(0) };
    "an_unknown_subop_is_enosys" ["decision: ENODEV is for servers, as in draft B"] => Err(Errno::ENOSYS), |w| w.op(&mut pv_iommu_op::new(99, 0))?;
    "subop_0_is_enosys" ["decision: ENODEV is for servers, as in draft B"] => Err(Errno::ENOSYS), |w| w.op(&mut pv_iommu_op::new(0, 0))?;
    "order_10_is_enospc" ["draft B: order too large"] => Err(Errno::ENOSPC), |w| w.op(&mut pv_iommu_op { flags: RW | ORDER_10, ..w.foreign(MAP, 0, BFN, GFN) })?;
    "order_14_is_enospc" ["draft B: bits 10 to 15; shipped code loses three"] => Err(Errno::ENOSPC), |w| w.op(&mut pv_iommu_op { flags: RW | ORDER_14, ..w.foreign(MAP, 0, BFN, GFN) })?;
    "order_10_of_a_lookup_is_enospc" ["draft B: order too large"] => Err(Errno::ENOSPC), |w| w.op(&mut pv_iommu_op { flags: ORDER_10, ..w.foreign(LOOKUP, 0, 0, GFN) })?;
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

    "map" ["draft B: map_foreign_page"] => Ok(0), |w| w.map(BFN, GFN)?;
    "map_reaches_the_guests_frame" ["draft B: map_foreign_page"] => Ok(1), |w| { w.map(BFN, GFN)??; w.reaches(BFN, GFN)? };
    "map_takes_a_reference" ["draft B: a new M2B entry"] => Ok(1), |w| w.refs_taken(GFN, || w.map(BFN, GFN))?;
    "the_same_map_again_succeeds" ["draft B: an identical M2B entry"] => Ok(0), |w| { w.map(BFN, GFN)??; w.map(BFN, GFN)? };
    "the_same_map_again_takes_no_reference" ["draft B: an identical M2B entry"] => Ok(0), |w| { w.map(BFN, GFN)??; w.refs_taken(GFN, || w.map(BFN, GFN))? };
    "the_same_map_by_another_server_succeeds" ["draft B: (BFN, domid, ioserver)"] => Ok(0), |w| { w.map(BFN, GFN)??; w.map_for(1, BFN, GFN)? };
    "the_same_map_by_another_server_takes_a_reference" ["draft B: (BFN, domid, ioserver)"] => Ok(1), |w| { w.map(BFN, GFN)??; w.refs_taken(GFN, || w.map_for(1, BFN, GFN))? };
    "map_of_the_same_frame_at_another_bfn_takes_a_reference" ["draft B: (BFN, domid, ioserver)"] => Ok(1), |w| { w.map(BFN, GFN)??; w.refs_taken(GFN, || w.map(BFN2, GFN))? };
    "map_at_a_bfn_of_another_frame_is_eperm" ["shipped code; draft B does not say"] => Err(Errno::EPERM), |w| { w.map(BFN, GFN)??; w.map(BFN, GFN2)? };
    "map_that_was_refused_takes_no_reference" ["shipped code; draft B does not say"] => Ok(0), |w| { w.map(BFN, GFN)??; w.refs_taken(GFN2, || w.map(BFN, GFN2))? };
    "map_that_was_refused_leaves_the_bfn" ["shipped code; draft B does not say"] => Ok(1), |w| { w.map(BFN, GFN)??; let _ = w.map(BFN, GFN2)?; w.reaches(BFN, GFN)? };
    "map_leaves_its_fields" ["draft B: bfn is in"] => Ok(1), |w| { let mut op = w.foreign(MAP, 0, BFN, GFN); w.op(&mut op)??; Ok(u64::from(op.bfn == BFN && op.gfn == GFN && op.flags == RW)) };
    "map_read_only_lets_the_device_read" ["draft B: IOMMUOP_readable"] => Ok(1), |w| { w.op(&mut pv_iommu_op { flags: IOMMUOP_readable, ..w.foreign(MAP, 0, BFN, GFN) })??; w.reaches(BFN, GFN)? };
    "map_read_only_keeps_the_device_from_writing" ["draft B: IOMMUOP_writeable"] => Err(Errno::EFAULT), |w| { w.op(&mut pv_iommu_op { flags: IOMMUOP_readable, ..w.foreign(MAP, 0, BFN, GFN) })??; w.writes(BFN) };
    "map_writable_lets_the_device_write" ["draft B: IOMMUOP_writeable"] => Ok(0), |w| { w.map(BFN, GFN)??; w.writes(BFN) };
    "map_neither_readable_nor_writable_is_einval" ["decision: it would map nothing"] => Err(Errno::EINVAL), |w| w.op(&mut pv_iommu_op { flags: 0, ..w.foreign(MAP, 0, BFN, GFN) })?;
    "map_with_swap_mfn" ["draft B: IOMMUOP_swap_mfn"] => Ok(0), |w| w.op(&mut pv_iommu_op { flags: RW | IOMMUOP_swap_mfn, ..w.foreign(MAP, 0, BFN, GFN) })?;
    "map_of_domid_self_is_eperm" ["draft B: DOMID_SELF"] => Err(Errno::EPERM), |w| w.op(&mut pv_iommu_op { domid: DomId::SELF.0, ..w.foreign(MAP, 0, BFN, GFN) })?;
    "map_of_ones_own_number_is_eperm" ["draft B: DOMID_SELF"] => Err(Errno::EPERM), |w| w.op(&mut pv_iommu_op { domid: 0, ..w.foreign(MAP, 0, BFN, GFN) })?;
    "map_of_nobody_is_enxio" ["draft B: domid not valid"] => Err(Errno::ENXIO), |w| w.op(&mut pv_iommu_op { domid: NOBODY.0, ..w.foreign(MAP, 0, BFN, GFN) })?;
    "map_of_domid_invalid_is_enxio" ["draft B: domid not valid"] => Err(Errno::ENXIO), |w| w.op(&mut pv_iommu_op { domid: DomId::INVALID.0, ..w.foreign(MAP, 0, BFN, GFN) })?;
    "map_of_a_pv_domain_is_eperm" ["shipped code; seen"] => Err(Errno::EPERM), |w| w.op(&mut pv_iommu_op { domid: w.pv.0, ..w.foreign(MAP, 0, BFN, GFN) })?;
    "map_of_a_hole_is_enxio" ["draft B: GFN not valid"] => Err(Errno::ENXIO), |w| w.map(BFN, HOLE.0)?;
    "map_of_gfn_all_ones_is_enxio" ["draft B: GFN not valid"] => Err(Errno::ENXIO), |w| w.map(BFN, u64::MAX)?;
    "map_of_a_ballooned_frame_is_enxio" ["draft B: GFN not valid"] => Err(Errno::ENXIO), |w| { w.balloon(GFN)?; w.map(BFN, GFN)? };
    "map_for_an_unknown_server_is_enodev" ["draft B: ioserver not valid"] => Err(Errno::ENODEV), |w| w.op(&mut pv_iommu_op { ioserver: 7, ..w.foreign(MAP, 0, BFN, GFN) })?;
    "map_for_server_0xffff_is_enodev" ["draft B: ioserver not valid"] => Err(Errno::ENODEV), |w| w.op(&mut pv_iommu_op { ioserver: 0xffff, ..w.foreign(MAP, 0, BFN, GFN) })?;
    "map_inside_an_rmrr_is_eacces" ["draft B: RMRR"] => Err(Errno::EACCES), |w| w.map(RESERVED, GFN)?;
    "map_above_what_the_unit_translates_is_eio" ["draft B: IOMMU unit returned error"] => Err(Errno::EIO), |w| w.map(TOO_HIGH, GFN)?;
    "map_at_bfn_all_ones_is_eio" ["draft B: IOMMU unit returned error"] => Err(Errno::EIO), |w| w.map(u64::MAX, GFN)?;
    "map_by_the_stub_domain_for_anothers_server_is_enodev" ["draft B: emulators in domains of their own; ioserver"] => Err(Errno::ENODEV), |w| w.stub_op(&mut w.foreign(MAP, 0, BFN, GFN))?;
    "query_caps_of_a_stub_domain_with_a_device_says_map" ["draft B: emulators in domains of their own"] => Ok(CAN_MAP), |w| { let mut op = pv_iommu_op::new(IOMMUOP_query_caps, 0); w.stub_op(&mut op)?.map(|_| op.flags.into()) };
    "map_by_a_stub_domain_of_a_domain_that_is_not_its_target_is_eperm" ["draft B: privilege"] => Err(Errno::EPERM), |w| w.stub_op(&mut pv_iommu_op { domid: w.pv.0, ..w.foreign(MAP, 0, BFN, GFN) })?;

    "unmap" ["draft B: unmap_foreign_page"] => Ok(0), |w| { w.map(BFN, GFN)??; w.unmap(0, BFN)? };
    "unmap_gives_the_reference_back" ["draft B: unmap_foreign_page"] => Ok(0), |w| w.refs_taken(GFN, || { w.map(BFN, GFN)??; w.unmap(0, BFN) })?;
    "unmap_ends_the_devices_access" ["draft B: unmap_foreign_page"] => Err(Errno::EFAULT), |w| { w.map(BFN, GFN)??; w.unmap(0, BFN)??; w.read(BFN) };
    "unmap_twice_is_enoent" ["shipped code"] => Err(Errno::ENOENT), |w| { w.map(BFN, GFN)??; w.unmap(0, BFN)??; w.unmap(0, BFN)? };
    "unmap_of_what_was_never_mapped_is_enoent" ["shipped code"] => Err(Errno::ENOENT), |w| w.unmap(0, BFN)?;
    "unmap_by_another_server_is_enoent" ["draft B: (BFN, domid, ioserver), all of it"] => Err(Errno::ENOENT), |w| { w.map(BFN, GFN)??; w.unmap(1, BFN)? };
    "unmap_by_another_server_leaves_the_mapping" ["draft B: (BFN, domid, ioserver), all of it"] => Ok(1), |w| { w.map(BFN, GFN)??; let _ = w.unmap(1, BFN)?; w.reaches(BFN, GFN)? };
    "unmap_by_one_of_two_servers_leaves_the_mapping" ["shipped code: no entry under any ioserver remains"] => Ok(1), |w| { w.map(BFN, GFN)??; w.map_for(1, BFN, GFN)??; w.unmap(0, BFN)??; w.reaches(BFN, GFN)? };
    "unmap_by_both_servers_ends_it" ["shipped code: no entry under any ioserver remains"] => Err(Errno::EFAULT), |w| { w.map(BFN, GFN)??; w.map_for(1, BFN, GFN)??; w.unmap(0, BFN)??; w.unmap(1, BFN)??; w.read(BFN) };
    "unmap_at_one_of_two_bfns_leaves_the_other" ["draft B: (BFN, domid, ioserver)"] => Ok(1), |w| { w.map(BFN, GFN)??; w.map(BFN2, GFN)??; w.unmap(0, BFN)??; w.reaches(BFN2, GFN)? };
    "unmap_by_another_domain_is_enoent" ["decision: the caller is part of the entry"] => Err(Errno::ENOENT), |w| { w.map(BFN, GFN)??; w.stub_op(&mut pv_iommu_op { bfn: BFN, ..pv_iommu_op::new(IOMMUOP_unmap_foreign_page, 0) })? };
    "unmap_of_a_bfn_beyond_all_memory_is_enoent" ["decision: checked; shipped code panics"] => Err(Errno::ENOENT), |w| w.unmap(0, 1 << 44)?;
    "unmap_of_bfn_all_ones_is_enoent" ["decision: checked; shipped code panics"] => Err(Errno::ENOENT), |w| w.unmap(0, u64::MAX)?;
    "unmap_frees_the_bfn_for_another_frame" ["draft B: unmap_foreign_page"] => Ok(1), |w| { w.map(BFN, GFN)??; w.unmap(0, BFN)??; w.map(BFN, GFN2)??; w.reaches(BFN, GFN2)? };

    "lookup_of_what_is_not_mapped_is_enoent" ["draft B: M2B, then 1:1, then -ENOENT"] => Err(Errno::ENOENT), |w| w.lookup(0, GFN)?;
    "lookup_of_what_is_mapped_is_its_bfn" ["draft B: M2B"] => Ok(BFN), |w| { w.map(BFN, GFN)??; w.lookup(0, GFN)? };
    "lookup_by_the_server_that_mapped_takes_no_reference" ["draft B: an identical M2B entry"] => Ok(0), |w| { w.map(BFN, GFN)??; w.refs_taken(GFN, || w.lookup(0, GFN))? };
    "lookup_by_another_server_takes_a_reference" ["draft B: a new M2B entry"] => Ok(1), |w| { w.map(BFN, GFN)??; w.refs_taken(GFN, || w.lookup(1, GFN))? };
    "lookup_by_another_server_keeps_the_mapping_past_the_first_ones_unmap" ["draft B: M2B"] => Ok(1), |w| { w.map(BFN, GFN)??; w.lookup(1, GFN)??; w.unmap(0, BFN)??; w.reaches(BFN, GFN)? };
    "lookup_that_fails_leaves_the_bfn" ["seen: the caller's value stays"] => Ok(0xdead), |w| { let mut op = w.foreign(LOOKUP, 0, 0xdead, GFN); let _ = w.op(&mut op)?; Ok(op.bfn) };
    "lookup_of_ones_own_is_eperm" ["draft B: DOMID_SELF"] => Err(Errno::EPERM), |w| w.op(&mut pv_iommu_op { domid: 0, ..w.foreign(LOOKUP, 0, 0, GFN) })?;
    "lookup_of_nobody_is_enxio" ["draft B: domid not valid"] => Err(Errno::ENXIO), |w| w.op(&mut pv_iommu_op { domid: NOBODY.0, ..w.foreign(LOOKUP, 0, 0, GFN) })?;
    "lookup_of_a_hole_is_enxio" ["draft B: GFN not valid"] => Err(Errno::ENXIO), |w| w.lookup(0, HOLE.0)?;
    "lookup_for_an_unknown_server_is_enodev" ["draft B: ioserver not valid"] => Err(Errno::ENODEV), |w| w.op(&mut pv_iommu_op { ioserver: 7, ..w.foreign(LOOKUP, 0, 0, GFN) })?;
    "lookup_of_a_pv_domain_is_eperm" ["shipped code; seen"] => Err(Errno::EPERM), |w| w.op(&mut pv_iommu_op { domid: w.pv.0, ..w.foreign(LOOKUP, 0, 0, GFN) })?;

    "map_page" ["draft: map_page"] => Ok(0), |w| w.map_own(BFN, w.own(0))?;
    "map_page_at_a_second_bfn" ["seen: same MFN to a second BFN"] => Ok(0), |w| { w.map_own(BFN, w.own(0))??; w.map_own(BFN2, w.own(0))? };
    "map_page_of_the_same_again_is_eperm" ["seen: BFN already mapped, even identically"] => Err(Errno::EPERM), |w| { w.map_own(BFN, w.own(0))??; w.map_own(BFN, w.own(0))? };
    "map_page_at_a_bfn_of_another_is_eperm" ["seen: other MFN to the same BFN"] => Err(Errno::EPERM), |w| { w.map_own(BFN, w.own(0))??; w.map_own(BFN, w.own(1))? };
    "map_page_of_a_frame_that_one_has_not_is_eperm" ["seen: not own"] => Err(Errno::EPERM), |w| w.map_own(BFN, HOLE.0)?;
    "map_page_of_xens_frame_is_eperm" ["seen: Xen-owned MFN"] => Err(Errno::EPERM), |w| w.map_own(BFN, 0)?;
    "map_page_with_no_ref_cnt_is_einval" ["decision: no mapping without a reference"] => Err(Errno::EINVAL), |w| w.op(&mut pv_iommu_op { bfn: BFN, gfn: w.own(0), ..pv_iommu_op::new(IOMMUOP_map_page, RW | IOMMU_MAP_OP_no_ref_cnt) })?;
    "map_page_inside_an_rmrr_is_eacces" ["draft: RMRR"] => Err(Errno::EACCES), |w| w.map_own(RESERVED, w.own(0))?;
    "map_page_above_what_the_unit_translates_is_eio" ["draft: IOMMU unit returned error"] => Err(Errno::EIO), |w| w.map_own(TOO_HIGH, w.own(0))?;
    "map_page_neither_readable_nor_writable_is_einval" ["decision: it would map nothing"] => Err(Errno::EINVAL), |w| w.op(&mut pv_iommu_op { bfn: BFN, gfn: w.own(0), ..pv_iommu_op::new(IOMMUOP_map_page, 0) })?;
    "map_page_lets_the_device_write" ["draft: map_page"] => Ok(0), |w| { w.map_own(BFN, w.own(0))??; w.writes(BFN) };
    "unmap_page" ["draft: unmap_page"] => Ok(0), |w| { w.map_own(BFN, w.own(0))??; w.unmap_own(BFN)? };
    "unmap_page_ends_the_devices_access" ["draft: unmap_page"] => Err(Errno::EFAULT), |w| { w.map_own(BFN, w.own(0))??; w.unmap_own(BFN)??; w.read(BFN) };
    "unmap_page_twice_is_enoent" ["seen: again"] => Err(Errno::ENOENT), |w| { w.map_own(BFN, w.own(0))??; w.unmap_own(BFN)??; w.unmap_own(BFN)? };
    "unmap_page_of_a_hole_is_enoent" ["seen: hole"] => Err(Errno::ENOENT), |w| w.unmap_own(BFN)?;
    "unmap_page_of_a_foreign_mapping_is_enoent" ["decision: that is unmap_foreign_page's"] => Err(Errno::ENOENT), |w| { w.map(BFN, GFN)??; w.unmap_own(BFN)? };
    "unmap_foreign_of_an_own_mapping_is_enoent" ["seen: bfn of a map_page"] => Err(Errno::ENOENT), |w| { w.map_own(BFN, w.own(0))??; w.unmap(0, BFN)? };
    "map_foreign_at_a_bfn_of_an_own_frame_is_eperm" ["shipped code; draft B does not say"] => Err(Errno::EPERM), |w| { w.map_own(BFN, w.own(0))??; w.map(BFN, GFN)? };
    "map_page_at_a_bfn_of_a_foreign_frame_is_eperm" ["shipped code; draft B does not say"] => Err(Errno::EPERM), |w| { w.map(BFN, GFN)??; w.map_own(BFN, w.own(0))? };
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
        w.stage.reserve(xen_ioreq::abi::memory::XENMEM_populate_physmap, w.guest(), &[Gfn(GFN)])?;
        w.reaches(BFN, GFN)?
    };
    "a_destroyed_guests_mapped_frame_is_free_after_unmap" ["draft B: references"] => Ok(1), |w| { w.map(BFN, GFN)??; w.machine.destroy_domain(w.guest())?; Ok(w.stage.freed(|| { w.unmap(0, BFN)??; Ok(()) })?) };
    "nothing_of_it_is_seen_by_the_oracle" ["no frame is given back while a device reaches it"] => Ok(0), |w| { w.map(BFN, GFN)??; w.balloon(GFN)?; let _ = w.read(BFN)?; w.unmap(0, BFN)??; Ok(w.machine.violation_count() + w.machine.audit().len() as u64) };
};

/// No IOMMU, or one that lets dom0's devices through: a BFN is an MFN, and only lookups make sense.
#[rustfmt::skip]
const UNCONTROLLED: &[Case<World>] = cases! { World;
    "query_caps_says_nothing" ["draft B: query_caps"] => Ok(0), |w| w.caps()?;
    "map_foreign_is_eperm" ["draft B: conditions 1 and 3"] => Err(Errno::EPERM), |w| w.map(BFN, GFN)?;
    "map_foreign_leaves_the_bfn" ["draft B: conditions 1 and 3"] => Ok(BFN), |w| { let mut op = w.foreign(MAP, 0, BFN, GFN); let _ = w.op(&mut op)?; Ok(op.bfn) };
    "map_foreign_takes_no_reference" ["draft B: conditions 1 and 3"] => Ok(0), |w| w.refs_taken(GFN, || w.map(BFN, GFN))?;
    "map_page_is_eperm" ["seen: no control"] => Err(Errno::EPERM), |w| w.map_own(BFN, w.own(0))?;
    "unmap_page_is_enoent" ["seen: no control"] => Err(Errno::ENOENT), |w| w.unmap_own(BFN)?;
    "lookup_reaches_the_guests_frame" ["draft B: the MFN is the bus address"] => Ok(1), |w| { let bfn = w.lookup(0, GFN)??; w.reaches(bfn, GFN)? };
    "lookup_takes_a_reference" ["draft B: a new M2B entry"] => Ok(1), |w| w.refs_taken(GFN, || w.lookup(0, GFN))?;
    "lookup_again_takes_none" ["draft B: an identical M2B entry"] => Ok(0), |w| { w.lookup(0, GFN)??; w.refs_taken(GFN, || w.lookup(0, GFN))? };
    "lookup_again_gives_the_same" ["draft B: M2B"] => Ok(0), |w| { let a = w.lookup(0, GFN)??; w.lookup(0, GFN)?.map(|b| a ^ b) };
    "lookup_of_two_frames_gives_two" ["draft B: the MFN"] => Ok(1), |w| { let a = w.lookup(0, GFN)??; w.lookup(0, GFN2)?.map(|b| u64::from(a != b)) };
    "lookup_of_a_hole_is_enxio" ["draft B: GFN not valid"] => Err(Errno::ENXIO), |w| w.lookup(0, HOLE.0)?;
    "lookup_ignores_the_bfn_that_came_in" ["decision: bfn is out only"] => Ok(1), |w| { let mut op = w.foreign(LOOKUP, 0, BFN, GFN); w.op(&mut op)??; w.reaches(op.bfn, GFN)? };
    "unmap_gives_the_reference_back" ["draft B: unmap_foreign_page"] => Ok(0), |w| w.refs_taken(GFN, || { let bfn = w.lookup(0, GFN)??; w.unmap(0, bfn) })?;
    "unmap_of_a_frame_that_was_not_looked_up_is_enoent" ["decision: checked; shipped code panics"] => Err(Errno::ENOENT), |w| { let bfn = w.lookup(0, GFN)??; w.unmap(0, bfn)??; w.unmap(0, bfn)? };
    "unmap_by_another_server_is_enoent" ["draft B: (BFN, domid, ioserver), all of it"] => Err(Errno::ENOENT), |w| { let bfn = w.lookup(0, GFN)??; w.unmap(1, bfn)? };
    "unmap_of_an_mfn_beyond_all_memory_is_enoent" ["decision: checked; shipped code panics"] => Err(Errno::ENOENT), |w| w.unmap(0, 1 << 44)?;
    "a_looked_up_frame_is_not_free" ["draft B: no IOMMU, the emulator must unmap"] => Ok(0), |w| { w.lookup(0, GFN)??; Ok(w.balloon(GFN)?) };
    "a_looked_up_frame_is_free_after_unmap" ["draft B: no IOMMU, the emulator must unmap"] => Ok(1), |w| { let bfn = w.lookup(0, GFN)??; w.balloon(GFN)?; Ok(w.stage.freed(|| { w.unmap(0, bfn)??; Ok(()) })?) };
    "the_notice_names_the_mfn" ["draft B: BFN in data"] => Ok(0), |w| { let bfn = w.lookup(0, GFN)??; w.balloon(GFN)?; w.notices()?.first().map(|n| n ^ bfn).ok_or(Errno::ENODATA) };
    "a_frame_that_nobody_looked_up_is_free_at_once" ["draft B: ballooning"] => Ok(1), |w| Ok(w.balloon(GFN)?);
};

/// Every frame of the host mapped at its own number, without references.
#[rustfmt::skip]
const ONE_TO_ONE: &[Case<World>] = cases! { World;
    "query_caps_says_map_and_all_mfns" ["draft B: query_caps"] => Ok(CAN_MAP | HAS_ALL), |w| w.caps()?;
    "the_map_itself_holds_no_frame" ["Crossley: no reference to the MFN"] => Ok(1), |w| Ok(w.balloon(GFN)?);
    "lookup_reaches_the_guests_frame" ["Crossley: the BFN that is 1:1 mapped"] => Ok(1), |w| { let bfn = w.lookup(0, GFN)??; w.reaches(bfn, GFN)? };
    "lookup_takes_a_reference" ["draft B: a new M2B entry"] => Ok(1), |w| w.refs_taken(GFN, || w.lookup(0, GFN))?;
    "a_looked_up_frame_is_free_after_unmap" ["draft B: ballooning"] => Ok(1), |w| { let bfn = w.lookup(0, GFN)??; w.balloon(GFN)?; Ok(w.stage.freed(|| { w.unmap(0, bfn)??; Ok(()) })?) };
    "unmap_leaves_the_1_to_1_mapping" ["the entry was not made by the lookup"] => Ok(0), |w| { let bfn = w.lookup(0, GFN)??; w.unmap(0, bfn)??; w.lookup(0, GFN)?.map(|b| b ^ bfn) };
    "lookup_of_what_is_mapped_elsewhere_prefers_that" ["Crossley: M2B first"] => Ok(BFN), |w| { w.map(BFN, GFN)??; w.lookup(0, GFN)? };
    "map_of_another_frame_into_the_map_is_eperm" ["shipped code; draft B does not say"] => Err(Errno::EPERM), |w| { let bfn = w.lookup(0, GFN)??; w.unmap(0, bfn)??; w.map(bfn, GFN2)? };
    "map_of_the_frame_at_its_own_number" ["decision: the same MFN is no conflict"] => Ok(0), |w| { let bfn = w.lookup(0, GFN)??; w.unmap(0, bfn)??; w.map(bfn, GFN)? };
    "unmap_page_punches_a_hole" ["Crossley: unmap_page for what conflicts"] => Err(Errno::ENOENT), |w| { let bfn = w.lookup(0, GFN)??; w.unmap(0, bfn)??; w.unmap_own(bfn)??; w.lookup(0, GFN)? };
    "into_the_hole_another_frame_is_mapped" ["Crossley: unmap_page for what conflicts"] => Ok(1), |w| { let bfn = w.lookup(0, GFN)??; w.unmap(0, bfn)??; w.unmap_own(bfn)??; w.map(bfn, GFN2)??; w.reaches(bfn, GFN2)? };
    "unmap_page_of_a_looked_up_frame_is_enoent" ["decision: that is unmap_foreign_page's"] => Err(Errno::ENOENT), |w| { let bfn = w.lookup(0, GFN)??; w.unmap_own(bfn)? };
    "map_outside_the_map" ["draft B: map_foreign_page"] => Ok(1), |w| { w.map(BFN, GFN)??; w.reaches(BFN, GFN)? };
};

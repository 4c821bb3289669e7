//! Rows of `dm_op`: framing, the life of servers, their ranges.

use xen_ioreq::abi::dm_op::*;
use xen_ioreq::abi::ioreq::{
    HVM_IOREQSRV_BUFIOREQ_ATOMIC as ATOMIC, HVM_IOREQSRV_BUFIOREQ_LEGACY as LEGACY,
    HVM_IOREQSRV_BUFIOREQ_OFF as OFF,
};
use xen_ioreq::{DomId, Errno};

use super::stage::Stage;
use crate::bench::NOBODY;
use crate::case::{Case, cases};

const PORT: u32 = XEN_DMOP_IO_RANGE_PORT;
const MEMORY: u32 = XEN_DMOP_IO_RANGE_MEMORY;
const PCI: u32 = XEN_DMOP_IO_RANGE_PCI;
/// An operation that no Xen has.
const NO_OP: u32 = 99;

/// Framing of the hypercall, and on whom it may be made.
pub(super) const FRAMING: &[Case<Stage>] = cases! { Stage;
    "nr_vcpus" ["dm.c"] => Ok(1), |s| s.nr_vcpus(s.guest(), 0);
    "of_nobody_is_esrch" ["seen: no such domain"] => Err(Errno::ESRCH), |s| s.nr_vcpus(NOBODY, 0);
    "of_dom0_by_dom0_is_eperm" ["seen: DM_OP on dom0"] => Err(Errno::EPERM), |s| s.nr_vcpus(DomId(0), 0);
    "of_domid_self_is_esrch" ["dm.c: a number, not the caller"] => Err(Errno::ESRCH), |s| s.nr_vcpus(DomId::SELF, 0);
    "of_domid_invalid_is_esrch" ["dm.c"] => Err(Errno::ESRCH), |s| s.nr_vcpus(DomId::INVALID, 0);
    "pad_that_is_not_0_is_einval" ["dm_op.h"] => Err(Errno::EINVAL), |s| s.nr_vcpus(s.guest(), 1);
    "unknown_op_is_eopnotsupp" ["seen: unknown DM_OP"] => Err(Errno::EOPNOTSUPP), |s| s.tell(NO_OP, 0u32);
    "op_0_is_eopnotsupp" ["dm.c"] => Err(Errno::EOPNOTSUPP), |s| s.tell(0, 0u32);
    "set_irq_level_on_x86_is_eopnotsupp" ["dm_op.h: Arm only"] => Err(Errno::EOPNOTSUPP), |s| s.tell(XEN_DMOP_set_irq_level, xen_dm_op_set_irq_level::default());
    "unknown_op_with_pad_is_eopnotsupp" ["dm.c: the op comes first"] => Err(Errno::EOPNOTSUPP), |s| s.dm(s.guest(), NO_OP, 1, &mut 0u32).map(|()| 0);
    "unknown_op_of_nobody_is_esrch" ["dm.c: the domain comes first"] => Err(Errno::ESRCH), |s| s.dm(NOBODY, NO_OP, 0, &mut 0u32).map(|()| 0);
    "unknown_op_of_dom0_is_eperm" ["dm.c: the domain comes first"] => Err(Errno::EPERM), |s| s.dm(DomId(0), NO_OP, 0, &mut 0u32).map(|()| 0);
    "buffer_of_4_bytes_is_efault" ["dm.c"] => Err(Errno::EFAULT), |s| s.short(XEN_DMOP_nr_vcpus, 4);
    "buffer_without_the_struct_is_efault" ["dm.c"] => Err(Errno::EFAULT), |s| s.short(XEN_DMOP_nr_vcpus, 8);
    "buffer_that_cuts_the_struct_is_efault" ["dm.c"] => Err(Errno::EFAULT), |s| s.short(XEN_DMOP_map_io_range_to_ioreq_server, 31);
    "buffer_that_just_holds_the_struct" ["dm.c"] => Ok(0), |s| s.short(XEN_DMOP_nr_vcpus, 12);
    "three_buffers_are_e2big" ["dm.c"] => Err(Errno::E2BIG), |s| s.bench.hypervisor.dm_op(s.guest(), &mut [&mut [0; 32], &mut [0; 8], &mut [0; 8]]).map(|()| 0);
    "17_buffers_are_e2big" ["dm.c, and Linux's limit of 16"] => Err(Errno::E2BIG), |s| s.bench.hypervisor.dm_op(s.guest(), &mut std::array::from_fn::<_, 17, _>(|_| &mut [][..])).map(|()| 0);
};

/// Servers: created, enabled, asked, destroyed.
pub(super) const LIFE: &[Case<Stage>] = cases! { Stage;
    "create_without_a_ring" ["ioreq.c"] => Ok(0), |s| s.create(OFF);
    "create_with_a_legacy_ring" ["ioreq.c"] => Ok(0), |s| s.create(LEGACY);
    "create_with_an_atomic_ring" ["ioreq.c"] => Ok(0), |s| s.create(ATOMIC);
    "create_with_mode_3_is_einval" ["ioreq.c"] => Err(Errno::EINVAL), |s| s.create(3);
    "create_with_mode_255_is_einval" ["ioreq.c"] => Err(Errno::EINVAL), |s| s.create(255);
    "create_with_pad_is_einval" ["dm_op.h"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_create_ioreq_server, xen_dm_op_create_ioreq_server { pad: [0, 1, 0], ..Default::default() });
    "second_server_has_the_next_number" ["ioreq.c"] => Ok(1), |s| { s.server()?; s.create(ATOMIC) };
    "number_of_a_destroyed_server_is_given_again" ["ioreq.c"] => Ok(0), |s| { s.server()?; s.server()?; s.destroy(0)?; s.create(OFF) };
    "8th_server_has_number_7" ["ioreq.c: MAX_NR_IOREQ_SERVERS"] => Ok(7), |s| { for _ in 0..7 { s.server_with(OFF)?; } s.create(OFF) };
    "9th_server_is_enospc" ["ioreq.c: MAX_NR_IOREQ_SERVERS"] => Err(Errno::ENOSPC), |s| { s.all_servers()?; s.create(OFF) };
    "9th_server_of_mode_3_is_einval" ["ioreq.c: the mode comes first"] => Err(Errno::EINVAL), |s| { s.all_servers()?; s.create(3) };
    "destroy" ["ioreq.c"] => Ok(0), |s| { let id = s.server()?; s.destroy(id) };
    "destroy_an_enabled_server" ["ioreq.c"] => Ok(0), |s| { let (id, _) = s.enabled()?; s.destroy(id) };
    "destroy_twice_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| { let id = s.server()?; s.destroy(id)?; s.destroy(id) };
    "destroy_a_number_in_range_that_nobody_has_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| s.destroy(5);
    "destroy_a_number_out_of_range_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| s.destroy(8);
    "destroy_number_0xffff_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| s.destroy(0xffff);
    "destroy_with_pad_is_einval" ["dm_op.h"] => Err(Errno::EINVAL), |s| { let id = s.server()?; s.tell(XEN_DMOP_destroy_ioreq_server, xen_dm_op_destroy_ioreq_server { id, pad: 1 }) };
    "destroy_that_was_refused_leaves_the_server" ["dm.c"] => Ok(0), |s| { let id = s.server()?; let _ = s.tell(XEN_DMOP_destroy_ioreq_server, xen_dm_op_destroy_ioreq_server { id, pad: 1 }); s.destroy(id) };
    "enable" ["ioreq.c"] => Ok(0), |s| { let id = s.server()?; s.set_state(id, 1) };
    "enable_twice" ["ioreq.c"] => Ok(0), |s| { let id = s.server()?; s.set_state(id, 1)?; s.set_state(id, 1) };
    "enable_by_a_number_above_1" ["ioreq.c: a truth value"] => Ok(0), |s| { let id = s.server()?; s.set_state(id, 2) };
    "disable_a_server_that_was_never_enabled" ["ioreq.c"] => Ok(0), |s| { let id = s.server()?; s.set_state(id, 0) };
    "disable_twice" ["ioreq.c"] => Ok(0), |s| { let (id, _) = s.enabled()?; s.set_state(id, 0)?; s.set_state(id, 0) };
    "enable_again_after_disable" ["ioreq.c"] => Ok(0), |s| { let (id, _) = s.enabled()?; s.set_state(id, 0)?; s.set_state(id, 1) };
    "enable_with_pad_is_einval" ["dm_op.h"] => Err(Errno::EINVAL), |s| { let id = s.server()?; s.tell(XEN_DMOP_set_ioreq_server_state, xen_dm_op_set_ioreq_server_state { id, enabled: 1, pad: 1 }) };
    "enable_an_unknown_server_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| s.set_state(3, 1);
    "info_of_a_ring_has_a_port" ["ioreq.c"] => Ok(1), |s| { let id = s.server()?; s.info(id, XEN_DMOP_no_gfns).map(|i| u64::from(i.bufioreq_port != 0)) };
    "info_without_a_ring_has_none" ["ioreq.c"] => Ok(0), |s| { let id = s.server_with(OFF)?; s.info(id, XEN_DMOP_no_gfns).map(|i| i.bufioreq_port.into()) };
    "info_with_no_gfns_has_no_gfn" ["ioreq.c"] => Ok(0), |s| { let id = s.server()?; s.info(id, XEN_DMOP_no_gfns).map(|i| i.ioreq_gfn | i.bufioreq_gfn) };
    "info_with_an_unknown_flag_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| { let id = s.server()?; s.info(id, 2).map(|_| 0) };
    "info_of_an_unknown_server_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| s.info(0, XEN_DMOP_no_gfns).map(|_| 0);
    "info_with_gfns_of_a_guest_without_frames_for_them_is_enomem" ["ioreq.c: the toolstack set none aside"] => Err(Errno::ENOMEM), |s| { let id = s.server()?; s.info(id, 0).map(|_| 0) };
    "info_with_gfns_of_pages_mapped_as_a_resource_is_eperm" ["ioreq.c"] => Err(Errno::EPERM), |s| { let id = s.server()?; let _pages = s.pages(s.guest(), id, 0, 2)?; s.info(id, 0).map(|_| 0) };
};

/// Ranges.
#[rustfmt::skip]
pub(super) const RANGES: &[Case<Stage>] = cases! { Stage;
    "map_ports" ["ioreq.c"] => Ok(0), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f) };
    "map_one_port" ["ioreq.c"] => Ok(0), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x1000) };
    "map_ports_beyond_64k" ["ioreq.c: not checked"] => Ok(0), |s| { let id = s.server()?; s.map(id, PORT, 0x1_0000, 0x2_0000) };
    "map_memory" ["ioreq.c"] => Ok(0), |s| { let id = s.server()?; s.map(id, MEMORY, 0xfe00_0000, 0xfe00_0fff) };
    "map_all_memory" ["ioreq.c"] => Ok(0), |s| { let id = s.server()?; s.map(id, MEMORY, 0, u64::MAX) };
    "map_a_pci_function" ["ioreq.c"] => Ok(0), |s| { let id = s.server()?; s.map(id, PCI, 0x20, 0x20) };
    "map_of_a_disabled_and_of_an_enabled_server" ["ioreq.c"] => Ok(0), |s| { let (id, _) = s.enabled()?; s.map(id, PORT, 0x1000, 0x101f) };
    "map_start_above_end_is_einval" ["ioreq.c"] => Err(Errno::EINVAL), |s| { let id = s.server()?; s.map(id, PORT, 0x1001, 0x1000) };
    "map_a_bad_type_is_einval" ["ioreq.c"] => Err(Errno::EINVAL), |s| { let id = s.server()?; s.map(id, 3, 0x1000, 0x1000) };
    "map_with_pad_is_einval" ["dm_op.h"] => Err(Errno::EINVAL), |s| { let id = s.server()?; s.tell(XEN_DMOP_map_io_range_to_ioreq_server, xen_dm_op_ioreq_server_range { id, pad: 1, ..Default::default() }) };
    "map_for_an_unknown_server_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| s.map(2, PORT, 0x1000, 0x1000);
    "map_start_above_end_for_an_unknown_server_is_einval" ["ioreq.c: the range comes first"] => Err(Errno::EINVAL), |s| s.map(2, PORT, 0x1001, 0x1000);
    "map_a_bad_type_for_an_unknown_server_is_enoent" ["ioreq.c: the server comes first"] => Err(Errno::ENOENT), |s| s.map(2, 3, 0x1000, 0x1000);
    "map_the_same_twice_is_eexist" ["ioreq.c"] => Err(Errno::EEXIST), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f)?; s.map(id, PORT, 0x1000, 0x101f) };
    "map_a_part_is_eexist" ["ioreq.c"] => Err(Errno::EEXIST), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f)?; s.map(id, PORT, 0x1008, 0x1008) };
    "map_over_the_start_is_eexist" ["ioreq.c"] => Err(Errno::EEXIST), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f)?; s.map(id, PORT, 0xff0, 0x1000) };
    "map_over_the_end_is_eexist" ["ioreq.c"] => Err(Errno::EEXIST), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f)?; s.map(id, PORT, 0x101f, 0x1030) };
    "map_around_it_is_eexist" ["ioreq.c"] => Err(Errno::EEXIST), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f)?; s.map(id, PORT, 0, 0xffff) };
    "map_right_behind" ["ioreq.c"] => Ok(0), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f)?; s.map(id, PORT, 0x1020, 0x103f) };
    "map_right_before" ["ioreq.c"] => Ok(0), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f)?; s.map(id, PORT, 0xfe0, 0xfff) };
    "map_the_same_numbers_of_another_type" ["ioreq.c: a set for each type"] => Ok(0), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f)?; s.map(id, MEMORY, 0x1000, 0x101f) };
    "map_the_same_for_another_server" ["ioreq.c: a set for each server"] => Ok(0), |s| { let (a, b) = (s.server()?, s.server()?); s.map(a, PORT, 0x1000, 0x101f)?; s.map(b, PORT, 0x1000, 0x101f) };
    "256th_range" ["ioreq.h: MAX_NR_IO_RANGES"] => Ok(0), |s| { let id = s.server()?; s.all_ranges(id)?; s.map(id, MEMORY, 0, 0) };
    "257th_range_is_enomem" ["rangeset.c"] => Err(Errno::ENOMEM), |s| { let id = s.server()?; s.all_ranges(id)?; s.map(id, PORT, 0x2000, 0x2000) };
    "257th_range_that_touches_another" ["rangeset.c: they become one"] => Ok(0), |s| { let id = s.server()?; s.all_ranges(id)?; s.map(id, PORT, 0x11ff, 0x11ff) };
    "257th_range_between_two" ["rangeset.c: the three become one"] => Ok(0), |s| { let id = s.server()?; s.all_ranges(id)?; s.map(id, PORT, 0x1001, 0x1001) };
    "unmap" ["ioreq.c"] => Ok(0), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f)?; s.unmap(id, PORT, 0x1000, 0x101f) };
    "unmap_twice_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f)?; s.unmap(id, PORT, 0x1000, 0x101f)?; s.unmap(id, PORT, 0x1000, 0x101f) };
    "unmap_what_was_never_mapped_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| { let id = s.server()?; s.unmap(id, PORT, 0x1000, 0x101f) };
    "unmap_beyond_the_end_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f)?; s.unmap(id, PORT, 0x1010, 0x1020) };
    "unmap_that_was_refused_leaves_the_range" ["ioreq.c"] => Err(Errno::EEXIST), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f)?; let _ = s.unmap(id, PORT, 0x1010, 0x1020); s.map(id, PORT, 0x1010, 0x1010) };
    "unmap_of_another_type_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f)?; s.unmap(id, MEMORY, 0x1000, 0x101f) };
    "unmap_two_that_touch" ["rangeset.c"] => Ok(0), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x100f)?; s.map(id, PORT, 0x1010, 0x101f)?; s.unmap(id, PORT, 0x1000, 0x101f) };
    "unmap_two_with_a_gap_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x100f)?; s.map(id, PORT, 0x1011, 0x101f)?; s.unmap(id, PORT, 0x1000, 0x101f) };
    "unmap_the_middle_and_map_it_again" ["rangeset.c"] => Ok(0), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f)?; s.unmap(id, PORT, 0x1008, 0x100f)?; s.map(id, PORT, 0x1008, 0x100f) };
    "unmap_the_middle_leaves_the_sides" ["rangeset.c"] => Err(Errno::EEXIST), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f)?; s.unmap(id, PORT, 0x1008, 0x100f)?; s.map(id, PORT, 0x1010, 0x1010) };
    "unmap_that_would_make_a_257th_range_is_enomem" ["rangeset.c"] => Err(Errno::ENOMEM), |s| { let id = s.server()?; s.all_ranges(id)?; s.unmap(id, PORT, 0x1000, 0x1000)?; s.map(id, PORT, 0x4000, 0x400f)?; s.unmap(id, PORT, 0x4008, 0x4008) };
    "unmap_start_above_end_is_einval" ["ioreq.c"] => Err(Errno::EINVAL), |s| { let id = s.server()?; s.unmap(id, PORT, 0x1001, 0x1000) };
    "unmap_a_bad_type_is_einval" ["ioreq.c"] => Err(Errno::EINVAL), |s| { let id = s.server()?; s.unmap(id, 3, 0x1000, 0x1000) };
    "unmap_from_an_unknown_server_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| s.unmap(2, PORT, 0x1000, 0x1000);
    "ranges_go_with_their_server" ["ioreq.c"] => Ok(0), |s| { let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f)?; s.destroy(id)?; let id = s.server()?; s.map(id, PORT, 0x1000, 0x101f) };
};

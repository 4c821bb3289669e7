//! What the draft leaves open is decided in `docs/revokable-grants.md`; each decision names its test here.

use std::sync::atomic::{AtomicBool, AtomicU32};
use std::thread;

use xen_ioreq::Bfn;

use super::*;
use crate::memory::peek;
use crate::testing::vcpu;
use crate::{BusAccess, Profile, ViolationKind};

const HOST: u32 = GNTMAP_host_map;
const RO: u32 = GNTMAP_host_map | GNTMAP_readonly;
const DEV: u32 = GNTMAP_device_map;
const REVOKABLE: u16 = GTF_permit_access | GTF_revokable;

#[test]
fn a_revoked_page_is_the_granters_alone_and_the_mapper_goes_on_with_its_own() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (pv(&m), with_device(&m));
    let (room, port) = (Room::new(&b, 2), m.bus_port(b.id, "device").unwrap());
    a.grant(9, b.id, 3, REVOKABLE);
    let kernel = b.map_revokable(&a, 9, HOST | DEV, room.addr(0), 5).unwrap();
    let user = b.map_revokable(&a, 9, RO, room.addr(1), 6).unwrap();
    assert_eq!((room.byte(0), room.byte(1)), (3, 3));
    assert_eq!(m.references(b.id, Gfn(5)), Ok(2));
    a.close(9);
    assert_eq!(a.revoke(9), Ok(()));
    assert_eq!((a.flags(9), m.references(a.id, Gfn(3))), (GTF_revokable, Ok(1)));
    assert_eq!((room.byte(0), room.byte(1)), (5, 6));
    room.page(0).u8(0).store(55, Ordering::SeqCst);
    assert_eq!((b.byte(5 << 12), a.byte(3 << 12)), (55, 3));
    let pin = port.pin(Bfn(kernel.dev_bus_addr >> 12), BusAccess::Write).unwrap();
    assert_eq!(peek(pin.ptr), 55);
    port.unpin(pin);
    m.assert_clean();
    // The granter uses the reference and the page for something else, and the mapper still unmaps.
    a.grant(9, b.id, 4, GTF_permit_access);
    assert_eq!(b.unmap(kernel.handle, room.addr(0), 0), GNTST_okay);
    assert_eq!(b.unmap(kernel.handle, 0, kernel.dev_bus_addr), GNTST_okay);
    assert_eq!(b.unmap(user.handle, room.addr(1), 0), GNTST_okay);
    assert_eq!((m.references(b.id, Gfn(5)), a.flags(9)), (Ok(1), GTF_permit_access));
    drop((room, port));
    all_back(&m, vec![a, b], free);
}

#[test]
fn map_grant_ref_of_a_revokable_grant_is_permission_denied() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 2);
    a.grant(9, b.id, 3, REVOKABLE);
    assert_eq!(b.map(&a, 9, HOST, room.addr(0)).err(), Some(GNTST_permission_denied));
    assert_eq!(a.flags(9), REVOKABLE);
    // Also where it is mapped the right way already.
    b.map_revokable(&a, 9, HOST, room.addr(0), 5).unwrap();
    assert_eq!(b.map(&a, 9, HOST, room.addr(1)).err(), Some(GNTST_permission_denied));
    m.assert_clean();
}

#[test]
fn map_revokable_of_another_grant_is_bad_gntref_and_takes_nothing() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 2);
    a.grant(9, b.id, 3, GTF_permit_access);
    assert_eq!(b.map_revokable(&a, 9, HOST, room.addr(0), 5).err(), Some(GNTST_bad_gntref));
    b.map(&a, 9, HOST, room.addr(0)).unwrap();
    assert_eq!(b.map_revokable(&a, 9, HOST, room.addr(1), 5).err(), Some(GNTST_bad_gntref));
    assert_eq!(m.references(b.id, Gfn(5)), Ok(1));
    m.assert_clean();
}

#[test]
fn revoke_of_an_entry_that_still_grants_is_ebusy_and_switches_nothing() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 1);
    a.grant(9, b.id, 3, REVOKABLE);
    b.map_revokable(&a, 9, HOST, room.addr(0), 5).unwrap();
    assert_eq!(a.revoke(9), Err(Errno::EBUSY));
    assert_eq!(room.byte(0), 3);
    m.assert_clean();
}

#[test]
fn a_transfer_is_never_revokable() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    b.grant(9, a.id, 0, GTF_accept_transfer | GTF_revokable);
    let mut arg = gnttab_transfer { mfn: 3, domid: b.id.0, r#ref: 9, ..Default::default() };
    op(&a.caller, GNTTABOP_transfer, &mut arg).unwrap();
    assert_eq!(arg.status, GNTST_general_error);
}

#[test]
fn a_grant_handed_on_is_never_revokable_and_a_part_of_a_page_is_copied_only() {
    let m = machine(Config::default());
    let (a, mut b, c) = (pv(&m), pv(&m), pv(&m));
    op(&b.caller, GNTTABOP_set_version, &mut gnttab_set_version { version: 2 }).unwrap();
    b.map_tables();
    a.grant(9, b.id, 3, GTF_permit_access);
    b.grant_v2(9, c.id, GTF_transitive | GTF_revokable, u32::from(a.id.0), 9);
    b.grant_v2(10, c.id, REVOKABLE | GTF_sub_page, 64 << 16, 4);
    let copy = |reference| c.copy(ptr(b.id, reference, 0), ptr(DomId::SELF, 5, 0), 8, GNTCOPY_source_gref);
    assert_eq!((copy(9), copy(10)), (GNTST_general_error, GNTST_okay));
    let room = Room::new(&c, 1);
    assert_eq!(c.map_revokable(&b, 10, HOST, room.addr(0), 5).err(), Some(GNTST_general_error));
    b.grant_v2(10, c.id, 0, 0, 0);
    assert_eq!(b.revoke(10), Ok(()));
    // What is revokable may be handed on by who has it.
    a.grant(10, b.id, 3, REVOKABLE);
    b.grant_v2(11, c.id, GTF_transitive, u32::from(a.id.0), 10);
    assert_eq!(copy(11), GNTST_okay);
    m.assert_clean();
}

#[test]
fn revoke_takes_one_reference_and_answers_by_the_hypercall() {
    let m = machine(Config::default());
    let a = pv(&m);
    let mut two = [gnttab_revoke { r#ref: 9 }, gnttab_revoke { r#ref: 10 }];
    let c = &a.caller;
    assert_eq!(c.grant_table_op(GNTTABOP_revoke, two.as_mut_bytes(), 2), Err(Errno::EINVAL));
    assert_eq!(c.grant_table_op(GNTTABOP_revoke, &mut [0; 3], 1), Err(Errno::EFAULT));
    assert_eq!(a.revoke(512), Err(Errno::ENOENT));
    assert_eq!(a.revoke(u32::MAX), Err(Errno::ENOENT));
}

#[test]
fn a_third_mapping_has_no_space() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 3);
    a.grant(9, b.id, 3, REVOKABLE);
    let first = b.map_revokable(&a, 9, HOST, room.addr(0), 5).unwrap();
    b.map_revokable(&a, 9, HOST, room.addr(1), 5).unwrap();
    assert_eq!(b.map_revokable(&a, 9, HOST, room.addr(2), 5).err(), Some(GNTST_no_space));
    assert_eq!(b.unmap(first.handle, room.addr(0), 0), GNTST_okay);
    assert!(b.map_revokable(&a, 9, HOST, room.addr(2), 5).is_ok());
    m.assert_clean();
}

#[test]
fn a_stand_in_must_be_ram_of_the_mappers_own() {
    let m = machine(Config::default());
    let (a, b, c) = (pv(&m), pv(&m), hvm(&m));
    let (room, v) = (Room::new(&b, 1), vcpu(&m, c.id, 0));
    a.grant(9, b.id, 3, REVOKABLE);
    a.grant(10, c.id, 3, REVOKABLE);
    a.grant(11, c.id, 4, GTF_permit_access);
    assert_eq!(b.map_revokable(&a, 9, HOST, room.addr(0), 999).err(), Some(GNTST_bad_page), "a hole");
    c.map(&a, 11, HOST, 100 << 12).unwrap();
    assert_eq!(c.map_revokable(&a, 10, HOST, 101 << 12, 100).err(), Some(GNTST_bad_page), "a grant");
    let mut put =
        xen_ioreq::abi::memory::xen_add_to_physmap { domid: DomId::SELF.0, gpfn: 50, ..Default::default() };
    v.memory_op(xen_ioreq::abi::memory::XENMEM_add_to_physmap, put.as_mut_bytes(), &mut []).unwrap();
    assert_eq!(c.map_revokable(&a, 10, HOST, 101 << 12, 50).err(), Some(GNTST_bad_page), "a frame of Xen's");
    // Read-only memory stands in for reading only.
    let dom0 = m.caller(DomId(0)).unwrap();
    let mut ty = xen_ioreq::abi::dm_op::xen_dm_op_set_mem_type {
        mem_type: 1,
        nr: 1,
        first_pfn: 6,
        ..Default::default()
    };
    crate::testing::dm(&dom0, c.id, xen_ioreq::abi::dm_op::XEN_DMOP_set_mem_type, &mut ty).unwrap();
    assert_eq!(c.map_revokable(&a, 10, HOST, 101 << 12, 6).err(), Some(GNTST_bad_page), "read-only");
    assert!(c.map_revokable(&a, 10, RO, 101 << 12, 6).is_ok());
    m.assert_clean();
}

#[test]
fn revoke_of_what_is_not_in_use_does_nothing_and_so_does_a_second_one() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 1);
    assert_eq!(a.revoke(9), Ok(()));
    a.grant(9, b.id, 3, REVOKABLE);
    b.map_revokable(&a, 9, HOST, room.addr(0), 5).unwrap();
    a.close(9);
    assert_eq!((a.revoke(9), a.revoke(9), room.byte(0)), (Ok(()), Ok(()), 5));
    m.assert_clean();
}

#[test]
fn revoke_of_a_grant_that_is_not_revokable_is_eperm() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 1);
    a.grant(9, b.id, 3, GTF_permit_access);
    b.map(&a, 9, HOST, room.addr(0)).unwrap();
    a.close(9);
    assert_eq!((a.revoke(9), room.byte(0)), (Err(Errno::EPERM), 3));
    m.assert_clean();
}

#[test]
fn after_a_revocation_unmap_looks_at_the_stand_in_and_leaves_the_granter_alone() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 2);
    a.grant(9, b.id, 3, REVOKABLE);
    let map = b.map_revokable(&a, 9, HOST, room.addr(0), 5).unwrap();
    a.close(9);
    a.revoke(9).unwrap();
    let id = a.id;
    drop(a);
    m.destroy_domain(id).unwrap();
    assert_eq!(m.domain_info(id), None, "nothing of it is held");
    assert_eq!(b.unmap(map.handle, room.addr(1), 0), GNTST_general_error);
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_okay);
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_bad_handle);
    drop(room);
    all_back(&m, vec![b], free);
}

#[test]
fn a_part_that_was_unmapped_is_not_switched() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), with_device(&m));
    let (room, port) = (Room::new(&b, 1), m.bus_port(b.id, "device").unwrap());
    a.grant(9, b.id, 3, REVOKABLE);
    let map = b.map_revokable(&a, 9, HOST | DEV, room.addr(0), 5).unwrap();
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_okay);
    a.close(9);
    a.revoke(9).unwrap();
    let pin = port.pin(Bfn(map.dev_bus_addr >> 12), BusAccess::Read).unwrap();
    assert_eq!(peek(pin.ptr), 5);
    port.unpin(pin);
    m.assert_clean();
    assert_eq!(b.unmap(map.handle, 0, map.dev_bus_addr), GNTST_okay);
    m.assert_clean();
}

#[test]
fn marks_are_gone_when_revoke_returns() {
    let m = machine(Config::default());
    let (mut a, b) = (pv(&m), pv(&m));
    op(&a.caller, GNTTABOP_set_version, &mut gnttab_set_version { version: 2 }).unwrap();
    a.map_tables();
    let room = Room::new(&b, 1);
    a.grant_v2(9, b.id, REVOKABLE, 0, 3);
    b.map_revokable(&a, 9, HOST, room.addr(0), 5).unwrap();
    assert_eq!(a.marks(9), GTF_reading | GTF_writing);
    a.grant_v2(9, b.id, 0, 0, 3);
    a.revoke(9).unwrap();
    assert_eq!((a.marks(9), room.byte(0)), (0, 5));
    m.assert_clean();
}

#[test]
fn what_is_mapped_revokably_is_in_use_for_swap_and_set_version() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 1);
    a.grant(9, b.id, 3, REVOKABLE);
    b.map_revokable(&a, 9, HOST, room.addr(0), 5).unwrap();
    let mut swap = gnttab_swap_grant_ref { ref_a: 9, ref_b: 10, ..Default::default() };
    op(&a.caller, GNTTABOP_swap_grant_ref, &mut swap).unwrap();
    assert_eq!(swap.status, GNTST_eagain);
    let mut version = gnttab_set_version { version: 2 };
    assert_eq!(op(&a.caller, GNTTABOP_set_version, &mut version), Err(Errno::EBUSY));
    a.close(9);
    a.revoke(9).unwrap();
    version.version = 2;
    assert_eq!(op(&a.caller, GNTTABOP_set_version, &mut version), Ok(()));
    m.assert_clean();
}

#[test]
fn a_stand_in_is_mapped_with_the_rights_of_the_grant() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), hvm(&m));
    let v = vcpu(&m, b.id, 0);
    a.grant(9, b.id, 3, REVOKABLE | GTF_readonly);
    b.map_revokable(&a, 9, RO, 100 << 12, 5).unwrap();
    a.close(9);
    a.revoke(9).unwrap();
    v.ram_write(100 << 12, &[77]).unwrap();
    let mut seen = [0];
    v.ram_read(100 << 12, &mut seen).unwrap();
    assert_eq!(seen, [5], "a write is dropped as before");
    m.assert_clean();
}

#[test]
fn a_stand_in_that_is_ballooned_out_is_freed_by_the_unmapping() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), hvm(&m));
    let v = vcpu(&m, b.id, 0);
    a.grant(9, b.id, 3, REVOKABLE);
    let map = b.map_revokable(&a, 9, HOST, 100 << 12, 5).unwrap();
    let free = m.free_frames();
    assert_eq!(v.decrease_reservation(&[Gfn(5)]), Ok(1));
    a.close(9);
    a.revoke(9).unwrap();
    let mut seen = [0];
    v.ram_read(100 << 12, &mut seen).unwrap();
    assert_eq!((seen, m.free_frames()), ([5], free));
    assert_eq!(b.unmap(map.handle, 100 << 12, 0), GNTST_okay);
    assert_eq!(m.free_frames(), free + 1);
    m.assert_clean();
}

#[test]
fn death_revokes_what_is_in_use_without_the_entry_being_withdrawn() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 1);
    a.grant(9, b.id, 3, REVOKABLE);
    let map = b.map_revokable(&a, 9, HOST, room.addr(0), 5).unwrap();
    let id = a.id;
    drop(a);
    m.destroy_domain(id).unwrap();
    assert_eq!((room.byte(0), m.domain_info(id)), (5, None), "no zombie");
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_okay);
    drop(room);
    all_back(&m, vec![b], free);
}

#[test]
fn a_device_that_holds_on_is_told_of_and_loses_the_page_all_the_same() {
    let m = crate::testing::machine(Config::default());
    let (a, b) = (pv(&m), with_device(&m));
    let port = m.bus_port(b.id, "device").unwrap();
    a.grant(9, b.id, 3, REVOKABLE);
    let map = b.map_revokable(&a, 9, DEV, 0, 5).unwrap();
    let bfn = Bfn(map.dev_bus_addr >> 12);
    let pin = port.pin(bfn, BusAccess::Read).unwrap();
    a.close(9);
    a.revoke(9).unwrap();
    assert_eq!(m.violations().first().map(|v| v.kind), Some(ViolationKind::RevokedWhilePinned { pins: 1 }));
    port.unpin(pin);
    let pin = port.pin(bfn, BusAccess::Read).unwrap();
    assert_eq!(peek(pin.ptr), 5);
    port.unpin(pin);
}

#[test]
fn another_mapping_of_the_same_frame_is_not_touched() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), with_device(&m));
    let port = m.bus_port(b.id, "device").unwrap();
    a.grant(9, b.id, 3, REVOKABLE);
    a.grant(10, b.id, 3, GTF_permit_access);
    b.map_revokable(&a, 9, DEV, 0, 5).unwrap();
    let plain = b.map(&a, 10, DEV, 0).unwrap();
    a.close(9);
    a.revoke(9).unwrap();
    let pin = port.pin(Bfn(plain.dev_bus_addr >> 12), BusAccess::Read).unwrap();
    assert_eq!(peek(pin.ptr), 3);
    port.unpin(pin);
    m.assert_clean();
}

#[test]
fn a_hypervisor_without_it_has_no_such_operations_and_ignores_the_flag() {
    for config in [
        Config { profile: Profile::Stock, ..Config::default() },
        Config { revokable: false, ..Config::default() },
    ] {
        let m = machine(config);
        let (a, b) = (pv(&m), pv(&m));
        let room = Room::new(&b, 1);
        assert_eq!(a.revoke(9), Err(Errno::ENOSYS));
        let mut arg = gnttab_map_revokable::default();
        assert_eq!(op(&b.caller, GNTTABOP_map_revokable, &mut arg), Err(Errno::ENOSYS));
        a.grant(9, b.id, 3, REVOKABLE);
        assert!(b.map(&a, 9, HOST, room.addr(0)).is_ok());
        m.assert_clean();
    }
}

#[test]
fn a_mapping_that_was_moved_is_switched_where_it_is() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 2);
    a.grant(9, b.id, 3, REVOKABLE);
    a.grant(10, b.id, 4, REVOKABLE);
    let first = b.map_revokable(&a, 9, HOST, room.addr(0), 5).unwrap();
    let moved = b.map_revokable(&a, 10, HOST, room.addr(1), 6).unwrap();
    assert_eq!(b.replace(first.handle, room.addr(0), room.addr(1)), GNTST_okay);
    assert_eq!((room.byte(0), m.references(b.id, Gfn(5))), (4, Ok(1)));
    a.close(10);
    a.revoke(10).unwrap();
    assert_eq!(room.byte(0), 6);
    m.assert_clean();
    assert_eq!(b.unmap(moved.handle, room.addr(0), 0), GNTST_okay);
    m.assert_clean();
}

#[test]
fn revoke_waits_for_copies_and_lets_no_new_one_in() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    let other = m.caller(b.id).unwrap();
    let copy = |c: &Caller, to: u64| {
        let (source, dest) = (ptr(a.id, 9, 0), ptr(DomId::SELF, to, 0));
        let mut arg =
            gnttab_copy { source, dest, len: 4096, flags: GNTCOPY_source_gref, ..Default::default() };
        op(c, GNTTABOP_copy, &mut arg).unwrap();
        arg.status
    };
    let (stop, done) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|s| {
        // Two that overlap: there is nearly always a pin.
        for (c, to) in [(&b.caller, 5), (&other, 6)] {
            let (stop, done, copy) = (&stop, &done, &copy);
            s.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    done.fetch_add(u32::from(copy(c, to) == GNTST_okay), Ordering::SeqCst);
                }
            });
        }
        for _ in 0..100 {
            a.grant(9, b.id, 3, REVOKABLE);
            let before = done.load(Ordering::SeqCst);
            while done.load(Ordering::SeqCst) == before {
                thread::yield_now();
            }
            a.close(9);
            a.revoke(9).unwrap();
            assert_eq!((a.flags(9), m.references(a.id, Gfn(3))), (GTF_revokable, Ok(1)));
            assert_eq!(copy(&b.caller, 7), GNTST_general_error);
        }
        stop.store(true, Ordering::SeqCst);
    });
    m.assert_clean();
}

#[test]
fn a_revocation_finds_its_mappings_among_many() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), hvm(&m));
    for r in 8..20 {
        a.grant(r, b.id, 4, GTF_permit_access);
    }
    for i in 0..12 * 128u32 {
        b.map(&a, 8 + i / 128, HOST, (1000 + u64::from(i)) << 12).unwrap();
    }
    let v = vcpu(&m, b.id, 0);
    a.grant(30, b.id, 3, REVOKABLE);
    for (place, lgfn) in [(100u64, 5), (101, 6)] {
        b.map_revokable(&a, 30, HOST, place << 12, lgfn).unwrap();
    }
    a.close(30);
    a.revoke(30).unwrap();
    let mut seen = [0; 3];
    for (place, byte) in [100u64, 101, 1000].into_iter().zip(&mut seen) {
        v.ram_read(place << 12, std::slice::from_mut(byte)).unwrap();
    }
    assert_eq!(seen, [5, 6, 4], "its own two, and no other");
    m.assert_clean();
}

#[test]
fn a_device_that_nothing_translates_for_maps_nothing_revokable() {
    let m = machine(Config { iommu: crate::Iommu::Absent, ..Config::default() });
    let (a, b) = (pv(&m), with_device(&m));
    a.grant(9, b.id, 3, REVOKABLE);
    assert_eq!(b.map_revokable(&a, 9, DEV, 0, 5).err(), Some(GNTST_no_device_space));
    let room = Room::new(&b, 1);
    assert_eq!(b.map_revokable(&a, 9, HOST | DEV, room.addr(0), 5).err(), Some(GNTST_no_device_space));
    assert_eq!((a.flags(9), m.references(b.id, Gfn(5))), (REVOKABLE, Ok(1)));
    m.assert_clean();
}

#[test]
fn a_mapper_that_never_unmaps_keeps_a_plain_page_and_loses_a_revokable_one() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (hvm(&m), pv(&m));
    let (v, room) = (vcpu(&m, a.id, 0), Room::new(&b, 2));
    let mut put = xen_ioreq::abi::memory::xen_add_to_physmap {
        domid: DomId::SELF.0,
        space: xen_ioreq::abi::memory::XENMAPSPACE_grant_table,
        gpfn: 50,
        ..Default::default()
    };
    v.memory_op(xen_ioreq::abi::memory::XENMEM_add_to_physmap, put.as_mut_bytes(), &mut []).unwrap();
    let entry = |r: u64, flags: u16, gfn: u32| {
        v.ram_write((50 << 12) + r * 8 + 4, &gfn.to_le_bytes()).unwrap();
        v.ram_write((50 << 12) + r * 8, &(u32::from(b.id.0) << 16 | u32::from(flags)).to_le_bytes()).unwrap();
    };
    entry(9, GTF_permit_access, 3);
    entry(10, REVOKABLE, 4);
    b.map(&a, 9, HOST, room.addr(0)).unwrap();
    b.map_revokable(&a, 10, HOST, room.addr(1), 5).unwrap();
    let here = m.free_frames();
    let mut mark = [0; 2];
    v.ram_read((50 << 12) + 9 * 8, &mut mark).unwrap();
    assert_ne!(
        u16::from_le_bytes(mark) & GTF_reading,
        0,
        "the granter sees that it is in use, and can do nothing"
    );
    assert_eq!(v.decrease_reservation(&[Gfn(3)]), Ok(1));
    assert_eq!((m.free_frames(), room.byte(0)), (here, 3), "gone from the granter, and free to nobody");
    entry(10, GTF_revokable, 4);
    let mut revoke = gnttab_revoke { r#ref: 10 };
    v.grant_table_op(GNTTABOP_revoke, revoke.as_mut_bytes(), 1).unwrap();
    assert_eq!(v.decrease_reservation(&[Gfn(4)]), Ok(1));
    assert_eq!((m.free_frames(), room.byte(1)), (here + 1, 5), "the mapper runs on with a page of its own");
    m.assert_clean();
    drop((v, room));
    all_back(&m, vec![b, a], free);
}

#[test]
fn a_mapper_is_told_nothing_and_finds_its_own_bytes() {
    use xen_ioreq::Port;
    use xen_ioreq::seam::EventChannels;
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 1);
    a.grant(9, b.id, 3, REVOKABLE);
    b.map_revokable(&a, 9, HOST, room.addr(0), 5).unwrap();
    a.close(9);
    a.revoke(9).unwrap();
    // What a granter's driver clears on its way out, it clears in its own page.
    m.write_guest(a.id, 3 << 12, &[0]).unwrap();
    assert_eq!((room.byte(0), b.caller.pending(&mut [Port(0)])), (5, Ok(0)));
    m.assert_clean();
}

/// The table of `docs/revokable-grants.md` and the tests here name each other.
#[test]
fn every_decision_has_its_test_and_every_test_its_decision() {
    let doc = include_str!("../../../../../docs/revokable-grants.md");
    let here = include_str!("revoke.rs");
    let decided: Vec<&str> = doc
        .lines()
        .filter(|l| l.starts_with("| ") && l.ends_with("` |"))
        .filter_map(|l| l.trim_end_matches("` |").rsplit('`').next())
        .collect();
    assert!(decided.len() > 20, "{}", decided.len());
    for name in &decided {
        assert!(here.contains(&format!("#[test]\nfn {name}()")), "no test {name}");
    }
    let tests = here.split("#[test]\nfn ").skip(1).filter_map(|t| t.split('(').next());
    for name in tests.filter(|t| *t != "every_decision_has_its_test_and_every_test_its_decision") {
        assert!(name.contains('{') || decided.contains(&name), "no decision names {name}");
    }
}

#[test]
fn a_reader_sees_the_old_page_or_the_new_one_and_never_a_fault() {
    let m = machine(Config::default());
    let (a, b, c) = (pv(&m), pv(&m), hvm(&m));
    let (room, v) = (Room::new(&b, 1), vcpu(&m, c.id, 0));
    let mut v = Some(v);
    // A PV reader would die of a fault, a translated one is told of it.
    for _ in 0..100 {
        a.grant(9, b.id, 3, REVOKABLE);
        a.grant(10, c.id, 3, REVOKABLE);
        let pv = b.map_revokable(&a, 9, HOST, room.addr(0), 5).unwrap();
        let translated = c.map_revokable(&a, 10, HOST, 100 << 12, 6).unwrap();
        let reader = v.take().unwrap();
        v = thread::scope(|s| {
            s.spawn(|| until(5, || room.byte(0)));
            let reads_on = s.spawn(move || {
                until(6, || {
                    let mut seen = [0];
                    reader.ram_read(100 << 12, &mut seen).unwrap();
                    seen[0]
                });
                reader
            });
            a.close(9);
            a.close(10);
            a.revoke(9).unwrap();
            a.revoke(10).unwrap();
            Some(reads_on.join().unwrap())
        });
        assert_eq!(b.unmap(pv.handle, room.addr(0), 0), GNTST_okay);
        assert_eq!(c.unmap(translated.handle, 100 << 12, 0), GNTST_okay);
    }
    m.assert_clean();
}

/// Reads until the new page is there; before that it is the old one.
fn until(new: u8, read: impl Fn() -> u8) {
    loop {
        match read() {
            3 => {}
            seen => {
                assert_eq!(seen, new);
                return;
            }
        }
    }
}

//! Which grants can be mapped revokably, by which operation, with which stand-in.

use super::*;

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

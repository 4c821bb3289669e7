use super::*;

const SRC: u16 = GNTCOPY_source_gref;
const DST: u16 = GNTCOPY_dest_gref;

fn v2(d: &mut Dom) {
    op(&d.caller, GNTTABOP_set_version, &mut gnttab_set_version { version: 2 }).unwrap();
    d.map_tables();
}

#[test]
fn bytes_go_from_grant_to_own_page_and_back_and_leave_no_mark() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (pv(&m), pv(&m));
    a.grant(9, b.id, 3, GTF_permit_access);
    a.grant(10, b.id, 4, GTF_permit_access | GTF_readonly);
    assert_eq!(b.copy(ptr(a.id, 9, 0), ptr(DomId::SELF, 5, 100), 1, SRC), GNTST_okay);
    assert_eq!(b.byte((5 << 12) + 100), 3);
    assert_eq!(b.copy(ptr(DomId::SELF, 7, 0), ptr(a.id, 9, 200), 1, DST), GNTST_okay);
    assert_eq!(a.byte((3 << 12) + 200), 7);
    assert_eq!(b.copy(ptr(a.id, 10, 0), ptr(a.id, 9, 300), 1, SRC | DST), GNTST_okay, "between two grants");
    assert_eq!(a.byte((3 << 12) + 300), 4);
    assert_eq!(b.copy(ptr(a.id, 9, 0), ptr(a.id, 10, 0), 1, SRC | DST), GNTST_general_error, "read-only");
    assert_eq!((a.flags(9), a.flags(10)), (GTF_permit_access, GTF_permit_access | GTF_readonly));
    all_back(&m, vec![a, b], free);
}

#[test]
fn each_refusal_has_its_status_and_pins_nothing() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    a.grant(9, b.id, 3, GTF_permit_access);
    a.grant(10, a.id, 3, GTF_permit_access);
    a.grant(11, b.id, 999, GTF_permit_access);
    let own = ptr(DomId::SELF, 5, 0);
    for (source, dest, len, flags, status) in [
        (ptr(a.id, 3, 0), own, 8, 0, GNTST_permission_denied),
        // A copy of nothing is refused as any other.
        (ptr(DomId(99), 9, 0), own, 0, SRC, GNTST_bad_domain),
        (ptr(a.id, 10, 0), own, 0, SRC, GNTST_general_error),
        (ptr(a.id, 9, 4096), own, 0, SRC, GNTST_okay),
        (ptr(DomId(99), 9, 0), own, 8, SRC, GNTST_bad_domain),
        (ptr(a.id, 512, 0), own, 8, SRC, GNTST_bad_gntref),
        (ptr(a.id, 10, 0), own, 8, SRC, GNTST_general_error),
        (ptr(a.id, 11, 0), own, 8, SRC, GNTST_bad_page),
        (ptr(DomId::SELF, 999, 0), own, 8, 0, GNTST_bad_page),
        (ptr(a.id, 9, 4090), own, 8, SRC, GNTST_bad_copy_arg),
        (ptr(a.id, 9, 0), ptr(DomId::SELF, 5, 4095), 2, SRC, GNTST_bad_copy_arg),
        (own, ptr(a.id, 512, 0), 8, DST, GNTST_bad_gntref),
        // The source is claimed first.
        (ptr(a.id, 10, 0), ptr(a.id, 512, 0), 8, SRC | DST, GNTST_general_error),
    ] {
        assert_eq!(b.copy(source, dest, len, flags), status, "{source:?} {dest:?} {len} {flags}");
    }
    assert_eq!(a.flags(9), GTF_permit_access);
    m.assert_clean();
}

#[test]
fn a_part_of_a_page_is_copied_within_its_bounds_and_never_mapped() {
    let m = machine(Config::default());
    let (mut a, b) = (pv(&m), pv(&m));
    v2(&mut a);
    let part = 100 | 50 << 16;
    a.grant_v2(9, b.id, GTF_permit_access | GTF_sub_page, part, 3);
    let copy = |offset, len| b.copy(ptr(a.id, 9, offset), ptr(DomId::SELF, 5, 0), len, SRC);
    assert_eq!((copy(100, 50), copy(149, 1)), (GNTST_okay, GNTST_okay));
    assert_eq!((copy(99, 2), copy(149, 2)), (GNTST_general_error, GNTST_general_error));
    assert_eq!(copy(4095, 2), GNTST_bad_copy_arg);
    let room = Room::new(&b, 1);
    assert_eq!(b.map(&a, 9, GNTMAP_host_map, room.addr(0)).err(), Some(GNTST_general_error));
    m.assert_clean();
}

#[test]
fn a_grant_is_handed_on_once_for_copies_only() {
    let m = machine(Config::default());
    let (a, mut b, c) = (pv(&m), pv(&m), pv(&m));
    v2(&mut b);
    a.grant(9, b.id, 3, GTF_permit_access | GTF_readonly);
    b.grant_v2(9, c.id, GTF_transitive, u32::from(a.id.0), 9);
    let copy = |domid, reference| c.copy(ptr(domid, reference, 0), ptr(DomId::SELF, 5, 0), 1, SRC);
    assert_eq!((copy(b.id, 9), c.byte(5 << 12)), (GNTST_okay, 3));
    assert_eq!(
        c.copy(ptr(DomId::SELF, 5, 0), ptr(b.id, 9, 0), 1, DST),
        GNTST_general_error,
        "read-only at its root"
    );
    let room = Room::new(&c, 1);
    assert_eq!(c.map(&b, 9, GNTMAP_host_map, room.addr(0)).err(), Some(GNTST_general_error));
    // To itself, of nobody, of what is itself handed on, and of what is not granted to the one in the middle.
    b.grant_v2(10, c.id, GTF_transitive, u32::from(b.id.0), 9);
    b.grant_v2(11, c.id, GTF_transitive, 99, 9);
    b.grant_v2(12, c.id, GTF_transitive, u32::from(a.id.0), 10);
    let mut d = pv(&m);
    v2(&mut d);
    d.grant_v2(9, c.id, GTF_transitive, u32::from(b.id.0), 13);
    b.grant_v2(13, d.id, GTF_transitive, u32::from(a.id.0), 9);
    for (domid, reference) in [(b.id, 10), (b.id, 11), (b.id, 12), (d.id, 9)] {
        assert_eq!(copy(domid, reference), GNTST_general_error, "{domid} {reference}");
    }
    assert_eq!((b.marks(9), b.marks(13), a.flags(9)), (0, 0, GTF_permit_access | GTF_readonly));
    m.assert_clean();
    let off = machine(Config { transitive_grants: false, ..Config::default() });
    let (a, mut b, c) = (pv(&off), pv(&off), pv(&off));
    v2(&mut b);
    a.grant(9, b.id, 3, GTF_permit_access);
    b.grant_v2(9, c.id, GTF_transitive, u32::from(a.id.0), 9);
    let status = c.copy(ptr(b.id, 9, 0), ptr(DomId::SELF, 5, 0), 1, SRC);
    assert_eq!(status, GNTST_general_error);
}

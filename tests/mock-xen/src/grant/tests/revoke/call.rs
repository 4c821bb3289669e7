//! `revoke` itself: what it takes, what it answers, what is so when it returns.

use super::*;

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

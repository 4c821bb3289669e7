//! What a frame is used as: a page table of the granter's is never written by a grant.

use super::*;

const HOST: u32 = GNTMAP_host_map;

#[test]
fn a_page_table_is_mapped_and_copied_from_for_reading_only() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (pv(&m), with_device(&m));
    let room = Room::new(&b, 2);
    let table = m.pin_table(a.id, Gfn(3)).unwrap();
    a.grant(9, b.id, 3, GTF_permit_access);
    for flags in [HOST, GNTMAP_device_map, HOST | GNTMAP_device_map] {
        assert_eq!(b.map(&a, 9, flags, room.addr(0)).err(), Some(GNTST_general_error), "{flags:#x}");
    }
    let own = ptr(DomId::SELF, 5, 0);
    assert_eq!(b.copy(own, ptr(a.id, 9, 0), 1, GNTCOPY_dest_gref), GNTST_general_error);
    assert_eq!(
        (a.flags(9), m.frame(table).unwrap().references),
        (GTF_permit_access, 2),
        "nothing is left of it"
    );
    let map = b.map(&a, 9, HOST | GNTMAP_readonly, room.addr(0)).unwrap();
    assert_eq!(room.byte(0), 3);
    // Also where it is in use for reading already.
    assert_eq!(b.map(&a, 9, HOST, room.addr(1)).err(), Some(GNTST_general_error));
    assert_eq!(b.copy(own, ptr(a.id, 9, 0), 1, GNTCOPY_dest_gref), GNTST_general_error);
    assert_eq!(a.flags(9), GTF_permit_access | GTF_reading);
    assert_eq!(b.copy(ptr(a.id, 9, 0), own, 1, GNTCOPY_source_gref), GNTST_okay);
    m.assert_clean();
    m.unpin_table(a.id, table).unwrap();
    assert!(b.map(&a, 9, HOST, room.addr(1)).is_ok());
    assert_eq!(m.pin_table(a.id, Gfn(3)), Err(Errno::EINVAL), "somebody may write it");
    assert_eq!(m.frame(table).unwrap().written, 1);
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_okay);
    drop(room);
    all_back(&m, vec![a, b], free);
}

#[test]
fn a_page_table_is_not_copied_to_nor_transferred_nor_a_stand_in_to_be_written() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 1);
    m.pin_table(b.id, Gfn(5)).unwrap();
    let (other, own) = (ptr(DomId::SELF, 6, 0), ptr(DomId::SELF, 5, 0));
    assert_eq!((b.copy(other, own, 1, 0), b.copy(own, other, 1, 0)), (GNTST_general_error, GNTST_okay));
    a.grant(9, b.id, 0, GTF_accept_transfer);
    let mut arg = gnttab_transfer { mfn: 5, domid: a.id.0, r#ref: 9, ..Default::default() };
    op(&b.caller, GNTTABOP_transfer, &mut arg).unwrap();
    assert_eq!((arg.status, b.byte(5 << 12)), (GNTST_bad_page, 5), "it is held, and stays the giver's");
    a.grant(10, b.id, 3, GTF_permit_access | GTF_revokable);
    assert_eq!(b.map_revokable(&a, 10, HOST, room.addr(0), 5).err(), Some(GNTST_bad_page));
    assert!(b.map_revokable(&a, 10, HOST | GNTMAP_readonly, room.addr(0), 5).is_ok());
    m.assert_clean();
    drop(room);
    all_back(&m, vec![a, b], free);
}

#[test]
fn a_page_table_is_one_until_it_is_unpinned_or_its_domain_ends() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (pv(&m), hvm(&m));
    let table = m.pin_table(a.id, Gfn(3)).unwrap();
    for (d, gfn) in [(a.id, 3), (a.id, 999), (b.id, 3)] {
        assert_eq!(m.pin_table(d, Gfn(gfn)), Err(Errno::EINVAL), "{d} {gfn}");
    }
    assert_eq!(m.pin_table(DomId(99), Gfn(3)), Err(Errno::ESRCH));
    assert_eq!(m.unpin_table(b.id, table), Err(Errno::EINVAL));
    let before = m.free_frames();
    assert!(a.balloon(3));
    assert_eq!((m.free_frames(), m.frame(table).unwrap().page_table), (before, true), "still in use");
    m.unpin_table(a.id, table).unwrap();
    assert_eq!((m.free_frames(), m.unpin_table(a.id, table)), (before + 1, Err(Errno::EINVAL)));
    m.pin_table(a.id, Gfn(4)).unwrap();
    all_back(&m, vec![a, b], free);
}

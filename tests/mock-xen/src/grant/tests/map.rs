use super::*;
use crate::testing::vcpu;

const HOST: u32 = GNTMAP_host_map;
const RO: u32 = GNTMAP_host_map | GNTMAP_readonly;

#[test]
fn a_pv_mapper_reads_and_writes_the_granters_page_until_it_unmaps() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 2);
    a.grant(9, b.id, 3, GTF_permit_access);
    let map = b.map(&a, 9, HOST, room.addr(1)).unwrap();
    assert_eq!(a.flags(9), GTF_permit_access | GTF_reading | GTF_writing);
    assert!(!a.withdraw(9), "it is in use");
    assert_eq!(room.byte(1), 3);
    room.page(1).u8(0).store(77, Ordering::SeqCst);
    assert_eq!(a.byte(3 << 12), 77);
    assert_eq!(m.references(a.id, Gfn(3)), Ok(2));
    m.assert_clean();
    assert_eq!(b.unmap(map.handle, 0, 0), GNTST_okay, "nothing asked for, nothing done");
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_general_error, "it is not mapped there");
    assert_eq!(b.unmap(map.handle, room.addr(1), 0), GNTST_okay);
    assert_eq!(b.unmap(map.handle, room.addr(1), 0), GNTST_bad_handle);
    assert_eq!(a.flags(9), GTF_permit_access);
    assert!(a.withdraw(9));
    drop(room);
    all_back(&m, vec![a, b], free);
}

#[test]
fn a_translated_mapper_has_the_page_at_its_physical_address() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (pv(&m), hvm(&m));
    let v = vcpu(&m, b.id, 0);
    a.grant(9, b.id, 3, GTF_permit_access);
    a.grant(10, b.id, 4, GTF_permit_access | GTF_readonly);
    let (rw, ro) = (b.map(&a, 9, HOST, 100 << 12).unwrap(), b.map(&a, 10, RO, 101 << 12).unwrap());
    assert_eq!(a.flags(10), GTF_permit_access | GTF_readonly | GTF_reading);
    v.ram_write(100 << 12, &[77]).unwrap();
    v.ram_write(101 << 12, &[78]).unwrap();
    let mut seen = [0; 2];
    v.ram_read(100 << 12, &mut seen[..1]).unwrap();
    v.ram_read(101 << 12, &mut seen[1..]).unwrap();
    assert_eq!(
        (seen, a.byte(3 << 12), a.byte(4 << 12)),
        ([77, 4], 77, 4),
        "a write to a read-only one is dropped"
    );
    // What is there by a grant is not the mapper's to give away, to hand on or to be seen by its device model.
    assert_eq!(v.decrease_reservation(&[Gfn(100)]), Ok(0));
    assert!(m.read_guest(b.id, 100 << 12, &mut [0]).is_err());
    assert_eq!(b.unmap(rw.handle, 102 << 12, 0), GNTST_general_error);
    assert_eq!(b.unmap(rw.handle, 100 << 12, 0), GNTST_okay);
    assert!(v.ram_read(100 << 12, &mut seen).is_err());
    assert_eq!(b.unmap(ro.handle, 101 << 12, 0), GNTST_okay);
    drop(v);
    all_back(&m, vec![a, b], free);
}

#[test]
fn what_is_not_granted_is_not_mapped() {
    let m = machine(Config::default());
    let (a, b, c) = (pv(&m), pv(&m), pv(&m));
    let room = Room::new(&b, 1);
    let at = room.addr(0);
    a.grant(9, c.id, 3, GTF_permit_access);
    a.grant(10, b.id, 3, GTF_accept_transfer);
    a.grant(11, b.id, 3, GTF_permit_access | GTF_readonly);
    a.grant(12, b.id, 3, GTF_permit_access | GTF_sub_page);
    a.grant(13, b.id, 999, GTF_permit_access);
    a.grant(14, b.id, 3, GTF_permit_access);
    for (reference, flags, status) in [
        (8, HOST, GNTST_general_error),
        (9, HOST, GNTST_general_error),
        (10, HOST, GNTST_general_error),
        (11, HOST, GNTST_general_error),
        (12, HOST, GNTST_general_error),
        (13, HOST, GNTST_bad_page),
        (14, 0, GNTST_bad_gntref),
        (14, GNTMAP_readonly, GNTST_bad_gntref),
        (14, HOST | GNTMAP_contains_pte, GNTST_general_error),
        (512, HOST, GNTST_bad_gntref),
        (u32::MAX, HOST, GNTST_bad_gntref),
    ] {
        assert_eq!(b.map(&a, reference, flags, at).err(), Some(status), "{reference} {flags:#x}");
    }
    assert_eq!(b.map(&a, 14, HOST, 0x1000).err(), Some(GNTST_general_error), "no address of its own");
    let mut arg =
        gnttab_map_grant_ref { host_addr: at, flags: HOST, r#ref: 14, dom: 99, ..Default::default() };
    for dom in [99, DomId::SELF.0] {
        arg.dom = dom;
        op(&b.caller, GNTTABOP_map_grant_ref, &mut arg).unwrap();
        assert_eq!(arg.status, GNTST_bad_domain);
    }
    assert_eq!([9, 10, 11, 12, 13, 14].map(|r| a.flags(r) & GTF_writing), [0; 6]);
    m.assert_clean();
}

#[test]
fn a_grant_in_use_keeps_its_frame_whatever_the_granter_writes_until_all_uses_end() {
    let m = machine(Config::default());
    let (a, b, c) = (pv(&m), pv(&m), pv(&m));
    let room = Room::new(&b, 2);
    a.grant(9, b.id, 3, GTF_permit_access);
    let first = b.map(&a, 9, RO, room.addr(0)).unwrap();
    a.grant(9, c.id, 4, GTF_permit_access | GTF_reading | GTF_readonly);
    assert_eq!(
        b.map(&a, 9, HOST, room.addr(1)).err(),
        Some(GNTST_general_error),
        "writing is looked at anew"
    );
    let second = b.map(&a, 9, RO, room.addr(1)).unwrap();
    assert_eq!((room.byte(0), room.byte(1)), (3, 3));
    let elsewhere = Room::new(&c, 1);
    assert_eq!(c.map(&a, 9, RO, elsewhere.addr(0)).err(), Some(GNTST_general_error));
    assert_eq!(b.unmap(first.handle, room.addr(0), 0), GNTST_okay);
    assert_eq!(b.unmap(second.handle, room.addr(1), 0), GNTST_okay);
    let anew = c.map(&a, 9, RO, elsewhere.addr(0)).unwrap();
    assert_eq!(elsewhere.byte(0), 4);
    assert_eq!(c.unmap(anew.handle, elsewhere.addr(0), 0), GNTST_okay);
    m.assert_clean();
}

#[test]
fn the_129th_mapping_of_a_kind_is_refused() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), hvm(&m));
    a.grant(9, b.id, 3, GTF_permit_access);
    let handles: Vec<_> = (0..128).map(|i| b.map(&a, 9, HOST, (100 + i) << 12).unwrap().handle).collect();
    assert_eq!(b.map(&a, 9, HOST, 300 << 12).err(), Some(GNTST_general_error));
    let other_kind = b.map(&a, 9, RO, 300 << 12).unwrap();
    assert_eq!(m.references(a.id, Gfn(3)), Ok(130));
    m.assert_clean();
    for (i, handle) in (0..).zip(handles) {
        assert_eq!(b.unmap(handle, (100 + i) << 12, 0), GNTST_okay);
    }
    assert_eq!(a.flags(9), GTF_permit_access | GTF_reading, "nobody writes any more");
    assert_eq!(b.unmap(other_kind.handle, 300 << 12, 0), GNTST_okay);
    m.assert_clean();
}

#[test]
fn without_handles_left_there_is_no_space() {
    let m = machine(Config { max_maptrack_frames: 1, ..Config::default() });
    let (a, b) = (pv(&m), hvm(&m));
    for r in 8..11 {
        a.grant(r, b.id, 3, GTF_permit_access);
    }
    let handles: Vec<_> = (0u32..255)
        .map(|i| b.map(&a, 8 + i / 128, HOST, (100 + u64::from(i)) << 12).unwrap().handle)
        .collect();
    assert_eq!(b.map(&a, 10, HOST, 99 << 12).err(), Some(GNTST_no_space));
    assert_eq!(b.unmap(handles[0], 100 << 12, 0), GNTST_okay);
    assert!(b.map(&a, 10, HOST, 99 << 12).is_ok());
    m.assert_clean();
}

#[test]
fn a_ballooned_page_is_freed_by_the_unmapping_and_not_before() {
    let m = machine(Config::default());
    let (a, b) = (hvm(&m), pv(&m));
    let v = vcpu(&m, a.id, 0);
    let room = Room::new(&b, 1);
    // The toolstack fills a reserved entry of the guest's.
    let toolstack = m.caller(DomId(0)).unwrap();
    let table = {
        use xen_ioreq::seam::ResourceMap;
        toolstack.map_resource(a.id, 1, 0, 0, 1).unwrap()
    };
    let page = Page::of_mapping(&table, 0);
    page.u32(8 + 4).store(3, Ordering::Relaxed);
    page.u32(8).store(u32::from(GTF_permit_access) | u32::from(b.id.0) << 16, Ordering::Release);
    let map = b.map(&a, GNTTAB_RESERVED_XENSTORE, HOST, room.addr(0)).unwrap();
    let free = m.free_frames();
    assert_eq!(v.decrease_reservation(&[Gfn(3)]), Ok(1));
    assert_eq!((m.free_frames(), room.byte(0)), (free, 3));
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_okay);
    assert_eq!(m.free_frames(), free + 1);
    m.assert_clean();
}

#[test]
fn unmap_and_replace_moves_another_mapping_there() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 2);
    a.grant(9, b.id, 3, GTF_permit_access);
    a.grant(10, b.id, 4, GTF_permit_access);
    let (first, second) =
        (b.map(&a, 9, HOST, room.addr(0)).unwrap(), b.map(&a, 10, HOST, room.addr(1)).unwrap());
    assert_eq!(b.replace(first.handle, room.addr(0), room.addr(1)), GNTST_okay);
    assert_eq!(room.byte(0), 4);
    assert_eq!((a.flags(9), m.references(a.id, Gfn(3))), (GTF_permit_access, Ok(1)));
    m.assert_clean();
    assert_eq!(b.unmap(second.handle, room.addr(0), 0), GNTST_okay);
    m.assert_clean();
    a.grant(11, b.id, 5, GTF_permit_access);
    let map = b.map(&a, 11, HOST, room.addr(0)).unwrap();
    let replaced = b.replace(map.handle, room.addr(0), 0);
    assert_eq!(replaced, GNTST_okay, "without another address it is an unmapping");
    m.assert_clean();
}

#[test]
fn a_translated_domain_has_only_some_of_the_operations() {
    let m = machine(Config::default());
    let c = hvm(&m);
    for cmd in [
        GNTTABOP_unmap_and_replace,
        GNTTABOP_transfer,
        GNTTABOP_get_status_frames,
        GNTTABOP_cache_flush,
        GNTTABOP_map_grant_ref | 1 << 12,
    ] {
        assert_eq!(c.caller.grant_table_op(cmd, &mut [], 0), Err(Errno::ENOSYS), "{cmd:#x}");
    }
    let kept_for_xen = pv(&m).caller.grant_table_op(GNTTABOP_map_grant_ref | 1 << 12, &mut [], 0);
    assert_eq!(kept_for_xen, Err(Errno::EINVAL));
}

#[test]
fn a_frame_that_a_translated_domain_maps_of_its_own_loses_its_place_for_good() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let mut c = hvm(&m);
    c.put_table(50);
    c.map_tables();
    c.grant(9, c.id, 3, GTF_permit_access);
    let v = vcpu(&m, c.id, 0);
    let byte = |gpa: u64| {
        let mut seen = [0];
        v.ram_read(gpa, &mut seen).ok().map(|()| seen[0])
    };
    let map = c.map(&c, 9, HOST, 100 << 12).unwrap();
    assert_eq!((byte(100 << 12), byte(3 << 12)), (Some(3), None));
    assert_eq!(c.unmap(map.handle, 100 << 12, 0), GNTST_okay);
    assert_eq!((byte(100 << 12), byte(3 << 12)), (None, None));
    assert_eq!(c.map(&c, 9, HOST, 100 << 12).err(), Some(GNTST_bad_page));
    m.assert_clean();
    drop(v);
    all_back(&m, vec![c], free);
}

#[test]
fn a_translated_domain_unmaps_at_any_place_of_the_frame() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), hvm(&m));
    a.grant(9, b.id, 3, GTF_permit_access);
    let first = b.map(&a, 9, HOST, 100 << 12).unwrap();
    let second = b.map(&a, 9, HOST | GNTMAP_readonly, 101 << 12).unwrap();
    assert_eq!(b.unmap(first.handle, 102 << 12, 0), GNTST_general_error);
    assert_eq!(b.unmap(first.handle, 101 << 12, 0), GNTST_okay);
    assert_eq!(a.flags(9), GTF_permit_access | GTF_reading);
    m.assert_clean();
    assert_eq!(b.unmap(second.handle, 101 << 12, 0), GNTST_general_error, "that place has gone");
    assert_eq!(b.unmap(second.handle, 100 << 12, 0), GNTST_okay);
    m.assert_clean();
}

#[test]
fn a_bad_array_is_efault_and_what_comes_before_is_done() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), hvm(&m));
    a.grant(9, b.id, 3, GTF_permit_access);
    let one = gnttab_map_grant_ref {
        host_addr: 100 << 12,
        flags: HOST,
        r#ref: 9,
        dom: a.id.0,
        ..Default::default()
    };
    let mut bytes = one.as_bytes().to_vec();
    bytes.extend([0; 20]);
    let c = &b.caller;
    assert_eq!(c.grant_table_op(GNTTABOP_map_grant_ref, &mut bytes, 2), Err(Errno::EFAULT));
    assert_eq!(a.flags(9) & GTF_reading, GTF_reading);
    assert_eq!(c.grant_table_op(GNTTABOP_map_grant_ref, &mut [], u32::MAX), Err(Errno::EINVAL));
    assert_eq!(c.grant_table_op(GNTTABOP_map_grant_ref, &mut [], 0), Ok(0));
    assert_eq!(c.grant_table_op(99, &mut [], 0), Err(Errno::ENOSYS));
    assert_eq!(op(c, GNTTABOP_dump_table, &mut gnttab_dump_table::default()), Err(Errno::ENOSYS));
    assert_eq!(c.grant_table_op(GNTTABOP_query_size, &mut [0; 32], 2), Err(Errno::EINVAL));
    m.assert_clean();
}
